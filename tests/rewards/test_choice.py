"""The letter extractor: what it reads, what it refuses to guess, and how long it may take."""

import random
import time

import pytest

from dcsft.rewards.choice import Choice, read_letters
from dcsft.rewards.final_answer import declared, last_box

FIVE = ("",) * 5  # letters without texts: A to E
TEXTS = ("red", "dark red", "blue", "12", "120")


def read(text: str, options: tuple[str, ...] = FIVE) -> str:
    return "".join(sorted(read_letters(text, options)))


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        # nothing but the letter
        ("B", "B"), ("b", "B"), ("(b)", "B"), ("B.", "B"), (" **B**\n", "B"), ("$B$", "B"), ("(B)", "B"), ("[B]", "B"),
        # the last box, in all its clothes
        (r"\boxed{B}", "B"), (r"\boxed{\text{B}}", "B"), (r"$\boxed{\textbf{(B)}\ 12}$", "B"),
        (r"\boxed{A}, no, \boxed{C}", "C"), (r"\boxed{\boxed{C}}", "C"), (r"\boxed{B} because A is wrong", "B"),
        (r"The answer is A. \boxed{C}", "C"), (r"\boxed{B. 12}", "B"), (r"\boxed{\frac{1}{2}} The answer is B.", "B"),
        # the last answer block, and nothing outside of it
        ("<think>The answer is A</think><answer>C</answer>", "C"), ("<answer>A</answer> <answer>C</answer>", "C"),
        ("The answer is A <answer>B. 12</answer>", "B"), (r"<answer>\boxed{A}</answer>", "A"), ("<answer>C", "C"),
        ("<answer>Option B</answer>", "B"), ("<ANSWER> d </ANSWER>", "D"), ("<answer></answer> The answer is B", ""),
        # a thought is no answer, ended or not
        ("A it is</think>B", "B"), ("<think>The answer is A", ""), ("B <think> or rather C", "B"),
        ("<think><answer>A</answer></think>", ""),
        # an explicit phrase; the last one counts
        ("The answer is B because A is wrong", "B"), ("The answer is A. No wait, the answer is C.", "C"),
        ("the correct option is (d)", "D"), ("**Answer:** B", "B"), ("Answer: $B$", "B"), ("Answer:\nB", "B"),
        ("Final answer: option D.", "D"), ("ANSWER: D", "D"), ("Answer:C", "C"), ("The answer would be C, maybe", "C"),
        (r"The answer is $\mathrm{D}$.", "D"), ("The answer is **(C) 12**", "C"), ("So the answer is: C", "C"),
        ("答案是B", "B"), ("故选：C", "C"), ("答案：D。", "D"),
        # leading or trailing, set apart
        ("C. 12", "C"), ("C) 12 cm", "C"), ("(C) it is", "C"), ("D\n\nBecause it is", "D"), ("### Answer\nC", "C"),
        ("so B", "B"), ("Therefore, (C).", "C"), ("... hence it must be (C)", "C"), ("That gives 12.\nB", "B"),
        # several letters
        ("A, C", "AC"), ("A and C", "AC"), ("A\nC", "AC"), ("The answers are A and C.", "AC"),
        ("The answer is B, C is wrong.", "B"),
    ],
)  # fmt: skip
def test_a_letter_is_read(text: str, letters: str) -> None:
    assert read(text) == letters


@pytest.mark.parametrize(
    "text",
    [
        "", " \n", "...", "I do not know.",
        # known misfires of public extractors
        "answer is because", "The answer is because of the slope", "The answer is a triangle", "the answer is c.",
        "A triangle has three sides", "The patient lacks vitamin C.", "The current is 2 A", "I = 2 A.", "20 °C",
        "The answer is E = mc^2", "Answer: B-52", "the answer is A's", "The answer is A'", "A.5", "AB", "A2",
        "Option A is wrong.", "the answer is not A", "A or B", "The answer is A or B", "The answer is A/B",
        # an option that the question does not have
        "F", "The answer is F", r"\boxed{Z}", "The answer is I think",
        # all options are spelt out
        "A. 12\nB. 13\nC. 14", "<answer>(A) 12 and (B) 13</answer>",
        # a box or a thought that was cut
        r"\boxed{", r"\boxed{B", r"\boxed{\text{B}",
    ],
)  # fmt: skip
def test_where_nothing_says_it_nothing_is_guessed(text: str) -> None:
    assert read(text) == ""
    assert Choice()(text, "B", FIVE).correct is False


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("red", "A"), ("Red.", "A"), ("It is dark red.", "B"), ("12", "D"), ("it is 120", "E"), (r"\boxed{12}", "D"),
        (r"<answer>\text{blue}</answer>", "C"), ("Not red.\nIt is blue.", "C"),
        ("The colour is not blue", ""), ("red and blue", ""), ("about 1200", ""), ("-12", ""), ("1.12", ""),
        ("A red one", "A"), ("redder", ""),
    ],
)  # fmt: skip
def test_the_text_of_exactly_one_option_is_its_letter(text: str, letters: str) -> None:
    assert read(text, TEXTS) == letters


