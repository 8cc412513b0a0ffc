"""What stage=publish writes, read back as its readers do: the Hub, pandas, pyarrow, ms-swift, LLaMA-Factory, TRL."""

import hashlib
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from dcsft.artefacts import Artefact
from dcsft.boxes import Frame
from dcsft.records import Example, Message, Picture
from dcsft.stages import curated, publish

FACTS = {"task": "icons", "model": "tiny", "judge": "exact", "labels": "temperature 0.9", "seed": 0}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A label stage's folder: two easy, one medium, none hard, one that could not be judged."""
    folder = tmp_path / "store"
    folder.mkdir()
    kinds = ["easy", "easy", "medium", None]
    frame = pd.DataFrame({"id": [f"train/{i}" for i in range(4)], "difficulty": kinds, "num_correct": [8, 8, 3, 0]})
    frame.to_parquet(folder / "labels.parquet")
    pd.DataFrame({"id": ["train/0"] * 8, "sample": range(8)}).to_parquet(folder / "rollouts.parquet")
    return folder


@pytest.fixture
def labels(labelled: Path, tmp_path: Path) -> Path:
    cold = Artefact("cold_start", 1, {"lr": 1.0}, {})
    out = tmp_path / "published" / "labels"
    publish.write_labels(out, labelled, Artefact("label", 1, {"temperature": 0.9}, {"cold_start": cold}), FACTS)
    return out


def test_the_card_says_what_there_is_and_how_it_was_made(labels: Path, labelled: Path):
    _, header, text = (labels / "README.md").read_text().split("---\n", 2)
    meta = yaml.safe_load(header)
    assert [one["config_name"] for one in meta["configs"]] == ["labels", "rollouts"]
    assert meta["configs"][0]["default"] is True
    assert meta["size_categories"] == ["n<1K"]
    for one in meta["configs"]:
        assert (labels / one["data_files"]).read_bytes() == (labelled / Path(one["data_files"]).name).read_bytes()
    assert "| easy | 2 | 50.0 % |" in text  # 2 of 4
    assert "| medium | 1 | 25.0 % |" in text
    assert "| not judged | 1 | 25.0 % |" in text
    assert "| hard |" not in text
    assert hashlib.sha256((labelled / "labels.parquet").read_bytes()).hexdigest() in text
    assert "temperature 0.9" in text
    recipe = json.loads((labels / "recipe.json").read_text())
    assert recipe["recipe"] == {"temperature": 0.9}
    assert recipe["parents"]["cold_start"]["recipe"] == {"lr": 1.0}
    assert recipe["key"] in text


def test_only_the_labels_are_sent(labels: Path):
    asked = []

    class Hub:
        def create_repo(self, repo_id, **more):
            asked.append((repo_id, more))

        def upload_folder(self, **more):
            asked.append(more)

    assert publish.push(labels, "me/labels", True, Hub()) == "https://huggingface.co/datasets/me/labels"
    key = json.loads((labels / "recipe.json").read_text())["key"]
    assert asked == [
        ("me/labels", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        {"repo_id": "me/labels", "repo_type": "dataset", "folder_path": labels, "commit_message": f"Labels {key}"},
    ]
    assert {path.suffix for path in labels.rglob("*") if path.is_file()} == {".md", ".json", ".parquet"}


PIXELS = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


class Boxes:
    """Two training examples; a system prompt, a picture, a question, a box."""

    def examples(self, split: str) -> list[Example]:
        assert split == "train"
        picture = Picture("one", lambda: Image.fromarray(PIXELS))
        return [
            Example(f"train/{i}", "train", (picture,), "[0, 0, 28, 28]", f"Where is {i}?", frame=Frame(56, 28))
            for i in range(3)
        ]

    def prompt(self, example: Example) -> list[Message]:
        return [Message("system", ("Be brief.",)), Message("user", (*example.pictures, example.question))]

    def target(self, example: Example) -> str:
        return example.target


ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<image>Where is 2?"},
    {"role": "assistant", "content": "[0, 0, 28, 28]"},
]


def test_the_curated_subset_in_the_formats_of_other_trainers(tmp_path: Path):
    assert curated.write(tmp_path, Boxes(), {"train/0": "easy", "train/2": "medium"}, "sft-em", resize=True) == 2
    swift = [json.loads(line) for line in (tmp_path / "ms_swift/data.jsonl").read_text().splitlines()]
    assert len(swift) == 2
    assert swift[1]["messages"] == ASKED
    (name,) = swift[1]["images"]
    with Image.open(tmp_path / "ms_swift" / name) as image:
        assert image.size == (56, 28)  # the pixels in which the boxes count

    (info,) = json.loads((tmp_path / "llama_factory/dataset_info.json").read_text()).items()
    assert info[0] == "sft-em"
    assert info[1]["formatting"] == "sharegpt"
    rows = json.loads((tmp_path / "llama_factory" / info[1]["file_name"]).read_text())
    assert rows[1][info[1]["columns"]["messages"]] == ASKED
    assert (tmp_path / "llama_factory" / rows[1][info[1]["columns"]["images"]][0]).is_file()

    table = parquet.read_table(tmp_path / "trl/data.parquet")
    row = table.to_pylist()[1]
    assert (row["id"], row["difficulty"], row["solution"]) == ("train/2", "medium", "[0, 0, 28, 28]")
    assert row["prompt"] == [ASKED[0], {"role": "user", "content": "Where is 2?"}]
    assert row["completion"] == [ASKED[2]]
    assert Image.open(BytesIO(row["images"][0]["bytes"])).size == (56, 28)
    notes = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(notes) == set(table.column_names)


def test_pictures_keep_every_pixel_where_nothing_counts_them(tmp_path: Path):
    curated.write(tmp_path, Boxes(), {"train/0": "easy"}, "sft", resize=False)
    (image,) = (tmp_path / "images").iterdir()
    assert np.array_equal(np.asarray(Image.open(image)), PIXELS)
