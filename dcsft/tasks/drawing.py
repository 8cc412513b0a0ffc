"""Small pictures drawn from font glyphs: placement, colour, and the styles of the icon world.

A canvas is float32 [SIZE_PX, SIZE_PX, 3] in about [0, 1]; a mask is float32 [SIZE_PX, SIZE_PX] in [0, 1]. Every style
takes a generator and draws from it alone, so a picture is a pure function of its stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE_PX = 56
"""Side of every picture; a multiple of the tiny model's 28-pixel image token."""
_STENCIL_PX = 96
_INK_PX = 84
_LUMINANCE = np.array([0.3, 0.5, 0.2], np.float32)
_Y, _X = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)

Array = NDArray[np.float32]


@lru_cache(1)
def font_folder() -> Path:
    """The TrueType fonts that matplotlib ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(1024)
def stencil(character: str, font: str = "DejaVuSans.ttf") -> Image.Image:
    """One glyph, cropped to its ink and centred on a square stencil, as an 8-bit mask."""
    sheet = Image.new("L", (200, 200), 0)
    ImageDraw.Draw(sheet).text((50, 50), character, font=ImageFont.truetype(font_folder() / font, 72), fill=255)
    ink = sheet.crop(sheet.getbbox())
    zoom = _INK_PX / max(ink.size)
    ink = ink.resize((max(1, int(ink.width * zoom)), max(1, int(ink.height * zoom))), Image.Resampling.BILINEAR)
    square = Image.new("L", (_STENCIL_PX, _STENCIL_PX), 0)
    square.paste(ink, ((_STENCIL_PX - ink.width) // 2, (_STENCIL_PX - ink.height) // 2))
    return square


def place(glyph: Image.Image, scale: float, degrees: float, x: float, y: float) -> Array:
    """The glyph's mask, `scale` times the canvas wide, turned, its centre at (x, y) in units of the canvas."""
    zoom = _STENCIL_PX / (scale * SIZE_PX)
    cos, sin = np.cos(np.deg2rad(degrees)) * zoom, np.sin(np.deg2rad(degrees)) * zoom
    cx, cy, middle = x * SIZE_PX, y * SIZE_PX, _STENCIL_PX / 2
    matrix = (cos, sin, middle - cos * cx - sin * cy, -sin, cos, middle + sin * cx - cos * cy)
    turned = glyph.transform((SIZE_PX, SIZE_PX), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32) / 255


def place_inside(rng: Generator, glyph: Image.Image, scale: tuple[float, float], degrees: float) -> Array:
    """The glyph at a random size, turned by up to +-`degrees`, wholly inside the canvas."""
    size = rng.uniform(*scale)
    slack = (1 - size) / 2
    x, y = 0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack)
    return place(glyph, size, rng.uniform(-degrees, degrees), x, y)


def to_pixels(canvas: Array) -> NDArray[np.uint8]:
    """The canvas as 8-bit RGB."""
    return (canvas.clip(0, 1) * 255).astype(np.uint8)


def colour(rng: Generator) -> Array:
    """A uniformly random RGB colour."""
    return rng.random(3).astype(np.float32)


def bright_and_dark(rng: Generator, min_difference: float) -> tuple[Array, Array]:
    """A background and a foreground colour, the background brighter by at least `min_difference`."""
    while True:
        bright, dark = colour(rng), colour(rng)
        if float((bright - dark) @ _LUMINANCE) > min_difference:
            return bright, dark


def clouds(rng: Generator, cells: int, amplitude: float) -> Array:
    """Smooth coloured noise of `cells` x `cells` patches."""
    coarse = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR), np.float32) / 255 * amplitude


def plain(value: Array) -> Array:
    """A canvas of one colour."""
    return np.ones((SIZE_PX, SIZE_PX, 3), np.float32) * value


def blend(canvas: Array, mask: Array, paint: Array) -> Array:
    """Paint laid over the canvas where the mask is on."""
    return canvas * (1 - mask[..., None]) + mask[..., None] * paint


def blur(mask: Array, radius_px: float) -> Array:
    """Gaussian blur of a mask or a canvas."""
    image = Image.fromarray((mask.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius_px)), np.float32) / 255


def occlude(rng: Generator, canvas: Array, count: int, sides_px: tuple[int, int], margin_px: int = 0) -> Array:
    """The canvas with `count` opaque boxes over it."""
    for _ in range(count):
        width, height = rng.integers(*sides_px, 2)
        x, y = rng.integers(margin_px, SIZE_PX - width), rng.integers(margin_px, SIZE_PX - height)
        canvas[y : y + height, x : x + width] = colour(rng) * 0.8
    return canvas


@dataclass(frozen=True)
class PhotoStyle:
    """How natural the in-distribution pictures are; every share is a probability."""

    two_objects: float
    """Two equal icons, the label names one of them: an ambiguous picture."""
    distractors: float
    occlusion: float
    blur: float


