"""A training step means the same however it is cut, and a run the same however it is interrupted."""

import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import FOUNDATION
from miniatures import miniature, picture
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcsft.data.batches import Batches
from dcsft.models.features import FeatureCache
from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import PARTS, VLM
from dcsft.module import PostTraining, Schedule
from dcsft.paradigms.paradigm import Item, LossTerm, Paradigm
from dcsft.paradigms.sft import SFT
from dcsft.records import DIFFICULTIES, Message
from dcsft.stages.fitting import fit
from dcsft.stages.runtime import Runtime

STEPS = 8
SCHEDULE = Schedule(STEPS, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup_ratio=0.25, max_grad_norm=1.0)
Metrics = dict[str, float]


def _lora(dropout: float = 0.0, parts: Sequence[str] = ("llm",), trained: bool = False) -> VLM:
    """The shipped model with LoRA; `trained`: not as it starts, where half of its gradients are zero."""
    vlm = VLM.load(FOUNDATION)
    vlm.add_lora(r=4, alpha=8, dropout=dropout, parts=parts, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vlm.trainable_state().values() if trained else ():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return vlm


class _Gradients(L.Callback):
    """Keeps the gradients of the first step."""

    def on_before_optimizer_step(self, trainer: L.Trainer, module: PostTraining, optimizer: object) -> None:
        self.found = {n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None}


def _one_step(
    vlm: VLM, items: Sequence[Item], micro_batch_size: int, every: int = 0, max_grad_norm: float = 1e9
) -> tuple[Metrics, dict[str, Tensor]]:
    """Metrics of one step on all items, and the gradients that its optimizer gets."""
    seen: list[Metrics] = []
    schedule = Schedule(1, 0.0, (0.9, 0.95), weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=max_grad_norm)
    module = PostTraining(
        vlm, SFT(), schedule, micro_batch_size, 0, every, None, lambda _, metrics: seen.append(metrics)
    )
    gradients = _Gradients()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = L.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[gradients],
        )  # fmt: skip
        trainer.fit(module, DataLoader(Batches(items, len(items), 0, 1), batch_size=None))
    return seen[0], gradients.found


def _mixed_items(vlm: VLM, n: int) -> list[Item]:
    """Questions and answers of different length, some without a picture."""
    answers = ("a", "house", "It is a goldfish", "hot dog tree house")
    return [
        Item(
            id=f"mixed/{i}",
            messages=[Message("user", ("What is this? " * (1 + i % 3), *((picture(str(i)),) if i % 4 else ())))],
            answer_ids=tokenize_answer(vlm, answers[i % 4]),
            difficulty=DIFFICULTIES[i % 3],
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("every", [0, 1])
def test_the_micro_batch_changes_neither_loss_nor_gradient(tuning: str, every: int) -> None:
    found = []
    for size in (1, 4, 16):
        if tuning == "lora":
            vlm = _lora(trained=True, parts=PARTS)
        else:
            vlm = miniature("qwen2_5_vl")
            vlm.tune_fully(PARTS)
        found.append(_one_step(vlm, _mixed_items(vlm, 16), size, every=every))
    (metrics, gradients), *others = found
    assert set(gradients) == set(vlm.trainable_state())
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for other_metrics, other_gradients in others:
        assert other_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
        assert other_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=0, atol=1e-6 * max(1.0, largest))


def _mean_loss(vlm: VLM, items: Sequence[Item]) -> Tensor:
    """Mean over the tokens, one row after another, by the loss of transformers itself."""
    total, count = torch.zeros(()), 0
    for item in items:
        text = vlm.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item.messages[0].content[1]}]}],
            tokenize=False, add_generation_prompt=True,
        )  # fmt: skip
        inputs = dict(vlm.processor(text=[text], images=[item.messages[0].content[0].open()], return_tensors="pt"))
        answer = torch.tensor([list(item.answer_ids)])
        labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], 1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == vlm.model.config.image_token_id).int()
        total = total + vlm.model(**inputs, labels=labels).loss * answer.numel()
        count += answer.numel()
    return total / count


def test_loss_and_gradient_norm_of_each_class_are_those_of_its_own_mean_loss(
    icon_items: Callable[[int], list[Item]],
) -> None:
    items = icon_items(14)  # 5 easy, 5 medium, 4 hard
    metrics, _ = _one_step(_lora(trained=True), items, micro_batch_size=4, every=1)
    vlm = _lora(trained=True)
    trainable = list(vlm.trainable_state())
    parameters = [dict(vlm.model.named_parameters())[name] for name in trainable]
    groups = {f"/{kind}": [item for item in items if item.difficulty == kind] for kind in DIFFICULTIES} | {"": items}
    assert [len(group) for group in groups.values()] == [5, 5, 4, 14]
    for name, group in groups.items():
        loss = _mean_loss(vlm, group)
        norm = math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(loss, parameters)))
        assert metrics[f"loss{name}"] == pytest.approx(loss.item(), rel=1e-5)
        assert metrics[f"grad_norm{name}"] == pytest.approx(norm, rel=1e-4)


