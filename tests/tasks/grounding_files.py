"""Small grounding data in the true formats: pictures of one rectangle each, and the files that say where it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from dcsft.seeding import stream

SIZES = ((64, 48), (48, 64), (90, 60), (120, 120))
QUESTION = "Please provide the bounding box coordinate of the region this sentence describes: {phrase}."


@dataclass(frozen=True)
class Drawn:
    """A picture with a rectangle: [x1, y1, x2, y2] in its own pixels, whole numbers."""

    number: int
    file: str
    width: int
    height: int
    box: tuple[int, int, int, int]
    phrases: tuple[str, ...]

    @property
    def xywh(self) -> list[float]:
        x1, y1, x2, y2 = self.box
        return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def rectangle(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """A green rectangle that covers the pixels [x1, x2) x [y1, y2), on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (120, 120, 120))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(0, 160, 0))
    image.save(path, quality=95)


def draw(folder: Path, prefix: str, numbers: Sequence[int]) -> list[Drawn]:
    """Writes a picture a number; its size and box follow from the number."""
    drawn = []
    for number in numbers:
        width, height = SIZES[number % len(SIZES)]
        left, top = stream("rectangle", number).uniform(0.05, 0.3, 2)
        box = (int(left * width), int(top * height), int((left + 0.6) * width), int((top + 0.6) * height))
        file = f"{prefix}{number:012d}.jpg"
        rectangle(folder / file, (width, height), box)
        phrases = ("the green area", f"green thing no {number}", "caf\xe9 sign")[: 1 + number % 3]
        drawn.append(Drawn(number, file, width, height, box, phrases))
    return drawn


def _sentences(row: Drawn) -> list[dict[str, Any]]:
    words = enumerate(row.phrases)
    return [{"sent_id": 10 * row.number + i, "sent": text, "raw": text, "tokens": text.split()} for i, text in words]


def _refs(rows: Sequence[Drawn], split: str) -> list[dict[str, Any]]:
    return [
        {
            "ref_id": row.number,
            "ann_id": 100 + row.number,
            "image_id": row.number,
            "category_id": 1,
            "split": split,
            "file_name": row.file.replace(".jpg", f"_{row.number}.jpg"),  # the true files have a suffix here
            "sent_ids": [sentence["sent_id"] for sentence in _sentences(row)],
            "sentences": _sentences(row),
        }
        for row in rows
    ]


def python_2_pickle(value: Any) -> bytes:
    """Protocol 0 as Python 2 wrote it: text is a byte string, which Python 3 cannot write any more."""

    def inner(value: Any) -> bytes:
        if isinstance(value, list):
            return b"(" + b"".join(map(inner, value)) + b"l"
        if isinstance(value, dict):
            return b"(" + b"".join(inner(key) + inner(entry) for key, entry in value.items()) + b"d"
        return f"I{value}\n".encode() if isinstance(value, int) else f"S{repr(value.encode('latin1'))[1:]}\n".encode()

    return inner(value) + b"."


