"""A sweep on a real SLURM, disturbed in every way that a cluster knows, ends as an undisturbed one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from slurm_cluster import Cluster, missing
from stores import begun

from dcsft.config import CONF
from dcsft.stages.fitting import CHECKPOINT

ROOT = CONF.parent
# No checkpoint but those that warnings ask for. Enough steps to be disturbed in.
SMALL = (
    *("task.num_train=96", "task.num_cold_start=32", "task.num_test=32", "train.steps=200", "train.batch_size=8"),
    *("trainer.checkpoint_every=100000", "train.class_metrics_every=0", "label.num_samples=4"),
)
SWEEP = ("-cd", "sweeps", "-cn", "table2", "seed=0")
BOUND_S = 400

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())} (Debian: slurmctld slurmd munge)"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Cluster(root)
    yield cluster
    cluster.stop()
    shutil.rmtree(root)


@pytest.fixture
def run(cluster: Cluster) -> Callable[..., subprocess.CompletedProcess]:
    """A python script of ours, as a user of the cluster starts it."""

    def start(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, words)]
        env = cluster.env | {"PYTHONPATH": str(cwd)}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=BOUND_S)

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep in one process, here."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    words = (sys.executable, "train.py", *SWEEP, *SMALL, f"outputs={outputs}", "arm=baseline,sft,sft_m,sft_em")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=BOUND_S)
    assert finished.returncode == 0, finished.stderr
    return outputs


def until(cluster: Cluster, holds: Callable[[], object], bound_s: float = BOUND_S) -> None:
    """Wait; SLURM's pause before another turn is cut short."""
    deadline = time.monotonic() + bound_s
    while not holds():
        assert time.monotonic() < deadline, cluster("squeue", "--states=all")
        cluster.kick()
        time.sleep(0.5)


def steps(outputs: Path, number: int = 0) -> int:
    """Training steps done by the `number`-th train stage that has begun."""
    files = sorted((outputs / "store" / "train").glob("*.partial/metrics.jsonl"))
    return len(files[number].read_text().splitlines()) if len(files) > number else 0


def _own_metrics(outputs: Path, job: Path) -> Path:
    """Where a job's training is."""
    (done,) = (Path(path) for path in json.loads((job / "job.json").read_text())["outcomes"] if "/train/" in path)
    return done.parent.with_name(done.parent.name + ".partial") / "metrics.jsonl"


