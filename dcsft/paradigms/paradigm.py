"""The contract of a paradigm, and the rows it works on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dcsft.models.render import FeatureSource
from dcsft.models.vlm import VLM
from dcsft.ranks import ALONE, Ranks
from dcsft.records import Completion, Difficulty, Example, Message
from dcsft.tasks.task import Task

# B rows


@dataclass(frozen=True)
class Item:
    """One training row: a conversation and the tokens of its answer."""

    id: str
    messages: Sequence[Message]
    answer_ids: Sequence[int]
    difficulty: Difficulty | None
    """None before labelling, as in the cold start."""
    sampled: Sequence[Completion] = ()
    """What the cold-started model answered while labelling, where the paradigm wants to know."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the loss is taken on."""
        return len(self.answer_ids)


@dataclass(frozen=True)
class Begun:
    """What a step's loss is taken on, and what there is to say of it."""

    rows: list[Any]
    """With `id`, `difficulty` and `num_tokens`, as `Item` has them."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tokens_generated: int = 0
    sample: Sequence[Mapping[str, Any]] = ()
    """Some completions of the step, for people to read: rows of plain values."""


@dataclass(frozen=True)
class LossTerm:
    """What one micro-batch adds to its batch's loss."""

    loss: Tensor | None
    """Scalar; the batch's loss is the sum over its micro-batches. None: exactly zero, no backward needed."""
    row_losses: Sequence[float]
    """[B] what each row adds to the numerator of its batch's loss."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What it adds to means over the batch, e.g. {"kl": 0.01}; they add up over micro-batches as the loss does."""


@dataclass(frozen=True)
class Setting:
    """What a paradigm may use besides the policy: the task's judge, its examples, and how to sample."""

    task: Task
    examples: Mapping[str, Example]
    items: Sequence[Item]
    """All training rows."""
    features: FeatureSource | None
    generation_batch_size: int
    decoding: str
    max_new_tokens: int
    seed: int
    ranks: Ranks = ALONE
    """Who shares the work of a step."""


class Paradigm(ABC):
    """Turns rows into a loss."""

    updates_per_batch: int = 1
    """Optimizer steps taken on one batch, and on what `begin` made of it."""

    @abstractmethod
    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        """The training rows of one example; none drops it, with a count.

        Args:
            answers: the example's rows of `rollouts.parquet`, from labelling.
        """

    @abstractmethod
    def begin(self, policy: VLM, batch: Sequence[Item], number: int, setting: Setting) -> Begun:
        """What the loss is taken on for the next `updates_per_batch` steps; `number` counts batches from 0.

        A function of the policy's weights and the arguments alone: a resumed run repeats it exactly. Every rank gets
        the whole batch and returns the whole of what was made of it.
        """

    @abstractmethod
    def loss(self, policy: VLM, rows: Sequence[Any], batch: Sequence[Any], features: FeatureSource | None) -> LossTerm:
        """The share of `rows` (a micro-batch) in the loss of `batch` (the effective batch it is cut from).

        The sum over micro-batches does not depend on how the batch was cut.
        """

    @abstractmethod
    def weight(self, rows: Sequence[Any]) -> float:
        """The denominator of the loss of `rows`: tokens, or completions."""

    def state(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """What a checkpoint between two updates on one batch must hold of `rows`: plain values and tensors."""
        raise NotImplementedError

    def restored(self, state: Sequence[Mapping[str, Any]], setting: Setting) -> list[Any]:
        """The rows of a `state`."""
        raise NotImplementedError
