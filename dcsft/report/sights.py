"""What a reader sees of an example: its picture, small enough for a page that is sent around, and its question."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from dcsft.report.cells import Cell

LONGEST_PX = 320
"""Longest side of a picture on a page."""
_PNG_BYTES = 24_000  # a drawing stays exact; what is larger than this is a photograph, which JPEG shows as well
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Sight:
    """An example as the page shows it beside its answers."""

    picture: str | None
    """A data URI."""
    question: str | None
    """Where it differs from example to example."""


Sights = Callable[[Cell, Mapping[str, Sequence[str]]], dict[str, Sight]]
"""A cell and ids of its examples with their answers -> the sight of those that are at hand.

The cell says whose examples: another seed draws other pictures under the same ids. The answers are drawn into the
picture where they are boxes.
"""


def shrunk(picture: Image.Image) -> Image.Image:
    """A copy of at most LONGEST_PX a side."""
    copy = picture.convert("RGB")
    copy.thumbnail((LONGEST_PX, LONGEST_PX))
    return copy


def data_uri(picture: Image.Image) -> str:
    """The picture as a page holds it: PNG where that is small, else JPEG."""
    png, jpeg = BytesIO(), BytesIO()
    picture.save(png, "PNG")
    if len(png.getvalue()) <= _PNG_BYTES:
        return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    picture.convert("RGB").save(jpeg, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
