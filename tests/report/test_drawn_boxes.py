"""From a rectangle in a picture to a model's words and back: it lands where it was, and the drawing shows it."""

import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dcsft.boxes import Box, Frame, FrameRule, first_corners
from dcsft.records import Example, Picture
from dcsft.report.boxes import ANSWER, TRUTH, draw_boxes
from dcsft.report.cells import Cell
from dcsft.report.sights import LONGEST_PX
from dcsft.stages.gather import sights_of

RULES = {
    "Qwen2.5-VL": FrameRule("resized", 28, 3136, 802816),
    "Qwen3-VL": FrameRule("normalised", None, 65536, 802816),
    "tiny": FrameRule("resized", 28, 3136, 3136),
}
SIZES = [(640, 480), (427, 640), (896, 896), (4000, 3000), (2400, 60), (41, 1700), (60, 50)]


def pictured(size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A picture with a black rectangle, and where it is."""
    width, height = size
    box = (width // 5, height // 4, width * 3 // 4, height * 7 // 8)
    image = Image.new("RGB", size, (235, 235, 235))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="black")
    return image, box


def black_part(image: Image.Image) -> tuple[int, int, int, int]:
    """The rectangle as the pixels show it."""
    down, across = np.nonzero(np.asarray(image.convert("L")) < 60)
    return across.min(), down.min(), across.max() + 1, down.max() + 1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_a_rectangle_lands_on_itself(size, name):
    image, box = pictured(size)
    own = Frame(*size)
    spoken = Box(*black_part(image), own).to(RULES[name](own))
    for text, slack in ((spoken.exact(), 0.005), (spoken.whole(), 1.0)):
        corners = first_corners(f"```json\n{json.dumps({'bbox_2d': json.loads(text)})}\n```")
        back = Box(*corners, spoken.frame).to(own).corners
        # One unit of the spoken frame, in pixels of the picture: what the words cannot say.
        units = (own.width / spoken.frame.width, own.height / spoken.frame.height) * 2
        for there, was, unit in zip(back, box, units, strict=True):
            assert abs(there - was) <= slack * unit + 1e-9, (text, back, box)


@pytest.mark.parametrize("size", SIZES[:6])
def test_the_resized_picture_has_the_rectangle_where_the_box_says(size):
    image, box = pictured(size)
    frame = RULES["Qwen2.5-VL"](Frame(*size))
    resized = image.resize((frame.width, frame.height), Image.Resampling.BICUBIC)
    said = Box(*box, Frame(*size)).to(frame).corners
    assert np.abs(np.subtract(black_part(resized), said)).max() <= 1.5


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_the_drawn_truth_is_the_rectangles_edge(size, name):
    image, box = pictured(size)
    spoken = Box(*box, Frame(*size)).to(RULES[name](Frame(*size)))
    drawn = np.asarray(draw_boxes(image, spoken.frame, spoken.exact(), [])).astype(int)
    green = np.abs(drawn - tuple(int(TRUTH[i : i + 2], 16) for i in (1, 3, 5))).sum(-1) < 10
    down, across = np.nonzero(green)
    ends = (across.min(), down.min(), across.max() + 1, down.max() + 1)
    assert np.abs(np.subtract(ends, box)).max() <= 1


def test_odd_answers_are_drawn_at_the_border_or_not_at_all():
    image, _ = pictured((64, 48))
    frame, truth = Frame(1000, 1000), "[200, 200, 700, 700]"
    plain = draw_boxes(image, frame, truth, [])
    nothing = ["", "no box", "[9, 9, 1, 1]", "[nan, 0, 1, 1]", "[0, 0, 1e999, 1]"]
    assert draw_boxes(image, frame, truth, nothing).tobytes() == plain.tobytes()
    for text in ("[-1e308, -1e308, 1e308, 1e308]", "[5000, 5000, 6000, 6000]", "[10, 10, 10.001, 10.001]"):
        assert draw_boxes(image, frame, truth, [text]).size == (64, 48)
    assert image.tobytes() == pictured((64, 48))[0].tobytes()  # a copy was drawn on


def test_a_page_shows_truth_and_answers_over_the_picture(tmp_path: Path):
    """Leaves the picture in the test's folder, to be looked at."""
    image, box = pictured((640, 480))
    truth = Box(*box, Frame(640, 480)).to(RULES["Qwen2.5-VL"](Frame(640, 480)))
    shifted = Box(box[0] + 60, box[1] - 40, box[2] + 60, box[3] - 40, Frame(640, 480)).to(truth.frame)
    picture = Picture("one", lambda: image)
    asked = Example("train/1", "train", (picture,), truth.exact(), frame=truth.frame)

    class OneRow:
        tests = ()

        def examples(self, split: str) -> list[Example]:
            return [asked] if split == "train" else []

    texts = [json.dumps({"bbox_2d": json.loads(shifted.whole())}), "[300, 20, 420, 90]", "somewhere"]
    cell = Cell("", 0, "", None, None, tmp_path / "labels.parquet", None, None, None)
    sight = sights_of({cell.labels: OneRow()})(cell, {"train/1": texts})["train/1"]
    drawn = Image.open(BytesIO(b64decode(sight.picture.partition(",")[2])))
    assert max(drawn.size) == LONGEST_PX
    colours = {colour: count for count, colour in drawn.getcolors(100_000)}
    for name in (TRUTH, ANSWER):
        assert colours[tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))] > 500
