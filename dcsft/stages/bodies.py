"""The body of each stage: what it loads, and what it computes from that; alone, or as one of several ranks.

It needs plain values alone (`Job`), so that the process which plans need not be the one which computes.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers.utils import logging as transformers_logging

from dcsft.artefacts import write_json
from dcsft.config import build
from dcsft.data.subsets import Curation
from dcsft.generation.engine import Sampling
from dcsft.models.vlm import VLM
from dcsft.ranks import Ranks
from dcsft.stages import cold_start, evaluate, foundation, label, release_labels, train
from dcsft.stages.asking import asked
from dcsft.stages.plan import difficulties, foundation_recipe, plain, shipped_foundation
from dcsft.stages.progress import FILE
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """One stage to be computed."""

    cfg: DictConfig
    """With every interpolation resolved."""
    stage: str
    folder: Path
    """Where the result goes."""
    folders: Mapping[str, Path]
    """Those of the stages before."""
    features: Path
    """Where picture features are kept."""

    def save(self, path: Path) -> None:
        """Write it down, for other processes."""
        folders = {stage: str(folder) for stage, folder in self.folders.items()}
        paths = {"folder": str(self.folder), "folders": folders, "features": str(self.features)}
        write_json(path, {"cfg": plain(self.cfg), "stage": self.stage, **paths})

    @classmethod
    def load(cls, path: Path) -> "Job":
        """What `save` wrote."""
        job = json.loads(path.read_text())
        folders = {stage: Path(folder) for stage, folder in job["folders"].items()}
        return cls(OmegaConf.create(job["cfg"]), job["stage"], Path(job["folder"]), folders, Path(job["features"]))


def curation_of(cfg: DictConfig) -> Curation:
    """Which labelled examples the configuration trains on."""
    subset = cfg.subset
    return Curation(
        name=subset.name,
        size=subset.size,
        hard_ratio=cfg.hard_ratio,
        min_pass_rate=subset.min_pass_rate,
        max_pass_rate=subset.max_pass_rate,
        seed=cfg.seeds.train,
    )


def compute(job: Job, task: Task, console: Console, ranks: Ranks, on_step: OnStep) -> None:
    """Compute one stage into `job.folder`.

    Args:
        on_step: is told each training step's number (from 1) and metrics, on every rank.
    """
    cfg, stage, folder, folders = job.cfg, job.stage, job.folder, job.folders
    trainer = cfg.trainer
    transformers_logging.disable_progress_bar()
    server = asked(plain(cfg.engine), stage, folders, cfg.tuning.r)
    weights = server is None or not server.trusted
    if weights and trainer.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"trainer={trainer.name} must have a GPU, got none on this machine; use trainer=cpu")
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    runtime = Runtime(
        device=trainer.device,
        micro_batch_size=trainer.micro_batch_size,
        generation_batch_size=trainer.generation_batch_size,
        checkpoint_every=trainer.checkpoint_every,
        decoding=cfg.engine.decoding,
        feature_folder=job.features,
        feature_cache_gb=trainer.feature_cache_gb,
        num_processes=len(os.sched_getaffinity(0)),
        console=console,
        server=server,
        ranks=ranks,
        progress_file=job.folder / FILE if ranks.first else None,
        sharded=trainer.strategy == "fsdp",
    )
    place = (trainer.device, cfg.model.attention)
    if stage == "foundation":
        foundation.run(folder, cfg.model.world, foundation_recipe(cfg), runtime)
        return
    if stage == "cold_start":
        settings, seed = plain(cfg.cold_start), cfg.seeds.cold_start
        cold_start.run(folder, _load(cfg, _base(cfg, folders), *place), task, settings, seed, runtime, on_step)
        return
    greedy = Sampling.greedy(cfg.max_new_tokens, cfg.evaluate.repetition_penalty)
    if stage == "evaluate":
        evaluate.run(folder, trained(cfg, folders, *place, weights), task, greedy, runtime)
        return
    if stage == "label" and cfg.label.name == "release":
        release_labels.run(folder, task, difficulties(cfg), cfg.label.num_samples)
        return
    policy = _load(cfg, folders["cold_start"] / cold_start.MODEL, *place, weights)
    if stage == "label":
        spread = (cfg.label.temperature, cfg.label.top_p, cfg.label.top_k)
        sampling = Sampling(*spread, cfg.max_new_tokens, cfg.seeds.label)
        label.run(folder, policy, task, cfg.label.num_samples, sampling, runtime)
        return
    train.run(
        folder,
        policy,
        task,
        label.read_labels(folders["label"]),
        folders["label"] / label.ROLLOUTS,
        curation_of(cfg),
        build(plain(cfg.paradigm)),
        plain(cfg.tuning),
        plain(cfg.train),
        cfg.max_new_tokens,
        greedy,
        runtime,
        on_step,
    )


def trained(cfg: DictConfig, folders: Mapping[str, Path], device: str, attention: str, weights: bool = True) -> VLM:
    """The model that a run has made: the trained one, or the cold-started one of the baseline.

    Args:
        weights: without, it can compute nothing, which is enough to ask a server that has it.
    """
    if "train" in folders and not (folders["train"] / train.ADAPTER).exists():
        return _load(cfg, folders["train"] / train.MODEL, device, attention, weights)
    policy = _load(cfg, folders["cold_start"] / cold_start.MODEL, device, attention, weights)
    if "train" in folders and weights:
        policy.load_adapter(folders["train"] / train.ADAPTER)
    return policy


def _load(cfg: DictConfig, path: str | Path, device: str, attention: str, weights: bool = True) -> VLM:
    model = cfg.model
    limits = (model.min_pixels, model.max_pixels)
    how = {"device": device, "max_tiles": model.max_tiles, "attention": attention}
    vlm = VLM.load(path, model.dtype, *limits, **how, weights=weights)
    if model.gradient_checkpointing:
        vlm.recompute_activations()
    return vlm


def _base(cfg: DictConfig, folders: Mapping[str, Path]) -> str | Path:
    """Where the cold start begins: the foundation trained here, the shipped one, or a downloaded model."""
    if "foundation" in folders:
        return folders["foundation"] / foundation.MODEL
    return cfg.model.path or shipped_foundation(cfg)
