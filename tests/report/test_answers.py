"""What a page shows of examples: the same draw every time, small pictures, and which arm is right where."""

import dataclasses
from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image
from synthetic_cells import cell, part, write_scores

from dcsft.report.answers import IN_ALL, shown_tests
from dcsft.report.sights import LONGEST_PX, data_uri, shrunk
from dcsft.seeding import stream


def arm(name, seed, tmp_path, correct):
    scores = write_scores(tmp_path / f"{name}{seed}.parquet", correct)
    return dataclasses.replace(cell(name, seed, {"id": part(1, 2, groups={})}), scores=scores)


def test_examples_that_divide_the_arms_come_first_and_each_test_set_has_its_share(tmp_path):
    ours = {"id": [True] * 60, "ood_r": [True] * 60}
    theirs = {"id": [True] * 58 + [False] * 2, "ood_r": [None] + [True] * 59}
    found = shown_tests([arm("SFT", 0, tmp_path, ours), arm("SFT-M", 0, tmp_path, theirs)], None)
    assert found.arms == ("SFT", "SFT-M")
    assert [example.split for example in found.examples] == ["ID"] * (IN_ALL // 2) + ["OOD-R"] * (IN_ALL // 2)
    assert {example.id for example in found.examples if example.divided} == {"id/58", "id/59", "ood_r/0"}
    assert [example.divided for example in found.examples[:3]] == [True, True, False]
    unjudged = next(example for example in found.examples if example.id == "ood_r/0")
    assert [answer.correct for answer in unjudged.answers] == [True, None]


def test_only_one_seed_is_shown(tmp_path):
    cells = [arm("SFT", seed, tmp_path, {"id": [True]}) for seed in (2, 1)]
    found = shown_tests([*cells, arm("SFT-M", 2, tmp_path, {"id": [False]})], None)
    assert (found.seed, found.arms) == (1, ("SFT",))
    assert shown_tests([cell("SFT", 0, {"id": part(1, 2, groups={})})], None) is None


def test_a_photograph_is_sent_small_and_a_drawing_exact():
    photo = Image.fromarray(stream("photo").integers(0, 255, (480, 640, 3)).astype(np.uint8))
    assert shrunk(photo).size == (LONGEST_PX, 240)
    assert data_uri(shrunk(photo)).startswith("data:image/jpeg;base64,")
    drawing = Image.new("RGB", (56, 56), (10, 200, 30))
    uri = data_uri(shrunk(drawing))
    assert uri.startswith("data:image/png;base64,")
    back = Image.open(BytesIO(b64decode(uri.partition(",")[2])))
    assert back.tobytes() == drawing.tobytes()
