"""The contract of a judge."""

from abc import ABC, abstractmethod

from dcsft.records import Score


class Reward(ABC):
    """Compares a completion with the target. Deterministic; model output is never an exception, only wrong."""

    @abstractmethod
    def __call__(self, text: str, target: str) -> Score:
        """Judge the completion `text` of an example whose right answer is `target`."""
