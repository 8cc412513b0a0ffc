"""Multiple-choice benchmarks as they are published: which columns hold what, and what makes a row a question.

An adapter turns the rows of one split into questions. A row that belongs to another protocol (a free-form one, say) is
passed over; one that ought to be a question and cannot be used comes out as the reason, to be counted.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from dcsft.tasks.sources import PictureCell

Row = Mapping[str, Any]

PLACE = re.compile(r"<image (\d+)>")
"""Where a picture stands in a question: "<image 2>" is the question's second picture."""


@dataclass(frozen=True)
class Question:
    """One question, whichever benchmark it comes from."""

    id: str
    pictures: tuple[PictureCell, ...]
    text: str | None
    """With its options; None where the picture holds all of it."""
    target: str
    """The letter, or letters ("A, C"); the accepted answers, one a line, where there are no options."""
    options: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """How one split of a dataset is read."""

    split: str
    columns: tuple[str, ...]
    pictures: tuple[str, ...]
    questions: Callable[[Sequence[Row]], Iterator[Question | str]]
    """A question a row, or the reason why it cannot be used."""


NO_PICTURE, NO_GOLD = "no picture", "the gold answer is none of the options"

_LINE_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.．:：、)][ \t]*(.*?)[ \t]*$", re.MULTILINE)
_LABELLED = re.compile(r"[(（]?([A-Z])[.．、)）]\s*(\S.*)")
_ANY_OPTION = re.compile(r"(?:^|[\s;；])\(?([A-Z])[.．:：、)]")


def inline_options(text: str) -> tuple[str, ...]:
    """The options that a question spells out, one a line ("A. 2 N"); without their texts where they share a line."""
    lines = _LINE_OPTION.findall(text)
    if len(lines) > 1 and "".join(letter for letter, _ in lines) == ascii_uppercase[: len(lines)]:
        return tuple(option for _, option in lines)
    letters = "".join(_ANY_OPTION.findall(text))
    return ("",) * len(letters) if len(letters) > 1 and letters == ascii_uppercase[: len(letters)] else ()


def _words(answer: str) -> list[str]:
    return re.findall(r"[^\s,;()（）.，；、]+", answer)


def _labelled(answer: str) -> tuple[str, str] | None:
    """The letter and the text of "B. 2"; None for another answer, such as the two letters "A. C"."""
    found = _LABELLED.fullmatch(answer.strip())
    letters = all(len(word) == 1 and word.isupper() for word in _words(answer))
    return None if found is None or letters else (found[1], found[2])


def letters_without_texts(gold: str) -> tuple[str, ...]:
    """Options of which only the letters are known: four, or as many as the gold letters need."""
    named, _ = _labelled(gold) or (gold, "")
    return ("",) * max([4, *(ascii_uppercase.find(letter) + 1 for letter in named)])


def gold_letters(answer: str, options: Sequence[str], shown: str = "") -> str | None:
    """The target of a gold answer: "(B)", "B. 2" and the text of option B are "B"; "A C" and "AC" are "A, C".

    Letters in one word may be the name of a segment. They are those of options where no option has that word; so the
    texts must be known, at least within `shown`, the question that spells them out. None where nothing is certain.
    """
    known, words = ascii_uppercase[: len(options)], _words(answer)
    if words and set(words) <= set(known):
        return ", ".join(sorted(set(words)))
    if same := _with_text(answer, options):
        return same if len(same) == 1 else None
    if label := _labelled(answer):
        letter, text = label
        same, several = _with_text(text, options), set(_ANY_OPTION.findall(text)) & set(known)
        return letter if letter in known and letter in (same or letter) and not several else None
    texts = " ".join(options) if all(options) else shown
    run = words[0] if len(words) == 1 else ""
    letters = 1 < len(run) == len(set(run)) and set(run) <= set(known)
    named = re.search(rf"(?<![A-Za-z]){re.escape(run)}(?![A-Za-z])", texts)
    return ", ".join(sorted(run)) if letters and texts and not named else None


def _with_text(text: str, options: Sequence[str]) -> str:
    """The letters of the options that have this text."""
    same = (letter for letter, option in zip(ascii_uppercase, options, strict=False) if _same(option, text))
    return "".join(same)


def _same(option: str, text: str) -> bool:
    return option != "" and option.casefold() == text.strip().casefold()


def _with_options(text: str, options: Sequence[str]) -> str:
    """The question and its options, one a line, as MMK12 has them."""
    return "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))])


# --- MMK12 -----------------------------------------------------------------------------------------------------------


def _mmk12(rows: Sequence[Row], only_choice: bool) -> Iterator[Question | str]:
    for row in rows:
        text, answer = row["question"].strip(), " ".join(row["answer"].split())
        spelt = inline_options(text)
        options = spelt or (letters_without_texts(answer) if only_choice else ())
        target = gold_letters(answer, options, text if spelt else "") if options else None
        if only_choice and target is None:
            yield NO_GOLD
        elif row["image"] is None:
            yield NO_PICTURE
        elif target is None:
            yield Question(row["id"], (row["image"],), text, answer, ())
        else:
            yield Question(row["id"], (row["image"],), text, target, options)


def mmk12_train(rows: Sequence[Row]) -> Iterator[Question | str]:
    """Mostly free-form; a question is multiple choice where it spells out options and its answer is their letter."""
    return _mmk12(rows, only_choice=False)


def mmk12_test(rows: Sequence[Row]) -> Iterator[Question | str]:
    """Multiple choice: options stand in the question, one a line."""
    return _mmk12(rows, only_choice=True)


