"""The nouns that every other folder speaks of: frozen, small, free of torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dcsft.boxes import Frame

if TYPE_CHECKING:
    from PIL.Image import Image

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
Part = Literal["llm", "vision", "merger"]
PARTS: tuple[Part, ...] = ("llm", "vision", "merger")
"""What can be tuned: the language model, the vision tower, and the merger that joins them."""


@dataclass(frozen=True)
class Picture:
    """An image that is opened only when it is looked at.

    Example:
        Picture(id="icons-1/train/12", open=lambda: Image.new("RGB", (56, 56)))
    """

    id: str
    """Identity of the pixels: equal ids promise equal pixels, so features may be cached under it."""
    open: Callable[[], "Image"] = field(repr=False, compare=False)
    """Returns the RGB image."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `content` mixes text and pictures in reading order.

    Example:
        Message("user", (picture, "What is this?"))
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Example:
    """One row of a dataset.

    Example:
        Example(id="train/12", split="train", pictures=(picture,), target="house")
    """

    id: str
    """Unique within the task, over all splits; it seeds the example's sampling stream."""
    split: str
    pictures: tuple[Picture, ...]
    target: str
    """What SFT teaches and the judge compares with."""
    question: str | None = None
    """The question, where it differs from row to row."""
    options: tuple[str, ...] = ()
    """The options of a multiple-choice question, in order: "A" names the first; "" where its text is not known."""
    group: str | None = None
    """A part of the split that is reported on its own, e.g. "novel" or "seen" classes."""
    frame: Frame | None = None
    """The coordinates of the boxes in the target and in the answers, where they are boxes."""
    noisy: bool | None = None
    """Whether the target is known to be wrong (only synthetic data knows)."""


@dataclass(frozen=True)
class Score:
    """What the judge says of one answer."""

    correct: bool | None
    """None: this answer cannot be judged; dropped at labelling and counted, never silently wrong."""
    reward: float
    """What reinforcement learning maximises."""
    answer: str | None = None
    """What was read out of the text."""
    parts: dict[str, float] = field(default_factory=dict)
    """The reward's breakdown, e.g. {"iou": 0.62}."""


@dataclass(frozen=True)
class Completion:
    """One sampled or greedy answer."""

    token_ids: tuple[int, ...]
    """Every generated token, the end-of-turn token included when it was reached."""
    text: str
    logp: float
    """Sum of log pi(token) over `token_ids`, at the sampling temperature; natural logarithm."""
    finished: bool
    """False: cut at the token limit."""


@dataclass(frozen=True)
class Rollout:
    """A completion of one example and what the judge says of it."""

    example_id: str
    sample: int
    completion: Completion
    score: Score


@dataclass(frozen=True)
class Label:
    """How often the cold-started model answers an example right (DC-SFT, section 4.1)."""

    example_id: str
    num_samples: int
    """Judged samples; those that cannot be judged do not count."""
    num_correct: int | None
    """None: some but not all, how many is not known. The paper's release only says "medium"."""

    @property
    def difficulty(self) -> Difficulty:
        """Easy: all samples right. Hard: none. Medium: the rest."""
        if self.num_correct == self.num_samples:
            return "easy"
        return "hard" if self.num_correct == 0 else "medium"

    @property
    def pass_rate(self) -> float | None:
        """Share of judged samples that are right, in [0, 1]; None where it is not known."""
        return None if self.num_correct is None else self.num_correct / self.num_samples
