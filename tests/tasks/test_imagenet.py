"""ImageNet in every layout that people have it in, and what is said when something is missing."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub.errors import GatedRepoError
from hydra import compose, initialize_config_dir
from rich.console import Console
from small_imagenet import (
    CLASSES,
    IN_A,
    IN_R,
    OFFICIAL,
    SIZES,
    flatten_validation,
    write_devkit,
    write_jpeg,
    write_kaggle,
    write_parquet,
    write_release,
    write_world,
)

from dcsft.config import CONF, register
from dcsft.records import Label
from dcsft.report.figures import pass_rate_histogram
from dcsft.rewards.exact import Exact
from dcsft.stages import check, release_labels
from dcsft.stages.label import read_labels
from dcsft.tasks.imagenet import ImageNet
from dcsft.tasks.imagenet_classes import single_word_classes, training_classes
from dcsft.tasks.imagenet_release import released_difficulties, released_pictures
from dcsft.tasks.task import Task, require_counts

SPLITS = ("cold_start", "train", "id", "imagenet_r", "imagenet_a")
BuildTask = Callable[[list[str]], Task]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world")


def imagenet(root: Path | None, **changes: object) -> ImageNet:
    arguments = dict(
        question="What is it?",
        seed=0,
        root=None if root is None else str(root),
        train=None,
        val=None,
        imagenet_r=None,
        imagenet_a=None,
        release=None,
        classes="official",
        **SIZES,
    )
    task = ImageNet(Exact(), **arguments | {name: str(v) if isinstance(v, Path) else v for name, v in changes.items()})
    require_counts(task)
    return task


def rows(task: Task) -> dict[str, list[tuple[str, str, str | None]]]:
    return {split: [(row.id, row.target, row.group) for row in task.examples(split)] for split in SPLITS}


def pixels(task: Task) -> dict[str, bytes]:
    return {row.id: row.pictures[0].open().tobytes() for split in SPLITS for row in task.examples(split)}


# --- classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wnids", "digest"),
    [
        (list(CLASSES), "4a2ebd48394470a9f307f2b713d6942a2042fcd9bc2d49838dc81a13d157b2f1"),
        (OFFICIAL, "72b6a9554f5d4e24ffef4d46822c57e6df4f754f68322edc616be1710efb3371"),
        (IN_R, "a21678e5ec9903a5bbae6d5377be92585db76dab4d76ec9205cd576d9877ad05"),
        (IN_A, "07ad05aa21bd62576e9131ab6830aded116f368fa7ea5093f876487638cd1db4"),
    ],
    ids=["all", "official", "imagenet_r", "imagenet_a"],
)
def test_the_shipped_table_is_the_single_word_classes_and_the_papers_choice(wnids: list[str], digest: str) -> None:
    """SHA-256 of lines `wnid TAB name LF`, from WordNet's lemmas and from the release's own rows."""
    text = "".join(f"{wnid}\t{CLASSES[wnid].name}\n" for wnid in sorted(wnids))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_counts_and_numbers_of_the_classes() -> None:
    assert (len(CLASSES), len(OFFICIAL), len(IN_R), len(IN_A)) == (309, 100, 68, 87)
    assert (len(set(IN_R) & set(OFFICIAL)), len(set(IN_A) & set(OFFICIAL)), len(set(IN_R) & set(IN_A))) == (16, 24, 38)
    labels = [one.label for one in single_word_classes()]
    assert labels == sorted(set(labels))
    assert (min(labels), max(labels)) == (
        6,
        997,
    )  # of the 1,000 wnids, n01498041 stingray is the seventh and bolete the last but two


def test_drawn_classes_depend_on_the_seed_and_two_never_share_a_name() -> None:
    first, again, other = (training_classes(200, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({one.name.casefold() for one in first}) == 200
    every = training_classes(307, 0)
    assert "crane" not in {one.name for one in every}
    for choice in (308, 0, "all", True):
        with pytest.raises(ValueError, match=r"task.classes must be 'official' or a number from 1 to 307, got"):
            training_classes(choice, 0)


# --- layouts ----------------------------------------------------------------------------------------------------


def test_the_official_classes_from_folders(world: Path) -> None:
    task = imagenet(world)
    assert {split: len(task.examples(split)) for split in SPLITS} == {
        "cold_start": 100,
        "train": 200,
        "id": 100,
        "imagenet_r": 68,
        "imagenet_a": 87,
    }
    assert Counter(row.target for row in task.examples("cold_start")) == dict.fromkeys(
        (CLASSES[wnid].name for wnid in OFFICIAL), 1
    )
    groups = {split: Counter(row.group for row in task.examples(split)) for split in SPLITS}
    assert groups["imagenet_r"] == {"seen": 16, "novel": 52}
    assert groups["imagenet_a"] == {"seen": 24, "novel": 63}
    assert set(groups["id"]) == set(groups["train"]) == {None}
    (sundial,) = [row for row in task.examples("id") if row.target == "sundial"]
    assert sundial.id.startswith("id/n04355338/ILSVRC2012_val_")


def test_the_draw_depends_on_the_seed_and_not_on_the_place(world: Path, tmp_path: Path) -> None:
    task = imagenet(world)
    moved = tmp_path / "elsewhere"
    shutil.move(world, moved)
    again, other = imagenet(moved), imagenet(moved, seed=1)
    for split in SPLITS:
        assert task.identity(split) == again.identity(split)
    assert rows(task) == rows(again)
    assert rows(task)["cold_start"] != rows(other)["cold_start"]
    assert rows(task)["id"] == rows(other)["id"]


def test_a_picture_of_another_size_is_another_picture(world: Path) -> None:
    before = imagenet(world)
    row = before.examples("id")[0]
    path = world / "val" / row.id.removeprefix("id/")
    write_jpeg(path, 3)
    after = imagenet(world)
    assert path.stat().st_size != int(row.pictures[0].id.rpartition("/")[2])
    assert after.examples("id")[0].pictures[0].id != row.pictures[0].id
    assert before.identity("id") != after.identity("id")
    assert before.identity("train") == after.identity("train")


def test_all_layouts_give_the_same_examples_and_pixels(world: Path, tmp_path: Path) -> None:
    folders = imagenet(world)
    expected, seen = rows(folders), pixels(folders)

    hub = tmp_path / "hub"
    write_parquet(world / "train", hub / "1k" / "data" / "train-00000-of-00001.parquet", suffixed=True)
    write_parquet(world / "val", hub / "1k" / "data" / "validation-00000-of-00001.parquet", suffixed=True)
    write_parquet(world / "imagenet-r", hub / "r" / "data" / "test-00000-of-00001.parquet", label="wnid")
    names = sorted({*IN_A, "n01503061"})  # as the mirror of ImageNet-A: 200 classes, named by wnid
    write_parquet(world / "imagenet-a", hub / "a" / "data" / "train-00000-of-00001-ab6d3d.parquet", names=names)
    parquet = imagenet(None, train=hub / "1k", val=hub / "1k", imagenet_r=hub / "r", imagenet_a=hub / "a")
    assert rows(parquet) == expected
    assert pixels(parquet) == seen

    labels = flatten_validation(world)
    write_devkit(world / "ILSVRC2012_devkit_t12" / "data", labels)
    devkit = imagenet(world)
    assert rows(devkit) == expected
    assert devkit.identity("id") == folders.identity("id")

    shutil.rmtree(world / "ILSVRC2012_devkit_t12")
    write_kaggle(world, labels)
    kaggle = imagenet(world)
    assert rows(kaggle) == expected
    assert kaggle.identity("id") == folders.identity("id")


# --- the release ------------------------------------------------------------------------------------------------


def test_the_release_says_which_pictures_in_its_own_order(world: Path, tmp_path: Path, build_task: BuildTask) -> None:
    write_release(tmp_path / "release", world)
    sizes = [f"task.{name}={value}" for name, value in SIZES.items()]
    task = build_task(["task=imagenet", f"task.root={world}", f"task.release={tmp_path / 'release'}", *sizes])
    found = rows(task)
    assert {split: len(found[split]) for split in SPLITS} == {
        "cold_start": 100,
        "train": 200,
        "id": 100,
        "imagenet_r": 68,
        "imagenet_a": 87,
    }
    assert found["cold_start"][0] == ("train/n12998815/n12998815_0.JPEG", "agaric", None)
    assert [name for name, _, _ in found["train"][:2]] == [f"train/n12998815/n12998815_{n}.JPEG" for n in (17, 34)]
    assert sorted(found["imagenet_a"]) == sorted(rows(imagenet(world))["imagenet_a"])
    row = task.examples("id")[0]
    assert task.prompt(row)[0].content[1] == (
        "Please provide the object name in the image. Output the answer using one word."
    )
    assert task.score(row, f"{row.target.upper()}.").correct  # the release's judge


def test_the_release_labels_without_a_model_and_makes_no_number_up(world: Path, tmp_path: Path) -> None:
    counts = write_release(tmp_path / "release", world)
    task = imagenet(world, release=tmp_path / "release")
    for model, (easy, medium, hard) in counts.items():
        released = released_difficulties(str(tmp_path / "release"), model, counts)
        difficulties = {picture.training_id: difficulty for picture, difficulty in released.items()}
        folder = tmp_path / model
        folder.mkdir()
        release_labels.run(folder, task, difficulties, 8)
        assert {path.name for path in folder.iterdir()} == {"labels.parquet", "cost.json"}
        labels = read_labels(folder)
        assert [label.example_id for label in labels] == [row.id for row in task.examples("train")]
        assert Counter(label.difficulty for label in labels) == {"easy": easy, "medium": medium, "hard": hard}
        assert {(label.difficulty, label.num_correct, label.pass_rate) for label in labels} == {
            ("easy", 8, 1.0),
            ("medium", None, None),
            ("hard", 0, 0.0),
        }
        table = pd.read_parquet(folder / "labels.parquet")
        assert (
            table.loc[table["difficulty"] == "medium", ["num_correct", "pass_rate", "pass_rate_low"]]
            .isna()
            .to_numpy()
            .all()
        )
        assert (shown := pass_rate_histogram(folder / "labels.parquet")).title == "Difficulty"
        assert list(shown.columns[2].cells) == [str(easy), str(medium), str(hard)]
    assert Label("train/1", 8, None).difficulty == "medium"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "imagenet_left_sft.json",
            None,
            "task.release must be the folder of the paper's release, got .* without data/",
        ),
        ("imagenet_left_sft.json", ("[", ""), "must hold the release's JSON files, .* row 0 cannot be used"),
        ("imagenet_left_sft.json", ('"images"', '"pictures"'), r"row 0 cannot be used \(KeyError: 'images'\)"),
        ("imagenet_left_sft.json", ('"agaric"', '"toadstool"'), "row 0 calls n12998815 'toadstool', which is 'agaric'"),
        (
            "imagenet_left_sft.json",
            ("n12998815_17.JPEG", "n1_1.JPEG"),
            "1 of 200 missing or empty: n12998815/n1_1.JPEG",
        ),
    ],
)
def test_a_release_that_is_not_the_release(world: Path, tmp_path: Path, file, change, said) -> None:
    write_release(tmp_path, world)
    path = tmp_path / "data" / file
    if change is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(ValueError, match=said) as caught:
        imagenet(world, release=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_releases_counts_are_asserted(world: Path, tmp_path: Path) -> None:
    counts = write_release(tmp_path, world)
    with pytest.raises(ValueError, match=r"^cold_start must have 200 pictures, got 100 in .*; "):
        imagenet(world, release=tmp_path, num_cold_start=200)
    with pytest.raises(
        ValueError, match="labels of qwen2_5_vl_3b must be 4163 easy / 4017 medium / 1420 hard, got 75 "
    ):
        released_difficulties(str(tmp_path), "qwen2_5_vl_3b", {"qwen2_5_vl_3b": [4163, 4017, 1420]})
    with pytest.raises(ValueError, match=r"label.of_model must be one of qwen2_5_vl_3b, qwen2_5_vl_7b, got 'tiny'; "):
        released_difficulties(str(tmp_path), "tiny", counts)
    data = tmp_path / "data"
    shutil.copy(data / "imagenet_easy_sft_3b.json", data / "imagenet_hard_sft_3b.json")  # as many, but others
    with pytest.raises(ValueError, match=r"must be of its 200 training rows, each once, got 125 pictures with 125"):
        released_difficulties(str(tmp_path), "qwen2_5_vl_3b", counts)
    with pytest.raises(ValueError, match=r"task.classes must be official with task.release, got 200; "):
        imagenet(world, release=tmp_path, classes=200)


@pytest.mark.skipif("DCSFT_RELEASE" not in os.environ, reason="DCSFT_RELEASE=DIR names a clone of the paper's release")
def test_the_real_release_has_the_papers_counts(tmp_path: Path, build_task: BuildTask) -> None:
    """Its rows, on links to one picture under all their names."""
    release = os.environ["DCSFT_RELEASE"]
    folders = {"cold_start": "train", "id": "val", "imagenet_r": "imagenet-r", "imagenet_a": "imagenet-a"}
    write_jpeg(tmp_path / "one.jpg", 0)
    for split in SPLITS:
        for picture in released_pictures(release, split):
            path = tmp_path / folders.get(split, split) / picture.wnid / picture.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(tmp_path / "one.jpg")
    start = time.monotonic()
    task = build_task(["task=imagenet", f"task.root={tmp_path}", f"task.release={release}"])
    assert time.monotonic() - start < 10
    assert [len(task.examples(split)) for split in SPLITS] == [400, 9600, 5000, 10741, 3015]
    counts = {"qwen2_5_vl_3b": [4163, 4017, 1420], "qwen2_5_vl_7b": [4704, 3598, 1298]}
    for model in counts:
        assert len(released_difficulties(release, model, counts)) == 9600


# --- bad input --------------------------------------------------------------------------------------------------


def remove_a_class(world: Path) -> None:
    shutil.rmtree(world / "train" / "n04355338")
    shutil.rmtree(world / "train" / "n01498041")


def empty_a_class(world: Path) -> None:
    for path in (world / "imagenet-r" / "n01498041").iterdir():
        path.rename(path.with_suffix(".txt"))


def remove_a_picture(world: Path) -> None:
    (world / "train" / "n01498041" / "n01498041_17.JPEG").unlink()


def truncate_to_nothing(world: Path) -> None:
    next((world / "val" / "n01498041").iterdir()).write_bytes(b"")


def add_a_picture(world: Path) -> None:
    write_jpeg(world / "imagenet-a" / "n01498041" / "another.jpg", 1)


def remove_a_set(world: Path) -> None:
    shutil.rmtree(world / "imagenet-a")


def other_files(world: Path) -> None:
    shutil.rmtree(world / "val")
    write_jpeg(world / "val" / "holiday.jpg", 1)


def flat_without_labels(world: Path) -> None:
    flatten_validation(world)


def flat_with_a_broken_devkit(world: Path) -> None:
    write_devkit(world / "data", flatten_validation(world))
    (world / "data" / "meta.mat").write_bytes(b"MATLAB? no")


def flat_with_another_csv(world: Path) -> None:
    flatten_validation(world)
    (world / "LOC_val_solution.csv").write_text("id,label\n1,2\n")


def flat_with_too_few_labels(world: Path) -> None:
    labels = flatten_validation(world)
    write_devkit(world / "data", {stem: labels[stem] for stem in sorted(labels)[:-1]})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            remove_a_class,
            "task.train must have pictures of all 100 classes, got .* without 2 of them: n01498041 (stingray)",
        ),
        (empty_a_class, "task.imagenet_r must have pictures of all 68 classes, got .* without 1 of them: n01498041"),
        (remove_a_picture, "task.train must have 3 pictures of each class, got .* of 1 classes: n01498041 with 2; "),
        (
            truncate_to_nothing,
            "must have every picture of id, got .* 1 of 100 missing or empty: n01498041/ILSVRC2012_val",
        ),
        (add_a_picture, "imagenet_a must have 87 pictures, got 88 in "),
        (remove_a_set, "task.root must have the folder DIR/imagenet-a, got .* set task.imagenet_a=DIR"),
        (
            other_files,
            "task.val must hold folders named by wnid (n01440764/), ILSVRC2012_val_*.JPEG or Parquet files, ",
        ),
        (flat_without_labels, "task.val must have labels for its flat pictures, got .* beside or above it; "),
        (flat_with_a_broken_devkit, "task.val must have the devkit's meta.mat and ILSVRC2012_validation_ground_truth"),
        (flat_with_another_csv, "task.val must have labels in columns ImageId and PredictionString, got "),
        (flat_with_too_few_labels, "task.val must have a label for every picture, got 1 in "),
    ],
)
def test_what_is_missing_is_said_in_one_line(world: Path, spoil, said: str) -> None:
    spoil(world)
    pattern = ".*".join(map(re.escape, said.split(" .* ")))
    with pytest.raises(ValueError, match=pattern) as caught:
        imagenet(world)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "nobody/nothing"])
def test_a_source_that_is_neither_a_folder_nor_on_the_hub(world: Path, source: str) -> None:
    with pytest.raises(
        ValueError, match=rf"task.val must be a folder or a dataset on the Hub, got '{source}' \("
    ) as caught:
        imagenet(world, val=source)
    assert "\n" not in str(caught.value)


def test_nothing_given_and_numbers_that_cannot_be(world: Path) -> None:
    with pytest.raises(
        ValueError, match=r"task.train must be a folder or a dataset on the Hub, got None; set task.root"
    ):
        imagenet(None)
    for number in (0, 150, 300):
        with pytest.raises(ValueError, match=f"multiple of the 100 classes and at most 200, .* got {number}; "):
            imagenet(world, num_cold_start=number)


def test_parquet_with_other_columns_or_other_labels(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "hub" / "train.parquet"
    write_parquet(world / "train", path, label="class_name")
    with pytest.raises(ValueError, match=r"task.train must have the columns label, image, got .*; it lacks label"):
        imagenet(world, train=path.parent)
    write_parquet(world / "train", path, names=sorted(OFFICIAL)[::-1])
    imagenet(world, train=path.parent)  # named by wnid: the numbers may be any
    write_parquet(world / "train", path, names=[CLASSES[wnid].name for wnid in OFFICIAL])
    with pytest.raises(
        ValueError, match=r"labels that are ImageNet's 1,000 or named by wnid, got .* with image, label"
    ):
        imagenet(world, train=path.parent)
    test = write_parquet(world / "imagenet-r", tmp_path / "r" / "test.parquet")
    with pytest.raises(ValueError, match=r"task.imagenet_r must have a column wnid, or labels"):
        imagenet(world, imagenet_r=test.parent)
    shifted = tmp_path / "shifted"
    shutil.copytree(world / "train" / OFFICIAL[0], shifted / OFFICIAL[1])
    write_parquet(shifted, path)
    with pytest.raises(ValueError, match=f"agree with its file names, got .* labelled {OFFICIAL[1]}"):
        imagenet(world, train=path.parent)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"task.train must hold readable Parquet files"):
        imagenet(world, train=path.parent)


def test_a_gated_dataset_without_a_token(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def refuse(source: str, **options: object) -> str:
        asked.update(options, source=source)
        response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
        raise GatedRepoError("401 Client Error.\nCannot access gated repo", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match="you may read, got 'ILSVRC/imagenet-1k', which is gated; accept") as caught:
        imagenet(world, train="ILSVRC/imagenet-1k")
    assert "\n" not in str(caught.value)
    assert asked["source"] == "ILSVRC/imagenet-1k"
    assert not any("test" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_a_picture_that_cannot_be_decoded_says_which(world: Path, tmp_path: Path) -> None:
    path = next((world / "val" / "n01498041").iterdir())
    path.write_bytes(path.read_bytes()[:-200])
    row = imagenet(world).examples("id")[0]
    with pytest.raises(ValueError, match=rf"a picture must be readable, got '.*{path.name}' \(.*\); replace it"):
        row.pictures[0].open()
    write_parquet(world / "val", tmp_path / "hub" / "validation.parquet")
    row = imagenet(world, val=tmp_path / "hub").examples("id")[0]
    with pytest.raises(
        ValueError, match=r"a picture must be readable, got image of row 0 of row group 0 of '.*validation.parquet"
    ):
        row.pictures[0].open()


# --- a run ------------------------------------------------------------------------------------------------------


def train(*words: str) -> str:
    """What a run prints that ends well."""
    command = [sys.executable, "train.py", *words]
    finished = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_a_run_on_the_releases_rows_and_labels(world: Path, tmp_path: Path) -> None:
    counts = write_release(tmp_path / "release", world)
    said = train(
        *("task=imagenet", "label=release", "subset=medium", "stage=evaluate"),
        *("model=tiny", "trainer=cpu", "label.of_model=qwen2_5_vl_3b", "train.steps=2", "cold_start.steps=1"),
        *(f"task.root={world}", f"task.release={tmp_path / 'release'}", f"outputs={tmp_path / 'outputs'}"),
        *(f"task.{name}={value}" for name, value in SIZES.items()),
        *("cold_start.epochs=null", "max_new_tokens=2", "train.class_metrics_every=0"),
        f"label.counts.qwen2_5_vl_3b={counts['qwen2_5_vl_3b']}",
    )
    assert "train on 50 rows: 0 easy, 50 medium, 0 hard" in said
    assert "imagenet_r" in said.lower().replace("-", "_").replace(" ", "_")
    (scores,) = (tmp_path / "outputs").glob("store/evaluate/*/scores.parquet")
    assert pd.read_parquet(scores).groupby("split").size().to_dict() == {"id": 100, "imagenet_r": 68, "imagenet_a": 87}
    assert not list((tmp_path / "outputs").glob("store/label/*/rollouts.parquet"))


@pytest.mark.slow
def test_a_run_on_sampled_labels_from_the_hubs_training_set_and_a_flat_validation_set(tmp_path: Path) -> None:
    """Four drawn classes: train as the Hub's Parquet, val with the devkit, R and A in folders."""
    world = write_world(tmp_path / "world", [one.wnid for one in training_classes(4, 0)])
    write_parquet(world / "train", tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", suffixed=True)
    shutil.rmtree(world / "train")
    write_devkit(world / "ILSVRC2012_devkit_t12" / "data", flatten_validation(world))
    sizes = SIZES | {"classes": 4, "num_cold_start": 4}
    words = [
        *("task=imagenet", "model=tiny", "trainer=cpu", "subset=all"),
        *(f"task.root={world}", f"task.train={tmp_path / 'hub'}", f"outputs={tmp_path / 'outputs'}"),
        *(f"task.{name}={value}" for name, value in sizes.items()),
        *("cold_start.epochs=null", "cold_start.steps=1", "train.steps=1", "train.class_metrics_every=0"),
        *("label.num_samples=2", "max_new_tokens=2", "check.num_pictures=2", "check.num_prompts=1"),
    ]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check.run(compose("config", [*words, "stage=check"]), Console(quiet=True))
    assert (tmp_path / "outputs" / "check" / "imagenet.png").exists()
    assert "train on 8 rows" in train(*words, "stage=evaluate")
    store = tmp_path / "outputs" / "store"
    (labels,), (scores,) = store.glob("label/*/labels.parquet"), store.glob("evaluate/*/scores.parquet")
    assert list(pd.read_parquet(labels)["num_samples"]) == [2] * 8
    assert pd.read_parquet(scores).groupby("split").size().to_dict() == {"id": 4, "imagenet_r": 68, "imagenet_a": 87}
