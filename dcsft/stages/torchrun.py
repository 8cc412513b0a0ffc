"""Start the workers of a stage with torchrun, follow them, and say in a line how they failed.

The process that plans holds the stage's lock; it waits here, outside of the group that its workers form.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from dcsft import stopping
from dcsft.config import CONF
from dcsft.stages.bodies import Job, OnStep
from dcsft.stages.fitting import METRICS
from dcsft.stages.worker import SAVED, log_of, said_by

WORKERS = ".workers"
"""Ends the name of the folder of what workers say, beside the stage's; it stays where they failed."""
_LOOK_S = 0.5
_GRACE_S = 35.0  # torchrun gives its workers 30 s


def compute_with_workers(job: Job, on_step: OnStep) -> None:
    """Compute `job` with one process a device; what is on disk of earlier attempts is used as by one process alone.

    Args:
        on_step: is told of each training step, those of earlier attempts included.

    Raises:
        ValueError: what a worker was told a user can act on, or a worker that has died.
        RuntimeError: a fault of ours in a worker, with its traceback.
    """
    trainer = job.cfg.trainer
    num_devices = trainer.num_devices if trainer.device == "cpu" else _num_gpus(trainer.num_devices)
    folder = job.folder.with_suffix(WORKERS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job.save(folder / "job.json")
    command = [*_agent(num_devices, trainer.num_nodes), "-m", "dcsft.stages.worker", str(folder / "job.json")]
    with (folder / "torchrun.log").open("w") as errors:
        with stopping.kept_from_children():
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closed by our death: see worker.py
                stderr=errors,
                env=_environment(num_devices, trainer.threads),
                start_new_session=True,  # Ctrl-C comes to us, and from us to them
            )
        told = 0
        try:
            while process.poll() is None:
                stopping.pass_on(folder)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
                told = _tell(job.folder / METRICS, told, on_step)
        finally:
            _end(process)
    if process.returncode:
        raise _failure(folder, process.returncode)
    stopped = (folder / SAVED).exists()
    shutil.rmtree(folder)
    if stopped:
        raise KeyboardInterrupt


def _num_gpus(wanted: int | None) -> int:
    there = torch.cuda.device_count()  # no context: the GPUs stay free for the workers
    if not there:
        raise ValueError(
            "trainer=multi_gpu must have GPUs, got none on this machine; use trainer=cpu, or to try it "
            "trainer.device=cpu trainer.num_devices=2"
        )
    if wanted is not None and wanted > there:
        raise ValueError(f"trainer.num_devices must be at most {there}, the GPUs that are visible, got {wanted}")
    return wanted or there


def _agent(num_devices: int, num_nodes: int) -> Sequence[str]:
    """The command that starts the workers of every node."""
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={num_devices}",
        f"--nnodes={num_nodes}",
    )
    if num_nodes == 1:
        return (*torchrun, "--standalone", "--local-addr=127.0.0.1")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    name = f"dcsft-{os.getpid()}"
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint={socket.gethostname()}:{port}", f"--rdzv-id={name}")
    return ("srun", "--overlap", f"--nodes={num_nodes}", "--ntasks-per-node=1", *torchrun, *meeting)


def _environment(num_devices: int, threads: int | None) -> Mapping[str, str]:
    paths = [str(CONF.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    threads = threads or max(1, len(os.sched_getaffinity(0)) // num_devices)
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)}
    if stopping.term_warns():
        ours["PET_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP,SIGQUIT"  # torchrun's own option: all but SIGTERM
    return {**os.environ, **ours}


def _tell(path: Path, told: int, on_step: OnStep) -> int:
    """Pass on the steps after `told`; returns the last one."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    for line in lines:
        metrics = json.loads(line)
        step = metrics.pop("step")
        if step > told:
            on_step(step, metrics)
            told = step
    return told


def _end(process: subprocess.Popen) -> None:
    """No worker outlives this, nor torchrun."""
    process.stdin.close()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failure(folder: Path, code: int) -> Exception:
    """What is to be said of workers that failed: the cause, not what followed from it."""
    report = (folder / "torchrun.log").read_text()
    said = said_by(folder)
    if said and said[0]["explained"] is not None:
        return ValueError(said[0]["explained"])
    if said and not said[0]["unanswered"]:
        return RuntimeError(f"rank {said[0]['rank']} failed:\n{said[0]['traceback']}")
    goes_on = "the same command goes on from what is saved"
    killed = re.findall(r"rank +: (\d+) .*?\n\s+exitcode +: -(\d+)", report)
    if killed:
        rank, number = map(int, killed[-1])  # torchrun's last is its root cause
        log = log_of(folder, rank)
        last = log.read_text().strip().splitlines()[-1:] if log.exists() else []
        got = f"{signal.Signals(number).name} on rank {rank}{f' after {last[0].strip()!r}' if last else ''}"
        return ValueError(f"all ranks must live until the stage is done, got {got}; {goes_on}")
    if said:
        reason = said[0]["traceback"].strip().splitlines()[-1]
        return ValueError(f"all ranks must answer, got silence on rank {said[0]['rank']} ({reason}); {goes_on}")
    return RuntimeError(f"torchrun ended with exit code {code}:\n{report}")
