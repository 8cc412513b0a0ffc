"""The order of training: whole passes, joined without a gap, the same after a break."""

import itertools

import pytest
from torch.utils.data import DataLoader

from dcsft.data.batches import Batches, num_steps


def _flat(batches: Batches) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 4), (16, 16)])
def test_each_epoch_is_a_permutation_and_the_next_follows_at_once(n: int, batch_size: int) -> None:
    steps = 3 * n  # at least three epochs
    batches = list(Batches(range(n), batch_size, seed=0, last_step=steps, repeats=1))
    assert [len(batch) for batch in batches] == [batch_size] * steps
    flat = list(itertools.chain.from_iterable(batches))
    epochs = [flat[start : start + n] for start in range(0, len(flat) - n + 1, n)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n >= 7:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # each pass is shuffled anew


@pytest.mark.parametrize("first_step", [0, 1, 2, 5, 11])
def test_a_later_first_step_goes_on_with_the_same_sequence(first_step: int) -> None:
    whole = list(Batches(range(7), 3, seed=4, last_step=12, repeats=1))
    resumed = Batches(range(7), 3, seed=4, last_step=12, repeats=1)
    resumed.first_step = first_step
    assert list(resumed) == whole[first_step:]


def test_iterating_twice_gives_the_same() -> None:
    batches = Batches(range(7), 3, seed=4, last_step=12, repeats=1)
    assert list(batches) == list(batches)


def test_the_seed_decides_the_order_and_the_number_of_steps_does_not() -> None:
    first = _flat(Batches(range(20), 4, seed=0, last_step=5, repeats=1))
    assert _flat(Batches(range(20), 4, seed=0, last_step=50, repeats=1))[:20] == first
    assert _flat(Batches(range(20), 4, seed=1, last_step=5, repeats=1)) != first


def test_the_order_is_the_same_on_any_machine() -> None:
    # numpy's PCG64 seeded with the first 63 bits of SHA-256("order/0/0"), computed once without our code.
    assert _flat(Batches(range(8), 4, seed=0, last_step=2, repeats=1)) == [7, 1, 3, 2, 6, 0, 4, 5]


def test_a_data_loader_passes_batches_through() -> None:
    batches = Batches(["a", "b", "c"], 2, seed=0, last_step=4, repeats=1)
    assert list(DataLoader(batches, batch_size=None)) == list(batches)


@pytest.mark.parametrize(
    ("steps", "epochs", "num_items", "batch_size", "expected"),
    [
        (600, None, 4000, 16, 600),
        (None, 1, 4000, 16, 250),
        (None, 1, 4001, 16, 251),  # rounded up: every example is seen
        (None, 0.5, 100, 16, 4),  # 3.125
        (None, 3, 5, 16, 1),
    ],
)
def test_a_budget_in_steps_or_in_epochs(
    steps: int | None, epochs: float | None, num_items: int, batch_size: int, expected: int
) -> None:
    assert num_steps(steps, epochs, num_items, batch_size, 1) == expected


def test_several_updates_on_a_batch_repeat_it_and_an_epoch_takes_as_many_more_steps():
    batches = list(Batches(range(8), 4, seed=0, last_step=5, repeats=2))
    assert batches == [[7, 1, 3, 2], [7, 1, 3, 2], [6, 0, 4, 5], [6, 0, 4, 5], batches[4]]
    resumed = Batches(range(8), 4, seed=0, last_step=5, repeats=2)
    resumed.first_step = 3
    assert list(resumed) == batches[3:]
    assert num_steps(None, 1.5, 8, 4, 2) == 6  # three batches, two steps on each
