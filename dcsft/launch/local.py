"""No cluster: detached processes of this machine, so many at a time, each with GPUs of its own.

A supervisor, which outlives the command that starts it, works through a list of jobs: `python -m dcsft.launch.local
LIST`. The list stands in `jobs/.local/`, with the state of each job; while the supervisor lives it holds the lock
beside it. Two supervisors on one machine do not know of each other's GPUs.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import Timeout

from dcsft.artefacts import NO_LOCKS, file_lock, write_json
from dcsft.launch.jobs import SUPERVISED, Job
from dcsft.launch.scheduler import Queued, Scheduler, is_live, used_up
from dcsft.stopping import EXIT_CODE

_POLL_S = 0.2
_START_S = 60  # until a supervisor must have said that it lives, or a cancelled job must have ended
_CANCEL = "cancel"  # in a job's folder: its supervisor shall end it


class Local(Scheduler):
    """Jobs by a supervisor; the queue is what living supervisors have written down."""

    def script(self, job: Job, code: Path) -> str:
        return "\n".join(
            [
                "#!/bin/bash",
                self.comments(job),
                self.preparation(code),
                f"exec {self.command(job, code)}",
                "",
            ]
        )

    def refuse(self, jobs: Sequence[Job]) -> None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if seen is not None and len(_visible(self.settings["gpus"])) < self.settings["gpus"]:
            raise ValueError(
                f"launcher.gpus must be at most the GPUs of CUDA_VISIBLE_DEVICES={seen}, got {self.settings['gpus']}; "
                "name more of them there"
            )
        needed = max(job.num_gpus for job in jobs)
        if needed > self.settings["gpus"]:
            raise ValueError(
                f"launcher.gpus must be at least {needed}, the GPUs of one job, got {self.settings['gpus']}; set it to "
                "how many this machine has"
            )

    def queue(self) -> dict[Path, Queued]:
        found: dict[Path, Queued] = {}
        for path in (self.outputs / "jobs" / ".local").glob("*.json"):
            for name, state in _supervised(path)["states"].items():
                if state != "ended":
                    found[self.outputs / "jobs" / name] = Queued(path.stem, state, state)
        return found

    def submit(self, jobs: Sequence[Job]) -> None:
        folder = self.outputs / "jobs" / ".local"
        folder.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            (job.folder / _CANCEL).unlink(missing_ok=True)
        path = folder / f"{uuid.uuid4().hex[:12]}.json"
        limits = {name: self.settings[name] for name in ("num_parallel", "gpus", "max_requeues")}
        write_json(path, {**limits, "states": {job.name: "waiting" for job in jobs}})
        with path.with_suffix(".log").open("w") as log:
            subprocess.Popen(
                [sys.executable, "-m", "dcsft.launch.local", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        deadline = time.monotonic() + _START_S
        while path.exists() and not _lives(path):
            if time.monotonic() > deadline:
                raise ValueError(f"the supervisor must start within {_START_S} s, got nothing; see {log.name}")
            time.sleep(_POLL_S)

    def cancel(self, jobs: Sequence[Job]) -> None:
        folders = {job.folder for job in jobs}
        for folder in folders:
            (folder / _CANCEL).touch()
        deadline = time.monotonic() + _START_S
        while folders & self.queue().keys() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _visible(num_gpus: int) -> list[str]:
    """The GPUs to give away: the first of those that this process may see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(num_gpus)] if seen is None else list(filter(None, seen.split(",")))
    return names[:num_gpus]


def _lives(path: Path) -> bool:
    """Whether the supervisor of a list is there: its lock dies with it.

    Raises:
        ValueError: the file system has no locks.
    """
    lock = file_lock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ValueError(
            f"outputs must be on a file system that has locks with launcher=submitit_local, got {path.parent}; set "
            "outputs=DIR on a local disk, or use launcher=local"
        ) from error
    lock.release()
    return False


