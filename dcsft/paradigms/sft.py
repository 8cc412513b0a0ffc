"""Supervised fine-tuning on the targets."""

from collections.abc import Sequence
from typing import Any

from dcsft.losses.cross_entropy import row_losses
from dcsft.models.render import FeatureSource, append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting
from dcsft.records import Difficulty, Example
from dcsft.tasks.task import Task


def num_tokens(items: Sequence[Item]) -> int:
    """Answer tokens of the items."""
    return sum(item.num_tokens for item in items)


def answer_loss(policy: VLM, items: Sequence[Item], batch: Sequence[Item], features: FeatureSource | None) -> LossTerm:
    """Mean cross-entropy over the answer tokens of the whole effective batch (DC-SFT, equation 1).

    Token-level mean: a long answer weighs more than a short one, as in the release (ms-swift) and in transformers.
    """
    prompts = render_prompts(policy, [item.messages for item in items], features)
    sequences = append_completions(policy, prompts, [item.answer_ids for item in items])
    losses = row_losses(*completion_logits(policy, sequences), num_rows=len(items))
    return LossTerm(losses.sum() / num_tokens(batch), losses.detach().tolist())


class SFT(Paradigm):
    """Fine-tuning on each example's own target."""

    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        return [Item(example.id, task.prompt(example), tokenize_answer(policy, task.target(example)), difficulty)]

    def begin(self, policy: VLM, batch: Sequence[Item], step: int, setting: Setting) -> Begun:
        return list(batch), {}

    def loss(
        self, policy: VLM, rows: Sequence[Item], batch: Sequence[Item], features: FeatureSource | None
    ) -> LossTerm:
        return answer_loss(policy, rows, batch, features)

    def weight(self, rows: Sequence[Item]) -> float:
        return num_tokens(rows)
