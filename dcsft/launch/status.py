"""How far a submitted sweep is, from its jobs' folders, the store and the queue."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dcsft.artefacts import locked, write_json
from dcsft.launch.jobs import Job
from dcsft.launch.scheduler import Queued, Scheduler, is_live, last_line
from dcsft.launch.submit import SUBMISSION, late_reports, scheduler_of
from dcsft.stages.progress import FILE

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "waiting": "yellow",
    "failed": "red",
    "missing": "magenta",
    "unknown": "dim",
}
_REASONS = {
    "Dependency": "for what it needs",
    "BeginTime": "for its next turn (SLURM holds a requeued job for two minutes)",
    "Resources": "for a node",
    "Priority": "behind other jobs",
    "None": "in the queue",
    "waiting": "in the queue",
}


def sweep_names(outputs: Path) -> list[str]:
    """What has been submitted."""
    return sorted(path.stem for path in (outputs / "sweeps").glob("*.json"))


def _accuracies(path: Path) -> str:
    """A cell's line of the results."""
    splits = json.loads(path.read_text())["splits"]
    return ", ".join(f"{name} {100 * split['accuracy']:.1f}" for name, split in splits.items() if split["n"])


def duration(seconds: float) -> str:
    """A time that remains, for people."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _progress(job: Job) -> str:
    """Which stage a running job is in, how far, and how long it will take."""
    stages = [stage for stage, path in zip(job.stages, job.outcomes, strict=False) if not path.exists()]
    now = stages[0] if stages else "the end"
    place = job.outcomes[job.stages.index(now)].parent if stages else job.run
    path = place.with_name(f"{place.name}.partial") / FILE
    try:
        fresh = path.stat().st_mtime >= job.script.stat().st_mtime
        shown = json.loads(path.read_text()) if fresh else None
    except FileNotFoundError:  # not there yet, or the stage has just ended
        shown = None
    if shown is None or not shown["title"].replace(" ", "_").startswith(now):
        return f"{now}, begins"
    left = "" if shown["seconds_left"] is None else f", {duration(shown['seconds_left'])} left"
    return f"{shown['title']} {shown['done']}/{shown['total']}{left}"


def state_of(job: Job, queue: Mapping[Path, Queued] | None, others: Mapping[str, Job]) -> tuple[str, str]:
    """A job's state, and what is to be said of it.

    Args:
        queue: None where the scheduler cannot be asked; what is done can be read anywhere.
        others: jobs by their names; those that it needs are among them.

    Returns:
        one of done, running, waiting, failed (it has begun), missing (it has not) and unknown; and a line.
    """
    if queue is None and not job.done:
        return "unknown", last_line(job.log) or "no log yet"
    queued = queue.get(job.folder) if queue else None
    if queued is not None and queued.live:
        if queued.state == "running":
            return "running", _progress(job) if job.stages else "writes"
        first = next((others[name].title for name in job.needs if not others[name].done), None)
        if queued.reason in ("Dependency", "waiting") and first is not None:
            return "waiting", f"for {first}"
        return "waiting", _REASONS.get(queued.reason, queued.reason)
    if job.done:
        results = [path for path in job.outcomes if path.name == "results.json"]
        return "done", _accuracies(results[0]) if results else (f"{job.run}" if not job.stages else "")
    failed = next((others[name].title for name in job.needs if job.stages and not others[name].done), None)
    if failed is not None:
        return "missing", f"needs {failed}"
    said = last_line(job.log)
    if said is None:
        return "missing", "was not begun"
    return "failed", f"{said} ({job.log})"


@dataclass(frozen=True)
class Sweep:
    """A submitted sweep.

    Args:
        path: the record of its submission.
        jobs: in the order of submission.
        cells: the jobs that are cells, by their names.
    """

    path: Path
    jobs: list[Job]
    cells: frozenset[str]
    scheduler: Scheduler

    @classmethod
    def load(cls, outputs: Path, name: str) -> "Sweep":
        """The latest submission of this name.

        Raises:
            ValueError: there is none.
        """
        root = outputs.absolute()
        path = root / "sweeps" / f"{Path(name).stem}.json"
        if not path.exists():
            there = ", ".join(sweep_names(root)) or "none"
            raise ValueError(f"the sweep must be one that was submitted, got {name!r}; there are: {there}")
        record = json.loads(path.read_text())
        jobs = [Job.load(root / "jobs" / job) for job in record["jobs"]]
        return cls(path, jobs, frozenset(record["cells"]), scheduler_of(record["launcher"], root))

    def states(self) -> dict[str, tuple[str, str]]:
        """Each job's state and line, by its name."""
        return self._states(self._asked()[0])

    def _states(self, queue: Mapping[Path, Queued] | None) -> dict[str, tuple[str, str]]:
        others = {job.name: job for job in self.jobs}
        for name in {name for job in self.jobs for name in job.needs} - others.keys():
            others[name] = Job.load(self.jobs[0].folder.parent / name)  # of the sweep that submitted a shared job
        return {job.name: state_of(job, queue, others) for job in self.jobs}

    def _asked(self) -> tuple[Mapping[Path, Queued] | None, str]:
        """The queue; or None and why."""
        try:
            return self.scheduler.queue(), ""
        except ValueError as error:
            return None, str(error)

    def resume(self) -> int:
        """Queue again, as they were frozen, the jobs that are missing or have failed; returns how many.

        A report that is queued for less than it now has to wait for is queued anew.
        """
        with self._changing(cancelled=False) as queue:
            again = [job for job in self.jobs if not job.done and not is_live(job.folder, queue)]
            late = late_reports(self.jobs, again, queue)
            if late:
                self.scheduler.cancel(late)
            if again:
                self.scheduler.submit([*again, *late])
        return len(again) + len(late)

    def cancel(self) -> dict[str, list[str]]:
        """End what is queued or running, but for the jobs of another sweep that still has a cell there.

        Returns:
            those that go on: by the name of the sweep that needs them, their titles.
        """
        with self._changing(cancelled=True) as queue:
            live = {job.name: job for job in self.jobs if is_live(job.folder, queue)}
            kept: dict[str, list[str]] = {}
            for path in sorted(set(self.path.parent.glob("*.json")) - {self.path}):
                other = json.loads(path.read_text())
                folders = [self.path.parents[1] / "jobs" / name for name in other["cells"]]
                if not other.get("cancelled") and any(is_live(folder, queue) for folder in folders):
                    kept[path.stem] = [name for name in other["jobs"] if name in live]
            shared = {name for names in kept.values() for name in names}
            self.scheduler.cancel([job for name, job in live.items() if name not in shared])
        return {sweep: [live[name].title for name in names] for sweep, names in kept.items() if names}

    @contextmanager
    def _changing(self, cancelled: bool) -> Iterator[Mapping[Path, Queued]]:
        """The queue, while nobody submits; and whether the sweep still needs its jobs stands in its record."""
        with locked(self.path.parents[1] / "jobs" / SUBMISSION):
            queue = self.scheduler.queue()
            write_json(self.path, json.loads(self.path.read_text()) | {"cancelled": cancelled})
            yield queue

    def table(self) -> tuple[Table, bool]:
        """The states for the screen, and whether anything is queued or running."""
        queue, why = self._asked()
        states = self._states(queue)
        counts = {kind: sum(state == kind for state, _ in states.values()) for kind in _COLOURS}
        title = f"{self.path.stem}: {', '.join(f'{n} {kind}' for kind, n in counts.items() if n)}"
        title += f"\nthe queue is not known: {why}" if why else ""
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("job", "state", ""):
            table.add_column(column, overflow="fold")
        for job in self.jobs:
            state, line = states[job.name]
            title = Text(job.title, style="" if job.name in self.cells else "dim")
            table.add_row(title, Text(state, style=_COLOURS[state]), Text(line))
        return table, any(state in ("running", "waiting", "unknown") for state, _ in states.values())
