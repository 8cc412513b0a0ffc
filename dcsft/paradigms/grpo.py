"""Group-relative policy optimisation: the paper's equations 3-5, with prompt and picture shared by the whole group.

Departures that are arguments of their own: Dr. GRPO, DAPO and GSPO (see losses/policy_gradient.py). One update a
rollout: then pi_old is the policy itself, the ratio is one and no second forward pass is needed for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.losses.policy_gradient import aggregate, clipped_surrogate, group_advantage, importance_ratio, k3
from dcsft.models.completion_logps import completion_logps
from dcsft.models.render import FeatureSource, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting
from dcsft.records import DIFFICULTIES, Completion, Difficulty, Example
from dcsft.tasks.task import Task


@dataclass(frozen=True)
class Group:
    """One prompt with its G completions and what the judge gave them."""

    item: Item
    completions: Sequence[Completion]
    advantage: Float[Tensor, " G"]

    @property
    def id(self) -> str:
        return self.item.id

    @property
    def difficulty(self) -> Difficulty | None:
        return self.item.difficulty

    @property
    def num_tokens(self) -> int:
        """Completion tokens of the group."""
        return sum(len(completion.token_ids) for completion in self.completions)


class GRPO(Paradigm):
    """Clipped surrogate on group-normalised rewards, with a KL penalty to the cold-started model.

    Args:
        num_completions: G.
        temperature: of the rollouts, and of the probabilities in the loss.
        kl: beta, the weight of the k3 penalty; 0 skips the reference's forward pass.
        delta: added to the standard deviation of the rewards.
        epsilon_low, epsilon_high: clipping of the ratio.
        scaling: "std", or "none" (Dr. GRPO).
        level: the ratio of "token" or "sequence" (GSPO).
        aggregation: "sequence", "token" (DAPO) or "constant" (Dr. GRPO).
    """

    def __init__(
        self,
        num_completions: int,
        temperature: float,
        kl: float,
        delta: float,
        epsilon_low: float,
        epsilon_high: float,
        scaling: Literal["std", "none"],
        level: Literal["token", "sequence"],
        aggregation: Literal["sequence", "token", "constant"],
    ) -> None:
        if num_completions < 2:
            raise ValueError(
                f"paradigm.num_completions must be at least 2, got {num_completions}; an advantage compares a group"
            )
        for name, value in dict(kl=kl, delta=delta, epsilon_low=epsilon_low, epsilon_high=epsilon_high).items():
            if value < 0:
                raise ValueError(f"paradigm.{name} must not be negative, got {value}; 0 turns it off")
        if temperature <= 0:
            raise ValueError(f"paradigm.temperature must be positive, got {temperature}; the paper takes 0.9")
        choices = {"scaling": ("std", "none"), "level": ("token", "sequence")}
        choices["aggregation"] = ("sequence", "token", "constant")
        for name, given in dict(scaling=scaling, level=level, aggregation=aggregation).items():
            if given not in choices[name]:
                raise ValueError(f"paradigm.{name} must be one of {', '.join(choices[name])}, got {given!r}")
        self.num_completions, self.temperature = num_completions, temperature
        self.kl, self.delta = kl, delta
        self.epsilon_low, self.epsilon_high = epsilon_low, epsilon_high
        self.scaling, self.level, self.aggregation = scaling, level, aggregation
        self.max_new_tokens = 0

    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        return [Item(example.id, task.prompt(example), tokenize_answer(policy, task.target(example)), difficulty)]

    def begin(self, policy: VLM, batch: Sequence[Item], step: int, setting: Setting) -> Begun:
        """Sample G completions of each prompt with the current policy and judge them."""
        self.max_new_tokens = setting.max_new_tokens
        sampling = Sampling(self.temperature, 1.0, 0, setting.max_new_tokens, setting.seed)
        engine = SharedPrefix(policy, setting.generation_batch_size, setting.decoding, setting.features)
        # A prompt that comes again in a later epoch, or twice in a batch, gets fresh samples.
        requests = [Request(f"{step}/{place}/{item.id}", item.messages) for place, item in enumerate(batch)]
        answers = engine.generate(requests, self.num_completions, sampling)
        rewards = torch.tensor(
            [
                [setting.task.score(setting.examples[item.id], completion.text).reward for completion in group]
                for item, group in zip(batch, answers, strict=True)
            ]
        )
        advantages = group_advantage(rewards, self.scaling, self.delta)
        groups = [
            Group(item, group, advantage) for item, group, advantage in zip(batch, answers, advantages, strict=True)
        ]
        return groups, _rollout_metrics(groups, rewards)

    def loss(
        self, policy: VLM, rows: Sequence[Group], batch: Sequence[Group], features: FeatureSource | None
    ) -> LossTerm:
        """Equations 3-5. A group without advantage is exactly zero when there is no KL penalty, and costs nothing."""
        live = [group for group in rows if self.kl > 0 or bool(group.advantage.any())]
        if not live:
            return LossTerm(None, [0.0] * len(rows))
        device = policy.device
        prompts = render_prompts(policy, [group.item.messages for group in live], features)
        tokens = [[completion.token_ids for completion in group.completions] for group in live]
        logp, mask = completion_logps(policy, prompts, tokens, self.temperature)
        logp, mask = logp.flatten(0, 1), mask.flatten(0, 1)
        advantage = torch.stack([group.advantage for group in live]).flatten().to(device)
        ratio = importance_ratio(logp, logp.detach(), mask, self.level)
        losses, _ = clipped_surrogate(ratio, advantage, self.epsilon_low, self.epsilon_high)
        if self.kl > 0:
            with torch.no_grad(), policy.reference():
                logp_ref, _ = completion_logps(policy, prompts, tokens, self.temperature)
            losses = losses + self.kl * k3(logp, logp_ref.flatten(0, 1))
        num_completions = sum(len(group.completions) for group in batch)
        num_tokens = sum(group.num_tokens for group in batch)
        arguments = (self.aggregation, num_completions, num_tokens, self.max_new_tokens)
        row_losses = dict(zip(map(id, rows), [0.0] * len(rows), strict=True))
        for place, group in enumerate(live):
            part = slice(place * self.num_completions, (place + 1) * self.num_completions)
            share = aggregate(losses[part].detach(), mask[part], *arguments)
            row_losses[id(group)] = float(share) * self.weight(batch)
        return LossTerm(aggregate(losses, mask, *arguments), [row_losses[id(group)] for group in rows])

    def weight(self, rows: Sequence[Group]) -> float:
        return sum(len(group.completions) for group in rows)


def _rollout_metrics(groups: Sequence[Group], rewards: Float[Tensor, "B G"]) -> Mapping[str, float]:
    """What the rollouts of a step say, over all and per difficulty: the paper's Figure 1a from data.

    `advantage_share/<class>` is the class's part of the sum of squared advantages: how much of the update it can be.
    """
    completions = [completion for group in groups for completion in group.completions]
    tokens = sum(len(completion.token_ids) for completion in completions)
    squared = torch.stack([group.advantage for group in groups]).square().sum(-1)
    flat = (rewards == rewards[:, :1]).all(-1).float()
    metrics = {
        "reward": float(rewards.mean()),
        "zero_variance": float(flat.mean()),
        "completion_tokens": tokens / len(completions),
        "entropy": -sum(completion.logp for completion in completions) / tokens,
        "cut": sum(not completion.finished for completion in completions) / len(completions),
    }
    for kind in DIFFICULTIES:
        rows = torch.tensor([group.difficulty == kind for group in groups])
        if rows.any():
            metrics[f"reward/{kind}"] = float(rewards[rows].mean())
            metrics[f"zero_variance/{kind}"] = float(flat[rows].mean())
            if squared.sum() > 0:
                metrics[f"advantage_share/{kind}"] = float(squared[rows].sum() / squared.sum())
    return metrics