def write_unc(folder: Path, train: Sequence[Drawn], val: Sequence[Drawn]) -> Path:
    """`refs(unc).p` and `instances.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    other = _refs([Drawn(999_000, "COCO_train2014_other.jpg", 10, 10, (1, 1, 5, 5), ("not asked",))], "testA")
    (folder / "refs(unc).p").write_bytes(python_2_pickle(_refs(train, "train") + _refs(val, "val") + other))
    rows = [*train, *val]
    images = [{"id": r.number, "file_name": r.file, "width": r.width, "height": r.height} for r in rows]
    boxes = [{"id": 100 + r.number, "image_id": r.number, "category_id": 1, "bbox": r.xywh} for r in rows]
    categories = [{"id": 1, "name": "thing"}]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": categories})
    )
    return folder


def write_jxu124(folder: Path, train: Sequence[Drawn], val: Sequence[Drawn], xywh: bool = False) -> Path:
    """The Parquet files of `jxu124/refcoco`; `xywh`: with the mistake that is to be found."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("validation", val)):
        table = [
            {
                **ref,
                "raw_anns": json.dumps({"id": ref["ann_id"], "bbox": row.xywh, "image_id": row.number}),
                "raw_image_info": json.dumps({"file_name": row.file, "width": row.width, "height": row.height}),
                "image_path": f"coco/train2014/{row.file}",
                "bbox": row.xywh if xywh else [float(edge) for edge in row.box],
                "captions": list(row.phrases),
            }
            for ref, row in zip(_refs(rows, split), rows, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(table), folder / "data" / f"{split}-00000-of-00001-0a1b2c.parquet")
    return folder


def _vlm_r1_rows(rows: Sequence[Drawn], folder: str) -> list[dict[str, Any]]:
    return [
        {
            "image": f"{folder}/{row.file}",
            "problem": QUESTION.replace("{phrase}", phrase),
            "solution": [float(edge) for edge in row.box],
        }
        for row in rows
        for phrase in row.phrases
    ]


def write_vlm_r1(folder: Path, train: Sequence[Drawn], val: Sequence[Drawn]) -> Path:
    """`refcoco_train.jsonl` and `refcoco_val.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": number,
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": "<image>" + row["problem"]},
                {"from": "gpt", "value": str(row["solution"])},
            ],
        }
        for number, row in enumerate(_vlm_r1_rows(train, "train2014"))
    ]
    (folder / "refcoco_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "refcoco_val.json").write_text(json.dumps(_vlm_r1_rows(val, "train2014")))
    return folder


def write_lisa(folder: Path, rows: Sequence[Drawn]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lisa_test.json").write_text(json.dumps(_vlm_r1_rows(rows, "test")))
    return folder


def write_ref_l4(folder: Path, rows: Sequence[Drawn], of_coco: int = 1, **changed: Any) -> Path:
    """`ref-l4-val.parquet`; its first `of_coco` rows come from COCO."""
    folder.mkdir(parents=True, exist_ok=True)
    table = [
        {
            "id": row.number,
            "caption": f"On the grey ground, {row.phrases[0]}.",
            "bbox": row.xywh,
            "bbox_area": row.xywh[2] * row.xywh[3],
            "bbox_id": f"o365_{row.number}",
            "ori_category_id": f"{'refcoco' if number < of_coco else 'o365'}_64",
            "image_id": f"o365_{row.number}",
            "height": row.height,
            "width": row.width,
            "file_name": row.file,
            "is_rewrite": False,
            "split": "val",
            **changed,
        }
        for number, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / "ref-l4-val.parquet")
    return folder


@dataclass(frozen=True)
class World:
    """Everything that task=refcoco needs, under one folder."""

    root: Path
    train: list[Drawn]
    val: list[Drawn]
    ref_l4: list[Drawn]
    lisa: list[Drawn]

    @property
    def overrides(self) -> list[str]:
        """The command line, with the annotations of UNC."""
        folders = {
            "task.annotations.refcoco": "unc",
            "task.annotations.ref_l4": "ref_l4",
            "task.annotations.lisa": "vlm_r1",
            "task.images.coco": "coco",
            "task.images.objects365": "ref_l4/images",
            "task.images.lisa": "lisa",
        }
        counts = ["task.num_train=8", "task.num_cold_start=4"]
        expected = ["task.expected.train=null", "task.expected.id=null", "task.expected.lisa=null"]
        return [f"{option}={self.root / folder}" for option, folder in folders.items()] + counts + expected


def write_world(root: Path, num_train: int = 14) -> World:
    """14 training pictures, 4 of each test set."""
    coco = root / "coco" / "train2014"
    train = draw(coco, "COCO_train2014_", range(1, num_train + 1))
    val = draw(coco, "COCO_train2014_", range(101, 105))
    others = draw(root / "ref_l4" / "images", "objects365_v2_", range(201, 205))
    lisa = draw(root / "lisa" / "test", "", range(301, 305))
    write_unc(root / "unc", train, val)
    write_ref_l4(root / "ref_l4", others)
    write_lisa(root / "vlm_r1", lisa)
    return World(root, train, val, others, lisa)
