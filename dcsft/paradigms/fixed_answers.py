"""What SFT and SFT-RS share: the answers are known before training, and the loss is their cross-entropy."""

from collections.abc import Sequence

from dcsft.losses.cross_entropy import row_losses
from dcsft.models.render import FeatureSource, append_completions, completion_logits, render_prompts, require_fit
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting


class FixedAnswers(Paradigm):
    """Mean cross-entropy over the answer tokens of the whole effective batch (DC-SFT, equation 1).

    Token-level mean: a long answer weighs more than a short one, as in the release (ms-swift) and in transformers.
    What the answers are is left to `items`.
    """

    def begin(self, policy: VLM, batch: Sequence[Item], number: int, setting: Setting) -> Begun:
        return Begun(list(batch))

    def loss(
        self, policy: VLM, rows: Sequence[Item], batch: Sequence[Item], features: FeatureSource | None
    ) -> LossTerm:
        prompts = render_prompts(policy, [row.messages for row in rows], features)
        require_fit(policy, prompts, [row.id for row in rows], [row.num_tokens for row in rows])
        sequences = append_completions(policy, prompts, [row.answer_ids for row in rows])
        losses = row_losses(*completion_logits(policy, sequences), num_rows=len(rows))
        return LossTerm(losses.sum() / self.weight(batch), losses.detach().tolist())

    def weight(self, rows: Sequence[Item]) -> float:
        return sum(row.num_tokens for row in rows)
