"""One of the processes that compute a stage together: `torchrun -m dcsft.stages.worker JOB`, as torchrun.py starts it.

It lives as long as its standard input is open, so that none is left behind when the process that plans has died.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from dcsft import stopping
from dcsft.artefacts import write_json
from dcsft.config import explain

SAVED = "saved"
"""A file beside the job: the workers have stopped before the end of the stage, as they were asked to."""


def said_by(folder: Path) -> list[dict]:
    """What ranks that failed have said, the cause before its consequences."""
    said = [json.loads(path.read_text()) for path in folder.glob("rank*.json")]
    return sorted(said, key=lambda one: (one["unanswered"], one["explained"] is None, one["time"]))


def log_of(folder: Path, rank: int) -> Path:
    """What a rank has written to its standard error."""
    return folder / f"rank{rank}.log"


def _see_one_gpu(local_rank: int) -> None:
    """Everything else then works as on a machine with one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local_rank] if visible else str(local_rank)


def main(path: Path) -> None:
    """Compute the stage that `path` describes, together with the other ranks."""
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    stopping.end_with_standard_input()
    stopping.follow(path.parent)
    with log_of(path.parent, rank).open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    _see_one_gpu(local_rank)
    try:
        _compute(path, rank, size)
    except KeyboardInterrupt:  # all ranks have been asked; an exit code would have torchrun end those who still write
        path.with_name(SAVED).touch()
    except Exception as error:
        from dcsft.ranks import unanswered

        traceback.print_exc()
        said = {"rank": rank, "time": time.time(), "traceback": traceback.format_exc()}
        said |= {"explained": explain(error), "unanswered": unanswered(error)}
        write_json(path.with_name(f"rank{rank}.json"), said)
        sys.exit(1)


def _compute(path: Path, rank: int, size: int) -> None:
    from dcsft.ranks import Ranks
    from dcsft.stages.bodies import Job, compute
    from dcsft.stages.plan import build_task
    from dcsft.stages.run import console_and_log

    job = Job.load(path)
    trainer = job.cfg.trainer
    console = console_and_log() if rank == 0 else Console(quiet=True)
    with Ranks.joined_by(rank, size, trainer.device, trainer.timeout_min) as ranks:
        compute(job, build_task(job.cfg), console, ranks, lambda step, metrics: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
