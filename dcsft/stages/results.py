"""results.json: what one run found, from the folders of its stages."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from dcsft.artefacts import Artefact
from dcsft.records import DIFFICULTIES
from dcsft.report.statistics import wilson
from dcsft.stages.plan import arm_name, plain
from dcsft.tasks.task import Task


def _accuracy(scores: pd.DataFrame) -> dict[str, Any]:
    """n judged, correct, accuracy and its 95 % Wilson interval."""
    judged = scores["correct"].dropna()
    n, correct = len(judged), int(judged.sum())
    low, high = wilson(correct, n) if n else (0.0, 1.0)
    accuracy = correct / n if n else None
    return {"n": n, "correct": correct, "accuracy": accuracy, "low": low, "high": high}


def _split(scores: pd.DataFrame, classes: frozenset[str] | None) -> dict[str, Any]:
    groups = {}
    for group, rows in scores.dropna(subset="group").groupby("group"):
        answers = rows["answer"].fillna("").str.casefold()
        into_id = float(answers.isin({name.casefold() for name in classes}).mean()) if classes else None
        groups[group] = {**_accuracy(rows), "into_id": into_id}
    return {**_accuracy(scores), "unjudged": int(scores["correct"].isna().sum()), "groups": groups}


def results_of(
    cfg: DictConfig, task: Task, artefacts: Mapping[str, Artefact], folders: Mapping[str, Path]
) -> dict[str, Any]:
    """Everything a table needs of one run; costs and keys stand under "stages"."""
    scores = pd.read_parquet(folders["evaluate"] / "scores.parquet")
    labels = pd.read_parquet(folders["label"] / "labels.parquet")
    summary = folders["train"] / "train.json" if "train" in folders else None
    return {
        "name": arm_name(cfg),
        "task": cfg.task["name"],
        "model": cfg.model.name,
        "subset": cfg.subset.name,
        "paradigm": cfg.paradigm["name"],
        "warm_start": bool(cfg.paradigm.get("warm_start_batches", 0)),
        "tuning": cfg.tuning.name,
        "hard_ratio": cfg.hard_ratio,
        "seeds": plain(cfg.seeds),
        "splits": {split: _split(scores[scores["split"] == split], task.classes) for split in task.tests},
        "difficulty": {
            **{kind: int((labels["difficulty"] == kind).sum()) for kind in DIFFICULTIES},
            "unjudged": int((labels["num_samples"] == 0).sum()),
        },
        "train": json.loads(summary.read_text()) if summary else None,
        "stages": {
            stage: {"key": artefacts[stage].key, **json.loads((folder / "cost.json").read_text())}
            for stage, folder in folders.items()
        },
        "dropped": dict(task.dropped),
    }
