"""Multiple-choice questions over scenes: counting and comparing icons."""

from dataclasses import dataclass
from string import ascii_uppercase

from numpy.random import Generator

from dcsft.tasks.phrases import Phrase
from dcsft.tasks.scenes import Scene

KINDS = ("count", "count_colour", "largest", "smallest")
NUM_OPTIONS = 3
CLEAR_SIZE_PX = 3
"""The largest icon is so much larger than the others."""


@dataclass(frozen=True)
class Quiz:
    """A question with its options in the order of their letters."""

    question: str
    options: tuple[str, ...]
    right: int

    @property
    def letters(self) -> str:
        return ascii_uppercase[: len(self.options)]

    @property
    def letter(self) -> str:
        """The right one."""
        return self.letters[self.right]

    def text(self, template: str) -> str:
        """As it is asked: the template with the question, then an option a line."""
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join([template.replace("{question}", self.question), *lines])


def _shuffled(rng: Generator, question: str, options: list[str], right: str) -> Quiz:
    order = [options[i] for i in rng.permutation(len(options))]
    return Quiz(question, tuple(order), order.index(right))


def _counting(rng: Generator, scene: Scene, by_colour: bool) -> Quiz:
    seen = [icon.colour if by_colour else icon.name for icon in scene]
    what = sorted(set(seen))[int(rng.integers(len(set(seen))))]
    count = seen.count(what)
    least = max(1, count - int(rng.integers(NUM_OPTIONS)))  # the right number is the least, the middle or the most
    options = [str(number) for number in range(least, least + NUM_OPTIONS)]
    question = f"How many icons are {what}?" if by_colour else f"How many times is the {what} shown?"
    return _shuffled(rng, question, options, str(count))


def _comparing(rng: Generator, scene: Scene, largest: bool) -> Quiz | None:
    """Among three icons that their class names; None where there are not so many, or two are nearly of a size."""
    named = [icon for icon in scene if Phrase(icon.name).named(scene) == icon]
    if len(named) < NUM_OPTIONS:
        return None
    asked = [named[i] for i in rng.choice(len(named), NUM_OPTIONS, replace=False)]
    first, second, *_ = sorted(asked, key=lambda icon: icon.size_px, reverse=largest)
    if abs(first.size_px - second.size_px) < CLEAR_SIZE_PX:
        return None
    question = f"Which is the {'largest' if largest else 'smallest'}?"
    return _shuffled(rng, question, [f"the {icon.name}" for icon in asked], f"the {first.name}")


def draw_quiz(rng: Generator, scene: Scene, kind: str) -> Quiz | None:
    """A question of a kind; None where the scene does not allow it."""
    if kind not in KINDS:
        raise ValueError(f"a kind of quiz must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind in ("count", "count_colour"):
        return _counting(rng, scene, by_colour=kind == "count_colour")
    return _comparing(rng, scene, largest=kind == "largest")
