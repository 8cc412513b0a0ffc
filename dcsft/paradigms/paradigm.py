"""The contract of a paradigm."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dcsft.models.render import FeatureSource
from dcsft.models.vlm import VLM
from dcsft.records import Difficulty, Message

# B rows


@dataclass(frozen=True)
class Item:
    """One training row: a conversation and the tokens of its answer."""

    id: str
    messages: Sequence[Message]
    answer_ids: Sequence[int]
    difficulty: Difficulty | None
    """None before labelling, as in the cold start."""


@dataclass(frozen=True)
class LossTerm:
    """What one micro-batch adds to its batch's loss."""

    loss: Tensor
    """Scalar; the batch's loss is the sum over its micro-batches."""
    row_losses: Tensor
    """[B] each row's own loss, detached, summed over its tokens."""


class Paradigm(ABC):
    """Turns rows into a loss."""

    @abstractmethod
    def loss(
        self, policy: VLM, items: Sequence[Item], batch: Sequence[Item], features: FeatureSource | None
    ) -> LossTerm:
        """The share of `items` (a micro-batch) in the loss of `batch` (the effective batch it is cut from).

        The sum over micro-batches does not depend on how the batch was cut.
        """