def test_letters_come_before_texts_and_a_text_that_is_twice_there_names_none() -> None:
    assert read("A", ("B", "A")) == "A"  # the option's letter, not the option whose text is a letter
    assert read("no", ("yes", "no", "no")) == ""
    assert read("yes", ("yes", "no", "no")) == "A"


def test_the_score_says_what_was_read() -> None:
    right = Choice()("The answer is B.", "B", FIVE)
    assert (right.correct, right.reward, right.answer) == (True, 1.0, "B")
    wrong = Choice()("no idea", "B", FIVE)
    assert (wrong.correct, wrong.reward, wrong.answer) == (False, 0.0, None)


def test_several_gold_letters_want_all_of_them_and_no_other() -> None:
    judge = Choice()
    assert judge("<answer>C and A</answer>", "A, C", FIVE).correct is True
    assert judge("A", "A, C", FIVE).correct is False
    assert judge("A, B, C", "A, C", FIVE).correct is False
    assert judge("A, C", "A", FIVE).correct is False


def test_several_letters_may_be_written_as_one_word_where_several_are_right() -> None:
    judge = Choice()
    for text in (
        "<answer>ABD</answer>",
        r"The answer is A and more: \boxed{\text{DBA}}",
        "The answer is ABD.",
    ):
        assert judge(text, "A, B, D", FIVE).correct is True
    for text in ("AB", "ABCD", "ABBD", "ABF", "abd", "ABD or ABE", "triangle ABD"):
        assert judge(text, "A, B, D", FIVE).correct is False
    assert judge("AB", "A", FIVE).answer is None  # the name of a segment


@pytest.mark.parametrize(("target", "options"), [("12", FIVE), ("", FIVE), ("F", FIVE), ("B", ())])
def test_a_gold_that_is_no_letter_of_the_question_cannot_be_judged(target: str, options: tuple[str, ...]) -> None:
    score = Choice()("B", target, options)
    assert (score.correct, score.reward) == (None, 0.0)


def test_the_last_answer_block_and_the_last_box() -> None:
    assert declared("<think>x</think> a <answer>b</answer> c") == "b"
    assert declared("a <answer>b") == "b"
    assert last_box(r"\boxed{a{b}\}c} \fbox {d} \boxed{e") == "d"
    assert last_box("{}}{ no box") is None


PIECES = (
    *("A", "B", "a", " ", "\n", ".", ",", "(", ")", "{", "}", "\\", "$", "*", "answer is ", "option ", "\\boxed{"),
    *(
        "\\text{",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "and ",
        "or ",
        "not ",
        "12",
        "red",
        "选",
        "\x00",
        "\ud800",
    ),
)


@pytest.mark.parametrize("piece", ["A  ", "(A) ", "A , ", "A and ", "A\n\n", " ", "A.", "the answer is A , ", "x. "])
def test_a_short_text_is_read_at_once(piece: str) -> None:
    """As long as an answer may be, and with an end that lets each rule try again."""
    start = time.process_time()
    for end in ("!", "x", "=", "\x00"):
        read_letters(piece * (390 // len(piece)) + end, TEXTS)
    assert time.process_time() - start < 1


def test_garbage_never_raises() -> None:
    chance = random.Random(0)
    judge = Choice()
    for _ in range(2000):
        text = "".join(chance.choices(PIECES, k=chance.randrange(60)))
        assert judge(text, "B", chance.choice([FIVE, TEXTS])).correct in (True, False)


@pytest.mark.parametrize("piece", [*PIECES, "A, ", "A and ", "A\n", "A. ", "is (", "the option ", " " * 50 + "."])
def test_a_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    """100,000 characters: linear time is some 0.1 s here, quadratic time would be minutes."""
    start = time.process_time()
    for text in (piece * (100_000 // len(piece)), "<answer>" + piece * (100_000 // len(piece)) + "!"):
        for options in (FIVE, TEXTS, ("a" * 500,) * 26):
            read_letters(text, options)
    assert time.process_time() - start < 5
