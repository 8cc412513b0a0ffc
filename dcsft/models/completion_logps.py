"""Log-probabilities of G completions of each prompt, while prompt and picture go through the model once.

One row `[prompt | c1 | ... | cG]` a prompt: each completion sees the prompt and its own earlier tokens, and explicit
positions let each begin where the prompt ends. Equal to G separate rows, log-probabilities and gradients; the work is
P + G C tokens instead of G (P + C), and one picture instead of G. Exact under gradient checkpointing.

Who sees whom is said by a dense mask for short completions, and by an attention function of our own for long ones,
which never forms the (P + G C)^2 scores. A model with layers that are not full attention, which would not heed either,
takes the naive way.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dcsft.models import prefix_attention
from dcsft.models.attention import say_once
from dcsft.models.render import Prompts, append_completions, continued
from dcsft.models.vlm import VLM

# B prompts, P prompt tokens (left-padded), G completions a prompt, T completion tokens (right-padded), S = P + G T,
# N real completion tokens, D hidden size


LONG_TOKENS = 24
"""Completions of this many tokens and more take the attention function; benchmarks/grpo_loss.py shows the crossing."""
_HEAD_TOKENS = 2048
"""Tokens whose logits exist at once: 1.2 GB in float32 with 151,936 words."""


def completion_logps(
    vlm: VLM, prompts: Prompts, groups: Sequence[Sequence[Sequence[int]]], temperature: float
) -> tuple[Float[Tensor, "B G T"], Bool[Tensor, "B G T"]]:
    """log pi(token) of every completion token at `temperature`, and which tokens are real.

    Args:
        groups: B groups of G completions, each a sequence of token ids.

    Raises:
        ValueError: a completion contains a picture token.
    """
    if not vlm.full_attention:
        say_once("this model has layers that are not full attention: each completion is a row of its own in the loss")
        return completion_logps_naive(vlm, prompts, groups, temperature)
    ids, mask = _padded(vlm, groups)
    num, group, width = ids.shape
    length = prompts.input_ids.shape[1]
    later = (prompts.next_position[:, None] + torch.arange(width, device=ids.device)).expand(-1, group, -1)
    later = later.reshape(num, group * width)
    if vlm.uses_mrope:
        later = later.expand(3, -1, -1)
    if width < LONG_TOKENS:
        attention_mask = _dense_mask(prompts, group, width)
    else:
        prefix_attention.install(vlm.model)
        attention_mask = prompts.attention_mask.bool()[:, None, None, :].expand(-1, group, -1, -1)
    hidden = vlm.hidden_states(
        input_ids=torch.cat([prompts.input_ids, ids.flatten(1)], 1),
        attention_mask=attention_mask,
        position_ids=torch.cat([prompts.position_ids, later], -1),
        use_cache=False,
        **continued(vlm, prompts.vision, group * width),
    )
    # The prompt's last token predicts each completion's first token; a completion's token predicts its next.
    first = hidden[:, length - 1 : length, None].expand(-1, -1, group, -1).transpose(1, 2)
    inner = hidden[:, length:].view(num, group, width, -1)[:, :, :-1]
    return _logps(vlm, torch.cat([first, inner], 2), ids, mask, temperature), mask


def completion_logps_naive(
    vlm: VLM, prompts: Prompts, groups: Sequence[Sequence[Sequence[int]]], temperature: float
) -> tuple[Float[Tensor, "B G T"], Bool[Tensor, "B G T"]]:
    """The same with a row a completion: prompt and picture go through the model G times."""
    ids, mask = _padded(vlm, groups)
    width = ids.shape[-1]
    rows = []
    for number in range(ids.shape[1]):
        padded = [[*row[number], *[vlm.pad_id] * (width - len(row[number]))] for row in groups]
        hidden = vlm.hidden_states(**append_completions(vlm, prompts, padded).inputs)[:, -width - 1 : -1]
        rows.append(_logps(vlm, hidden, ids[:, number], mask[:, number], temperature))
    return torch.stack(rows, 1), mask


def _padded(vlm: VLM, groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    completions = [completion for group in groups for completion in group]
    pictures = {token for completion in completions for token in completion} & set(vlm.picture_ids)
    if pictures:
        raise ValueError(
            f"a completion must not contain picture tokens, got {sorted(pictures)}; "
            "take rollouts of an engine that never draws them"
        )
    width = max(map(len, completions))
    ids = torch.tensor([[[*c, *[vlm.pad_id] * (width - len(c))] for c in group] for group in groups])
    lengths = torch.tensor([[len(c) for c in group] for group in groups])
    mask = torch.arange(width) < lengths[..., None]
    return ids.to(vlm.device), mask.to(vlm.device)


def _dense_mask(prompts: Prompts, group: int, width: int) -> Bool[Tensor, "B 1 S S"]:
    """Who sees whom: the prompt causally, each completion the prompt and itself causally."""
    device = prompts.input_ids.device
    length = prompts.input_ids.shape[1]
    real = prompts.attention_mask.bool()
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    within = torch.block_diag(*[torch.ones(width, width, device=device).tril()] * group).bool()
    size = length + group * width
    mask = torch.zeros(len(real), 1, size, size, dtype=torch.bool, device=device)
    mask[:, 0, :length, :length] = causal & real[:, None, :]
    mask[:, 0, length:, :length] = real[:, None, :]
    mask[:, 0, length:, length:] = within
    mask[:, 0].diagonal(dim1=-2, dim2=-1).fill_(True)  # padding sees itself: a row without a key would be NaN
    return mask


def _logps(vlm: VLM, hidden: Tensor, ids: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """log pi of `ids` from the hidden states that predict them; the output head sees real tokens only."""

    def of_some(hidden: Float[Tensor, "N D"], ids: Tensor) -> Float[Tensor, " N"]:
        logits = vlm.logits(hidden) / temperature
        logits[..., vlm.picture_ids] = float("-inf")  # as the sampler has it: these are never drawn
        return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]

    some = list(zip(hidden[mask].split(_HEAD_TOKENS), ids[mask].split(_HEAD_TOKENS), strict=True))
    if len(some) == 1 or not torch.is_grad_enabled():
        parts = [of_some(*part) for part in some]
    else:  # logits are computed again in the backward pass, so that those of one part exist at a time
        parts = [checkpoint(of_some, *part, use_reentrant=False) for part in some]
    logp = torch.cat(parts)
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)
