"""`trainer=multi_gpu` as a user runs it, on two CPU processes: killed in every way, it ends, says why and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from stores import begun
from test_conf import _keys, composed

from dcsft.artefacts import write_json
from dcsft.config import CONF, check
from dcsft.stages import torchrun

SMALL = (
    *("task.num_train=64", "task.num_cold_start=16", "task.num_test=20", "cold_start.epochs=null"),
    *("cold_start.steps=2", "train.steps=30", "train.batch_size=7", "train.class_metrics_every=4", "tuning.dropout=0"),
    *("trainer.checkpoint_every=4", "subset=all", "stage=train"),
)
TWO = ("trainer=multi_gpu", "trainer.device=cpu", "trainer.num_devices=2", "trainer.micro_batch_size=2")


def command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "train.py", f"outputs={outputs}", *SMALL, *overrides]


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(outputs, *overrides), cwd=CONF.parent, capture_output=True, text=True, timeout=400)


def metrics(outputs: Path) -> pd.DataFrame:
    (path,) = outputs.glob("store/train/*/metrics.jsonl")
    return pd.read_json(path, lines=True)


def workers(outputs: Path) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            places = dict(
                entry.split(b"=", 1) for entry in (folder / "environ").read_bytes().split(b"\0") if b"=" in entry
            )
        except OSError:  # it has ended
            continue
        if b"dcsft.stages.worker" in words and b"torch.distributed.run" not in words and str(outputs) in str(words):
            found[int(places[b"RANK"])] = int(folder.name)
    return found


def _until(holds, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A store with a train stage by one process, and one with the same cold start and labels alone."""
    alone = tmp_path_factory.mktemp("alone")
    finished = run(alone)
    assert finished.returncode == 0, finished.stderr
    return alone, begun(tmp_path_factory.mktemp("several") / "outputs", alone, "cold_start", "label")


@pytest.mark.slow
def test_killed_in_every_way_it_ends_with_a_line_and_finishes_to_the_numbers_of_one_process(labelled):
    alone, outputs = labelled
    kills = [("a rank", 4), ("the planner", 10), ("the planner, politely", 16)]
    for whom, steps in kills:
        process = subprocess.Popen(
            command(outputs, *TWO), cwd=CONF.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

        def trained(steps: int = steps) -> bool:
            found = list(outputs.glob("store/train/*.partial/metrics.jsonl"))
            return bool(found) and len(found[0].read_text().splitlines()) >= steps and len(workers(outputs)) == 2

        _until(trained, process)
        ranks = workers(outputs)
        if whom == "a rank":
            os.kill(ranks[1], signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL if whom == "the planner" else signal.SIGTERM)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
        said = errors.strip().splitlines()
        assert process.returncode != 0
        if whom == "a rank":
            assert len(said) == 1, errors
            assert said[0].startswith("all ranks must live until the stage is done, got SIGKILL on rank 1")
            assert said[0].endswith("the same command goes on from what is saved")
        elif whom == "the planner, politely":
            assert said == ["interrupted; the same command goes on from here"]
        while workers(outputs):  # none outlives the one who planned
            assert time.monotonic() < start + 40
            time.sleep(0.02)
    finished = run(outputs, *TWO)
    assert finished.returncode == 0, finished.stderr
    assert "train on 64 rows" in finished.stdout
    assert finished.stderr == ""
    ours, theirs = metrics(outputs), metrics(alone)
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=1e-5, check_like=True)
    (told,) = outputs.glob("runs/*/metrics.csv")
    steps = pd.read_csv(told).groupby("stage")["step"]
    assert list(steps.get_group("train")) == list(range(1, 31))  # the planner was told of each step once
    assert not list(outputs.glob(f"store/train/*{torchrun.WORKERS}"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["trainer=cpu", "trainer.num_devices=2"],
            "trainer.num_devices and trainer.num_nodes must be null and 1 with tr",
        ),
        (
            ["trainer=multi_gpu", "trainer.strategy=zero"],
            "trainer.strategy must be ddp, or fsdp to share the weights of full fine-tuning, got 'zero'",
        ),
        (
            ["trainer=cpu", "trainer.strategy=fsdp"],
            "trainer.strategy must be null with trainer=cpu, and ddp or fsdp with trainer=multi_gpu, got 'fsdp'",
        ),
        (["trainer=multi_gpu", "trainer.strategy=null"], "trainer.strategy must be null with trainer=multi_gpu, and"),
        (["trainer=multi_gpu", "trainer.device=cpu"], "trainer.num_devices must be given with trainer.device=cpu"),
        (
            ["trainer=multi_gpu", "trainer.num_devices=0"],
            "trainer.num_devices must be null (all visible GPUs) or at le",
        ),
        (["trainer=multi_gpu", "trainer.num_nodes=0"], "trainer.num_nodes must be at least 1, got 0"),
        (["trainer=multi_gpu", "trainer.timeout_min=0"], "trainer.timeout_min must be positive, got 0"),
        (["trainer=multi_gpu", "trainer.num_nodes=2"], "trainer.num_nodes must be 1 outside of a SLURM job, got 2"),
        (["trainer.device=tpu"], "trainer.device must be cpu or cuda, got 'tpu'"),
    ],
)
def test_a_wrong_number_of_processes_is_refused(overrides, said, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match=re.escape(said)):
        check(composed(*overrides))


