"""evaluate: greedy answers to every test set, judged by the task. Writes one row an example."""

from pathlib import Path

import pandas as pd

from dcsft import stopping
from dcsft.artefacts import write_table
from dcsft.generation.engine import Engine, Sampling
from dcsft.generation.rollouts import rollouts
from dcsft.models.vlm import VLM
from dcsft.records import Example, Rollout
from dcsft.stages.runtime import Ledger, Runtime
from dcsft.tasks.task import Task

SCORES = "scores.parquet"
_SHARD = 512


def count_correct(task: Task, engine: Engine, split: str, sampling: Sampling) -> tuple[int, int]:
    """Judged answers and right ones on one test set."""
    groups = rollouts(task, engine, task.examples(split), 1, sampling)
    judged = [group[0].score.correct for group in groups if group[0].score.correct is not None]
    return len(judged), sum(judged)


def score_row(example: Example, answer: Rollout) -> dict[str, object]:
    """An example's row of `scores.parquet`."""
    return {
        "split": example.split,
        "id": example.id,
        "target": example.target,
        "text": answer.completion.text,
        "answer": answer.score.answer,
        "correct": answer.score.correct,
        "reward": answer.score.reward,
        "group": example.group,
        "num_tokens": len(answer.completion.token_ids),
        "finished": answer.completion.finished,
    }


def run(folder: Path, vlm: VLM, task: Task, sampling: Sampling, runtime: Runtime) -> None:
    """Evaluate `vlm` on every test set of `task` into `folder`; shards that are on disk are not answered again."""
    ledger = Ledger(folder)
    vlm.model.requires_grad_(False)
    engine = runtime.engine(vlm)
    examples = [example for split in task.tests for example in task.examples(split)]
    tables, right = [], 0
    with runtime.bar("evaluate", len(examples)) as bar:
        for start in range(0, len(examples), _SHARD):
            some = examples[start : start + _SHARD]
            shard = folder / f"{start:08d}.parquet"
            if not shard.exists():
                stopping.pause_point()
                groups = rollouts(task, engine, some, 1, sampling)
                rows = [score_row(example, group[0]) for example, group in zip(some, groups, strict=True)]
                write_table(shard, pd.DataFrame(rows))
            tables.append(pd.read_parquet(shard))
            right += int(tables[-1]["correct"].fillna(False).sum())
            bar.advance(start + len(some), f"right {right / (start + len(some)):.0%}")
    scores = pd.concat(tables, ignore_index=True)
    write_table(folder / SCORES, scores)
    ledger.save(vlm.meter, tokens_generated=int(scores["num_tokens"].sum()))
    for start in range(0, len(examples), _SHARD):
        (folder / f"{start:08d}.parquet").unlink()
