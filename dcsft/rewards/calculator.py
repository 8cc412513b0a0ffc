"""Compares mathematical expressions with math-verify, in a process of its own: 9^{9^{9}} has no end to wait for.

The process is run as this file alone. It reads a question a line, answers a line, and its own alarm clock ends it when
a question takes too long; the next question starts a new one. So no thread, signal or memory of ours is at stake.
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
from functools import cache, lru_cache
from threading import Lock

SECONDS = 3.0
"""Of CPU time for one comparison, so that a busy machine judges as an idle one does."""
MEMORY_GB = 4
MAX_CHARS = 400
"""A longer text is no final answer."""
_READY = "ready\n"
_OF_SYMPY = re.compile(r"\s*(from sympy import \*|(Integer|Float) ?\('?[\d.eE+-]+'? ?\))\s*")


class _Calculator:
    """The other process, as this one sees it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = Lock()
        atexit.register(self.stop)

    def ask(self, gold: str, answer: str | None) -> bool | None:
        """Its answer to one question; None where it had none in time."""
        with self.lock:
            if self.process is not None and self.process.poll() is not None:
                self.stop()
            if self.process is None:
                self.process = self._start()
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            try:
                self.process.stdin.write(json.dumps([gold, answer]) + "\n")
                self.process.stdin.flush()
                said = self.process.stdout.readline()
            except BrokenPipeError:
                said = ""
            if not said:
                self.stop()
                return None
            told: bool | None = json.loads(said)
            return told

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", __file__]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        if process.stdout.readline() != _READY:
            process.communicate()
            raise ValueError("math-verify must be installed, got a process that could not import it; pip install dcsft")
        return process

    def stop(self) -> None:
        """End the process; the next question starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@cache
def _calculator(pid: int) -> _Calculator:
    """One a process of ours: a fork must not share the pipes."""
    return _Calculator()


@lru_cache(maxsize=1 << 16)
def can_read(gold: str) -> bool:
    """Whether `gold`, in LaTeX, is an expression that answers can be compared with."""
    return bool(0 < len(gold) <= MAX_CHARS and _calculator(os.getpid()).ask(gold, None))


@lru_cache(maxsize=1 << 16)
def equal(gold: str, answer: str) -> bool:
    """Whether `answer` is the same number, expression, interval or set as `gold`, both in LaTeX.

    False for an answer that is none, or whose comparison takes longer than `SECONDS`.
    """
    return bool(0 < len(answer) <= MAX_CHARS and _calculator(os.getpid()).ask(gold, answer))


def _only_numbers(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: SymPy turns digits into numbers with eval; nothing else of a text is ever compiled.

    Raises:
        RuntimeError: something else was about to be.
    """
    if event == "compile" and arguments[1] == "<string>":
        source = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
        if not _OF_SYMPY.fullmatch(source):
            raise RuntimeError(f"an answer must not be compiled, got {source!r}")


def _serve() -> None:
    """The process: a [gold, answer] a line in, true or false out; answer null asks whether the gold can be read."""
    import resource

    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Basic, MatrixBase

    def read(text: str) -> list[object]:
        found = parse(text if "$" in text else f"${text}$", [LatexExtractionConfig()], "no_fallback", parsing_timeout=0)
        return [expression for expression in found if isinstance(expression, Basic | MatrixBase)]

    verify(read("x^2+2x+1"), read("(x+1)^2"), timeout_seconds=0)  # SymPy compiles code of its own when first used
    sys.addaudithook(_only_numbers)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))
    print(_READY, end="", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # nobody handles this signal: it ends the process
        try:
            known = read(gold)
            said = bool(known) if answer is None else verify(known, read(answer), timeout_seconds=0)
        except (Exception, MemoryError, RecursionError):
            said = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks, who then ends us
    _serve()
