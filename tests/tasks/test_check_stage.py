"""stage=check on every task: what it shows of good data, and what it says of bad."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grounding_files
import pytest
import reasoning_data
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from rich.console import Console
from small_imagenet import SIZES, write_release, write_world
from test_contract import NAMES

from dcsft.config import CONF, register
from dcsft.models.render import render_prompts, tokenize_answer
from dcsft.models.token_counts import TokenCounts
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture
from dcsft.stages import check
from dcsft.stages.plan import SHIPPED_FOUNDATION

TINY = ("model=tiny", "trainer=cpu", "max_new_tokens=5")


def checked(tmp_path: Path, *overrides: str) -> tuple[str, str]:
    """What is shown, and what is wrong."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["stage=check", *overrides, f"outputs={tmp_path / 'outputs'}"])
    console = Console(record=True, width=140, quiet=False, file=(tmp_path / "shown.txt").open("w"))
    problems = ""
    try:
        check.run(cfg, console)
    except ValueError as error:
        problems = str(error)
    console.file.close()
    return console.export_text(), problems


@pytest.mark.parametrize("name", NAMES)
def test_good_data_are_shown_and_nothing_is_wrong(
    name: str, small_overrides: Callable[[str], list[str]], tmp_path: Path
) -> None:
    shown, problems = checked(tmp_path, *small_overrides(name), *TINY, "check.num_pictures=5", "check.num_prompts=1")
    assert problems == ""
    assert {"cold_start", "train", "id"} <= set(re.findall(r"^\w+", shown, re.MULTILINE))
    assert "rewards the examples' own targets" in shown
    assert re.search(r"tokens of this example: \d+ \+ \d+ of its target \(\d+ for pictures\)", shown)
    with Image.open(tmp_path / "outputs" / "check" / f"{name}.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(2**24)) > 50
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"check"}  # no store, no run


def test_damaged_pictures_and_strange_classes_of_a_folder(
    small_overrides: Callable[[str], list[str]], tmp_path: Path, write_picture: Callable[..., Path]
) -> None:
    overrides = small_overrides("folder")
    picture = write_picture(tmp_path / "train" / "cat" / "torn.jpg", "torn")
    picture.write_bytes(picture.read_bytes()[:300])
    write_picture(tmp_path / "test" / "zebra" / "0.png", "zebra")
    shown, problems = checked(tmp_path, *overrides)
    assert "1 examples dropped: train: cannot be read" in shown
    assert "2 classes in train: 4 each" in shown  # twelve, less a cold start of four, and the torn one never counted
    assert problems.splitlines() == [
        f"pictures must be readable, got 1 that are not and are left out: {picture}",
        "id must have the classes of train, got 1 it lacks: zebra",
    ]


def test_all_numbers_that_are_wrong_are_said_with_their_rule(tmp_path: Path) -> None:
    world = grounding_files.write_world(tmp_path / "grounding")
    wrong = ("task.expected.train=16994", "task.expected.id=10834", "task.expected.lisa=1658")
    shown, problems = checked(tmp_path, "task=refcoco", *world.overrides, *wrong, *TINY)
    assert "14 / 16,994 pictures ✗" in shown
    train, val, lisa = problems.splitlines()
    assert "got 14; task.expected.train=null takes what is there, the paper's are all pictures of UNC's train" in train
    assert val.endswith("the paper's are all of UNC's val")
    assert lisa.endswith("the paper's are VLM-R1's lisa_test.json in full")

    sources = reasoning_data.write_all(tmp_path / "reasoning")
    wrong = ("task.expected.mmmu_open=53", "task.expected.math_verse=2180")
    shown, problems = checked(tmp_path, "task=mmk12", *sources, *wrong, *TINY)
    assert "3 questions ✓, 3 / 53 open questions ✗" in shown
    mmmu, verse = problems.splitlines()
    assert mmmu.startswith("task.expected.mmmu_open must be the number of questions there, got 53 for 3; the paper's")
    assert "the multiple-choice problems of MathVerse's testmini in five versions" in verse


def imagenet(tmp_path: Path, **sizes: int) -> list[str]:
    root = write_world(tmp_path / "world")
    return ["task=imagenet", f"task.root={root}", *(f"task.{k}={v}" for k, v in (SIZES | sizes).items()), *TINY]


def test_pictures_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    overrides = imagenet(tmp_path, num_imagenet_a=3015)
    torn = sorted((tmp_path / "world" / "imagenet-r").glob("*/*"))[:5]
    for path in torn:
        path.write_bytes(path.read_bytes()[:200])
    shown, problems = checked(tmp_path, *overrides, "check.num_pictures=null", "check.num_prompts=1")
    assert re.search(r"imagenet_r +68 +68 pictures ✓ +all 68.*5 broken ✗", shown)
    assert "imagenet_a must have 3,015 pictures, got 87 in" in problems
    assert "it has every picture of the 87 single-word classes of ImageNet-A, trained or not" in problems
    unread = next(line for line in problems.splitlines() if line.startswith("pictures of imagenet_r must be readable"))
    assert "got 5 that are not among 68 opened: " in unread
    assert [str(path) in unread for path in torn] == [True, True, True, False, False]
    assert len(problems.splitlines()) == 2


