"""What the tiny model's foundation has seen: captioned pictures of every icon class and of typeset digits.

The captions of some classes use a natural alias ("cog" for "gear") with a class's own probability. That is the naming
mismatch which makes some correct training examples hard, as it does for real models and real labels.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dcsft.seeding import stream
from dcsft.tasks.drawing import (
    SIZE_PX,
    Array,
    PhotoStyle,
    blend,
    bright_and_dark,
    place_inside,
    plain,
    stencil,
    to_pixels,
)
from dcsft.tasks.icons import draw, icon_classes

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = ("What is this?", "Name the thing shown here in a word.")
ICON_QUESTION = "What is shown in this picture? Answer with one word."
DIGIT_QUESTION = "Which digit is this? Answer with one word."
_SCAN_PX = 8  # side of the scans of scikit-learn


@dataclass(frozen=True)
class Mix:
    """Shares of the pool and of its captions.

    Args:
        num_pictures: size of the pool.
        digits: share of digit pictures; the rest are icons.
        styles: shares of photos, renditions and adversarial pictures among the icons.
        alias_levels, alias_shares: a class's captions use its alias with probability `alias_levels[i]`; a share
            `alias_shares[i]` of the classes has that level.
        seed: draws the pictures and the classes' alias levels.
    """

    num_pictures: int
    digits: float
    styles: tuple[float, float, float]
    alias_levels: tuple[float, ...]
    alias_shares: tuple[float, ...]
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The word of each class number: the icons, then the digits."""
        return (*(icon.name for icon in icon_classes()), *DIGIT_WORDS)

    def words(self) -> list[str]:
        """Every word that a caption can use."""
        return sorted({word for icon in icon_classes() for word in (icon.name, icon.alias)} | set(DIGIT_WORDS))

    def alias_probability(self) -> NDArray[np.float64]:
        """Of each class number."""
        draws = stream("foundation", "alias", self.seed).random(len(icon_classes()))
        level = np.searchsorted(np.cumsum(self.alias_shares)[:-1], draws, side="right")
        return np.concatenate([np.asarray(self.alias_levels)[level], np.zeros(len(DIGIT_WORDS))])

    def caption(self, class_number: int, rng: Generator, alias_probability: NDArray[np.float64]) -> str:
        """The word that one caption uses for a class."""
        if rng.random() < alias_probability[class_number]:
            return icon_classes()[class_number].alias
        return self.names[class_number]

    def question(self, class_number: int, rng: Generator) -> str:
        """The question that goes with one caption; the benchmarks' own question is one in four."""
        own = ICON_QUESTION if class_number < len(icon_classes()) else DIGIT_QUESTION
        return (*QUESTIONS, own)[int(rng.choice(3, p=(0.6, 0.15, 0.25)))]


def typeset_digit(rng: Generator, digit: int, font: str, as_scan: float) -> Array:
    """A typeset digit, dark on bright; with probability `as_scan` through the 8x8 pixels of a coarse scan."""
    mask = place_inside(rng, stencil(str(digit), font), (0.75, 1.0), 12)
    if rng.random() < as_scan:
        coarse = Image.fromarray((mask * 255).astype(np.uint8)).resize((_SCAN_PX, _SCAN_PX), Image.Resampling.BOX)
        mask = np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), np.float32) / 255
    bright, dark = bright_and_dark(rng, 0.4)
    return blend(plain(bright), mask * rng.uniform(0.75, 1), dark)


def draw_picture(mix: Mix, index: int) -> tuple[NDArray[np.uint8], int]:
    """Picture `index` of the pool and its class number."""
    rng = stream("foundation", "picture", mix.seed, index)
    icons = icon_classes()
    if rng.random() < mix.digits:
        digit = int(rng.integers(len(DIGIT_WORDS)))
        return to_pixels(typeset_digit(rng, digit, "DejaVuSans.ttf", as_scan=0.6)), len(icons) + digit
    style = ("photo", "rendition", "adversarial")[int(rng.choice(3, p=mix.styles))]
    number = int(rng.integers(len(icons)))
    nuisances = PhotoStyle(two_objects=0.08, distractors=0.3, occlusion=0.22, blur=0.3)
    return to_pixels(draw(style, icons[number], rng, nuisances)), number


def _draw_many(mix: Mix, indices: range) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pictures, numbers = zip(*(draw_picture(mix, index) for index in indices), strict=True)
    return np.stack(pictures), np.array(numbers)


def draw_pool(mix: Mix, num_processes: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The pool in order, a thousand pictures at a time: uint8 [n, SIZE_PX, SIZE_PX, 3] and class numbers [n]."""
    chunks = [range(start, min(start + 1000, mix.num_pictures)) for start in range(0, mix.num_pictures, 1000)]
    with ProcessPoolExecutor(num_processes) as workers:
        yield from workers.map(_draw_many, [mix] * len(chunks), chunks)