def test_measuring_the_classes_changes_nothing_else(icon_items: Callable[[int], list[Item]]) -> None:
    plain, gradients = _one_step(_lora(trained=True), icon_items(12), 4)
    measured, same_gradients = _one_step(_lora(trained=True), icon_items(12), 4, every=1)
    assert set(measured) - set(plain) == {f"grad_norm/{kind}" for kind in DIFFICULTIES}
    assert {name: measured[name] for name in plain} == pytest.approx(plain, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=0, atol=1e-6)


def test_rows_without_labels_have_no_class_metrics(icon_items: Callable[[int], list[Item]]) -> None:
    items = [Item(item.id, item.messages, item.answer_ids, None) for item in icon_items(4)]
    metrics, _ = _one_step(_lora(), items, 2, every=1)
    assert set(metrics) == {"loss", "grad_norm", "lr"}


def test_gradients_are_clipped_and_the_norm_is_what_it_was_before(icon_items: Callable[[int], list[Item]]) -> None:
    _, gradients = _one_step(_lora(trained=True), icon_items(6), 6)
    norm = float(nn.utils.get_total_norm(list(gradients.values())))
    assert norm > 0.1
    metrics, clipped = _one_step(_lora(trained=True), icon_items(6), 6, max_grad_norm=0.01)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(clipped[name], gradient * 0.01 / norm, rtol=1e-4, atol=1e-9)


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_schedule_by_hand() -> None:
    factor = Schedule(100, 1.0, (0.9, 0.95), 0.0, warmup_ratio=0.1, max_grad_norm=1.0).factor
    # Ten steps of warm-up: 1/10 to 10/10; then half a cosine over 90 steps: 1 at step 10, 1/2 at 55, near 0 at 99.
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)], rel=1e-12)
    assert factor(10) == 1.0
    assert factor(40) == pytest.approx(0.75, rel=1e-12)  # a third of the way: (1 + cos 60°) / 2
    assert factor(55) == pytest.approx(0.5, rel=1e-12)
    assert factor(99) == pytest.approx((1 - math.cos(math.pi / 90)) / 2, rel=1e-9)
    assert factor(100) == pytest.approx(0, abs=1e-12)


def test_the_schedule_of_a_single_step_trains() -> None:
    assert Schedule(1, 1.0, (0.9, 0.95), 0.0, warmup_ratio=0.1, max_grad_norm=1.0).factor(0) == 1.0


# --- whole runs ------------------------------------------------------------------------------------------------------


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
) -> list[str]:
    """Lines of the metrics file; the run is killed when step `killed_after` is done and not yet saved."""

    def on_step(step: int, _: Metrics) -> None:
        if step == killed_after:
            raise _Killed

    folder.mkdir(exist_ok=True)
    fit("test", vlm, paradigm or SFT(), items, 6, schedule, 0, 2, folder, _runtime(folder), on_step)
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("killed_after", [[2], [5], [3, 7, STEPS]])
def test_an_interrupted_run_goes_on_bit_for_bit(
    icon_items: Callable[[int], list[Item]], tmp_path: Path, killed_after: list[int]
) -> None:
    items = icon_items(10)  # the second epoch begins in the middle of a batch
    whole = _lora(dropout=0.3)
    expected = _fit(whole, items, tmp_path / "whole")
    for step in killed_after:
        with pytest.raises(_Killed):
            _fit(_lora(dropout=0.3), items, tmp_path / "resumed", step)
    resumed = _lora(dropout=0.3)
    lines = _fit(resumed, items, tmp_path / "resumed")
    assert lines == expected
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert not resumed.model.training
    for name, tensor in whole.trainable_state().items():
        assert torch.equal(tensor, resumed.trainable_state()[name]), name
    costs = [json.loads((tmp_path / run / "cost.json").read_text()) for run in ("whole", "resumed")]
    assert costs[0]["tokens_trained"] == costs[1]["tokens_trained"] > 0


def test_dropout_is_on_in_training(icon_items: Callable[[int], list[Item]], tmp_path: Path) -> None:
    with_dropout, without = (_fit(_lora(dropout=d), icon_items(10), tmp_path / str(d)) for d in (0.3, 0.0))
    assert with_dropout[2:] != without[2:]


