"""A scheduler's warnings: signals that ask, and long work that looks up at the end of a batch or a shard.

An interactive run does without: Ctrl-C and SIGTERM stop it at once, and the same command goes on from what is on disk.
A job of a cluster is warned before it loses its node:

* USR2 (time is nearly up, or a more urgent job wants the node): save, and end with `EXIT_CODE`, for another turn.
* TERM: save and go on working. Who is preempted this way is killed later and run again by the scheduler, but only if it
  has not ended by itself; who is cancelled is killed later and stays cancelled.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

EXIT_CODE = 75  # "try again later" in sysexits.h: all is saved, and the job wants another turn
STOPPED = 143  # as after SIGTERM
_STOP, _SAVE = "stop", "save"  # files that pass a warning on


@dataclass
class _Warnings:
    """What this process has been told."""

    patience_s: int | None = None  # None: nobody warns this process
    on_term: Callable | signal.Handlers | None = None  # what SIGTERM means here, if not what it means to a library
    stop: bool = False
    save: bool = False
    folder: Path | None = None  # where another process leaves what it has been told


_told = _Warnings()


def listen(patience_s: int, on_term: bool) -> None:
    """Heed warnings from now on.

    Args:
        patience_s: after USR2, work that does not look up for so long is interrupted where it is, as by Ctrl-C; what
            it had not saved is done again.
        on_term: whether TERM is a warning too; if not, it keeps its meaning.
    """
    _told.patience_s, _told.on_term = patience_s, _ask_to_save if on_term else None
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, _ask_to_stop)
    listen_again()


def listen_again() -> None:
    """Take SIGTERM back from a library: Lightning's handler would end the run with exit code 0, as if it were done."""
    if _told.on_term is not None:
        signal.signal(signal.SIGTERM, _told.on_term)


def follow(folder: Path) -> None:
    """Heed what another process passes on into `folder`; of signals, only a SIGTERM that it has not kept from us."""
    _told.folder = folder
    kept = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # inherited from a process that listens itself
    _told.on_term = signal.SIG_IGN if kept else lambda *_: os._exit(STOPPED)
    listen_again()


def pass_on(folder: Path) -> None:
    """Tell those who follow `folder` what this process has been told."""
    if stop_asked():
        (folder / _STOP).touch()
    if save_asked():
        (folder / _SAVE).touch()


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are started inside ignore what this process takes for a warning."""
    signals = [signal.SIGUSR2, *([signal.SIGTERM] if term_warns() else [])]
    own = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)


def term_warns() -> bool:
    """Whether SIGTERM asks this process to save and to go on."""
    return _told.on_term is _ask_to_save


def _ask_to_stop(signum: int, frame: FrameType | None) -> None:
    if not _told.stop and _told.patience_s is not None:
        signal.alarm(_told.patience_s)
    _told.stop = True


def _ask_to_save(signum: int, frame: FrameType | None) -> None:
    _told.save = True


def stop_asked() -> bool:
    """Whether to end as soon as all is saved."""
    return _told.stop or (_told.folder is not None and (_told.folder / _STOP).exists())


def save_asked() -> bool:
    """Whether to save now; true once a request, and for one of those who follow the same folder."""
    asked, _told.save = _told.save, False
    if _told.folder is not None:
        with suppress(FileNotFoundError):
            (_told.folder / _SAVE).unlink()
            return True
    return asked


def pause_point(agreed: Callable[[bool], bool] = bool) -> None:
    """Where nothing would be lost: the end of a shard, the start of a stage.

    Args:
        agreed: makes one answer of those of all ranks, so that none waits for one that has stopped.

    Raises:
        KeyboardInterrupt: the process has been asked to stop.
    """
    if agreed(stop_asked()):
        raise KeyboardInterrupt


def end_with_standard_input() -> None:
    """End this process, whatever it waits for, when nobody holds the other end of its standard input any more.

    So it does not outlive the process that has started it. Files are written whole or not at all.
    """
    threading.Thread(target=_end_with_standard_input, daemon=True).start()


def _end_with_standard_input() -> None:
    while os.read(0, 1):
        pass
    try:
        print("ended, as the process that had started it; what it has saved is not lost", file=sys.stderr, flush=True)
    finally:  # also where nobody can be told any more
        os._exit(STOPPED)
