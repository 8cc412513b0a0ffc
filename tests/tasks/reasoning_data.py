"""MMK12 and the five benchmarks as the Hub has them: Parquet files in their true layout, a handful of rows each."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = {"image", "image_path", "decoded_image", *(f"image_{number}" for number in range(1, 8))}
SIZES = ("id", "mmmu", "mmmu_open", "we_math", "math_verse", "math_vista", "math_vision")

Rows = Sequence[Mapping[str, Any]]


def png(shade: int) -> dict[str, Any]:
    """A picture as the Hub stores it; the shade tells one from another."""
    file = BytesIO()
    Image.new("RGB", (24, 24), (shade % 256, shade // 256, 7)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(path: Path, rows: Rows) -> None:
    """One Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {
        name: pa.array(values, type=PICTURE)
        if name in PICTURES and not isinstance(values[0], str)
        else pa.array(values)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path, row_group_size=4)


def mmk12(name: str, question: str, answer: str, shade: int, subject: str = "math") -> dict[str, Any]:
    return {"id": name, "question": question, "answer": answer, "subject": subject, "image": png(shade)}


TRAIN_ANSWERS = (r"\frac{1}{2}", "5", "isosceles triangle", r"2\sqrt{3}", "30^\\circ", "x=5")
MMK12_TRAIN = [
    *(mmk12(f"t{i}", f"What is the value in figure {i}?", TRAIN_ANSWERS[i % 6], i) for i in range(18)),
    mmk12("t18", "Which is longer?\nA. AB\nB. CD", "B", 18),
    mmk12("t19", "Name the point.", "B", 19),
]
FOUR = "\nA. 2 N\nB. 4 N\nC. 6 N\nD. 8 N"
MMK12_TEST = [
    mmk12("e0", f"As shown, the block rests on a slope. The force is{FOUR}", "B", 100, "physics"),
    mmk12("e1", "Which is right? A. 1 B. 2 C. 3 D. 4", "D", 101, "chemistry"),
    mmk12("e2", "The options are in the picture.", "C", 102, "biology"),
]


def mmmu_row(name: str, question: str, options: str, answer: str, kind: str, *shades: int | None) -> dict[str, Any]:
    pictures = [None if shade is None else png(shade) for shade in shades] + [None] * (7 - len(shades))
    return {
        **{"id": f"validation_{name}", "question": question, "options": options, "explanation": ""},
        **{f"image_{number}": picture for number, picture in enumerate(pictures, 1)},
        **{"img_type": "['Diagrams']", "answer": answer, "topic_difficulty": "Easy", "question_type": kind},
        "subfield": "Mechanics",
    }


MMMU = [
    mmmu_row("Physics_3", "In <image 1>, how long?", "['1 m', '2 m']", "B", "multiple-choice", 200),
    # out of order, one of them twice, one in an option
    mmmu_row(
        "Art_1",
        "<image 2> and <image 1>, then <image 2>:",
        "['<image 3>', 'it\\'s new']",
        "A",
        "multiple-choice",
        1,
        2,
        3,
    ),
    # a number missing in between, and a picture without a place
    mmmu_row("Art_2", "Look at <image 3>.", str([f"option {i}" for i in range(9)]), "I", "multiple-choice", 4, None, 5),
    mmmu_row("Finance_1", "What is <image 1> worth?", "[]", "6.5", "open", 6),
    mmmu_row("Finance_2", "The ratio in <image 1>?", "[]", "['24/7', '3.429']", "open", 7),
    mmmu_row("Pharmacy_19", "Which structure of <image 1>?", "[]", "B", "short-answer", 8),
]
WE_MATH = [
    {
        **{"ID": "2steps_9", "split": "testmini", "knowledge concept": "Area of Circles", "key": key},
        **{"question": "What is the area ( ) ?", "option": option, "answer": answer, "image_path": png(300 + i)},
        **{"question number": i, "knowledge concept description": "..."},
    }
    for i, (key, option, answer) in enumerate(
        [
            ("2steps_1", "A. 12;B. 24;C. 36; D. 48; E. No correct answer", "C"),
            ("2steps_2", "A. with ;B. inside;B. 24 C. 36", "A"),
            ("2steps_multi", "A. 1;B. 2;C. 3;D. 4;E. 5;F. 6;G. 7", "G"),
        ]
    )
]