def test_checkpoints_hold_the_trained_tensors_alone_and_load_without_pickle(
    icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    vlm = _lora()
    _fit(vlm, icon_items(6), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    assert set(state) == {f"model.{name}" for name in vlm.trainable_state()}
    assert len(state) == 2 * 14  # A and B of seven projections in two layers
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in vlm.trainable_state().items())
    assert len(checkpoint["optimizer_states"][0]["state"]) == 28


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_trained_weights_move_and_frozen_ones_do_not(
    icon_items: Callable[[int], list[Item]], tmp_path: Path, tuning: str
) -> None:
    vlm = VLM.load(FOUNDATION)
    if tuning == "lora":
        vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=("llm", "merger"), seed=0)
    else:
        vlm.tune_fully(("llm",))
    trained = set(vlm.trainable_state())
    before = {name: parameter.detach().clone() for name, parameter in vlm.model.named_parameters()}
    _fit(vlm, icon_items(6), tmp_path)
    moved = {name for name, parameter in vlm.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained


def test_a_picture_is_encoded_once_while_the_tower_is_frozen(
    icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    frozen, tuned = _lora(), _lora(parts=("vision",))
    for name, vlm in (("frozen", frozen), ("tuned", tuned)):
        _fit(vlm, icon_items(6), tmp_path / name)
    assert frozen.meter.patches == 6 * 16  # six pictures
    assert tuned.meter.patches == STEPS * 6 * 16  # in every step
    assert isinstance(_runtime(tmp_path).features(_lora()), FeatureCache)
    assert _runtime(tmp_path).features(_lora(parts=("vision",))) is None


class _Spoilt(Paradigm):
    """SFT whose loss, or whose gradient alone, is spoilt from the third step on."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        self.spoil, self.calls = spoil, 0

    def loss(self, policy: VLM, items: Sequence[Item], batch: Sequence[Item], features: object) -> LossTerm:
        self.calls += 1
        term = SFT().loss(policy, items, batch, features)
        return LossTerm(self.spoil(term.loss), term.row_losses) if self.calls > 2 * 3 else term


def _infinite_slope(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()  # adds 0, with gradient 1 / (2 sqrt 0)


@pytest.mark.parametrize("spoil", [lambda loss: loss * math.nan, lambda loss: loss / 0, _infinite_slope])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(
    icon_items: Callable[[int], list[Item]], tmp_path: Path, spoil: Callable[[Tensor], Tensor]
) -> None:
    vlm = _lora()
    schedule = Schedule(STEPS, 1e-3, (0.9, 0.95), 0.1, 0.0, 1.0)
    items = [Item(i.id, i.messages, i.answer_ids, None) for i in icon_items(6)]  # then 2 micro-batches a step
    with pytest.raises(
        ValueError, match=r"must be finite, got .*(nan|inf).* at step 4 on test/\d, test/\d.*; try a sm"
    ):
        _fit(vlm, items, tmp_path, schedule=schedule, paradigm=_Spoilt(spoil))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in vlm.trainable_state().values())


def test_a_finished_run_does_nothing_more(icon_items: Callable[[int], list[Item]], tmp_path: Path) -> None:
    vlm = _lora()
    lines = _fit(vlm, icon_items(6), tmp_path)
    again = _lora()
    assert _fit(again, icon_items(6), tmp_path) == lines
    for name, tensor in vlm.trainable_state().items():  # but the weights are there to be saved
        assert torch.equal(tensor, again.trainable_state()[name])


# --- pinned ----------------------------------------------------------------------------------------------------------

TRAJECTORY = Path(__file__).parent / "references" / "sft_trajectory.json"


def test_the_trajectory_of_the_shipped_model_is_the_pinned_one(
    icon_items: Callable[[int], list[Item]], tmp_path: Path
) -> None:
    """Loss and gradient norm of 12 steps; they change only when training changes its meaning.

    Pin anew, after such a change and a look at the difference: DCSFT_PIN=1 pytest tests/test_module.py -k trajectory
    """
    schedule = Schedule(12, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup_ratio=0.1, max_grad_norm=1.0)
    lines = _fit(_lora(), icon_items(24), tmp_path, schedule=schedule)
    found = [{name: json.loads(line)[name] for name in ("step", "loss", "grad_norm")} for line in lines]
    if os.environ.get("DCSFT_PIN"):
        TRAJECTORY.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in found) + "\n]\n")
    pinned = json.loads(TRAJECTORY.read_text())
    assert len(found) == len(pinned) == 12
    for row, expected in zip(found, pinned, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
