"""Sharded full fine-tuning takes the course of one process, and each rank keeps a part of weights and moments alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from several_ranks import on_ranks
from torch.distributed.tensor import DTensor

from dcsft.config import CONF, build, register
from dcsft.models.vlm import VLM
from dcsft.module import PostTraining, Schedule
from dcsft.ranks import ALONE, Ranks
from dcsft.records import DIFFICULTIES
from dcsft.stages.cold_start import setting_of
from dcsft.stages.fitting import fit
from dcsft.stages.plan import build_task, plain
from dcsft.stages.runtime import Runtime

pytestmark = pytest.mark.slow

PARTS = ("llm", "vision", "merger")


class _Killed(Exception):
    pass


def _train(
    overrides: Sequence[str],
    folder: Path,
    vlm: VLM,
    ranks: Ranks,
    batch_size: int = 7,
    killed_after: int | None = None,
    sharded: bool = True,
    class_metrics_every: int = 2,
) -> None:
    """Four steps of full fine-tuning; leaves metrics, the trained weights and the meter of each rank."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["task.num_train=24", "task.num_test=20", "subset=all", *overrides])
    task, paradigm = build_task(cfg), build(plain(cfg.paradigm))
    examples = task.examples("train")
    items = [
        item
        for number, example in enumerate(examples)
        for item in paradigm.items(vlm, task, example, DIFFICULTIES[number % 3], ())
    ]
    folder.mkdir(exist_ok=True)
    features = folder.parent / f"features-{ranks.rank}"
    runtime = Runtime(
        *("cpu", 2, 8, 1, "tree", features, 0.01, 1, Console(quiet=True)),
        ranks=ranks,
        sharded=sharded and ranks.size > 1,
    )

    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == killed_after:
            raise _Killed

    vlm.tune_fully(PARTS)
    setting = setting_of(vlm, task, examples, items, 6, 0, runtime)
    schedule = Schedule(4, 1e-3, (0.9, 0.95), 0.1, 0.0, 1.0)
    fit("test", vlm, paradigm, items, batch_size, schedule, 0, class_metrics_every, setting, folder, runtime, on_step)
    torch.save(vlm.trainable_state(), folder / f"rank{ranks.rank}.pt")


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _assert_same_course(one: Path, several: Path, rel: float = 1e-4, atol: float = 1e-5) -> None:
    lines = list(zip(_metrics(one), _metrics(several), strict=True))
    assert len(lines) == 4
    for line, theirs in lines:
        assert theirs == pytest.approx(line, rel=rel, abs=1e-6)
    expected = torch.load(one / "rank0.pt")
    for path in several.glob("rank*.pt"):
        for name, tensor in torch.load(path).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol)


GRPO = ("paradigm=grpo", "paradigm.num_completions=4", "paradigm.kl=0", "paradigm.max_resamples=1")


@pytest.mark.parametrize(
    ("overrides", "size", "batch_size"),
    [
        ((), 2, 7),  # uneven shares
        ((), 3, 2),  # a rank without any row; weights that three do not divide
        ((*GRPO, "paradigm.num_iterations=2"), 2, 5),
    ],
)
def test_sharded_ranks_train_as_one(
    vlm: VLM, tmp_path: Path, overrides: tuple[str, ...], size: int, batch_size: int
) -> None:
    on_ranks(size, lambda ranks: _train(overrides, tmp_path / "several", vlm, ranks, batch_size))
    _train(overrides, tmp_path / "one", vlm, ALONE, batch_size)
    _assert_same_course(tmp_path / "one", tmp_path / "several")
