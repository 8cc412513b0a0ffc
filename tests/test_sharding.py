"""Sharded full fine-tuning takes the course of one process, and each rank keeps a part of weights and moments alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from miniatures import ALL, ask, miniature, picture
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import load_file
from several_ranks import on_ranks
from torch.distributed.tensor import DTensor

from dcsft.config import CONF, build, register
from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.completion_logps import completion_logps
from dcsft.models.render import render_prompts
from dcsft.models.sharding import gathered, shard
from dcsft.models.vlm import VLM
from dcsft.module import PostTraining, Schedule
from dcsft.ranks import ALONE, Ranks
from dcsft.records import DIFFICULTIES, Message
from dcsft.stages.bodies import Job, compute
from dcsft.stages.cold_start import setting_of
from dcsft.stages.fitting import fit
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION
from dcsft.stages.plan import build_task, plain
from dcsft.stages.runtime import Runtime
from dcsft.stages.train import _Curve

pytestmark = pytest.mark.slow

PARTS = ("llm", "vision", "merger")


class _Killed(Exception):
    pass


def _composed(*overrides: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        small = ["task.num_train=24", "task.num_test=20", "task.num_cold_start=9", "subset=all"]
        return compose("config", [*small, *overrides])


def _train(
    overrides: Sequence[str],
    folder: Path,
    vlm: VLM,
    ranks: Ranks,
    batch_size: int = 7,
    killed_after: int | None = None,
    sharded: bool = True,
) -> None:
    """Four steps of full fine-tuning; leaves metrics, costs, and the trained weights of each rank."""
    cfg = _composed(*overrides)
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
        sharded=sharded and ranks is not ALONE,
    )

    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == killed_after:
            raise _Killed

    vlm.tune_fully(PARTS)
    setting = setting_of(vlm, task, examples, items, 6, 0, runtime)
    schedule = Schedule(4, 1e-3, (0.9, 0.95), 0.1, 0.0, 1.0)
    fit("test", vlm, paradigm, items, batch_size, schedule, 0, 2, setting, folder, runtime, on_step)
    torch.save(vlm.trainable_state(), folder / f"rank{ranks.rank}.pt")


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _assert_same_course(one: Path, several: Path, rel: float = 1e-4, atol: float = 5e-5) -> None:
    lines = list(zip(_metrics(one), _metrics(several), strict=True))
    assert len(lines) == 4
    for line, theirs in lines:
        assert theirs == pytest.approx(line, rel=rel, abs=1e-6)
    expected = torch.load(one / "rank0.pt")
    for path in several.glob("rank*.pt"):
        for name, tensor in torch.load(path).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol)


GRPO = ("paradigm=grpo", "paradigm.num_completions=4", "paradigm.kl=0", "paradigm.max_resamples=1")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of batches of 7."""
    folder = tmp_path_factory.mktemp("alone") / "one"
    _train((), folder, VLM.load(FOUNDATION), ALONE)
    return folder


