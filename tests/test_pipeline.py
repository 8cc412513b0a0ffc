"""`python train.py` as a user runs it: real processes, killed at arbitrary moments, four at once, with bad input."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from stores import begun

from dcsft.config import CONF

ROOT = CONF.parent
# Small, but every stage has several shards, batches and checkpoints to be killed between.
SMALL = (
    *("task.num_train=600", "task.num_cold_start=96", "task.num_test=300"),
    *("train.steps=24", "train.eval_every=12", "trainer.checkpoint_every=4", "train.class_metrics_every=4"),
)

pytestmark = pytest.mark.slow


def command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "train.py", f"outputs={outputs}", *SMALL, *overrides]


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(outputs, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=300)


def numbers(finished: subprocess.CompletedProcess) -> dict:
    """results.json without what it cost."""
    assert finished.returncode == 0, finished.stdout + finished.stderr
    last = finished.stdout.strip().splitlines()[-1]
    assert last.startswith("results: ")
    results = json.loads(Path(last.removeprefix("results: ")).read_text())
    results["stages"] = {stage: cost["key"] for stage, cost in results["stages"].items()}
    return results


def payload(outputs: Path) -> dict[str, pd.DataFrame]:
    """Labels, rollouts, scores and metrics by their place in the store."""
    store = outputs / "store"
    tables = {str(path.relative_to(store)): pd.read_parquet(path) for path in store.glob("*/*/*.parquet")}
    lines = {path.relative_to(store): path for path in store.glob("*/*/*.jsonl")}
    return tables | {str(name): pd.read_json(path, lines=True) for name, path in lines.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed")
    finished = run(outputs)
    return outputs, numbers(finished), finished


def test_a_run_ends_with_a_table_a_page_and_the_path_of_its_results(undisturbed):
    outputs, results, finished = undisturbed
    assert "Accuracy" in finished.stdout
    assert "Warning" not in finished.stdout + finished.stderr
    assert results["splits"]["ood_r"]["n"] == 300
    assert sum(results["difficulty"].values()) == 600
    assert results["train"]["steps"] == 24
    folder = next((outputs / "runs").iterdir())
    there = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "log.txt", "results.json", "metrics.csv", "report", "label", "train", "evaluate"} <= there
    assert (folder / "label" / "labels.parquet").exists()
    assert (folder / "report" / "report.html").exists()
    assert len(pd.read_csv(folder / "train" / "curve.csv")) == 6  # two evaluations of three test sets


def test_a_second_run_computes_nothing_and_says_so(undisturbed):
    outputs, results, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (outputs / "store").rglob("*") if path.is_file()}
    again = run(outputs)
    assert numbers(again) == results
    assert "nothing to compute" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in (outputs / "store").rglob("*") if path.is_file()}
    assert after == before


def test_killed_at_arbitrary_moments_it_ends_as_if_never_killed(undisturbed, tmp_path):
    outputs, results, _ = undisturbed
    chance = random.Random(0)
    killed = []
    for stage, longest in [("cold_start", 0.5), ("label", 1.0), ("train", 2.0), ("evaluate", 1.0)]:
        start = time.time()
        process = subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        owners = tmp_path / "store" / stage
        while process.poll() is None and not any(file.stat().st_mtime > start for file in owners.glob("*.owner")):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += [path.parent.name for path in owners.glob("*.partial")]
    assert {"label", "train"} <= set(killed), "no kill fell into these stages"
    assert numbers(run(tmp_path)) == results
    ours, theirs = payload(tmp_path), payload(outputs)
    assert ours.keys() == theirs.keys()
    for name, table in theirs.items():
        pd.testing.assert_frame_equal(ours[name], table, check_exact=True, obj=name)


def test_grpo_killed_between_rollouts_and_updates_ends_as_if_never_killed(undisturbed, tmp_path):
    """Two updates a batch and a checkpoint every third step: some fall between the updates of one batch."""
    more = ("paradigm=grpo", "paradigm.num_iterations=2", "paradigm.max_resamples=1", "trainer.checkpoint_every=3")
    whole, killed = undisturbed[0], tmp_path
    results = numbers(run(whole, *more))
    chance = random.Random(1)
    for steps in (2, 13):
        process = subprocess.Popen(
            command(killed, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            metrics = list((killed / "store" / "train").glob("*.partial/metrics.jsonl"))
            if metrics and len(metrics[0].read_text().splitlines()) >= steps:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert numbers(run(killed, *more)) == results
    ours, theirs = payload(killed), payload(whole)
    for name, table in ours.items():
        pd.testing.assert_frame_equal(table, theirs[name], check_exact=True, obj=name)
    assert any(name.endswith("completions.jsonl") for name in ours)


def test_a_group_of_one_is_refused_before_anything_is_computed(tmp_path):
    finished = run(tmp_path, "paradigm=grpo", "paradigm.num_completions=1")
    assert finished.returncode != 0
    assert finished.stderr.strip() == (
        "paradigm.num_completions must be at least 2, got 1; an advantage compares a group"
    )
    assert not (tmp_path / "store" / "cold_start").exists()


def test_ctrl_c_and_sigterm_are_said_in_one_line_and_the_next_run_goes_on(undisturbed, tmp_path):
    outputs = begun(tmp_path, undisturbed[0], "cold_start", "label")
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background would ignore it
    for stop, after in ((signal.SIGINT, 0), (signal.SIGTERM, 8)):
        process = subprocess.Popen(
            command(outputs), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
        )
        trained = lambda: sum(len(p.read_text().splitlines()) for p in outputs.glob("store/train/*/metrics.jsonl"))  # noqa: E731
        while process.poll() is None and trained() <= after:
            time.sleep(0.02)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "Traceback" not in errors
        assert "the same command goes on from here" in errors
    assert numbers(run(outputs)) == undisturbed[1]


def test_four_runs_at_once_share_one_cold_start_and_one_labelling(tmp_path):
    subsets = ("all", "medium", "em", "none")
    processes = [
        subprocess.Popen(
            command(tmp_path, f"subset={subset}"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for subset in subsets
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(said)
    done = {stage: len(list((tmp_path / "store" / stage).glob("*/DONE"))) for stage in ("cold_start", "label", "train")}
    assert done == {"cold_start": 1, "label": 1, "train": 3}
    computed = sum("label       " in line and "reused" not in line for text in said for line in text.splitlines())
    assert computed == 1


def test_labels_do_not_depend_on_the_batch_size(undisturbed, tmp_path):
    begun(tmp_path, undisturbed[0], "cold_start")
    finished = run(tmp_path, "stage=label", "trainer.generation_batch_size=7")
    assert finished.returncode == 0, finished.stderr
    assert "pass rate" in finished.stdout.lower()
    for name in ("labels", "rollouts"):
        (ours,) = tmp_path.glob(f"store/label/*/{name}.parquet")
        (theirs,) = undisturbed[0].glob(f"store/label/*/{name}.parquet")
        ours, theirs = pd.read_parquet(ours), pd.read_parquet(theirs)
        pd.testing.assert_frame_equal(
            ours.drop(columns="logp", errors="ignore"), theirs.drop(columns="logp", errors="ignore")
        )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["subset=medum"], "subset must be one of"),
        (["tain.lr=1"], "did you mean 'train.lr'?"),
        (["hard_ratio=1.5"], "hard_ratio must be"),
        (["task=folder"], "task.train must be"),
        (["task=imagenet"], "set task.root=DIR"),
        (["trainer=gpu"], "must have a GPU"),
        (["model.path=/nowhere"], "model.path must be"),
    ],
)
def test_bad_input_gets_one_line_a_non_zero_exit_and_leaves_nothing_behind(tmp_path, overrides, said):
    if overrides == ["trainer=gpu"] and os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    sizes = SMALL[:3] if "task" not in overrides[0] else ()  # of icons alone
    arguments = [sys.executable, "train.py", f"outputs={tmp_path}", *sizes, *overrides]
    finished = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode != 0
    assert said in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("store/*/*/DONE"))


def test_an_empty_subset_is_refused_with_what_the_labels_hold(undisturbed):
    finished = run(undisturbed[0], "subset=pass_rate", "subset.min_pass_rate=0.51", "subset.max_pass_rate=0.52")
    assert finished.returncode != 0
    assert "got none for subset=pass_rate" in finished.stderr
    assert "these labels have" in finished.stderr


def test_a_full_disk_is_said_in_one_line(tmp_path):
    """A file-size limit stands for the full disk: writing beyond it fails in the same place, with another number."""
    script = (
        "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path('train.py', run_name='__main__')"
    )
    arguments = [sys.executable, "-c", script, *command(tmp_path, "stage=cold_start")[1:]]
    finished = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.glob("store/*/*/DONE"))
    assert run(tmp_path, "stage=cold_start").returncode == 0
