"""The contact sheet shows every picture, at its place, with its true box."""

from PIL import Image

from dcsft.boxes import Frame
from dcsft.report.boxes import TRUTH
from dcsft.report.contact_sheet import COLUMNS, Shown, contact_sheet, differing

PICTURE, MARGIN, HEADER = 168, 10, 37


def test_pictures_stand_in_rows_under_their_split() -> None:
    colours = [(10 * n, 0, 0) for n in range(COLUMNS + 2)]
    shown = [Shown(Image.new("RGB", (400, 400), colour), f"class {n}") for n, colour in enumerate(colours)]
    sheet = contact_sheet({"train": shown, "id": shown[:1], "none": []})
    cell = PICTURE + MARGIN
    row = cell + 16  # one line of text
    centres = [(MARGIN + n % COLUMNS * cell + 84, HEADER + n // COLUMNS * row + 84) for n in range(len(colours))]
    assert [sheet.getpixel(place) for place in centres] == colours
    second = HEADER + 2 * row + MARGIN
    assert sheet.getpixel((MARGIN + 84, second + HEADER + 84)) == colours[0]
    assert sheet.size == (COLUMNS * cell + MARGIN, second + HEADER + row + MARGIN + HEADER + MARGIN)


def test_the_true_box_is_drawn_on_the_small_picture() -> None:
    """On 168 pixels the box's left edge, at 250 thousandths, is at 42, and its upper one, at 500, at 84."""
    grey = Image.new("RGB", (640, 640), "gray")
    sheet = contact_sheet(
        {"train": [Shown(grey, "[250, 500, 750, 1000]", "", Frame(1000, 1000), "[250, 500, 750, 1000]")]}
    )
    green = tuple(int(TRUTH[i : i + 2], 16) for i in (1, 3, 5))
    assert sheet.getpixel((MARGIN + 42, HEADER + 120)) == green
    assert sheet.getpixel((MARGIN + 84, HEADER + 84)) == green
    assert sheet.getpixel((MARGIN + 84, HEADER + 120)) == (128, 128, 128)


def test_long_words_and_texts_are_cut_to_their_room() -> None:
    many = Shown(Image.new("RGB", (5000, 20)), "word" * 100, "a note of many words " * 30)
    tall = contact_sheet({"train": [many]})
    assert tall.height == HEADER + PICTURE + 4 * 16 + 2 * MARGIN  # a line of the target, three of the note


def test_questions_are_shown_without_what_all_have_in_common() -> None:
    texts = ["Where is the red cat. In JSON.", "Where is the dog. In JSON.", "Where is the the dog. In JSON."]
    assert differing(texts) == ["red cat.", "dog.", "the dog."]
    assert differing(["the same"] * 2) == ["", ""]
    assert differing([]) == []
