"""Cells made up for the tests of the report, with files as the stages write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dcsft.report.cells import Cell
from dcsft.report.sights import Sight, data_uri
from dcsft.report.statistics import wilson
from dcsft.seeding import stream

WORDS = ("house", "barn", "boat", "<script>alert(1)</script>", "tree & leaf", "50 % star")


def part(correct: int, n: int, unjudged: int = 0, **more: Any) -> dict[str, Any]:
    """One entry of results["splits"] or of its groups."""
    low, high = wilson(correct, n)
    return {"n": n, "unjudged": unjudged, "correct": correct, "accuracy": correct / n, "low": low, "high": high} | more


def stage(key: str, seconds: float, trained: int = 0, generated: int = 0) -> dict[str, Any]:
    return {
        "key": key,
        "seconds": seconds,
        "flops": 1e9 * seconds,
        "tokens_trained": trained,
        "tokens_generated": generated,
    }


def results(arm: str, seed: int, splits: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """results.json of an arm that was trained on 340 examples, unless `more` says otherwise."""
    train = {"steps": 25, "batch_size": 16, "examples": 340, "epochs": 1.18, "easy": 172, "medium": 168, "hard": 0}
    stages = {
        "cold_start": stage(f"c{seed}", 10.0, trained=1000),
        "label": stage(f"l{seed}", 5.0, generated=2000),
        "train": stage(f"t{arm}{seed}", 8.0, trained=3000),
        "evaluate": stage(f"e{arm}{seed}", 2.0, generated=500),
    }
    found = {
        "name": arm,
        "task": "icons",
        "model": "tiny",
        "subset": "em",
        "paradigm": "sft",
        "warm_start": False,
        "tuning": "lora",
        "hard_ratio": "natural",
        "seeds": {"data": seed, "cold_start": seed, "label": seed, "train": seed},
        "splits": splits,
        "difficulty": {"easy": 172, "medium": 168, "hard": 60, "unjudged": 0},
        "train": train,
        "stages": stages,
        "dropped": {},
    }
    return found | more


def cell(arm: str, seed: int, splits: dict[str, dict[str, Any]] | None = None, **more: Any) -> Cell:
    """A cell without files; without splits it is a missing one."""
    found = None if splits is None else results(arm, seed, splits, **more)
    command = f"python train.py subset='{arm}' seed={seed}"
    return Cell(arm, seed, command, found, scores=None, labels=None, rollouts=None, metrics=None, curve=None)


def write_scores(path: Path, correct: dict[str, list[bool | None]]) -> Path:
    """scores.parquet of some splits."""
    rows = [
        {"split": split, "id": f"{split}/{i}", "target": "house", "text": "x", "answer": "x", "correct": right}
        for split, answers in correct.items()
        for i, right in enumerate(answers)
    ]
    frame = pd.DataFrame(rows).assign(reward=0.0, group=None)
    frame["correct"] = frame["correct"].astype("boolean")
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    return path


def write_labels(folder: Path, seed: int, count: int = 400) -> tuple[Path, Path]:
    """labels.parquet and rollouts.parquet of `count` examples with eight answers each."""
    rng, labels, rollouts = stream("test-labels", seed), [], []
    for i in range(count):
        rate = rng.choice([0.0, 1.0, float(rng.random())], p=[0.15, 0.4, 0.45])
        right, target = rng.random(8) < rate, WORDS[i % len(WORDS)]
        name, num = f"train/{i}", int(right.sum())
        difficulty = "easy" if num == 8 else "hard" if num == 0 else "medium"
        low, high = wilson(num, 8)
        labels.append(
            {"id": name, "num_samples": 8, "num_correct": num, "num_unjudged": 0, "difficulty": difficulty}
            | {"pass_rate": num / 8, "pass_rate_low": low, "pass_rate_high": high}
            | {"noisy": bool(num == 0 and rng.random() < 0.2), "target": target}
        )
        for sample, hit in enumerate(right):
            text = target if hit else WORDS[(i + 1 + int(rng.integers(2))) % len(WORDS)]
            row = {"id": name, "sample": sample, "text": text, "correct": bool(hit), "reward": float(hit)}
            rollouts.append(row | {"answer": text, "num_tokens": 3, "finished": True})
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(labels).to_parquet(folder / "labels.parquet")
    pd.DataFrame(rollouts).to_parquet(folder / "rollouts.parquet")
    return folder / "labels.parquet", folder / "rollouts.parquet"


def write_metrics(path: Path, levels: dict[str, float], steps: int = 100) -> Path:
    """metrics.jsonl: a loss a step for each difficulty, a gradient norm every fourth."""
    rng, lines = stream("test-metrics", path), []
    for step in range(1, steps + 1):
        line: dict[str, float] = {"step": step, "loss": 1.0, "grad_norm": 1.0, "lr": 1e-4}
        for name, start in levels.items():
            value = start * (0.4 + 0.6 * np.exp(-step / 30)) * np.exp(rng.normal(0, 0.25))
            line[f"loss/{name}"] = float(value)
            if step % 4 == 0:
                line[f"grad_norm/{name}"] = float(1.2 * value * np.exp(rng.normal(0, 0.2)))
        lines.append(json.dumps(line))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def sights(cell: Cell, answers: dict[str, list[str]]) -> dict[str, Sight]:
    """A small picture for every id but the first."""
    found = {}
    for name in list(answers)[1:]:
        pixels = stream("test-picture", name).integers(60, 255, (7, 7, 3)).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((56, 56), Image.Resampling.BILINEAR)
        found[name] = Sight(data_uri(picture), None)
    return found


ARMS = {
    # arm: (subset, hard ratio, accuracies on id, ood_r, ood_a, share of novel pictures answered with a training word)
    "Cold start": ("all", "natural", 0.708, 0.628, 0.382, 0.078),
    "Easy": ("easy", "natural", 0.717, 0.614, 0.367, 0.114),
    "Medium": ("medium", "natural", 0.825, 0.630, 0.366, 0.138),
    "Hard": ("hard", "natural", 0.736, 0.561, 0.340, 0.193),
    "SFT": ("all", "natural", 0.846, 0.608, 0.359, 0.208),
    "SFT-M": ("medium", "natural", 0.860, 0.603, 0.342, 0.247),
    "SFT-EM": ("em", "natural", 0.851, 0.627, 0.355, 0.195),
    "SFT-EM, hard 5 %": ("all", 0.05, 0.850, 0.619, 0.361, 0.2),
    "GRPO": ("all", "natural", 0.847, 0.622, 0.350, 0.212),
}


def sweep(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), missing: int = 2, n: int = 1500) -> list[Cell]:
    """A sweep like the paper's Tables 1 and 2, with files; the last `missing` cells are not computed."""
    cells = []
    for seed in seeds:
        labels, rollouts = write_labels(folder / f"label{seed}", seed)
        for arm, (subset, ratio, *levels, into_id) in ARMS.items():
            rng, splits, answers = stream("test-sweep", arm, seed), {}, {}
            for split, level in zip(("id", "ood_r", "ood_a"), levels, strict=True):
                difficulty = stream("test-items", split).random(n)
                right = difficulty + rng.normal(0, 0.15, n) < level + rng.normal(0, 0.006)
                answers[split] = right.tolist()
                half = {"novel": right[: 2 * n // 3], "seen": right[2 * n // 3 :]}
                groups = {k: part(int(v.sum()), len(v), into_id=into_id) for k, v in half.items()}
                splits[split] = part(int(right.sum()), n, groups={} if split == "id" else groups)
            where = folder / f"{list(ARMS).index(arm)}-{seed}"
            mixture = {"easy": [172, 0, 0], "medium": [0, 168, 0], "hard": [0, 0, 60], "em": [172, 168, 0]}
            counts = mixture.get(subset, [172, 168, 60 if ratio == "natural" else 18])
            names = ("easy", "medium", "hard")
            held = {name: start for name, start, c in zip(names, (0.1, 0.9, 2.6), counts, strict=True) if c}
            train = {"steps": 100, "batch_size": 16, "examples": sum(counts), "epochs": 1600 / sum(counts)}
            more: dict[str, Any] = {"subset": subset, "hard_ratio": ratio, "paradigm": arm.lower()}
            more["paradigm"] = "grpo" if arm == "GRPO" else "sft"
            more["train"] = None if arm == "Cold start" else train | dict(zip(names, counts, strict=True))
            found = results(arm, seed, splits, **more)
            metrics = None
            if arm == "Cold start":
                found["stages"].pop("train")
            else:
                metrics = write_metrics(where / "metrics.jsonl", held)
            scores = write_scores(where / "scores.parquet", answers)
            command = f"python train.py task=icons subset={subset} hard_ratio={ratio} seed={seed}"
            cells.append(Cell(arm, seed, command, found, scores, labels, rollouts, metrics, curve=None))
    for i in range(len(cells) - missing, len(cells)):
        old = cells[i]
        cells[i] = Cell(old.arm, old.seed, old.command, None, None, None, None, None, None)
    return cells


def write_curve(path: Path, start: float, end: float) -> Path:
    """curve.csv of three splits at six steps."""
    lines = ["step,split,n,correct"]
    for step in range(0, 101, 20):
        for split, sign in (("id", 1), ("ood_r", -0.5), ("ood_a", -0.3)):
            value = start + sign * (end - start) * step / 100
            lines.append(f"{step},{split},1000,{round(1000 * value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
