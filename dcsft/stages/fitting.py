"""One training run with Lightning, from wherever it stopped to its last step; the cold start and the train stage."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from dcsft import stopping
from dcsft.data.batches import Batches
from dcsft.models.sharding import assemble, shard
from dcsft.models.vlm import VLM
from dcsft.module import PostTraining, Schedule
from dcsft.paradigms.paradigm import Item, Paradigm, Setting
from dcsft.ranks import Ranks
from dcsft.stages.runtime import Ledger, Runtime

CHECKPOINT = "last.ckpt"
METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"


class _Checkpoints(TorchCheckpointIO):
    """All ranks gather a checkpoint and the first writes it; each reads of it what it needs."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: object = None) -> None:
        if self.ranks.first:
            super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Path, map_location: object = None, weights_only: bool | None = None) -> dict:
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)


class _Save(L.Callback):
    """Saves every few steps, and when a scheduler warns, atomically; what is logged up to then is on disk first."""

    def __init__(self, folder: Path, every: int, last: int, ledger: Ledger, vlm: VLM, ranks: Ranks) -> None:
        self.folder, self.every, self.last, self.ledger, self.vlm = folder, every, last, ledger, vlm
        self.ranks = ranks

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        stopping.listen_again()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        told = {"stop": float(stopping.stop_asked()), "save": float(stopping.save_asked())}
        stop, save = (bool(number) for number in self.ranks.sums(told).values())  # whichever rank was warned
        if trainer.global_step % self.every and trainer.global_step != self.last and not (stop or save):
            return
        self.ledger.save(self.vlm.meter, module.tokens_trained, module.tokens_generated)
        trainer.should_stop = stop
        temporary = self.folder / f"{CHECKPOINT}.tmp"
        trainer.save_checkpoint(temporary)
        if self.ranks.first:
            temporary.replace(self.folder / CHECKPOINT)


def _resume(folder: Path) -> int:
    """Steps already done and saved; what is logged of later steps, which will be repeated, is cut off."""
    checkpoint = folder / CHECKPOINT
    done = torch.load(checkpoint, weights_only=True, mmap=True)["global_step"] if checkpoint.exists() else 0
    for name in (METRICS, COMPLETIONS):
        path = folder / name
        if path.exists():
            whole = path.read_text().split("\n")[:-1]  # what follows the last line's end is torn
            path.write_text("".join(line + "\n" for line in whole if json.loads(line)["step"] <= done))
    return done


def fit(
    title: str,
    vlm: VLM,
    paradigm: Paradigm,
    items: Sequence[Item],
    batch_size: int,
    schedule: Schedule,
    seed: int,
    class_metrics_every: int,
    setting: Setting,
    folder: Path,
    runtime: Runtime,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Train `vlm` in place; leaves `metrics.jsonl`, `cost.json` and, if it samples, `completions.jsonl` in `folder`.

    Args:
        on_step: is told each step's number (from 1) and metrics, after they are on disk; on every rank.
    """
    ranks = runtime.ranks
    if runtime.sharded and vlm.peft is None:
        shard(vlm)
    first = ranks.agreed(_resume(folder) if ranks.first else 0)
    ledger = Ledger(folder, ranks)
    batches = Batches(items, batch_size, seed, schedule.steps, paradigm.updates_per_batch)
    batches.first_step = first
    place = folder / METRICS if ranks.first else os.devnull
    with runtime.bar(title, schedule.steps, first) as bar, open(place, "a", buffering=1) as file:

        def report(step: int, metrics: dict[str, float], sample: Sequence[Mapping[str, Any]]) -> None:
            if sample and ranks.first:
                with (folder / COMPLETIONS).open("a") as answers:
                    answers.writelines(json.dumps({"step": step, **row}) + "\n" for row in sample)
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            bar.advance(step, f"loss {metrics['loss']:.3f}")
            on_step(step, metrics)

        module = PostTraining(
            vlm,
            paradigm,
            schedule,
            runtime.micro_batch_size,
            seed,
            class_metrics_every,
            setting,
            report,
        )
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its tips are not for our users
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # e.g. advice on loader workers; ours has none to add
            trainer = L.Trainer(
                accelerator="cpu" if runtime.device == "cpu" else "gpu",
                devices=1,
                precision="32-true" if vlm.dtype == torch.float32 else "bf16-mixed",
                max_steps=schedule.steps,
                max_epochs=-1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                plugins=[LightningEnvironment(), _Checkpoints(ranks)],  # one process, whatever scheduler has started it
                callbacks=[_Save(folder, runtime.checkpoint_every, schedule.steps, ledger, vlm, ranks)],
            )
            try:
                trainer.fit(
                    module,
                    DataLoader(batches, batch_size=None),
                    ckpt_path=str(folder / CHECKPOINT) if first else None,
                    weights_only=True,
                )
            except SystemExit as stop:  # what Lightning makes of Ctrl-C
                raise KeyboardInterrupt from stop
        if trainer.global_step < schedule.steps:  # stopped early, by whoever asked: not a finished run
            raise KeyboardInterrupt
    assemble(vlm)
    vlm.finish()
    broken = [name for name, tensor in vlm.trainable_state().items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"trained weights must be finite, got {len(broken)} tensors that are not after the last step, among them "
            f"{broken[0]}; train with a smaller learning rate"
        )


def forget_checkpoint(folder: Path) -> None:
    """Remove the training state, once the weights are saved."""
    (folder / CHECKPOINT).unlink()
