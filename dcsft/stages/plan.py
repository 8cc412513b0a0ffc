"""From a configuration to the artefacts it needs: what determines each stage, and so what is shared between runs.

`NOT_KEYED` is the short list of knobs that enter no key, with the reason; a test takes every leaf of the configuration
and finds it here or in a recipe.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcsft.artefacts import Artefact
from dcsft.config import build, named_values
from dcsft.records import Difficulty
from dcsft.tasks.imagenet_release import released_difficulties
from dcsft.tasks.task import Task, require_counts

VERSIONS = {"distill": 1, "foundation": 1, "cold_start": 1, "label": 1, "train": 1, "evaluate": 1}
"""Raised for a stage when its code changes what the same recipe means."""

NOT_KEYED = {
    "stage": "where to stop",
    "outputs": "where the results are kept",
    "sweep": "a name for people",
    "shows": "what a report shows",
    "publish": "who is sent the labels",
    "seed": "only the default of seeds.*",
    "kl": "only the default of paradigm.kl",
    "trainer": "hardware; nothing in it changes a number beyond float rounding",
    "engine": "two exact ways to the same samples, up to float rounding; a server's answers are keyed, see _server",
    "check": "what stage=check looks at, which makes no artefact",
    "distill": "enters the key of stage=distill, which no other stage needs",
    "logger": "who is told",
    "launcher": "where it runs, and when",
    "model.name": "a name for people; path, dtype and pixels say which model",
    "model.attention": "kernels for the same numbers, up to float rounding",
    "model.gradient_checkpointing": "the same gradient with less memory",
    "model.square_pictures": "only the default of task.square",
    "model.boxes": "only the default of task.boxes; it enters with the targets",
    "model.world": "the class of the foundation's mix, whose arguments are in its recipe",
    "model.foundation": "the foundation's recipe; with shipped weights it is checked against theirs",
    "task.name": "a name for people",
    "label.name": "the recipes of the choices differ anyway",
}

SHIPPED_FOUNDATION = Path(str(files("dcsft.models").joinpath("foundation")))
"""The weights of model=tiny that come with the package, and the recipe that made them."""
_SHIPPED = {"icons": "foundation", "scenes": "foundation_scenes"}
"""Of what a foundation has seen, the folder in dcsft/models/ with its weights and the recipe that made them."""


def shipped_foundation(cfg: DictConfig) -> Path:
    """The tiny model's weights that come with the package.

    Raises:
        ValueError: there are none of that world.
    """
    if cfg.model.world not in _SHIPPED:
        raise ValueError(f"model.world must be one of {', '.join(_SHIPPED)}, got {cfg.model.world!r}; see conf/model/")
    folder = Path(str(files("dcsft.models").joinpath(_SHIPPED[cfg.model.world])))
    if not (folder / "recipe.json").exists():
        raise ValueError(
            f"model.world must be one whose weights come with the package, got {cfg.model.world}; add "
            "model.from_scratch=true to train them (some minutes)"
        )
    return folder


def plain(node: Any) -> Any:
    """A configuration node as plain values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def uncounted_task(cfg: DictConfig) -> Task:
    """The task of a configuration, with its judge, whether all is there that should be or not."""
    task: Task = build(plain(cfg.task), reward=build(plain(cfg.reward)))
    return task


def build_task(cfg: DictConfig) -> Task:
    """The task of a configuration, with its judge.

    Raises:
        ValueError: its data are not there, or not as many as expected.
    """
    task = uncounted_task(cfg)
    require_counts(task)
    return task


def build_tasks(cells: Sequence[DictConfig]) -> list[Task]:
    """The task of each configuration; those of one task share its data."""
    built: dict[str, Task] = {}
    tasks = []
    for cfg in cells:
        key = json.dumps([plain(cfg.task), plain(cfg.reward)], sort_keys=True)
        if key not in built:
            built[key] = build_task(cfg)
        tasks.append(built[key])
    return tasks


def _judge(cfg: DictConfig) -> dict[str, Any]:
    return {"reward": plain(cfg.reward), "max_new_tokens": cfg.max_new_tokens}


def _data(cfg: DictConfig, task: Task, split: str) -> dict[str, Any]:
    return {"task": cfg.task["_target_"], "question": cfg.task["question"], **task.identity(split)}


