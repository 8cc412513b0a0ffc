"""Run a function on several ranks: forked processes that talk over gloo."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable

import torch

from dcsft.ranks import Ranks


def _rank(rank: int, size: int, port: int, work: Callable[[Ranks], object], timeout_min: float) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    try:
        with Ranks.joined_by(rank, size, "cpu", timeout_min) as ranks:
            work(ranks)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # the parent's fixtures and atexit handlers are not this process's to end


def on_ranks(size: int, work: Callable[[Ranks], object], timeout_min: float = 2) -> None:
    """Call `work` on each of `size` ranks; what it finds out it must leave in files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, size, port, work, timeout_min)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * size
