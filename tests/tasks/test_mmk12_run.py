"""`python train.py task=mmk12` from the cold start to the results, with the tiny model on small data."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import reasoning_data as data

from dcsft.config import CONF

pytestmark = pytest.mark.slow


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess:
    arguments = [
        "task=mmk12",
        "task.targets=bare",
        "model=tiny",
        "trainer=cpu",
        "max_new_tokens=5",
        f"outputs={outputs}",
        *overrides,
    ]
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=CONF.parent, capture_output=True, text=True, timeout=120
    )


def test_a_run_ends_with_its_results_and_counts_what_cannot_be_judged(tmp_path: Path) -> None:
    train = [dict(row) for row in data.MMK12_TRAIN[:10]]
    for row in train[:4]:
        row["answer"] = "See the figure."
    sources = data.write_all(tmp_path, {"mmk12": {"data/train-00000-of-00002": train}})
    small = [
        *sources,
        "train.steps=2",
        "train.batch_size=4",
        "subset=all",
        "label.num_samples=2",
        "task.num_train=null",
    ]
    finished = run(tmp_path / "outputs", *small, "task.num_cold_start=1")
    assert finished.returncode == 0, finished.stderr
    results = json.loads(Path(finished.stdout.strip().splitlines()[-1].removeprefix("results: ")).read_text())
    # Twenty questions, four of them without an answer; one is the cold start's.
    unjudged = results["difficulty"].pop("unjudged")
    assert unjudged in (3, 4)
    assert sum(results["difficulty"].values()) == 19 - unjudged == results["train"]["examples"]
    assert {split: found["n"] for split, found in results["splits"].items()} == {
        **{"id": 3, "mmmu": 6, "we_math": 3, "math_verse": 7, "math_vista": 4, "math_vision": 3}
    }
    (labels,) = (tmp_path / "outputs").glob("store/label/*/labels.parquet")
    unread = pd.read_parquet(labels).query("num_samples == 0")
    assert set(unread["target"]) == {"See the figure."}
    assert set(unread["num_unjudged"]) == {2}


def test_bad_input_gets_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sources = data.write_all(tmp_path)
    finished = run(tmp_path / "outputs", *sources, "task.expected.we_math=1740")
    assert finished.returncode != 0
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("task.expected.we_math must be the number of questions there, got 1740 for 3; ")
    assert not (tmp_path / "outputs").exists()
