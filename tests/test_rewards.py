"""The exact judge: what the paper counts as right in classification."""

import pytest

from dcsft.records import Score
from dcsft.rewards.exact import Exact


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("house", "house"),
        ("House", "house"),
        ("house", "HOUSE"),
        (" house\n", "house"),
        ("house", " house "),
        ("hot dog", "hot dog"),
        ("STRASSE", "straße"),  # casefold, not lower: ß folds to ss
    ],
)
def test_case_and_surrounding_space_do_not_matter(text: str, target: str) -> None:
    score = Exact()(text, target)
    assert (score.correct, score.reward) == (True, 1.0)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("house.", "house"),
        ("a house", "house"),
        ("house house", "house"),
        ("hous", "house"),
        ("houses", "house"),
        ("hot  dog", "hot dog"),
        ("hot_dog", "hot dog"),
        ("", "house"),
        (" \n", "house"),
    ],
)
def test_the_whole_answer_counts(text: str, target: str) -> None:
    score = Exact()(text, target)
    assert (score.correct, score.reward) == (False, 0.0)


@pytest.mark.parametrize(
    ("text", "target", "correct"),
    [
        ("House.", "house", True),
        (" ..house.. \n", "house", True),
        ("house", "house.", True),
        ("jack-o'-lantern.", "Jack-o'-Lantern", True),
        ("house .", "house", False),  # space is taken off first, once, as in the paper's release
        ("house!", "house", False),
        ("a house.", "house", False),
        (".", "house", False),
    ],
)
def test_full_stops_around_the_answer_do_not_matter_where_the_rule_says_so(text, target, correct) -> None:
    assert Exact(strip=".")(text, target).correct is correct


def test_the_answer_is_what_was_read_with_its_case() -> None:
    assert Exact()("  A House\n", "house") == Score(correct=False, reward=0.0, answer="A House", parts={})


@pytest.mark.parametrize("text", ["\x00", "\ud800", "é" * 10_000, "<|im_end|>", "1" * 5000])
def test_odd_model_output_is_wrong_and_no_crash(text: str) -> None:
    assert Exact()(text, "house").correct is False
