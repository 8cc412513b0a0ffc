"""A contact sheet: pictures of each split with what they are to teach, true boxes drawn, on one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from PIL import Image, ImageDraw, ImageFont

from dcsft.boxes import Frame
from dcsft.report.boxes import draw_boxes
from dcsft.tasks.drawing import font_folder

COLUMNS = 8
_PICTURE_PX, _MARGIN_PX, _TEXT_PX, _TITLE_PX = 168, 10, 12, 17
_TARGET_LINES, _NOTE_LINES = 1, 3
_LINE_PX = _TEXT_PX + 4
_HEADER_PX = _TITLE_PX + 2 * _MARGIN_PX
_FONT = "DejaVuSans.ttf"  # of matplotlib: Latin, Greek, Cyrillic and mathematics
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
    title, font = (ImageFont.truetype(font_folder() / _FONT, size) for size in (_TITLE_PX, _TEXT_PX))
    blocks = [_block(heading, shown, title, font) for heading, shown in splits.items()]
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(
    heading: str, shown: Sequence[Shown], title: ImageFont.FreeTypeFont, font: ImageFont.FreeTypeFont
) -> Image.Image:
    """One split."""
    captions = [
        [(line, _INK) for line in _wrapped(one.target, font, _TARGET_LINES)]
        + [(line, _SOFT) for line in _wrapped(one.note, font, _NOTE_LINES) if line]
        for one in shown
    ]
    width = _PICTURE_PX + _MARGIN_PX
    height = _PICTURE_PX + max(map(len, captions), default=0) * _LINE_PX + _MARGIN_PX
    rows = -(-len(shown) // COLUMNS)
    block = Image.new("RGB", (COLUMNS * width + _MARGIN_PX, _HEADER_PX + rows * height + _MARGIN_PX), _PAPER)
    pen = ImageDraw.Draw(block)
    pen.text((_MARGIN_PX, _MARGIN_PX), heading, _INK, title)
    for number, (one, lines) in enumerate(zip(shown, captions, strict=True)):
        row, column = divmod(number, COLUMNS)
        left, top = _MARGIN_PX + column * width, _HEADER_PX + row * height
        picture = _drawn(one)
        block.paste(picture, (left, top + _PICTURE_PX - picture.height))
        for line, (text, ink) in enumerate(lines):
            pen.text((left, top + _PICTURE_PX + 3 + line * _LINE_PX), text, ink, font)
    return block


def _num_common(rows: Sequence[Sequence[str]]) -> int:
    """How many words all rows begin with."""
    return len(list(takewhile(lambda words: len(set(words)) == 1, zip(*rows, strict=False))))


def differing(texts: Sequence[str]) -> list[str]:
    """The texts without the words that all begin and end with."""
    words = [text.split() for text in texts]
    begin = _num_common(words)
    end = _num_common([row[begin:][::-1] for row in words])
    return [" ".join(row[begin : len(row) - end]) for row in words]


def _drawn(one: Shown) -> Image.Image:
    """The picture at its size on the sheet, small ones enlarged by whole numbers, with its box."""
    scale = _PICTURE_PX / max(one.picture.size)
    resample = Image.Resampling.LANCZOS
    if scale >= 1:
        scale, resample = int(scale), Image.Resampling.NEAREST
    width, height = (max(1, round(side * scale)) for side in one.picture.size)
    small = one.picture.resize((width, height), resample)
    return small if one.frame is None else draw_boxes(small, one.frame, one.box, ())


def _wrapped(text: str, font: ImageFont.FreeTypeFont, num_lines: int) -> list[str]:
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


def _cut(line: str, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(line) <= _PICTURE_PX:
        return line
    while line and font.getlength(f"{line}...") > _PICTURE_PX:
        line = line[:-1]
    return f"{line}..."
