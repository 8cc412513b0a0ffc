"""evaluate: greedy answers to every test set, judged by the task. Writes one row an example."""

from pathlib import Path

import pandas as pd

from dcsft import stopping
from dcsft.artefacts import write_table
from dcsft.generation.engine import Engine, Sampling
from dcsft.generation.rollouts import rollouts
from dcsft.models.vlm import VLM
from dcsft.ranks import Ranks
from dcsft.records import Example, Rollout
from dcsft.stages.runtime import Ledger, Runtime
from dcsft.tasks.task import Task

SCORES = "scores.parquet"
_SHARD = 512


def count_correct(task: Task, engine: Engine, split: str, sampling: Sampling, ranks: Ranks) -> tuple[int, int]:
    """Judged answers and right ones on one test set, of which each rank answers a part."""
    groups = rollouts(task, engine, task.examples(split), 1, sampling, ranks)
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
    ranks = runtime.ranks
    ledger = Ledger(folder, ranks)
    vlm.model.requires_grad_(False)
    engine = runtime.engine(vlm)
    examples = [example for split in task.tests for example in task.examples(split)]
    shards = {start: folder / f"{start:08d}.parquet" for start in range(0, len(examples), _SHARD)}
    missing = ranks.agreed([start for start, shard in shards.items() if not shard.exists()])
    tables, right = [], 0
    with runtime.bar("evaluate", len(examples)) as bar:
        for start, shard in shards.items():
            some = examples[start : start + _SHARD]
            if start in missing:
                stopping.pause_point(ranks.agreed)
                groups = rollouts(task, engine, some, 1, sampling, ranks)
                rows = [score_row(example, group[0]) for example, group in zip(some, groups, strict=True)]
                if ranks.first:
                    write_table(shard, pd.DataFrame(rows))
            if ranks.first:
                tables.append(pd.read_parquet(shard))
                right += int(tables[-1]["correct"].fillna(False).sum())
                bar.advance(start + len(some), f"right {right / (start + len(some)):.0%}")
    num_tokens = 0
    if ranks.first:
        scores = pd.concat(tables, ignore_index=True)
        write_table(folder / SCORES, scores)
        num_tokens = int(scores["num_tokens"].sum())
    ledger.save(vlm.meter, tokens_generated=num_tokens)
    if ranks.first:
        for shard in shards.values():
            shard.unlink()
