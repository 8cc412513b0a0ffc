"""A teacher's verified answers, from a real server: kept, counted, resumed; and labels that a server gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from tiny_server import NAME, TinyServer

from dcsft.config import CONF, register
from dcsft.generation.client import Client
from dcsft.generation.engine import Sampling
from dcsft.models.vlm import VLM
from dcsft.records import Example, Score
from dcsft.stages import distill, label
from dcsft.stages.asking import Asked, client_of
from dcsft.stages.plan import build_task, plain
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task

ROOT = CONF.parent
ICONS = ("task.num_train=24", "task.num_cold_start=8", "task.num_test=8")
SETTINGS = dict(splits=["cold_start", "train"], num_samples=3, temperature=0.9, max_new_tokens=8, system=None)


def settings_of(url: str) -> dict:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["engine=server", f"engine.url={url}", f"engine.model={NAME}", "engine.backoff_s=0.02"])
    return plain(cfg.engine)


def client(server: TinyServer) -> Client:
    return client_of(settings_of(server.url), None)


@pytest.fixture(scope="module")
def task() -> Task:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_task(compose("config", list(ICONS)))


def runtime(folder: Path, server: Asked | None = None) -> Runtime:
    return Runtime("cpu", 4, 16, 1, "tree", folder / "features", 0.0, 1, Console(quiet=True), server)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(folder: Path, task: Task, server: TinyServer, **changed) -> None:
    folder.mkdir(exist_ok=True)
    distill.run(folder, task, client(server), SETTINGS | changed, 0, [2.0, 10.0], Console(quiet=True))


@pytest.fixture(scope="module")
def undisturbed(running_server, task, tmp_path_factory) -> Path:
    running_server.behave()
    folder = tmp_path_factory.mktemp("distilled")
    run(folder, task, running_server)
    return folder


def test_labels_from_a_server_are_those_of_the_local_engine(server, shipped, task, tmp_path):
    asked = Asked(settings_of(server.url), tmp_path, "vllm serve HERE")
    for name, engine in {"local": None, "server": asked}.items():
        (tmp_path / name).mkdir()
        model = VLM(shipped.model, shipped.processor)
        label.run(tmp_path / name, model, task, 2, Sampling.greedy(8), runtime(tmp_path, engine))
    ours, theirs = (pd.read_parquet(tmp_path / name / label.LABELS) for name in ("local", "server"))
    assert 0 < ours["num_correct"].sum() < 2 * len(ours)
    pd.testing.assert_frame_equal(ours, theirs)
    ours, theirs = (pd.read_parquet(tmp_path / name / label.ROLLOUTS) for name in ("local", "server"))
    pd.testing.assert_frame_equal(ours.drop(columns="logp"), theirs.drop(columns="logp"))
    assert theirs["logp"].isna().all()  # not known, and not guessed


def test_answers_that_verify_are_kept_and_the_rest_is_asked_again(undisturbed, task):
    examples = {example.id: example for split in ("cold_start", "train") for example in task.examples(split)}
    targets, answers = read(undisturbed / distill.TARGETS), read(undisturbed / distill.ANSWERS)
    assert 0 < len(targets) < len(examples) == 32
    assert [row["id"] for row in targets] == [name for name in examples if name in {row["id"] for row in targets}]
    for row in targets:
        assert task.score(examples[row["id"]], row["text"]).correct
    table = pd.DataFrame(answers).sort_values(["id", "sample"])
    for name, tries in table.groupby("id"):
        right = list(tries["correct"])
        assert list(tries["sample"]) == list(range(len(tries)))
        assert not any(right[:-1])
        assert right[-1] or len(tries) == 3, name
    summary = json.loads((undisturbed / distill.SUMMARY).read_text())
    assert summary["questions"] == 32
    assert summary["verified"] == len(targets)
    assert summary["answers"] == len(answers)
    assert summary["tokens_in"] == 37 * len(answers)
    said = distill.sentence(undisturbed, [2.0, 10.0])
    assert said.startswith(f"{len(targets)} of 32 questions have a verified answer")
    assert said.endswith(f"train on them: task.targets={undisturbed / distill.TARGETS}")


def test_a_line_that_was_cut_is_asked_again(undisturbed, server, task, tmp_path):
    lines = (undisturbed / distill.ANSWERS).read_bytes().splitlines(keepends=True)
    (tmp_path / distill.ANSWERS).write_bytes(b"".join(lines[:10]) + lines[10][:25])
    run(tmp_path, task, server)
    assert (tmp_path / distill.TARGETS).read_text() == (undisturbed / distill.TARGETS).read_text()
    assert len(server.requests) == len(lines) - 10


def test_whole_answers_only_and_reasoning_is_put_back(server, task, tmp_path):
    class Yes(type(task)):  # everything is right
        def __init__(self) -> None:
            self.__dict__ |= task.__dict__

        def score(self, example: Example, text: str) -> Score:
            return Score(True, 1.0, text)

    with pytest.raises(ValueError, match="the teacher must answer some questions right, got none of 8"):
        run(tmp_path, Yes(), server, splits=["cold_start"], max_new_tokens=1, num_samples=1)
    server.behave(message={"reasoning_content": " It has a roof.\n", "content": "\nhouse"})
    run(tmp_path / "more", Yes(), server, splits=["cold_start"], num_samples=1, system="Think.")
    texts = {row["text"] for row in read(tmp_path / "more" / distill.TARGETS)}
    assert texts == {"<think>\nIt has a roof.\n</think>\n\nhouse"}


def test_a_question_that_cannot_be_judged_is_asked_once(server, task, tmp_path):
    class Perhaps(type(task)):
        def __init__(self) -> None:
            self.__dict__ |= task.__dict__

        def score(self, example: Example, text: str) -> Score:
            return Score(None if example.id.endswith("3") else True, 1.0, text)

    run(tmp_path, Perhaps(), server, splits=["cold_start"])
    assert len(server.requests) == 8
    assert "1 cannot be judged" in distill.sentence(tmp_path, None)


def test_a_refused_question_is_counted_and_a_server_that_refuses_all_ends_the_run(server, task, tmp_path):
    server.behave({"status": 400}, {"status": 400})
    run(tmp_path, task, server)
    assert "2 were refused by the server" in distill.sentence(tmp_path, None)
    server.behave(text_only=True)
    with pytest.raises(ValueError, match=r"it must take pictures"):
        run(tmp_path / "none", task, server)
    assert (tmp_path / "none" / distill.ANSWERS).read_text() == ""


def command(outputs: Path, url: str) -> list[str]:
    words = (f"outputs={outputs}", "stage=distill", "engine=server", f"engine.url={url}", f"engine.model={NAME}")
    sizes = ("distill.num_samples=3", "distill.max_new_tokens=8", "engine.concurrency=2")
    return [sys.executable, "train.py", *words, *sizes, *ICONS]


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_never_killed(undisturbed, server, tmp_path):
    server.behave(sleep=0.1)
    process = subprocess.Popen(command(tmp_path, server.url), cwd=ROOT, stdout=subprocess.DEVNULL)
    partial = tmp_path / "store" / "distill"
    while process.poll() is None and not any(path.stat().st_size > 1500 for path in partial.glob("*/answers.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(partial.glob("*.partial"))
    server.behave()
    finished = subprocess.run(
        command(tmp_path, server.url), cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert finished.returncode == 0, finished.stderr
    (targets,) = partial.glob("*/targets.jsonl")
    assert targets.read_text() == (undisturbed / distill.TARGETS).read_text()
    assert finished.stdout.strip().endswith(f"train on them: task.targets={targets}")
    assert len(server.requests) < len(read(undisturbed / distill.ANSWERS))
