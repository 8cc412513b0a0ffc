"""The paper's grounding study: where in the picture is what a phrase names? RefCOCO, OOD on Ref-L4 and LISA."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from dcsft.boxes import Box, Frame, FrameRule, first_corners, has_area
from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks import expressions
from dcsft.tasks.expressions import Expression
from dcsft.tasks.sources import PictureFile
from dcsft.tasks.task import Count, Task

OPENER_VERSION = 1
"""Raised whenever a change to the decoding code changes a pixel."""
_OOD: dict[str, tuple[Callable[[str, str | None], list[Expression]], str, str]] = {
    "ref_l4": (expressions.ref_l4, "objects365", "those of Ref-L4's validation set that are not on COCO's pictures"),
    "lisa": (expressions.lisa, "lisa", "VLM-R1's lisa_test.json in full"),
}
"""Of each OOD set, its reader, the root of its pictures, and which rows it has."""
_SLACK_PX = 1.0  # published boxes overstep the picture's edge by a rounding error
_MOST_OUTSIDE = 0.01  # share of boxes outside their picture from which on they must be in another frame
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: width and height change places


@dataclass(frozen=True)
class _Opener:
    """Reads a picture when called, and refuses one of another size: its boxes would be scaled from the wrong frame.

    Boxes that were annotated before the picture was turned by its EXIF are shown the picture as they know it. A half
    turn or a mirrored picture leaves the size as it is, so nothing tells there; it is shown upright.
    """

    path: str
    size: Frame

    def __call__(self) -> Image.Image:
        try:
            picture = PictureFile(self.path, size=(self.size.width, self.size.height))()
        except OSError as error:
            raise ValueError(f"the picture {self.path!r} must be readable, got {error}; download it again") from error
        if picture.size != (self.size.width, self.size.height):
            raise ValueError(
                f"the picture {self.path!r} must have {self.size.width}x{self.size.height} pixels as its annotation "
                f"says, got {picture.width}x{picture.height}; take the original, the processor resizes it"
            )
        return picture


@cache
def _size_of(path: str) -> Frame:
    """The pixels of a picture, upright, from its header alone.

    For files that do not say in which frame their boxes are (VLM-R1's): it cannot be known where EXIF turns a picture,
    and upright is how an annotator sees it.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except OSError as error:
        raise ValueError(f"the picture {path!r} must be readable, got {error}; download it again") from error
    return Frame(height, width) if turned else Frame(width, height)


class _Root:
    """A folder of pictures, of which each subfolder is listed once: asking a disk for 20,000 names takes minutes."""

    def __init__(self, key: str, folder: str | None) -> None:
        self.key, self.name = key, f"task.images.{key}"
        if folder is None or not Path(folder).expanduser().is_dir():
            raise ValueError(f"{self.name} must be a folder of pictures, got {folder!r}; set {self.name}=DIR")
        self.folder = Path(folder).expanduser().absolute()
        self._listed: dict[Path, frozenset[str]] = {}

    def find(self, picture: str) -> str | None:
        """The path of a picture, below the root or right in it; None where there is none."""
        place, _, file = picture.rpartition("/")
        for folder in (self.folder / place, self.folder):
            if folder not in self._listed:
                there = os.scandir(folder) if folder.is_dir() else ()
                self._listed[folder] = frozenset(entry.name for entry in there)
            if file in self._listed[folder]:
                return str(folder / file)
        return None


def _one_a_picture(rows: Sequence[Expression], seed: int) -> list[Expression]:
    """An expression of each picture, in an order; both are drawn by `seed`, whatever the order of `rows`."""
    pictures: dict[str, list[Expression]] = {}
    for row in sorted(rows, key=lambda row: (row.picture, row.id)):
        pictures.setdefault(row.picture, []).append(row)
    pool = list(pictures.values())
    rng = stream("refcoco", "training", seed)
    return [pool[i][rng.integers(len(pool[i]))] for i in rng.permutation(len(pool))]


def _counts(
    split: str, source: str, there: int, dropped: int, expected: int | None, unit: str, rule: str
) -> tuple[Count, ...]:
    """The count of a split's rows; none where any number is right."""
    if expected is None:
        return ()
    problem = (
        f"task.annotations.{source} must have {expected} {unit} for {split}, got {there}"
        f"{f' ({dropped} dropped: their boxes have no area in the picture)' if dropped else ''}; "
        f"task.expected.{split}=null takes what is there, the paper's are {rule}"
    )
    return (Count(split, unit, there, expected, problem),)


class RefCOCO(Task):
    """Give the box of what a phrase names. Splits: cold_start, train, id (UNC's val), and the OOD sets.

    A box is scaled once, from the picture's own pixels to the frame that the model speaks. The target of an example is
    its exact box; what SFT teaches has whole numbers.

    Training takes one expression a picture. It drops a row whose whole numbers would be judged wrong, as the box is too
    small for them, and the few published boxes that are not within their picture. Test sets keep both, as they are
    judged by the exact box: the part of it that is in the picture. Only where no part is there is nothing to ask.

    Args:
        question: `{phrase}` stands for the expression. Files that have whole questions keep theirs.
        request: what is said of the answer's form, after the question.
        answer: what SFT teaches; `{box}` stands for the box.
        seed: draws the training pictures, their expressions, and which of them the cold start takes.
        annotations: where the expressions are: refcoco, ref_l4, lisa.
        images: folders of the pictures: coco, objects365, lisa.
        ood: the OOD sets, of ref_l4 and lisa.
        expected: rows that the files must have, by split; training counts pictures. None: whatever is there.
        num_train, num_cold_start: pictures of "train" and of "cold_start".
        boxes: how the model speaks of boxes: frame and multiple. None: it does not.
        min_pixels, max_pixels: what the processor resizes pictures to.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        request: str,
        answer: str,
        seed: int,
        annotations: Mapping[str, str | None],
        images: Mapping[str, str | None],
        ood: Sequence[str],
        expected: Mapping[str, int | None],
        num_train: int,
        num_cold_start: int,
        boxes: Mapping[str, Any] | None,
        min_pixels: int | None,
        max_pixels: int | None,
    ) -> None:
        super().__init__(reward, question)
        for option, template, word in (("question", question, "{phrase}"), ("answer", answer, "{box}")):
            if word not in template:
                raise ValueError(f"task.{option} must contain {word}, got {template!r}; see conf/task/refcoco.yaml")
        if not set(ood) <= set(_OOD):
            raise ValueError(f"task.ood must be some of {', '.join(_OOD)}, got {list(ood)}; leave the others out")
        for option, count in (("num_train", num_train), ("num_cold_start", num_cold_start)):
            if count < 1:
                raise ValueError(f"task.{option} must be at least 1, got {count}; the paper has 9600 and 400")
        if boxes is None:
            raise ValueError(
                "model.boxes must say in which frame the model speaks of boxes, got None; take a model that does, "
                "or set it as in conf/model/qwen2_5_vl_3b.yaml"
            )
        self._request, self._answer, self._ood = request, answer, tuple(ood)
        self._rule = FrameRule(boxes["frame"], boxes["multiple"], min_pixels, max_pixels)
        self._dropped: dict[str, int] = {}

        train, val = expressions.refcoco("task.annotations.refcoco", annotations["refcoco"])
        candidates = _one_a_picture(train, seed)
        of_train = "all pictures of UNC's train, one expression each"
        self._counts = _counts("train", "refcoco", len(candidates), 0, expected["train"], "pictures", of_train)
        self._origins = dict.fromkeys(("cold_start", "train", "id"), f"{annotations['refcoco']} on {images['coco']}")
        coco = _Root("coco", images["coco"])
        pool = self._usable("train", candidates, coco, num_train + num_cold_start)
        if len(pool) < num_train + num_cold_start:
            raise ValueError(
                f"task.num_train and task.num_cold_start must be at most {len(pool)} pictures together, "
                f"got {num_train} + {num_cold_start}; there are no more with a box"
            )
        self._examples = {"cold_start": [replace(example, split="cold_start") for example in pool[:num_cold_start]]}
        self._examples["train"] = pool[num_cold_start:]
        with self._or_missing("id"):
            self._add("id", val, coco, "refcoco", expected["id"], "all of UNC's val")
        for split in self._ood:
            read, key, rule = _OOD[split]
            with self._or_missing(split):
                rows = read(f"task.annotations.{split}", annotations[split])
                self._add(split, rows, _Root(key, images[key]), split, expected[split], rule)
                self._origins[split] = f"{annotations[split]} on {images[key]}"

    def _add(
        self, split: str, rows: Sequence[Expression], root: _Root, source: str, expected: int | None, rule: str
    ) -> None:
        """A test set, with its count."""
        found = self._examples[split] = self._usable(split, rows, root, None)
        self._counts += _counts(split, source, len(found), len(rows) - len(found), expected, "expressions", rule)

    def _usable(self, split: str, rows: Iterable[Expression], root: _Root, count: int | None) -> list[Example]:
        """The examples of the first `count` rows that can be asked and judged; the others are counted as dropped."""
        found: list[Example] = []
        missing: dict[str, None] = {}
        outside: list[Box] = []
        reasons = Counter[str]()
        for row in rows:
            if len(found) + len(missing) == count:
                break
            path = root.find(row.picture)
            if path is None:
                missing[row.picture] = None
                continue
            box = Box(*row.corners, row.size or _size_of(path))
            if not box.lies_within(_SLACK_PX):
                outside.append(box)
            if split != "train" and has_area(box.corners):  # clipping would put the edges of others in order
                box = box.clipped()
            if not box.lies_within(_SLACK_PX):
                reasons["box outside its picture"] += 1
                continue
            example = self._example(split, row, box, f"{root.key}/{row.picture}", path)
            corners = first_corners(example.target)
            if corners is None or not has_area(corners):  # to hundredths
                reasons["box without area"] += 1
            elif split == "train" and not self.score(example, self.target(example)).correct:
                reasons["box too small for whole numbers"] += 1
            else:
                found.append(example)
        if missing:
            raise ValueError(
                f"{root.name} must hold the pictures of {split}, got {str(root.folder)!r} without {len(missing)} of "
                f"them, the first {next(iter(missing))!r}; download them"
            )
        if len(outside) > _MOST_OUTSIDE * (len(found) + reasons.total()):
            corners, size = outside[0].corners, outside[0].frame
            raise ValueError(
                f"boxes of {split} must be [x1, y1, x2, y2] in pixels of their pictures, got {list(corners)} in one of "
                f"{size.width}x{size.height}, and {len(outside)} such; are they [x, y, width, height]?"
            )
        self._dropped |= {f"{split}: {reason}": number for reason, number in reasons.items()}
        return found

    def _example(self, split: str, row: Expression, box: Box, picture: str, path: str) -> Example:
        said = box.to(self._rule(box.frame))
        question = row.text
        if not row.whole_question:  # the template ends the sentence itself
            question = self.question.replace("{phrase}", row.text.strip().removesuffix("."))
        size = box.frame
        return Example(
            id=f"{split}/{row.id}",
            split=split,
            pictures=(Picture(f"refcoco-{OPENER_VERSION}/{picture}/{size.width}x{size.height}", _Opener(path, size)),),
            target=said.exact(),
            question=f"{question} {self._request}".strip(),
            frame=said.frame,
        )

    @property
    def ood(self) -> tuple[str, ...]:
        return self._ood

    @property
    def dropped(self) -> dict[str, int]:
        return self._dropped

    @property
    def counts(self) -> tuple[Count, ...]:
        return self._counts

    @property
    def origins(self) -> Mapping[str, str]:
        return self._origins

    def identity(self, split: str) -> dict[str, object]:
        """By what is asked and judged; a picture is known by its name and size, as all are published under one name."""
        rows = [
            (row.id, row.question, row.target, str(row.frame), *(picture.id for picture in row.pictures))
            for row in self.examples(split)
        ]
        taught = {"answer": self._answer} if split in ("train", "cold_start") else {}
        return {"split": split, "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest(), **taught}

    def examples(self, split: str) -> Sequence[Example]:
        if split in self.missing:
            raise ValueError(self.missing[split])
        if split not in self._examples:
            known = ", ".join(self._examples)
            raise ValueError(f"split must be one of {known}, got {split!r}; task.ood names the OOD sets")
        return self._examples[split]

    def target(self, example: Example) -> str:
        """The box in whole numbers, in the answer's form."""
        corners = first_corners(example.target)
        assert corners is not None
        assert example.frame is not None
        return self._answer.replace("{box}", Box(*corners, example.frame).whole())
