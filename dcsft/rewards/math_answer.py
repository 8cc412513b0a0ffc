"""A free-form mathematical answer: the same number, expression, interval or set as the target."""

import re
from collections.abc import Sequence

from dcsft.records import Score
from dcsft.rewards.calculator import MAX_CHARS, can_read, equal
from dcsft.rewards.final_answer import declared, last_box, unwrapped
from dcsft.rewards.reward import Reward

_PHRASE = re.compile(
    r"(?:\banswers?\s{0,3}(?:is\b|are\b|:)|答案[是为：:])[ \t:]{0,3}(?P<rest>[^\n]{1,400})", re.IGNORECASE
)
_SYMBOLS = {"°": r"^\circ", "π": r"\pi", "×": r"\times ", "÷": r"\div ", "−": "-", "–": "-", "％": "%", "²": "^2"}
_SYMBOLS |= {
    "³": "^3",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "≠": r"\neq ",
    "±": r"\pm ",
    "∞": r"\infty ",
    "，": ",",
    "：": ":",
}
_SYMBOLS |= {"（": "(", "）": ")", "；": ";", "√": r"\sqrt "}
_ROOT = re.compile(r"\\sqrt (\d{1,20}|[A-Za-z])")
_PERCENT = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s{0,3}\\?%")
_AREA = re.compile(r"[ \t]{0,3}(?<![A-Za-z\\])[mcdk]m\^\{?[23]\}?$")  # math-verify knows units, but not "cm^2"
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname)(?![A-Za-z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_KNOWN = re.compile(  # functions and units, which are no prose
    "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|lg|exp|lim|max|min|mod|gcd|lcm|det|nm|mm|cm|dm|km|mg|kg|ml|mL"
    "|k?Pa|[kM]?Hz|k[JNW]|m[WAV]|kV|eV|mol|ms|degrees?|cubic|square|units?|meters?|metres?|seconds?|hours?|minutes?"
    "|days?|yuan|dollars|and|or"
)
_NO_ANSWER = re.compile(r"\s*(?:see\b|omitted\b|refer\b|as shown\b|proof\b|略|见|证明)", re.IGNORECASE)
_JOINED = re.compile(r"(?<=\w)-(?=\w)")  # and not the sign of "-x"
_LETTERS = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_COMPOUND = re.compile(r"[^\W_]+(?:[-,][^\W_]+)+")  # trans-1-chloro-4-methylcyclohexane, an answer of MMMU
_MAX_NAME_WORDS = 4


def _expression(text: str) -> str:
    """LaTeX that math-verify reads, of what people type; without full stop and quotes."""
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _PERCENT.sub(r"\\frac{\1}{100}", _ROOT.sub(r"\\sqrt{\1}", text))
    text = text.replace(r"\$", "")
    text = text.replace("$", "") if text.count("$") == 1 else text  # a price
    return _AREA.sub("", text.strip().strip("\"'。").rstrip(".").strip())


def _plain(text: str) -> str:
    return " ".join(unwrapped(text).split()).strip(" .。\"'")


def _name(text: str) -> str:
    return _JOINED.sub(" ", _plain(text).casefold())


def _words(text: str) -> list[str]:
    """Words of a language, as opposed to functions, units and products of variables; so many of them are prose."""
    words = _WORD.findall(_COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", _expression(text))))
    return [word for word in words if not _KNOWN.fullmatch(word) and not (word.isupper() and len(word) <= 4)]


def _is_name(gold: str) -> bool:
    """A word or a letter and no formula: "parallel", "B", "isosceles triangle"."""
    words = _plain(gold).split()
    if not 0 < len(words) <= _MAX_NAME_WORDS or _NO_ANSWER.match(gold):
        return False
    if _COMMAND.search(_TEXT_COMMAND.sub("", gold)):  # a formula, such as \pi
        return False
    return all(_LETTERS.fullmatch(word) or (_COMPOUND.fullmatch(word) and _words(word)) for word in words)


def _is_expression(gold: str) -> bool:
    return not _words(gold) and can_read(_expression(gold))


def can_judge(gold: str) -> bool:
    """Whether answers can be compared with `gold`: a name of a few words, or an expression that math-verify reads."""
    return _is_name(gold) or _is_expression(gold)


def final_answer(text: str) -> str | None:
    r"""What a completion gives as its answer: the last \boxed{}, else what follows the last "the answer is", else all.

    Looked for in the last answer block where there is one. None where that is empty or too long for an answer.
    """
    scope = declared(text)
    found = last_box(scope)
    if found is None:
        phrases = [match["rest"] for match in _PHRASE.finditer(scope)]
        found = re.split(r"\.\s", phrases[-1])[0] if phrases else scope
    found = found.strip().strip("*").strip()
    return found if 0 < len(found) <= MAX_CHARS else None


class MathAnswer(Reward):
    """Right when math-verify finds the answer equal to the target; names of a few words are compared as they stand.

    A target of several lines accepts each of them. One of which no line can be read, such as a sentence, cannot be
    judged: it is never counted as right or wrong, as there are other words for it. Beside a line that can be read, a
    sentence is right as it stands. An answer that cannot be read, or that takes seconds to compare, is wrong.

    Example:
        >>> MathAnswer()(r"<think>...</think><answer>$\\frac{2}{4}$</answer>", "0.5").correct
        True
    """

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        golds = target.split("\n")
        if not any(can_judge(gold) for gold in golds):
            return Score(correct=None, reward=0.0)
        answer = final_answer(text)
        correct = answer is not None and any(_same(gold, answer) for gold in golds)
        return Score(correct=correct, reward=float(correct), answer=answer)


def _same(gold: str, answer: str) -> bool:
    if _is_name(gold) or not _is_expression(gold):  # as one, "left" would be l * e * f * t, and equal to "felt"
        return _name(gold) == _name(answer) != "" and not _NO_ANSWER.match(gold)
    if _words(answer) and "$" not in answer:  # prose around no formula
        return False
    gold, answer = _expression(gold), _expression(answer)
    return gold == answer or equal(gold, answer)
