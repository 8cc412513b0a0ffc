"""The paper's classification study: single-word classes of ImageNet, OOD on ImageNet-R and ImageNet-A."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.imagenet_classes import single_word_classes, training_classes
from dcsft.tasks.imagenet_layouts import Index, find_pictures
from dcsft.tasks.imagenet_release import ReleasedPicture, released_pictures
from dcsft.tasks.task import Count, Task

OPENER_VERSION = 1
"""Raised whenever a change to the decoding code changes a pixel."""


@dataclass(frozen=True)
class _Place:
    """Where the pictures of an option are looked for."""

    below: tuple[str, ...]
    """Folders below task.root; the second is Kaggle's."""
    parquet_split: str
    numbered: bool
    """Whether labels in Parquet may be ImageNet's own numbers."""


_PLACES = {
    "train": _Place(("train", "ILSVRC/Data/CLS-LOC/train"), "train", numbered=True),
    "val": _Place(("val", "ILSVRC/Data/CLS-LOC/val"), "validation", numbered=True),
    "imagenet_r": _Place(("imagenet-r",), "test", numbered=False),
    "imagenet_a": _Place(("imagenet-a",), "train", numbered=False),
}
_OPTIONS = {
    "cold_start": "train",
    "train": "train",
    "id": "val",
    "imagenet_r": "imagenet_r",
    "imagenet_a": "imagenet_a",
}
"""Which option's pictures a split shows."""
_RULES = {
    "cold_start": "equally many of each class, as in the release",
    "train": "task.num_per_class of each class, less the cold start's",
    "id": "all validation pictures of the training classes, 50 each",
    "imagenet_r": "every picture of the 68 single-word classes of ImageNet-R, trained or not",
    "imagenet_a": "every picture of the 87 single-word classes of ImageNet-A, trained or not",
}
"""Where the number of a split's pictures comes from: the paper's release."""