def test_splits_that_are_missing_do_not_hide_the_others(tmp_path: Path) -> None:
    overrides = imagenet(tmp_path)
    shutil.rmtree(tmp_path / "world" / "imagenet-a")
    shutil.rmtree(tmp_path / "world" / "imagenet-r" / "n01498041")
    few = ("check.num_pictures=3", "check.num_prompts=1")
    shown, problems = checked(tmp_path, *overrides, *few)
    assert re.search(r"train +200 +200 pictures ✓", shown)
    assert re.search(r"id +100 +100 pictures ✓", shown)
    assert re.findall(r"(\w+) +missing ✗", shown) == ["imagenet_r", "imagenet_a"]
    assert "100 classes in train: 2 each" in shown
    assert "contact sheet: " in shown
    drawn, natural = problems.splitlines()
    assert "task.imagenet_r must have pictures of all 68 classes" in drawn
    assert "without 1 of them: n01498041 (stingray)" in drawn
    assert natural.startswith("task.root must have the folder DIR/imagenet-a, got ")

    shutil.rmtree(tmp_path / "world" / "train")  # what cold start and training share is missing once
    shown, problems = checked(tmp_path, *overrides, *few)
    assert re.findall(r"(\w+) +missing ✗", shown) == ["cold_start", "train", "imagenet_r", "imagenet_a"]
    assert re.search(r"id +100 +100 pictures ✓", shown)
    assert [line.split(",")[0] for line in problems.splitlines()] == [
        "task.root must have the folder DIR/train or DIR/ILSVRC/Data/CLS-LOC/train",
        "task.imagenet_r must have pictures of all 68 classes",
        "task.root must have the folder DIR/imagenet-a",
    ]

    sources = reasoning_data.write_all(tmp_path / "reasoning")
    shown, problems = checked(tmp_path, "task=mmk12", *sources, "task.sources.mmmu=/nowhere", *TINY)
    assert re.findall(r"(\w+) +missing ✗", shown) == ["mmmu"]
    assert re.search(r"id +3 +3 questions ✓", shown)
    assert "before training: task.targets must be a file of reasoned answers, or bare, with task=mmk12" in shown
    assert problems.startswith("task.sources.mmmu must be a folder or a dataset on the Hub, got '/nowhere'")
    assert len(problems.splitlines()) == 1


def test_the_labels_of_the_release_are_counted(tmp_path: Path) -> None:
    overrides = imagenet(tmp_path)
    counts = write_release(tmp_path / "release", tmp_path / "world")["qwen2_5_vl_3b"]
    release = [f"task.release={tmp_path / 'release'}", "label=release", "label.of_model=qwen2_5_vl_3b"]
    few = ("check.num_pictures=3", "check.num_prompts=1")
    shown, problems = checked(tmp_path, *overrides, *release, f"+label.counts={{qwen2_5_vl_3b: {counts}}}", *few)
    assert (problems, "labels of the release: 75 easy, 50 medium, 75 hard" in shown) == ("", True)


def test_a_prompt_that_leaves_no_room_for_its_answer(tmp_path: Path) -> None:
    icons = ("task.num_train=50", "task.num_cold_start=50", "task.num_test=50", "max_new_tokens=4090")
    shown, problems = checked(tmp_path, *icons)
    assert (
        "longest of 41 prompts: 37 + max_new_tokens 4,090 of the context of 4,096" in shown
    )  # 8 of each split and one
    assert problems.startswith("prompt and answer must fit the model's context, got 37 + max_new_tokens 4,090 of")


def test_without_the_models_processor_all_else_works(tmp_path: Path) -> None:
    icons = ("task.num_train=50", "task.num_cold_start=50", "task.num_test=50")
    shown, problems = checked(tmp_path, "model=qwen2_5_vl_3b", *icons)
    assert problems == ""
    said = "tokens: not counted; model.path must be a folder or a Hub id with a processor, got 'Qwen/Qwen2.5-VL-3B-Ins"
    assert said in shown
    assert "contact sheet: " in shown
    shown, problems = checked(tmp_path, "model.from_scratch=true", *icons)
    assert (problems, "tokens: not counted, as stage=foundation makes the processor" in shown) == ("", True)


def test_tokens_are_those_of_training(shipped: VLM, icon_picture: Callable[[int], Picture]) -> None:
    limits = shipped.processor.image_processor.size
    tokens = TokenCounts(SHIPPED_FOUNDATION, limits["shortest_edge"], limits["longest_edge"], None)
    messages = [Message("user", (icon_picture(1), "and", icon_picture(2), "What are these? 42"))]
    found = tokens.prompt(messages)
    assert found.total == render_prompts(shipped, [messages]).lengths[0]
    assert found.pictures == 2 * (4 + 2)  # four of a 56 x 56 picture, between two marks
    assert tokens.answer("a house") == len(tokenize_answer(shipped, "a house"))
    assert tokens.context_length == shipped.context_length


@pytest.mark.slow
def test_the_command_ends_with_an_error_where_something_is_wrong(
    small_overrides: Callable[[str], list[str]], tmp_path: Path
) -> None:
    folders = [word.removeprefix("+") for word in small_overrides("folder")]
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"no picture")
    command = [sys.executable, "train.py", "stage=check", "model.from_scratch=true", f"outputs={tmp_path / 'outputs'}"]
    wrong = subprocess.run([*command, *folders], cwd=CONF.parent, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("pictures must be readable, got 1 that are not and are left out: ")
    assert wrong.stderr.count("\n") == 1
