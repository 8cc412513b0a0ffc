"""Exact match of a short answer: the paper's rule for classification."""

from collections.abc import Sequence

from dcsft.records import Score
from dcsft.rewards.reward import Reward


class Exact(Reward):
    """Right when the whole answer is the target, ignoring case and surrounding space (DC-SFT, section 4.2).

    A trailing full stop counts as part of the answer: "house." is not "house". The paper's release takes full stops
    off both ends of answer and target, which is `strip="."`.

    Args:
        strip: characters at both ends that do not count either, once the space is gone.

    Example:
        >>> Exact()(" House ", "house").correct
        True
        >>> Exact(strip=".")("House.", "house").correct
        True
    """

    def __init__(self, strip: str = "") -> None:
        self._strip = strip

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        answer = text.strip().strip(self._strip)
        correct = answer.casefold() == target.strip().strip(self._strip).casefold()
        return Score(correct=correct, reward=float(correct), answer=answer)
