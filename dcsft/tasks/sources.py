"""Rows and pictures from what people have on disk or on the Hub; shared by every task that reads a dataset."""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from pyarrow import DataType
    from pyarrow.parquet import ParquetFile

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files; UnidentifiedImageError is an OSError."""


def as_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Upright, on white where it is transparent, 8 bits a channel.

    Args:
        size: width and height that an annotation refers to; a picture that has them as it is stored, and not upright,
            is not turned.

    Raises:
        ValueError: the picture has no known white (32-bit integers or floats).
    """
    upright = ImageOps.exif_transpose(image)
    if upright.size == size or image.size != size:
        image = upright
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # converting would clip
        raise ValueError(f"a picture must have 8 or 16 bits a channel, got mode {image.mode!r}; convert it first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _decoded(source: str | BytesIO, place: str, size: tuple[int, int] | None = None) -> Image.Image:
    """The RGB picture of a file; `place` names it where it is damaged."""
    try:
        with Image.open(source) as image:
            return as_rgb(image, size)
    except UNREADABLE as error:
        raise ValueError(f"a picture must be readable, got {place} ({error}); replace it") from error


@dataclass(frozen=True)
class PictureFile:
    """Reads one picture when called; a class and not a closure, so that it travels to worker processes."""

    path: str
    square: bool = False
    size: tuple[int, int] | None = None
    """Of `as_rgb`."""

    def __call__(self) -> Image.Image:
        picture = _decoded(self.path, repr(self.path), self.size)
        side = max(picture.size)
        return ImageOps.pad(picture, (side, side), color="white") if self.square else picture

    def stamp(self) -> str:
        """The file's size in bytes: with its name, a cheap sign of its content.

        Raises:
            OSError: the file is not there, or empty.
        """
        size = os.stat(self.path).st_size
        if not size:
            raise OSError(f"{self.path} is empty")
        return str(size)


@dataclass(frozen=True)
class PictureCell:
    """Reads one picture out of a Parquet file of the Hub's layout, where a picture is a struct of bytes and path."""

    path: str
    row_group: int
    row: int
    column: str
    name: str | None = None
    """The picture's own file name, where it is stored."""

    def __call__(self) -> Image.Image:
        return _decoded(
            BytesIO(self.content()), f"{self.column} of row {self.row} of row group {self.row_group} of {self.path!r}"
        )

    def stamp(self) -> str:
        """The size of the Parquet file in bytes, and the place in it: with a name, a cheap sign of the content.

        Raises:
            OSError: the file is not there.
        """
        return f"{os.stat(self.path).st_size}.{self.row_group}.{self.row}"

    def content(self) -> bytes:
        """The encoded picture, as it is stored."""
        encoded: bytes = _row_group(self.path, self.row_group, self.column)[self.row]
        return encoded


@lru_cache(maxsize=2)
def _row_group(path: str, number: int, column: str) -> list[bytes]:
    """The pictures of one row group; neighbours are mostly read one after another."""
    import pyarrow.parquet as pq

    pictures = pq.ParquetFile(path).read_row_group(number, columns=[f"{column}.bytes"])[column]
    return [picture and picture["bytes"] for picture in pictures.to_pylist()]


def parquet_files(name: str, source: str, split: str) -> list[Path]:
    """The Parquet files of one split of a dataset, in order: of a local folder or of the Hub.

    Args:
        name: the option that `source` comes from, for messages.
        source: a folder, or the Hub id of a dataset (downloaded into the Hub's own cache).
        split: files are those whose name begins with it ("train-00000-of-00013.parquet"), in whichever folder.

    Raises:
        ValueError: there is no such dataset, it wants a token, or it has no such split.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(name, source, split)
    found = sorted(path for path in folder.rglob("*.parquet") if path.name.startswith((f"{split}-", f"{split}.")))
    if not found:
        there = sorted({path.name.split("-")[0].removesuffix(".parquet") for path in folder.rglob("*.parquet")})
        raise ValueError(
            f"{name} must hold Parquet files of the split {split!r}, got {source!r} with "
            f"{', '.join(there) or 'none'}; look at the dataset's card"
        )
    return found


def content_digest(file: Path) -> str:
    """Identity of a file's content, hexadecimal; hashed once a process; where the Hub's cache knows it, not at all."""
    stat = file.stat()
    return _content_digest(str(file), stat.st_size, stat.st_mtime_ns)


@cache
def _content_digest(path: str, size: int, modified_ns: int) -> str:
    stored = Path(path).resolve().name  # in the Hub's cache a large file is named by its SHA-256
    if re.fullmatch("[0-9a-f]{64}", stored):
        return stored
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str, source: str, split: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [f"{folder}{split}{more}.parquet" for folder in ("", "*/") for more in ("", "-*")]
        return Path(snapshot_download(source, repo_type="dataset", allow_patterns=wanted))
    except GatedRepoError as error:
        raise ValueError(
            f"{name} must be a dataset that you may read, got {source!r}, which is gated; accept its terms on the Hub, "
            "then `hf auth login`"
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} must be a folder or a dataset on the Hub, got {source!r} ({reason})") from error


def parquet_file(name: str, path: Path) -> "ParquetFile":
    """An open Parquet file; `name` is the option that it comes from, for messages.

    Raises:
        ValueError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{name} must hold readable Parquet files, got {str(path)!r} ({error})") from error


def _holds_pictures(kind: "DataType") -> bool:
    """Whether a column is the Hub's picture: its encoded bytes, and the name of the file that they come from."""
    import pyarrow.types as types

    fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
    encoded = fields.get("bytes")
    return "path" in fields and encoded is not None and (types.is_binary(encoded) or types.is_large_binary(encoded))


def parquet_rows(
    name: str, files: Sequence[Path], columns: Sequence[str], pictures: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of Parquet files; pictures stay on disk until they are opened.

    Args:
        name: the option that the files come from, for messages.
        columns: plain values to read.
        pictures: columns that hold pictures; their value is a `PictureCell`, or None where the row has none.

    Raises:
        ValueError: a file lacks a column, keeps pictures in another form, or cannot be read.
    """
    for path in files:
        file = parquet_file(name, path)
        there = file.schema_arrow.names
        missing = [column for column in (*columns, *pictures) if column not in there]
        if missing:
            raise ValueError(
                f"{name} must have the columns {', '.join((*columns, *pictures))}, got {str(path)!r} with "
                f"{', '.join(there)}; it lacks {', '.join(missing)}"
            )
        for picture in pictures:
            if not _holds_pictures(kind := file.schema_arrow.field(picture).type):
                raise ValueError(
                    f"the column {picture} of {name} must hold pictures as a struct of bytes and path, got {kind} in "
                    f"{str(path)!r}; save it as the Image feature of `datasets`"
                )
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*columns, *(f"{picture}.path" for picture in pictures)])
            names = {picture: table[picture].to_pylist() for picture in pictures}  # without their bytes
            for row, values in enumerate(table.select(list(columns)).to_pylist()):
                for picture in pictures:
                    stored = names[picture][row]
                    values[picture] = stored and PictureCell(str(path), group, row, picture, stored["path"])
                yield values
