"""A sweep's cells: its yaml, expanded as Hydra expands it; what the store has of each, and the command for the rest."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from dcsft.artefacts import Artefact, Store
from dcsft.config import CONF
from dcsft.records import Example
from dcsft.report.boxes import draw_boxes
from dcsft.report.cells import Cell
from dcsft.report.sights import Sight, Sights, data_uri, shrunk
from dcsft.stages.cells import planned
from dcsft.stages.plan import told_apart
from dcsft.stages.results import results_of
from dcsft.tasks.task import Task


def cell_of(
    arm: str,
    cfg: DictConfig,
    artefacts: Mapping[str, Artefact],
    store: Store,
    results: dict[str, Any] | None,
    command: str,
) -> Cell:
    """One run as the report takes it; files that are not there are None."""

    def file(stage: str, name: str) -> Path | None:
        path = store.folder(artefacts[stage]) / name if stage in artefacts else None
        return path if path is not None and path.exists() else None

    return Cell(
        arm=arm,
        seed=cfg.seed,
        command=command,
        results=results,
        scores=file("evaluate", "scores.parquet"),
        labels=file("label", "labels.parquet"),
        rollouts=file("label", "rollouts.parquet"),
        metrics=file("train", "metrics.jsonl"),
        curve=file("train", "curve.csv"),
        completions=file("train", "completions.jsonl"),
    )


def sights_of(tasks: Mapping[Path | None, Task]) -> Sights:
    """Looks up a cell's examples, training or test; `tasks` are known by their cells' labels.

    Where answers are boxes, they and the true one are drawn over the picture.
    """

    def sights(cell: Cell, answers: Mapping[str, Sequence[str]]) -> dict[str, Sight]:
        task, found = tasks[cell.labels], {}
        for split in ("train", *task.tests):
            if len(found) < len(answers):
                wanted = [example for example in task.examples(split) if example.id in answers]
                found |= {example.id: _sight(example, answers[example.id]) for example in wanted}
        return found

    return sights


def _sight(example: Example, answers: Sequence[str]) -> Sight:
    if not example.pictures:
        return Sight(None, example.question)
    picture = shrunk(example.pictures[0].open())
    if example.frame is not None:
        picture = draw_boxes(picture, example.frame, example.target, answers)
    return Sight(data_uri(picture), example.question)


def sweep_cells(sweep: Path, overrides: Sequence[str]) -> list[tuple[DictConfig, list[str]]]:
    """Each cell's configuration and overrides, in the order in which `train.py -cd sweeps -cn NAME` runs them.

    Args:
        sweep: a yaml of `sweeps/`.
        overrides: as on the command line of `train.py`; one that sweeps replaces the yaml's.
    """
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    search_path = create_config_search_path(str(sweep.absolute().parent))
    search_path.prepend("conf", f"file://{CONF}", SearchPathQuery("schema", None))  # what -cd does for train.py
    Hydra.create_main_hydra2("report", search_path)
    params = compose(sweep.stem, return_hydra_config=True).hydra.sweeper.params or {}
    swept = [f"{name}={value}" for name, value in params.items()]
    parsed = OverridesParser.create().parse_overrides([*swept, *overrides])
    (cells,) = BasicSweeper.split_arguments(parsed, None)
    return [(compose(sweep.stem, cell), cell) for cell in cells]


_KEYS = re.compile(r"(Paper|command|the paper's own task|cost|expected[^:]*): ")


def opening_comment(sweep: Path) -> str:
    """What a sweep's yaml says of itself: what it reproduces, then a line for each of `_KEYS`."""
    said: list[str] = []
    for line in sweep.read_text().splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#").strip()
        if said and not _KEYS.match(words):
            said[-1] += f" {words}"
        else:
            said.append(words)
    return "\n".join(said)


def command_of(sweep: Path, overrides: Sequence[str]) -> str:
    """What computes a cell of a sweep, from the current folder."""
    train, folder = _from_here(CONF.parent / "train.py"), _from_here(sweep.absolute().parent)
    return shlex.join(["python", train, "-cd", folder, "-cn", sweep.stem, *overrides])


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True)
class Gathered:
    """What a sweep's report is made of."""

    cells: list[Cell]
    tasks: dict[Path | None, Task]
    """Known by their cells' labels."""
    outputs: Path
    shows: tuple[str, ...]
    description: str
    logger: DictConfig


def gather(sweep: Path, overrides: Sequence[str], say: Callable[[str], None]) -> Gathered:
    """The cells of a sweep, from the store alone: nothing is computed."""
    configs = sweep_cells(sweep, overrides)
    cells, tasks = gather_cells([(cfg, command_of(sweep, own)) for cfg, own in configs], say)
    last, _ = configs[-1]
    outputs, description = Path(last.outputs).absolute(), opening_comment(sweep)
    return Gathered(cells, tasks, outputs, tuple(last.shows), description, last.logger)


def gather_cells(
    configs: Sequence[tuple[DictConfig, str]], say: Callable[[str], None]
) -> tuple[list[Cell], dict[Path | None, Task]]:
    """Cells from their configurations and commands, and from the store alone; and the tasks, known by their labels."""
    alone = [cfg for cfg, _ in configs]
    cells, tasks, plans = [], {}, planned(alone)
    for (cfg, command), arm, (task, artefacts) in zip(configs, told_apart(alone), plans, strict=True):
        store = Store(Path(cfg.outputs).absolute() / "store", say)
        found = {stage: store.find(artefact) for stage, artefact in artefacts.items()}
        folders = {stage: folder for stage, folder in found.items() if folder is not None}
        complete = {"label", "evaluate", *(["train"] if "train" in artefacts else [])} <= set(folders)
        results = results_of(cfg, task, artefacts, folders) if complete else None
        cells.append(cell_of(arm, cfg, artefacts, store, results, command))
        tasks[cells[-1].labels] = task
    return cells, tasks
