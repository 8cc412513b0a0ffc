"""A job: one process that computes some stages; its folder, and how a sweep's cells become jobs.

Artefacts that the same cells need are one job, so that a cold start and a labelling which eighteen cells share are
computed first, once, by a job that the cells depend on. What is done is read from the store alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dcsft.artefacts import Artefact, Store, write_json
from dcsft.checks import STAGES
from dcsft.config import check
from dcsft.stages.plan import arm_name, build_tasks, plan, run_name

CONFIG, RECORD, SCRIPT, LOG, REPORT = "config.yaml", "job.json", "job.sh", "log.txt", "report.json"


@dataclass(frozen=True)
class Job:
    """What one process computes.

    Args:
        folder: its configuration, script, log and record; named by content, so that sweeps share jobs.
        title: for people.
        stages: what it computes, in order; () for a report.
        needs: names of the jobs that must have succeeded (of a report: ended) before it.
        outcomes: the files that are there when it is done.
        run: the run folder, where its progress stands.
        num_gpus: on its node.
    """

    folder: Path
    title: str
    stages: tuple[str, ...]
    needs: tuple[str, ...]
    outcomes: tuple[Path, ...]
    run: Path
    num_gpus: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def script(self) -> Path:
        return self.folder / SCRIPT

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def done(self) -> bool:
        return all(path.exists() for path in self.outcomes)

    def save(self) -> None:
        """Write the record into the job's folder."""
        record = {"title": self.title, "stages": self.stages, "needs": self.needs, "num_gpus": self.num_gpus}
        paths = {"outcomes": [str(path) for path in self.outcomes], "run": str(self.run)}
        write_json(self.folder / RECORD, {**record, **paths})

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """The job of a folder."""
        record = json.loads((folder / RECORD).read_text())
        return cls(
            folder=folder,
            title=record["title"],
            stages=tuple(record["stages"]),
            needs=tuple(record["needs"]),
            outcomes=tuple(map(Path, record["outcomes"])),
            run=Path(record["run"]),
            num_gpus=record["num_gpus"],
        )


def num_gpus(cfg: DictConfig) -> int:
    """GPUs that one job needs."""
    if cfg.launcher.name == "slurm" and cfg.launcher.gpus is not None:
        return cfg.launcher.gpus
    return cfg.trainer.num_devices or 1 if cfg.trainer.device == "cuda" else 0


def cell_title(cfg: DictConfig) -> str:
    """What people call a cell."""
    return f"{arm_name(cfg)}, seed {cfg.seed}"


def _wanted(cfg: DictConfig, artefacts: Mapping[str, Artefact]) -> dict[str, Artefact]:
    """The artefacts up to the stage that the cell stops at."""
    last = STAGES.index(cfg.stage)
    return {stage: artefact for stage, artefact in artefacts.items() if STAGES.index(stage) <= last}


def _plans(cells: Sequence[DictConfig]) -> list[dict[str, Artefact]]:
    """Each cell's plan, checked."""
    for cfg in cells:
        check(cfg)
    return [plan(cfg, task) for cfg, task in zip(cells, build_tasks(cells), strict=True)]


def jobs_of(cells: Sequence[DictConfig], outputs: Path) -> tuple[list[tuple[Job, DictConfig]], list[str]]:
    """The jobs of a sweep, each after those it needs, with their configurations; and each cell's job by its name.

    Raises:
        ValueError: a configuration cannot be run, or two cells are the same experiment.
    """
    plans = _plans(cells)
    wanted = [_wanted(cfg, artefacts) for cfg, artefacts in zip(cells, plans, strict=True)]
    users: dict[str, list[int]] = {}
    ends: dict[tuple[str, str], int] = {}
    for number, artefacts in enumerate(wanted):
        for artefact in artefacts.values():
            users.setdefault(str(artefact), []).append(number)
        end = str(artefact), cells[number].stage
        if end in ends:
            first, second = cell_title(cells[ends[end]]), cell_title(cells[number])
            raise ValueError(f"a sweep's cells must differ, got {first!r} and {second!r}, which are one experiment")
        ends[end] = number
    groups: dict[tuple[int, ...], list[Artefact]] = {}
    for artefacts in wanted:
        for artefact in artefacts.values():
            group = groups.setdefault(tuple(users[str(artefact)]), [])
            if artefact not in group:
                group.append(artefact)
    store = Store(outputs / "store", print)
    names = {
        numbers: _job_name(cells[numbers[0]], plans[numbers[0]], group, len(numbers))
        for numbers, group in groups.items()
    }
    jobs = []
    for numbers, group in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0])):
        cfg, artefacts = cells[numbers[0]].copy(), wanted[numbers[0]]
        stages = tuple(artefact.stage for artefact in group)
        outcomes = [store.folder(artefact) / "DONE" for artefact in group]
        run = outputs / "runs" / run_name(cfg, plans[numbers[0]])
        title = cell_title(cfg)
        if len(numbers) > 1:
            title = f"{', '.join(stages).replace('_', ' ')} of {len(numbers)} cells, seed {cfg.seeds[_seed(stages)]}"
            cfg.stage = stages[-1]
        elif cfg.stage == "export":
            outcomes.append(outputs / "exports" / run.name)
        elif cfg.stage in ("evaluate", "report"):
            outcomes.append(run / "results.json")
        theirs = [tuple(users[str(artefact)]) for artefact in _wanted(cfg, artefacts).values()]
        # What fewer cells need is theirs to compute, even where it stands before in the order of the stages.
        needs = tuple(dict.fromkeys(names[other] for other in theirs if set(other) > set(numbers)))
        folder = outputs / "jobs" / names[numbers]
        jobs.append((Job(folder, title, stages, needs, tuple(outcomes), run, num_gpus(cfg)), cfg))
    last = [names[tuple(users[str(list(artefacts.values())[-1])])] for artefacts in wanted]
    return jobs, last


def _seed(stages: Sequence[str]) -> str:
    """Whose seed names a shared job."""
    return stages[-1] if stages[-1] in ("cold_start", "label", "train") else "data"


def _job_name(cfg: DictConfig, artefacts: Mapping[str, Artefact], group: Sequence[Artefact], num_cells: int) -> str:
    if num_cells > 1:
        return f"{group[-1].stage}-{group[-1].key}"
    return run_name(cfg, artefacts)


def report_job(outputs: Path, sweep: str, cells: Sequence[str], title: str) -> Job:
    """The job that writes a sweep's tables, figures and page, when all cells have ended."""
    folder = outputs / "jobs" / f"report-{sweep}"
    return Job(folder, title, (), tuple(cells), (folder / "DONE",), outputs / "report" / sweep, 0)


def freeze(cfg: DictConfig, path: Path) -> None:
    """Write the configuration with every interpolation replaced by its value."""
    OmegaConf.save(cfg, path, resolve=True)
