"""Exact match of a short answer: the paper's rule for classification."""

from collections.abc import Sequence

from dcsft.records import Score
from dcsft.rewards.reward import Reward


class Exact(Reward):
    """Right when the whole answer is the target, ignoring case and surrounding space (DC-SFT, section 4.2).

    A trailing full stop counts as part of the answer: "house." is not "house".

    Example:
        >>> Exact()(" House ", "house").correct
        True
    """

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        answer = text.strip()
        correct = answer.casefold() == target.strip().casefold()
        return Score(correct=correct, reward=float(correct), answer=answer)
