"""The contract of a paradigm, and the rows it works on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dcsft.models.render import FeatureSource
from dcsft.models.vlm import VLM
from dcsft.records import Difficulty, Example, Message
from dcsft.tasks.task import Task

# B rows

Begun = tuple[list[Any], dict[str, float]]
"""The rows that a step's loss is taken on, and what to log of them."""


@dataclass(frozen=True)
class Item:
    """One training row: a conversation and the tokens of its answer."""

    id: str
    messages: Sequence[Message]
    answer_ids: Sequence[int]
    difficulty: Difficulty | None
    """None before labelling, as in the cold start."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the loss is taken on."""
        return len(self.answer_ids)


@dataclass(frozen=True)
class LossTerm:
    """What one micro-batch adds to its batch's loss."""

    loss: Tensor | None
    """Scalar; the batch's loss is the sum over its micro-batches. None: exactly zero, no backward needed."""
    row_losses: Sequence[float]
    """[B] what each row adds to the numerator of its batch's loss."""


@dataclass(frozen=True)
class Setting:
    """What a paradigm may use besides the policy: the task's judge, its examples, and how to sample."""

    task: Task
    examples: Mapping[str, Example]
    features: FeatureSource | None
    generation_batch_size: int
    decoding: str
    max_new_tokens: int
    seed: int


class Paradigm(ABC):
    """Turns rows into a loss."""

    @abstractmethod
    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        """The training rows of one example; none drops it, with a count.

        Args:
            answers: the example's rows of `rollouts.parquet`, from labelling.
        """

    @abstractmethod
    def begin(self, policy: VLM, batch: Sequence[Item], step: int, setting: Setting) -> Begun:
        """What the loss of one step is taken on, and what to log of it.

        A function of the policy's weights and the arguments alone: a resumed run repeats it exactly.

        Returns:
            Rows with `id`, `difficulty` and `num_tokens`, as `Item` has them.
        """

    @abstractmethod
    def loss(self, policy: VLM, rows: Sequence[Any], batch: Sequence[Any], features: FeatureSource | None) -> LossTerm:
        """The share of `rows` (a micro-batch) in the loss of `batch` (the effective batch it is cut from).

        The sum over micro-batches does not depend on how the batch was cut.
        """

    @abstractmethod
    def weight(self, rows: Sequence[Any]) -> float:
        """The denominator of the loss of `rows`: tokens, or completions."""
