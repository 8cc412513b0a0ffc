"""Grounding on small data in the true formats: what is asked and taught, and each bad input in one line."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grounding_files import World, rectangle, write_jxu124, write_lisa, write_unc, write_vlm_r1
from grounding_files import write_world as write
from PIL import Image

from dcsft.boxes import Frame
from dcsft.config import CONF

SPLITS = ("cold_start", "train", "id", "ref_l4", "lisa")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> World:
    """Not to be changed."""
    return write(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(tmp_path) -> World:
    return write(tmp_path)


def refused(build_task, world: World, said: str, *overrides: str) -> None:
    """The task says it in one line, and this line is `said`, from its start to its end."""
    with pytest.raises(ValueError, match=said) as caught:
        build_task(["task=refcoco", *world.overrides, *overrides])
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)  # what to do next


def refcoco_from(folder: Path) -> str:
    return f"task.annotations.refcoco={folder}"


def test_rows_ask_and_teach_in_the_frame_of_the_model(shared, build_task):
    task = build_task(["task=refcoco", *shared.overrides])
    assert [len(task.examples(split)) for split in SPLITS] == [4, 8, 9, 3, 8]  # one row of Ref-L4 is COCO's
    drawn = {row.file: row for row in shared.val}
    for example in task.examples("id"):
        row = drawn[example.pictures[0].id.split("/")[-2]]
        # 64x48 and 48x64 become 56x56, 90x60 84x56, 120x120 112x112
        frame = {64: (56, 56), 48: (56, 56), 90: (84, 56), 120: (112, 112)}[row.width]
        assert example.frame == Frame(*frame)
        scaled = [v * f / s for v, f, s in zip(row.box, frame * 2, (row.width, row.height) * 2, strict=True)]
        assert json.loads(example.target) == pytest.approx(scaled, abs=0.0051)
        assert json.loads(task.target(example)) == [int(edge) for edge in scaled]
        phrase = row.phrases[int(example.id.removeprefix("id/")) % 10]
        assert example.question == (
            f"Please provide the bounding box coordinate of the region this sentence describes: {phrase}. "
            "Please provide the bounding box coordinate in JSON format."
        )
    assert task.dropped == {}


def test_questions_of_captions_and_whole_questions(shared, build_task):
    task = build_task(["task=refcoco", *shared.overrides])
    caption = task.examples("ref_l4")[0].question  # the caption's own full stop is not doubled
    assert "describes: On the grey ground, the green area. Please" in caption
    question = task.examples("lisa")[0].question  # the file's question is not put into another
    assert question.count("Please provide the bounding box coordinate of") == 1


def test_answer_request_and_frame_are_choices(shared, build_task):
    choices = ["task.request=''", "task.answer='{\"bbox_2d\": {box}}'", "model.boxes.frame=normalised"]
    task = build_task(["task=refcoco", *shared.overrides, *choices])
    example = task.examples("id")[0]
    assert example.frame == Frame(1000, 1000)
    assert example.question.endswith("describes: the green area.")
    taught = json.loads(task.target(example))["bbox_2d"]
    assert max(taught) > 500
    assert task.score(example, task.target(example)).parts["iou"] > 0.99


def test_pixel_limits_of_the_model_set_the_frame(shared, build_task):
    task = build_task(["task=refcoco", *shared.overrides, "model.max_pixels=6272"])  # 8 x 28 x 28
    frames = {example.frame for example in task.examples("id")}
    assert Frame(56, 56) in frames
    assert max(frame.width * frame.height for frame in frames) <= 6272


def test_training_takes_one_expression_a_picture_and_the_seed_draws_it(shared, build_task):
    def rows(*overrides: str) -> list[str]:
        task = build_task(["task=refcoco", *shared.overrides, *overrides])
        both = [*task.examples("cold_start"), *task.examples("train")]
        assert len({example.pictures[0].id for example in both}) == len(both) == 12
        return [example.id for example in both]

    assert rows() == rows()
    assert rows() != rows("seed=1")


def test_unc_and_parquet_are_the_same_rows(shared, build_task, tmp_path):
    other = write_jxu124(tmp_path, shared.train, shared.val)
    one = build_task(["task=refcoco", *shared.overrides])
    two = build_task(["task=refcoco", *shared.overrides, refcoco_from(other)])
    for split in SPLITS:
        assert list(one.examples(split)) == list(two.examples(split))
        assert one.identity(split) == two.identity(split)


def test_vlm_r1_has_the_same_questions_and_boxes(shared, build_task, tmp_path):
    other = write_vlm_r1(tmp_path, shared.train, shared.val)
    one = build_task(["task=refcoco", *shared.overrides])
    two = build_task(["task=refcoco", *shared.overrides, refcoco_from(other)])

    def asked(task, split):
        return [(row.question, row.target, row.pictures) for row in task.examples(split)]

    assert asked(one, "id") == asked(two, "id")
    assert len(two.examples("train")) == 8


def test_pictures_lie_in_the_root_or_in_its_folder(shared, build_task, tmp_path):
    flat = f"task.images.coco={shared.root / 'coco' / 'train2014'}"
    one, two = (build_task(["task=refcoco", *shared.overrides, *more]) for more in ([], [flat]))
    assert one.identity("train") == two.identity("train")


def test_an_ood_set_can_be_left_out(shared, build_task):
    without = [text for text in shared.overrides if "ref_l4" not in text and "objects365" not in text]
    task = build_task(["task=refcoco", *without, "task.ood=[lisa]"])
    assert task.tests == ("id", "lisa")


def test_what_determines_a_split_is_in_its_identity(shared, build_task):
    def keys(*overrides: str) -> dict[str, str]:
        task = build_task(["task=refcoco", *shared.overrides, *overrides])
        return {split: json.dumps(task.identity(split)) for split in SPLITS}

    before = keys()
    assert [split for split in SPLITS if keys("seed=1")[split] != before[split]] == ["cold_start", "train"]
    answer = keys("task.answer='at {box}'")
    assert [split for split in SPLITS if answer[split] != before[split]] == ["cold_start", "train"]
    assert all(keys("task.request='As JSON.'")[split] != before[split] for split in SPLITS)
    assert all(keys("model.boxes.frame=normalised")[split] != before[split] for split in SPLITS)


# --- rows that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "id"])
def test_a_box_too_small_for_whole_numbers_is_not_taught_but_asked(world, build_task, split):
    # [10.9, 10.9, 12.9, 12.9] of 112 x 112 pixels: cut to [10, 10, 12, 12] it overlaps by 1.1^2 / (8 - 1.1^2) = 0.18.
    size, path = (112, 112), world.root / "coco/train2014/COCO_train2014_000000000999.jpg"
    rectangle(path, size, (11, 11, 13, 13))
    row = (world.train if split == "train" else world.val)[0]
    folder = write_unc(world.root / "small", world.train, world.val)
    instances = json.loads((folder / "instances.json").read_text())
    for image in instances["images"]:
        if image["id"] == row.number:
            image |= {"file_name": path.name, "width": 112, "height": 112}
    for annotation in instances["annotations"]:
        if annotation["image_id"] == row.number:
            annotation["bbox"] = [10.9, 10.9, 2.0, 2.0]
    (folder / "instances.json").write_text(json.dumps(instances))
    everything = ["task.num_train=9"] if split == "train" else []  # 13 of the 14 pictures
    task = build_task(["task=refcoco", *world.overrides, refcoco_from(folder), *everything, "task.expected.id=9"])
    assert len(task.examples("id")) == 9
    if split == "train":
        assert task.dropped == {"train: box too small for whole numbers": 1}
        return
    assert task.dropped == {}
    (example, *_) = [example for example in task.examples("id") if f"/{path.name}/" in example.pictures[0].id]
    assert example.target == "[10.9, 10.9, 12.9, 12.9]"
    assert task.score(example, "[10.5, 10.5, 12.5, 12.5]").correct is False  # 1.6^2 / (8 - 1.6^2) = 0.47
    assert task.score(example, "[10.7, 10.7, 12.7, 12.7]").correct is True  # 1.8^2 / (8 - 1.8^2) = 0.68


def lisa_with_boxes(world: World, *boxes: list[float]) -> tuple[str, int]:
    """Hundreds of rows, of which the first have other boxes."""
    folder = write_lisa(world.root / "many", world.lisa * 100)
    rows = json.loads((folder / "lisa_test.json").read_text())
    for row, box in zip(rows, boxes, strict=False):
        row["solution"] = box
    (folder / "lisa_test.json").write_text(json.dumps(rows))
    return f"task.annotations.lisa={folder}", len(rows)


def test_a_test_set_keeps_boxes_that_overstep_the_picture_and_judges_what_is_in_it(world, build_task):
    width, height = world.lisa[0].width, world.lisa[0].height
    beyond, edge = [-5.0, 0.0, 1000.0, height / 2], [0.0, 0.0, width + 0.8, height / 2]
    option, number = lisa_with_boxes(world, beyond, edge)
    task = build_task(["task=refcoco", *world.overrides, option, f"task.expected.lisa={number}"])
    assert task.dropped == {}
    examples = task.examples("lisa")
    assert len(examples) == number
    for example in examples[:2]:  # the upper half of the picture
        frame = example.frame
        assert json.loads(example.target) == [0, 0, frame.width, frame.height / 2]


def test_boxes_without_a_part_in_their_picture_are_dropped_from_a_test_set_with_a_count(world, build_task):
    reversed_box, nan = [0.0, 0.0, 20.0, -0.9], [float("nan"), 0.0, 20.0, 20.0]
    option, number = lisa_with_boxes(world, [500.0, 0.0, 1000.0, 20.0], reversed_box, nan, [5.0, 5.0, 5.001, 9.0])
    task = build_task(["task=refcoco", *world.overrides, option])
    assert task.dropped == {"lisa: box outside its picture": 3, "lisa: box without area": 1}
    assert len(task.examples("lisa")) == number - 4
    said = rf"must have {number} expressions for lisa, got {number - 4} \(4 dropped: their boxes have no area in the "
    refused(build_task, world, said, option, f"task.expected.lisa={number}")


def test_a_missing_test_set_does_not_hide_the_others(world, build_task, monkeypatch):
    (world.root / "vlm_r1/lisa_test.json").unlink()
    words = ["task=refcoco", *world.overrides]
    with pytest.raises(ValueError, match="lisa"):
        build_task(words)
    monkeypatch.setattr("dcsft.stages.plan.require_counts", lambda task: None)  # as stage=check does
    task = build_task(words)
    assert set(task.missing) == {"lisa"}
    assert all(task.examples(split) for split in ("train", "id", "ref_l4"))
    with pytest.raises(ValueError, match=re.escape(task.missing["lisa"])):
        task.examples("lisa")


def test_a_box_outside_its_picture(world, build_task):
    rows = json.loads((world.root / "vlm_r1/lisa_test.json").read_text())
    rows[2]["solution"] = [0, 0, 500, 20]
    (world.root / "vlm_r1/lisa_test.json").write_text(json.dumps(rows))
    refused(
        build_task, world, r"boxes of lisa must be .* pixels of their pictures, got \[0.0, 0.0, 500.0, 20.0\] in one"
    )


def test_xywh_boxes_where_xyxy_is_expected(world, build_task, tmp_path):
    folder = write_jxu124(tmp_path / "xywh", world.train, world.val, xywh=True)
    said = r"must have boxes as \[x1, y1, x2, y2\], got .* in reference 1, whose annotation of \[x, y, width, height\]"
    refused(build_task, world, said, refcoco_from(folder))

    rows = json.loads((world.root / "vlm_r1/lisa_test.json").read_text())
    for row in rows:
        x1, y1, x2, y2 = row["solution"]
        row["solution"] = [x1 + 20, y1, x2 - x1 - 20, y2 - y1]
    (world.root / "vlm_r1/lisa_test.json").write_text(json.dumps(rows))
    refused(build_task, world, r"boxes of lisa must be .*; are they \[x, y, width, height\]\?$")


def test_xyxy_boxes_where_xywh_is_expected(world, build_task):
    area = {row.number: row.xywh[2] * row.xywh[3] for row in world.ref_l4}
    path = world.root / "ref_l4/ref-l4-val.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        x, y, width, height = row["bbox"]
        row |= {"bbox": [x, y, x + width, y + height], "bbox_area": area[row["id"]]}
    pq.write_table(pa.Table.from_pylist(rows), path)
    refused(
        build_task, world, r"task.annotations.ref_l4 must have boxes as \[x, y, width, height\], got .* in row 201; "
    )


class Evil:
    def __reduce__(self):
        return (print, ("the pickle ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps([Evil()]), r"\(it asks for builtins.print, which may run code\)"),
        (pickle.dumps([pd.Timestamp(0)]), r"which may run code\)"),
        (b"no pickle at all", "got another pickle"),
        (b"", "got another pickle"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "got another pickle"),
        (pickle.dumps([{"split": "train"}]), r"fields of the refer project .*KeyError"),
        (pickle.dumps(5), r"fields of the refer project .*TypeError"),
    ],
)
def test_an_untrusted_or_broken_pickle(world, build_task, capsys, content, said):
    (world.root / "unc/refs(unc).p").write_bytes(content)
    refused(build_task, world, said)
    assert "ran" not in capsys.readouterr().out


def test_references_without_their_instances(world, build_task):
    (world.root / "unc/instances.json").unlink()
    refused(build_task, world, r"must have instances.json, got none in")


def test_a_question_whose_picture_is_missing(world, build_task):
    for row in world.val[:2]:
        (world.root / "coco/train2014" / row.file).unlink()
    said = rf"task.images.coco must hold the pictures of id, got .* without 2 of them, the first .*{world.val[0].file}"
    refused(build_task, world, said)


def test_a_picture_that_is_none(world, build_task):
    (world.root / "lisa/test" / world.lisa[0].file).write_bytes(b"<html>404</html>")
    refused(build_task, world, r"the picture '.*' must be readable, got .*; download it again")


def test_pictures_that_were_resized_on_disk_are_refused_when_opened(world, build_task):
    for row in world.val:
        with Image.open(world.root / "coco/train2014" / row.file) as image:
            half = image.resize((row.width // 2, row.height // 2))
        half.save(world.root / "coco/train2014" / row.file)
    task = build_task(["task=refcoco", *world.overrides])
    with pytest.raises(ValueError, match=r"must have \d+x\d+ pixels as its annotation says, got \d+x\d+; "):
        task.examples("id")[0].pictures[0].open()


@pytest.mark.parametrize("annotated", ["as stored", "upright", "without a size"])
def test_a_picture_that_exif_turns_is_shown_in_the_frame_of_its_box(world, build_task, annotated):
    row = world.val[0]
    path = world.root / "coco/train2014" / row.file
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    with Image.open(path) as image:  # else stored so that the turn gives what is annotated
        stored = image.copy() if annotated == "as stored" else image.transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif, quality=95)
    other = write_vlm_r1(world.root / "r1", world.train, world.val)
    source = [refcoco_from(other)] if annotated == "without a size" else []
    task = build_task(["task=refcoco", *world.overrides, *source])
    example = next(one for one in task.examples("id") if f"/{row.file}/" in one.pictures[0].id)
    picture = example.pictures[0].open()
    assert picture.size == (row.width, row.height)
    x1, y1, x2, y2 = json.loads(example.target)
    scale = (row.width / example.frame.width, row.height / example.frame.height)
    for x, y in ((x1 + 4, y1 + 4), (x2 - 4, y2 - 4)):  # well within two corners of the green rectangle
        red, green, _ = picture.getpixel((int(x * scale[0]), int(y * scale[1])))
        assert green > red + 100


def test_a_folder_without_annotations(world, build_task, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(build_task, world, r"refcoco must be a folder with .* without these; ", refcoco_from(tmp_path / "empty"))


def test_a_parquet_with_other_columns(world, build_task, tmp_path):
    (tmp_path / "lmms").mkdir()
    for split in ("train", "validation"):
        pq.write_table(
            pa.table({"question": ["?"], "bbox": [[1.0, 2, 3, 4]]}), tmp_path / "lmms" / f"{split}-0.parquet"
        )
    refused(build_task, world, "must have the columns .*; it lacks ref_id", refcoco_from(tmp_path / "lmms"))


def test_a_jsonl_with_a_broken_line(world, build_task):
    path = write_vlm_r1(world.root / "r1", world.train, world.val) / "refcoco_train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:30], *lines[5:]]))
    refused(build_task, world, "must hold JSON in line 5 of refcoco_train.jsonl, got .*; ", refcoco_from(path.parent))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"image": "test/1.jpg", "problem": "?"},
            "must have image, problem and solution .* in row 1 of lisa_test.json",
        ),
        (
            {"image": "test/1.jpg", "problem": "?", "solution": [1, 2, 3]},
            r"must be four numbers, got \[1, 2, 3\] in row 1",
        ),
        ({"image": "test/1.jpg", "problem": "?", "solution": "here"}, "four numbers, got 'here' in row 1"),
        ("a row", "must have image, problem and solution .* got a row"),
    ],
)
def test_json_rows_of_another_kind(world, build_task, row, said):
    (world.root / "vlm_r1/lisa_test.json").write_text(json.dumps([row]))
    refused(build_task, world, said)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.annotations.refcoco=null"], r"task.annotations.refcoco must be a folder with .*, got None; set"),
        (["task.annotations.ref_l4=null"], r"task.annotations.ref_l4 must be .*, got None; set"),
        (["task.annotations.lisa=null"], r"task.annotations.lisa must be .*, got None; set"),
        (["task.images.lisa=null"], r"task.images.lisa must be a folder of pictures, got None; set"),
        (["task.images.coco=/no/where"], r"task.images.coco must be a folder of pictures, got '/no/where'; set"),
        (["task.annotations.lisa=/no/where"], r"task.annotations.lisa must .* got none in"),
        (
            ["task.annotations.refcoco=conf"],
            r"task.annotations.refcoco must be a folder with .*, a folder without these; ",
        ),
        (
            ["task.expected.train=16994"],
            r"must have 16994 pictures for train, got 14; task.expected.train=null",
        ),
        (["task.expected.id=10834"], r"must have 10834 expressions for id, got 9; task.expected.id=null"),
        (["task.expected.lisa=1658"], r"lisa must have 1658 expressions for lisa, got 8; task.expected.lisa=null"),
        (["task.num_train=20"], r"at most 14 pictures together, got 20 \+ 4; "),
        (["task.num_cold_start=0"], r"task.num_cold_start must be at least 1, got 0; "),
        (["task.question=Where?"], r"task.question must contain \{phrase\}, got 'Where\?'; "),
        (["task.answer=box"], r"task.answer must contain \{box\}, got 'box'; "),
        (["task.ood=[flickr]"], r"task.ood must be some of ref_l4, lisa, got \['flickr'\]; "),
        (["model.boxes=null"], r"model.boxes must say in which frame .* got None; "),
        (["model.boxes.frame=pixels"], r"model.boxes.frame must be resized or normalised, got 'pixels'; "),
    ],
)
def test_a_wrong_choice(shared, build_task, overrides, said):
    refused(build_task, shared, said, *overrides)


# --- the whole run -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_labels_trains_and_evaluates(world, tmp_path):
    """The tiny model has never seen a box: what counts is that every stage ends, and every answer is judged."""
    command = [sys.executable, "train.py", "task=refcoco", "model=tiny", "trainer=cpu", *world.overrides]
    small = ["subset=all", "train.steps=3", "max_new_tokens=24", "label.num_samples=4", f"outputs={tmp_path / 'out'}"]
    finished = subprocess.run([*command, *small], cwd=CONF.parent, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = next((tmp_path / "out/runs").iterdir())
    results = json.loads((run / "results.json").read_text())
    assert {name: split["n"] for name, split in results["splits"].items()} == {"id": 9, "ref_l4": 3, "lisa": 8}
    assert sum(results["difficulty"].values()) == 8
    assert results["difficulty"]["unjudged"] == 0
    scores = pd.read_parquet(run / "evaluate/scores.parquet")
    assert re.fullmatch(r"\[\d+\.?\d*(, \d+\.?\d*){3}\]", scores["target"][0])
    assert (run / "report/report.html").exists()
