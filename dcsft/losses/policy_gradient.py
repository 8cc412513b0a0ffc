"""The terms of GRPO and its relatives, each once; a published algorithm is a choice of arguments.

| algorithm | scaling | level | aggregation | epsilon_high | beta |
|---|---|---|---|---|---|
| GRPO (arXiv 2402.03300), DC-SFT equations 3-5 | std | token | sequence | = epsilon_low | > 0 |
| Dr. GRPO (arXiv 2503.20783) | none | token | constant | = epsilon_low | 0 |
| DAPO (arXiv 2503.14476) | std | token | token | > epsilon_low | 0 |
| GSPO (arXiv 2507.18071) | std | sequence | sequence | > epsilon_low | 0 |
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# B prompts, G completions a prompt, R = B G completions, T completion tokens (right-padded)


def group_advantage(
    reward: Float[Tensor, "B G"], scaling: Literal["std", "none"], delta: float
) -> Float[Tensor, "B G"]:
    """(r - mean) / (std + delta) within each group (arXiv 2402.03300, section 4.1.2); std with Bessel's correction.

    Where all rewards of a group are equal the advantage is exactly zero: easy and hard prompts teach nothing.
    `scaling="none"` leaves out the division (Dr. GRPO, arXiv 2503.20783): it weighs groups of low variance up.
    """
    centred = reward - reward.mean(-1, keepdim=True)
    same = (reward == reward[:, :1]).all(-1, keepdim=True)
    centred = torch.where(same, 0.0, centred)  # not a rounding error of the mean
    return centred if scaling == "none" else centred / (reward.std(-1, keepdim=True) + delta)


def importance_ratio(
    logp: Float[Tensor, "R T"],
    logp_old: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
    level: Literal["token", "sequence"],
) -> Float[Tensor, "R T"]:
    """pi(token) / pi_old(token), or one ratio for the whole completion.

    Sequence level (GSPO, arXiv 2507.18071, equation 7): the geometric mean of the token ratios, on every token.
    """
    log_ratio = torch.where(mask, logp - logp_old, 0.0)
    if level == "sequence":
        log_ratio = (log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).expand_as(log_ratio)
    return log_ratio.exp()


def clipped_surrogate(
    ratio: Float[Tensor, "R T"], advantage: Float[Tensor, " R"], epsilon_low: float, epsilon_high: float
) -> tuple[Float[Tensor, "R T"], Bool[Tensor, "R T"]]:
    """-min(ratio A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) A) (DC-SFT, equation 3), and where it was clipped.

    epsilon_high > epsilon_low is the asymmetric clipping of DAPO (arXiv 2503.14476, equation 10).
    """
    advantage = advantage[:, None]
    free = ratio * advantage
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantage
    return -torch.minimum(free, clipped), clipped < free


def k3(logp: Float[Tensor, "R T"], logp_ref: Float[Tensor, "R T"]) -> Float[Tensor, "R T"]:
    """An unbiased, non-negative estimate of KL(pi || pi_ref) a token: r - log r - 1, r = pi_ref / pi (DC-SFT, 5)."""
    log_ratio = logp_ref - logp
    return log_ratio.exp() - log_ratio - 1


def aggregate(
    losses: Float[Tensor, "R T"],
    mask: Bool[Tensor, "R T"],
    how: Literal["sequence", "token", "constant"],
    num_completions: int,
    num_tokens: int,
    max_tokens: int,
) -> Float[Tensor, ""]:
    """Token losses of a micro-batch to its share of the batch's loss; shares add up.

    Args:
        how: "sequence": each completion's mean, then the mean of completions (DC-SFT, equation 3). "token": the mean
            over all tokens of the batch (DAPO, equation 8). "constant": the sum divided by completions times
            `max_tokens` (Dr. GRPO), so that length carries no weight.
        num_completions, num_tokens: of the whole batch.
        max_tokens: the longest completion allowed.
    """
    losses = torch.where(mask, losses, 0.0)
    if how == "token":
        return losses.sum() / num_tokens
    if how == "constant":
        return losses.sum() / (num_completions * max_tokens)
    return (losses.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / num_completions
