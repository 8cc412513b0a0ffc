"""Where ImageNet's pictures are: folders named by wnid, a flat validation set with its labels, or the Hub's Parquet."""

import csv
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dcsft.tasks.imagenet_classes import single_word_classes
from dcsft.tasks.sources import PictureCell, PictureFile, parquet_file, parquet_files, parquet_rows

Index = dict[str, dict[str, PictureFile | PictureCell]]
"""wnid -> name of a picture's file -> where it is read."""

_WNID = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}\.jpe?g", re.IGNORECASE)
_ENDINGS = (".jpeg", ".jpg", ".png")
_TRUTH, _META, _SOLUTION = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
_BESIDE = ("", "data", "ILSVRC2012_devkit_t12/data")
_UP = 4  # Kaggle's csv lies four folders above its ILSVRC/Data/CLS-LOC/val
_NUM_CLASSES = 1000


def find_pictures(name: str, source: str, split: str, wnids: Collection[str], numbered: bool) -> Index:
    """The pictures of the classes `wnids`; every class has some. Only names are read, no picture is opened.

    Args:
        name: the option that `source` comes from, for messages.
        source: a folder, or the Hub id of a dataset.
        split: of the Parquet files.
        numbered: whether a Parquet column "label" may hold ImageNet's own class numbers.

    Raises:
        ValueError: there is no known layout, or classes are missing.
    """
    folder = Path(source).expanduser()
    names = os.listdir(folder) if folder.is_dir() else []
    index: Index
    if any(_WNID.fullmatch(entry) for entry in names):
        index = {wnid: _in_folder(folder / wnid) for wnid in wnids}
    elif flat := sorted(entry for entry in names if _VALIDATION.fullmatch(entry)):
        index = _by_labels(name, folder, flat, wnids)
    elif not folder.is_dir() or next(folder.rglob("*.parquet"), None) is not None:
        index = _in_parquet(name, parquet_files(name, source, split), wnids, numbered)
    else:
        raise ValueError(
            f"{name} must hold folders named by wnid (n01440764/), ILSVRC2012_val_*.JPEG or Parquet files, "
            f"got {source!r} with none of them; see conf/task/imagenet.yaml"
        )
    known = {one.wnid: one.name for one in single_word_classes()}
    missing = sorted(wnid for wnid in wnids if not index.get(wnid))
    if missing:
        some = ", ".join(f"{wnid} ({known[wnid]})" for wnid in missing[:3])
        raise ValueError(
            f"{name} must have pictures of all {len(wnids)} classes, got {source!r} without {len(missing)} of them: "
            f"{some}{', ...' if len(missing) > 3 else ''}; complete the download"
        )
    return index


def _in_folder(folder: Path) -> dict[str, PictureFile | PictureCell]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: PictureFile(entry.path) for entry in entries if _is_picture(entry.name)}


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_ENDINGS)


# --- a flat validation set --------------------------------------------------------------------------------------


def _by_labels(name: str, folder: Path, pictures: list[str], wnids: Collection[str]) -> Index:
    labels = _validation_labels(name, folder)
    unknown = [picture for picture in pictures if Path(picture).stem not in labels]
    if unknown:
        raise ValueError(
            f"{name} must have a label for every picture, got {len(unknown)} in {str(folder)!r} without one: "
            f"{unknown[0]}{', ...' if len(unknown) > 1 else ''}; take the labels of ILSVRC2012"
        )
    index: Index = {wnid: {} for wnid in wnids}
    for picture in pictures:
        wnid = labels[Path(picture).stem]
        if wnid in index:
            index[wnid][picture] = PictureFile(str(folder / picture))
    return index


