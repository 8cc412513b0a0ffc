"""Rows and pictures from Parquet files in the Hub's layout."""

import pickle
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dcsft.tasks.sources import as_rgb, parquet_files, parquet_rows

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    pictures = [{"bytes": png("red"), "path": "a.png"}, None, {"bytes": png("blue"), "path": None}]
    table = pa.table({"label": [1, 2, 3], "image": pa.array(pictures, type=PICTURE)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    return tmp_path


def test_rows_come_in_order_and_pictures_are_read_when_opened(dataset):
    files = parquet_files("task.root", str(dataset), "train")
    rows = list(parquet_rows("task.root", files, ["label"], ["image"]))
    assert [row["label"] for row in rows] == [1, 2, 3]
    assert rows[1]["image"] is None
    assert rows[0]["image"]().getpixel((0, 0)) == (255, 0, 0)
    travelled = pickle.loads(pickle.dumps(rows[2]["image"]))
    assert travelled().getpixel((0, 0)) == (0, 0, 255)
    assert travelled.content() == png("blue")


def test_what_is_not_there_is_said(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"task.root must hold Parquet files of the split 'test', got .* with train; "):
        parquet_files("task.root", str(dataset), "test")
    files = parquet_files("task.root", str(dataset), "train")
    with pytest.raises(ValueError, match=r"the columns wnid, got .* with label, image; it lacks wnid"):
        list(parquet_rows("task.root", files, ["wnid"]))
    broken = tmp_path / "test.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="readable Parquet files"):
        list(parquet_rows("task.root", [broken], ["label"]))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([b"png"]), "binary"),
        (pa.array(["a.png"]), "string"),
        (pa.nulls(1), "null"),
        (pa.array([{"bytes": b"png"}]), "struct<bytes: binary>"),
        (pa.array([{"path": "a.png"}]), "struct<path: string>"),
        (pa.array([{"bytes": "png", "path": "a.png"}]), "struct<bytes: string, path: string>"),
        (pa.array([[{"bytes": b"png", "path": "a.png"}]]), "list<"),
    ],
)
def test_pictures_in_another_form_are_said_with_their_column(tmp_path, column, kind):
    pq.write_table(pa.table({"label": [1], "image": column}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"the column image of task.root must .* bytes and path, got .*; ") as error:
        list(parquet_rows("task.root", [tmp_path / "train.parquet"], ["label"], ["image"]))
    assert f"got {kind}" in str(error.value)
    assert "\n" not in str(error.value)


def test_transparent_becomes_white_and_16_bits_become_8():
    assert as_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(Image.new("I;16", (2, 2), 0x1234)).getpixel((0, 0)) == (0x12,) * 3
    with pytest.raises(ValueError, match="8 or 16 bits"):
        as_rgb(Image.new("F", (2, 2)))