# --- MMMU ------------------------------------------------------------------------------------------------------------

_MMMU_PICTURES = tuple(f"image_{number}" for number in range(1, 8))


def _python_list(text: str) -> tuple[str, ...] | None:
    """A list of texts that is written as Python writes it; None where it is none."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return tuple(map(str, values)) if isinstance(values, list) else None


def _renumbered(text: str, pictures: Mapping[int, PictureCell]) -> tuple[str, tuple[PictureCell, ...]]:
    """Places numbered by the pictures that the row has, and those pictures in order."""
    order = sorted(pictures)
    return PLACE.sub(lambda place: f"<image {order.index(int(place[1])) + 1}>", text), tuple(map(pictures.get, order))


def is_open(row: Row) -> bool:
    """Whether an MMMU question has no options; the repository says "short-answer", the Hub "open"."""
    return row["question_type"] in ("open", "short-answer")


def mmmu(rows: Sequence[Row]) -> Iterator[Question | str]:
    """Options as the text of a Python list, some with pictures; open questions have one or several accepted answers."""
    for row in rows:
        options = _python_list(row["options"])
        if options is None or is_open(row) != (not options):
            yield "the options cannot be read"
            continue
        if is_open(row):
            accepted = _python_list(row["answer"]) if row["answer"].startswith("[") else (row["answer"],)
            target = "\n".join(" ".join(answer.split()) for answer in accepted or ()) or None
        else:
            target = gold_letters(row["answer"], options)
        text = _with_options(row["question"].strip(), options)
        pictures = {i: row[name] for i, name in enumerate(_MMMU_PICTURES, 1) if row[name] is not None}
        if target is None:
            yield NO_GOLD
        elif not pictures or not {int(number) for number in PLACE.findall(text)} <= set(pictures):
            yield NO_PICTURE
        else:
            text, placed = _renumbered(text, pictures)
            yield Question(row["id"], placed, text, target, options)


# --- We-Math, MathVerse, MathVista, MathVision -----------------------------------------------------------------------


def we_math(rows: Sequence[Row]) -> Iterator[Question | str]:
    """Options in one irregular string, which is shown as it is; up to seven of them."""
    options = ("",) * 7
    for row in rows:
        target = gold_letters(row["answer"], options)
        if target is None:
            yield NO_GOLD
        elif row["image_path"] is None:
            yield NO_PICTURE
        else:
            text = f"{row['question'].strip()}\n{row['option'].strip()}"
            yield Question(f"{row['ID']}/{row['key']}", (row["image_path"],), text, target, options)


def math_verse(rows: Sequence[Row]) -> Iterator[Question | str]:
    """Options in the question; the version whose question is a picture has those of its problem's other versions."""
    rows = [row for row in rows if row["question_type"] == "multi-choice" and row["problem_version"] != "Text Only"]
    spelt: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if found := inline_options(row["question"]):
            spelt.setdefault(row["problem_index"], found)
    for row in rows:
        options = spelt.get(row["problem_index"]) or letters_without_texts(row["answer"])
        target = gold_letters(row["answer"], options)
        if target is None:
            yield NO_GOLD
        elif row["image"] is None:
            yield NO_PICTURE
        else:
            yield Question(row["sample_index"], (row["image"],), row["question"].strip() or None, target, options)


def math_vista(rows: Sequence[Row]) -> Iterator[Question | str]:
    """The answer is an option's text, as it is written there; its place gives the letter."""
    for row in rows:
        if row["question_type"] != "multi_choice":
            continue
        options = tuple(row["choices"] or ())
        if options.count(row["answer"]) != 1:
            yield NO_GOLD
        elif row["decoded_image"] is None:
            yield NO_PICTURE
        else:
            text = _with_options(row["question"].strip(), options)
            target = ascii_uppercase[options.index(row["answer"])]
            yield Question(row["pid"], (row["decoded_image"],), text, target, options)


def math_vision(rows: Sequence[Row]) -> Iterator[Question | str]:
    """One merged picture a row, so "<image1>" stays as text; options that are letters stand in the picture."""
    for row in rows:
        options = tuple(row["options"] or ())
        if not options:
            continue
        target = gold_letters(row["answer"], ("",) * len(options))
        drawn = options == tuple(ascii_uppercase[: len(options)])
        if target is None:
            yield NO_GOLD
        elif row["decoded_image"] is None:
            yield NO_PICTURE
        else:
            text = row["question"].strip() if drawn else _with_options(row["question"].strip(), options)
            shown = ("",) * len(options) if drawn else options
            yield Question(row["id"], (row["decoded_image"],), text, target, shown)


BENCHMARKS: dict[str, Benchmark] = {
    "mmmu": Benchmark("validation", ("id", "question", "options", "answer", "question_type"), _MMMU_PICTURES, mmmu),
    "we_math": Benchmark("testmini", ("ID", "key", "question", "option", "answer"), ("image_path",), we_math),
    "math_verse": Benchmark(
        "testmini",
        ("sample_index", "problem_index", "problem_version", "question", "answer", "question_type"),
        ("image",),
        math_verse,
    ),
    "math_vista": Benchmark(
        "testmini", ("pid", "question", "choices", "answer", "question_type"), ("decoded_image",), math_vista
    ),
    "math_vision": Benchmark("test", ("id", "question", "options", "answer"), ("decoded_image",), math_vision),
}
"""Test sets out of distribution, in the order of the paper's table."""

MMK12_TRAIN = Benchmark("train", ("id", "question", "answer"), ("image",), mmk12_train)
MMK12_TEST = Benchmark("test", ("id", "question", "answer"), ("image",), mmk12_test)