class ImageNet(Task):
    """Name the object in a photograph with one word.

    OOD is every single-word class of ImageNet-R and ImageNet-A, whatever is trained on; rows are grouped in "seen" and
    "novel" by whether training has their class. Pictures are found by name at the start, and opened only when they are
    looked at: one that is not there is refused at once, one that cannot be decoded when its turn comes.

    An example's id is its class and file name. A picture's id has the file's size too (the place, for Parquet): copies
    of ImageNet with smaller pictures are about, under the same names.

    Args:
        seed: draws the classes (unless they are the official ones), their pictures, and the cold start.
        root: the folder that has what the next four do not name.
        train, val, imagenet_r, imagenet_a: each a folder, or the Hub id of a dataset; see `imagenet_layouts`.
        release: a folder with the paper's release, whose very pictures are used then; None to draw them.
        classes: "official" for the paper's 100, or how many to draw.
        num_per_class: pictures of each class, for the cold start and the training together.
        num_cold_start: how many of all these the cold start takes, equally many of each class.
        num_id_per_class: validation pictures that each class must have; all are used.
        num_imagenet_r, num_imagenet_a: pictures that these sets must have.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        seed: int,
        root: str | None,
        train: str | None,
        val: str | None,
        imagenet_r: str | None,
        imagenet_a: str | None,
        release: str | None,
        classes: Literal["official"] | int,
        num_per_class: int,
        num_cold_start: int,
        num_id_per_class: int,
        num_imagenet_r: int,
        num_imagenet_a: int,
    ) -> None:
        super().__init__(reward, question)
        if release is not None and classes != "official":
            raise ValueError(
                f"task.classes must be official with task.release, got {classes!r}; the release has drawn its classes"
            )
        trained = training_classes(classes, seed)
        self._wnids = frozenset(one.wnid for one in trained)
        _check_cold_start(num_cold_start, num_per_class, len(trained))
        given = {"train": train, "val": val, "imagenet_r": imagenet_r, "imagenet_a": imagenet_a}
        _check_given(given, root)
        expected = {
            "cold_start": num_cold_start,
            "train": num_per_class * len(trained) - num_cold_start,
            "id": num_id_per_class * len(trained),
            "imagenet_r": num_imagenet_r,
            "imagenet_a": num_imagenet_a,
        }
        self._origins: dict[str, str] = {}
        self._rows: dict[str, list[Example]] = {}
        for option in _PLACES:
            splits = [split for split, shown in _OPTIONS.items() if shown == option]
            with self._or_missing(*splits):
                source = _source(option, given[option], root)
                index = self._find(option, source)
                if release is not None:
                    pictures = {split: released_pictures(release, split) for split in splits}
                elif option == "train":
                    pictures = _draw(index, source, num_per_class, num_cold_start // len(trained), seed)
                else:
                    pictures = {split: _all(index) for split in splits}
                self._rows |= {split: self._examples(split, pictures[split], index, source) for split in splits}
                self._origins |= dict.fromkeys(splits, source)
        self._counts = tuple(
            _count(split, len(rows), expected[split], release or self._origins[split])
            for split, rows in self._rows.items()
        )

    def _find(self, option: str, source: str) -> Index:
        """The pictures of an option's classes."""
        classes = {
            "train": self._wnids,
            "val": self._wnids,
            "imagenet_r": [one.wnid for one in single_word_classes() if one.in_r],
            "imagenet_a": [one.wnid for one in single_word_classes() if one.in_a],
        }
        place = _PLACES[option]
        return find_pictures(f"task.{option}", source, place.parquet_split, classes[option], place.numbered)

    def _examples(self, split: str, rows: Sequence[ReleasedPicture], index: Index, source: str) -> list[Example]:
        """One row a picture; a training picture keeps its id whichever side of the cold start it falls on."""
        names = {one.wnid: one.name for one in single_word_classes()}
        examples, lacking = [], []
        for row in rows:
            name = f"{split}/{row.wnid}/{row.file}" if split in self.tests else row.training_id
            try:
                opener = index[row.wnid][row.file]
                stamp = opener.stamp()
            except (KeyError, OSError):
                lacking.append(f"{row.wnid}/{row.file}")
                continue
            group = None if split not in self.ood else "seen" if row.wnid in self._wnids else "novel"
            picture = Picture(f"imagenet-{OPENER_VERSION}/{name}/{stamp}", opener)
            examples.append(Example(name, split, (picture,), names[row.wnid], group=group))
        if lacking:
            raise ValueError(
                f"task.{_OPTIONS[split]} must have every picture of {split}, got {source!r} {len(lacking):,} of "
                f"{len(rows):,} missing or empty: {lacking[0]}{', ...' if len(lacking) > 1 else ''}; complete the "
                "download"
            )
        return examples

    @property
    def ood(self) -> tuple[str, ...]:
        return ("imagenet_r", "imagenet_a")

    @property
    def counts(self) -> tuple[Count, ...]:
        return self._counts

    @property
    def origins(self) -> Mapping[str, str]:
        return self._origins

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(one.name.casefold() for one in single_word_classes() if one.wnid in self._wnids)

    def examples(self, split: str) -> Sequence[Example]:
        if split in self.missing:
            raise ValueError(self.missing[split])
        if split not in self._rows:
            raise ValueError(f"split must be one of {', '.join(_OPTIONS)}, got {split!r}; ImageNet has no others")
        return self._rows[split]

    def identity(self, split: str) -> dict[str, object]:
        """By names and sizes: a folder that moves is the same data."""
        rows = [(row.id, row.target, row.group, row.pictures[0].id) for row in self.examples(split)]
        return {"split": split, "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def _check_cold_start(num_cold_start: int, num_per_class: int, num_classes: int) -> None:
    most = (num_per_class - 1) * num_classes
    if num_cold_start % num_classes or not num_classes <= num_cold_start <= most:
        raise ValueError(
            f"task.num_cold_start must be a multiple of the {num_classes} classes and at most {most}, as every class "
            f"keeps a picture for training, got {num_cold_start}; change it or task.num_per_class={num_per_class}"
        )


def _source(option: str, given: str | None, root: str | None) -> str:
    """What `given` says, or the option's usual folder below `root`."""
    if given is not None:
        return given
    folders = [Path(root or "").expanduser() / place for place in _PLACES[option].below]
    for folder in folders:
        if folder.is_dir():
            return str(folder)
    raise ValueError(f"task.root must have the folder {_below(option)}, got {root!r} without it; set task.{option}=DIR")


def _below(option: str) -> str:
    return " or ".join(f"DIR/{place}" for place in _PLACES[option].below)


def _check_given(given: Mapping[str, str | None], root: str | None) -> None:
    for option, source in given.items():
        if source is None and root is None:
            raise ValueError(
                f"task.{option} must be a folder or a dataset on the Hub, got None; set task.root=DIR, which has "
                f"{_below(option)}, or task.{option}=DIR"
            )


def _count(split: str, there: int, expected: int, place: str) -> Count:
    found = f"{split} must have {expected:,} pictures, got {there:,} in {place!r}"
    problem = f"{found}; it has {_RULES[split]}: take the data again"
    return Count(split, "pictures", there, expected, problem)


def _all(index: Index) -> list[ReleasedPicture]:
    return [ReleasedPicture(wnid, file) for wnid in sorted(index) for file in sorted(index[wnid])]


def _draw(
    index: Index, source: str, num_per_class: int, num_cold_start_per_class: int, seed: int
) -> dict[str, list[ReleasedPicture]]:
    """Cold start and training pictures: a draw in each class, of its sorted file names."""
    pictures: dict[str, list[ReleasedPicture]] = {"cold_start": [], "train": []}
    few = [wnid for wnid in sorted(index) if len(index[wnid]) < num_per_class]
    if few:
        some = ", ".join(f"{wnid} with {len(index[wnid])}" for wnid in few[:3])
        raise ValueError(
            f"task.train must have {num_per_class} pictures of each class, got {source!r} with fewer of {len(few)} "
            f"classes: {some}{', ...' if len(few) > 3 else ''}; complete the download"
        )
    for wnid in sorted(index):
        files = sorted(index[wnid])
        drawn = stream("imagenet", "pictures", seed, wnid).permutation(len(files))[:num_per_class]
        rows = [ReleasedPicture(wnid, files[i]) for i in drawn]
        pictures["cold_start"] += rows[:num_cold_start_per_class]
        pictures["train"] += rows[num_cold_start_per_class:]
    return pictures
