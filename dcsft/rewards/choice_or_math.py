"""The judge of data that mixes multiple choice and free-form answers: a row's options say which rule holds."""

from collections.abc import Sequence

from dcsft.records import Score
from dcsft.rewards.choice import Choice
from dcsft.rewards.math_answer import MathAnswer
from dcsft.rewards.reward import Reward


class ChoiceOrMath(Reward):
    """`Choice` where the row has options, `MathAnswer` where it has none.

    Example:
        >>> ChoiceOrMath()("The answer is B.", "B", ("12", "24")).correct
        True
    """

    def __init__(self) -> None:
        self.choice, self.math = Choice(), MathAnswer()

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        judge = self.choice if options else self.math
        return judge(text, target, options)
