"""Handwritten digits: real input that needs no download, from the scans that scikit-learn ships.

Look at it: `python -m dcsft.tasks.digits`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.drawing import SIZE_PX, Array, blend, font_folder, natural_adversarial, plain, to_pixels
from dcsft.tasks.foundation_mix import DIGIT_WORDS, typeset_digit
from dcsft.tasks.task import Task

RENDERER_VERSION = 1
"""Raised whenever a change to the drawing code changes a pixel."""
NUM_SCANS = 1797
NUM_TRAINING_SCANS = 1200
"""Scans below this index may train; those from it on are test pictures."""
FONTS = (
    "DejaVuSerif.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBolIta.ttf",
    "cmr10.ttf",
    "cmb10.ttf",
    "cmss10.ttf",
    "cmti10.ttf",
    "cmtt10.ttf",
)
"""Of matplotlib's fonts, ten whose digits are digits (cmsy10 has arrows there) and that the foundation has not seen."""
_INK_LEVELS = 16
_SCAN_FRAME_PX = 48  # a scan's ink then fills as much of the picture as a typeset digit's: 48 of 56 pixels high
_STENCIL_PX, _STENCIL_INK_PX = 96, 84  # the frame of drawing.stencil
_PAPER, _INK = np.full(3, 0.92, np.float32), np.full(3, 0.08, np.float32)


@cache
def scans() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ink masks [1797, 8, 8] with 0 for paper and 255 for full ink, and the digits they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images * 255 / _INK_LEVELS).astype(np.uint8), data.target.astype(np.int64)


