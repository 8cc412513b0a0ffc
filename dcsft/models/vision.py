"""Picture features: the vision tower and merger, faster where all pictures of a batch have one size."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BaseImageProcessor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl

# N pictures, S patches a picture, M merged tokens a picture, W windows + 1, D hidden size, X numbers in a patch


def encode_pictures(
    visual: nn.Module, pixel_values: Float[Tensor, "NS X"], grid_thw: Int[Tensor, "N 3"]
) -> list[Float[Tensor, "M D"]]:
    """Merged image tokens of each picture, exactly as the language model receives them."""
    lengths = (grid_thw.prod(-1) // visual.spatial_merge_size**2).tolist()
    if _one_size(visual, grid_thw):
        merged = _encode_one_size(visual, pixel_values, grid_thw)
    else:
        merged = visual(pixel_values.to(visual.dtype), grid_thw=grid_thw).pooler_output
    return list(merged.split(lengths))


def patchify(
    pictures: NDArray[np.uint8], image_processor: BaseImageProcessor
) -> tuple[Float[Tensor, "NS X"], Int[Tensor, "N 3"]]:
    """`pixel_values` and `image_grid_thw` of pictures [N, H, W, 3] that need no resizing; equal to the processor's.

    Patches come in blocks of merge_size x merge_size, each block the pixels of one merged token.
    """
    num, height, width, _ = pictures.shape
    patch, merge, frames = (
        image_processor.patch_size,
        image_processor.merge_size,
        image_processor.temporal_patch_size,
    )
    rows, columns = height // patch, width // patch
    mean, std = (torch.tensor(values) for values in (image_processor.image_mean, image_processor.image_std))
    pixels = ((torch.from_numpy(pictures).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    blocks = pixels.reshape(num, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    flat = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(num * rows * columns, 3, 1, patch, patch)
    values = flat.expand(-1, -1, frames, -1, -1).reshape(num * rows * columns, -1)
    return values, torch.tensor([[1, rows, columns]] * num)


def _one_size(visual: nn.Module, grid_thw: Int[Tensor, "N 3"]) -> bool:
    """Whether `_encode_one_size` computes the same: equal grids, and windows of equal size in each."""
    if type(visual) is not qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel:
        return False
    if visual.gradient_checkpointing and visual.training:  # the stock forward recomputes block by block
        return False
    if not bool((grid_thw == grid_thw[0]).all()):
        return False
    _, bounds = _windows(visual, grid_thw[:1])
    return len(visual.fullatt_block_indexes) == len(visual.blocks) or len(set(bounds.diff().tolist())) == 1


def _windows(visual: nn.Module, grid: Int[Tensor, "1 3"]) -> tuple[Int[Tensor, "M"], Int[Tensor, "W"]]:
    """The order in which a picture's merged tokens stand window by window, and where each window's patches begin."""
    return qwen2_5_vl.get_vision_window_index(
        grid,
        spatial_merge_size=visual.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
        kwargs={},
    )


def _encode_one_size(
    visual: nn.Module, pixel_values: Float[Tensor, "NS X"], grid_thw: Int[Tensor, "N 3"]
) -> Float[Tensor, "NM D"]:
    """All pictures, and all their windows, through one batched attention instead of a loop over them.

    Equal to `visual(...)` up to float rounding. The patch convolution, whose stride is its kernel, is a matrix product.
    """
    num, grid = len(grid_thw), grid_thw[:1]
    size = int(grid.prod())
    order, bounds = _windows(visual, grid)
    order = order.to(pixel_values.device)

    def by_window(patches: Tensor) -> Tensor:
        """[num * size, ...] with each picture's blocks of merged patches in window order."""
        blocks = patches.view(num, len(order), size // len(order), -1)
        return blocks[:, order].reshape(num * size, -1)

    weight = visual.patch_embed.proj.weight
    hidden = by_window(F.linear(pixel_values.to(weight.dtype), weight.flatten(1)))
    positions = qwen2_5_vl.get_vision_position_ids(grid, visual.spatial_merge_size, kwargs={})
    cos, sin = (by_window(part.repeat(num, 1)) for part in visual.rotary_pos_emb(hidden, positions))
    for number, block in enumerate(visual.blocks):
        length = size if number in visual.fullatt_block_indexes else int(bounds[1] - bounds[0])
        attention = block.attn
        q, k, v = attention.qkv(block.norm1(hidden)).view(num * size, 3, attention.num_heads, -1).unbind(1)
        q, k = qwen2_5_vl.apply_rotary_pos_emb_vision(q, k, cos, sin)
        q, k, v = (part.view(-1, length, attention.num_heads, part.shape[-1]).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(num * size, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged = visual.merger(hidden).view(num, len(order), -1)
    return merged[:, order.argsort()].flatten(0, 1)
