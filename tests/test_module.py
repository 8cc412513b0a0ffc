"""A training step means the same however it is cut, and its metrics mean what they say."""

import math
import warnings
from collections.abc import Callable, Sequence

import lightning as L
import pytest
import torch
from miniatures import miniature, picture
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcsft.data.batches import Batches
from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.module import PostTraining, Schedule
from dcsft.paradigms.paradigm import Item, Setting
from dcsft.paradigms.sft import SFT
from dcsft.records import DIFFICULTIES, PARTS, Message

Metrics = dict[str, float]
SETTING = Setting(None, {}, (), None, 8, "tree", 8, 0)  # SFT asks no judge


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
        vlm, SFT(), schedule, micro_batch_size, 0, every, SETTING, lambda _, metrics, sample: seen.append(metrics)
    )
    gradients = _Gradients()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = L.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[gradients],
        )  # fmt: skip
        trainer.fit(module, DataLoader(Batches(items, len(items), 0, 1, 1), batch_size=None))
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
def test_the_micro_batch_changes_neither_loss_nor_gradient(lora: Callable[..., VLM], tuning: str, every: int) -> None:
    found = []
    for size in (1, 4, 16):
        if tuning == "lora":
            vlm = lora(trained=True, parts=PARTS)
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
    lora: Callable[..., VLM],
    icon_items: Callable[[int], list[Item]],
) -> None:
    items = icon_items(14)  # 5 easy, 5 medium, 4 hard
    metrics, _ = _one_step(lora(trained=True), items, micro_batch_size=4, every=1)
    vlm = lora(trained=True)
    trainable = list(vlm.trainable_state())
    parameters = [dict(vlm.model.named_parameters())[name] for name in trainable]
    groups = {f"/{kind}": [item for item in items if item.difficulty == kind] for kind in DIFFICULTIES} | {"": items}
    assert [len(group) for group in groups.values()] == [5, 5, 4, 14]
    for name, group in groups.items():
        loss = _mean_loss(vlm, group)
        norm = math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(loss, parameters)))
        assert metrics[f"loss{name}"] == pytest.approx(loss.item(), rel=1e-5)
        assert metrics[f"grad_norm{name}"] == pytest.approx(norm, rel=1e-4)


def test_measuring_the_classes_changes_nothing_else(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]]
) -> None:
    plain, gradients = _one_step(lora(trained=True), icon_items(12), 4)
    measured, same_gradients = _one_step(lora(trained=True), icon_items(12), 4, every=1)
    added = {f"{what}/{kind}" for kind in DIFFICULTIES for what in ("grad_norm", "grad_share")}
    assert set(measured) - set(plain) == added
    assert sum(measured[f"grad_share/{kind}"] for kind in DIFFICULTIES) == pytest.approx(1.0)
    assert {name: measured[name] for name in plain} == pytest.approx(plain, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=0, atol=1e-6)


def test_rows_without_labels_have_no_class_metrics(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]]
) -> None:
    items = [Item(item.id, item.messages, item.answer_ids, None) for item in icon_items(4)]
    metrics, _ = _one_step(lora(), items, 2, every=1)
    assert set(metrics) == {"loss", "grad_norm", "lr"}


def test_gradients_are_clipped_and_the_norm_is_what_it_was_before(
    lora: Callable[..., VLM], icon_items: Callable[[int], list[Item]]
) -> None:
    _, gradients = _one_step(lora(trained=True), icon_items(6), 6)
    norm = float(nn.utils.get_total_norm(list(gradients.values())))
    assert norm > 0.1
    metrics, clipped = _one_step(lora(trained=True), icon_items(6), 6, max_grad_norm=0.01)
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
