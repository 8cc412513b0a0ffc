"""Where the final answer of a reasoned text stands: after the thought, in the last answer block, in the last box."""

import re

_TAG = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\[{}]|[{}]")
_WRAPPERS = re.compile(
    r"\\(?:text|mathrm|operatorname|mathbf|mathit|mathsf|boldsymbol)(?:bf|it|rm|sf|normal)?(?![A-Za-z])"
    r"|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\]]|[*$`{}]"
)
_SPACES = re.compile(r"\\(?:[,;!: ]|q?quad(?![A-Za-z]))|~")


def declared(text: str) -> str:
    """The part of a completion in which its final answer is to be looked for.

    What stands before the end of the thought is not an answer; neither is anything after the beginning of a thought
    that was cut. Of what remains, the last answer block alone counts where there is one, cut or not. Linear time.

    Example:
        >>> declared("<think>A or B?</think> So: <answer>B</answer>")
        'B'
    """
    start, end, block = 0, len(text), None
    opened: int | None = None
    for tag in _TAG.finditer(text):
        closes, name = bool(tag[1]), tag[2].lower()
        if name == "think":
            if closes:  # whatever came before was thought
                start, end, block, opened = tag.end(), len(text), None, None
            else:
                end = min(end, tag.start())
        elif tag.start() < end:
            if not closes:
                opened, block = tag.end(), None
            elif opened is not None:
                block, opened = (opened, tag.start()), None
    if opened is not None:
        block = (opened, end)
    return text[slice(*block)] if block else text[start:end]


def last_box(text: str) -> str | None:
    r"""The content of the \boxed{} that begins last and whose braces match; None where there is none. Linear time."""
    openers: list[int | None] = []  # where the content of a box begins; None for any other brace
    found: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace[0] in (r"\{", r"\}"):  # printed braces
            continue
        if brace[0] != "}":
            openers.append(brace.end() if brace[0] != "{" else None)
        elif openers:
            start = openers.pop()
            if start is not None and (found is None or start > found[0]):
                found = (start, brace.start())
    return text[slice(*found)] if found else None


def unwrapped(text: str) -> str:
    r"""Without what only changes the look: \text{}, bold, dollar signs, spacing. Linear time."""
    return _SPACES.sub(" ", _WRAPPERS.sub("", text))