def _framed(index: int, side_px: int, frame_px: int) -> Image.Image:
    """The scan's mask, enlarged to `side_px` in the middle of a square of `frame_px`."""
    mask = Image.fromarray(scans()[0][index]).resize((side_px, side_px), Image.Resampling.BICUBIC)
    square = Image.new("L", (frame_px, frame_px), 0)
    square.paste(mask, ((frame_px - side_px) // 2, (frame_px - side_px) // 2))
    return square


def draw_scan(index: int) -> Array:
    """A scan as it is: dark ink on light paper."""
    mask = np.asarray(_framed(index, _SCAN_FRAME_PX, SIZE_PX), np.float32) / 255
    return blend(plain(_PAPER), mask, _INK)


def draw_adversarial(rng: Generator, index: int) -> Array:
    """A scan, smaller and turned, in weak colours among fragments of other digits, often partly hidden."""

    def glyph(scan: int) -> Image.Image:
        return _framed(scan, _STENCIL_INK_PX, _STENCIL_PX)

    def others() -> Image.Image:
        return glyph(int(rng.integers(NUM_TRAINING_SCANS, NUM_SCANS)))

    return natural_adversarial(rng, glyph(index), others)


def draw_typeset(rng: Generator, index: int) -> Array:
    """Digits and fonts take turns; the digit is crisp, unlike the scans."""
    digit, font = index % len(DIGIT_WORDS), index // len(DIGIT_WORDS) % len(FONTS)
    return typeset_digit(rng, digit, FONTS[font], as_scan=0)


def _digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


class Digits(Task):
    """Name the digit. Splits: cold_start and train (scans below index 1,200), id (held-out scans), ood_r, ood_a.

    "ood_r" holds digits typeset in fonts that the foundation has not seen; "ood_a" the scans of "id" again, hard to
    see. Test pictures do not depend on `seed`. The scans are 1,797 real ones, of which no label is known to be wrong.

    Args:
        seed: draws which training scans the cold start takes, and the order of both splits.
        test_seed: draws the pictures of the OOD sets; constant over runs.
        num_cold_start: scans of "cold_start", the digits in turn; the rest of the first 1,200 is "train".
        num_id: scans of "id" and of "ood_a": the last of all, by index.
        num_ood_r: pictures of "ood_r".
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        seed: int,
        test_seed: int,
        num_cold_start: int,
        num_id: int,
        num_ood_r: int,
    ) -> None:
        super().__init__(reward, question)
        digits = scans()[1]
        fewest = int(np.bincount(digits[:NUM_TRAINING_SCANS]).min())
        limits = {
            "num_cold_start": (num_cold_start, fewest * len(DIGIT_WORDS), "the digits take turns and one has no more"),
            "num_id": (num_id, NUM_SCANS - NUM_TRAINING_SCANS, "the other scans train"),
            "num_ood_r": (num_ood_r, None, "they are drawn as needed"),
        }
        for name, (value, most, why) in limits.items():
            if value < 1 or (most is not None and value > most):
                allowed = "at least 1" if most is None else f"between 1 and {most}"
                raise ValueError(f"task.{name} must be {allowed}, got {value}; {why}")
        self.seed, self.test_seed = seed, test_seed
        order = stream("digits", "order", seed).permutation(NUM_TRAINING_SCANS)
        turn = np.empty(NUM_TRAINING_SCANS, np.int64)  # of each scan in `order`: how many of its digit come before it
        for digit in range(len(DIGIT_WORDS)):
            members = np.flatnonzero(digits[order] == digit)
            turn[members] = np.arange(len(members))
        in_turn = order[np.lexsort((digits[order], turn))]
        cold_start = in_turn[:num_cold_start]
        self.indices: dict[str, list[int]] = {
            "cold_start": cold_start.tolist(),
            "train": order[~np.isin(order, cold_start)].tolist(),
            "id": list(range(NUM_SCANS - num_id, NUM_SCANS)),
            "ood_r": list(range(num_ood_r)),
            "ood_a": list(range(NUM_SCANS - num_id, NUM_SCANS)),
        }

    @property
    def ood(self) -> tuple[str, ...]:
        return ("ood_r", "ood_a")

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(DIGIT_WORDS)

    def identity(self, split: str) -> dict[str, object]:
        name = f"digits-{RENDERER_VERSION}/{split}"
        rows = {"split": name, "size": len(self.indices[split])}
        if split == "ood_r":
            return rows | {
                "test_seed": self.test_seed,
                "fonts": _digest((font_folder() / f).read_bytes() for f in FONTS),
            }
        rows["scans"] = _digest(array.tobytes() for array in scans())
        if split == "ood_a":
            return rows | {"test_seed": self.test_seed}
        return rows if split == "id" else rows | {"seed": self.seed}

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self.indices:
            known = ", ".join(self.indices)
            raise ValueError(f"split must be one of {known}, got {split!r}; see the docstring of Digits")
        return [self._example(split, index) for index in self.indices[split]]

    def _example(self, split: str, index: int) -> Example:
        """A scan keeps its id whichever side of the cold start it falls on."""
        training = split in ("train", "cold_start")
        digit = index % len(DIGIT_WORDS) if split == "ood_r" else int(scans()[1][index])
        style = split if split in self.ood else "scan"
        name = f"{style}/{index}" if style == "scan" else f"{style}/{self.test_seed}/{index}"
        return Example(
            id=f"scan/{index}" if training else f"{split}/{index}",
            split=split,
            pictures=(Picture(f"digits-{RENDERER_VERSION}/{name}", _Opener(style, index, self.test_seed)),),
            target=DIGIT_WORDS[digit],
        )


@dataclass(frozen=True)
class _Opener:
    """Draws one picture when called; a class and not a closure, so that it travels to worker processes."""

    style: str
    index: int
    test_seed: int

    def __call__(self) -> Image.Image:
        rng = stream("digits", self.style, self.test_seed, self.index)
        if self.style == "ood_r":
            canvas = draw_typeset(rng, self.index)
        elif self.style == "ood_a":
            canvas = draw_adversarial(rng, self.index)
        else:
            canvas = draw_scan(self.index)
        return Image.fromarray(to_pixels(canvas))


def _contact_sheet(columns: int = 20, rows: int = 4) -> Image.Image:
    """Rows of each style, to be looked at: scans, the same scans hard to see, typeset digits."""
    cell = 58
    sheet = Image.new("RGB", (columns * cell, 3 * rows * cell), "white")
    for block, (style, first) in enumerate((("scan", 1200), ("ood_a", 1200), ("ood_r", 0))):
        for i in range(columns * rows):
            picture = _Opener(style, first + i, 77)()
            sheet.paste(picture, (i % columns * cell, (block * rows + i // columns) * cell))
    return sheet


if __name__ == "__main__":
    _contact_sheet().save("digits.png")
    print("digits.png")
