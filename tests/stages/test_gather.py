"""A report shows each seed's own pictures."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from dcsft.config import CONF, register
from dcsft.report.cells import Cell
from dcsft.stages.gather import command_of, opening_comment, sights_of
from dcsft.stages.plan import build_task


def _cell(seed: int, labels: Path) -> Cell:
    return Cell("SFT", seed, "", None, None, labels, None, None, None)


def test_equal_ids_of_different_seeds_show_different_pictures():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tasks = [build_task(compose("config", ["task.num_train=4", f"seed={seed}"])) for seed in (0, 1)]
    cells = [_cell(seed, Path(f"labels-{seed}.parquet")) for seed in (0, 1)]
    sights = sights_of({cell.labels: task for cell, task in zip(cells, tasks, strict=True)})
    for cell, task in zip(cells, tasks, strict=True):
        found = sights(cell, {"train/2": [], "ood_r/1": []})
        assert set(found) == {"train/2", "ood_r/1"}
        example = task.examples("train")[2]
        shown = Image.open(BytesIO(b64decode(found["train/2"].picture.partition(",")[2])))
        assert shown.tobytes() == example.pictures[0].open().tobytes()
    assert sights(cells[0], {"train/2": []}) != sights(cells[1], {"train/2": []})


def test_a_sweeps_own_words_are_joined_and_parted_by_their_keys(tmp_path: Path):
    sweep = tmp_path / "table9.yaml"
    sweep.write_text("# Table 9: what\n# it shows.\n# cost: a\n#   minute\n# expected (icons): much\nsweep: x # no\n")
    assert opening_comment(sweep) == "Table 9: what it shows.\ncost: a minute\nexpected (icons): much"


def test_the_command_of_a_cell_works_in_the_current_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(CONF.parent)
    expected = "python train.py -cd sweeps -cn table2 arm=sft 'train.betas=[0.9, 0.95]'"
    assert command_of(Path("sweeps/table2.yaml"), ["arm=sft", "train.betas=[0.9, 0.95]"]) == expected
    assert command_of(CONF.parent / "sweeps" / "table2.yaml", ["arm=sft"]) == expected.rpartition(" 't")[0]
    assert command_of(tmp_path / "mine" / "x.yaml", []) == f"python train.py -cd {tmp_path}/mine -cn x"
    monkeypatch.chdir(tmp_path)
    assert command_of(Path("mine/x.yaml"), []) == f"python {CONF.parent}/train.py -cd mine -cn x"
    assert command_of(Path("x.yaml"), []) == f"python {CONF.parent}/train.py -cd . -cn x"
