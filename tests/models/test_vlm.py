"""Load, tune, freeze, save."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniatures import FAMILIES, MIXED, miniature
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from dcsft.models.render import append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.records import PARTS
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

# Linear layers by hand. Language model: 2 layers x (q, k, v, o + gate, up, down). Vision: 2 blocks x (qkv, proj + the
# MLP, which has fc1, fc2 or gate, up, down). Merger: 2; Qwen3-VL has a second one of 2 for its one deep-stacked layer.
LINEARS = {
    "qwen2_vl": {"llm": 14, "vision": 8, "merger": 2},
    "qwen2_5_vl": {"llm": 14, "vision": 10, "merger": 2},
    "qwen2_5_vl_windowed": {"llm": 14, "vision": 10, "merger": 2},
    "qwen3_vl": {"llm": 14, "vision": 8, "merger": 4},
}


@torch.no_grad()
def _logits(vlm: VLM) -> Tensor:
    prompts = render_prompts(vlm, MIXED)
    return completion_logits(vlm, append_completions(vlm, prompts, [tokenize_answer(vlm, "house")] * len(MIXED)))[0]


def _lora(vlm: VLM, parts: tuple[str, ...] = PARTS, noise: float = 0.0) -> VLM:
    """LoRA of rank 4; `noise` is written over its matrices, as if it had been trained."""
    vlm.add_lora(r=4, alpha=8, dropout=0.1, parts=parts, seed=0)
    vlm.model.eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vlm.trainable_state().values() if noise else ():
            parameter.copy_(noise * torch.randn(parameter.shape, generator=generator))
    return vlm


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [("llm",), ("vision",), ("merger",), PARTS])
def test_lora_wraps_exactly_the_linear_layers_of_its_parts(family: str, parts: tuple[str, ...]) -> None:
    vlm = _lora(miniature(family), parts)
    wrapped = [name for name, module in vlm.model.named_modules() if isinstance(module, LoraLinear)]
    assert len(wrapped) == sum(LINEARS[family][part] for part in parts)
    assert not [name for name in wrapped if "lm_head" in name or "patch_embed" in name or "embed_tokens" in name]
    trained = vlm.trainable_state()
    assert len(trained) == 2 * len(wrapped)
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert vlm.vision_frozen == (parts == ("llm",))


@pytest.mark.parametrize("family", FAMILIES)
def test_freshly_added_lora_changes_no_logit(family: str) -> None:
    vlm = miniature(family)
    before = _logits(vlm)
    assert torch.equal(_logits(_lora(vlm)), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    vlm = _lora(miniature(family), noise=0.1)
    vlm.save(tmp_path)
    again = miniature(family)
    base = _logits(again)
    again.load_adapter(tmp_path)
    assert torch.equal(_logits(again), _logits(vlm))
    assert (base - _logits(again)).abs().max() > 0.1
    assert {path.name for path in tmp_path.iterdir()} <= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "dcsft.json",
    }


def test_the_seed_decides_the_adapter() -> None:
    states = []
    for seed in (0, 0, 1):
        vlm = miniature("qwen2_5_vl")
        vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=("llm",), seed=seed)
        states.append(torch.cat([tensor.flatten() for tensor in vlm.trainable_state().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_the_base_model_exactly(family: str) -> None:
    vlm = miniature(family)
    base = _logits(vlm)
    tuned = _logits(_lora(vlm, noise=0.1))
    with vlm.reference():
        assert torch.equal(_logits(vlm), base)
    assert torch.equal(_logits(vlm), tuned)
    assert not torch.equal(tuned, base)


def test_without_lora_there_is_no_reference(vlm: VLM) -> None:
    with pytest.raises(ValueError, match="must be called on a LoRA model, got full tuning"), vlm.reference():
        pass


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_gives_the_same_logits(family: str) -> None:
    vlm = _lora(miniature(family), noise=0.05)
    before = _logits(vlm)
    merged = VLM(vlm.peft.merge_and_unload(), vlm.processor)
    assert not [module for module in merged.model.modules() if isinstance(module, LoraLinear)]
    torch.testing.assert_close(_logits(merged), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [("llm",), ("vision",), ("merger",), ("vision", "merger"), PARTS])
def test_full_tuning_trains_its_parts_and_freezes_the_rest(family: str, parts: tuple[str, ...]) -> None:
    mini = miniature(family)
    groups = {"llm": mini.language_model, "merger": mini.visual.merger}
    ids = {name: {id(p) for p in module.parameters()} for name, module in groups.items()}
    if mini.model.config.model_type == "qwen3_vl":
        ids["merger"] |= {id(p) for p in mini.visual.deepstack_merger_list.parameters()}
    ids["vision"] = {id(p) for p in mini.visual.parameters()} - ids["merger"]
    mini.tune_fully(parts)
    expected = set().union(*(ids[part] for part in parts))
    assert {id(p) for p in mini.model.parameters() if p.requires_grad} == expected
    assert mini.vision_frozen == (parts == ("llm",))


def test_a_saved_model_gives_the_same_logits(mini: VLM, tmp_path: Path) -> None:
    mini.save(tmp_path)
    again = VLM.load(tmp_path)
    assert not again.model.training
    torch.testing.assert_close(_logits(again), _logits(mini), rtol=0, atol=0)
    assert again.eos_ids == mini.eos_ids
    assert again.picture_ids == mini.picture_ids
    # older readers, such as vLLM's, know the pictures' settings from a file of their own
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings == json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]


def test_the_vision_digest_follows_vision_weights_and_preprocessing_alone(vlm: VLM) -> None:
    before = vlm.vision_digest()
    with torch.no_grad():
        vlm.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    vlm.add_lora(r=2, alpha=2, dropout=0.0, parts=("llm",), seed=0)
    assert vlm.vision_digest() == before
    with torch.no_grad():
        vlm.visual.merger.mlp[2].bias[0] += 1e-3
    changed = vlm.vision_digest()
    assert changed != before
    vlm.processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 6272}
    assert vlm.vision_digest() not in (before, changed)


def test_the_families_are_known(mini: VLM) -> None:
    assert mini.uses_mrope
    assert mini.full_attention
    token = mini.processor.tokenizer.convert_tokens_to_ids
    assert mini.end_of_turn_id == token("<|im_end|>")
    assert mini.eos_ids == [token("<|im_end|>"), token("<|endoftext|>")]
    assert mini.pad_id == token("<|endoftext|>")
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    assert mini.picture_ids == sorted(map(token, names))


def test_the_meter_counts_by_hand() -> None:
    vlm = miniature("qwen2_5_vl")
    prompts = render_prompts(vlm, MIXED[:1])
    answer = tokenize_answer(vlm, "a")
    with torch.no_grad():
        completion_logits(vlm, append_completions(vlm, prompts, [answer]))
    num_tokens = prompts.lengths[0] + len(answer)
    # A layer: q and o 48 x 48, k and v 48 x 24, and three MLP matrices 48 x 96. The head: 48 x 300 for the answer's
    # tokens. The tower's patch embedding: 32 x (3 x 2 x 14 x 14); a block: qkv 32 x 96, proj 32 x 32, three of 32 x 64.
    # A picture of 56 x 56 px has 16 patches, which the merger (128 x 128 and 128 x 48) makes 4 tokens of.
    llm = 2 * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96)
    vision = 32 * 1176 + 2 * (32 * 96 + 32 * 32 + 3 * 32 * 64)
    merger = 128 * 128 + 128 * 48
    head = 48 * len(vlm.processor.tokenizer)
    forward = 2 * (num_tokens * llm + 16 * vision + 4 * merger + len(answer) * head)
    assert (vlm.meter.tokens, vlm.meter.patches) == (num_tokens, 16)
    assert vlm.meter.flops == forward


@pytest.mark.parametrize("recompute", [False, True])
def test_the_meter_counts_a_backward_pass_only_where_there_is_one(recompute: bool) -> None:
    vlm = miniature("qwen2_5_vl")
    if recompute:
        vlm.recompute_activations()
    vlm.add_lora(r=2, alpha=4, dropout=0.0, parts=("llm",), seed=0)
    vlm.model.train()
    prompts = render_prompts(vlm, MIXED[:1])
    answer = tokenize_answer(vlm, "a")
    logits, targets, _ = completion_logits(vlm, append_completions(vlm, prompts, [answer]))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    n = prompts.lengths[0] + len(answer)
    # Frozen matrices of the language model: forward, and backward to the input, but for q, k and v of the first layer,
    # below which nothing is trained. LoRA: 2 x (in + out) weights a matrix, forward and twice backward, but for the
    # first layer's A of q, k and v. Recomputation (gradient checkpointing) repeats both layers' forward pass up to the
    # last tensor that is wanted, the input of the last B.
    qkv, rest = 48 * 48 + 2 * 48 * 24, 48 * 48 + 3 * 48 * 96
    lora_qkv_a, lora_qkv_b = 2 * 3 * 48, 2 * (48 + 24 + 24)
    lora_rest = 2 * (96 + 2 * (48 + 96) + (96 + 48))
    layers = n * 2 * (2 * (qkv + rest) + 2 * (lora_qkv_a + lora_qkv_b + lora_rest))  # both forward
    backward = n * 2 * (qkv + 2 * rest)
    backward += n * 2 * (lora_qkv_a * (1 + 2) + lora_qkv_b * 2 * 2 + lora_rest * 2 * 2)
    vision = 2 * (16 * (32 * 1176 + 2 * (32 * 96 + 32 * 32 + 3 * 32 * 64)) + 4 * (128 * 128 + 128 * 48))
    head = 2 * 2 * len(answer) * 48 * len(vlm.processor.tokenizer)
    recomputed = layers - n * 2 * 2 * (2 * 48) if recompute else 0
    assert vlm.meter.flops == layers + recomputed + backward + vision + head


# --- what is no model ------------------------------------------------------------------------------------------------


class _Runs:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(FOUNDATION, folder))


def _empty(folder: Path) -> None:
    folder.mkdir()


def _nothing(folder: Path) -> None:
    pass


def _no_weights(folder: Path) -> None:
    (_copy(folder) / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    _copy(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).unlink()


def _half_the_weights(folder: Path) -> None:
    weights = _copy(folder) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])


def _no_vision(folder: Path) -> None:
    (_copy(folder) / "config.json").write_text('{"model_type": "bert"}')


def _unknown_kind(folder: Path) -> None:
    (_copy(folder) / "config.json").write_text('{"model_type": "nonsense"}')


@pytest.mark.parametrize(
    "make", [_nothing, _empty, _no_weights, _no_tokenizer, _half_the_weights, _no_vision, _unknown_kind]
)
def test_a_path_that_is_no_model_is_said_to_be_none(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"model.path must be a folder or a Hub id with a vision-language model, got '.*/model' \(.*"
    ):
        VLM.load(tmp_path / "model")


def test_a_hub_id_that_cannot_be_reached_is_said_to_be_no_model() -> None:
    with pytest.raises(
        ValueError, match=r"got 'nobody/nothing'.*; download the weights first or set model.path=FOLDER"
    ):
        VLM.load("nobody/nothing")


def test_loading_runs_no_pickled_code(tmp_path: Path) -> None:
    folder, witness = _copy(tmp_path / "model"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": _Runs(witness)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model.path must be a folder"):
        VLM.load(folder)
    assert not witness.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # the trap is a real one
    assert witness.exists()


def test_loading_runs_no_code_of_the_checkpoint_and_never_asks_for_leave_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, witness = _copy(tmp_path / "model"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForImageTextToText": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"model.path must be a folder"):
        VLM.load(folder)
    assert not witness.exists()
