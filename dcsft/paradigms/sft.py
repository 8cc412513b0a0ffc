"""Supervised fine-tuning on the targets."""

from collections.abc import Sequence
from typing import Any

from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.fixed_answers import FixedAnswers
from dcsft.paradigms.paradigm import Item
from dcsft.records import Difficulty, Example
from dcsft.tasks.task import Task


class SFT(FixedAnswers):
    """Fine-tuning on each example's own target."""

    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        return [Item(example.id, task.prompt(example), tokenize_answer(policy, task.target(example)), difficulty)]
