"""bfloat16, gradient checkpointing, attention kernels: what must stay in float32, and what must not change a number."""

from pathlib import Path

import pytest
import torch
from miniatures import ALL, MIXED, ask, miniature, picture
from torch import Tensor, nn
from transformers.utils import is_flash_attn_2_available

from dcsft.models.attention import attention_of
from dcsft.models.families import FAMILIES
from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.module import PostTraining, Schedule
from dcsft.paradigms.paradigm import Item
from dcsft.paradigms.sft import SFT
from dcsft.records import PARTS
from dcsft.stages.fitting import fit


@pytest.fixture
def bf16(request: pytest.FixtureRequest, tmp_path: Path) -> VLM:
    """A miniature that was saved and loaded in bfloat16, as a model of the Hub is."""
    miniature(request.param).save(tmp_path / "float32")
    return VLM.load(tmp_path / "float32", dtype="bfloat16")


def _items(vlm: VLM) -> list[Item]:
    messages = [MIXED[0], ask(picture("z", 140, 56), "What is a tree?")]
    return [Item(str(i), row, tokenize_answer(vlm, "house"), None) for i, row in enumerate(messages)]


def _frequencies(vlm: VLM) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in vlm.model.named_buffers() if name.endswith("inv_freq")}


def _steps(vlm: VLM, lr: float, num: int) -> list[float]:
    """Optimizer steps under autocast, as Lightning's bf16-mixed takes them."""
    schedule = Schedule(num, lr, (0.9, 0.95), weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=1.0)
    optimizer = torch.optim.AdamW([p for p in vlm.model.parameters() if p.requires_grad], lr=schedule.lr, fused=True)
    losses = []
    vlm.model.train()
    for _ in range(num):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            loss = SFT().loss(vlm, _items(vlm), _items(vlm), None).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("bf16", ALL, indirect=True)
def test_a_bfloat16_model_keeps_its_rotary_frequencies_and_its_adapter_in_float32(bf16: VLM) -> None:
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.bfloat16}
    assert _frequencies(bf16)
    bf16.add_lora(r=4, alpha=8, dropout=0.0, parts=PARTS, seed=0)
    assert {tensor.dtype for tensor in bf16.trainable_state().values()} == {torch.float32}
    before = {name: tensor.clone() for name, tensor in bf16.trainable_state().items()}
    losses = _steps(bf16, lr=1e-5, num=2)
    assert all(torch.isfinite(torch.tensor(losses)))
    still = [name for name, tensor in bf16.trainable_state().items() if torch.equal(tensor, before[name])]
    assert not still, "a step of 1e-5 was lost"
    bf16.finish()
    assert {buffer.dtype for buffer in _frequencies(bf16).values()} == {torch.float32}
    assert {tensor.dtype for tensor in bf16.trainable_state().values()} == {torch.float32}


