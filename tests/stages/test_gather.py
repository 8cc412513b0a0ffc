"""A report shows each seed's own pictures."""

from io import BytesIO
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from dcsft.config import CONF, register
from dcsft.report.cells import Cell
from dcsft.stages.gather import pictures_of
from dcsft.stages.plan import build_task


def _cell(seed: int, labels: Path) -> Cell:
    return Cell("SFT", seed, "", None, None, labels, None, None, None)


def test_equal_ids_of_different_seeds_show_different_pictures():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tasks = [build_task(compose("config", ["task.num_train=4", f"seed={seed}"])) for seed in (0, 1)]
    cells = [_cell(seed, Path(f"labels-{seed}.parquet")) for seed in (0, 1)]
    pictures = pictures_of({cell.labels: task for cell, task in zip(cells, tasks, strict=True)})
    for cell, task in zip(cells, tasks, strict=True):
        found = pictures(cell, ["train/2"])
        example = task.examples("train")[2]
        shown = Image.open(BytesIO(found["train/2"]))
        assert shown.tobytes() == example.pictures[0].open().tobytes()
    assert pictures(cells[0], ["train/2"]) != pictures(cells[1], ["train/2"])
