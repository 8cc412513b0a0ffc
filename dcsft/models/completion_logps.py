"""Log-probabilities of G completions of each prompt, while prompt and picture go through the model once.

One row `[prompt | c1 | ... | cG]` a prompt: a mask lets each completion see the prompt and its own earlier tokens, and
explicit positions let each begin where the prompt ends. Equal to G separate rows, log-probabilities and gradients; the
work is P + G C tokens instead of G (P + C), and one picture instead of G. Exact under gradient checkpointing.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dcsft.models.render import Prompts, append_completions, continued
from dcsft.models.vlm import VLM

# B prompts, P prompt tokens (left-padded), G completions a prompt, T completion tokens (right-padded), S = P + G T


def completion_logps(
    vlm: VLM, prompts: Prompts, groups: Sequence[Sequence[Sequence[int]]], temperature: float
) -> tuple[Float[Tensor, "B G T"], Bool[Tensor, "B G T"]]:
    """log pi(token) of every completion token at `temperature`, and which tokens are real.

    Args:
        groups: B groups of G completions, each a sequence of token ids.
    """
    ids, mask = _padded(vlm, groups)
    num, group, width = ids.shape
    length = prompts.input_ids.shape[1]
    later = (prompts.next_position[:, None] + torch.arange(width, device=ids.device)).expand(-1, group, -1)
    later = later.reshape(num, group * width)
    if vlm.uses_mrope:
        later = later.expand(3, -1, -1)
    hidden = vlm.hidden_states(
        input_ids=torch.cat([prompts.input_ids, ids.flatten(1)], 1),
        attention_mask=_mask(prompts, group, width),
        position_ids=torch.cat([prompts.position_ids, later], -1),
        use_cache=False,
        **continued(vlm, prompts.vision, group * width),
    )
    # The prompt's last token predicts each completion's first token; a completion's token predicts its next.
    first = hidden[:, length - 1 : length, None].expand(-1, -1, group, -1).transpose(1, 2)
    inner = hidden[:, length:].view(num, group, width, -1)[:, :, :-1]
    return _logps(vlm, torch.cat([first, inner], 2), ids, mask, temperature), mask


def completion_logps_naive(
    vlm: VLM, prompts: Sequence[Prompts], groups: Sequence[Sequence[Sequence[int]]], temperature: float
) -> tuple[Float[Tensor, "B G T"], Bool[Tensor, "B G T"]]:
    """The same with a row a completion; `prompts[g]` are the B prompts again, for models that cannot share them."""
    ids, mask = _padded(vlm, groups)
    width = ids.shape[-1]
    rows = []
    for number, again in enumerate(prompts):
        rows_padded = [[*row[number], *[vlm.pad_id] * (width - len(row[number]))] for row in groups]
        sequences = append_completions(vlm, again, rows_padded)
        hidden = vlm.hidden_states(**sequences.inputs)[:, -width - 1 : -1]
        rows.append(_logps(vlm, hidden, ids[:, number], mask[:, number], temperature))
    return torch.stack(rows, 1), mask


def _padded(vlm: VLM, groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    width = max(len(completion) for group in groups for completion in group)
    ids = torch.tensor([[[*c, *[vlm.pad_id] * (width - len(c))] for c in group] for group in groups])
    lengths = torch.tensor([[len(c) for c in group] for group in groups])
    mask = torch.arange(width) < lengths[..., None]
    return ids.to(vlm.device), mask.to(vlm.device)


def _mask(prompts: Prompts, group: int, width: int) -> Bool[Tensor, "B 1 S S"]:
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
    logits = vlm.logits(hidden[mask]) / temperature
    logits[..., vlm.picture_ids] = float("-inf")  # as the sampler has it: these are never drawn
    logp = logits.log_softmax(-1).gather(-1, ids[mask][:, None])[:, 0]
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)
