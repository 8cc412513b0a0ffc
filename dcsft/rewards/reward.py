"""The contract of a judge."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dcsft.records import Score


class Reward(ABC):
    """Compares a completion with the target. Deterministic; model output is never an exception, only wrong."""

    @abstractmethod
    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        """Judge the completion `text` of an example whose right answer is `target`, out of `options` if it has any."""
