"""The judge of boxes: the paper's rule, and text that is none."""

import math
import random

import pytest

from dcsft.rewards.box_iou import BoxIoU

TARGET = "[10.0, 10.0, 110.0, 60.0]"
JUDGE = BoxIoU(0.5)


def test_right_from_the_threshold_on():
    # Of 100 x 50: the left half is exactly 0.5; a pixel less wide is 0.49.
    half, less = JUDGE("[10, 10, 60, 60]", TARGET), JUDGE("[10, 10, 59, 60]", TARGET)
    assert (half.correct, half.reward, half.parts) == (True, 1.0, {"iou": 0.5})
    assert (less.correct, less.reward, less.parts) == (False, 0.0, {"iou": pytest.approx(0.49)})
    assert half.answer == "[10, 10, 60, 60]"


@pytest.mark.parametrize(
    "text",
    [
        TARGET,
        '{"bbox_2d": [10, 10, 110, 60], "label": "the cat"}',
        "It is at [10, 10, 110, 60], not at [0, 0, 1, 1].",
        "[1, 2, 3] [10, 10, 110, 60]",
    ],
)
def test_the_first_well_formed_box_counts(text):
    assert JUDGE(text, TARGET).correct


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the cat",
        "[0, 0, 1, 1] [10, 10, 110, 60]",  # the first is another
        "[110, 60, 10, 10]",  # reversed
        "[110, 60, 10, 10] [10, 10, 110, 60]",  # and no second chance
        "[10, 10, 10, 60]",  # flat
        "[nan, 10, 110, 60] [10, 10, 110, 60]",
        "[-inf, -inf, inf, inf]",
        "[10, 10, 1e999, 60]",
        "[-1e308, -1e308, 1e308, 1e308]",
        f"[10, 10, {'9' * 5000}, 60]",
    ],
)
def test_degenerate_and_other_boxes_are_wrong(text):
    score = JUDGE(text, TARGET)
    assert (score.correct, score.reward) == (False, 0.0)
    assert 0 <= score.parts["iou"] < 0.5


def test_garbage_is_never_an_exception():
    rng = random.Random(0)
    words = [
        "[",
        "]",
        ",",
        " ",
        "1",
        "-",
        ".",
        "e",
        "nan",
        "inf",
        "9" * 400,
        "[1,2,3,4]",
        '{"bbox_2d":',
        "}",
        "\n",
        "é",
    ]
    words += ["\ud800", "\x00", "[10, 10, 110, 60", "1e308", "-1e308", "0x1", "1_0", "٣", "[[", "<|box_start|>"]
    read = 0
    for _ in range(20_000):
        score = JUDGE("".join(rng.choices(words, k=rng.randint(0, 24))), TARGET)
        assert score.reward == float(score.correct)
        assert math.isfinite(score.parts["iou"])
        read += score.answer is not None
    assert read > 1000


def test_hostile_text_is_judged_at_once():
    for text in ("[" * 100_000, "[1" + "1" * 100_000, "[" + " " * 100_000, "[1," * 50_000, "[1,1,1," + "1." * 50_000):
        assert not JUDGE(text, TARGET).correct


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match=r"reward.threshold must be in \(0, 1\], got"):
        BoxIoU(threshold)


@pytest.mark.parametrize("target", ["house", "[10, 10, 5, 5]"])
def test_a_target_that_is_no_box_is_refused(target):
    with pytest.raises(ValueError, match="a target must be a box"):
        JUDGE("[1, 2, 3, 4]", target)
