"""Scenes of the icon world: several coloured icons on a canvas, each with its exact box."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dcsft.boxes import Corners
from dcsft.tasks.drawing import Array, blend, blur, stencil, to_pixels
from dcsft.tasks.icons import icon_classes

RENDERER_VERSION = 2
"""Raised whenever a change to the drawing code changes a pixel or a layout."""
SCENE_PX = 112
"""Side of every scene: 4 x 4 image tokens of the tiny model."""
_CELLS = 3  # a side; an icon stays within its cell, so icons never overlap
MOST_ICONS = _CELLS**2
_TURNS = (-12, -6, 0, 6, 12)  # degrees
_RAMP = np.linspace(0, 0.3, SCENE_PX)
_LIGHT = np.stack(np.broadcast_arrays(_RAMP, 0.15, _RAMP[:, None]), -1)
"""Redder to the right, bluer downwards. Qwen's towers have rotary positions alone, which tell two tokens how far apart
they are; where in the picture a token is, so small a model can know only from what the token shows."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.05, 0.50, 0.15),
    "blue": (0.15, 0.25, 0.90),
    "orange": (0.95, 0.55, 0.05),
    "purple": (0.55, 0.10, 0.65),
    "black": (0.05, 0.05, 0.05),
}
"""RGB, each icon a little off."""

USES = {
    "airplane": "you fly in",
    "anchor": "that holds a ship",
    "cat": "that says meow",
    "coffee": "you drink",
    "die": "you roll in a game",
    "envelope": "you send by post",
    "flag": "that waves in the wind",
    "flower": "that grows in a garden",
    "gear": "that turns in a machine",
    "heart": "that stands for love",
    "house": "you live in",
    "lightning": "that comes with thunder",
    "pencil": "you write with",
    "scissors": "you cut paper with",
    "snowflake": "that falls in winter",
    "star": "that shines at night",
    "sun": "that shines by day",
    "sword": "you fight with",
    "telephone": "you call a friend with",
    "umbrella": "you use when it rains",
}
"""The classes that scenes are made of, and what each is for: "the thing you use when it rains"."""


@dataclass(frozen=True)
class Icon:
    """One icon of a scene."""

    name: str
    colour: str
    character: str
    degrees: int
    corners: Corners
    """Of its ink, in whole pixels."""

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.corners
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def size_px(self) -> float:
        """The longer side."""
        x1, y1, x2, y2 = self.corners
        return max(x2 - x1, y2 - y1)


Scene = tuple[Icon, ...]


@dataclass(frozen=True)
class SceneStyle:
    """How hard scenes are to see. Shares are probabilities, sizes are the longer sides of icons in pixels."""

    sizes_px: tuple[int, int]
    repeats: float
    """Share of icons that are of the class of another."""
    clutter: float
    """Scenes with faint fragments between the icons."""
    blur: float
    noise: float
    """Largest standard deviation of the pixels' noise."""


def style_of(option: str, node: Mapping[str, Any]) -> SceneStyle:
    """A style as a yaml has it; `option` is what the yaml calls it.

    Raises:
        ValueError: something is missing, unknown or out of range.
    """
    names = {field.name for field in fields(SceneStyle)}
    if set(node) != names:
        raise ValueError(
            f"{option} must have {', '.join(sorted(names))}, got {', '.join(sorted(node))}; see conf/task/"
        )
    for name in ("repeats", "clutter", "blur"):
        if not 0 <= node[name] <= 1:
            raise ValueError(f"{option}.{name} must be a share in [0, 1], got {node[name]}; give a probability")
    least, most = node["sizes_px"]
    if not 8 <= least <= most <= SCENE_PX // _CELLS:
        raise ValueError(f"{option}.sizes_px must be [least, most] of 8 to {SCENE_PX // _CELLS}, got {[least, most]}")
    return SceneStyle(**{**node, "sizes_px": (least, most)})


@lru_cache(1024)
def _ink(character: str, degrees: int) -> Image.Image:
    """The turned glyph, cropped to its ink."""
    turned = stencil(character).rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    return turned.crop(turned.point(lambda value: 255 * (value > 64)).getbbox())


@lru_cache(1)
def _characters() -> dict[str, tuple[str, ...]]:
    return {icon.name: icon.characters for icon in icon_classes()}


def draw_layout(rng: Generator, names: Sequence[str], num_icons: tuple[int, int], style: SceneStyle) -> Scene:
    """Which icons are where: `num_icons` (least, most) of the classes `names`, in cells of their own."""
    number = int(rng.integers(num_icons[0], num_icons[1] + 1))
    scene: list[Icon] = []
    for cell in rng.permutation(MOST_ICONS)[:number]:
        repeat = scene and rng.random() < style.repeats
        name = scene[int(rng.integers(len(scene)))].name if repeat else names[int(rng.integers(len(names)))]
        character, degrees = _characters()[name][0], int(rng.choice(_TURNS))
        colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        ink = _ink(character, degrees)
        zoom = int(rng.integers(style.sizes_px[0], style.sizes_px[1] + 1)) / max(ink.size)
        width, height = (max(1, round(side * zoom)) for side in ink.size)
        left, right = (round(edge * SCENE_PX / _CELLS) for edge in (cell % _CELLS, cell % _CELLS + 1))
        top, bottom = (round(edge * SCENE_PX / _CELLS) for edge in (cell // _CELLS, cell // _CELLS + 1))
        x, y = int(rng.integers(left, right - width + 1)), int(rng.integers(top, bottom - height + 1))
        scene.append(Icon(name, colour, character, degrees, (x, y, x + width, y + height)))
    return tuple(scene)


def _coarse(rng: Generator, cells: int) -> Array:
    """Smooth coloured noise in [0, 1], as large as a scene."""
    coarse = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((SCENE_PX, SCENE_PX), Image.Resampling.BILINEAR), np.float32) / 255


def _stamp(canvas: Array, mask: Array, x: int, y: int, paint: Array) -> None:
    """Lay paint over a part of the canvas."""
    part = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
    canvas[part] = blend(canvas[part], mask, paint)


def draw_scene(scene: Scene, rng: Generator, style: SceneStyle) -> NDArray[np.uint8]:
    """Pixels [SCENE_PX, SCENE_PX, 3] of a layout; the generator draws colours and nuisances alone."""
    canvas = (0.6 + 0.1 * rng.random(3) + _LIGHT + 0.06 * _coarse(rng, 4)).astype(np.float32)
    if rng.random() < style.clutter:
        for _ in range(rng.integers(2, 5)):
            x, y = rng.integers(0, SCENE_PX - 14, 2)
            fragment = icon_classes()[int(rng.integers(len(icon_classes())))].characters[0]
            mask = np.asarray(_ink(fragment, 0).resize((14, 14), Image.Resampling.BOX), np.float32) / 255
            _stamp(canvas, mask * 0.35, int(x), int(y), rng.random(3).astype(np.float32))
    for icon in scene:
        x1, y1, x2, y2 = (int(edge) for edge in icon.corners)
        ink = _ink(icon.character, icon.degrees).resize((x2 - x1, y2 - y1), Image.Resampling.BOX)
        paint = np.asarray(COLOURS[icon.colour], np.float32) + rng.uniform(-0.08, 0.08, 3).astype(np.float32)
        _stamp(canvas, np.asarray(ink, np.float32) / 255, x1, y1, paint)
    if rng.random() < style.blur:
        canvas = blur(canvas, 0.9)
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0, style.noise)
    return to_pixels(canvas + noise)
