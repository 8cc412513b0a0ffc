"""Long work on the screen, and in a file for those who watch from elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dcsft.artefacts import write_json

FILE = "progress.json"
_EVERY_S = 1.0  # between two writes of the file


class Bar:
    """One long piece of work on the screen."""

    def __init__(self, progress: Progress, task: TaskID, file: Path | None) -> None:
        self.progress, self.task, self.file = progress, task, file
        self._start, self._written, self._first = time.time(), 0.0, progress.tasks[task].completed

    def advance(self, done: int, note: str = "") -> None:
        """`done` units are finished in all; `note` is the current figure."""
        self.progress.update(self.task, completed=done, note=note)
        now = time.time()
        if self.file is None or now - self._written < _EVERY_S:
            return
        self._written = now
        shown = self.progress.tasks[self.task]
        rate = (done - self._first) / max(now - self._start, 1e-9)
        seconds_left = (shown.total - done) / rate if rate else None
        state = {"title": shown.description, "done": done, "total": shown.total, "note": note}
        write_json(self.file, {**state, "seconds_left": seconds_left, "at": now})


@contextmanager
def bar(console: Console, title: str, total: int, done: int = 0, file: Path | None = None) -> Iterator[Bar]:
    """A progress bar with the time that remains; it disappears when done.

    Args:
        file: is told the same, at most once a second.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    shown = dict(console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal)
    with Progress(*columns, **shown) as progress:
        try:
            yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""), file)
        finally:
            if file is not None:
                file.unlink(missing_ok=True)
