"""The LightningModule: wraps the model, asks its paradigm for the loss, owns optimizer, schedule and checkpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from dcsft.generation.engine import Diverged
from dcsft.models.sharding import gathered, joint_norm, part_like, sharded_layers
from dcsft.models.vlm import VLM
from dcsft.paradigms.paradigm import Begun, Item, LossTerm, Paradigm, Setting
from dcsft.ranks import Ranks
from dcsft.records import DIFFICULTIES, Difficulty
from dcsft.seeding import seed_of

_NOTHING = LossTerm(None, [])


@dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up, then a cosine to zero.

    Args:
        steps: optimizer steps in all.
        lr: at the peak.
        betas, weight_decay: of AdamW.
        warmup_ratio: share of `steps`.
        max_grad_norm: gradients are clipped to this norm.
    """

    steps: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float

    def factor(self, step: int) -> float:
        """The learning rate of `step` (from 0) as a share of `lr`."""
        warmup = max(1, int(self.warmup_ratio * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))


def _gained(parameters: Sequence[nn.Parameter], before: Sequence[Tensor | None], ranks: Ranks) -> float:
    """Norm of what the gradients, summed over the ranks, gained since they were `before`."""

    def gain(now: Tensor | None, old: Tensor | None, parameter: nn.Parameter) -> Tensor:
        if now is None:
            return torch.zeros_like(parameter)
        return now if old is None else now - old

    gains = [gain(some.grad, old, some) for some, old in zip(parameters, before, strict=True)]
    sums = [some for some in gains if isinstance(some, DTensor)]  # of sharded weights
    return float(joint_norm([*ranks.summed(some for some in gains if not isinstance(some, DTensor)), *sums]))


