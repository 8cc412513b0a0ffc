"""What the rollouts of a step say, over all and per difficulty: the paper's Figure 1a from data."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dcsft.records import DIFFICULTIES

if TYPE_CHECKING:
    from dcsft.paradigms.grpo import Group


def rollout_metrics(rolled: Sequence["Group"], trained: Sequence["Group"]) -> dict[str, float]:
    """Means over the groups that were sampled, and shares of those that are trained on.

    `zero_variance` is the share of groups whose completions all earn the same. `advantage_share/<class>` is the class's
    part of the sum of squared advantages: how much of the update it can be. `entropy` is the mean of -log pi over the
    sampled tokens, in nats; `cut` the share of completions that reached the token limit.

    Args:
        rolled: every group sampled for the step.
        trained: those that the loss is taken on, fewer where some were replaced.
    """
    completions = [completion for group in rolled for completion in group.completions]
    tokens = sum(len(completion.token_ids) for completion in completions)
    squared = torch.stack([group.advantage for group in trained]).square().sum(-1)
    metrics = {
        **_of(rolled, ""),
        "completion_tokens": tokens / len(completions),
        "entropy": -sum(completion.logp for completion in completions) / tokens,
        "cut": sum(not completion.finished for completion in completions) / len(completions),
        "resampled": float(len(rolled) - len(trained)),
    }
    for kind in DIFFICULTIES:
        some = [group for group in rolled if group.difficulty == kind]
        if some:
            metrics |= _of(some, f"/{kind}")
        rows = torch.tensor([group.difficulty == kind for group in trained])
        if rows.any() and squared.sum() > 0:
            metrics[f"advantage_share/{kind}"] = float(squared[rows].sum() / squared.sum())
    return metrics


def _of(groups: Sequence["Group"], suffix: str) -> dict[str, float]:
    reward = torch.stack([group.reward for group in groups])
    flat = (reward == reward[:, :1]).all(-1).float()
    return {f"reward{suffix}": float(reward.mean()), f"zero_variance{suffix}": float(flat.mean())}


def sample_of(group: "Group") -> list[Mapping[str, Any]]:
    """A group's completions for people to read."""
    return [
        {
            "id": group.id,
            "difficulty": group.difficulty,
            "text": completion.text,
            "reward": float(reward),
            "advantage": float(advantage),
            "tokens": len(completion.token_ids),
        }
        for completion, reward, advantage in zip(group.completions, group.reward, group.advantage, strict=True)
    ]
