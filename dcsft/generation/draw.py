"""One token from each distribution, by the inverse of its cumulative distribution.

A single uniform number decides a token. It comes from a stream that the example and the sample name, so that a sample
is the same in any batch, order, process or resumed run.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dcsft.generation.engine import Sampling
from dcsft.seeding import stream

# L leading axes (rows, samples), V vocabulary, R requests, G samples a request, T tokens


def uniforms(ids: list[str], n: int, sampling: Sampling) -> Float[Tensor, "R G T"]:
    """The uniform numbers in [0, 1) that decide every token of every sample."""
    draws = [
        [stream("sample", sampling.seed, name, sample).random(sampling.max_new_tokens) for sample in range(n)]
        for name in ids
    ]
    return torch.from_numpy(np.array(draws))


def draw_tokens(
    logits: Float[Tensor, "*L V"], uniform: Float[Tensor, "*L"], sampling: Sampling
) -> tuple[Int[Tensor, "*L"], Float[Tensor, "*L"]]:
    """The tokens, and their log-probabilities under the (tempered, unfiltered) distribution."""
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
    logp = (logits / sampling.temperature).log_softmax(-1)
    probability = _filtered(logp.exp(), sampling)
    cumulative = probability.double().cumsum(-1)
    threshold = (uniform.to(cumulative.device) * cumulative[..., -1])[..., None]
    token = torch.searchsorted(cumulative, threshold, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(-1, token[..., None])[..., 0]


def _filtered(probability: Float[Tensor, "*L V"], sampling: Sampling) -> Float[Tensor, "*L V"]:
    """Zero what top-k and top-p exclude; the rest keeps its proportions. The most likely token always stays."""
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return probability
    ordered, order = probability.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[..., sampling.top_k :] = 0
    ordered = ordered / ordered.sum(-1, keepdim=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < sampling.top_p, ordered, 0)
    return torch.zeros_like(probability).scatter(-1, order, kept)
