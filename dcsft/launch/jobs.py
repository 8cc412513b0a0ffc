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
from dcsft.stages.cells import leaves, planned, wanted
from dcsft.stages.plan import run_name, told_apart

CONFIG, RECORD, SCRIPT, LOG, REPORT = "config.yaml", "job.json", "job.sh", "log.txt", "report.json"
SUPERVISED = "DCSFT_SUPERVISED"
"""In a job's environment: it ends with its standard input."""


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
        num_gpus: on each of its nodes.
        num_nodes: that its stages are computed on.
    """

    folder: Path
    title: str
    stages: tuple[str, ...]
    needs: tuple[str, ...]
    outcomes: tuple[Path, ...]
    run: Path
    num_gpus: int
    num_nodes: int = 1

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
        record = {"title": self.title, "stages": self.stages, "needs": self.needs}
        paths = {"outcomes": [str(path) for path in self.outcomes], "run": str(self.run)}
        size = {"num_gpus": self.num_gpus, "num_nodes": self.num_nodes}
        write_json(self.folder / RECORD, {**record, **paths, **size})

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
            num_nodes=record.get("num_nodes", 1),  # not in records of before there could be several
        )


def num_gpus(cfg: DictConfig) -> int:
    """GPUs that one job needs."""
    if cfg.launcher.name == "slurm" and cfg.launcher.gpus is not None:
        return cfg.launcher.gpus
    return cfg.trainer.num_devices or 1 if cfg.trainer.device == "cuda" else 0


@dataclass(frozen=True)
class _Group:
    """What exactly these cells need: a job.

    Args:
        cells: their numbers in the sweep.
        stage: where it stops.
        artefacts: by stage, in the order of the stages.
        left: what a cell alone leaves beside them.
        name: of the job.
    """

    cells: tuple[int, ...]
    stage: str
    artefacts: dict[str, Artefact]
    left: tuple[Path, ...]
    name: str

    @property
    def stages(self) -> tuple[str, ...]:
        """What it computes."""
        return tuple(dict.fromkeys([*self.artefacts, self.stage]))

    def needs(self, other: "_Group") -> bool:
        """Whether all of its cells need the other one before it.

        What fewer cells need is theirs to compute, even where it stands before in the order of the stages.
        """
        before = any(STAGES.index(stage) <= STAGES.index(self.stage) for stage in other.artefacts)
        return set(other.cells) > set(self.cells) and before


def _groups(cells: Sequence[DictConfig], plans: Sequence[Mapping[str, Artefact]]) -> list[_Group]:
    """The groups of a sweep, those of most cells first."""
    left = [tuple(leaves(cfg, artefacts).values()) for cfg, artefacts in zip(cells, plans, strict=True)]
    users: dict[str, list[int]] = {}
    known: dict[str, Artefact] = {}
    for number, (cfg, artefacts) in enumerate(zip(cells, plans, strict=True)):
        for artefact in wanted(cfg, artefacts).values():
            users.setdefault(str(artefact), []).append(number)
            known[str(artefact)] = artefact
    shares: dict[tuple[int, ...], dict[str, Artefact]] = {(number,): {} for number in range(len(cells)) if left[number]}
    for name, numbers in users.items():
        shares.setdefault(tuple(numbers), {})[known[name].stage] = known[name]
    groups = []
    for numbers, artefacts in sorted(shares.items(), key=lambda item: (-len(item[0]), item[0])):
        first = numbers[0]
        if len(numbers) == 1 and left[first]:
            cfg, name = cells[first], run_name(cells[first], plans[first])
            name = name if cfg.stage == "evaluate" else f"{name}-{cfg.stage}"
            groups.append(_Group(numbers, cfg.stage, artefacts, left[first], name))
        else:  # artefacts alone: whoever needs the last of them names the job alike
            stage, artefact = list(artefacts.items())[-1]
            groups.append(_Group(numbers, stage, artefacts, (), f"{stage}-{artefact.key}"))
    return groups


def jobs_of(cells: Sequence[DictConfig], outputs: Path) -> tuple[list[tuple[Job, DictConfig]], list[str]]:
    """The jobs of a sweep, each after those it needs, with their configurations; and each cell's job by its name.

    Raises:
        ValueError: a configuration cannot be run, or two cells are the same experiment.
    """
    plans = [artefacts for _, artefacts in planned(cells)]
    groups, names = _groups(cells, plans), told_apart(cells)
    store = Store(outputs / "store", print)
    jobs = []
    for group in groups:
        cfg = cells[group.cells[0]].copy()
        cfg.stage = group.stage
        done = [store.folder(artefact) / "DONE" for artefact in group.artefacts.values()]
        job = Job(
            folder=outputs / "jobs" / group.name,
            title=_title(cfg, group, names),
            stages=group.stages,
            needs=tuple(other.name for other in groups if group.needs(other)),
            outcomes=(*done, *(outputs / path for path in group.left)),
            run=outputs / "runs" / run_name(cfg, plans[group.cells[0]]),
            num_gpus=num_gpus(cfg),
            num_nodes=cfg.trainer.num_nodes,
        )
        jobs.append((job, cfg))
    ends = [list(wanted(cfg, artefacts))[-1] for cfg, artefacts in zip(cells, plans, strict=True)]
    return jobs, [_last(number, stage, groups).name for number, stage in enumerate(ends)]


def _last(number: int, stage: str, groups: Sequence[_Group]) -> _Group:
    """The job that a cell ends with: what it has alone, or else the last stage that it needs."""
    theirs = [group for group in groups if number in group.cells]
    return next(group for group in reversed(theirs) if group.left or stage in group.artefacts)


def _title(cfg: DictConfig, group: _Group, names: Sequence[str]) -> str:
    """What people call a job; `names` tell the cells of the sweep apart."""
    if len(group.cells) == 1:
        return f"{names[group.cells[0]]}, seed {cfg.seed}"
    seed = cfg.seeds[group.stage if group.stage in ("cold_start", "label", "train") else "data"]
    return f"{', '.join(group.stages).replace('_', ' ')} of {len(group.cells)} cells, seed {seed}"


def report_job(outputs: Path, sweep: str, cells: Sequence[str], title: str) -> Job:
    """The job that writes a sweep's tables, figures and page, when all cells have ended."""
    folder = outputs / "jobs" / f"report-{sweep}"
    return Job(folder, title, (), tuple(cells), (folder / "DONE",), outputs / "report" / sweep, 0)


def freeze(cfg: DictConfig, path: Path) -> None:
    """Write the configuration with every interpolation replaced by its value."""
    OmegaConf.save(cfg, path, resolve=True)
