"""Referring expressions from the files that people have: UNC's, `jxu124/refcoco`, VLM-R1's, and Ref-L4's.

Every reader gives boxes corner by corner in the picture's own pixels, and compares what the file says twice, so that
boxes of another convention (left, top, width, height) are refused and not trained on.
"""

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsft.boxes import Corners, Frame, first_corners
from dcsft.tasks.sources import parquet_files, parquet_rows

_UNC_REFS, _UNC_INSTANCES = "refs(unc).p", "instances.json"
_VLM_R1_TRAIN, _VLM_R1_VAL, _VLM_R1_LISA = "refcoco_train.jsonl", "refcoco_val.json", "lisa_test.json"
_BROKEN_PICKLE = (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
_PICTURES = "train2014"  # COCO's folder of all RefCOCO pictures


@dataclass(frozen=True)
class Expression:
    """A phrase that names a region of a picture.

    Example:
        Expression("1391", "train2014/COCO_train2014_000000000009.jpg", Frame(640, 480), (1, 187, 612, 473), "a bowl")
    """

    id: str
    """Unique within its file."""
    picture: str
    """Path below the root of the pictures."""
    size: Frame | None
    """The picture's own pixels; None where the file does not say."""
    corners: Corners
    text: str
    whole_question: bool = False
    """`text` is a question, and not a phrase to put into one."""


def refcoco(name: str, source: str | None) -> tuple[list[Expression], list[Expression]]:
    """RefCOCO's expressions of the UNC splits train and val, from whichever files `source` has.

    Args:
        name: the option that `source` comes from, for messages.
        source: a folder with `refs(unc).p` and `instances.json`, or with VLM-R1's `refcoco_train.jsonl` and
            `refcoco_val.json`, or with the Parquet files of `jxu124/refcoco`; or its id on the Hub.

    Raises:
        ValueError: it is none of these, or a file is not what its name says.
    """
    known = f"a folder with {_UNC_REFS}, {_VLM_R1_TRAIN} or Parquet files, or a dataset's id on the Hub"
    if source is None:
        raise ValueError(f"{name} must be {known}, got None; set {name}=jxu124/refcoco")
    folder = Path(source).expanduser()
    if (folder / _UNC_REFS).exists():
        return _unc(name, folder)
    if (folder / _VLM_R1_TRAIN).exists():
        return _vlm_r1(name, folder / _VLM_R1_TRAIN), _vlm_r1(name, folder / _VLM_R1_VAL)
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        raise ValueError(f"{name} must be {known}, got {source!r}, a folder without these; look at what lies in it")
    train, val = (_jxu124(name, parquet_files(name, source, split)) for split in ("train", "validation"))
    return train, val


def lisa(name: str, source: str | None) -> list[Expression]:
    """VLM-R1's grounding rows of LISA, from `lisa_test.json` or the folder that has it."""
    if source is None:
        raise ValueError(f"{name} must be VLM-R1's {_VLM_R1_LISA} or its folder, got None; set {name}=DIR")
    path = Path(source).expanduser()
    return _vlm_r1(name, path / _VLM_R1_LISA if path.is_dir() else path)


def ref_l4(name: str, source: str | None) -> list[Expression]:
    """Ref-L4's validation rows that do not come from COCO, from `ref-l4-val.parquet` or its dataset on the Hub."""
    if source is None:
        raise ValueError(f"{name} must be a folder with ref-l4-val.parquet, got None; set {name}=JierunChen/Ref-L4")
    columns = ("id", "caption", "bbox", "bbox_area", "ori_category_id", "file_name", "width", "height")
    found = []
    for row in parquet_rows(name, parquet_files(name, source, "ref-l4-val"), columns):
        x, y, width, height = box = _four(name, row["bbox"], f"row {row['id']}")
        if abs((width - x) * (height - y) - row["bbox_area"]) < abs(width * height - row["bbox_area"]):
            raise ValueError(
                f"{name} must have boxes as [x, y, width, height], got {list(box)} with an area of {row['bbox_area']} "
                f"in row {row['id']}; take the published file"
            )
        if row["ori_category_id"].startswith("o365_"):
            size = Frame(row["width"], row["height"])
            corners = (x, y, x + width, y + height)
            found.append(Expression(str(row["id"]), row["file_name"], size, corners, row["caption"]))
    return found


def _four(name: str, value: Any, where: str) -> Corners:
    """Four numbers of a list, or of the text of one."""
    found = first_corners(value) if isinstance(value, str) else None
    if isinstance(value, Sequence) and len(value) == 4 and all(isinstance(number, int | float) for number in value):
        found = (float(value[0]), float(value[1]), float(value[2]), float(value[3]))
    if found is None:
        raise ValueError(f"a box of {name} must be four numbers, got {value!r} in {where}; take the published file")
    return found


# --- UNC: a Python 2 pickle of references, and COCO's instances ---------------------------------------------------


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, text and numbers; whatever would run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")


def _unpickled(name: str, path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except _BROKEN_PICKLE as error:
        raise ValueError(
            f"{name} must have a {path.name} of plain lists, dicts and text, got another pickle ({error}); "
            "take it from the refer project"
        ) from error


def _unc(name: str, folder: Path) -> tuple[list[Expression], list[Expression]]:
    refs = _unpickled(name, folder / _UNC_REFS)
    instances = _json(name, folder / _UNC_INSTANCES)
    try:
        images = {image["id"]: image for image in instances["images"]}
        boxes = {annotation["id"]: annotation["bbox"] for annotation in instances["annotations"]}
        found: dict[str, list[Expression]] = {"train": [], "val": []}
        for ref in refs:
            if ref["split"] not in found:
                continue
            image, (x, y, width, height) = images[ref["image_id"]], boxes[ref["ann_id"]]  # its own file_name is no file
            size = Frame(image["width"], image["height"])
            for sentence in ref["sentences"]:
                found[ref["split"]].append(
                    Expression(
                        str(sentence["sent_id"]),
                        f"{_PICTURES}/{image['file_name']}",
                        size,
                        (x, y, x + width, y + height),
                        sentence["sent"],
                    )
                )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must have the fields of the refer project in {_UNC_REFS} and {_UNC_INSTANCES}, "
            f"got others ({type(error).__name__}: {error}); take both from one download"
        ) from error
    return found["train"], found["val"]


# --- jxu124/refcoco: Parquet, a row a reference ------------------------------------------------------------------


def _jxu124(name: str, files: Sequence[Path]) -> list[Expression]:
    columns = ("ref_id", "sentences", "bbox", "raw_anns", "raw_image_info")
    found = []
    for row in parquet_rows(name, files, columns):
        where = f"reference {row['ref_id']}"
        image, annotation = (_loads(name, row[column], where) for column in ("raw_image_info", "raw_anns"))
        corners, raw = _four(name, row["bbox"], where), _four(name, annotation["bbox"], where)
        if max(abs(corners[2] - corners[0] - raw[2]), abs(corners[3] - corners[1] - raw[3])) > 1:
            raise ValueError(
                f"{name} must have boxes as [x1, y1, x2, y2], got {list(corners)} in {where}, whose annotation of "
                f"[x, y, width, height] is {list(raw)}; take jxu124/refcoco"
            )
        size = Frame(image["width"], image["height"])
        for sentence in row["sentences"]:
            picture = f"{_PICTURES}/{image['file_name']}"
            found.append(Expression(str(sentence["sent_id"]), picture, size, corners, sentence["sent"]))
    return found


def _loads(name: str, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must hold JSON in {where}, got {text[:60]!r} ({error}); load it again") from error


# --- VLM-R1: JSON for tests, a JSON a line for training ----------------------------------------------------------


def _json(name: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{name} must have {path.name}, got none in {str(path.parent)!r}; put it there") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} must hold JSON in {path.name}, got none ({error}); download it again") from error


def _lines(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"line {number} of {path.name}"
                yield where, _loads(name, line, where)


def _vlm_r1(name: str, path: Path) -> list[Expression]:
    """Rows with `problem` and `solution`, or with a conversation of the two."""
    rows: Iterable[tuple[str, Any]]
    if path.suffix == ".jsonl":
        rows = _lines(name, path)
    else:
        rows = ((f"row {number} of {path.name}", row) for number, row in enumerate(_json(name, path), 1))
    found = []
    for number, (where, row) in enumerate(rows):
        try:
            question, answer = _asked(row)
            picture = str(row["image"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must have image, problem and solution (or conversations) in {where}, got {str(row)[:80]}; "
                "take VLM-R1's files"
            ) from error
        corners = _four(name, answer, where)
        found.append(Expression(str(number), picture, None, corners, question, whole_question=True))
    return found


def _asked(row: Mapping[str, Any]) -> tuple[str, Any]:
    """Question and answer of a row."""
    if "conversations" not in row:
        return str(row["problem"]), row["solution"]
    question, answer = (turn["value"] for turn in row["conversations"])
    return question.replace("<image>", "").strip(), answer
