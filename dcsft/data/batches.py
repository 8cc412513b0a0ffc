"""The order of training: batch `step` is a function of (seed, step), so a resumed run needs no state but its step."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch.utils.data import IterableDataset

from dcsft.seeding import stream

T = TypeVar("T")


def num_steps(steps: int | None, epochs: float | None, num_items: int, batch_size: int, repeats: int) -> int:
    """A budget in optimizer steps; exactly one of `steps` and `epochs` is given. Epochs round up to whole batches."""
    return steps if steps is not None else math.ceil(epochs * num_items / batch_size) * repeats


class Batches(IterableDataset[list[T]]):
    """Effective batches from `first_step` to `last_step`: one shuffled pass after another, joined without a gap.

    Args:
        items: what is trained on.
        batch_size: items a batch.
        seed: of the shuffles.
        last_step: optimizer steps in all.
        repeats: optimizer steps on each batch.
    """

    def __init__(self, items: Sequence[T], batch_size: int, seed: int, last_step: int, repeats: int) -> None:
        self.items, self.batch_size, self.seed, self.repeats = items, batch_size, seed, repeats
        self.first_step, self.last_step = 0, last_step

    def __iter__(self) -> Iterator[list[T]]:
        epoch, order = -1, None
        for step in range(self.first_step, self.last_step):
            batch = []
            start = step // self.repeats * self.batch_size
            for position in range(start, start + self.batch_size):
                number, row = divmod(position, len(self.items))
                if number != epoch:
                    epoch, order = number, stream("order", self.seed, number).permutation(len(self.items))
                batch.append(self.items[order[row]])
            yield batch