def test_two_ranks_with_uneven_shares_train_as_one(alone: Path, tmp_path: Path) -> None:
    """And keep half of the decoder layers' matrices and of their moments each, besides the rest."""
    vlm = VLM.load(FOUNDATION)
    layers = sum(some.numel() for some in vlm.language_model.layers.parameters() if some.ndim == 2)
    rest = sum(parameter.numel() for parameter in vlm.model.parameters()) - layers

    def work(ranks: Ranks) -> None:
        held = {}
        step = PostTraining.training_step

        def measured(module: PostTraining, batch: list, number: int) -> None:
            step(module, batch, number)
            states = module.optimizers().state.values()
            held["moments"] = sum(_numel_here(state[name]) for state in states for name in ("exp_avg", "exp_avg_sq"))
            held["weights"] = sum(map(_numel_here, module.parameters()))

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(PostTraining, "training_step", measured)
            _train((), tmp_path / "two", vlm, ranks)
        assert held == {"weights": layers // 2 + rest, "moments": 2 * (layers // 2 + rest)}

    on_ranks(2, work)
    _assert_same_course(alone, tmp_path / "two")


def _numel_here(tensor: torch.Tensor) -> int:
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()


@pytest.mark.parametrize(
    ("overrides", "size", "batch_size"),
    [
        ((), 1, 7),
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
    assert all(line["grad_norm"] > 0 for line in _metrics(tmp_path / "one"))


@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_whoever_has_saved_it(alone: Path, tmp_path: Path, first: bool, then: bool) -> None:
    """Sharded, then sharded; sharded, then by one process; by one process, then sharded."""
    killed = tmp_path / "killed"

    def stopped(ranks: Ranks) -> None:
        with pytest.raises(_Killed):
            _train((), killed, VLM.load(FOUNDATION), ranks, killed_after=3)

    def by(several: bool, work: Callable[[Ranks], None]) -> None:
        if several:
            on_ranks(2, work)
        else:
            work(ALONE)

    by(first, stopped)
    saved = torch.load(killed / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert {type(tensor) for tensor in saved["state_dict"].values()} == {torch.Tensor}
    by(then, lambda ranks: _train((), killed, VLM.load(FOUNDATION), ranks))
    _assert_same_course(alone, killed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gathered_matrices_are_those_that_whole_weights_give(tmp_path: Path, dtype: str) -> None:
    """With activations recomputed, and against ranks that have all weights: the same micro-batches and rounding."""

    def work(ranks: Ranks) -> None:
        for name in ("sharded", "replicated"):
            vlm = VLM.load(FOUNDATION, dtype)
            vlm.recompute_activations()
            _train((), tmp_path / name, vlm, ranks, sharded=name == "sharded")

    on_ranks(2, work)
    _assert_same_course(tmp_path / "replicated", tmp_path / "sharded")
    costs = [json.loads((tmp_path / name / "cost.json").read_text()) for name in ("sharded", "replicated")]
    assert costs[0]["flops"] == costs[1]["flops"] > 0  # a pass that only keeps pace is not counted


def test_every_family_has_the_gradients_of_one_process_after_uneven_sampling(tmp_path: Path) -> None:
    """Two rows, one with a picture, as log-probabilities of answers of GRPO; mllama wants a picture in each."""

    def row(vlm: VLM, number: int) -> list[Message]:
        return ask(picture(number)) if number or vlm.family.equal_pictures else ask()

    def backward(vlm: VLM, number: int) -> None:
        logps, _ = completion_logps(vlm, render_prompts(vlm, [row(vlm, number)]), [[(20, 21, 22), (22, 20)]], 1.0)
        logps.sum().backward()

    def work(ranks: Ranks) -> None:
        for name in ALL:
            vlm = miniature(name)
            vlm.tune_fully(PARTS)
            vlm.model.train()
            for number in (0, 1):
                backward(vlm, number)
            expected = {name: parameter.grad for name, parameter in vlm.model.named_parameters()}
            vlm = miniature(name)
            vlm.tune_fully(PARTS)
            shard(vlm)
            vlm.model.train()
            requests = [Request("a", ask()), Request("b", ask())] if ranks.first else []
            SharedPrefix(vlm, 1).generate(requests, 2, Sampling.greedy(3))
            backward(vlm, ranks.rank)
            parameters = dict(vlm.model.named_parameters())
            ranks.sum_gradients(list(parameters.values()))
            for name, parameter in parameters.items():
                gradient = gathered(parameter.grad, True) if parameter.grad is not None else None
                assert (gradient is None) == (expected[name] is None)
                if gradient is not None:
                    torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
        (tmp_path / str(ranks.rank)).touch()

    on_ranks(2, work)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cold_start_by_two_ranks_is_the_model_that_one_saves(tmp_path: Path) -> None:
    cold = ("cold_start.batch_size=5", "cold_start.epochs=2", "cold_start.lr=1e-3")
    two = ("trainer=multi_gpu", "trainer.device=cpu", "trainer.num_devices=2", "trainer.strategy=fsdp")

    def run(folder: Path, ranks: Ranks, *overrides: str) -> None:
        cfg = _composed(*cold, "trainer.threads=1", *overrides)
        OmegaConf.resolve(cfg)
        folder.mkdir(exist_ok=True)
        job = Job(cfg, "cold_start", folder, {}, tmp_path / f"features-{ranks.rank}")
        compute(job, build_task(cfg), Console(quiet=True), ranks, lambda step, metrics: None)

    on_ranks(2, lambda ranks: run(tmp_path / "two", ranks, *two))
    run(tmp_path / "one", ALONE, "trainer.micro_batch_size=4")
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=5e-5)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_accuracies_on_the_way_are_those_of_one_process_on_every_rank(tmp_path: Path) -> None:
    task = build_task(_composed())

    def told(name: str, vlm: VLM, ranks: Ranks) -> dict[str, float]:
        curve = _Curve(tmp_path / name, task, SharedPrefix(vlm, 8), Sampling.greedy(6), 2, ranks)
        assert curve.after_step(1) == {}
        return curve.after_step(2)

    def work(ranks: Ranks) -> None:
        vlm = VLM.load(FOUNDATION)
        vlm.tune_fully(PARTS)
        shard(vlm)
        (tmp_path / f"{ranks.rank}.json").write_text(json.dumps(told("two.csv", vlm, ranks)))

    on_ranks(2, work)
    expected = told("one.csv", VLM.load(FOUNDATION), ALONE)
    assert expected
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected] * 2
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()
