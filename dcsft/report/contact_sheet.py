"""A contact sheet: pictures of each split with what they are to teach, true boxes drawn, on one image to be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dcsft.boxes import Frame
from dcsft.report.boxes import draw_boxes

COLUMNS = 8
_PICTURE_PX, _MARGIN_PX, _TEXT_PX, _TITLE_PX = 168, 10, 13, 18
_TARGET_LINES, _NOTE_LINES = 1, 3
_LINE_PX = _TEXT_PX + 3
_CELL_PX = (_PICTURE_PX + _MARGIN_PX, _PICTURE_PX + (_TARGET_LINES + _NOTE_LINES) * _LINE_PX + _MARGIN_PX)
_HEADER_PX = _TITLE_PX + 2 * _MARGIN_PX
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_INK, _SOFT, _PAPER = "#222222", "#777777", "white"


@dataclass(frozen=True)
class Shown:
    """One picture of the sheet."""

    picture: Image.Image
    target: str
    note: str = ""
    """Said in grey under the target."""
    frame: Frame | None = None
    """The frame of the boxes in `box`."""
    box: str = ""
    """A text with the true box."""


def contact_sheet(splits: Mapping[str, Sequence[Shown]]) -> Image.Image:
    """A title and rows of pictures for each split, in order."""
    heights = {split: _HEADER_PX + -(-len(shown) // COLUMNS) * _CELL_PX[1] for split, shown in splits.items()}
    size = (COLUMNS * _CELL_PX[0] + _MARGIN_PX, sum(heights.values()) + _MARGIN_PX)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    title, words = ImageFont.load_default(_TITLE_PX), ImageFont.load_default(_TEXT_PX)
    top = 0
    for split, shown in splits.items():
        pen.text((_MARGIN_PX, top + _MARGIN_PX), split, _INK, title)
        for number, one in enumerate(shown):
            row, column = divmod(number, COLUMNS)
            left, upper = _MARGIN_PX + column * _CELL_PX[0], top + _HEADER_PX + row * _CELL_PX[1]
            picture = _drawn(one)
            sheet.paste(picture, (left, upper + _PICTURE_PX - picture.height))
            lines = [(line, _INK) for line in _wrapped(one.target, words, _TARGET_LINES)]
            lines += [(line, _SOFT) for line in _wrapped(one.note, words, _NOTE_LINES)]
            for line, (text, ink) in enumerate(lines):
                pen.text((left, upper + _PICTURE_PX + 3 + line * _LINE_PX), text, ink, words)
        top += heights[split]
    return sheet


def _drawn(one: Shown) -> Image.Image:
    """The picture at its size on the sheet, small ones enlarged by whole numbers, with its box."""
    scale = _PICTURE_PX / max(one.picture.size)
    resample = Image.Resampling.LANCZOS
    if scale >= 1:
        scale, resample = int(scale), Image.Resampling.NEAREST
    width, height = (max(1, round(side * scale)) for side in one.picture.size)
    small = one.picture.resize((width, height), resample)
    return small if one.frame is None else draw_boxes(small, one.frame, one.box, ())


def _wrapped(text: str, font: _Font, num_lines: int) -> list[str]:
    """As much of a text as fits under a picture."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _PICTURE_PX:
            lines[-1] = longer
        elif len(lines) == num_lines:
            return [*lines[:-1], _cut(f"{longer} ...", font)]
        else:
            lines.append(word)
    return [_cut(line, font) for line in lines]


def _cut(line: str, font: _Font) -> str:
    if font.getlength(line) <= _PICTURE_PX:
        return line
    while line and font.getlength(f"{line}...") > _PICTURE_PX:
        line = line[:-1]
    return f"{line}..."
