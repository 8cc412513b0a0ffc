"""train: post-train the cold-started model on the curated examples. Writes the adapter (LoRA) or the weights (full)."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dcsft.artefacts import write_json
from dcsft.data.subsets import Curation, select
from dcsft.generation.engine import Engine, Sampling
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Paradigm
from dcsft.ranks import Ranks
from dcsft.records import DIFFICULTIES, Label
from dcsft.stages.cold_start import schedule_of, setting_of
from dcsft.stages.curve import CURVE, accuracies
from dcsft.stages.evaluate import count_correct
from dcsft.stages.fitting import fit, forget_checkpoint
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task, check_judge

ADAPTER, MODEL, SUMMARY = "adapter", "model", "train.json"


def tune(vlm: VLM, tuning: dict, seed: int) -> None:
    """Make the parts that `tuning` names trainable."""
    if tuning["name"] == "lora":
        vlm.add_lora(tuning["r"], tuning["alpha"], tuning["dropout"], tuning["parts"], seed)
    else:
        vlm.tune_fully(tuning["parts"])


def run(
    folder: Path,
    vlm: VLM,
    task: Task,
    labels: list[Label],
    rollouts: Path,
    curation: Curation,
    paradigm: Paradigm,
    tuning: dict,
    settings: dict,
    max_new_tokens: int,
    evaluation: Sampling,
    runtime: Runtime,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Train `vlm` on the examples that `curation` selects; `rollouts` is the labelling's table of answers, which
    labels that were not sampled here do not have.

    Args:
        max_new_tokens: of a rollout.
        evaluation: how the test sets are answered on the way.
    """
    check_judge(task, task.examples("train"))
    chosen = select(labels, curation)
    examples = {example.id: example for example in task.examples("train")}
    answers = {label.example_id: [] for label in chosen}
    if rollouts.exists():
        answers |= {name: list(some.itertuples()) for name, some in pd.read_parquet(rollouts).groupby("id", sort=False)}
    rows = [
        paradigm.items(vlm, task, examples[label.example_id], label.difficulty, answers[label.example_id])
        for label in chosen
    ]
    items = [item for some in rows for item in some]
    num_dropped = sum(not some for some in rows)
    if not items:
        raise ValueError(f"the subset must hold rows to train on, got none from {len(chosen)} examples; see its labels")
    counts = Counter(item.difficulty for item in items)
    mixture = ", ".join(f"{counts[kind]} {kind}" for kind in DIFFICULTIES)
    dropped = f"; {num_dropped} examples dropped: no right answer" if num_dropped else ""
    runtime.console.print(f"train on {len(items)} rows: {mixture}{dropped}", highlight=False)
    tune(vlm, tuning, curation.seed)
    schedule = schedule_of(settings, len(items), paradigm.updates_per_batch)
    curve = _Curve(folder / CURVE, task, runtime.engine(vlm), evaluation, settings["eval_every"], runtime.ranks)

    def after_step(step: int, metrics: dict[str, float]) -> None:
        on_step(step, metrics | curve.after_step(step))

    fit(
        "train",
        vlm,
        paradigm,
        items,
        settings["batch_size"],
        schedule,
        curation.seed,
        settings["class_metrics_every"],
        setting_of(vlm, task, list(examples.values()), items, max_new_tokens, curation.seed, runtime),
        folder,
        runtime,
        after_step,
    )
    if not runtime.ranks.first:
        return
    vlm.save(folder / (ADAPTER if vlm.peft is not None else MODEL))
    write_json(
        folder / SUMMARY,
        {
            "steps": schedule.steps,
            "batch_size": settings["batch_size"],
            "examples": len(items),
            "dropped": num_dropped,
            "epochs": schedule.steps * settings["batch_size"] / paradigm.updates_per_batch / len(items),
            **{kind: counts[kind] for kind in DIFFICULTIES},
        },
    )
    forget_checkpoint(folder)


class _Curve:
    """Accuracy on every test set while training (Figure 3): rows of step, split, n, correct."""

    def __init__(
        self, path: Path, task: Task, engine: Engine, sampling: Sampling, every: int | None, ranks: Ranks
    ) -> None:
        self.path, self.task, self.engine, self.ranks = path, task, engine, ranks
        self.sampling, self.every = sampling, every
        self.rows: dict[tuple[int, str], dict[str, object]] = {}
        if every and path.exists():
            with path.open() as file:
                self.rows = {(int(row["step"]), row["split"]): row for row in csv.DictReader(file)}

    def after_step(self, step: int) -> dict[str, float]:
        """Evaluate if it is time; returns the accuracies. A step that a resumed run repeats gives the same again."""
        if not self.every or step % self.every:
            return {}
        for split in self.task.tests:
            n, correct = count_correct(self.task, self.engine, split, self.sampling, self.ranks)
            self.rows[step, split] = {"step": step, "split": split, "n": n, "correct": correct}
        if self.ranks.first:
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["step", "split", "n", "correct"])
                writer.writeheader()
                writer.writerows(self.rows.values())
            temporary.replace(self.path)
        return accuracies(row for (at, _), row in self.rows.items() if at == step)