def _process(job: Path) -> int:
    """The Python that computes a job; srun and the script have its words too."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_text().split("\0")
        except OSError:  # it has ended
            continue
        if "dcsft.launch.job" in words and str(job) in words and "python" in Path(words[0]).name:
            return int(place.parent.name)
    raise AssertionError(f"nobody computes {job}")


def tables(outputs: Path) -> dict[str, pd.DataFrame]:
    """Labels, scores and training metrics by their place in the store."""
    store = outputs / "store"
    found = {str(path.relative_to(store)): pd.read_parquet(path) for path in store.glob("*/*/*.parquet")}
    return found | {str(p.relative_to(store)): pd.read_json(p, lines=True) for p in store.glob("*/*/metrics.jsonl")}


def assert_equal(outputs: Path, expected: Path) -> None:
    """All that is in one store is in the other, to the bit."""
    ours, theirs = tables(outputs), tables(expected)
    assert ours
    assert ours.keys() <= theirs.keys()
    for name, table in ours.items():
        pd.testing.assert_frame_equal(table, theirs[name], check_exact=True, obj=name)


def test_a_sweep_that_everything_happens_to_ends_with_the_report_of_an_undisturbed_one(
    cluster, run, undisturbed, tmp_path
):
    """In order: the code and the configuration are edited while cells are queued, a cell is preempted by a
    higher-priority partition, one is requeued by hand, one is killed, and `resume` finishes it."""
    checkout = tmp_path / "checkout"
    for name in ("dcsft", "conf", "sweeps", "hydra_plugins"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "status.py"):
        shutil.copy(ROOT / name, checkout / name)
    outputs = tmp_path / "outputs"
    words = (
        *SWEEP,
        *SMALL,
        f"outputs={outputs}",
        "arm=baseline,sft,sft_m,sft_em",
        "launcher=slurm",
        "launcher.max_requeues=9",
    )
    submitted = run("train.py", *words, cwd=checkout)
    assert submitted.returncode == 0, submitted.stderr
    assert "5 jobs submitted" in submitted.stdout
    (checkout / "dcsft" / "stages" / "train.py").write_text("raise SystemExit('edited code')")
    (checkout / "conf" / "config.yaml").write_text("edited: true")

    until(cluster, lambda: steps(outputs, 0) > 10 and steps(outputs, 1) > 10)
    urgent = cluster("sbatch", "--parsable", "-p", "urgent", "-c", "4", "--wrap", "sleep 2").strip()
    until(cluster, lambda: "COMPLETED" in cluster("squeue", "--states=all", "-h", "-j", urgent, "-o", "%T"))
    logs = {path.parent.name: path for path in (outputs / "jobs").glob("icons-*/log.txt")}
    warned = [name for name, path in logs.items() if "warned: all is saved" in path.read_text()]
    assert warned, "nobody was preempted"

    until(cluster, lambda: cluster.ids("sft-m-s0", "R"))
    (job,) = cluster.ids("sft-m-s0", "R")
    (log,) = (outputs / "jobs").glob("*-sft-m-s0-*/log.txt")
    mine = _own_metrics(outputs, log.parent)
    before = len(mine.read_text().splitlines())
    until(cluster, lambda: "turn 2" in log.read_text() and len(mine.read_text().splitlines()) > before + 3)
    cluster("scontrol", "requeue", job)
    until(cluster, lambda: "turn 3" in log.read_text())

    until(cluster, lambda: not cluster("squeue", "-h").strip())
    said = run("status.py", "table2", "--outputs", outputs).stdout
    assert "6 done" in said, said
    assert_equal(outputs, undisturbed)
    assert tables(outputs).keys() == tables(undisturbed).keys()
    cells = (*SMALL, f"outputs={undisturbed}", "seed=0", "arm=baseline,sft,sft_m,sft_em")
    assert run("report.py", "sweeps/table2.yaml", *cells).returncode == 0
    ours, theirs = (folder / "report" / "table2" for folder in (outputs, undisturbed))
    assert (ours / "report.html").exists()
    assert (ours / "table.csv").read_text() == (theirs / "table.csv").read_text()


def test_a_killed_job_harms_no_other_and_resume_finishes_it(cluster, run, undisturbed, tmp_path):
    words = (*SWEEP, *SMALL, f"outputs={tmp_path}", "arm=sft,sft_m", "launcher=slurm")
    assert run("train.py", *words).returncode == 0
    (folder,) = (tmp_path / "jobs").glob("*-sft-m-s0-*")
    mine = _own_metrics(tmp_path, folder)
    until(cluster, lambda: mine.exists() and len(mine.read_text().splitlines()) > 5)
    os.kill(_process(folder), signal.SIGKILL)
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    said = run("status.py", "table2", "--outputs", tmp_path).stdout
    assert re.search(r"SFT-M, seed 0\s+failed\s+.*Killed", said), said
    assert re.search(r"SFT, seed 0\s+done\s+", said), said
    assert "1 jobs submitted" not in run("status.py", "table2", "--outputs", tmp_path).stdout
    resumed = run("status.py", "table2", "--outputs", tmp_path, "--resume").stdout
    assert "2 jobs submitted" in resumed, resumed  # the cell and the report
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    assert "4 done" in run("status.py", "table2", "--outputs", tmp_path).stdout
    assert_equal(tmp_path, undisturbed)


def test_a_job_over_its_time_limit_goes_on_in_another_turn_and_a_cancelled_one_stays_cancelled(
    cluster, run, undisturbed, tmp_path
):
    more = ("launcher=slurm", "launcher.time=2", "launcher.warning_s=60", "launcher.max_requeues=20")
    assert run("train.py", *SWEEP, *SMALL, f"outputs={tmp_path}", "arm=sft", *more, "train.steps=3000").returncode == 0
    log = next((tmp_path / "jobs").glob("icons-*")) / "log.txt"
    until(cluster, lambda: log.exists() and "warned: all is saved" in log.read_text())
    saved = steps(tmp_path)
    until(cluster, lambda: "turn 2" in log.read_text() and steps(tmp_path) > saved > 0)
    (metrics,) = tmp_path.glob("store/train/*.partial/metrics.jsonl")
    told = [json.loads(line)["step"] for line in metrics.read_text().split("\n")[:-1]]
    assert told == list(range(1, len(told) + 1)), "no step is lost, none is done twice"
    (job,) = cluster.ids("sft-s0", "R")
    cluster("scancel", job)
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    assert "CANCELLED" in cluster("squeue", "--states=all", "-h", "-j", job, "-o", "%T")
    said = run("status.py", tmp_path.name, "--outputs", tmp_path)
    assert "the sweep must be one that was submitted" in said.stderr
    said = run("status.py", "table2", "--outputs", tmp_path).stdout
    assert re.search(r"SFT, seed 0\s+failed", said), said


def test_two_ranks_in_one_job_are_preempted_and_requeued_and_end_as_if_undisturbed(cluster, run, undisturbed, tmp_path):
    """SLURM sends USR2 and TERM to every process of the job, ranks and torchrun too; they save once, together."""
    ranks = ("trainer=multi_gpu", "trainer.device=cpu", "trainer.num_devices=2", "arm=sft", "stage=train")
    alone, outputs = (begun(tmp_path / name, undisturbed, "cold_start", "label") for name in ("alone", "outputs"))
    finished = run("train.py", *SWEEP, *SMALL, *ranks, f"outputs={alone}")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    submitted = run("train.py", *SWEEP, *SMALL, *ranks, f"outputs={outputs}", "launcher=slurm", "launcher.cpus=2")
    assert submitted.returncode == 0, submitted.stderr
    log = next((outputs / "jobs").glob("train-*")) / "log.txt"
    until(cluster, lambda: steps(outputs) > 10)
    cluster("sbatch", "-p", "urgent", "-c", "4", "--wrap", "sleep 2")
    until(cluster, lambda: "turn 2" in log.read_text())
    assert "warned: all is saved" in log.read_text()
    before = steps(outputs)
    assert before > 10, "the first turn's steps are kept"
    until(cluster, lambda: steps(outputs) > before + 3)
    (job,), (partial,) = cluster.ids("train-", "R"), (outputs / "store" / "train").glob("*.partial")
    cluster("scancel", "--signal=TERM", job)  # save and go on
    until(cluster, lambda: torch.load(partial / CHECKPOINT, weights_only=True)["global_step"] > before)
    saved = steps(outputs)
    until(cluster, lambda: steps(outputs) > saved)
    cluster("scontrol", "requeue", job)
    until(cluster, lambda: "turn 3" in log.read_text())
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    assert "1 done" in run("status.py", "table2", "--outputs", outputs).stdout, log.read_text()
    assert_equal(outputs, alone)


def test_two_sweeps_share_their_stages_outlive_who_submitted_them_and_a_finished_job_does_nothing(
    cluster, run, undisturbed, tmp_path
):
    words = (*SMALL, f"outputs={tmp_path}", "launcher=slurm", "train.steps=20")
    first = run("train.py", *SWEEP, *words, "arm=baseline,sft")
    second = run("train.py", "-cd", "sweeps", "-cn", "figure5", "seed=0", *words, "hard_ratio=0,0.1")
    assert "3 jobs submitted" in first.stdout, first.stderr
    assert "2 jobs submitted, 1 were queued already" in second.stdout, second.stdout + second.stderr
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    for name, count in (("table2", 4), ("figure5", 4)):
        assert f"{count} done" in run("status.py", name, "--outputs", tmp_path).stdout
        assert (tmp_path / "report" / name / "report.html").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    cluster("scontrol", "requeue", max(cluster.ids("-sft-s0"), key=int))
    until(cluster, lambda: not cluster("squeue", "-h").strip())
    (log,) = (tmp_path / "jobs").glob("*-sft-s0-*/log.txt")
    assert "nothing to compute" in log.read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launcher.partition=nope"], "invalid partition specified: nope"),
        (["launcher.memory=900G"], "Requested node configuration is not available"),
    ],
)
def test_what_the_scheduler_would_refuse_is_said_in_its_words_before_anything_is_submitted(
    cluster, run, tmp_path, overrides, said
):
    before = set(cluster.ids(""))
    finished = run("train.py", *SWEEP, *SMALL, f"outputs={tmp_path}", "arm=baseline,sft", "launcher=slurm", *overrides)
    assert finished.returncode != 0
    assert said in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert set(cluster.ids("")) == before
    assert not list((tmp_path / "jobs").glob("*/job.sh"))
