"""Which examples a subset holds, counted by hand."""

from collections import Counter

import pytest

from dcsft.data.subsets import Curation, select
from dcsft.records import Label

# 40 easy, 30 medium and 10 hard examples in mixed order: of 8 samples 8, 1 to 7, and none are right.
KINDS = (["easy"] * 4 + ["medium"] * 3 + ["hard"]) * 10
CORRECT = {"easy": 8, "hard": 0}
LABELS = [Label(f"train/{i}", 8, CORRECT.get(kind, 1 + i % 7)) for i, kind in enumerate(KINDS)]


def _curation(name: str, **changes: object) -> Curation:
    settings = dict(size=None, hard_ratio="natural", min_pass_rate=None, max_pass_rate=None, seed=0)
    return Curation(name, **settings | changes)


def _counts(labels: list[Label]) -> tuple[int, int, int]:
    counts = Counter(label.difficulty for label in labels)
    return counts["easy"], counts["medium"], counts["hard"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("all", (40, 30, 10)),
        ("easy", (40, 0, 0)),
        ("medium", (0, 30, 0)),
        ("hard", (0, 0, 10)),
        ("em", (40, 30, 0)),
    ],
)
def test_the_natural_subsets(name: str, counts: tuple[int, int, int]) -> None:
    chosen = select(LABELS, _curation(name))
    assert _counts(chosen) == counts
    assert chosen == [label for label in LABELS if label in chosen]  # in the old order, none twice


@pytest.mark.parametrize(
    ("name", "ratio", "counts"),
    [
        ("all", 0.0, (40, 30, 0)),
        ("em", 0.0, (40, 30, 0)),
        ("easy", 0.0, (40, 0, 0)),
        ("em", 0.05, (40, 30, 4)),  # .05 / .95 x 70 = 3.68
        ("all", 0.05, (40, 30, 4)),  # the same: the rest of "all" is easy and medium
        ("easy", 0.05, (40, 0, 2)),  # .05 / .95 x 40 = 2.1
        ("medium", 0.05, (0, 30, 2)),  # 1.6
        ("medium", 0.25, (0, 30, 10)),  # 10 exactly: all there are
        ("easy", 0.5, (10, 0, 10)),  # 40 are asked for and 10 there: the rest shrinks to 10
        ("medium", 0.8, (0, 2, 10)),  # 10 x .2 / .8 = 2.5, rounded to even
        ("all", 1.0, (0, 0, 10)),
        ("easy", 1, (0, 0, 10)),
    ],
)
def test_the_mixtures_with_a_share_of_hard_examples(name: str, ratio: float, counts: tuple[int, int, int]) -> None:
    chosen = select(LABELS, _curation(name, hard_ratio=ratio))
    assert _counts(chosen) == counts
    assert chosen == [label for label in LABELS if label in chosen]


def test_a_share_beyond_the_hard_examples_keeps_the_share_and_shrinks_the_rest() -> None:
    easy, medium, hard = _counts(select(LABELS, _curation("em", hard_ratio=0.5)))
    assert (hard, easy + medium) == (10, 10)
    # 10 of 70 at random, 40 of them easy: 5.7 expected; all seeds together show the proportion.
    shares = [_counts(select(LABELS, _curation("em", hard_ratio=0.5, seed=seed)))[0] / 10 for seed in range(200)]
    assert sum(shares) / 200 == pytest.approx(4 / 7, abs=0.04)  # its standard error is 0.01


def test_the_share_of_hard_examples_is_met_within_half_an_example() -> None:
    for ratio in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7):
        easy, medium, hard = _counts(select(LABELS, _curation("em", hard_ratio=ratio)))
        total = easy + medium + hard
        assert abs(hard - ratio * total) <= 1, ratio


def test_equal_size_is_that_of_the_rarest_difficulty() -> None:
    for name in ("all", "easy", "medium", "hard", "em"):
        assert sum(_counts(select(LABELS, _curation(name, size="equal")))) == 10
    assert _counts(select(LABELS, _curation("hard", size="equal"))) == (0, 0, 10)


def test_a_size_is_drawn_without_repetition_in_the_old_order() -> None:
    chosen = select(LABELS, _curation("em", size=25))
    assert len({label.example_id for label in chosen}) == 25
    assert chosen == [label for label in LABELS if label in chosen]
    assert sum(_counts(select(LABELS, _curation("em", size=70)))) == 70


def test_the_seed_decides_the_draw() -> None:
    draws = [select(LABELS, _curation("em", size=25, hard_ratio=0.1, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_the_same_labels_in_another_order_are_as_many() -> None:
    assert _counts(select(LABELS[::-1], _curation("em", hard_ratio=0.05))) == (40, 30, 4)


@pytest.mark.parametrize(
    ("low", "high", "num"),
    [
        (None, None, 80),
        (0.0, 0.0, 10),  # the hard ones; the ends are included
        (1.0, 1.0, 40),
        (1 / 8, 7 / 8, 30),
        (0.5, None, 40 + sum(1 + i % 7 >= 4 for i, kind in enumerate(KINDS) if kind == "medium")),
    ],
)
def test_pass_rate_bounds_include_their_ends(low: float | None, high: float | None, num: int) -> None:
    chosen = select(LABELS, _curation("pass_rate", min_pass_rate=low, max_pass_rate=high))
    assert len(chosen) == num


@pytest.mark.parametrize(("name", "size", "there"), [("hard", 11, 10), ("em", 71, 70)])
def test_a_size_beyond_the_subset_is_refused(name: str, size: int, there: int) -> None:
    message = (
        f"subset.size must be between 1 and the {there} examples of subset={name}, got {size}; "
        "these labels have 40 easy, 30 medium, 10 hard"
    )
    with pytest.raises(ValueError, match=message):
        select(LABELS, _curation(name, size=size))


def test_equal_size_is_refused_where_a_difficulty_is_missing() -> None:
    labels = [label for label in LABELS if label.difficulty != "hard"]
    with pytest.raises(ValueError, match=r"got 0 \(equal: the rarest difficulty\); these labels have .* 0 hard"):
        select(labels, _curation("em", size="equal"))


def test_an_empty_subset_is_refused() -> None:
    labels = [label for label in LABELS if label.difficulty != "medium"]
    message = "got none for subset=medium hard_ratio=natural; these labels have 40 easy, 0 medium, 10 hard: choose"
    with pytest.raises(ValueError, match=message):
        select(labels, _curation("medium"))
    no_hard = [label for label in LABELS if label.difficulty != "hard"]
    for ratio in (0.5, 1):  # no hard example to mix in: a mixture of half hard examples is empty
        with pytest.raises(ValueError, match=r"got none for subset=em hard_ratio=.*, 0 hard"):
            select(no_hard, _curation("em", hard_ratio=ratio))


def test_difficulty_and_pass_rate_by_hand() -> None:
    known = [(8, "easy", 1.0), (7, "medium", 0.875), (1, "medium", 0.125), (0, "hard", 0.0)]
    for num_correct, difficulty, rate in known:
        label = Label("a", 8, num_correct)
        assert (label.difficulty, label.pass_rate) == (difficulty, rate)
    assert Label("a", 1, 1).difficulty == "easy"
