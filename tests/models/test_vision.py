"""The fast ways to picture features and patches equal the ones of transformers."""

import numpy as np
import pytest
import torch
from miniatures import picture
from torch import Tensor

from dcsft.models.vision import _one_size, encode_pictures, patchify
from dcsft.models.vlm import VLM

ONE_SIZE = [(112, 56)] * 3
MIXED_SIZES = [(112, 56), (56, 56), (168, 196), (112, 56)]
LARGE = [(168, 168)] * 2  # four attention windows of 112 px, of different size
EVEN = [(224, 112)] * 2  # two equal windows


def _pixels(vlm: VLM, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    images = [picture(str(i), *size).open() for i, size in enumerate(sizes)]
    encoded = vlm.processor.image_processor(images=images, return_tensors="pt")
    return encoded["pixel_values"], encoded["image_grid_thw"]


@torch.no_grad()
@pytest.mark.parametrize("sizes", [ONE_SIZE, ONE_SIZE[:1], MIXED_SIZES, LARGE, EVEN])
def test_features_equal_those_of_the_vision_tower(mini: VLM, sizes: list[tuple[int, int]]) -> None:
    pixels, grids = _pixels(mini, sizes)
    ours = encode_pictures(mini.visual, pixels, grids)
    theirs = mini.visual(pixels, grid_thw=grids).pooler_output
    assert [len(feature) for feature in ours] == (grids.prod(-1) // 4).tolist()
    torch.testing.assert_close(torch.cat(ours), theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_equal_those_that_the_language_model_receives(mini: VLM) -> None:
    pixels, grids = _pixels(mini, MIXED_SIZES)
    ours = encode_pictures(mini.visual, pixels, grids)
    theirs = mini.model.model.get_image_features(pixels, grids).pooler_output
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_batched_way_is_taken_for_one_size_and_equal_windows_alone(miniatures_by_name: dict[str, VLM]) -> None:
    taken = {
        (family, name)
        for family, vlm in miniatures_by_name.items()
        for name, sizes in (("one size", ONE_SIZE), ("mixed", MIXED_SIZES), ("uneven", LARGE), ("even", EVEN))
        if _one_size(vlm.visual, _pixels(vlm, sizes)[1])
    }
    full = {("qwen2_5_vl", name) for name in ("one size", "uneven", "even")}
    assert taken == full | {("qwen2_5_vl_windowed", name) for name in ("one size", "even")}


@torch.no_grad()
def test_windows_matter_in_the_windowed_miniature(miniatures_by_name: dict[str, VLM]) -> None:
    """Else the tests above would say nothing of windows."""
    pixels, grids = _pixels(miniatures_by_name["qwen2_5_vl"], LARGE)
    full, windowed = (miniatures_by_name[f].visual(pixels, grid_thw=grids).pooler_output for f in _TWINS)
    assert (full - windowed).abs().max() > 0.1
    pixels, grids = _pixels(miniatures_by_name["qwen2_5_vl"], ONE_SIZE)  # a single window
    full, windowed = (miniatures_by_name[f].visual(pixels, grid_thw=grids).pooler_output for f in _TWINS)
    torch.testing.assert_close(full, windowed, rtol=0, atol=1e-5)


_TWINS = ("qwen2_5_vl", "qwen2_5_vl_windowed")  # the same weights


@torch.no_grad()
def test_features_of_the_shipped_model_equal_those_of_its_tower(shipped: VLM) -> None:
    pixels, grids = _pixels(shipped, [(56, 56)] * 5)
    theirs = shipped.visual(pixels, grid_thw=grids).pooler_output
    torch.testing.assert_close(
        torch.cat(encode_pictures(shipped.visual, pixels, grids)), theirs, rtol=0, atol=1e-5
    )  # fmt: skip


def test_gradients_flow_through_the_batched_way_as_through_the_tower(shipped: VLM) -> None:
    pixels, grids = _pixels(shipped, [(56, 56)] * 2)
    weight = shipped.visual.blocks[0].attn.qkv.weight
    ours = torch.autograd.grad(torch.cat(encode_pictures(shipped.visual, pixels, grids)).square().mean(), weight)[0]
    theirs = torch.autograd.grad(shipped.visual(pixels, grid_thw=grids).pooler_output.square().mean(), weight)[0]
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("size", [(56, 56), (112, 56), (140, 196)])
def test_patches_equal_those_of_the_processor_exactly(
    miniatures_by_name: dict[str, VLM], size: tuple[int, int]
) -> None:
    vlm = miniatures_by_name["qwen2_5_vl"]
    pictures = np.stack([np.asarray(picture(str(i), *size).open()) for i in range(3)])
    values, grids = patchify(pictures, vlm.processor.image_processor)
    their_values, their_grids = _pixels(vlm, [size] * 3)
    assert torch.equal(grids, their_grids)
    torch.testing.assert_close(values, their_values, rtol=0, atol=0)
