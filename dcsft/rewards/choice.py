"""The letter of a multiple-choice answer, read by fixed rules and never guessed."""

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from dcsft.records import Score
from dcsft.rewards.final_answer import declared, last_box, unwrapped
from dcsft.rewards.math_answer import final_answer
from dcsft.rewards.reward import Reward

# A letter on its own: not in a word or a number (B2, F', B.5) and not in a formula (F = ma, A + B).
_L = r"[(\[]?(?<![A-Za-z0-9_\\])[A-Z](?![A-Za-z0-9_'’^°]|-\w|\.\d|\s{0,2}[=+/<>])[)\]]?"
_AND = r"\s{0,2}(?:[,;&、，]|\band\b)\s{0,2}(?:and\s{1,2})?"
# "A, C" and "A and C", where the last letter ends a clause: "B, C is wrong" names B alone. "A or B" names none.
_LETTERS = rf"(?P<letters>{_L}(?:{_AND}{_L}(?={_AND}|\s{{0,2}}(?:[.!?\n。]|$))){{0,8}})(?!\s{{1,2}}or\b|\s{{0,2}}[/|])"
_ALONE = re.compile(rf"[\s.,:;]*(?:{_L}(?:[\s,;&.、，]|and\b)*)+", re.ASCII)
_SMALL = re.compile(r"[\s.,:;(\[]*([a-z])[\s.,:;)\]]*", re.ASCII)
_PHRASE = re.compile(
    r"(?:\b(?:answer|option|choice)s?\s{0,3}(?::|is\b:?|are\b:?|(?:would|should|must|will)\sbe\b)|答案[是为：:]*|故?选[：:]?)"
    r"\s{0,5}(?:(?:the\s{1,3})?(?:option|choice|letter)s?\s{0,3}:?\s{0,3})?" + _LETTERS,
    re.IGNORECASE,
)
_LEADING = re.compile(r"\s*(?P<letters>\([A-Z]\)|\[[A-Z]\]|[A-Z](?=[):]|\.(?!\d)|[ \t]*(?:\n|$)))")
_TRAILING = re.compile(
    r"(?:[\n.:!?。：][ \t]*|\b(?:therefore|thus|hence|so|is|choose|select|pick|option|choice|answer)[,:]?[ \t]{1,3}"
    r"|[ \t](?=[(\[]))(?P<letters>" + _L + r")[\s.。!]*$",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|[\s,;])\(?([A-Z])[.):]\s", re.ASCII)
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|cannot)\b|n['’]t\b", re.IGNORECASE)
_LINE_CHARS = 400  # a longer line is an argument, not an answer

Rule = Callable[[str, Sequence[str]], frozenset[str]]
"""Reads the letters that a span of text names, out of the options; none where it cannot tell."""


def letters_of(options: Sequence[str]) -> str:
    """The letters that may be answered."""
    return ascii_uppercase[: len(options)]


def _letters(named: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", named))


def _alone(span: str, options: Sequence[str]) -> frozenset[str]:
    """Nothing but letters: "B", "(b)", "A, C", one a line."""
    span = span.strip()
    if len(span) > _LINE_CHARS:
        return frozenset()
    if small := _SMALL.fullmatch(span):
        return frozenset(small[1].upper())
    return _letters(span) if _ALONE.fullmatch(span) else frozenset()


def _phrase(span: str, options: Sequence[str]) -> frozenset[str]:
    """The last "the answer is B"; a small letter counts in brackets alone, or "is a" would name A."""
    named = [found["letters"] for found in _PHRASE.finditer(span)]
    named = [re.sub(r"[(\[]([a-z])[)\]]", lambda small: small[1].upper(), letters) for letters in named]
    return next((found for found in map(_letters, reversed(named)) if found), frozenset())


def _leading(span: str, options: Sequence[str]) -> frozenset[str]:
    """ "B. 12 cm", unless another option is spelled out too."""
    found = _LEADING.match(span)
    labels = {label[1] for label in _LABEL.finditer(span)}
    return _letters(found["letters"]) if found and len(labels | _letters(found["letters"])) == 1 else frozenset()


def _trailing(span: str, options: Sequence[str]) -> frozenset[str]:
    """A letter at the end that is set apart: neither "vitamin C" nor "2 A"."""
    found = _TRAILING.search(span[-_LINE_CHARS:])
    return _letters(found["letters"]) if found else frozenset()


def _same_text(text: str) -> str:
    return " ".join(unwrapped(text).casefold().split()).strip(" .")


def _by_text(span: str, options: Sequence[str]) -> frozenset[str]:
    """The last line holds the text of exactly one option, as whole words and without a negation."""
    lines = span.strip().splitlines()
    line = _same_text(lines[-1]) if lines else ""
    if not line or len(line) > _LINE_CHARS:
        return frozenset()
    texts = {letter: _same_text(text) for letter, text in zip(letters_of(options), options, strict=False)}
    texts = {letter: text for letter, text in texts.items() if text and not re.fullmatch("[a-z]", text)}
    equal = [letter for letter, text in texts.items() if text == line]
    if equal:
        return frozenset(equal) if len(equal) == 1 else frozenset()
    held = {letter for letter, text in texts.items() if _holds(line, text)}
    # "dark red" holds "red", which is not meant.
    named = [a for a in held if not any(texts[a] != texts[b] and texts[a] in texts[b] for b in held)]
    if len(named) != 1 or _NEGATION.search(line.replace(texts[named[0]], "")):
        return frozenset()
    return frozenset(named)


def _holds(line: str, text: str) -> bool:
    """Whether `text` stands in `line` as whole words or numbers: "12" is not in "120", "1.12" or "-12"."""
    start = line.find(text)
    while start >= 0:
        before, after = line[:start][-2:], line[start + len(text) :][:2]
        inside = re.search(r"[^\W_]$|\d[.,]$|[-+−/^√]$", before) or re.match(r"[^\W_]|[.,:/]\d|[²³^/°%]", after)
        if not inside:
            return True
        start = line.find(text, start + 1)
    return False


_RULES: tuple[Rule, ...] = (_alone, _phrase, _leading, _trailing, _by_text)


def read_letters(text: str, options: Sequence[str]) -> frozenset[str]:
    r"""The letters that a completion answers with; none where it does not say.

    Looked for in the last answer block where there is one, else in all that follows the thought; in the last \boxed{}
    first, then around it. Each rule in turn: nothing but letters; the last "the answer is"; a letter that leads or
    trails, set apart; the text of exactly one option. The first rule that names options which exist decides.
    """
    scope = declared(text)
    box = last_box(scope)
    for span in [scope] if box is None else [box, scope]:
        plain = unwrapped(span)
        for rule in _RULES:
            found = rule(plain, options)
            if found and found <= set(letters_of(options)):
                return found
    return frozenset()


def _run(text: str, options: Sequence[str]) -> frozenset[str]:
    """The letters of a final answer that is one word of them: "ABD"."""
    word = unwrapped(final_answer(text) or "").strip(" .。()[]\n")
    letters = frozenset(word)
    return letters if 1 < len(word) == len(letters) and letters <= set(letters_of(options)) else frozenset()


class Choice(Reward):
    """Right when the answer names the target's letter; all of them and no other, where the target has several ("A, C").

    Several may be written as one word ("AC"), which is read so for such a target alone: it may be a segment's name.

    An answer from which no letter can be read is wrong. Options whose text is empty are letters without a text: they
    say how many letters there are.

    Example:
        >>> Choice()("It cannot be 12 cm, so the answer is (B).", "B", ("12 cm", "24 cm")).correct
        True
    """

    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        right = _letters(target)
        if not right or not right <= set(letters_of(options)):
            return Score(correct=None, reward=0.0)  # no letter of this question: it cannot be judged
        found = (len(right) > 1 and _run(text, options)) or read_letters(text, options)
        answer = ", ".join(sorted(found)) or None
        return Score(correct=found == right, reward=float(found == right), answer=answer)
