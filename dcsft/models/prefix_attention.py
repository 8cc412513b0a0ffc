"""Attention over rows `[prompt | c1 | ... | cG]`, in which the completions of a prompt do not see one another.

The structure travels in the mask: `[B, G, 1, P]`, true where a prompt's token is real, says how many completions
follow how long a prompt. (A mask that transformers makes has as many rows as there are queries.) So there is no state
that a recomputation under gradient checkpointing, in another thread, could find changed. Every other mask goes to the
attention that the model had before.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# B rows, P prompt tokens (left-padded), G completions a prompt, T completion tokens, S = P + G T, H heads, D head size

_NAME = "shared_prefix_over_"


def install(model: PreTrainedModel) -> None:
    """Let the language model of `model` take such masks; nothing else about it changes. Idempotent."""
    base = model.config.get_text_config()._attn_implementation
    if base.startswith(_NAME):
        return
    usual = ALL_ATTENTION_FUNCTIONS[base]

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: object
    ) -> tuple[Tensor, Tensor | None]:
        if attention_mask is None or attention_mask.ndim != 4 or attention_mask.shape[-2] == query.shape[-2]:
            return usual(module, query, key, value, attention_mask, **settings)
        return _attend(
            lambda *tensors: sdpa_attention_forward(module, *tensors, **settings)[0], query, key, value, attention_mask
        ), None

    AttentionInterface.register(_NAME + base, attention)
    AttentionMaskInterface.register(_NAME + base, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation({"text_config": _NAME + base})


def _attend(
    sdpa: Callable[..., Tensor],
    query: Float[Tensor, "B H S D"],
    key: Float[Tensor, "B K S D"],
    value: Float[Tensor, "B K S D"],
    real: Bool[Tensor, "B G 1 P"],
) -> Float[Tensor, "B S H D"]:
    """The prompt causally; each completion over its prompt and itself causally."""
    num, group, _, length = real.shape
    width = (query.shape[2] - length) // group
    # Split, not sliced twice: the gradient of a slice is as large as the whole, and mostly zeros.
    (query, later_query), (key, later_key), (value, later_value) = (
        part.split([length, group * width], 2) for part in (query, key, value)
    )
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)  # padding: a row without a key would be NaN
    prompt = sdpa(query, key, value, (causal & real[:, :1]) | itself)

    def per_completion(part: Tensor) -> Float[Tensor, "B*G H T D"]:
        return part.unflatten(2, (group, width)).transpose(1, 2).flatten(0, 1)

    def with_prompt(part: Tensor, later: Tensor) -> Float[Tensor, "B*G K P+T D"]:
        return torch.cat([part.repeat_interleave(group, 0), per_completion(later)], 2)

    own = torch.ones(width, width, dtype=torch.bool, device=real.device).tril().expand(num * group, 1, -1, -1)
    seen = torch.cat([real.flatten(0, 1)[:, None].expand(-1, -1, width, -1), own], -1)
    completions = sdpa(per_completion(later_query), with_prompt(key, later_key), with_prompt(value, later_value), seen)
    return torch.cat([prompt, completions.unflatten(0, (num, group)).flatten(1, 2)], 1)
