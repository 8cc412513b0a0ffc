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
from dataclasses import dataclass
from types import FrameType

EXIT_CODE = 75  # "try again later" in sysexits.h: all is saved, and the job wants another turn
STOPPED = 143  # as after SIGTERM


@dataclass
class _Warnings:
    """What this process has been told."""

    patience_s: int | None = None  # None: nobody warns this process
    on_term: bool = False
    stop: bool = False
    save: bool = False


_told = _Warnings()


def listen(patience_s: int, on_term: bool) -> None:
    """Heed warnings from now on.

    Args:
        patience_s: after USR2, work that does not look up for so long is interrupted where it is, as by Ctrl-C; what
            it had not saved is done again.
        on_term: whether TERM is a warning too; if not, it keeps its meaning.
    """
    _told.patience_s, _told.on_term = patience_s, on_term
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, _ask_to_stop)
    listen_again()


def listen_again() -> None:
    """Take SIGTERM back from a library: Lightning's handler would end the run with exit code 0, as if it were done."""
    if _told.on_term:
        signal.signal(signal.SIGTERM, _ask_to_save)


def _ask_to_stop(signum: int, frame: FrameType | None) -> None:
    if not _told.stop and _told.patience_s is not None:
        signal.alarm(_told.patience_s)
    _told.stop = True


def _ask_to_save(signum: int, frame: FrameType | None) -> None:
    _told.save = True


def stop_asked() -> bool:
    """Whether to end as soon as all is saved."""
    return _told.stop


def save_asked() -> bool:
    """Whether to save now; true once a request."""
    asked, _told.save = _told.save, False
    return asked


def pause_point() -> None:
    """Where nothing would be lost: the end of a shard, the start of a stage.

    Raises:
        KeyboardInterrupt: the process has been asked to stop.
    """
    if _told.stop:
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
