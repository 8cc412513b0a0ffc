"""Boxes drawn over a picture: the true one, and those of answers."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from dcsft.boxes import Box, Frame, first_corners, has_area

TRUTH, ANSWER = "#009e73", "#d55e00"
"""Green and vermilion that all eyes tell apart (Okabe and Ito, 2008); the truth is drawn twice as thick."""
_HALO = "white"
_THINNEST_PX = 240  # a line is a pixel wide for each so many pixels of the longer side


def draw_boxes(picture: Image.Image, frame: Frame, truth: str, answers: Sequence[str]) -> Image.Image:
    """A copy of `picture` with the box of `truth` and those that can be read in `answers`, which are in `frame`."""
    drawn = picture.convert("RGB")
    thin = max(1, max(drawn.size) // _THINNEST_PX)
    for text in answers:
        _outline(drawn, frame, text, ANSWER, thin)
    _outline(drawn, frame, truth, TRUTH, 2 * thin)
    return drawn


def _outline(picture: Image.Image, frame: Frame, text: str, colour: str, width: int) -> None:
    """The line lies within the box; edges far outside the picture are drawn at its border."""
    corners = first_corners(text)
    if corners is None or not has_area(corners):
        return
    box = Box(*corners, frame).to(Frame(*picture.size))
    x1, x2 = (round(min(max(x, 0), picture.width)) for x in (box.x1, box.x2))
    y1, y2 = (round(min(max(y, 0), picture.height)) for y in (box.y1, box.y2))
    pen = ImageDraw.Draw(picture)
    for inset, (ink, line) in enumerate(((_HALO, width + 1), (colour, width))):
        left, top, right, bottom = x1 - 1 + inset, y1 - 1 + inset, x2 - inset, y2 - inset
        if left <= right and top <= bottom:
            pen.rectangle((left, top, right, bottom), outline=ink, width=line)
