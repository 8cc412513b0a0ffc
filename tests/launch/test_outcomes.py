"""What a job leaves says whether it is done, whichever stage it stops at; and no two cells of a sweep are alike."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dcsft.artefacts import Store
from dcsft.config import CONF, register
from dcsft.launch.jobs import Job, jobs_of
from dcsft.stages.cells import planned
from dcsft.stages.gather import gather, sweep_cells

SWEEPS = CONF.parent / "sweeps"
SMALL = ["task.num_train=24", "task.num_cold_start=8", "task.num_test=8", "seed=0"]
ALIKE = "a sweep's cells must differ, got 'SFT, seed 0' and 'SFT, seed 0', which are one experiment; leave one out"


def cells(*overrides: str) -> list:
    register()
    return [cfg for cfg, _ in sweep_cells(SWEEPS / "table2.yaml", [*SMALL, *overrides])]


def jobs(outputs: Path, *overrides: str) -> list[Job]:
    return [job for job, _ in jobs_of(cells(*overrides), outputs)[0]]


def fill(outputs: Path, *overrides: str) -> None:
    """The store, as a local run leaves it."""
    store = Store(outputs / "store", print)
    for _, artefacts in planned(cells(*overrides)):
        for artefact in artefacts.values():
            store.folder(artefact).mkdir(parents=True, exist_ok=True)
            (store.folder(artefact) / "DONE").touch()


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("publish", ["published/icons-tiny-*/labels", "published/icons-tiny-*/curated/sft"]),
        ("export", ["exports/icons-tiny-sft-s0-*"]),
        ("evaluate", ["runs/icons-tiny-sft-s0-*/results.json"]),
        ("report", ["runs/icons-tiny-sft-s0-*/report/report.html", "runs/icons-tiny-sft-s0-*/results.json"]),
    ],
)
def test_a_full_store_is_not_the_end_of_a_stage_that_leaves_more(tmp_path, stage, left):
    fill(tmp_path, "arm=sft")
    (job,) = jobs(tmp_path, "arm=sft", f"stage={stage}")
    assert job.stages[-1] == stage
    missing = [path.relative_to(tmp_path) for path in job.outcomes if not path.exists()]
    assert [path.match(pattern) for path, pattern in zip(missing, left, strict=True)] == [True] * len(left)
    assert not job.done
    for path in missing:
        (tmp_path / path).mkdir(parents=True)
    assert job.done


def test_labels_that_were_published_here_are_not_yet_sent(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    (here,) = jobs(tmp_path, "arm=sft", "stage=publish")
    (sent,) = jobs(tmp_path, "arm=sft", "stage=publish", "publish.repo=owner/name")
    (beside,) = set(sent.outcomes) - set(here.outcomes)
    assert beside.parts[-2:] == ("sent", "owner--name.json")


def test_stages_of_one_cell_are_jobs_of_their_own_names(tmp_path):
    names = {stage: jobs(tmp_path, "arm=sft", f"stage={stage}")[-1].name for stage in ("evaluate", "report", "export")}
    assert names["report"] == f"{names['evaluate']}-report"
    assert names["export"] == f"{names['evaluate']}-export"
    shared = jobs(tmp_path, "arm=sft,sft_m")[0]
    assert jobs(tmp_path, "arm=sft", "stage=label")[0].name == shared.name


def test_arms_publish_after_the_labels_that_they_share(tmp_path):
    labelled, *own = jobs(tmp_path, "arm=sft_m,sft_em", "stage=publish")
    assert labelled.stages == ("cold_start", "label")
    assert [(job.stages, job.needs) for job in own] == [(("publish",), (labelled.name,))] * 2
    assert [job.outcomes[-1].name for job in own] == ["sft-m", "sft-em"]


def test_a_cell_that_is_there_twice_is_refused_by_jobs_and_report(tmp_path):
    register()
    twice = [*SMALL, "arm=sft", "seeds.data=0,0", f"outputs={tmp_path}"]
    with pytest.raises(ValueError, match=re.escape(ALIKE)):
        jobs(tmp_path, *twice)
    with pytest.raises(ValueError, match=re.escape(ALIKE)):
        gather(SWEEPS / "table2.yaml", twice, print)


def test_a_cell_that_is_there_twice_is_refused_here_before_the_first_is_computed(tmp_path):
    command = [sys.executable, "train.py", "-m", *SMALL[:3], f"outputs={tmp_path}", "arm=sft", "seed=0,0"]
    finished = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert finished.stderr.strip() == ALIKE
    assert not (tmp_path / "store").exists()
