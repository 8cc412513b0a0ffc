"""The judge is tried on a task's own targets before it decides over hours of work."""

import pytest

from dcsft.records import Example, Score
from dcsft.rewards.exact import Exact
from dcsft.tasks.task import check_judge


class Task:
    """What check_judge asks of a task; `score` is the reward's own."""

    def __init__(self, score):
        self.reward, self.score = Exact(), lambda example, text: score(text, example.target)

    def target(self, example):
        return example.target


EXAMPLES = [Example(f"train/{number}", "train", (), "house") for number in range(3)]


def test_an_honest_judge_passes():
    check_judge(Task(Exact()), EXAMPLES)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda text, target: Score(True, 1.0), "got rewards 1 and 1 for train/0 with the target 'house'"),
        (lambda text, target: Score(False, 0.0), "got rewards 0 and 0 for train/0"),
        (lambda text, target: Score(text == target, 0.5), "got rewards 0.5 and 0.5 for train/0"),
        (
            lambda text, target: Score(text == target, 1.0 if text == target else 0.9),
            "got rewards 1 and 0.9 for train/0",
        ),
        (lambda text, target: Score(None, 0.0), "must be able to judge some of the training examples, got none of 3"),
    ],
    ids=["all right", "all wrong", "constant reward", "something for nothing", "no verdict"],
)
def test_a_judge_that_cannot_tell_right_from_empty_is_refused(score, said):
    with pytest.raises(ValueError, match=said):
        check_judge(Task(score), EXAMPLES)


def test_examples_that_cannot_be_judged_are_left_to_labelling():
    def score(text, target):
        return Score(None, 0.0) if score.calls.pop() else Exact()(text, target)

    score.calls = [False, False, False, False, True, True]
    check_judge(Task(score), EXAMPLES)
