"""Examples to scored rollouts: the one function behind labelling, reward and accuracy."""

from collections.abc import Sequence

from dcsft.generation.engine import Engine, Request, Sampling
from dcsft.ranks import Ranks
from dcsft.records import Example, Rollout
from dcsft.tasks.task import Task


def rollouts(
    task: Task, engine: Engine, examples: Sequence[Example], n: int, sampling: Sampling, ranks: Ranks
) -> list[list[Rollout]]:
    """`n` completions of each example, judged by the task; in the order of `examples`. Each rank does a part."""
    mine = ranks.share(examples)
    requests = [Request(example.id, task.prompt(example)) for example in mine]
    answers = engine.generate(requests, n, sampling)
    judged = [
        [
            Rollout(example.id, sample, completion, task.score(example, completion.text))
            for sample, completion in enumerate(completions)
        ]
        for example, completions in zip(mine, answers, strict=True)
    ]
    return ranks.whole(judged)
