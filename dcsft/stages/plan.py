"""From a configuration to the artefacts it needs: what determines each stage, and so what is shared between runs.

`NOT_KEYED` is the short list of knobs that enter no key, with the reason; a test takes every leaf of the configuration
and finds it here or in a recipe.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcsft.artefacts import Artefact
from dcsft.config import build
from dcsft.tasks.task import Task

VERSIONS = {"foundation": 1, "cold_start": 1, "label": 1, "train": 1, "evaluate": 1}
"""Raised for a stage when its code changes what the same recipe means."""

NOT_KEYED = {
    "stage": "where to stop",
    "outputs": "where the results are kept",
    "sweep": "a name for people",
    "seed": "only the default of seeds.*",
    "kl": "only the default of paradigm.kl",
    "trainer": "hardware; nothing in it changes a number beyond float rounding",
    "engine": "two exact ways to the same samples, up to float rounding",
    "logger": "who is told",
    "model.name": "a name for people; path, dtype and pixels say which model",
    "model.attention": "kernels for the same numbers, up to float rounding",
    "model.gradient_checkpointing": "the same gradient with less memory",
    "model.square_pictures": "only the default of task.square",
    "model.foundation": "the foundation's recipe; with shipped weights it is checked against theirs",
    "task.name": "a name for people",
}

SHIPPED_FOUNDATION = Path(str(files("dcsft.models").joinpath("foundation")))
"""The tiny model's weights that come with the package, and the recipe that made them."""


def plain(node: Any) -> Any:
    """A configuration node as plain values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def build_task(cfg: DictConfig) -> Task:
    """The task of a configuration, with its judge."""
    task: Task = build(plain(cfg.task), reward=build(plain(cfg.reward)))
    return task


def _judge(cfg: DictConfig) -> dict[str, Any]:
    return {"reward": plain(cfg.reward), "max_new_tokens": cfg.max_new_tokens}


def _data(cfg: DictConfig, task: Task, split: str) -> dict[str, Any]:
    return {"task": cfg.task["_target_"], "question": cfg.task["question"], **task.identity(split)}


def foundation_recipe(cfg: DictConfig) -> dict[str, Any]:
    """What determines the tiny model's weights."""
    pixels = {"min_pixels": cfg.model.min_pixels, "max_pixels": cfg.model.max_pixels}
    return {**plain(cfg.model.foundation), **pixels}


def _foundation(cfg: DictConfig) -> Artefact | None:
    """The trained foundation; None where the weights are shipped or downloaded."""
    if cfg.model.foundation is None or cfg.model.path is not None:
        return None
    if not cfg.model.from_scratch:
        return None
    return Artefact("foundation", VERSIONS["foundation"], foundation_recipe(cfg), {})


def _model(cfg: DictConfig) -> dict[str, Any]:
    """Which weights the cold start begins with, where no foundation stage makes them."""
    settings = {name: cfg.model[name] for name in ("path", "dtype", "min_pixels", "max_pixels")}
    if cfg.model.max_tiles is not None:
        settings["max_tiles"] = cfg.model.max_tiles
    if cfg.model.foundation is not None and cfg.model.path is None and not cfg.model.from_scratch:
        shipped = json.loads((SHIPPED_FOUNDATION / "recipe.json").read_text())
        if shipped["recipe"] != foundation_recipe(cfg):
            raise ValueError(
                "model.foundation must be the recipe of the shipped weights, got another one; add "
                "model.from_scratch=true to train them (a few minutes)"
            )
        settings["path"] = f"shipped/{shipped['weights_sha256'][:12]}"
    return settings


def plan(cfg: DictConfig, task: Task) -> dict[str, Artefact]:
    """The artefacts of one run by stage, in the order they are computed.

    The baseline (subset=none) has no train stage: its evaluation hangs on the cold start.
    """
    artefacts: dict[str, Artefact] = {}

    def add(stage: str, recipe: Mapping[str, Any], *parents: str) -> None:
        known = {name: artefacts[name] for name in parents if name in artefacts}
        artefacts[stage] = Artefact(stage, VERSIONS[stage], plain(recipe), known)

    foundation = _foundation(cfg)
    if foundation is not None:
        artefacts["foundation"] = foundation
    tests = {split: _data(cfg, task, split) for split in task.tests}
    evaluation = {"data": tests, "judge": _judge(cfg), "evaluate": plain(cfg.evaluate)}
    add(
        "cold_start",
        {
            "model": _model(cfg),
            "data": _data(cfg, task, "cold_start"),
            "cold_start": plain(cfg.cold_start),
            "seed": cfg.seeds.cold_start,
        },
        "foundation",
    )
    add(
        "label",
        {
            "data": _data(cfg, task, "train"),
            "label": plain(cfg.label),
            "judge": _judge(cfg),
            "seed": cfg.seeds.label,
        },
        "cold_start",
    )
    if cfg.subset.name != "none":
        add(
            "train",
            {
                "subset": plain(cfg.subset),
                "hard_ratio": cfg.hard_ratio,
                "paradigm": plain(cfg.paradigm),
                "tuning": plain(cfg.tuning),
                "train": plain(cfg.train),
                "seed": cfg.seeds.train,
                # Only the curve of a run that evaluates on its way depends on the test sets.
                "tests": evaluation if cfg.train.eval_every else None,
            },
            "cold_start",
            "label",
        )
    add("evaluate", evaluation, "train" if "train" in artefacts else "cold_start")
    return artefacts


def arm_name(cfg: DictConfig) -> str:
    """What a table calls the run, from the choices that make an arm."""
    if cfg.subset.name == "none":
        return "Cold start"
    paradigm = {"sft": "SFT", "rs": "SFT-RS", "grpo": "GRPO"}.get(cfg.paradigm["name"], cfg.paradigm["name"])
    subset = {"all": "", "easy": "-E", "medium": "-M", "hard": "-H", "em": "-EM", "pass_rate": "-P"}[cfg.subset.name]
    name = paradigm + subset
    if cfg.subset.size == "equal" and cfg.paradigm["name"] == "sft":
        name = {"all": "Random"}.get(cfg.subset.name, cfg.subset.name.capitalize())
    elif cfg.subset.size is not None:
        name += f" ({cfg.subset.size})"
    if cfg.subset.name == "pass_rate":
        name += f" {cfg.subset.min_pass_rate}..{cfg.subset.max_pass_rate}"
    if cfg.hard_ratio != "natural":
        name += f", hard {cfg.hard_ratio:.3g}"
    return name if cfg.tuning.name == "lora" else f"{name}, {cfg.tuning.name}"


def run_name(cfg: DictConfig, artefacts: Mapping[str, Artefact]) -> str:
    """The run's folder: readable, and the same for the same experiment."""
    arm = arm_name(cfg).lower().replace(", ", "-").replace(" ", "-")
    return f"{cfg.task['name']}-{cfg.model.name}-{arm}-s{cfg.seed}-{artefacts['evaluate'].key}"
