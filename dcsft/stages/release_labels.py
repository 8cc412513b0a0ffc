"""label=release: the difficulty that the paper's release gives to its own training rows. No model is loaded.

The release says easy, medium or hard. Easy is `num_samples` right of as many, hard is none; how many of a medium
example's answers were right is not known, and is left out: no number is made up. There are no rollouts.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dcsft.artefacts import write_table
from dcsft.models.flops import Meter
from dcsft.records import Difficulty, Example
from dcsft.stages.label import LABELS, posterior_interval
from dcsft.stages.runtime import Ledger
from dcsft.tasks.task import Task


def label_row(example: Example, difficulty: Difficulty, num_samples: int) -> dict[str, object]:
    """An example's row of `labels.parquet`, with nothing for what is not known."""
    num_correct = {"easy": num_samples, "medium": None, "hard": 0}[difficulty]
    low, high = (None, None) if num_correct is None else posterior_interval(num_correct, num_samples)
    return {
        "id": example.id,
        "num_samples": num_samples,
        "num_correct": num_correct,
        "num_unjudged": 0,
        "difficulty": difficulty,
        "pass_rate": None if num_correct is None else num_correct / num_samples,
        "pass_rate_low": low,
        "pass_rate_high": high,
        "target": example.target,
        "noisy": example.noisy,
    }


def run(folder: Path, task: Task, difficulties: Mapping[str, Difficulty], num_samples: int) -> None:
    """Write the labels of the training split into `folder`; `difficulties` knows every example by its id."""
    ledger = Ledger(folder)
    rows = [label_row(example, difficulties[example.id], num_samples) for example in task.examples("train")]
    write_table(folder / LABELS, pd.DataFrame(rows).astype({"num_correct": "Int64"}))
    ledger.save(Meter())
