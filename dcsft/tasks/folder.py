"""Your own pictures: class-named folders, as torchvision's ImageFolder users have them."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from dcsft.records import Example, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.sources import UNREADABLE, PictureFile, as_rgb
from dcsft.tasks.task import Task

OPENER_VERSION = 1
"""Raised whenever a change to the decoding code changes a pixel."""
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
"""What counts as a picture, in any case; files with other endings are not looked at."""
_OWN_SPLITS = ("train", "cold_start", "id")
_DAMAGED = ("cannot be read", "too many pixels")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_CHECK_PX = (64, 64)  # a JPEG is checked at a small scale: every byte is still decoded, with an eighth of the pixels


@dataclass(frozen=True)
class _File:
    """A readable picture."""

    id: str  # the split and the relative path
    path: str
    target: str
    digest: str


def _check(path: str) -> str:
    """The content hash of a picture; `verify` finds broken checksums, and only decoding it all finds a truncated one.

    Raises:
        Any of `_BOMBS` and `UNREADABLE`.
    """
    path.encode()  # a name that is not text cannot seed a stream: UnicodeEncodeError is a ValueError
    content = Path(path).read_bytes()
    with Image.open(BytesIO(content)) as image:
        image.verify()
    with Image.open(BytesIO(content)) as image:
        image.draft("RGB", _CHECK_PX)
        as_rgb(image)
    return hashlib.sha256(content).hexdigest()[:16]


def _picture_paths(folder: Path) -> Iterator[Path]:
    """All picture files below `folder`, links followed, hidden ones left out, no folder twice."""

    def stop(error: OSError) -> None:
        raise error  # os.walk would leave out a folder that it may not list

    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in sorted(names) if _is_picture(name))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _target_of(name: str) -> str:
    """Underscores are spaces; composed characters, as macOS would not store them."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


