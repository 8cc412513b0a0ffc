"""The jobs of a sweep as processes of this machine: a warning, a kill, `status.py`, `--resume`; without a cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import missing

from dcsft.config import CONF
from dcsft.launch.status import Sweep

ROOT = CONF.parent
SMALL = (
    *("task.num_train=64", "task.num_cold_start=16", "task.num_test=16", "train.steps=400", "train.batch_size=8"),
    *("trainer.checkpoint_every=100000", "train.class_metrics_every=0", "label.num_samples=2"),
)

pytestmark = pytest.mark.slow


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def until(holds: Callable[[], object], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline, log()
        time.sleep(0.2)


def processes(folder: Path) -> list[int]:
    """The processes that run a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dcsft.launch.job" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_warned_job_goes_on_where_it_was_and_a_killed_one_is_finished_by_resume(tmp_path):
    words = (*SMALL, f"outputs={tmp_path}", "launcher=submitit_local", "launcher.num_parallel=1", "seed=0", "arm=sft")
    said = run("train.py", "-cd", "sweeps", "-cn", "table2", *words)
    assert "1 jobs submitted, 0 were queued already, 0 are done" in said
    (folder,) = (path.parent for path in tmp_path.glob("jobs/*/job.sh"))
    log = folder / "log.txt"
    metrics = lambda: next(tmp_path.glob("store/train/*.partial/metrics.jsonl"), None)  # noqa: E731
    steps = lambda: len(metrics().read_text().splitlines()) if metrics() else 0  # noqa: E731

    state = lambda: Sweep.load(tmp_path, "table2").states()[folder.name]  # noqa: E731

    until(lambda: steps() > 10, log.read_text)
    assert re.match(r"train( \d+/400|, begins)", state()[1]), state()
    (process,) = processes(folder)
    os.kill(process, signal.SIGUSR2)
    until(lambda: "warned: all is saved" in log.read_text(), log.read_text)
    saved = steps()
    assert 10 < saved < 400
    until(lambda: processes(folder) not in ([], [process]) and steps() > saved, log.read_text)
    assert not (metrics().parent / "DONE").exists()
    lines = [json.loads(line)["step"] for line in metrics().read_text().splitlines()]
    assert lines == list(range(1, len(lines) + 1)), "no step is lost, none is done twice"

    (process,) = processes(folder)
    os.kill(process, signal.SIGKILL)
    until(lambda: state()[0] == "failed", log.read_text)
    assert state()[1].startswith("killed by SIGKILL")
    assert "1 jobs submitted" in run("status.py", "table2", "--outputs", tmp_path, "--resume")
    assert "0 jobs submitted, 1 were queued already" in run("train.py", "-cd", "sweeps", "-cn", "table2", *words)
    until(lambda: state()[0] == "done", log.read_text)
    assert "0 jobs submitted, 0 were queued already, 1 are done" in run(
        "train.py", "-cd", "sweeps", "-cn", "table2", *words
    )


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.skipif(not missing(), reason="test_slurm.py sees the same, and more")
def test_ranks_that_compute_together_are_warned_together(tmp_path):
    """At the end of the same batch; without a checkpoint of its own accord, so that all is lost if they are not."""
    ranks = ("trainer=multi_gpu", "trainer.device=cpu", "trainer.num_devices=2", "trainer.checkpoint_every=100000")
    words = (*SMALL, f"outputs={tmp_path}", "seed=0", "arm=sft")
    run("train.py", *words, "stage=label")
    run("train.py", "-cd", "sweeps", "-cn", "table2", *words, *ranks, "launcher=submitit_local")
    (folder,) = (path.parent for path in tmp_path.glob("jobs/*/job.sh"))
    log = folder / "log.txt"
    metrics = lambda: next(tmp_path.glob("store/train/*.partial/metrics.jsonl"), None)  # noqa: E731
    steps = lambda: len(metrics().read_text().splitlines()) if metrics() else 0  # noqa: E731
    until(lambda: steps() > 10, lambda: log.read_text() if log.exists() else "no log")
    (process,) = processes(folder)
    os.kill(process, signal.SIGUSR2)
    until(lambda: "warned: all is saved" in log.read_text(), log.read_text)
    saved = steps()
    assert 10 < saved < 400
    until(lambda: processes(folder) not in ([], [process]) and steps() > saved, log.read_text)
    lines = [json.loads(line)["step"] for line in metrics().read_text().splitlines()]
    assert lines == list(range(1, len(lines) + 1)), "no step is lost, none is done twice"
    run("status.py", "table2", "--outputs", tmp_path, "--cancel")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_job_ends_with_its_supervisor_and_resume_finishes_it(tmp_path):
    words = (*SMALL, f"outputs={tmp_path}", "launcher=submitit_local", "seed=0", "arm=sft")
    run("train.py", "-cd", "sweeps", "-cn", "table2", *words)
    (folder,) = (path.parent for path in tmp_path.glob("jobs/*/job.sh"))
    log = folder / "log.txt"
    state = lambda: Sweep.load(tmp_path, "table2").states()[folder.name]  # noqa: E731
    until(lambda: "cold_start" in log.read_text() if log.exists() else False, lambda: "no log")
    (process,) = processes(folder)
    supervisor = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not processes(folder), log.read_text)
    assert state()[0] == "failed"
    assert state()[1].startswith("ended, as the process that had started it; what it has saved is not lost")
    assert "1 jobs submitted" in run("status.py", "table2", "--outputs", tmp_path, "--resume")
    until(lambda: processes(folder), log.read_text)
    assert len(processes(folder)) == 1
    run("status.py", "table2", "--outputs", tmp_path, "--cancel")
    assert not processes(folder)
