"""What a report is made of: one cell per arm and seed, with the files its stages wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASELINE = "Cold start"
"""The arm that every other one starts from and is compared with."""
EQUAL_SIZE = ("Easy", "Medium", "Hard", "Random")
"""The arms of Table 1: equally many examples, and fewer steps than the others."""
REFERENCES = (BASELINE, "Medium", "SFT")
"""The arms that paired differences are taken against, where they are present."""


def comparable(arm: str, reference: str) -> bool:
    """Whether the two arms differ in their examples and not in their budget; everything compares with the baseline."""
    if arm in (reference, BASELINE):
        return False
    return reference == BASELINE or (arm in EQUAL_SIZE) == (reference in EQUAL_SIZE)


@dataclass(frozen=True)
class Cell:
    """One run of one arm; every file is None while it is missing.

    Example:
        Cell(arm="SFT-EM", seed=0, command="python train.py subset=em", results=None, scores=None, ...)
    """

    arm: str
    """Row name; several cells of one arm differ in seed."""
    seed: int
    command: str
    """Computes this cell."""
    results: dict[str, Any] | None
    """results.json: accuracy per split, difficulty counts, training and cost."""
    scores: Path | None
    """scores.parquet: a row per test example: split, id, target, text, answer, correct, reward, group."""
    labels: Path | None
    """labels.parquet: a row per training example: id, num_samples, num_correct, difficulty, pass_rate, ..."""
    rollouts: Path | None
    """rollouts.parquet: a row per sampled answer of labelling."""
    metrics: Path | None
    """metrics.jsonl: a JSON object per training step; None for the baseline."""
    curve: Path | None
    """curve.csv: step, split, n, correct; None unless the run was evaluated on its way."""
    completions: Path | None = None
    """completions.jsonl: some completions of each step; None unless training samples."""


def finished(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have results."""
    return [cell for cell in cells if cell.results is not None]


def missing(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have none yet."""
    return [cell for cell in cells if cell.results is None]


def by_arm(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Finished cells per arm, arms in order of first appearance, cells in order of seed."""
    arms: dict[str, list[Cell]] = {}
    for cell in finished(cells):
        arms.setdefault(cell.arm, []).append(cell)
    return {arm: sorted(group, key=lambda cell: cell.seed) for arm, group in arms.items()}


def split_names(cells: Sequence[Cell]) -> list[str]:
    """Every split of any finished cell, in order of first appearance."""
    return list(dict.fromkeys(split for cell in cells if cell.results is not None for split in cell.results["splits"]))


def split_title(split: str) -> str:
    """How a split is written: "id" -> "ID", "ood_r" -> "OOD-R"; other names stay as they are."""
    return split.upper().replace("_", "-") if split == "id" or split.startswith("ood_") else split


def label_files(cells: Sequence[Cell]) -> dict[Path, int]:
    """Every distinct labels.parquet with the smallest seed that uses it, in order of seed."""
    files: dict[Path, int] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        if cell.labels is not None:
            files.setdefault(cell.labels, cell.seed)
    return files