def test_full_tuning_is_sharded_by_default_and_no_key_depends_on_it():
    assert composed("trainer=multi_gpu").trainer.strategy == "fsdp"
    for tuning in ("lora", "full"):
        one, *others = (
            _keys(composed(f"tuning={tuning}", *trainer))
            for trainer in (("trainer=cpu",), TWO, (*TWO, "trainer.strategy=ddp"))
        )
        assert others == [one, one]


# --- what is said of workers that failed -----------------------------------------------------------------------------

REPORT = """
dcsft.stages.worker FAILED
Failures:
[1]:
  time      : 2026-11-21_10:00:00
  host      : node
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:00:00
  host      : node
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 12)
"""


def _left(folder: Path, code: int, *said: tuple[int, str | None, bool, str]) -> Exception:
    (folder / "torchrun.log").write_text(REPORT.format(code=code))
    for rank, explained, unanswered, text in said:
        words = {"explained": explained, "unanswered": unanswered, "traceback": text}
        write_json(folder / f"rank{rank}.json", {"rank": rank, "time": float(rank), **words})
    return torchrun._failure(folder, 1)


def test_a_dead_rank_is_the_cause_and_those_who_lost_it_are_not(tmp_path):
    (tmp_path / "rank1.log").write_text("loading\nCUDA error: an illegal memory access was encountered\n")
    error = _left(tmp_path, -6, (0, None, True, "Traceback\ndcsft.ranks.Unanswered: Connection closed by peer"))
    assert isinstance(error, ValueError)
    assert str(error) == (
        "all ranks must live until the stage is done, got SIGABRT on rank 1 after 'CUDA error: an illegal memory "
        "access was encountered'; the same command goes on from what is saved"
    )


def test_what_a_user_can_act_on_is_said_in_its_own_words(tmp_path):
    lost = (0, None, True, "Traceback\nUnanswered: Connection closed by peer")
    error = _left(tmp_path, 1, lost, (1, "subset must hold rows, got none", False, "Traceback\nValueError: subset"))
    assert isinstance(error, ValueError)
    assert str(error) == "subset must hold rows, got none"


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    lost = (0, None, True, "Traceback\nUnanswered: Connection closed by peer")
    error = _left(tmp_path, 1, lost, (1, None, False, "Traceback\n  line 3\nKeyError: 'x'"))
    assert isinstance(error, RuntimeError)
    assert str(error) == "rank 1 failed:\nTraceback\n  line 3\nKeyError: 'x'"


def test_a_rank_that_hangs_is_said_to(tmp_path):
    error = _left(tmp_path, 1, (0, None, True, "Traceback\ndcsft.ranks.Unanswered: Timed out waiting 1800000ms"))
    assert str(error) == (
        "all ranks must answer, got silence on rank 0 (dcsft.ranks.Unanswered: Timed out waiting 1800000ms); the same "
        "command goes on from what is saved"
    )


def test_steps_are_told_once_though_the_file_is_cut_and_grows_again(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []

    def lines(*steps: int) -> None:
        path.write_text("".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in steps))

    tell = lambda known: torchrun._tell(path, known, lambda step, metrics: told.append((step, metrics)))  # noqa: E731
    assert tell(0) == 0
    lines(1, 2, 3)
    known = tell(0)
    lines(1, 2)
    known = tell(known)
    path.write_text(path.read_text() + '{"step": 3, "loss"')  # half a line
    known = tell(known)
    lines(1, 2, 3, 4)
    assert tell(known) == 4
    assert told == [(step, {"loss": step / 2}) for step in (1, 2, 3, 4)]
