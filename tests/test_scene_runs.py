"""`python train.py` on the miniatures of grounding and multiple choice: from the cold start to the report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcsft.config import CONF

pytestmark = pytest.mark.slow

SMALL = (
    *("task.num_train=48", "task.num_cold_start=96", "task.num_test=64", "label.num_samples=4"),
    *("train.steps=4", "train.class_metrics_every=2"),
)


def results_of(outputs: Path, *overrides: str) -> dict:
    arguments = [sys.executable, "train.py", f"outputs={outputs}", *SMALL, *overrides]
    finished = subprocess.run(arguments, cwd=CONF.parent, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(Path(finished.stdout.strip().splitlines()[-1].removeprefix("results: ")).read_text())


@pytest.mark.parametrize(
    ("task", "tests", "chance"),
    [
        # A box drawn at random overlaps the true one by half about once in a hundred; a random icon is right in 1 of 3.
        ("icon_scenes", {"id", "novel", "reasoning"}, 0.33),
        ("icon_choice", {"id", "novel", "crowded"}, 0.33),
    ],
)
def test_a_run_learns_answers_far_above_chance(tmp_path: Path, task: str, tests: set[str], chance: float) -> None:
    results = results_of(tmp_path, f"task={task}", "subset=all")
    assert set(results["splits"]) == tests
    assert results["splits"]["id"]["low"] > chance
    assert sum(results["difficulty"].values()) == 48
    assert results["difficulty"]["easy"] > 0
    assert results["difficulty"]["hard"] > 0
    (page,) = (tmp_path / "runs").glob("*/report/*.html")
    assert "data:image/png;base64" in page.read_text()
