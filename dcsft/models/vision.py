"""Picture features: the vision tower and merger, faster where all pictures of a batch have one size."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BaseImageProcessor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl

# N pictures, S patches a picture, M merged tokens a picture, D hidden size, X numbers in a patch


def encode_pictures(
    visual: nn.Module, pixel_values: Float[Tensor, "NS X"], grid_thw: Int[Tensor, "N 3"]
) -> list[Float[Tensor, "M D"]]:
    """Merged image tokens of each picture, exactly as the language model receives them."""
    lengths = (grid_thw.prod(-1) // visual.spatial_merge_size**2).tolist()
    if _one_size_full_attention(visual, grid_thw):
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


def _one_size_full_attention(visual: nn.Module, grid_thw: Int[Tensor, "N 3"]) -> bool:
    """Whether `_encode_one_size` computes the same: equal grids, every block attends to the whole picture, no LoRA."""
    return (
        type(visual) is qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel
        and bool((grid_thw == grid_thw[0]).all())
        and len(visual.fullatt_block_indexes) == len(visual.blocks)
    )


def _encode_one_size(
    visual: nn.Module, pixel_values: Float[Tensor, "NS X"], grid_thw: Int[Tensor, "N 3"]
) -> Float[Tensor, "NM D"]:
    """All pictures through one batched attention instead of a loop over pictures.

    Equal to `visual(...)` up to float rounding: full attention in every block makes the window permutation a no-op,
    and the patch convolution, whose stride is its kernel, is a matrix product.
    """
    num, grid = len(grid_thw), grid_thw[:1]
    size = int(grid.prod())
    weight = visual.patch_embed.proj.weight
    hidden = F.linear(pixel_values.to(weight.dtype), weight.flatten(1))
    positions = qwen2_5_vl.get_vision_position_ids(grid, visual.spatial_merge_size, kwargs={})
    cos, sin = (part.repeat(num, 1) for part in visual.rotary_pos_emb(hidden, positions))
    for block in visual.blocks:
        attention = block.attn
        q, k, v = attention.qkv(block.norm1(hidden)).view(num * size, 3, attention.num_heads, -1).unbind(1)
        q, k = qwen2_5_vl.apply_rotary_pos_emb_vision(q, k, cos, sin)
        q, k, v = (part.view(num, size, attention.num_heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(num * size, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden)