def _supervised(path: Path) -> dict[str, Any]:
    """What a living supervisor has written down; nothing of one that has ended."""
    try:
        return json.loads(path.read_text()) if _lives(path) else {"states": {}}
    except FileNotFoundError:  # it has just ended
        return {"states": {}}


class Supervisor:
    """Works through a list of jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        given = json.loads(path.read_text())
        self.num_parallel, self.num_gpus = given["num_parallel"], given["gpus"]
        self.gpus = _visible(self.num_gpus)
        self.max_requeues = given["max_requeues"]
        self.jobs = {name: Job.load(path.parents[1] / name) for name in given["states"]}
        self.states: dict[str, str] = given["states"]
        self.running: dict[str, tuple[subprocess.Popen, list[str]]] = {}
        self.turns = dict.fromkeys(self.jobs, 0)
        self.cancelled: set[str] = set()

    def __call__(self) -> None:
        """Until every job has ended."""
        with file_lock(self.path.with_suffix(".lock")):
            signal.signal(signal.SIGTERM, self._stop)
            self._write()
            try:
                while any(state != "ended" for state in self.states.values()):
                    self._cancel()
                    self._collect()
                    self._start()
                    time.sleep(_POLL_S)
            finally:
                self.path.unlink()

    def _write(self) -> None:
        limits = {"num_parallel": self.num_parallel, "gpus": self.num_gpus, "max_requeues": self.max_requeues}
        write_json(self.path, {**limits, "states": self.states})

    def _set(self, name: str, state: str) -> None:
        self.states[name] = state
        self._write()

    def _cancel(self) -> None:
        """End the jobs whose folders say so."""
        for name, job in self.jobs.items():
            if self.states[name] == "ended" or name in self.cancelled or not (job.folder / _CANCEL).exists():
                continue
            (job.folder / _CANCEL).unlink()
            self.cancelled.add(name)
            if name in self.running:
                self.running[name][0].terminate()
            else:
                self._set(name, "ended")

    def _collect(self) -> None:
        """Jobs that have ended; one that was warned gets another turn."""
        for name, (process, gpus) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            process.stdin.close()
            self.gpus += gpus
            self.turns[name] += 1
            again = code == EXIT_CODE and self.turns[name] <= self.max_requeues and name not in self.cancelled
            with self.jobs[name].log.open("a") as log:
                if code < 0:
                    log.write(f"killed by {signal.Signals(-code).name}\n")
                elif code == EXIT_CODE and self.turns[name] > self.max_requeues:
                    log.write(f"{used_up(self.max_requeues)}\n")
            self._set(name, "waiting" if again else "ended")

    def _start(self) -> None:
        """As many jobs as there is room for, of those whose needs are there."""
        for name, job in self.jobs.items():
            if self.states[name] != "waiting" or len(self.running) >= self.num_parallel:
                continue
            if job.num_gpus > len(self.gpus):
                continue
            if not self._ready(job):
                continue
            gpus, self.gpus = self.gpus[: job.num_gpus], self.gpus[job.num_gpus :]
            with job.log.open("a") as log:
                process = subprocess.Popen(
                    ["bash", str(job.script)],
                    stdin=subprocess.PIPE,  # it ends when nobody holds the other end: no job outlives its supervisor
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus), SUPERVISED: "1"},
                )
            self.running[name] = process, gpus
            self._set(name, "running")

    def _ready(self, job: Job) -> bool:
        """Whether what it needs has ended; a job whose need failed ends too."""
        theirs = Local({}, self.path.parents[2]).queue() if set(job.needs) - set(self.jobs) else {}
        for name in job.needs:
            folder = job.folder.parent / name
            live = self.states[name] != "ended" if name in self.states else is_live(folder, theirs)
            if live:
                return False
            if job.stages and not Job.load(folder).done:
                self._set(job.name, "ended")
                return False
        return True

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()
        sys.exit(f"stopped: {shlex.join(self.running)}")


if __name__ == "__main__":
    Supervisor(Path(sys.argv[1]))()
