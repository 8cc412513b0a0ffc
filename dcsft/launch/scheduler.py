"""The contract of a scheduler: it is given jobs and their scripts, and says what stands in its queue."""

import re
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsft.launch.jobs import Job
from dcsft.stopping import EXIT_CODE


@dataclass(frozen=True)
class Queued:
    """What a scheduler says of a job that it still knows.

    Args:
        id: its name there.
        state: "waiting", "running" or "ended".
        reason: the scheduler's word for it.
    """

    id: str
    state: str
    reason: str

    @property
    def live(self) -> bool:
        return self.state != "ended"


def is_live(folder: Path, queue: Mapping[Path, Queued]) -> bool:
    """Whether the job of a folder is queued or running."""
    return folder in queue and queue[folder].live


class Scheduler(ABC):
    """Runs jobs when what they need is there.

    Args:
        settings: the values of `conf/launcher/`.
        outputs: the root of store/, runs/ and jobs/.
    """

    def __init__(self, settings: Mapping[str, Any], outputs: Path) -> None:
        self.settings, self.outputs = settings, outputs

    @abstractmethod
    def refuse(self, jobs: Sequence[Job]) -> None:
        """Find out before anything is submitted whether the scheduler would take these jobs.

        Raises:
            ValueError: it would not; its words.
        """

    @abstractmethod
    def queue(self) -> dict[Path, Queued]:
        """The jobs that it still knows, by their folders."""

    @abstractmethod
    def script(self, job: Job, code: Path) -> str:
        """A job as a shell script that runs the code in the folder `code`."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs whose folders are ready; each stands after those that it needs."""

    def command(self, job: Job, code: Path) -> str:
        """What runs a job: python, the frozen code, the job's folder."""
        settings = self.settings
        python = shlex.quote(settings["python"] or sys.executable)
        inside = f"{settings['container']} " if settings["container"] else ""
        return f"{inside}{python} -P -m dcsft.launch.job {shlex.quote(str(job.folder))}"

    def preparation(self, code: Path) -> str:
        """The lines before it: the user's own, the folder of submission, and where the code is."""
        lines = [
            *self.settings["setup"],
            f"cd {shlex.quote(str(Path.cwd()))}  # relative paths of the configuration mean what they meant",
            f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
            "export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1",
        ]
        return "\n".join(lines)

    @abstractmethod
    def cancel(self, jobs: Sequence[Job]) -> None:
        """End jobs, and keep them from being run again."""

    def comments(self, job: Job) -> str:
        """The lines that open a script."""
        stages = ", ".join(job.stages) or "all cells"
        return f"# {job.title}: {stages}. Exit code {EXIT_CODE}: saved, wants another turn."


def used_up(max_requeues: int) -> str:
    """What the log of a job says that has had all its turns."""
    return f"launcher.max_requeues={max_requeues} turns are used up; all is saved, status.py NAME --resume goes on"


def output_of(command: Sequence[str], expected: str, next_step: str = "") -> str:
    """The output of a command.

    Args:
        expected: what must be the case if it does not fail, for the error.

    Raises:
        ValueError: it fails; its words, in one line.
    """
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"launcher=slurm must be used where SLURM is, got no {command[0]} on this machine; use "
            "launcher=submitit_local or launcher=local"
        ) from error
    if finished.returncode:
        words = [line.split("error: ")[-1] for line in finished.stderr.strip().splitlines()]
        raise ValueError(f"{expected}, got: {'; '.join(words)}{next_step}")
    return finished.stdout


_ENDED = re.compile(r"srun: (Force Terminated|error: .*: Exited with exit code \d+$)")


def last_line(path: Path) -> str | None:
    """The last line of a log that says something; None where there is none.

    What srun adds after it, that a step has ended, says nothing.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not _ENDED.match(line)]
    return said[-1] if said else None
