"""Long work on the screen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bar:
    """One long piece of work on the screen."""

    progress: Progress
    task: TaskID

    def advance(self, done: int, note: str = "") -> None:
        """`done` units are finished in all; `note` is the current figure."""
        self.progress.update(self.task, completed=done, note=note)


@contextmanager
def bar(console: Console, title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar with the time that remains; it disappears when done."""
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
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))
