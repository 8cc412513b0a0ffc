"""Weights & Biases for real, offline: the same run after a kill, no step twice, pictures and files."""

import json
import struct
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from dcsft.tracking import Files, WandB, send_report


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-home"))


def tracker(folder: Path) -> WandB:
    return WandB(folder, "icons SFT s0", {"seed": 0}, "dcsft", None, "table2", "evaluate", ["icons", "seed=0"])


def records(folder: Path) -> list[Record]:
    """Everything that a finished run has written: wandb's own process closes the file a moment after `finish`."""
    for _ in range(600):
        found = parsed(folder)
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{folder} holds no exit record after a minute")


def parsed(folder: Path) -> list[Record]:
    """What is in the one file of a run by now: LevelDB's log format after a header of seven bytes.

    Blocks of 32,768 bytes; in them chunks of checksum (4 bytes), length (2), type (1: whole, 2: first, 3: middle,
    4: last) and data; what is shorter than a chunk's head at the end of a block is padding.
    """
    (path,) = folder.glob("*.wandb")
    raw, at, found, whole = path.read_bytes(), 7, [], b""
    while at + 7 <= len(raw):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", raw[at + 4 : at + 7])
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(whole))
            whole = b""
    return found


def history(found: list[Record]) -> list[dict]:
    rows = [record.history for record in found if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def test_metrics_csv_has_each_step_once_over_all_attempts(tmp_path: Path):
    first = Files(tmp_path)
    for step in (1, 2, 3):
        first.log("train", step, {"loss": 4.0 - step})
    first.finish(130)  # interrupted; its last checkpoint was after step 1
    second = Files(tmp_path)
    for step in (2, 3, 4):
        second.log("train", step, {"loss": 4.0 - step})
    second.finish(0)
    third = Files(tmp_path)  # a later command, of an earlier stage
    third.log("cold_start", 1, {"loss": 9.0})
    third.finish(0)
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert list(zip(rows.stage, rows.step, rows.loss, strict=True)) == [
        *[("cold_start", 1, 9.0), ("train", 1, 3.0), ("train", 2, 2.0), ("train", 3, 1.0), ("train", 4, 0.0)]
    ]


def test_who_is_killed_has_said_which_steps_are_told(tmp_path: Path):
    run = tracker(tmp_path)
    run.log("train", 1, {"loss": 1.0})
    assert json.loads((tmp_path / "wandb.json").read_text())["told"] == {"train": 1}
    run.finish(0)


def test_a_run_goes_on_where_it_was_and_tells_no_step_twice(tmp_path: Path, capsys):
    first = tracker(tmp_path)
    for step in (1, 2, 3):
        first.log("train", step, {"loss/hard": float(step)})
    first.finish(130)  # preempted; its last checkpoint was after step 1
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("wandb sync ")
    time.sleep(1.1)  # wandb names the folder of an offline run by the second
    second = tracker(tmp_path)
    for step in (2, 3, 4):
        second.log("train", step, {"loss/hard": float(step), "accuracy/id": 0.5})
    second.finish(0)
    assert second.id == first.id
    again = capsys.readouterr().out.strip()
    assert again.startswith("wandb sync --append ")
    one, two = (Path(line.split()[-1]) for line in (printed, again))
    assert [row["train/step"] for row in history(records(one))] == [1, 2, 3]
    (row,) = history(records(two))
    assert (row["train/step"], row["train/loss/hard"], row["train/accuracy/id"]) == (4, 4.0, 0.5)
    (run,) = [record.run for record in records(two) if record.HasField("run")]
    assert (run.run_id, run.run_group, run.job_type) == (first.id, "table2", "evaluate")
    assert list(run.tags) == ["icons", "seed=0"]


def test_pictures_histograms_and_the_report_are_logged(tmp_path: Path, capsys):
    told = tracker(tmp_path)
    red = Image.new("RGB", (8, 8), "red")
    told.table("examples", pd.DataFrame({"picture": [red], "target": ["house"], "pass_rate": [0.5]}))
    told.counts("difficulty", {"easy": 3, "medium": 2, "hard": 1})
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>")
    told.folder_of("report", tmp_path / "report")
    told.finish(0)
    folder = Path(capsys.readouterr().out.strip().split()[-1])
    (file,) = (folder / "files/media/table").glob("examples*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["picture", "target", "pass_rate"]
    assert table["data"][0][1:] == ["house", 0.5]
    (bars,) = (folder / "files/media/table").glob("difficulty*.json")
    assert json.loads(bars.read_text())["data"] == [["easy", 3], ["medium", 2], ["hard", 1]]
    kept = [record.artifact.type for record in records(folder) if record.HasField("artifact")]
    assert kept.count("report") == 1
    assert "run_table" in kept  # holds the picture


def test_a_sweeps_report_is_the_artifact_of_a_run_of_its_own(tmp_path: Path, capsys):
    report = tmp_path / "report" / "table2"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    send_report(report, "table2", {"name": "csv"})
    assert [path.name for path in report.parent.iterdir()] == ["table2"]
    send_report(report, "table2", {"name": "wandb", "project": "dcsft", "entity": None, "group": None})
    found = records(Path(capsys.readouterr().out.strip().split()[-1]))
    (run,) = [record.run for record in found if record.HasField("run")]
    assert (run.run_group, run.job_type, run.display_name) == ("table2", "report", "report of table2")
    (kept,) = [record.artifact for record in found if record.HasField("artifact")]
    assert [entry.path for entry in kept.manifest.contents] == ["report.html"]
