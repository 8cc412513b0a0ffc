"""Supervised fine-tuning on the targets."""

from collections.abc import Sequence

from dcsft.losses.cross_entropy import row_losses
from dcsft.models.render import FeatureSource, append_completions, completion_logits, render_prompts
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Item, LossTerm, Paradigm


class SFT(Paradigm):
    """Mean cross-entropy over the answer tokens of the whole effective batch (DC-SFT, equation 1).

    Token-level mean: a long answer weighs more than a short one, as in the release (ms-swift) and in transformers.
    """

    def loss(
        self, policy: VLM, items: Sequence[Item], batch: Sequence[Item], features: FeatureSource | None
    ) -> LossTerm:
        prompts = render_prompts(policy, [item.messages for item in items], features)
        sequences = append_completions(policy, prompts, [item.answer_ids for item in items])
        losses = row_losses(*completion_logits(policy, sequences), num_rows=len(items))
        num_tokens = sum(len(item.answer_ids) for item in batch)
        return LossTerm(losses.sum() / num_tokens, losses.detach())
