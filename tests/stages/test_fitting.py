"""A run is the same however it is interrupted, trains what it should, and stops before it does harm."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from dcsft import stopping
from dcsft.models.features import FeatureCache
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting
from dcsft.paradigms.sft import SFT
from dcsft.stages.fitting import fit
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION
from dcsft.stages.runtime import Runtime

STEPS = 8
SCHEDULE = Schedule(STEPS, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup_ratio=0.25, max_grad_norm=1.0)
Metrics = dict[str, float]


class _Killed(Exception):
    pass


def _runtime(folder: Path, checkpoint_every: int = 3) -> Runtime:
    return Runtime(
        device="cpu",
        micro_batch_size=4,
        generation_batch_size=8,
        checkpoint_every=checkpoint_every,
        decoding="tree",
        feature_folder=folder / "features",
        feature_cache_gb=0.01,
        num_processes=1,
        console=Console(quiet=True),
    )


def _fit(
    vlm: VLM,
    items: Sequence[Item],
    folder: Path,
    killed_after: int | None = None,
    schedule: Schedule = SCHEDULE,
    paradigm: Paradigm | None = None,
    checkpoint_every: int = 3,
    kill: signal.Signals | None = None,
    look: Callable[[int], None] = lambda step: None,
) -> list[str]:
    """Lines of the metrics file; the run is killed, or sent a signal, when step `killed_after` is not yet saved."""

    def on_step(step: int, _: Metrics) -> None:
        look(step)
        if step == killed_after:
            if kill is None:
                raise _Killed
            os.kill(os.getpid(), kill)

    folder.mkdir(exist_ok=True)
    runtime = _runtime(folder, checkpoint_every)
    setting = Setting(None, {}, items, runtime.features(vlm), 8, "tree", 8, 0)  # SFT asks no judge
    fit("test", vlm, paradigm or SFT(), items, 6, schedule, 0, 2, setting, folder, runtime, on_step)
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("killed_after", [[2], [5], [3, 7, STEPS]])
def test_an_interrupted_run_goes_on_bit_for_bit(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path, killed_after: list[int]
) -> None:
    items = icon_items(10)  # the second epoch begins in the middle of a batch
    whole = lora(dropout=0.3)
    expected = _fit(whole, items, tmp_path / "whole")
    for step in killed_after:
        with pytest.raises(_Killed):
            _fit(lora(dropout=0.3), items, tmp_path / "resumed", step)
    resumed = lora(dropout=0.3)
    lines = _fit(resumed, items, tmp_path / "resumed")
    assert lines == expected
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert not resumed.model.training
    for name, tensor in whole.trainable_state().items():
        assert torch.equal(tensor, resumed.trainable_state()[name]), name
    costs = [json.loads((tmp_path / run / "cost.json").read_text()) for run in ("whole", "resumed")]
    assert costs[0]["tokens_trained"] == costs[1]["tokens_trained"] > 0


@pytest.fixture
def warnings_heeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process listens as a job does."""
    signals = (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(some) for some in signals]
    monkeypatch.setattr(stopping, "_told", stopping._Warnings())
    stopping.listen(60, on_term=True)
    yield
    signal.alarm(0)
    for some, handler in zip(signals, before, strict=True):
        signal.signal(some, handler)


@pytest.mark.parametrize("warned_after", [1, 5, STEPS - 1])
def test_a_warned_run_saves_at_the_batch_end_and_goes_on_bit_for_bit(
    lora: Callable[..., VLM],
    icon_items: Callable[[int], list[Item]],
    tmp_path: Path,
    warnings_heeded: None,
    monkeypatch: pytest.MonkeyPatch,
    warned_after: int,
) -> None:
    items = icon_items(10)
    expected = _fit(lora(dropout=0.3), items, tmp_path / "whole", checkpoint_every=100)
    with pytest.raises(KeyboardInterrupt):
        _fit(lora(dropout=0.3), items, tmp_path / "warned", warned_after, checkpoint_every=100, kill=signal.SIGUSR2)
    saved = torch.load(tmp_path / "warned" / "last.ckpt", weights_only=True)["global_step"]
    assert saved == warned_after
    monkeypatch.setattr(stopping, "_told", stopping._Warnings())  # another turn is another process
    assert _fit(lora(dropout=0.3), items, tmp_path / "warned", checkpoint_every=100) == expected


def test_a_run_that_is_about_to_be_killed_saves_and_works_on(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path, warnings_heeded: None
) -> None:
    """TERM: who ends by itself now is not run again by the scheduler, and who is cancelled must not be."""
    items = icon_items(10)
    saved = []

    def look(step: int) -> None:
        path = tmp_path / "last.ckpt"
        saved.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else None)

    lines = _fit(lora(), items, tmp_path, 3, checkpoint_every=100, kill=signal.SIGTERM, look=look)
    assert len(lines) == STEPS
    assert saved == [None, None, None, *[3] * (STEPS - 3)]