def _validation_labels(name: str, folder: Path) -> dict[str, str]:
    """The wnid of each validation picture, by the stem of its file, from whichever labels lie beside or above it."""
    absolute = folder.absolute()
    for base in (absolute, *list(absolute.parents)[:_UP]):
        if (base / _SOLUTION).exists():
            return _kaggle_labels(name, base / _SOLUTION)
        for beside in _BESIDE:
            if (base / beside / _TRUTH).exists():
                return _devkit_labels(name, base / beside)
    raise ValueError(
        f"{name} must have labels for its flat pictures, got {str(folder)!r} with neither the devkit's {_TRUTH} and "
        f"{_META} nor Kaggle's {_SOLUTION} beside or above it; unpack ILSVRC2012_devkit_t12.tar.gz there"
    )


def _kaggle_labels(name: str, path: Path) -> dict[str, str]:
    """Rows such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: a wnid and boxes."""
    try:
        with path.open(newline="") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (KeyError, AttributeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{name} must have labels in columns ImageId and PredictionString, got {str(path)!r} "
            f"({type(error).__name__}: {error}); take Kaggle's file"
        ) from error


def _devkit_labels(name: str, folder: Path) -> dict[str, str]:
    """Line i of the truth is the ILSVRC2012_ID of picture i; the ids are not in the order of the wnids."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        synsets = loadmat(str(folder / _META), squeeze_me=True)["synsets"]
        numbers, found = (synsets[key].tolist() for key in ("ILSVRC2012_ID", "WNID"))
        wnid_of = dict(zip(numbers, found, strict=True))
        truth = [wnid_of[int(line)] for line in (folder / _TRUTH).read_text().split()]
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            f"{name} must have the devkit's {_META} and {_TRUTH}, got {str(folder)!r} "
            f"({type(error).__name__}: {error}); unpack ILSVRC2012_devkit_t12.tar.gz again"
        ) from error
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(truth, 1)}


# --- the Hub's Parquet ------------------------------------------------------------------------------------------


def _in_parquet(name: str, files: list[Path], wnids: Collection[str], numbered: bool) -> Index:
    index: Index = {wnid: {} for wnid in wnids}
    for number, (wnid, cell) in enumerate(_labelled_cells(name, files, numbered)):
        stored = Path(cell.name).name if cell.name else f"{number:08d}"
        said = _WNID.search(cell.name or "")
        if wnid in index and said and said.group() != wnid:
            raise ValueError(
                f"{name} must have labels that agree with its file names, got {cell.name!r} labelled {wnid} in "
                f"{cell.path!r}; its labels are not ImageNet's: take ILSVRC/imagenet-1k"
            )
        if wnid in index:  # the Hub's copy has ILSVRC2012_val_00000001_n01751748.JPEG
            index[wnid][re.sub(r"_n\d{8}(?=\.\w+$)", "", stored)] = cell
    return index


def _labelled_cells(name: str, files: list[Path], numbered: bool) -> Iterator[tuple[str | None, PictureCell]]:
    """Each picture with its wnid, or None for a class of more than one word."""
    schema = parquet_file(name, files[0]).schema_arrow
    column = "wnid" if "wnid" in schema.names else "label"
    by_number = {one.label: one.wnid for one in single_word_classes()}
    classes = _class_names(schema.metadata) if column == "label" else None
    if classes is not None and all(_WNID.fullmatch(one) for one in classes):
        by_number = dict(enumerate(classes))
    elif column == "label" and (not numbered or (classes is not None and len(classes) != _NUM_CLASSES)):
        raise ValueError(
            f"{name} must have a column wnid, or labels that are ImageNet's 1,000 or named by wnid, "
            f"got {str(files[0])!r} with {', '.join(schema.names)}; take another copy, or the original folders"
        )
    for row in parquet_rows(name, files, [column], ["image"]):
        if row["image"] is not None:
            yield (row[column] if column == "wnid" else by_number.get(row[column])), row["image"]


def _class_names(metadata: Mapping[bytes, bytes] | None) -> list[str] | None:
    """The names of the Hub's ClassLabel `label`, as `datasets` keeps them in the schema; None where it does not."""
    hub: dict[str, Any] = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    names: list[str] | None = hub.get("info", {}).get("features", {}).get("label", {}).get("names")
    return names
