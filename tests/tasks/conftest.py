"""Builds the task of a real configuration, small; and class-named folders of real files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import grounding_files
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from reasoning_data import write_all
from small_imagenet import SIZES, write_world

from dcsft.config import register
from dcsft.seeding import stream
from dcsft.stages import plan
from dcsft.tasks.imagenet_classes import training_classes
from dcsft.tasks.task import Task

CONF = Path(__file__).parents[2] / "conf"


def build_task(overrides: list[str]) -> Task:
    """The task of the composed configuration, as a run builds it."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plan.build_task(compose("config", overrides))


def pixels_digest(task: Task) -> str:
    """Of every split's identity and first three pictures, with their ids and targets."""
    digest = hashlib.sha256()
    for split in ("cold_start", "train", *task.tests):
        digest.update(json.dumps(task.identity(split), sort_keys=True).encode())
        for example in task.examples(split)[:3]:
            for picture in example.pictures:
                digest.update(f"{example.id} {example.target} {picture.id}".encode())
                digest.update(picture.open().tobytes())
    return digest.hexdigest()


def write_picture(path: Path, *parts: object, size: tuple[int, int] = (24, 16)) -> Path:
    """A picture of random pixels that `parts` choose, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = stream(*parts, path.name).integers(0, 256, (height, width, 3), "uint8")
    Image.fromarray(pixels).save(path)
    return path


def write_classes(root: Path, counts: dict[str, int], ending: str = "png") -> Path:
    """DIR/<class>/<number>.<ending>, all pictures different."""
    for name, count in counts.items():
        for i in range(count):
            write_picture(root / name / f"{i}.{ending}", root.name, name)
    return root


def _small_folder(tmp_path: Path) -> list[str]:
    train = write_classes(tmp_path / "train", {"cat": 6, "hot_dog": 6})
    test = write_classes(tmp_path / "test", {"cat": 3, "hot_dog": 3})
    ood = write_classes(tmp_path / "sketches", {"cat": 2, "zebra": 2}, "jpg")
    folders = [f"task.train={train}", f"task.id={test}", f"+task.ood.sketches={ood}"]
    return [*folders, "task.num_cold_start=4"]


def _small_imagenet(tmp_path: Path) -> list[str]:
    root = write_world(tmp_path / "imagenet")
    return [f"task.root={root}", *(f"task.{name}={value}" for name, value in SIZES.items())]


def _small_imagenet_200(tmp_path: Path) -> list[str]:
    """Four drawn classes."""
    root = write_world(tmp_path / "imagenet", [one.wnid for one in training_classes(4, 0)])
    sizes = SIZES | {"classes": 4, "num_cold_start": 8}
    return [f"task.root={root}", *(f"task.{name}={value}" for name, value in sizes.items())]


SMALL: dict[str, Callable[[Path], list[str]]] = {
    "icons": lambda tmp_path: ["task.num_train=120", "task.num_cold_start=60", "task.num_test=70"],
    "icons_70": lambda tmp_path: ["task.num_train=140", "task.num_cold_start=70", "task.num_test=70"],
    "icon_scenes": lambda tmp_path: ["task.num_train=60", "task.num_cold_start=30", "task.num_test=30"],
    "icon_choice": lambda tmp_path: ["task.num_train=60", "task.num_cold_start=30", "task.num_test=30"],
    "digits": lambda tmp_path: ["task.num_ood_r=40"],
    "folder": _small_folder,
    "refcoco": lambda tmp_path: grounding_files.write_world(tmp_path).overrides,
    "imagenet": _small_imagenet,
    "imagenet_200": _small_imagenet_200,
    "mmk12": write_all,
}
"""Overrides that make a task small, and the data that it needs, by the name of its yaml."""


@pytest.fixture
def small_overrides(tmp_path: Path) -> Callable[[str], list[str]]:
    def overrides(name: str) -> list[str]:
        if name not in SMALL:
            pytest.fail(f"conf/task/{name}.yaml has code but no small data; add it to SMALL in tests/tasks/conftest.py")
        return [f"task={name}", *SMALL[name](tmp_path)]

    return overrides


@pytest.fixture(name="build_task")
def build_task_fixture() -> Callable[[list[str]], Task]:
    return build_task


@pytest.fixture(name="write_picture")
def write_picture_fixture() -> Callable[..., Path]:
    return write_picture


@pytest.fixture(name="write_classes")
def write_classes_fixture() -> Callable[..., Path]:
    return write_classes
