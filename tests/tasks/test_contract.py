"""What every task promises, checked on the real configurations."""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dcsft.records import Example, Picture
from dcsft.tasks.task import Task

FOLDER = Path(__file__).parent
YAMLS = sorted((FOLDER.parents[1] / "conf" / "task").glob("*.yaml"))


def _has_code(path: Path) -> bool:
    """A yaml that only changes another one has the other's code."""
    task = OmegaConf.load(path)
    target = OmegaConf.select(task, "task._target_")
    if target is None:
        return all(_has_code(path.with_name(f"{base}.yaml")) for base in task.defaults if isinstance(base, str))
    return importlib.util.find_spec(target.rpartition(".")[0]) is not None


NAMES = [path.stem for path in YAMLS if _has_code(path)]


@pytest.fixture(params=NAMES)
def overrides(request: pytest.FixtureRequest, small_overrides: Callable[[str], list[str]]) -> list[str]:
    return small_overrides(request.param)


@pytest.fixture
def task(overrides: list[str], build_task: Callable[[list[str]], Task]) -> Task:
    return build_task(overrides)


def _rows(task: Task) -> dict[str, list[Example]]:
    return {split: list(task.examples(split)) for split in ("cold_start", "train", *task.tests)}


def _picture_ids(rows: list[Example]) -> set[str]:
    return {picture.id for example in rows for picture in example.pictures}


def test_the_tasks_of_the_miniature_are_among_those_checked() -> None:
    assert {"icons", "digits", "folder"} <= set(NAMES)


def test_every_split_has_rows_of_its_own(task: Task) -> None:
    rows = _rows(task)
    assert all(rows.values())
    assert all(example.split == split for split, examples in rows.items() for example in examples)
    ids = [example.id for examples in rows.values() for example in examples]
    assert len(ids) == len(set(ids))


def test_no_picture_is_in_two_of_cold_start_training_and_tests(task: Task) -> None:
    rows = _rows(task)
    cold_start, train = _picture_ids(rows["cold_start"]), _picture_ids(rows["train"])
    tests = _picture_ids([example for split in task.tests for example in rows[split]])
    assert not cold_start & train
    assert not (cold_start | train) & tests


def test_an_unknown_split_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'validation'; "):
        task.examples("validation")


def test_the_judge_accepts_the_target_and_no_empty_answer(task: Task) -> None:
    for examples in _rows(task).values():
        for example in examples:
            score = task.score(example, task.target(example))
            assert (score.correct, score.reward) == (True, 1.0)
            assert not task.score(example, "").correct
            assert task.score(example, task.target(example)) == score


def test_the_prompt_shows_the_pictures_and_asks(task: Task) -> None:
    for examples in _rows(task).values():
        content = [part for message in task.prompt(examples[0]) if message.role == "user" for part in message.content]
        assert {part for part in content if isinstance(part, Picture)} == set(examples[0].pictures)
        text = "".join(part for part in content if isinstance(part, str))
        assert text == re.sub(r"<image \d+>", "", examples[0].question or task.question)  # where a picture stands


def test_training_targets_are_the_classes(task: Task) -> None:
    if task.classes is not None:
        rows = _rows(task)
        assert {task.target(example).casefold() for example in rows["cold_start"] + rows["train"]} <= task.classes


def test_equal_picture_ids_are_equal_pixels(
    task: Task, overrides: list[str], build_task: Callable[[list[str]], Task]
) -> None:
    again = _rows(build_task(overrides))
    for split, examples in _rows(task).items():
        for one, other in list(zip(examples, again[split], strict=True))[:3]:
            assert one.id == other.id
            for picture, same in zip(one.pictures, other.pictures, strict=True):
                opened = picture.open()
                assert opened.mode == "RGB"
                assert picture.id == same.id
                assert opened.tobytes() == same.open().tobytes()
                assert opened.tobytes() == pickle.loads(pickle.dumps(picture)).open().tobytes()


def test_the_identity_of_a_split_is_plain_and_its_own(
    task: Task, overrides: list[str], build_task: Callable[[list[str]], Task]
) -> None:
    again = build_task(overrides)
    splits = ("cold_start", "train", *task.tests)
    texts = [json.dumps(task.identity(split), sort_keys=True) for split in splits]
    assert texts == [json.dumps(again.identity(split), sort_keys=True) for split in splits]
    assert len(set(texts)) == len(splits)


@pytest.mark.slow
def test_another_process_sees_the_same(task: Task, overrides: list[str]) -> None:
    code = "import sys, conftest; print(conftest.pixels_digest(conftest.build_task(sys.argv[1:])))"
    digests = {
        salt: subprocess.run(
            [sys.executable, "-c", code, *overrides],
            cwd=FOLDER,
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(FOLDER.parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert digests["1"] == digests["2"]
    assert len(digests["1"].strip()) == 64  # a sha256, and not nothing twice