def _server(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """What the samples of a stage depend on where a server draws them, besides its model, which the parents name.

    Where it is and how patient we are do not matter. Nothing for the local engine.
    """
    engine = cfg.engine
    if engine.name != "server" or stage not in engine.stages:
        return {}
    names = ("name", "extensions", "samples_per_request", "extra_body")
    return {"engine": {name: plain(engine[name]) for name in names}}


def _distill(cfg: DictConfig, task: Task) -> Artefact:
    """A teacher's verified answers; the teacher is known by its name alone."""
    recipe = {
        "data": {split: _data(cfg, task, split) for split in cfg.distill.splits},
        "teacher": {"model": cfg.engine.model, "extra_body": plain(cfg.engine.extra_body)},
        "distill": plain(cfg.distill),
        "reward": plain(cfg.reward),
        "seed": cfg.seeds.label,
    }
    return Artefact("distill", VERSIONS["distill"], recipe, {})


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
        shipped = json.loads((shipped_foundation(cfg) / "recipe.json").read_text())
        if shipped["recipe"] != foundation_recipe(cfg):
            raise ValueError(
                "model.foundation must be the recipe of the shipped weights, got another one; add "
                "model.from_scratch=true to train them (a few minutes)"
            )
        settings["path"] = f"shipped/{shipped['weights_sha256'][:12]}"
    return settings


def _set_values(node: DictConfig) -> dict[str, Any]:
    """The values of a node that are set, without the name of the choice."""
    return {key: value for key, value in plain(node).items() if value is not None and key != "name"}


def difficulties(cfg: DictConfig) -> dict[str, Difficulty]:
    """The release's difficulty of each training example, by its id.

    Raises:
        ValueError: its files are not there, or something else needs sampled answers.
    """
    if cfg.task.get("release") is None:
        raise ValueError("label=release must come with task.release=DIR, got none; its labels are of its own rows")
    if cfg.paradigm["name"] == "rs" or cfg.subset.name == "pass_rate":
        raise ValueError(
            f"label must be sampled with paradigm={cfg.paradigm['name']} subset={cfg.subset.name}, got release, which "
            "has no answers and says only easy, medium or hard; use label=sampled"
        )
    released = released_difficulties(cfg.task["release"], cfg.label.of_model, plain(cfg.label.counts))
    return {picture.training_id: difficulty for picture, difficulty in released.items()}


def plan(cfg: DictConfig, task: Task) -> dict[str, Artefact]:
    """The artefacts of one run by stage, in the order they are computed.

    The baseline (subset=none) has no train stage: its evaluation hangs on the cold start.
    """
    if cfg.stage == "distill":
        return {"distill": _distill(cfg, task)}
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
    if cfg.label.name == "release":  # no model labels, so none is a parent
        labels = hashlib.sha256(json.dumps(sorted(difficulties(cfg).items())).encode()).hexdigest()
        add("label", {"data": _data(cfg, task, "train"), "label": _set_values(cfg.label), "labels": labels})
    else:
        add(
            "label",
            {
                "data": _data(cfg, task, "train"),
                "label": _set_values(cfg.label),
                "judge": _judge(cfg),
                "seed": cfg.seeds.label,
                **_server(cfg, "label"),
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
    add("evaluate", {**evaluation, **_server(cfg, "evaluate")}, "train" if "train" in artefacts else "cold_start")
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


def told_apart(cells: Sequence[DictConfig]) -> list[str]:
    """What a table calls each cell of a sweep: its arm, and what else varies among cells of that arm.

    Two learning rates of SFT are "SFT, train.lr=1e-05" and "SFT, train.lr=0.001", and never two seeds of "SFT".

    Raises:
        ValueError: two cells have the same name and the same seed.
    """
    alike: dict[str, list[dict[str, Any]]] = {}
    values = [named_values(plain(cfg)) for cfg in cells]
    arms = [arm_name(cfg) for cfg in cells]
    for arm, own in zip(arms, values, strict=True):
        alike.setdefault(arm, []).append(own)
    varied = {arm: _varied(group) for arm, group in alike.items()}
    names = [
        ", ".join([arm, *(f"{key.removesuffix('.name')}={own[key]}" for key in varied[arm] if key in own)])
        for arm, own in zip(arms, values, strict=True)
    ]
    found: set[tuple[str, int]] = set()
    for name, cfg in zip(names, cells, strict=True):
        if (name, cfg.seed) in found:
            raise ValueError(f"a sweep's cells must differ, got {name!r} with seed {cfg.seed} twice; leave one out")
        found.add((name, cfg.seed))
    return names


def _varied(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The knobs that make cells different experiments, and not only different seeds of one.

    Where another yaml was chosen, its name alone.
    """

    def varies(key: str) -> bool:
        above = {key.rsplit(".", level)[0] for level in range(key.count(".") + 1)}
        if above & set(NOT_KEYED) and not (key.endswith(".name") and key.split(".")[0] not in NOT_KEYED):
            return False
        return len({str(cell.get(key)) for cell in cells}) > 1 and any(cell.get(key) != cell["seed"] for cell in cells)

    keys = dict.fromkeys(key for cell in cells for key, value in cell.items() if not isinstance(value, dict))
    found = [key for key in keys if varies(key)]
    chosen = {key.removesuffix(".name") for key in found if key.endswith(".name")}
    return [key for key in found if key.endswith(".name") or key.split(".")[0] not in chosen]


def arm_slug(cfg: DictConfig) -> str:
    """The arm's name as part of a path: "sft-em-hard-0.05"."""
    return arm_name(cfg).lower().replace(", ", "-").replace(" ", "-")


def run_name(cfg: DictConfig, artefacts: Mapping[str, Artefact]) -> str:
    """The run's folder: readable, and the same for the same experiment."""
    if "distill" in artefacts:
        return f"{cfg.task['name']}-distill-{artefacts['distill'].key}"
    return f"{cfg.task['name']}-{cfg.model.name}-{arm_slug(cfg)}-s{cfg.seed}-{artefacts['evaluate'].key}"