class Folder(Task):
    """Name the class of a picture that lies in DIR/<class>/, at any depth.

    The target is the folder's name with underscores as spaces ("hot_dog" teaches "hot dog"); names that differ in case
    alone are one class, as exact match ignores case. Hidden files and files without a picture's ending are not looked
    at. Every picture is decoded once here: what cannot be used is counted in `dropped` and listed in `dropped_paths`.

    Of equal files in DIR of `train`, the first by path stays, or the cold start could meet the training pictures. A
    test picture that is also in `train` is dropped from the test set. Rows of OOD sets are grouped in "seen" and
    "novel" by whether training has their class.

    Args:
        seed: draws which pictures the cold start takes, and the order of both splits.
        train: the folder whose pictures are shared out to "cold_start" and "train".
        id: test pictures of the same kind.
        ood: the folder of each OOD set, by name; the order is that of the tables.
        num_cold_start: size of "cold_start". The classes take turns; each keeps at least one picture for training.
        square: pad pictures to a square with white. The tiny model sees four tokens of a square picture, and only two
            of an oblong one.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        seed: int,
        train: str | None,
        id: str | None,
        ood: Mapping[str, str | None] | None,
        num_cold_start: int,
        square: bool,
    ) -> None:
        super().__init__(reward, question)
        self._square = square
        roots: dict[str, str | None] = {"train": train, "id": id}
        for key, root in dict(ood or {}).items():
            name = str(key)
            if name in _OWN_SPLITS or not name or "/" in name:
                raise ValueError(
                    f"task.ood must be named otherwise than {', '.join(_OWN_SPLITS)} and without a slash, "
                    f"got {name!r}; rename the OOD set"
                )
            roots[name] = root
        self._ood = tuple(name for name in roots if name not in _OWN_SPLITS)
        self._origins = {split: str(root) for split, root in {"cold_start": train, **roots}.items()}
        self.dropped_paths: dict[str, tuple[str, ...]] = {}
        """Which files `dropped` counts, by the same names."""
        paths = {split: self._list(split, root) for split, root in roots.items()}
        files = {split: self._read(split, paths[split]) for split in roots}

        firsts = {file.digest: file for file in reversed(files["train"])}
        self._drop("train", "repeated", [file for file in files["train"] if firsts[file.digest] is not file])
        files["train"] = [file for file in files["train"] if firsts[file.digest] is file]
        for split in self.tests:
            self._drop(split, "also in train", [file for file in files[split] if file.digest in firsts])
            files[split] = [file for file in files[split] if file.digest not in firsts]
        for split, rows in files.items():
            if not rows:
                raise ValueError(
                    f"{self._name(split)} must be a folder with pictures to use, got {roots[split]!r}; of those there, "
                    f"all were dropped: {self.dropped}"
                )
        self._classes = frozenset(file.target.casefold() for file in files["train"])
        files["cold_start"], files["train"] = _share_out(files["train"], num_cold_start, seed)
        self._files = files

    def _name(self, split: str) -> str:
        return f"task.ood.{split}" if split in self._ood else f"task.{split}"

    def _drop(self, split: str, reason: str, files: Sequence[_File | str]) -> None:
        if files:
            paths = tuple(file.path if isinstance(file, _File) else file for file in files)
            self.dropped_paths[f"{split}: {reason}"] = paths

    def _list(self, split: str, root: str | None) -> list[tuple[str, str, str]]:
        """Id, path and target of each picture file of a split."""
        name = self._name(split)
        if root is None:
            raise ValueError(f"{name} must be a folder of class-named folders, got None; set {name}=DIR")
        base = Path(root).expanduser().absolute()
        if not base.is_dir():
            raise ValueError(f"{name} must be a folder of class-named folders, got {root!r}; there is no such folder")
        entries = sorted(base.iterdir())
        folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        if not folders:
            raise ValueError(f"{name} must be a folder of class-named folders, got {root!r}; make it DIR/class/picture")
        found: list[tuple[str, str, str]] = []
        empty: list[str] = []
        for folder in folders:
            target = _target_of(folder.name)
            if not target:
                raise ValueError(f"a class folder of {name} must be a name, got {folder.name!r}; rename it")
            rows = [
                (f"{split}/{path.relative_to(base).as_posix()}", str(path), target) for path in _picture_paths(folder)
            ]
            found += rows
            if not rows:
                empty.append(str(folder))
        if not found:
            endings = " ".join(sorted(EXTENSIONS))
            raise ValueError(
                f"{name} must be a folder whose class folders hold pictures, got {root!r}; known endings: {endings}"
            )
        self._drop(split, "class folder without pictures", empty)
        loose = [str(entry) for entry in entries if entry.is_file() and _is_picture(entry.name)]
        self._drop(split, "not in a class folder", loose)
        return found

    def _read(self, split: str, rows: list[tuple[str, str, str]]) -> list[_File]:
        """The pictures of a split that can be decoded."""

        def digest_or_reason(row: tuple[str, str, str]) -> tuple[str | None, str]:
            try:
                return _check(row[1]), ""
            except _BOMBS:
                return None, "too many pixels"
            except UNREADABLE:
                return None, "cannot be read"

        with ThreadPoolExecutor() as threads:  # Pillow decodes without the interpreter's lock
            checked = list(zip(rows, threads.map(digest_or_reason, rows), strict=True))
        for reason in _DAMAGED:
            self._drop(split, reason, [row[1] for row, (_, why) in checked if why == reason])
        return [_File(*row, digest) for row, (digest, _) in checked if digest is not None]

    @property
    def ood(self) -> tuple[str, ...]:
        return self._ood

    @property
    def classes(self) -> frozenset[str]:
        return self._classes

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: len(paths) for reason, paths in self.dropped_paths.items()}

    @property
    def broken_files(self) -> tuple[str, ...]:
        damaged = (paths for reason, paths in self.dropped_paths.items() if reason.endswith(_DAMAGED))
        return tuple(path for paths in damaged for path in paths)

    @property
    def origins(self) -> Mapping[str, str]:
        return self._origins

    def identity(self, split: str) -> dict[str, object]:
        """By content: a folder that moves is the same data, an edited picture is not."""
        rows = [
            (row.id, row.target, row.group, *(picture.id for picture in row.pictures)) for row in self.examples(split)
        ]
        return {"split": split, "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self._files:
            raise ValueError(f"split must be one of {', '.join(self._files)}, got {split!r}; task.ood names the others")
        return [self._example(split, file) for file in self._files[split]]

    def _example(self, split: str, file: _File) -> Example:
        """A picture keeps its id whichever side of the cold start it falls on."""
        group = None
        if split in self._ood:
            group = "seen" if file.target.casefold() in self._classes else "novel"
        shape = "square/" if self._square else ""
        picture = Picture(f"folder-{OPENER_VERSION}/{shape}{file.digest}", PictureFile(file.path, self._square))
        return Example(file.id, split, (picture,), file.target, group=group)


def _share_out(files: list[_File], num_cold_start: int, seed: int) -> tuple[list[_File], list[_File]]:
    """Cold start and training pictures, both in an order that `seed` draws."""
    order = [files[i] for i in stream("folder", "order", seed).permutation(len(files))]
    classes: dict[str, list[_File]] = {}
    for file in order:
        classes.setdefault(file.target.casefold(), []).append(file)
    turns = [(turn, name, file) for name, rows in classes.items() for turn, file in enumerate(rows[:-1])]
    if not 1 <= num_cold_start <= len(turns):
        advice = f"set it to {len(turns)} or fewer" if turns else "give each class at least two pictures"
        raise ValueError(
            f"task.num_cold_start must be between 1 and {len(turns)}, as every class keeps a picture for training, "
            f"got {num_cold_start}; {advice}"
        )
    turns.sort(key=lambda row: row[:2])
    cold_start = [file for _, _, file in turns[:num_cold_start]]
    taken = {file.id for file in cold_start}
    return cold_start, [file for file in order if file.id not in taken]