@pytest.mark.parametrize("bf16", ALL, indirect=True)
def test_full_tuning_in_bfloat16_moves_a_weight_of_one(bf16: VLM, tmp_path: Path) -> None:
    """A step of 1e-5 on 1.0 gives 0.99999, which bfloat16, with 0.99609 before 1, does not have."""
    weight = bf16.language_model.norm.weight
    weight.data.fill_(1.0)
    assert (weight - torch.tensor(1e-5, dtype=torch.bfloat16) == 1).all()
    bf16.tune_fully(PARTS)
    assert {p.dtype for p in bf16.model.parameters() if p.requires_grad} == {torch.float32}
    _steps(bf16, lr=1e-5, num=1)
    moved = (weight.detach() - 1).abs()
    assert moved.max() < 1.02e-5
    assert (moved > 0.98e-5).float().mean() > 0.9  # the first step of AdamW is lr for every weight that has a gradient
    bf16.finish()
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.bfloat16}
    bf16.save(tmp_path / "tuned")
    again = VLM.load(tmp_path / "tuned", dtype="bfloat16")
    for (name, ours), (_, theirs) in zip(bf16.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("bf16", ["qwen2_5_vl", "mllama"], indirect=True)
def test_many_small_steps_add_up_to_one_that_bfloat16_has(bf16: VLM) -> None:
    before = {name: parameter.clone() for name, parameter in bf16.model.named_parameters()}
    bf16.tune_fully(PARTS)
    losses = _steps(bf16, lr=1e-4, num=30)
    bf16.finish()
    changed = sum(int((p != before[name]).sum()) for name, p in bf16.model.named_parameters())
    assert changed > 0.5 * sum(parameter.numel() for parameter in before.values())
    assert losses[-1] < losses[0] - 0.1


def test_lightning_trains_a_bfloat16_model_on_float32_masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real fit: its precision comes from the dtype that was loaded, not from that of the masters."""
    import rich.console

    from dcsft.paradigms.paradigm import Setting
    from dcsft.stages.runtime import Runtime

    miniature("qwen2_5_vl").save(tmp_path / "float32")
    vlm = VLM.load(tmp_path / "float32", dtype="bfloat16")
    vlm.language_model.norm.weight.data.fill_(1.0)
    vlm.tune_fully(PARTS)
    seen = []
    step = PostTraining.training_step

    def spy(module: PostTraining, batch: list[Item], number: int) -> None:
        step(module, batch, number)
        seen.append(
            (torch.is_autocast_enabled("cpu"), float((vlm.language_model.norm.weight.detach() - 1).abs().max()))
        )

    monkeypatch.setattr(PostTraining, "training_step", spy)
    runtime = Runtime("cpu", 2, 2, 50, "tree", tmp_path, 0.0, 1, rich.console.Console(quiet=True))
    schedule = Schedule(2, 1e-5, (0.9, 0.95), weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=1.0)
    setting = Setting(None, {}, (), None, 2, "tree", 8, 0)
    folder = tmp_path / "fit"
    folder.mkdir()
    fit("test", vlm, SFT(), _items(vlm), 2, schedule, 0, 0, setting, folder, runtime, lambda *_: None)
    assert [enabled for enabled, _ in seen] == [True, True]
    assert 0.9e-5 < seen[0][1] < 1.1e-5
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
    assert not vlm.model.training


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_gradient_checkpointing_changes_no_gradient(family: str, tuning: str) -> None:
    found, calls = [], []
    for recompute in (False, True):
        vlm = miniature(family)
        if recompute:
            vlm.recompute_activations()
        if tuning == "lora":
            vlm.add_lora(r=4, alpha=8, dropout=0.2, parts=PARTS, seed=0)
            with torch.no_grad():
                for parameter in vlm.trainable_state().values():
                    parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        else:
            vlm.tune_fully(PARTS)
        calls.append(_count(vlm.language_model.layers[0].mlp))
        vlm.model.train()
        torch.manual_seed(3)  # of dropout
        SFT().loss(vlm, _items(vlm), _items(vlm), None).loss.backward()
        found.append({name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None})
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-5 * largest)
    assert [len(numbers) for numbers in calls] == [1, 2]  # it was computed again


def _count(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_eager_attention_gives_the_same_answers(tmp_path: Path) -> None:
    miniature("qwen2_5_vl").save(tmp_path / "model")
    losses = []
    for attention in ("sdpa", "eager", "auto"):
        vlm = VLM.load(tmp_path / "model", attention=attention)
        losses.append(SFT().loss(vlm, _items(vlm), _items(vlm), None).loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == losses[0]


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash attention is installed")
def test_flash_attention_that_is_not_there_is_refused(tmp_path: Path) -> None:
    miniature("qwen2_5_vl").save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"model.attention=flash_attention_2 must have a GPU, flash-attn and dtype bflo"
    ):
        VLM.load(tmp_path / "model", attention="flash_attention_2")
    with pytest.raises(ValueError, match=r"must have a model that supports it, got none"):
        attention_of("flash_attention_2", FAMILIES["mllama"], "cuda", "bfloat16")


def test_auto_takes_flash_attention_for_pictures_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcsft.models.attention.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    both = {"text_config": "sdpa", "vision_config": "flash_attention_2"}
    assert attention_of("auto", FAMILIES["qwen2_5_vl"], "cuda", "bfloat16") == both
    assert attention_of("flash_attention_2", FAMILIES["qwen2_5_vl"], "cuda", "bfloat16") == "flash_attention_2"
    for family, device, dtype in [
        ("mllama", "cuda", "bfloat16"),
        ("gemma3", "cpu", "bfloat16"),
        ("gemma3", "cuda", "float32"),
    ]:
        assert attention_of("auto", FAMILIES[family], device, dtype) == "sdpa"
