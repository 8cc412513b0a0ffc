"""Several ranks give what one gives: shares become whole, gradients are summed, and training takes the same course."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from several_ranks import on_ranks
from torch import nn

from dcsft.config import CONF, build, register
from dcsft.generation.engine import Sampling
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.paradigms.paradigm import Paradigm
from dcsft.ranks import ALONE, Ranks, Unanswered
from dcsft.records import DIFFICULTIES
from dcsft.stages import evaluate, label
from dcsft.stages.cold_start import setting_of
from dcsft.stages.fitting import fit
from dcsft.stages.plan import build_task, plain
from dcsft.stages.runtime import Runtime

pytestmark = pytest.mark.slow


# --- sharing -----------------------------------------------------------------------------------------------------


def test_alone_everything_is_as_it_was() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    ALONE.sum_gradients([parameter])
    assert parameter.grad is None
    assert (ALONE.share([1, 2]), ALONE.whole([1, 2]), ALONE.agreed(3), ALONE.sums({"a": 1.0})) == (
        [1, 2],
        [1, 2],
        3,
        {"a": 1.0},
    )
    tensor = torch.ones(2)
    assert next(ALONE.summed([tensor])) is tensor


def test_shares_become_whole_and_sums_are_sums(tmp_path: Path) -> None:
    """Three ranks, seven rows, and one parameter each that: all, one rank, and no rank has a gradient of."""

    def work(ranks: Ranks) -> None:
        rows = list("abcdefg")
        mine = ranks.share(rows)
        assert list(mine) == [["a", "d", "g"], ["b", "e"], ["c", "f"]][ranks.rank]
        assert ranks.whole([row.upper() for row in mine]) == list("ABCDEFG")
        assert ranks.whole(ranks.share([])) == []
        assert ranks.agreed(ranks.rank + 5) == 5
        assert ranks.sums({"all": 1.0 + ranks.rank, **({"one": 4.0} if ranks.rank == 2 else {})}) == {
            "all": 6.0,  # 1 + 2 + 3
            "one": 4.0,
        }
        parameters = [nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
        parameters[0].grad = torch.full((2, 3), 10.0**ranks.rank)
        if ranks.rank == 1:
            parameters[1].grad = torch.arange(6.0).view(2, 3)
        ranks.sum_gradients(parameters)
        assert parameters[0].grad.tolist() == [[111.0] * 3] * 2
        assert parameters[1].grad.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert parameters[2].grad is None  # an optimizer leaves it alone, as it does on one rank
        (tmp_path / str(ranks.rank)).touch()

    on_ranks(3, work)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_rank_that_does_not_come_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        ranks.agreed(0)  # both are there
        if not ranks.first:
            time.sleep(6)
            os._exit(0)
        start = time.monotonic()
        with pytest.raises(Unanswered):
            ranks.sums({"a": 1.0})
        assert 1 < time.monotonic() - start < 5
        (tmp_path / "noticed").touch()
        os._exit(0)  # a group that is broken is not closed

    on_ranks(2, work, timeout_min=2 / 60)
    assert (tmp_path / "noticed").exists()


# --- training ----------------------------------------------------------------------------------------------------


class _Killed(Exception):
    pass


def _composed(*overrides: str):
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["task.num_train=24", "task.num_test=20", "subset=all", *overrides])


def _runtime(folder: Path, ranks: Ranks) -> Runtime:
    features = folder.parent / f"features-{ranks.rank}"
    return Runtime("cpu", 2, 8, 1, "tree", features, 0.01, 1, Console(quiet=True), ranks=ranks)


def _train(
    overrides: Sequence[str], folder: Path, vlm: VLM, ranks: Ranks, batch_size: int, killed_after: int | None = None
) -> None:
    """Three steps; leaves metrics, and the trained weights of each rank."""
    cfg = _composed(*overrides)
    task, paradigm = build_task(cfg), build(plain(cfg.paradigm))
    assert isinstance(paradigm, Paradigm)
    examples = task.examples("train")
    items = [
        item
        for number, example in enumerate(examples)
        for item in paradigm.items(vlm, task, example, DIFFICULTIES[number % 3], ())
    ]
    folder.mkdir(exist_ok=True)
    runtime = _runtime(folder, ranks)
    schedule = Schedule(4, 1e-2, (0.9, 0.95), 0.1, 0.0, 1.0)

    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == killed_after:
            raise _Killed

    setting = setting_of(vlm, task, examples, items, 6, 0, runtime)
    fit("test", vlm, paradigm, items, batch_size, schedule, 0, 2, setting, folder, runtime, on_step)
    torch.save(vlm.trainable_state(), folder / f"rank{ranks.rank}.pt")


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


GRPO = ("paradigm=grpo", "paradigm.num_completions=4", "paradigm.num_iterations=2", "paradigm.max_resamples=1")


@pytest.mark.parametrize(
    ("overrides", "size", "batch_size"),
    [
        ((), 2, 7),  # uneven shares
        ((), 3, 2),  # a rank without any row
        (GRPO, 2, 5),  # two updates a batch: the second one needs what the others' first one has left
        ((*GRPO, "paradigm.kl=0", "paradigm.num_iterations=1"), 2, 5),  # groups that teach nothing cost nothing
    ],
)
def test_several_ranks_train_as_one(
    lora: Callable[..., VLM], tmp_path: Path, overrides: tuple[str, ...], size: int, batch_size: int
) -> None:
    """The same loss, gradient norm and class metrics, to float rounding: 1e-4 of each, over four steps."""
    vlm = lora(trained=True)
    weights = {name: tensor.clone() for name, tensor in vlm.trainable_state().items()}
    on_ranks(size, lambda ranks: _train(overrides, tmp_path / "several", vlm, ranks, batch_size))
    _train(overrides, tmp_path / "one", vlm, ALONE, batch_size)
    one, several = _metrics(tmp_path / "one"), _metrics(tmp_path / "several")
    assert len(one) == 4
    for line, theirs in zip(one, several, strict=True):
        assert theirs == pytest.approx(line, rel=1e-4, abs=1e-6)
    first, *others = [torch.load(tmp_path / "several" / f"rank{rank}.pt") for rank in range(size)]
    expected = torch.load(tmp_path / "one" / "rank0.pt")
    assert any(not torch.equal(expected[name], tensor) for name, tensor in weights.items())
    for name, tensor in first.items():
        assert all(torch.equal(tensor, other[name]) for other in others), f"ranks apart: {name}"
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4)


def test_a_run_of_two_ranks_goes_on_with_one_between_two_updates(lora: Callable[..., VLM], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _train(GRPO, whole, lora(trained=True), ALONE, 5)

    def stopped(ranks: Ranks) -> None:
        with pytest.raises(_Killed):
            _train(GRPO, killed, lora(trained=True), ranks, 5, killed_after=2)

    on_ranks(2, stopped)  # step 1 is saved
    assert torch.load(killed / "last.ckpt", weights_only=True)["global_step"] == 1
    _train(GRPO, killed, lora(trained=True), ALONE, 5)
    for line, theirs in zip(_metrics(whole), _metrics(killed), strict=True):
        assert theirs == pytest.approx(line, rel=1e-4, abs=1e-6)


# --- answers -----------------------------------------------------------------------------------------------------


def test_two_ranks_label_and_evaluate_as_one(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards each, the last one shorter."""
    monkeypatch.setattr(label, "_SHARD", 10)
    monkeypatch.setattr(evaluate, "_SHARD", 16)
    task = build_task(_composed())
    sampling = Sampling(0.9, 1.0, 0, 6, seed=0)

    def work(folder: Path, ranks: Ranks) -> None:
        for stage in ("label", "evaluate"):
            (folder / stage).mkdir(parents=True, exist_ok=True)
        label.run(folder / "label", vlm, task, 3, sampling, _runtime(folder, ranks))
        evaluate.run(folder / "evaluate", vlm, task, Sampling.greedy(6), _runtime(folder, ranks))

    on_ranks(2, lambda ranks: work(tmp_path / "two", ranks))
    work(tmp_path / "one", ALONE)
    import pandas as pd

    for name in ("label/labels.parquet", "label/rollouts.parquet", "evaluate/scores.parquet"):
        one, two = pd.read_parquet(tmp_path / "one" / name), pd.read_parquet(tmp_path / "two" / name)
        pd.testing.assert_frame_equal(one, two, rtol=1e-5)
    costs = [json.loads((tmp_path / which / "label" / "cost.json").read_text()) for which in ("one", "two")]
    assert costs[0]["tokens_generated"] == costs[1]["tokens_generated"] > 0
    assert costs[1]["flops"] == pytest.approx(costs[0]["flops"], rel=0.3)  # of both ranks; padding differs
    assert {path.name for path in (tmp_path / "two" / "label").iterdir()} == {
        "labels.parquet", "rollouts.parquet", "cost.json",
    }  # fmt: skip
