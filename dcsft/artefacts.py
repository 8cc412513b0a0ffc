"""The store: same inputs, same folder, computed once, by whoever comes first.

A stage's result lives in `<root>/<stage>/<key>/`, where the key is a hash of everything that determines it. It is
built in `<key>.partial/`, which an interrupted run leaves behind and the next one continues from, and is renamed to
its place when whole. `DONE`, written last, lists every file with its size and SHA-256, so that damage is noticed.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from pandas import DataFrame

DONE = "DONE"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What a file system answers that has no locks."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that has a JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_table(path: Path, table: "DataFrame") -> None:
    """Write `table` as Parquet, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)


def file_lock(path: Path) -> FileLock:
    """A lock that dies with its process.

    Where there are none the library would fall back on a marker file, which stays behind a killed process for ever.
    """
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, by the lock file `path`; where the file system has no locks, as if there were no other."""
    lock = file_lock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Artefact:
    """What one stage computes from one recipe.

    Args:
        stage: its name.
        version: raised by whoever changes what the same recipe means.
        recipe: the plain values that determine the result.
        parents: what it is computed from.
    """

    stage: str
    version: int
    recipe: Mapping[str, Any]
    parents: Mapping[str, "Artefact"]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Everything that is hashed."""
        return {
            "stage": self.stage,
            "version": self.version,
            "recipe": self.recipe,
            "parents": {name: parent.key for name, parent in self.parents.items()},
        }

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits."""
        text = json.dumps(self.inputs, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.stage}/{self.key}"


class Store:
    """Artefacts under one root folder, shared by every run that is given the same root."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        """`say` is told, in a line, of waiting and of damage."""
        self.root = root
        self._say = say
        self._verified: set[Path] = set()

    def folder(self, artefact: Artefact) -> Path:
        """Where the artefact is, or will be."""
        return self.root / artefact.stage / artefact.key

    def find(self, artefact: Artefact) -> Path | None:
        """The artefact's folder if it is whole; a damaged one is set aside and said."""
        folder = self.folder(artefact)
        if folder in self._verified:
            return folder
        if not folder.exists():
            return None
        fault = self._fault(folder)
        if fault is None:
            self._verified.add(folder)
            return folder
        aside = folder.with_name(f"{folder.name}.damaged-{os.getpid()}")
        folder.rename(aside)
        self._say(f"{artefact}: {fault}; set aside as {aside.name} and computed again")
        return None

    @staticmethod
    def _fault(folder: Path) -> str | None:
        """What is wrong with a finished folder, or None."""
        try:
            listed = json.loads((folder / DONE).read_text())
        except (OSError, ValueError):
            return f"{DONE} is missing or unreadable"
        for name, (size, digest) in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or _digest(path) != digest:
                return f"{name} is damaged"
        return None

    def get(self, artefact: Artefact, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The artefact's folder and whether it was there already; if not, `build(partial)` fills it first.

        Processes that need the same artefact wait for the one that builds it. Its lock dies with it, so a killed
        builder is never waited for: the next process goes on from its partial folder.
        """
        folder = self.folder(artefact)
        found = self.find(artefact)
        if found is not None:
            return found, True
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock(artefact)
        try:
            found = self.find(artefact)  # somebody may have built it while we waited
            if found is not None:
                return found, True
            # Without locks, each who computes it needs a folder of its own; a job has one number in all its turns.
            own = os.environ.get("SLURM_JOB_ID", f"{socket.gethostname()}-{os.getpid()}-{id(self)}")
            partial = folder.with_name(folder.name + ".partial" + ("" if lock.is_locked else f"-{own}"))
            partial.mkdir(exist_ok=True)
            write_json(partial / "recipe.json", artefact.inputs)
            build(partial)
            self._publish(partial, folder)
        finally:
            lock.release()
        self._verified.add(folder)
        return folder, False

    def _publish(self, partial: Path, folder: Path) -> None:
        files = sorted(path for path in partial.rglob("*") if path.is_file() and path.name != DONE)
        listed = {str(path.relative_to(partial)): (path.stat().st_size, _digest(path)) for path in files}
        write_json(partial / DONE, listed)
        try:
            partial.rename(folder)
        except OSError:
            # Locks do not hold on every network file system: if another process was first, its result is as good.
            if self._fault(folder) is not None:
                raise
            self._say(f"{folder.parent.name}/{folder.name}: another process was first; its result is used")
            shutil.rmtree(partial)

    def _lock(self, artefact: Artefact) -> FileLock:
        """The artefact's lock, acquired if the file system has any; says for whom it waits."""
        path = self.folder(artefact).with_suffix(".lock")
        lock = file_lock(path)
        owner = path.with_suffix(".owner")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = owner.read_text() if owner.exists() else "another process"
            self._say(f"{artefact}: waiting for {who}, which is computing it")
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._say(f"{artefact}: the file system has no locks; of two that compute this at once, the first is used")
            return lock
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        return lock
