"""The cells of a sweep before anything is computed: their tasks and plans, no two alike, and what each will leave."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from dcsft.artefacts import Artefact
from dcsft.checks import STAGES
from dcsft.config import check
from dcsft.stages.plan import arm_name, arm_slug, build_tasks, plan, run_name
from dcsft.tasks.task import Task


def cell_title(cfg: DictConfig) -> str:
    """What people call a cell."""
    return f"{arm_name(cfg)}, seed {cfg.seed}"


def wanted(cfg: DictConfig, artefacts: Mapping[str, Artefact]) -> dict[str, Artefact]:
    """The artefacts of a plan up to the stage that the run stops at."""
    last = STAGES.index(cfg.stage)
    return {stage: artefact for stage, artefact in artefacts.items() if STAGES.index(stage) <= last}


def leaves(cfg: DictConfig, artefacts: Mapping[str, Artefact]) -> dict[str, Path]:
    """What a run leaves beside its artefacts, by the stage that it stops at: paths under `outputs`."""
    name = run_name(cfg, artefacts)
    match cfg.stage:
        case "publish":
            folder = Path("published", f"{cfg.task['name']}-{cfg.model.name}-{artefacts['label'].key}")
            left = {"labels": folder / "labels"}
            if cfg.subset.name != "none" and cfg.paradigm["name"] != "rs":  # whose answers are the model's own
                left["curated"] = folder / "curated" / arm_slug(cfg)
            if cfg.publish.repo is not None:
                left["sent"] = folder / "sent" / f"{cfg.publish.repo.replace('/', '--')}.json"
            return left
        case "export":
            return {"export": Path("exports", name)}
        case "evaluate":
            return {"results": Path("runs", name, "results.json")}
        case "report":
            return {"page": Path("runs", name, "report", "report.html"), "results": Path("runs", name, "results.json")}
    return {}


def planned(cells: Sequence[DictConfig]) -> list[tuple[Task, dict[str, Artefact]]]:
    """Each cell's task and plan, checked.

    Raises:
        ValueError: a cell cannot be run, or two of them are one experiment.
    """
    for cfg in cells:
        check(cfg)
    found = [(task, plan(cfg, task)) for cfg, task in zip(cells, build_tasks(cells), strict=True)]
    known: dict[tuple[object, ...], DictConfig] = {}
    for cfg, (_, artefacts) in zip(cells, found, strict=True):
        # Arms that end with the same labels publish different subsets of them.
        beside = leaves(cfg, artefacts).values() if cfg.stage == "publish" else ()
        experiment = (cfg.stage, *map(str, wanted(cfg, artefacts).values()), *beside)
        if experiment in known:
            first, second = cell_title(known[experiment]), cell_title(cfg)
            raise ValueError(
                f"a sweep's cells must differ, got {first!r} and {second!r}, which are one experiment; leave one out"
            )
        known[experiment] = cfg
    return found
