"""Free-form answers: what counts as equal, what cannot be judged, and that no answer can hang or run anything."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dcsft.rewards import calculator
from dcsft.rewards.choice_or_math import ChoiceOrMath
from dcsft.rewards.math_answer import MathAnswer, can_judge, final_answer

judge = MathAnswer()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("5", "5"), ("<answer>0.5</answer>", r"\frac{1}{2}"), (r"\boxed{2\sqrt{3}}", r"\sqrt{12}"),
        ("3√2", r"3\sqrt{2}"),
        (r"<think>maybe 6</think><answer>\boxed{-\frac{3}{4}}</answer>", "-0.75"), ("**5**", "5"), ("1,000", "1000"),
        ("The answer is 5 cm.", "5"), ("The answer is $5$ cm.", "5"), ("The answer is 5. For 2+3=5", "5"),
        ("<answer>The area is $12$</answer>", "12"), ("10 cm²", "10"), ("10", r"10\text{ cm}^2"), ("6 cm", "6cm"),
        ("30°", r"30^\circ"), ("30", "30°"), ("50%", r"50\%"), ("0.5", "50%"), ("120 degrees", "120"), ("1:2", "1/2"),
        ("x=5", "5"), ("5", "x=5"), ("x\\ge 2", "x≥2"), ("3 or 5", "5 or 3"), ("(x+1)^2", "x^2+2x+1"), ("6.5", "$6.5"),
        ("Parallel.", "parallel"), ("isosceles triangle", "Isosceles  triangle"), (r"\text{left}", "left"), ("B", "B"),
        ("3.429", "24/7\n3.429"), ("24/7", "24/7\n3.429"), ("-x", "-x"), ("x + y", "y+x"),
        ("Isosceles-right triangle", "isosceles right triangle"),
        # MMMU's: names of four words and of a compound, and a text beside a number
        ("Central  giant cell granuloma.", "central giant cell granuloma"),
        ("Trans-1-chloro-4-methylcyclohexane", "trans-1-Chloro-4-methylcyclohexane"), ("MgS", "$MgS$\nMgS"),
        ("6", "6\nsix apples on the table"), ("Six apples on the  table.", "6\nsix apples on the table"),
        ("6", "six apples on the table\n6"), ("6", "6\n"),
    ],
)  # fmt: skip
def test_right(text: str, target: str) -> None:
    score = judge(text, target)
    assert (score.correct, score.reward) == (True, 1.0)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", "5"), ("-1", "1"), ("3.14", r"\pi"), ("2, 3", "3"), ("felt", "left"), ("A", "B"), ("therefore 5", "5"),
        ("<think>5", "5"), ("5 <answer></answer>", "5"), (r"\boxed{", "5"), ("5" * 1000, "5"), ("()(", "5"),
        ("\x00", "5"), ("\ud800", "5"), ("x" * 100_000, "5"), ("x", "-x"),
        ("cis-1-chloro-4-methylcyclohexane", "trans-1-Chloro-4-methylcyclohexane"),
        ("granuloma", "giant cell granuloma"),
        ("7", "6\nsix apples on the table"), ("six", "6\nsix apples on the table"), ("see figure", "6\nSee figure"),
        ("", "6\n"), (".", "6\n"), ("-6 whole apples are left over", "7\n6 whole apples are left over"),
    ],
)  # fmt: skip
def test_wrong(text: str, target: str) -> None:
    score = judge(text, target)
    assert (score.correct, score.reward) == (False, 0.0)


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "\n",
        "See the figure",
        "See the figure\nomitted",
        "omitted",
        "略",
        "the angles are equal by symmetry",
        "5 apples",
        "{{{",
        r"\frac{",
        "证明见解析",
    ],
)
def test_a_gold_that_cannot_be_read_is_neither_right_nor_wrong_nor_rewarded(gold: str) -> None:
    for text in ("5", gold, f"<answer>{gold}</answer>", ""):
        score = judge(text, gold)
        assert (score.correct, score.reward) == (None, 0.0)
    assert not any(map(can_judge, gold.split("\n")))


def test_the_final_answer() -> None:
    assert final_answer("<think>1</think> The answer is 2. <answer>3</answer>") == "3"
    assert final_answer(r"So \boxed{1} and \boxed{\frac{1}{2}} hold") == r"\frac{1}{2}"
    assert final_answer("<think>1") is None


def test_options_decide_which_rule_holds() -> None:
    either = ChoiceOrMath()
    assert either("The answer is B.", "B", ("1", "2")).answer == "B"
    assert either("<answer>0.5</answer>", "1/2").correct is True
    assert either("B", "1/2", ("1", "2")).correct is None


@pytest.mark.slow
def test_what_has_no_end_is_wrong_in_bounded_time_and_the_next_answer_is_judged() -> None:
    calculator.equal("1", "2")
    start = time.monotonic()
    assert judge("9^{9^{9}}", "3").correct is False
    assert time.monotonic() - start < 60  # 3 s of CPU time, on however busy a machine
    assert judge("3.0", "3").correct is True


def test_it_works_in_a_thread_and_after_its_process_was_killed() -> None:
    scores = []
    thread = threading.Thread(target=lambda: scores.append(judge("0.25", r"\frac{1}{4}")))
    thread.start()
    thread.join()
    process = calculator._calculator(os.getpid()).process
    assert process is not None
    process.kill()
    process.wait()
    scores.append(judge("0.75", r"\frac{3}{4}"))
    assert [score.correct for score in scores] == [True, True]


@pytest.mark.parametrize(
    "text", [r"\text{__import__('os').system('touch FILE')}", "__import__('os').system('touch FILE')"]
)
def test_nothing_of_an_answer_is_run(tmp_path: Path, text: str) -> None:
    assert judge(f"<answer>{text.replace('FILE', str(tmp_path / 'run'))}</answer>", "5").correct is False
    assert not (tmp_path / "run").exists()


def test_only_numbers_are_compiled() -> None:
    """The guard of the process, tried in another one: it cannot be taken off again."""
    code = (
        "import sys; from dcsft.rewards.calculator import _only_numbers\n"
        "from sympy import Number, sympify; Number('12'); sympify('1')\n"
        "sys.addaudithook(_only_numbers)\n"
        "assert Number('12.5') == 12.5\n"
        "try: sympify('[].append(1)')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() in ("RuntimeError", "SympifyError")
