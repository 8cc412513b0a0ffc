"""The single-word classes of ImageNet, and which of them are trained on."""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from dcsft.seeding import stream


@dataclass(frozen=True)
class ImageNetClass:
    """A class whose WordNet synset has exactly one lemma, without a space in it: what the paper calls single-word."""

    wnid: str
    name: str
    """The lemma, in its own case: what SFT teaches."""
    label: int
    """Its number in ImageNet's Hub copy: the rank of its wnid among all 1,000."""
    official: bool
    """Whether it is one of the 100 that the paper trains on."""
    in_r: bool
    in_a: bool
    """Whether ImageNet-R and ImageNet-A have it."""


@lru_cache(maxsize=1)
def single_word_classes() -> tuple[ImageNetClass, ...]:
    """All 309, in the order of their wnids.

    Facts of WordNet, of ImageNet-R and -A, and of the paper's release; tests compare their hashes.
    """
    lines = files("dcsft.tasks").joinpath("imagenet_classes.txt").read_text().splitlines()
    rows = (line.split("\t") for line in lines)
    return tuple(
        ImageNetClass(wnid, name, int(label), official="T" in marks, in_r="R" in marks, in_a="A" in marks)
        for wnid, name, label, marks in rows
    )


def training_classes(choice: Literal["official"] | int, seed: int) -> tuple[ImageNetClass, ...]:
    """The paper's own 100 classes, or as many as `choice` says, drawn by `seed`; in the order of their wnids.

    Two classes are called "crane", the bird and the machine. Neither is drawn: one word cannot tell them apart.

    Raises:
        ValueError: there are not as many classes.
    """
    if choice == "official":
        return tuple(one for one in single_word_classes() if one.official)
    times = Counter(one.name.casefold() for one in single_word_classes())
    distinct = [one for one in single_word_classes() if times[one.name.casefold()] == 1]
    if isinstance(choice, bool) or not isinstance(choice, int) or not 1 <= choice <= len(distinct):
        raise ValueError(
            f"task.classes must be 'official' or a number from 1 to {len(distinct)}, got {choice!r}; ImageNet has no "
            "more classes with a single word of their own"
        )
    drawn = stream("imagenet", "classes", seed).permutation(len(distinct))[:choice]
    return tuple(distinct[i] for i in sorted(drawn))
