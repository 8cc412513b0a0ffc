"""From the cells of a sweep to queued jobs: what is missing, frozen as it is now.

The same command again submits what is missing or has failed: what is done is not touched, nor what is queued or
running, be it of this sweep or of another one that shares it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dcsft.artefacts import locked, write_json
from dcsft.config import CONF
from dcsft.launch.jobs import CONFIG, REPORT, Job, freeze, jobs_of, report_job
from dcsft.launch.local import Local
from dcsft.launch.scheduler import Queued, Scheduler, is_live
from dcsft.launch.slurm import Slurm
from dcsft.stages.plan import plain

SUBMISSION = ".submission.lock"
_ROOT = CONF.parent
_FROZEN = ("dcsft", "conf")


def scheduler_of(settings: Mapping[str, Any], outputs: Path) -> Scheduler:
    """The scheduler that `launcher=NAME` asks for."""
    kinds = {"slurm": Slurm, "submitit_local": Local}
    return kinds[settings["name"]](settings, outputs)


def _files() -> list[Path]:
    """The code, relative to its root."""
    found = [path for name in _FROZEN for path in sorted((_ROOT / name).rglob("*")) if path.is_file()]
    return [path.relative_to(_ROOT) for path in found if "__pycache__" not in path.parts]


def snapshot(outputs: Path) -> Path:
    """A copy of the code as it is now, in a folder named by its content; what is edited later changes no queued job."""
    digest = hashlib.sha256()
    for path in _files():
        digest.update(str(path).encode() + b"\0" + hashlib.sha256((_ROOT / path).read_bytes()).digest())
    folder = outputs / "code" / digest.hexdigest()[:12]
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{time.time_ns()}")
    for path in _files():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(_ROOT / path, partial / path)
    try:
        partial.rename(folder)
    except OSError:  # another submission of the same code was first
        shutil.rmtree(partial)
    return folder


def _sweep_name(cells: Sequence[DictConfig], last: Sequence[str]) -> str:
    """What `status.py` calls the submission."""
    if cells[0].sweep is not None:
        return cells[0].sweep
    return last[0] if len(last) == 1 else f"multirun-{hashlib.sha256(' '.join(last).encode()).hexdigest()[:8]}"


def submit(cells: Sequence[DictConfig], commands: Sequence[str], description: str, console: Console) -> None:
    """Queue what the cells still need.

    Args:
        cells: composed configurations, all with the same launcher.
        commands: what computes each cell alone, for the report.
        description: of the sweep, for the report.

    Raises:
        ValueError: a cell cannot be run, two cells are one experiment, other cells live under this name, or the
            scheduler would refuse them; nothing is queued then.
    """
    if any(cfg.stage == "check" for cfg in cells):
        raise ValueError(f"stage must not be check in jobs, got launcher={cells[0].launcher.name}; add launcher=local")
    outputs = Path(cells[0].outputs).absolute()
    settings = plain(cells[0].launcher)
    for cfg in cells:
        cfg.outputs = str(outputs)
    planned, last = jobs_of(cells, outputs)
    configs = {job.name: cfg for job, cfg in planned}
    sweep = _sweep_name(cells, last)
    jobs = [job for job, _ in planned]
    if any(cfg.stage in ("evaluate", "report") for cfg in cells) and len(cells) > 1:
        report = report_job(outputs, sweep, last, f"report of {sweep}")
        configs[report.name] = cells[0]
        jobs.append(report)
    scheduler = scheduler_of(settings, outputs)
    if settings["dry_run"]:
        _show(jobs, scheduler, console)
        return
    (outputs / "jobs").mkdir(parents=True, exist_ok=True)
    with locked(outputs / "jobs" / SUBMISSION):  # two submissions do not queue one job twice
        queue = scheduler.queue()
        _keep_apart(outputs / "sweeps" / f"{sweep}.json", last, queue)
        live = {job.name for job in jobs if is_live(job.folder, queue)}
        missing = [job for job in jobs if job.stages and not job.done and job.name not in live]
        late = late_reports(jobs, missing, queue)
        missing += [job for job in jobs if not job.stages and (job in late or _due(job, jobs, live))]
        live -= {job.name for job in late}
        if missing:
            scheduler.refuse(missing)
        code = snapshot(outputs)
        for job in jobs:
            if job in missing or not (job.folder / CONFIG).exists():
                _write(job, configs[job.name], scheduler.script(job, code))
            if not job.stages and job in missing:
                given = {"sweep": sweep, "commands": list(commands), "description": description}
                write_json(job.folder / REPORT, given)
                (job.folder / "DONE").unlink(missing_ok=True)
        record = {"jobs": [job.name for job in jobs], "cells": last, "launcher": settings, "cancelled": False}
        (outputs / "sweeps").mkdir(exist_ok=True)
        write_json(outputs / "sweeps" / f"{sweep}.json", record)
        if missing:
            if late:
                scheduler.cancel(late)
            scheduler.submit(missing)
    done = sum(job.done for job in jobs if job not in missing)
    queued = sum(job.stages != () for job in missing)
    console.print(f"{queued} jobs submitted, {len(live)} were queued already, {done} are done", highlight=False)
    where = "" if outputs == Path("outputs").absolute() else f" --outputs {outputs}"
    console.print(f"watch them: python status.py {sweep}{where}", highlight=False, soft_wrap=True)


def _keep_apart(path: Path, cells: Sequence[str], queue: Mapping[Path, Queued]) -> None:
    """The record of a sweep is not replaced while it is the only way to its jobs.

    Raises:
        ValueError: cells of another submission are queued or running under the name.
    """
    if not path.exists():
        return
    names = set(json.loads(path.read_text())["cells"]) - set(cells)
    live = sum(is_live(path.parents[1] / "jobs" / name, queue) for name in names)
    if live:
        raise ValueError(
            f"sweep must be a new name while other cells are queued or running under it, got {path.stem!r} with "
            f"{live} of them; add sweep=NAME, or end them: python status.py {path.stem} --cancel"
        )


def late_reports(jobs: Sequence[Job], missing: Sequence[Job], queue: Mapping[Path, Queued]) -> list[Job]:
    """Reports that are queued already, and so wait for less than they must once `missing` are queued as well."""
    return [job for job in jobs if missing and not job.stages and is_live(job.folder, queue)]


def _due(report: Job, jobs: Sequence[Job], live: set[str]) -> bool:
    """Whether a report is to be written (again): it is missing, or cells are still to come or newer than it."""
    if report.name in live:
        return False
    if not report.done or Job.load(report.folder).needs != report.needs:
        return True
    outcomes = [path for job in jobs if job.stages for path in job.outcomes]
    if not all(path.exists() for path in outcomes):
        return True
    return max(path.stat().st_mtime for path in outcomes) > report.outcomes[0].stat().st_mtime


def _write(job: Job, cfg: DictConfig, script: str) -> None:
    """A job's folder; the script comes last."""
    job.folder.mkdir(parents=True, exist_ok=True)
    freeze(cfg, job.folder / CONFIG)
    job.save()
    job.script.write_text(script)


def _show(jobs: Sequence[Job], scheduler: Scheduler, console: Console) -> None:
    """What would be submitted: the scripts, and what each job will reuse and compute."""
    code = scheduler.outputs / "code" / "SNAPSHOT"
    for job in jobs:
        if not job.done:
            console.rule(job.name, align="left")
            console.print(scheduler.script(job, code), highlight=False, markup=False, soft_wrap=True)
    console.rule("what they do", align="left")
    names = {job.name: job.title for job in jobs}
    for job in jobs:
        there = [path.exists() for path in job.outcomes]
        reused = [stage for stage, done in zip(job.stages, there, strict=False) if done]
        computed = [stage for stage, done in zip(job.stages, there, strict=False) if not done]
        said = [f"computes {', '.join(computed)}"] if computed else []
        said += [f"reuses {', '.join(reused)}"] if reused else []
        said += [f"after {', '.join(names[name] for name in job.needs)}"] if job.needs and job.stages else []
        console.print(f"{job.title}: {'; '.join(said) or 'when all cells have ended'}", highlight=False, soft_wrap=True)
