"""Pictures are seen as the weights were trained, or loading is refused; prompts that do not fit are refused by name."""

import json
from pathlib import Path

import pytest
from miniatures import ALL, ask, miniature, picture

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.contract import read
from dcsft.models.render import render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Item
from dcsft.paradigms.sft import SFT
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION


@pytest.mark.parametrize("family", ALL)
def test_beside_all_weights_stands_how_pictures_were_seen(family: str, tmp_path: Path) -> None:
    vlm = miniature(family)
    vlm.save(tmp_path / "model")
    assert read(tmp_path / "model") == vlm.contract
    vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=("llm",), seed=0)
    vlm.save(tmp_path / "adapter")
    assert read(tmp_path / "adapter") == vlm.contract
    said = json.loads((tmp_path / "adapter/dcsft.json").read_text())
    expected = {
        "qwen3_vl": {"min_pixels": 1024, "max_pixels": 200704},  # 1 to 196 tokens of 32 x 32 pixels
        "internvl": {"size": {"height": 56, "width": 56}, "min_patches": 1, "max_patches": 4},
        "gemma3": {"size": {"height": 56, "width": 56}, "do_pan_and_scan": None},
        "mllama": {"size": {"height": 56, "width": 56}, "max_image_tiles": 4},
    }
    assert said["pictures"] == expected.get(family, said["pictures"])
    assert said["pictures"]


def test_the_base_is_kept_through_all_training(tmp_path: Path) -> None:
    first = VLM.load(FOUNDATION)
    assert first.contract.base == "foundation"
    first.save(tmp_path / "cold_start")
    second = VLM.load(tmp_path / "cold_start")
    assert second.contract.base == "foundation"
    second.add_lora(r=4, alpha=8, dropout=0.0, parts=("llm",), seed=0)
    second.save(tmp_path / "adapter")
    assert read(tmp_path / "adapter").base == "foundation"


def test_weights_are_not_loaded_with_other_pixel_limits(tmp_path: Path) -> None:
    VLM.load(FOUNDATION, min_pixels=3136, max_pixels=6272).save(tmp_path)
    assert VLM.load(tmp_path).contract.pictures == {"min_pixels": 3136, "max_pixels": 6272}
    VLM.load(tmp_path, min_pixels=3136, max_pixels=6272)
    with pytest.raises(ValueError, match="pictures must be seen") as refused:
        VLM.load(tmp_path, min_pixels=3136, max_pixels=3136)
    assert str(refused.value) == (
        "pictures must be seen as these weights were trained, min_pixels=3136, max_pixels=6272, got min_pixels=3136, "
        f"max_pixels=3136 for {tmp_path}; set model.min_pixels=3136 model.max_pixels=6272"
    )


def test_an_adapter_is_not_put_on_a_model_that_sees_pictures_otherwise(tmp_path: Path) -> None:
    vlm = VLM.load(FOUNDATION, max_pixels=6272)
    vlm.add_lora(r=4, alpha=8, dropout=0.0, parts=("llm",), seed=0)
    vlm.save(tmp_path)
    VLM.load(FOUNDATION, max_pixels=6272).load_adapter(tmp_path)
    with pytest.raises(
        ValueError, match=r"pictures must be seen as these weights were trained, .*max_pixels=6272, got"
    ):
        VLM.load(FOUNDATION, max_pixels=3136).load_adapter(tmp_path)
    with pytest.raises(ValueError, match=r"an adapter must be put on .* trained on, qwen2_5_vl, got internvl; set"):
        miniature("internvl").load_adapter(tmp_path)


def test_a_model_that_cuts_pictures_up_keeps_its_tiles(tmp_path: Path) -> None:
    miniature("internvl").save(tmp_path / "four")
    with pytest.raises(ValueError, match=r"max_patches=4, got .*max_patches=2 for .*; set model.max_tiles=4"):
        VLM.load(tmp_path / "four", max_tiles=2)
    (tmp_path / "four/dcsft.json").unlink()  # a model that is not ours says nothing
    fewer = VLM.load(tmp_path / "four", max_tiles=2)
    wide = [ask(picture("a", 224, 56), "?")]  # four tiles of 56 px and a thumbnail, or two and a thumbnail
    assert render_prompts(fewer, wide).vision["pixel_values"].shape[0] == 3
    assert render_prompts(VLM.load(tmp_path / "four"), wide).vision["pixel_values"].shape[0] == 5


@pytest.mark.parametrize(
    ("family", "limits", "said"),
    [
        ("internvl", {"max_pixels": 9}, r"model.min_pixels and .* must be null .* None and 9; set model.max_tiles"),
        ("gemma3", {"min_pixels": 9}, r"must be null for .* tiles or squares, got 9 and None; its size is fixed"),
        ("qwen2_vl", {"max_tiles": 3}, r"model.max_tiles must be null, got 3; this model has no choice of tiles"),
    ],
)  # fmt: skip
def test_a_limit_that_the_model_does_not_have_is_refused(
    family: str, limits: dict[str, int], said: str, tmp_path: Path
) -> None:
    miniature(family).save(tmp_path)
    with pytest.raises(ValueError, match=said):
        VLM.load(tmp_path, **limits)


def test_an_unknown_family_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(ValueError, match=r"model\.path must be") as refused:
        VLM.load(tmp_path)
    assert (
        "model_type must be one of qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, llava_onevision, gemma3, mllama, got "
        in (str(refused.value))
    )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", ALL)
def test_what_does_not_fit_the_context_is_refused_by_name_and_never_cut(family: str) -> None:
    vlm = miniature(family)
    assert vlm.context_length == 4096
    messages = ask(picture("a", 112, 112), "What is this?")
    (length,) = render_prompts(vlm, [messages]).lengths
    answer = tokenize_answer(vlm, "house")
    vlm.model.config.get_text_config().max_position_embeddings = length + len(answer)
    item = Item("train/7", messages, answer, None)
    SFT().loss(vlm, [item], [item], None)
    request = Request("train/8", messages)
    SharedPrefix(vlm, 4).generate([request], 2, Sampling.greedy(len(answer)))
    vlm.model.config.get_text_config().max_position_embeddings -= 1
    said = (
        rf"must fit the model's context of {length + len(answer) - 1} tokens, got {length} \+ {len(answer)} for train/"
    )
    with pytest.raises(ValueError, match=said + "7; make pictures smaller"):
        SFT().loss(vlm, [item], [item], None)
    with pytest.raises(ValueError, match=said + "8; make pictures smaller"):
        SharedPrefix(vlm, 4).generate([request], 2, Sampling.greedy(len(answer)))
