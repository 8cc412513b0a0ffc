"""label: how often does the cold-started model answer each training example right? (paper, 4.1)

Works shard by shard; a shard that is on disk is not sampled again. Memory is bounded by a shard. Several ranks answer
a part of every shard each, and the first one writes.
"""

import shutil
from pathlib import Path

import pandas as pd
from scipy.stats import beta

from dcsft import stopping
from dcsft.artefacts import write_table
from dcsft.generation.engine import Sampling
from dcsft.generation.rollouts import rollouts
from dcsft.models.vlm import VLM
from dcsft.records import Example, Label, Rollout
from dcsft.stages.runtime import Ledger, Runtime
from dcsft.tasks.task import Task, check_judge

LABELS, ROLLOUTS = "labels.parquet", "rollouts.parquet"
_SHARD = 256


def posterior_interval(num_correct: int, num_samples: int, level: float = 0.95) -> tuple[float, float]:
    """Equal-tailed interval of the pass rate's Beta posterior under Jeffreys' prior, Beta(1/2, 1/2).

    G = 8 says little about one example: 0 of 8 right is compatible with a pass rate of up to 0.26.
    """
    a, b = num_correct + 0.5, num_samples - num_correct + 0.5
    return float(beta.ppf((1 - level) / 2, a, b)), float(beta.ppf((1 + level) / 2, a, b))


def rollout_row(rollout: Rollout) -> dict[str, object]:
    """A rollout as a row of `rollouts.parquet`."""
    completion, score = rollout.completion, rollout.score
    return {
        "id": rollout.example_id,
        "sample": rollout.sample,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "num_tokens": len(completion.token_ids),
        "logp": completion.logp,
        "finished": completion.finished,
        "correct": score.correct,
        "reward": score.reward,
        "answer": score.answer,
    }


def label_row(example: Example, answers: list[Rollout]) -> dict[str, object]:
    """An example's row of `labels.parquet`; one whose answers cannot be judged has no difficulty."""
    judged = [rollout.score.correct for rollout in answers if rollout.score.correct is not None]
    label = Label(example.id, len(judged), sum(judged))
    low, high = posterior_interval(label.num_correct, label.num_samples)
    return {
        "id": example.id,
        "num_samples": label.num_samples,
        "num_correct": label.num_correct,
        "num_unjudged": len(answers) - len(judged),
        "difficulty": label.difficulty if judged else None,
        "pass_rate": label.pass_rate if judged else None,
        "pass_rate_low": low,
        "pass_rate_high": high,
        "target": example.target,
        "noisy": example.noisy,
    }


def read_labels(folder: Path) -> list[Label]:
    """The labels in a label stage's folder; examples without a judged answer are left out."""
    table = pd.read_parquet(folder / LABELS)
    table = table[table["num_samples"] > 0]
    return [
        Label(name, int(samples), None if pd.isna(correct) else int(correct))
        for name, samples, correct in zip(table["id"], table["num_samples"], table["num_correct"], strict=True)
    ]


def run(folder: Path, vlm: VLM, task: Task, num_samples: int, sampling: Sampling, runtime: Runtime) -> None:
    """Label the training split into `folder`."""
    examples = task.examples("train")
    check_judge(task, examples)
    vlm.model.requires_grad_(False)
    engine = runtime.engine(vlm)
    ranks, shards = runtime.ranks, folder / "shards"
    ledger = Ledger(folder, ranks)
    if ranks.first:
        shards.mkdir(exist_ok=True)

    def file(start: int, kind: str) -> Path:
        return shards / f"{start:08d}.{kind}.parquet"

    starts = range(0, len(examples), _SHARD)
    missing = ranks.agreed([start for start in starts if not file(start, "labels").exists()])
    labels = []
    with runtime.bar("label", len(examples)) as bar:
        for start in starts:
            some = examples[start : start + _SHARD]
            if start in missing:
                stopping.pause_point(ranks.agreed)
                groups = rollouts(task, engine, some, num_samples, sampling, ranks)
                if ranks.first:
                    rows = [rollout_row(rollout) for group in groups for rollout in group]
                    write_table(file(start, "rollouts"), pd.DataFrame(rows))
                    write_table(file(start, "labels"), pd.DataFrame(map(label_row, some, groups)))  # written last
                ledger.save(vlm.meter)
            if ranks.first:
                labels.append(pd.read_parquet(file(start, "labels")))
                easy, hard = (sum((table["difficulty"] == kind).sum() for table in labels) for kind in ("easy", "hard"))
                done = start + len(some)
                bar.advance(done, f"easy {easy / done:.0%}, hard {hard / done:.0%}")
    num_tokens = 0
    if ranks.first:
        write_table(folder / LABELS, pd.concat(labels, ignore_index=True))
        table = pd.concat([pd.read_parquet(file(start, "rollouts")) for start in starts], ignore_index=True)
        write_table(folder / ROLLOUTS, table)
        num_tokens = int(table["num_tokens"].sum())
    ledger.save(vlm.meter, tokens_generated=num_tokens)
    if ranks.first:
        shutil.rmtree(shards)
