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
        repetition_penalty: logits of tokens that stand in the prompt or the answer so far are divided by it where they
            are positive and multiplied where they are negative (CTRL, arXiv 1909.05858, section 4.1); 1 is off.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    repetition_penalty: float = 1.0

    @classmethod
    def greedy(cls, max_new_tokens: int, repetition_penalty: float = 1.0) -> "Sampling":
        """The most likely token at every step: how everything is evaluated."""
        return cls(0.0, 1.0, 0, max_new_tokens, seed=0, repetition_penalty=repetition_penalty)


@dataclass(frozen=True)
class Request:
    """One conversation to be answered. `id` names its random streams: sample g draws from (seed, id, g)."""

    id: str
    messages: Sequence[Message]


class Diverged(ValueError):
    """The model gives no probabilities any more."""


class Engine(ABC):
    """Samples answers. A sample depends on the model, the sampling, its request's id and its number, and not on what
    else is in the batch (beyond float rounding)."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        """`n` completions of each request, in order."""
