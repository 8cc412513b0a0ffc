"""Small copies of ImageNet, ImageNet-R, ImageNet-A and the paper's release, in their true formats."""

import csv
import json
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from dcsft.tasks.imagenet_classes import single_word_classes, training_classes

CLASSES = {one.wnid: one for one in single_word_classes()}
OFFICIAL = [one.wnid for one in training_classes("official", 0)]
IN_R = [wnid for wnid, one in CLASSES.items() if one.in_r]
IN_A = [wnid for wnid, one in CLASSES.items() if one.in_a]
PROMPT = "Please provide the object name in the image. Output the answer using one word."

SIZES = {"num_per_class": 3, "num_cold_start": 100, "num_id_per_class": 1, "num_imagenet_r": 68, "num_imagenet_a": 87}
"""What `write_world` writes: 100 classes of three training pictures and one validation picture; one of each in R, A."""


@lru_cache
def jpeg(number: int) -> bytes:
    """One of 35 pictures."""
    file = BytesIO()
    colour = (40 * (number % 7), 30 * (number % 5), 90)
    Image.new("RGB", (24 + 4 * (number % 5), 20), colour).save(file, "JPEG")
    return file.getvalue()


def write_jpeg(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(number))


def write_world(root: Path, wnids: list[str] | None = None) -> Path:
    """The folders of all four sets, named by wnid, below `root`."""
    for number, wnid in enumerate(wnids or OFFICIAL):
        for picture in range(3):
            write_jpeg(root / "train" / wnid / f"{wnid}_{17 * picture}.JPEG", number + picture)
        write_jpeg(root / "val" / wnid / f"ILSVRC2012_val_{number + 1:08d}.JPEG", number)
    for number, wnid in enumerate(IN_R):
        write_jpeg(root / "imagenet-r" / wnid / f"art_{number}.jpg", number)
    for number, wnid in enumerate(IN_A):
        ending = ("jpg", "jpeg", "JPEG")[number % 3]
        write_jpeg(root / "imagenet-a" / wnid / f"0.00{number}_mosque _ mosque_0.9{number}.{ending}", number)
    return root


def flatten_validation(root: Path) -> dict[str, str]:
    """val/<wnid>/X becomes val/X; returns the wnid of each."""
    labels = {}
    for path in sorted((root / "val").glob("*/*")):
        labels[path.stem] = path.parent.name
        path.rename(root / "val" / path.name)
    for folder in {root / "val" / wnid for wnid in labels.values()}:
        folder.rmdir()
    return labels


def write_devkit(folder: Path, labels: dict[str, str]) -> None:
    """The truth, and the struct array of meta.mat: 309 leaves, numbered against the order of wnids, and one parent."""
    folder.mkdir(parents=True)
    numbers = {wnid: len(CLASSES) - i for i, wnid in enumerate(CLASSES)}
    truth = [numbers[labels[stem]] for stem in sorted(labels)]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    leaves = [(number, wnid, CLASSES[wnid].name, "a gloss", 0) for wnid, number in numbers.items()]
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    synsets = np.array([*leaves, (1001, "n00001740", "entity", "all", 2)], [(field, "O") for field in fields])
    savemat(folder / "meta.mat", {"synsets": synsets.reshape(-1, 1)})


def write_kaggle(root: Path, labels: dict[str, str]) -> None:
    """Kaggle's folders, and its csv of wnids and boxes."""
    pictures = root / "ILSVRC" / "Data" / "CLS-LOC"
    pictures.mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).rename(pictures / split)
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        writer.writerows([stem, f"{wnid} 85 1 499 272 {wnid} 1 2 3 4 "] for stem, wnid in sorted(labels.items()))


def write_parquet(
    pictures: Path,
    path: Path,
    label: str = "label",
    names: list[str] | None = None,
    suffixed: bool = False,
    row_group_size: int = 10,
) -> Path:
    """The pictures of a folder of wnids, as the Hub keeps them; the column `label` has wnids if it is called so."""
    files = sorted(pictures.glob("*/*"))
    wnids = [file.parent.name for file in files]
    paths = [f"{file.stem}_{file.parent.name}{file.suffix}" if suffixed else file.name for file in files]
    cells = [{"bytes": file.read_bytes(), "path": name} for file, name in zip(files, paths, strict=True)]
    known = {wnid: number for number, wnid in enumerate(names or [])}
    values = wnids if label == "wnid" else [known.get(wnid, CLASSES[wnid].label) for wnid in wnids]
    table = pa.table(
        {"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), label: values}
    )
    if label == "label":
        names = names or [f"class {number}" for number in range(1000)]
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_release(folder: Path, world: Path) -> dict[str, list[int]]:
    """The release's JSON files on the pictures of `world`; returns its counts of easy, medium and hard by model."""
    data = folder / "data"
    data.mkdir(parents=True)

    def rows(below: str, authors: str, keep: slice = slice(None)) -> list[tuple[str, str]]:
        folders = sorted((world / below).iterdir(), reverse=True)  # not in the order of wnids
        return [
            (f"/data/dataset/{authors}/{wnid.name}/{file.name}", CLASSES[wnid.name].name)
            for wnid in folders
            for file in sorted(wnid.iterdir())[keep]
        ]

    def evaluation(name: str, some: list[tuple[str, str]]) -> None:
        values = [{"problem": PROMPT, "solution": answer, "image": image} for image, answer in some]
        (data / name).write_text(json.dumps(values, indent=2))

    def conversation(image: str, answer: str) -> dict:
        turns = [{"role": "user", "content": f"<image>{PROMPT}"}, {"role": "assistant", "content": answer}]
        return {"messages": turns, "images": [image]}

    def sft(name: str, some: list[tuple[str, str]]) -> None:
        (data / name).write_text(json.dumps([conversation(*row) for row in some], indent=4))

    train = rows("train", "Imagenet/train", slice(1, None))
    sft("imagenet_cold_sft.json", rows("train", "Imagenet/train", slice(0, 1)))
    sft("imagenet_left_sft.json", train)
    evaluation("imagenet_val_processed.json", rows("val", "Imagenet/val"))
    evaluation("imagenet-r_val_processed.json", rows("imagenet-r", "Imagenet-R/images"))
    evaluation("imagenet-a_val_processed.json", rows("imagenet-a", "Imagenet-A/images"))
    for size, parts in (("3b", (3, 5)), ("7b", (4, 6))):
        for number, word in enumerate(("easy", "middle", "hard")):
            chosen = [row for i, row in enumerate(train) if (i % 8 >= parts[0]) + (i % 8 >= parts[1]) == number]
            sft(f"imagenet_{word}_sft_{size}.json", chosen)
    return {"qwen2_5_vl_3b": [75, 50, 75], "qwen2_5_vl_7b": [100, 50, 50]}  # of 200, in eighths
