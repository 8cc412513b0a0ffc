"""A server that is trusted answers for a machine that has neither the weights nor a GPU."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_conf import composed
from tiny_server import NAME, TinyServer

from dcsft.ranks import ALONE
from dcsft.stages import evaluate, label
from dcsft.stages.bodies import Job, compute
from dcsft.stages.plan import SHIPPED_FOUNDATION, build_task

SMALL = ("task.num_train=12", "task.num_cold_start=12", "task.num_test=12", "trainer.feature_cache_gb=0")


def computed(stage: str, folder: Path, cold_start: Path, *overrides: str) -> None:
    cfg = composed(*SMALL, *overrides)
    folder.mkdir()
    job = Job(cfg, stage, folder, {"cold_start": cold_start}, folder / "features")
    compute(job, build_task(cfg), Console(quiet=True), ALONE, lambda step, metrics: None)


def test_labels_and_scores_without_weights_or_a_gpu(
    server: TinyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    shutil.copytree(SHIPPED_FOUNDATION, whole / "model")
    shutil.copytree(SHIPPED_FOUNDATION, bare / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    asking = ("engine=server", f"engine.url={server.url}", f"engine.model={NAME}", "engine.stages=[label,evaluate]")
    trusting = (*asking, "engine.parity_check=0", "trainer=gpu")

    computed("label", tmp_path / "labels", bare, *trusting, "label.num_samples=2")
    labels = pd.read_parquet(tmp_path / "labels" / label.LABELS)
    assert list(labels["num_samples"]) == [2] * 12
    assert labels["num_correct"].sum() > 0

    computed("evaluate", tmp_path / "ours", whole)
    computed("evaluate", tmp_path / "theirs", bare, *trusting)
    ours, theirs = (pd.read_parquet(tmp_path / name / evaluate.SCORES) for name in ("ours", "theirs"))
    pd.testing.assert_frame_equal(ours, theirs)  # greedy

    with pytest.raises(ValueError, match=r"model.path must be a folder or a Hub id with a vision-language model"):
        computed("label", tmp_path / "compared", bare, *asking)
    with pytest.raises(ValueError, match="trainer=gpu must have a GPU, got none on this machine"):
        computed("label", tmp_path / "here", whole, *asking, "trainer=gpu")