def verse_row(sample: int, problem: str, version: str, question: str, answer: str, kind: str) -> dict[str, Any]:
    return {
        **{"sample_index": str(sample), "problem_index": problem, "problem_version": version, "question": question},
        **{"image": png(400 + sample), "answer": answer, "question_type": kind, "metadata": "{}"},
        **{"query_wo": "", "query_cot": ""},
    }


CHOICES = "As shown, find it.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
MATH_VERSE = [
    verse_row(1, "1", "Text Dominant", CHOICES, "D", "multi-choice"),
    verse_row(2, "1", "Vision Only", "", "D", "multi-choice"),
    verse_row(3, "2", "Text Lite", CHOICES.replace(":4", ".4").replace(":", "."), "(B)", "multi-choice"),
    verse_row(4, "3", "Text Dominant", "Is it?\nChoice:\nA:True\nB:False", "False", "multi-choice"),
    verse_row(5, "3", "Vision Only", "", "False", "multi-choice"),
    verse_row(6, "4", "Vision Intensive", CHOICES, "A\nC", "multi-choice"),
    verse_row(7, "5", "Text Lite", "Find x.", "12", "free-form"),
    verse_row(8, "6", "Vision Only", "", "F", "multi-choice"),  # whose options no row spells out
]


def vista_row(pid: str, question: str, choices: list[str] | None, answer: str) -> dict[str, Any]:
    return {
        **{"pid": pid, "question": question, "image": f"images/{pid}.jpg", "decoded_image": png(500 + int(pid))},
        **{"choices": choices, "unit": None, "precision": None, "answer": answer},
        **{"question_type": "multi_choice" if choices else "free_form", "answer_type": "text", "query": "Hint: ..."},
    }


MATH_VISTA = [
    vista_row("3", "How large?", ["135°", "140°", "145°", "150°"], "145°"),
    vista_row("4", "How many?", None, "4"),
    vista_row("587", "Which?", ["yes", "no", "no"], "yes"),  # an option twice, but not the answer
    vista_row("15", "Which point is higher?", ["B", "A"], "A"),  # letters as texts, in another order
    vista_row("16", "∠1等于多少度?", ["30°", "40°"], "40°"),
]


def vision_row(name: str, question: str, options: list[str], answer: str) -> dict[str, Any]:
    return {
        **{"id": name, "question": question, "options": options, "answer": answer, "solution": None, "level": 2},
        **{"image": f"images/{name}.jpg", "decoded_image": png(600 + int(name)), "subject": "arithmetic"},
    }


MATH_VISION = [
    vision_row("2", "Which comes next?\n<image1>", ["A", "B", "C", "D", "E"], "A"),
    vision_row("3", "How many are there?\n<image1>", [], "7"),
    vision_row("4", "<image1> or <image2>?", ["1", "2", "3", "4", "5"], "E"),
    vision_row("5", "Which?\n<image1>", ["<image2>", "<image3>", "<image4>", "<image5>", "<image6>"], "B"),
]
DATA: dict[str, dict[str, Rows]] = {
    "mmk12": {"data/train-00000-of-00002": MMK12_TRAIN[:10], "data/train-00001-of-00002": MMK12_TRAIN[10:],
              "data/test-00000-of-00001": MMK12_TEST},
    "mmmu": {"data/validation-00000-of-00001": MMMU, "data/dev-00000-of-00001": MMMU[:1]},
    "we_math": {"data/testmini-00000-of-00001": WE_MATH},
    "math_verse": {"testmini": MATH_VERSE, "testmini_text_only": MATH_VERSE[:2]},
    "math_vista": {"data/testmini-00000-of-00001-725687bf7a18d64b": MATH_VISTA},
    "math_vision": {"data/test-00000-of-00001-3532b8d3f1b4047a": MATH_VISION, "data/testmini-00000": MATH_VISION[:1]},
}  # fmt: skip
"""Rows by source and file, named as on the Hub."""
COUNTS = {"id": 3, "mmmu": 3, "mmmu_open": 3, "we_math": 3, "math_verse": 7, "math_vista": 4, "math_vision": 3}


def write_all(root: Path, changed: Mapping[str, Mapping[str, Rows]] | None = None) -> list[str]:
    """All sources under `root`, with some files changed; the overrides that name them."""
    for source, files in DATA.items():
        for name, rows in {**files, **(changed or {}).get(source, {})}.items():
            write(root / source / f"{name}.parquet", rows)
    sources = [f"task.sources.{source}={root / source}" for source in DATA]
    counts = [f"task.expected.{split}={count}" for split, count in COUNTS.items()]
    return [*sources, *counts, "task.num_cold_start=4", "task.num_train=12"]
