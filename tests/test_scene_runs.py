"""`python train.py` on the miniatures of grounding and multiple choice: from the cold start to the report."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dcsft.config import CONF

pytestmark = pytest.mark.slow

SMALL = (
    *("task.num_train=24", "task.num_cold_start=16", "task.num_test=24", "label.num_samples=2"),
    *("train.steps=2", "train.class_metrics_every=2"),
)


def results_of(outputs: Path, *overrides: str) -> dict:
    arguments = [sys.executable, "train.py", f"outputs={outputs}", *SMALL, *overrides]
    finished = subprocess.run(arguments, cwd=CONF.parent, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(Path(finished.stdout.strip().splitlines()[-1].removeprefix("results: ")).read_text())


@pytest.mark.parametrize(
    ("task", "split", "chance"),
    # Of the three to five icons of a scene, any one; of three letters, any one.
    [("icon_scenes", "novel", 1 / 3), ("icon_choice", "crowded", 1 / 3)],
)
def test_the_shipped_model_is_above_chance_after_its_cold_start(
    tmp_path: Path, task: str, split: str, chance: float
) -> None:
    """Where all numbers are those of the yaml but for how many are asked; the bound is four standard errors above."""
    sizes = ("task.num_cold_start=400", "task.num_test=300")
    found = results_of(tmp_path, f"task={task}", "subset=none", *sizes)["splits"][split]
    assert found["n"] == 300
    assert found["accuracy"] > chance + 4 * math.sqrt(chance * (1 - chance) / 300)


FOUNDATION = (
    *("model.foundation.vision.steps=2", "model.foundation.language.steps=2"),
    "model.foundation.mix.num_pictures=64",
)


def test_a_run_goes_from_a_foundation_of_its_own_to_the_report(tmp_path: Path) -> None:
    """Two steps teach the foundation nothing; that each stage takes what the one before it made is what is seen."""
    results = results_of(tmp_path, "task=icon_scenes", "subset=all", "model.from_scratch=true", *FOUNDATION)
    tests = {split: found["n"] for split, found in results["splits"].items()}
    assert tests == dict.fromkeys(("id", "novel", "reasoning"), 24)
    assert sum(results["difficulty"].values()) == 24
    (page,) = (tmp_path / "runs").glob("*/report/*.html")
    assert "data:image/png;base64" in page.read_text()
