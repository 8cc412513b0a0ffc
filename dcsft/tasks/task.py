"""The contract of a task: examples, prompt, target, and the only judge."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dcsft.records import Example, Message, Score
from dcsft.rewards.reward import Reward

_CHECKED = 256


@dataclass(frozen=True)
class Count:
    """How much of a split is there, and how much should be.

    Example:
        Count("lisa", "expressions", 1657, 1658, "task.annotations.lisa must have 1658 expressions, got 1657; ...")
    """

    split: str
    unit: str
    there: int
    expected: int
    problem: str
    """What a user is told where the two differ: with the rule that the number comes from, and what to do."""

    @property
    def fits(self) -> bool:
        return self.there == self.expected


class Task(ABC):
    """A dataset with its prompt and its judge.

    Labelling, reward and evaluation all call `score`, so they cannot disagree on what is right.
    """

    def __init__(self, reward: Reward, question: str) -> None:
        self.reward = reward
        self.question = question
        self.missing: dict[str, str] = {}
        """Why a split cannot be had, by its name. A run refuses the task then; a check shows the others."""

    @contextmanager
    def _or_missing(self, *splits: str) -> Iterator[None]:
        """What cannot be loaded inside leaves `splits` missing, and does not keep the other splits back."""
        try:
            yield
        except ValueError as error:
            self.missing |= dict.fromkeys(splits, str(error))

    @property
    @abstractmethod
    def ood(self) -> tuple[str, ...]:
        """Names of the out-of-distribution splits, in the order of the tables."""

    @property
    def tests(self) -> tuple[str, ...]:
        """Every split that is evaluated: "id", then the OOD sets."""
        return ("id", *self.ood)

    @abstractmethod
    def examples(self, split: str) -> Sequence[Example]:
        """The rows of "cold_start", "train", "id" or one of `ood`.

        Raises:
            ValueError: the split does not exist or its data cannot be found.
        """

    @abstractmethod
    def identity(self, split: str) -> dict[str, object]:
        """Plain values that determine every row and pixel of a split, and nothing else.

        They enter the key of each stage that reads the split, so that a change of the test sets leaves the training
        where it is.
        """

    @property
    def dropped(self) -> dict[str, int]:
        """Rows of each split that could not be used, with the reason in the name; empty when all could."""
        return {}

    @property
    def counts(self) -> tuple[Count, ...]:
        """What is there against what must be; empty where any number is right."""
        return ()

    @property
    def origins(self) -> Mapping[str, str]:
        """Where the rows of each split come from, for people; empty where they are made here."""
        return {}

    @property
    def broken_files(self) -> tuple[str, ...]:
        """Pictures that were found damaged when the task was made, and are dropped."""
        return ()

    @property
    def classes(self) -> frozenset[str] | None:
        """The closed set of training targets, casefolded; None where answers are open."""
        return None

    def prompt(self, example: Example) -> list[Message]:
        """What the model sees: the pictures, then the question."""
        return [Message("user", (*example.pictures, example.question or self.question))]

    def target(self, example: Example) -> str:
        """What SFT teaches."""
        return example.target

    def score(self, example: Example, text: str) -> Score:
        """The judge."""
        return self.reward(text, example.target, example.options)


def data_problems(task: Task) -> list[str]:
    """One line a thing that is missing, or a number that is not as expected."""
    # Splits that share a source miss it for one reason.
    return [*dict.fromkeys(task.missing.values()), *(count.problem for count in task.counts if not count.fits)]


def require_counts(task: Task) -> None:
    """Nothing, if all that must be there is there.

    Raises:
        ValueError: one line a thing that is missing, or a number that is not as expected.
    """
    problems = data_problems(task)
    if problems:
        raise ValueError("\n".join(problems))


def check_judge(task: Task, examples: Sequence[Example]) -> None:
    """Try the judge on some examples before it decides over hours of work.

    Raises:
        ValueError: a target does not earn full reward, an empty answer earns some, or nothing can be judged.
    """
    judged = 0
    for example in examples[:_CHECKED]:
        right, empty = task.score(example, task.target(example)), task.score(example, "")
        if right.correct is None:
            continue  # labelling counts these
        judged += 1
        if not right.correct or empty.correct or empty.reward > 0 or right.reward <= 0:
            raise ValueError(
                f"the judge must reward an example's own target and no empty answer, got rewards {right.reward:g} and "
                f"{empty.reward:g} for {example.id} with the target {task.target(example)!r}; "
                f"look at {type(task.reward).__name__}"
            )
    if not judged:
        raise ValueError(f"the judge must be able to judge some of the training examples, got none of {len(examples)}")
