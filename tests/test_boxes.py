"""Boxes: frames, the round trip through a model's text, and the processor's own size."""

import math

import numpy as np
import pytest
from miniatures import FAMILIES
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from dcsft.boxes import Box, Frame, FrameRule, first_corners, has_area, iou, resized
from dcsft.models.vlm import VLM
from dcsft.seeding import stream

QWEN = dict(multiple=28, min_pixels=3136, max_pixels=802816)


@pytest.mark.parametrize(
    ("width", "height", "frame"),
    [
        (640, 480, Frame(644, 476)),  # 22.86 and 17.14 times 28, rounded
        (640, 427, Frame(644, 420)),
        (1024, 741, Frame(1036, 728)),
        (1920, 1080, Frame(1176, 672)),
        (4000, 3000, Frame(1008, 756)),
        (896, 896, Frame(896, 896)),
        (10, 10, Frame(56, 56)),  # too few pixels
    ],
)
def test_sizes_of_the_papers_setting(width, height, frame):
    assert resized(Frame(width, height), **QWEN) == frame


@pytest.mark.parametrize("limits", [(28, 3136, 802816), (28, 3136, 3136), (32, 65536, 802816), (28, 784, 12845056)])
def test_the_size_is_that_of_transformers(limits):
    rng = stream("sizes", *limits)
    sizes = [*np.exp(rng.uniform(0, 9, (4000, 2))).astype(int).tolist(), [14, 14], [42, 70], [28, 5600], [5600, 28]]
    compared = 0
    for width, height in sizes:
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(ValueError, match="at most 200 times as long as wide, got"):
                resized(Frame(width, height), *limits)
            continue
        down, across = smart_resize(height, width, *limits)
        assert resized(Frame(width, height), *limits) == Frame(across, down), (width, height)
        compared += 1
    assert compared > 3000


@pytest.mark.parametrize("size", [(640, 480), (30, 500), (333, 77), (56, 56), (1, 150), (200, 3)])
def test_the_tiny_models_processor_resizes_to_the_very_frame(shipped: VLM, size):
    rule = FrameRule("resized", multiple=28, min_pixels=3136, max_pixels=3136)  # conf/model/tiny.yaml
    assert _grid_frame(shipped, size) == rule(Frame(*size))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_processor_resizes_by_the_same_rule(miniatures_by_name, family):
    vlm, patch = miniatures_by_name[family], 16 if family == "qwen3_vl" else 14
    rule = FrameRule("resized", 2 * patch, 4 * patch**2, 196 * 4 * patch**2)
    for size in [(640, 480), (30, 500), (333, 77), (1200, 900)]:
        assert _grid_frame(vlm, size) == rule(Frame(*size))


def _grid_frame(vlm: VLM, size: tuple[int, int]) -> Frame:
    pictures = vlm.processor.image_processor
    _, down, across = pictures([Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0].tolist()
    return Frame(across * pictures.patch_size, down * pictures.patch_size)


def test_a_box_is_scaled_axis_by_axis():
    # 644 / 640 = 1.00625 across, 476 / 480 = 0.991667 down
    box = Box(320, 120, 640, 480, Frame(640, 480)).to(Frame(644, 476))
    assert box.corners == (322, 119, 644, 476)
    assert box.to(Frame(640, 480)).corners == (320, 120, 640, 480)
    assert box.to(Frame(1000, 1000)).corners == (500, 250, 1000, 1000)


def test_the_right_edge_stays_the_right_edge():
    for side in range(20, 2000):
        frame = resized(Frame(side, 300), **QWEN)
        assert Box(0, 0, side, 300, Frame(side, 300)).to(frame).whole() == f"[0, 0, {frame.width}, {frame.height}]"


def test_text_in_hundredths_and_in_whole_numbers_cut_off():
    box = Box(12.346, 0, 210.999, 388.1, Frame(640, 480))
    assert box.exact() == "[12.35, 0, 211.0, 388.1]"
    assert box.whole() == "[12, 0, 210, 388]"


@pytest.mark.parametrize(
    ("rule", "frame"),
    [
        (FrameRule("resized", 28, 3136, 802816), Frame(644, 476)),
        (FrameRule("normalised", None, None, None), Frame(1000, 1000)),
    ],
)
def test_which_frame_a_model_speaks(rule, frame):
    assert rule(Frame(640, 480)) == frame


def test_an_unknown_frame_is_refused():
    with pytest.raises(ValueError, match="frame must be resized or normalised, got 'pixels'"):
        FrameRule("pixels", 28, 1, 2)
    with pytest.raises(ValueError, match="multiple must be a number of pixels, got None"):
        FrameRule("resized", None, 1, 2)
    with pytest.raises(ValueError, match=r"model.max_pixels must be a number of pixels, got None"):
        FrameRule("resized", 28, 1, None)


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ('{"bbox_2d": [10, 20, 30.5, 40], "label": "cat"}', (10, 20, 30.5, 40)),
        ('```json\n[\n  {"bbox_2d": [1,2,\n3,4]}\n]\n```', (1, 2, 3, 4)),
        ("[[5, 6, 7, 8], [1, 2, 3, 4]]", (5, 6, 7, 8)),
        ("[1, 2, 3] then [1, 2, 3, 4, 5] then [-1, +2., .5, 1e2]", (-1, 2, 0.5, 100)),
        ("[9, 9, 1, 1] [1, 2, 3, 4]", (9, 9, 1, 1)),  # the first, though it is reversed
        ("no box", None),
        ("(1, 2, 3, 4)", None),
        ("[1, 2, 3, four]", None),
        ('["1", "2", "3", "4"]', None),
        ("[1 2 3 4]", None),
        ("[1, 2, 3, 4", None),
        ("[\u0661, 2, 3, 4]", None),  # an Arabic digit, which float() would take
    ],
)
def test_the_first_list_of_four_numbers_is_the_box(text, corners):
    assert first_corners(text) == corners


def test_numbers_that_are_none_are_read_and_have_no_area():
    for text in (
        "[nan, 0, 1, 1]",
        "[0, 0, inf, 1]",
        "[0, 0, Infinity, 1]",
        "[0, 0, 1e999, 1]",
        f"[0, 0, {'9' * 999}, 1]",
    ):
        corners = first_corners(text)
        assert corners is not None
        assert not has_area(corners)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),  # 50 of 100
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),  # 25 common, 100 + 100 - 25 in all
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch
        ((0, 0, 10, 10), (10, 10, 0, 0), 0.0),  # reversed
        ((0, 0, 10, 10), (3, 3, 3, 8), 0.0),  # flat
        ((0, 0, 10, 10), (-1e308, -1e308, 1e308, 1e308), 0.0),
        ((0, 0, 1e-300, 1e-300), (0, 0, 1e-300, 1e-300), 0.0),  # areas underflow to 0
    ],
)
def test_overlap_worked_by_hand(one, other, value):
    assert iou(one, other) == pytest.approx(value, abs=1e-12)
    assert iou(other, one) == iou(one, other)


def test_overlap_does_not_depend_on_the_frame():
    rng = stream("frames")
    for _ in range(200):
        boxes = [Box(x, y, x + w, y + h, Frame(640, 480)) for x, y, w, h in rng.uniform(1, 240, (2, 4)).tolist()]
        here, there = (iou(*(box.to(frame).corners for box in boxes)) for frame in (Frame(640, 480), Frame(1000, 1000)))
        assert math.isclose(here, there, abs_tol=1e-12)