def test_dropout_is_on_in_training(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    with_dropout, without = (_fit(lora(dropout=d), icon_items(10), tmp_path / str(d)) for d in (0.3, 0.0))
    assert with_dropout[2:] != without[2:]


def test_checkpoints_hold_the_trained_tensors_alone_and_load_without_pickle(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    vlm = lora()
    _fit(vlm, icon_items(6), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    assert set(state) == {f"model.{name}" for name in vlm.trainable_state()}
    assert len(state) == 2 * 14  # A and B of seven projections in two layers
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in vlm.trainable_state().items())
    assert len(checkpoint["optimizer_states"][0]["state"]) == 28


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_trained_weights_move_and_frozen_ones_do_not(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path, tuning: str
) -> None:
    if tuning == "lora":
        vlm = lora(parts=("llm", "merger"))
    else:
        vlm = VLM.load(FOUNDATION)
        vlm.tune_fully(("llm",))
    trained = set(vlm.trainable_state())
    before = {name: parameter.detach().clone() for name, parameter in vlm.model.named_parameters()}
    _fit(vlm, icon_items(6), tmp_path)
    moved = {name for name, parameter in vlm.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained


def test_a_picture_is_encoded_once_while_the_tower_is_frozen(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    frozen, tuned = lora(), lora(parts=("vision",))
    for name, vlm in (("frozen", frozen), ("tuned", tuned)):
        _fit(vlm, icon_items(6), tmp_path / name)
    assert frozen.meter.patches == 6 * 16  # six pictures
    assert tuned.meter.patches == STEPS * 6 * 16  # in every step
    assert isinstance(_runtime(tmp_path).features(lora()), FeatureCache)
    assert _runtime(tmp_path).features(lora(parts=("vision",))) is None


class _Spoilt(Paradigm):
    """SFT whose loss, or whose gradient alone, is spoilt from the third step on."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        self.spoil, self.calls = spoil, 0

    def items(self, *_: object) -> list[Item]:
        raise NotImplementedError

    def begin(self, policy: VLM, batch: Sequence[Item], number: int, setting: Setting) -> Begun:
        return Begun(list(batch))

    def weight(self, rows: Sequence[Item]) -> float:
        return SFT().weight(rows)

    def loss(self, policy: VLM, items: Sequence[Item], batch: Sequence[Item], features: object) -> LossTerm:
        self.calls += 1
        term = SFT().loss(policy, items, batch, features)
        return LossTerm(self.spoil(term.loss), term.row_losses) if self.calls > 2 * 3 else term


def _infinite_slope(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()  # adds 0, with gradient 1 / (2 sqrt 0)


@pytest.mark.parametrize("spoil", [lambda loss: loss * math.nan, lambda loss: loss / 0, _infinite_slope])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path, spoil: Callable[[Tensor], Tensor]
) -> None:
    vlm = lora()
    schedule = Schedule(STEPS, 1e-3, (0.9, 0.95), 0.1, 0.0, 1.0)
    items = [Item(i.id, i.messages, i.answer_ids, None) for i in icon_items(6)]  # then 2 micro-batches a step
    with pytest.raises(
        ValueError, match=r"must be finite, got .*(nan|inf).* at step 4 on test/\d, test/\d.*; try a sm"
    ):
        _fit(vlm, items, tmp_path, schedule=schedule, paradigm=_Spoilt(spoil))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in vlm.trainable_state().values())


def test_weights_that_the_last_step_has_broken_are_refused(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    schedule = Schedule(1, 1e39, (0.9, 0.95), 0.1, 0.0, 1.0)  # more than float32 holds; no later loss would show it
    with pytest.raises(ValueError, match=r"trained weights must be finite, got \d+ tensors that are not .*lora_"):
        _fit(lora(), icon_items(6), tmp_path, schedule=schedule)


def test_a_finished_run_does_nothing_more(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    vlm = lora()
    lines = _fit(vlm, icon_items(6), tmp_path)
    again = lora()
    assert _fit(again, icon_items(6), tmp_path) == lines
    for name, tensor in vlm.trainable_state().items():  # but the weights are there to be saved
        assert torch.equal(tensor, again.trainable_state()[name])


# --- pinned ----------------------------------------------------------------------------------------------------------

TRAJECTORY = Path(__file__).parents[1] / "references" / "sft_trajectory.json"


def test_the_trajectory_of_the_shipped_model_is_the_pinned_one(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    """Loss and gradient norm of 12 steps; they change only when training changes its meaning.

    Pin anew, after a look at the difference: DCSFT_PIN=1 pytest tests/stages/test_fitting.py -k trajectory
    """
    schedule = Schedule(12, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup_ratio=0.1, max_grad_norm=1.0)
    lines = _fit(lora(), icon_items(24), tmp_path, schedule=schedule)
    found = [{name: json.loads(line)[name] for name in ("step", "loss", "grad_norm")} for line in lines]
    if os.environ.get("DCSFT_PIN"):
        TRAJECTORY.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in found) + "\n]\n")
    pinned = json.loads(TRAJECTORY.read_text())
    assert len(found) == len(pinned) == 12
    for row, expected in zip(found, pinned, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
