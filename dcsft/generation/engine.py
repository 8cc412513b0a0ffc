"""The contract of an engine: conversations in, completions out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from dcsft.records import Completion, Message


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 is off.
        top_k: 0 is off.
        max_new_tokens: an answer is cut there.
        seed: of the random streams.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int

    @classmethod
    def greedy(cls, max_new_tokens: int) -> "Sampling":
        """The most likely token at every step: how everything is evaluated."""
        return cls(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=max_new_tokens, seed=0)


@dataclass(frozen=True)
class Request:
    """One conversation to be answered. `id` names its random streams: sample g draws from (seed, id, g)."""

    id: str
    messages: Sequence[Message]


class Engine(ABC):
    """Samples answers. A sample depends on the model, the sampling, its request's id and its number, and not on what
    else is in the batch (beyond float rounding)."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        """`n` completions of each request, in order."""
