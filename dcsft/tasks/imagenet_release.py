"""The JSON files of the paper's release: its very examples, and how difficult they were for its models.

The release is a repository, byyx666/DC-SFT, whose folder data/ has the files. Its pictures are given by paths on the
authors' machine, of which the last two parts, wnid and file name, say which picture it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dcsft.records import DIFFICULTIES, Difficulty
from dcsft.tasks.imagenet_classes import single_word_classes

_FILES = {
    "cold_start": "imagenet_cold_sft.json",
    "train": "imagenet_left_sft.json",
    "id": "imagenet_val_processed.json",
    "imagenet_r": "imagenet-r_val_processed.json",
    "imagenet_a": "imagenet-a_val_processed.json",
}
_LABEL_FILE = "imagenet_{difficulty}_sft_{size}.json"
_WORDS: dict[Difficulty, str] = {"easy": "easy", "medium": "middle", "hard": "hard"}
_SIZES = {"qwen2_5_vl_3b": "3b", "qwen2_5_vl_7b": "7b"}


@dataclass(frozen=True)
class ReleasedPicture:
    """One row of the release."""

    wnid: str
    file: str

    @property
    def training_id(self) -> str:
        """The id of the example that shows it in the cold start or in training."""
        return f"train/{self.wnid}/{self.file}"


def released_pictures(release: str, split: str) -> list[ReleasedPicture]:
    """The rows of a split, in the release's order.

    Args:
        release: the repository's folder, or the folder of the files.
        split: "cold_start", "train", "id", "imagenet_r" or "imagenet_a".

    Raises:
        ValueError: a file is missing, or its rows are not the release's.
    """
    return _read(release, _FILES[split])


def released_difficulties(
    release: str, of_model: str, counts: Mapping[str, Sequence[int]]
) -> dict[ReleasedPicture, Difficulty]:
    """How difficult each training picture was for the release's cold-started model.

    Args:
        release: as above.
        of_model: whose difficulty: qwen2_5_vl_3b or qwen2_5_vl_7b.
        counts: the easy, medium and hard rows that there must be, by model.

    Raises:
        ValueError: a file is missing, the counts differ, or the rows are not those of "train".
    """
    if of_model not in _SIZES or of_model not in counts:
        raise ValueError(
            f"label.of_model must be one of {', '.join(_SIZES)}, got {of_model!r}; the release has labels of no other: "
            "use label=sampled"
        )
    found: dict[ReleasedPicture, Difficulty] = {}
    got: list[int] = []
    for difficulty in DIFFICULTIES:
        rows = _read(release, _LABEL_FILE.format(difficulty=_WORDS[difficulty], size=_SIZES[of_model]))
        found |= dict.fromkeys(rows, difficulty)
        got.append(len(rows))
    expected = list(counts[of_model])
    if got != expected:
        raise ValueError(
            f"the release's labels of {of_model} must be {_counted(expected)}, got {_counted(got)}; "
            "take its files again"
        )
    train = released_pictures(release, "train")
    if found.keys() != set(train) or sum(got) != len(train):
        raise ValueError(
            f"the release's labels of {of_model} must be of its {len(train)} training rows, each once, got "
            f"{len(found)} pictures with {len(found.keys() & set(train))} of them; take its files again"
        )
    return found


def _counted(numbers: Sequence[int]) -> str:
    return " / ".join(f"{number} {name}" for number, name in zip(numbers, DIFFICULTIES, strict=True))


def _read(release: str, name: str) -> list[ReleasedPicture]:
    folder = Path(release).expanduser()
    path = next((path for path in (folder / "data" / name, folder / name) if path.is_file()), None)
    if path is None:
        raise ValueError(
            f"task.release must be the folder of the paper's release, got {release!r} without data/{name}; "
            "git clone https://github.com/byyx666/DC-SFT"
        )
    names = {one.wnid: one.name for one in single_word_classes()}
    rows: list[ReleasedPicture] = []
    try:
        for row in json.loads(path.read_text()):
            place, answer = _picture_and_answer(row)
            wnid, file = PurePosixPath(place).parts[-2:]
            if names[wnid] != answer:
                raise ValueError(f"row {len(rows)} calls {wnid} {answer!r}, which is {names[wnid]!r}")
            rows.append(ReleasedPicture(wnid, file))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"task.release must hold the release's JSON files, got {str(path)!r}, of which row {len(rows)} cannot be "
            f"used ({type(error).__name__}: {error}); take its files again"
        ) from error
    return rows


def _picture_and_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """Files for SFT hold conversations, the others a problem and its solution."""
    if "messages" in row:
        (place,) = row["images"]
        return place, row["messages"][-1]["content"]
    return row["image"], row["solution"]