class PostTraining(L.LightningModule):
    """One model, one paradigm. A Lightning batch is the effective batch; it is cut into micro-batches here.

    Manual optimisation, because the loss is a mean over the tokens of the effective batch, whatever the micro-batch,
    and because gradients are measured per difficulty class. All randomness of a step comes from (seed, step): a
    resumed run draws the same dropout masks. Several ranks take a part of the rows each, of every step's batch, and sum
    their shares of loss and gradient before the optimizer's step, so that their weights stay the same.

    Args:
        vlm: the policy, already tuned (LoRA or full).
        paradigm: gives the loss.
        schedule: of the optimizer.
        micro_batch_size: rows a forward pass.
        seed: of dropout.
        class_metrics_every: steps between gradient norms per difficulty class; 0 for never.
        setting: the task's judge, its examples, picture features, how to sample, and the ranks.
        on_step: is told each step's number (from 1), metrics, and some completions, if the step sampled any.
    """

    strict_loading = False  # checkpoints hold the trained weights only

    def __init__(
        self,
        vlm: VLM,
        paradigm: Paradigm,
        schedule: Schedule,
        micro_batch_size: int,
        seed: int,
        class_metrics_every: int,
        setting: Setting,
        on_step: Callable[[int, dict[str, float], Sequence[Mapping[str, Any]]], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = vlm.model
        self.vlm, self.paradigm, self.schedule = vlm, paradigm, schedule
        self.micro_batch_size, self.seed = micro_batch_size, seed
        self.class_metrics_every = class_metrics_every
        self.setting, self.on_step = setting, on_step
        self.tokens_trained = self.tokens_generated = 0
        self._sharded = bool(sharded_layers(vlm))
        self._rows: list[Any] = []
        self._saved_rows: list[dict[str, Any]] | None = None

    def configure_optimizers(self) -> dict[str, object]:
        schedule = self.schedule
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.factor),
        }

    def on_fit_start(self) -> None:
        self.model.train()  # Lightning keeps the eval mode in which transformers loads a model

    def transfer_batch_to_device(self, batch: list[Item], device: torch.device, dataloader_index: int) -> list[Item]:
        return batch  # text and pictures: tensors are made, on the device, when a micro-batch is rendered

    def training_step(self, batch: list[Item], batch_index: int) -> None:
        step = self.global_step
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        parameters = optimizer.param_groups[0]["params"]
        try:
            begun = self._begin(batch, step)
        except Diverged as error:
            raise self._diverged("log-probabilities of sampled answers must be finite, got others", batch) from error
        rows, metrics = begun.rows, dict(begun.metrics)
        ranks = self.setting.ranks
        torch.manual_seed(seed_of("step", self.seed, step) + ranks.rank)
        measure = self.class_metrics_every and step % self.class_metrics_every == 0
        classes = [kind for kind in DIFFICULTIES if _of(kind, rows)]  # none where there are no labels
        ordered = sorted(rows, key=lambda row: row.num_tokens)
        mine = ranks.share(ordered)
        groups = [(kind, _of(kind, mine)) for kind in classes] if measure and classes else [(None, mine)]
        loss, row_losses, gained = torch.zeros(()), {}, {}
        shares: dict[str, float] = {}
        for difficulty, group in groups:
            before = [None if p.grad is None else p.grad.clone() for p in parameters] if difficulty else None
            for some in self._micro_batches(group):
                term = self._term(some, rows) if some else _NOTHING
                if term.loss is not None:
                    self.manual_backward(term.loss)
                    loss = loss + term.loss.detach().cpu()
                elif self._sharded:
                    self._keep_pace(ordered, rows)
                row_losses |= dict(zip(map(id, some), term.row_losses, strict=True))
                for name, value in term.metrics.items():
                    shares[name] = shares.get(name, 0.0) + value
            if before is not None:
                gained[difficulty] = _gained(parameters, before, ranks)
                # The gradient of the class's own mean loss, comparable between classes and with a run on it alone.
                share = self.paradigm.weight(_of(difficulty, rows)) / self.paradigm.weight(rows)
                metrics[f"grad_norm/{difficulty}"] = gained[difficulty] / share
        for difficulty, norm in gained.items():
            if sum(gained.values()) > 0:
                metrics[f"grad_share/{difficulty}"] = norm / sum(gained.values())
        ranks.sum_gradients(parameters)
        shares["loss"] = float(loss)
        for difficulty in classes:
            shares[f"loss/{difficulty}"] = sum(row_losses.get(id(row), 0.0) for row in _of(difficulty, rows))
        metrics |= ranks.sums(shares)
        total = joint_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        metrics["grad_norm"] = float(total)
        metrics["lr"] = scheduler.get_last_lr()[0]
        for difficulty in classes:
            metrics[f"loss/{difficulty}"] /= self.paradigm.weight(_of(difficulty, rows))
        self._refuse_non_finite(metrics, batch)
        with implicit_replication():  # of what is not sharded
            nn.utils.clip_grads_with_norm_(parameters, self.schedule.max_grad_norm, total)
            optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        self.tokens_trained += sum(row.num_tokens for row in rows)
        self.tokens_generated += begun.tokens_generated
        if ranks.size > 1 and self.paradigm.updates_per_batch > 1:
            # What the loss has left on its rows is known to the rank that had them.
            self._rows = self.paradigm.restored(ranks.whole(self.paradigm.state(mine)), self.setting)
        self.on_step(step + 1, metrics, begun.sample)

    def _begin(self, batch: Sequence[Item], step: int) -> Begun:
        """What this step's loss is taken on: made anew, or what the last step left, or what a checkpoint holds."""
        number, update = divmod(step, self.paradigm.updates_per_batch)
        if self._saved_rows is not None:
            self._rows, self._saved_rows = self.paradigm.restored(self._saved_rows, self.setting), None
            return Begun(self._rows)
        if update:
            return Begun(self._rows)
        begun = self.paradigm.begin(self.vlm, batch, number, self.setting)
        self._rows = begun.rows
        return begun

    def _term(self, some: Sequence[Any], rows: Sequence[Any]) -> LossTerm:
        return self.paradigm.loss(self.vlm, some, rows, self.setting.features)

    def _micro_batches(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """This rank's micro-batches; sharded, all ranks have equally many, and some may be empty.

        Rows come in order of their answers' length, so that little is padding.
        """
        size = self.micro_batch_size
        some = [rows[start : start + size] for start in range(0, len(rows), size)]
        most = max(self.setting.ranks.whole([len(some)])) if self._sharded else 0
        return [*some, *[()] * (most - len(some))]

    def _keep_pace(self, ordered: Sequence[Any], rows: Sequence[Any]) -> None:
        """One pass that adds nothing: the others, in theirs, gather layers of which this rank has a part.

        It is that of the first of the step's rows that has a loss; if none has, no rank makes a pass.
        """
        with self.vlm.meter.paused():
            terms = (self._term([row], rows) for row in ordered)
            loss = next((term.loss for term in terms if term.loss is not None), None)
            if loss is not None:
                self.manual_backward(0 * loss)

    def _refuse_non_finite(self, metrics: dict[str, float], batch: Sequence[Item]) -> None:
        loss, norm = metrics["loss"], metrics["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"loss and gradient must be finite, got loss={loss} grad_norm={norm}", batch)

    def _diverged(self, what: str, batch: Sequence[Item]) -> ValueError:
        return ValueError(
            f"{what} at step {self.global_step + 1} on {', '.join(item.id for item in batch[:8])}; "
            "try a smaller train.lr or look at these examples"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = checkpoint["state_dict"]
        keep = self.setting.ranks.first
        checkpoint["state_dict"] = {name: gathered(tensor, keep) for name, tensor in state.items() if name in trained}
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {
                number: {name: gathered(tensor, keep) for name, tensor in moments.items()}
                for number, moments in optimizer["state"].items()
            }
        checkpoint["tokens"] = self.tokens_trained, self.tokens_generated
        between = self.global_step % self.paradigm.updates_per_batch
        checkpoint["rows"] = self.paradigm.state(self._rows) if between else None

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        self.tokens_trained, self.tokens_generated = checkpoint["tokens"]
        self._saved_rows = checkpoint["rows"]
        own = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: part_like(some, own[name]) for name, some in checkpoint["state_dict"].items()}
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {
                number: {name: part_like(tensor, list(own.values())[number]) for name, tensor in moments.items()}
                for number, moments in optimizer["state"].items()
            }


def _of(difficulty: Difficulty, rows: Sequence[Any]) -> list[Any]:
    return [row for row in rows if row.difficulty == difficulty]
