"""Difficulty curation: which labelled examples a run trains on (DC-SFT, sections 4.1 and 5)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dcsft.records import DIFFICULTIES, Label
from dcsft.seeding import stream

_MEMBERS = {
    "all": DIFFICULTIES,
    "easy": ("easy",),
    "medium": ("medium",),
    "hard": ("hard",),
    "em": ("easy", "medium"),
}


@dataclass(frozen=True)
class Curation:
    """A choice of examples.

    Args:
        name: all, easy, medium, hard, em, or pass_rate (then the bounds hold, ends included).
        size: None for all of them, a number of examples, or "equal" for as many as the rarest difficulty has.
        hard_ratio: "natural", or the share of hard examples in the mixture. The rest is the subset's easy and medium
            examples in their natural proportion; if hard examples are too few for the share, the rest is reduced,
            never repeated.
        seed: of the draws.
    """

    name: str
    size: int | Literal["equal"] | None
    hard_ratio: float | Literal["natural"]
    min_pass_rate: float | None
    max_pass_rate: float | None
    seed: int


def select(labels: Sequence[Label], curation: Curation) -> list[Label]:
    """The labels of the training examples, in the order of `labels`.

    Raises:
        ValueError: nothing is left, or there are fewer examples than `size` asks for.
    """
    chosen = _mixture(labels, curation)
    if curation.size is not None:
        counts = Counter(label.difficulty for label in labels)
        size = min(counts[kind] for kind in DIFFICULTIES) if curation.size == "equal" else curation.size
        if size > len(chosen) or size == 0:
            raise ValueError(
                f"subset.size must be between 1 and the {len(chosen)} examples of subset={curation.name}, got {size}"
                f"{' (equal: the rarest difficulty)' if curation.size == 'equal' else ''}; {_found(labels)}"
            )
        chosen = _sample(chosen, size, curation.seed, "size")
    if not chosen:
        raise ValueError(
            f"subset must hold examples, got none for subset={curation.name} hard_ratio={curation.hard_ratio}; "
            f"{_found(labels)}: choose another subset"
        )
    return chosen


def _mixture(labels: Sequence[Label], curation: Curation) -> list[Label]:
    if curation.name == "pass_rate":
        low, high = curation.min_pass_rate or 0.0, 1.0 if curation.max_pass_rate is None else curation.max_pass_rate
        return [label for label in labels if low <= label.pass_rate <= high]
    members = _MEMBERS[curation.name]
    if curation.hard_ratio == "natural":
        return [label for label in labels if label.difficulty in members]
    share = curation.hard_ratio
    rest = [label for label in labels if label.difficulty in members and label.difficulty != "hard"]
    hard = [label for label in labels if label.difficulty == "hard"]
    if share == 1:
        return hard
    num_hard = round(share / (1 - share) * len(rest))
    if num_hard > len(hard):
        num_hard = len(hard)
        rest = _sample(rest, round((1 - share) / share * num_hard), curation.seed, "rest")
    kept = {label.example_id for label in (*rest, *_sample(hard, num_hard, curation.seed, "hard"))}
    return [label for label in labels if label.example_id in kept]


def _sample(labels: Sequence[Label], size: int, seed: int, name: str) -> list[Label]:
    """`size` of the labels at random, without repetition, in their old order."""
    rows = stream("subset", name, seed).permutation(len(labels))[:size]
    return [labels[row] for row in sorted(rows)]


def _found(labels: Sequence[Label]) -> str:
    counts = Counter(label.difficulty for label in labels)
    return "these labels have " + ", ".join(f"{counts[kind]} {kind}" for kind in DIFFICULTIES)
