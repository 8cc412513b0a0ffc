"""Cancelling one sweep spares another: on this machine with jobs that only wait, and with a queue written by hand."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dcsft.config import CONF
from dcsft.launch.jobs import Job
from dcsft.launch.local import Local
from dcsft.launch.scheduler import Queued
from dcsft.launch.slurm import Slurm
from dcsft.launch.status import Sweep

# A supervisor outlives, on purpose, the process that has started it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

SETTINGS = {"name": "submitit_local", "num_parallel": 4, "gpus": 0, "max_requeues": 0}


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Path]:
    """Two sweeps, A and B, whose cells need the same cold start; every job but the report waits for a file `go`."""
    for name, needs in (("cold", ()), ("a", ("cold",)), ("b", ("cold",))):
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        job = Job(folder, f"title of {name}", ("train",), needs, (folder / "DONE",), folder, 0)
        job.save()
        job.script.write_text(f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; touch {folder}/DONE\n")
    (tmp_path / "sweeps").mkdir()
    for name in ("a", "b"):
        record = {"jobs": ["cold", name], "cells": [name], "launcher": SETTINGS, "cancelled": False}
        (tmp_path / "sweeps" / f"{name.upper()}.json").write_text(json.dumps(record))
    yield tmp_path
    (tmp_path / "go").touch()
    until(lambda: not Local(SETTINGS, tmp_path).queue())


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def submit(outputs: Path, *names: str) -> None:
    Local(SETTINGS, outputs).submit([Job.load(outputs / "jobs" / name) for name in names])


def states(outputs: Path) -> dict[str, str]:
    return {path.name: queued.state for path, queued in Local(SETTINGS, outputs).queue().items()}


@pytest.mark.parametrize("first", ["a", "b"])
def test_what_another_sweep_needs_goes_on_whoever_submitted_it(outputs, first):
    submit(outputs, "cold", first)
    submit(outputs, "b" if first == "a" else "a")
    until(lambda: states(outputs) == {"cold": "running", "a": "waiting", "b": "waiting"})
    assert Sweep.load(outputs, "B").cancel() == {"A": ["title of cold"]}
    assert states(outputs) == {"cold": "running", "a": "waiting"}
    (outputs / "go").touch()
    until(lambda: not states(outputs))
    assert {name: state for name, (state, _) in Sweep.load(outputs, "A").states().items()} == {
        "cold": "done",
        "a": "done",
    }
    assert Sweep.load(outputs, "B").states()["b"] == ("missing", "was not begun")


def test_what_two_cancelled_sweeps_needed_is_ended_and_resume_needs_it_again(outputs):
    submit(outputs, "cold", "a", "b")
    until(lambda: states(outputs)["cold"] == "running")
    assert list(Sweep.load(outputs, "A").cancel()) == ["B"]
    assert Sweep.load(outputs, "B").cancel() == {}
    assert states(outputs) == {}
    assert Sweep.load(outputs, "A").resume() == 2
    until(lambda: states(outputs) == {"cold": "running", "a": "waiting"})
    Sweep.load(outputs, "B").resume()
    assert list(Sweep.load(outputs, "B").cancel()) == ["A"], "it has been resumed"


def test_the_command_says_what_goes_on(outputs):
    submit(outputs, "cold", "a", "b")
    command = [sys.executable, "status.py", "B", "--cancel", "--outputs", str(outputs)]
    finished = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=60)
    assert finished.stdout.splitlines()[0] == "goes on, as A needs it: title of cold"


def test_slurm_ends_only_what_no_other_sweep_needs(outputs, monkeypatch):
    ended: list[str] = []
    queue = {outputs / "jobs" / name: Queued(name, "waiting", "Dependency") for name in ("cold", "a", "b")}

    def cancel(self: Slurm, jobs: Sequence[Job]) -> None:
        ended.extend(job.name for job in jobs)

    monkeypatch.setattr(Slurm, "queue", lambda self: queue)
    monkeypatch.setattr(Slurm, "cancel", cancel)
    for path in (outputs / "sweeps").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"launcher": {"name": "slurm"}}))
    assert Sweep.load(outputs, "B").cancel() == {"A": ["title of cold"]}
    assert ended == ["b"]
