"""Processors load, save and resize as told, with or without torchvision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import picture
from transformers.utils import is_torchvision_available

from dcsft.models.families import FAMILIES
from dcsft.models.processors import limit_pictures, load_processor
from dcsft.models.vlm import VLM
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

TEXT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n"


def _encode(processor: object, width: int, height: int) -> dict[str, torch.Tensor]:
    return dict(processor(text=[TEXT], images=[picture("p", width, height).open()], return_tensors="pt"))


def test_a_saved_processor_loads_again_equal(mini: VLM, tmp_path: Path) -> None:
    mini.processor.save_pretrained(tmp_path)
    mini.model.config.save_pretrained(tmp_path)
    before, after = (_encode(p, 140, 90) for p in (mini.processor, load_processor(tmp_path)))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_the_loaded_processor_has_the_class_and_template_that_were_saved(mini: VLM, tmp_path: Path) -> None:
    mini.processor.save_pretrained(tmp_path)
    mini.model.config.save_pretrained(tmp_path)
    again = load_processor(tmp_path)
    assert type(again) is type(mini.processor)
    assert again.chat_template == mini.processor.chat_template


@pytest.mark.parametrize(
    ("min_pixels", "max_pixels", "width", "height", "grid"),
    [
        (None, None, 280, 140, [1, 2, 4]),  # the folder's 3136 pixels: 79 x 39.6, rounded down to 56 x 28
        (None, 784 * 8, 280, 140, [1, 4, 8]),  # 8 tokens: 112 x 56 keeps the shape
        (None, 784 * 50, 280, 140, [1, 10, 20]),  # 50 tokens: no resizing
        (784 * 200, 784 * 200, 280, 140, [1, 20, 40]),  # enlarged to 560 x 280
    ],
)
def test_the_pixel_bounds_are_applied(
    min_pixels: int | None, max_pixels: int | None, width: int, height: int, grid: list[int]
) -> None:
    processor = load_processor(FOUNDATION)
    limit_pictures(processor, FAMILIES["qwen2_5_vl"], min_pixels, max_pixels, None)
    pixels = processor.image_processor(images=[picture("p", width, height).open()], return_tensors="pt")
    assert pixels["image_grid_thw"].tolist() == [grid]


def _hub_folder(folder: Path, **settings: object) -> Path:
    """As the real repositories are: one preprocessor_config.json in the old style, no processor_config.json."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (folder / name).write_bytes((FOUNDATION / name).read_bytes())
    old = {
        "min_pixels": 3136,
        "max_pixels": 784 * 8,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(old | settings))
    return folder


def test_a_folder_of_the_hub_loads_with_its_own_bounds(tmp_path: Path) -> None:
    processor = load_processor(_hub_folder(tmp_path / "hub"))
    # 280 x 140 into at most 8 tokens of 28 x 28: 112 x 56, which is 4 x 8 patches of 14 px.
    assert _encode(processor, 280, 140)["image_grid_thw"].tolist() == [[1, 4, 8]]


def test_bounds_given_at_loading_win_over_a_hub_folders_old_ones(tmp_path: Path) -> None:
    processor = load_processor(_hub_folder(tmp_path / "hub"))
    limit_pictures(processor, FAMILIES["qwen2_5_vl"], 784, 784 * 2, None)
    assert _encode(processor, 280, 140)["image_grid_thw"].tolist() == [[1, 2, 4]]  # 56 x 28: 2 tokens


def test_a_hub_folders_processor_can_be_saved_and_loaded_again(tmp_path: Path) -> None:
    processor = load_processor(_hub_folder(tmp_path / "hub"))
    limit_pictures(processor, FAMILIES["qwen2_5_vl"], None, 784 * 18, None)
    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/config.json").write_bytes((FOUNDATION / "config.json").read_bytes())
    again = load_processor(tmp_path / "saved")
    first, second = (_encode(p, 280, 140) for p in (processor, again))
    assert first["image_grid_thw"].tolist() == [[1, 6, 12]]  # 168 x 84: 18 tokens
    assert torch.equal(first["pixel_values"], second["pixel_values"])


@pytest.mark.parametrize("again", [False, True], ids=["built", "loaded and saved again"])
def test_what_is_saved_without_torchvision_names_the_real_video_processor(
    mini: VLM, tmp_path: Path, again: bool
) -> None:
    mini.processor.save_pretrained(tmp_path)
    if again:
        mini.model.config.save_pretrained(tmp_path)
        load_processor(tmp_path).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"


def test_the_shipped_model_loads_with_torchvision() -> None:
    saved = json.loads((FOUNDATION / "processor_config.json").read_text())
    assert saved["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision a video is no problem")
def test_without_torchvision_a_video_is_refused(shipped: VLM) -> None:
    video = np.zeros((4, 56, 56, 3), np.uint8)
    with pytest.raises(ImportError, match="a video needs torchvision, which is not installed; install torchvision or"):
        shipped.processor(text=["<|video_pad|>"], videos=[video], return_tensors="pt")
