"""SFT-RS: fine-tuning on the model's own right answers, rejection-sampled from the labelling's rollouts."""

from collections.abc import Sequence
from typing import Any

from dcsft.models.vlm import VLM
from dcsft.paradigms.fixed_answers import FixedAnswers
from dcsft.paradigms.paradigm import Item
from dcsft.records import Difficulty, Example
from dcsft.tasks.task import Task


class RejectionSampling(FixedAnswers):
    """The first `num_per_prompt` right completions of each example; an example without one is dropped and counted.

    Equal completions are taken once: a second copy would only weigh the example up.
    """

    def __init__(self, num_per_prompt: int) -> None:
        if num_per_prompt < 1:
            raise ValueError(f"paradigm.num_per_prompt must be at least 1, got {num_per_prompt}; 1 is usual")
        self.num_per_prompt = num_per_prompt

    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        right = [tuple(map(int, answer.token_ids)) for answer in answers if answer.correct is True and answer.finished]
        chosen = list(dict.fromkeys(right))[: self.num_per_prompt]
        return [
            Item(f"{example.id}#{number}" if number else example.id, task.prompt(example), ids, difficulty)
            for number, ids in enumerate(chosen)
        ]
