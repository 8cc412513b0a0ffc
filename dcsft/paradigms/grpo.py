"""Group-relative policy optimisation: the paper's equations 3-5, with prompt and picture shared by the whole group.

Departures that are arguments of their own: Dr. GRPO, DAPO and GSPO (see losses/policy_gradient.py). With one update a
batch, pi_old is the policy itself and no second forward pass is needed for it; with several, its log-probabilities are
those of the first update.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.losses.policy_gradient import aggregate, clipped_surrogate, group_advantage, importance_ratio, k3
from dcsft.models.completion_logps import completion_logps
from dcsft.models.render import FeatureSource, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting
from dcsft.paradigms.rollout_metrics import rollout_metrics, sample_of
from dcsft.records import Completion, Difficulty, Example
from dcsft.seeding import stream
from dcsft.tasks.task import Task

# B prompts, G completions a prompt, R = B G completions, T completion tokens (right-padded)

log = logging.getLogger(__name__)

_PATIENCE = 20
"""Batches without any advantage before a warning."""
_FOREIGN = 0.05
"""Nats a token between a rollout's recorded log-probability and ours, above which it is another model's. Rounding in
bfloat16 stays below; models that differ do not."""


@dataclass(eq=False)
class Group:
    """One prompt with its G completions and what the judge gave them."""

    item: Item
    completions: Sequence[Completion]
    reward: Float[Tensor, " G"]
    advantage: Float[Tensor, " G"]
    by_reference: bool = False
    """Whether the reference sampled the completions, and not the policy."""
    logp_old: Float[Tensor, "G T"] | None = None
    """Log-probabilities under the policy that sampled; None until the first update has computed them."""

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

    @property
    def teaches(self) -> bool:
        """Whether any completion is better than another."""
        return bool(self.advantage.any())


class GRPO(Paradigm):
    """Clipped surrogate on group-normalised rewards, with a KL penalty to the cold-started model.

    Args:
        num_completions: G.
        temperature: of the rollouts, and of the probabilities in the loss.
        num_iterations: mu, optimizer steps on one batch of rollouts.
        max_resamples: rounds in which prompts whose completions all earn the same are replaced by others, drawn from
            the whole training set (DAPO's dynamic sampling, arXiv 2503.14476, section 3.2); 0 is off. Unlike there,
            the order of the other batches does not shift.
        warm_start_batches: so many first batches take their completions from labelling, which the cold-started model
            sampled. It is the policy for the first batch; in later ones the ratio is taken to it.
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
        num_iterations: int,
        max_resamples: int,
        warm_start_batches: int,
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
        if num_iterations < 1:
            raise ValueError(f"paradigm.num_iterations must be at least 1, got {num_iterations}; the paper takes 1")
        not_negative = dict(kl=kl, delta=delta, epsilon_low=epsilon_low, epsilon_high=epsilon_high)
        not_negative |= dict(max_resamples=max_resamples, warm_start_batches=warm_start_batches)
        for name, value in not_negative.items():
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
        self.updates_per_batch = num_iterations
        self.max_resamples, self.warm_start_batches = max_resamples, warm_start_batches
        self.kl, self.delta = kl, delta
        self.epsilon_low, self.epsilon_high = epsilon_low, epsilon_high
        self.scaling, self.level, self.aggregation = scaling, level, aggregation
        self.max_new_tokens = 0
        self._idle = 0

    # --- rows ---------------------------------------------------------------------------------------------------

    def items(
        self, policy: VLM, task: Task, example: Example, difficulty: Difficulty | None, answers: Sequence[Any]
    ) -> list[Item]:
        target = tokenize_answer(policy, task.target(example))
        sampled: list[Completion] = []
        if self.warm_start_batches:
            for answer in answers[: self.num_completions]:
                ids = tuple(map(int, answer.token_ids))
                sampled.append(Completion(ids, answer.text, float(answer.logp), bool(answer.finished)))
            if len(sampled) < self.num_completions:
                raise ValueError(
                    f"label.num_samples must be at least paradigm.num_completions for a warm start, got {len(sampled)} "
                    f"answers to {example.id} for {self.num_completions} completions; set warm_start_batches=0"
                )
        return [Item(example.id, task.prompt(example), target, difficulty, sampled)]

    # --- rollouts -----------------------------------------------------------------------------------------------

    def begin(self, policy: VLM, batch: Sequence[Item], number: int, setting: Setting) -> Begun:
        """G judged completions of each prompt, by the current policy unless it is a warm start."""
        self.max_new_tokens = setting.max_new_tokens
        if number < self.warm_start_batches:
            rolled = self._groups(batch, [item.sampled for item in batch], setting, number > 0)
            return self._begun(rolled, rolled, 0)
        rolled = self._sample(policy, batch, f"{number}", setting)
        groups = list(rolled)
        for attempt in range(self.max_resamples):
            flat = [place for place, group in enumerate(groups) if not group.teaches]
            others = self._others(rolled, len(flat), (number, attempt), setting)
            if not flat or not others:
                break
            fresh = self._sample(policy, others, f"{number}+{attempt}", setting)
            rolled += fresh
            for place, group in zip(flat, fresh, strict=False):
                if group.teaches:
                    groups[place] = group
        return self._begun(rolled, groups, sum(group.num_tokens for group in rolled))

    def _sample(self, policy: VLM, batch: Sequence[Item], stream_name: str, setting: Setting) -> list[Group]:
        sampling = Sampling(self.temperature, 1.0, 0, setting.max_new_tokens, setting.seed)
        engine = SharedPrefix(policy, setting.generation_batch_size, setting.decoding, setting.features)
        # A prompt that comes again in a later epoch, or twice in a batch, gets fresh samples.
        requests = [Request(f"{stream_name}/{place}/{item.id}", item.messages) for place, item in enumerate(batch)]
        answers = engine.generate(setting.ranks.share(requests), self.num_completions, sampling)
        return self._groups(batch, setting.ranks.whole(answers), setting, False)

    def _groups(
        self, batch: Sequence[Item], answers: Sequence[Sequence[Completion]], setting: Setting, by_reference: bool
    ) -> list[Group]:
        """The prompts of `batch` with their judged completions; each rank judges a part, and nobody judges twice."""

        def rewards(item: Item, completions: Sequence[Completion]) -> list[float]:
            example = setting.examples[item.id]
            return [setting.task.score(example, completion.text).reward for completion in completions]

        pairs = list(zip(batch, answers, strict=True))
        judged = setting.ranks.whole([rewards(*pair) for pair in setting.ranks.share(pairs)])
        return [self._group(*pair, given, by_reference) for pair, given in zip(pairs, judged, strict=True)]

    def _group(
        self, item: Item, completions: Sequence[Completion], rewards: Sequence[float], by_reference: bool
    ) -> Group:
        reward = torch.tensor([rewards])
        advantage = group_advantage(reward, self.scaling, self.delta)
        return Group(item, completions, reward[0], advantage[0], by_reference)

    def _others(self, rolled: Sequence[Group], wanted: int, place: tuple[int, int], setting: Setting) -> list[Item]:
        """Up to `wanted` prompts that this step has not sampled yet."""
        there = {group.id for group in rolled}
        candidates = [item for item in setting.items if item.id not in there]
        chance = stream("resample", setting.seed, *place)
        return [candidates[i] for i in chance.permutation(len(candidates))[:wanted]]

    def _begun(self, rolled: Sequence[Group], groups: list[Group], tokens_generated: int) -> Begun:
        self._idle = 0 if any(group.teaches for group in groups) else self._idle + 1
        if self._idle == _PATIENCE:
            log.warning(
                "no prompt of the last %d batches had completions of different reward: nothing is learned from them; "
                "look at the rewards, or train on subset=medium",
                _PATIENCE,
            )
        return Begun(groups, rollout_metrics(rolled, groups), tokens_generated, sample_of(groups[0]))

    # --- the loss -----------------------------------------------------------------------------------------------

    def loss(
        self, policy: VLM, rows: Sequence[Group], batch: Sequence[Group], features: FeatureSource | None
    ) -> LossTerm:
        """Equations 3-5. A group without advantage is exactly zero when there is no KL penalty, and costs nothing."""
        live = [group for group in rows if self.kl > 0 or group.teaches]
        if not live:
            return LossTerm(None, [0.0] * len(rows))
        prompts = render_prompts(policy, [group.item.messages for group in live], features)
        tokens = [[completion.token_ids for completion in group.completions] for group in live]
        logp, mask = completion_logps(policy, prompts, tokens, self.temperature)
        logp_ref = None
        if self.kl > 0 or any(group.by_reference for group in live):
            with torch.no_grad(), policy.reference():
                logp_ref, _ = completion_logps(policy, prompts, tokens, self.temperature)
        logp_old = self._old(live, logp.detach(), logp_ref, mask)
        logp, mask, logp_old = logp.flatten(0, 1), mask.flatten(0, 1), logp_old.flatten(0, 1)
        advantage = torch.stack([group.advantage for group in live]).flatten().to(logp.device)
        ratio = importance_ratio(logp, logp_old, mask, self.level)
        losses, clipped = clipped_surrogate(ratio, advantage, self.epsilon_low, self.epsilon_high)
        num_completions = sum(len(group.completions) for group in batch)
        num_tokens = sum(group.num_tokens for group in batch)
        metrics = {"clip_fraction": float((clipped & mask).sum()) / num_tokens}
        if self.kl > 0:
            penalty = k3(logp, logp_ref.flatten(0, 1))
            metrics["kl"] = float((penalty.detach() * mask).sum()) / num_tokens
            losses = losses + self.kl * penalty
        arguments = (self.aggregation, num_completions, num_tokens, self.max_new_tokens)
        row_losses = dict(zip(map(id, rows), [0.0] * len(rows), strict=True))
        for place, group in enumerate(live):
            part = slice(place * self.num_completions, (place + 1) * self.num_completions)
            share = aggregate(losses[part].detach(), mask[part], *arguments)
            row_losses[id(group)] = float(share) * self.weight(batch)
        return LossTerm(aggregate(losses, mask, *arguments), [row_losses[id(group)] for group in rows], metrics)

    def _old(
        self,
        groups: Sequence[Group],
        logp: Float[Tensor, "B G T"],
        logp_ref: Float[Tensor, "B G T"] | None,
        mask: Bool[Tensor, "B G T"],
    ) -> Float[Tensor, "B G T"]:
        """Log-probabilities under whoever sampled; kept on each group at the first update for those that follow."""
        old = torch.zeros_like(logp)
        for row, group in enumerate(groups):
            width = max(len(completion.token_ids) for completion in group.completions)
            if group.logp_old is None:
                sampler = logp_ref if group.by_reference and logp_ref is not None else logp
                group.logp_old = sampler[row, :, :width].cpu()
                if group.item.sampled and group.completions is group.item.sampled:
                    self._refuse_foreign(group, (sampler[row] * mask[row]).sum(-1))
            old[row, :, :width] = group.logp_old.to(old.device)
        return old

    def _refuse_foreign(self, group: Group, logp: Float[Tensor, " G"]) -> None:
        """A warm start from the rollouts of another checkpoint would be off-policy, and nothing else would show it."""
        recorded = torch.tensor([completion.logp for completion in group.completions])
        apart = float((logp.cpu() - recorded).abs().sum()) / group.num_tokens
        if apart > _FOREIGN:
            raise ValueError(
                f"a warm start must take rollouts of this cold start, got ones of {group.id} whose log-probabilities "
                f"are {apart:.2g} nats a token off; label with this checkpoint or set paradigm.warm_start_batches=0"
            )

    def weight(self, rows: Sequence[Group]) -> float:
        return sum(len(group.completions) for group in rows)

    # --- between updates ----------------------------------------------------------------------------------------

    def state(self, rows: Sequence[Group]) -> list[dict[str, Any]]:
        return [
            {
                "id": group.id,
                "completions": [asdict(completion) for completion in group.completions],
                "reward": group.reward,
                "advantage": group.advantage,
                "by_reference": group.by_reference,
                "logp_old": group.logp_old,
            }
            for group in rows
        ]

    def restored(self, state: Sequence[Mapping[str, Any]], setting: Setting) -> list[Group]:
        self.max_new_tokens = setting.max_new_tokens
        items = {item.id: item for item in setting.items}
        return [
            Group(
                items[saved["id"]],
                [Completion(**completion) for completion in saved["completions"]],
                saved["reward"],
                saved["advantage"],
                saved["by_reference"],
                saved["logp_old"],
            )
            for saved in state
        ]