def photo(rng: Generator, glyph: Image.Image, others: Callable[[], Image.Image], style: PhotoStyle) -> Array:
    """A dark icon on a brighter, uneven background, with natural nuisances."""
    bright, dark = bright_and_dark(rng, 0.36)
    canvas = bright * 0.75 + clouds(rng, 4, 0.3)
    if rng.random() < style.distractors:
        for _ in range(rng.integers(1, 4)):
            small = place(others(), rng.uniform(0.18, 0.32), rng.uniform(-40, 40), *rng.uniform(0.1, 0.9, 2))
            canvas = blend(canvas, small, colour(rng))
    if rng.random() < style.two_objects:
        size = rng.uniform(0.42, 0.6)
        here, there = (0.27, 0.73) if rng.random() < 0.5 else (0.73, 0.27)
        other = place(others(), size, rng.uniform(-25, 25), there, rng.uniform(0.35, 0.65))
        canvas = blend(canvas, other, colour(rng))
        mask = place(glyph, size, rng.uniform(-25, 25), here, rng.uniform(0.35, 0.65))
    else:
        mask = place_inside(rng, glyph, (0.65, 1.0), 12)
    canvas = blend(canvas, mask * rng.uniform(0.75, 1), dark * 0.85 + clouds(rng, 3, 0.2))
    if rng.random() < style.occlusion:
        canvas = occlude(rng, canvas, int(rng.integers(1, 4)), (8, 22))
    if rng.random() < style.blur:
        canvas = blur(canvas, 0.9)
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0.01, 0.07)
    return canvas * rng.uniform(0.6, 1.1) + noise


def natural_adversarial(rng: Generator, glyph: Image.Image, others: Callable[[], Image.Image]) -> Array:
    """A small icon among fragments of others, often partly hidden: the counterpart of ImageNet-A."""
    bright, dark = bright_and_dark(rng, 0.3)
    canvas = bright * 0.7 + clouds(rng, 8, 0.4)
    for _ in range(rng.integers(2, 5)):
        fragment = place(others(), rng.uniform(0.2, 0.35), rng.uniform(-180, 180), *rng.random(2))
        canvas = blend(canvas, fragment * 0.7, colour(rng))
    canvas = blend(canvas, place_inside(rng, glyph, (0.5, 0.8), 22), dark)
    if rng.random() < 0.5:
        canvas = occlude(rng, canvas, 1, (6, 18), margin_px=8)
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0.01, 0.06)
    return canvas * rng.uniform(0.5, 1.1) + noise


def _outline(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    return blend(plain(paper), np.clip(blur(mask, 1.6) * (1 - mask) * 3.2, 0, 1), ink)


def _inverted(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    return blend(plain(ink * 0.5), mask, paper)


def _mosaic(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    tiles = int(rng.choice([14, 18, 22]))
    image = Image.fromarray(to_pixels(blend(plain(paper), mask, ink)))
    small = image.resize((tiles, tiles), Image.Resampling.BOX)
    return np.asarray(small.resize((SIZE_PX, SIZE_PX), Image.Resampling.NEAREST), np.float32) / 255


def _hatch(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 5)
    lines = (np.cos(angle) * _X + np.sin(angle) * _Y) % period < period * 0.55
    return blend(plain(paper), mask * lines, ink)


def _dots(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    period = rng.uniform(3.2, 4.6)
    dots = (_X % period - period / 2) ** 2 + (_Y % period - period / 2) ** 2 < (period * 0.42) ** 2
    return blend(plain(paper), mask * dots, ink)


def _cartoon(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    edged = blend(plain(paper), np.clip(blur(mask, 1.8) * 3, 0, 1), ink * 0.2)
    return blend(edged, mask, colour(rng))


def _sketch(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    grain = 0.5 + 0.5 * rng.random((SIZE_PX, SIZE_PX)).astype(np.float32)
    return blend(plain(paper), np.clip(np.abs(mask - blur(mask, 1.2)) * 2.5, 0, 1) * grain, ink)


def _embroidery(rng: Generator, mask: Array, ink: Array, paper: Array) -> Array:
    stitches = ((_X + _Y).astype(int) % 3 == 0) | ((_X - _Y).astype(int) % 3 == 0)
    return blend(clouds(rng, 28, 0.3) + paper * 0.6, mask * stitches, ink)


RENDITIONS = (_outline, _inverted, _mosaic, _hatch, _dots, _cartoon, _sketch, _embroidery)


def rendition(rng: Generator, glyph: Image.Image) -> Array:
    """The icon as a drawing, a mosaic, an embroidery ...: the counterpart of ImageNet-R."""
    style = RENDITIONS[int(rng.integers(len(RENDITIONS)))]
    mask = place_inside(rng, glyph, (0.7, 1.0), 15)
    ink, paper = colour(rng) * np.float32(0.45), 1 - colour(rng) * np.float32(0.3)
    return style(rng, mask, ink, paper)
