"""SLURM: a job is a batch script of one task a node, which asks for another turn when its time is up."""

import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

from dcsft.launch.jobs import LOG, Job
from dcsft.launch.scheduler import Queued, Scheduler, is_live, output_of, used_up
from dcsft.stopping import EXIT_CODE

_RUNNING = ("RUNNING", "COMPLETING", "STOPPED", "SUSPENDED", "SIGNALING", "STAGE_OUT")
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SPECIAL_EXIT")
_WARNED = 128 + signal.SIGUSR2
_LOOK = ("squeue", "--me", "--all", "--states=all", "--noheader", "--format=%i|%T|%r|%o")
_ELSEWHERE = "; use a machine of the cluster, launcher=submitit_local or launcher=local"
_OPTIONS = ("partition", "account", "qos", "time")


def _number(line: str) -> int:
    """Of a job, from its line of the queue: an array's has `_TASK` after it, a heterogeneous job's `+PART`."""
    return int(re.match(r"\s*(\d+)", line)[1])


class Slurm(Scheduler):
    """Jobs by `sbatch`; the queue by `squeue`, where a job is known by the path of its script."""

    def script(self, job: Job, code: Path) -> str:
        settings = self.settings
        options = [
            f"--job-name={job.name}",
            f"--output={job.folder / LOG}",
            "--open-mode=append",
            f"--nodes={job.num_nodes}",
            "--ntasks-per-node=1",
            "--requeue",
            f"--signal=USR2@{settings['warning_s']}",
            "--kill-on-invalid-dep=yes",
        ]
        options += [f"--{name}={settings[name]}" for name in _OPTIONS if settings[name] is not None]
        options += [f"--mem={settings['memory']}"] if settings["memory"] is not None else []
        options += [f"--cpus-per-task={settings['cpus']}"] if settings["cpus"] is not None else []
        options += [f"--gpus-per-node={job.num_gpus}"] if job.num_gpus else []
        lines = [f"#SBATCH {shlex.quote(option)}" for option in [*options, *settings["extra"]]]
        planner = ["--nodes=1", "--ntasks=1"] if job.num_nodes > 1 else []  # it starts the workers of all nodes
        srun = shlex.join(["srun", "--export=ALL", *planner, *settings["srun"]])
        # srun has not taken this over from sbatch since 22.05
        cores = [f"export SRUN_CPUS_PER_TASK={settings['cpus']}"] if settings["cpus"] is not None else []
        limit = settings["max_requeues"]
        return "\n".join(
            [
                "#!/bin/bash",
                self.comments(job),
                *lines,
                "",
                self.preparation(code),
                *cores,
                "code=0",
                f"{srun} {self.command(job, code)} || code=$?",
                f"if [ $code = {EXIT_CODE} ] || [ $code = {_WARNED} ]; then  # saved, or warned before it could listen",
                f"    if [ ${{SLURM_RESTART_COUNT:-0}} -lt {limit} ]; then",
                "        scontrol requeue $SLURM_JOB_ID",
                "    else",
                f"        echo {shlex.quote(used_up(limit))}",
                "    fi",
                "fi",
                "exit $code",
                "",
            ]
        )

    def refuse(self, jobs: Sequence[Job]) -> None:
        for num_gpus in sorted({job.num_gpus for job in jobs}):
            job = next(job for job in jobs if job.num_gpus == num_gpus)
            script = self.outputs / "jobs" / f".trial-{job.name}.sh"
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(self.script(job, self.outputs))
            try:
                output_of(["sbatch", "--test-only", str(script)], "a job must be accepted by SLURM")
            finally:
                script.unlink()

    def queue(self) -> dict[Path, Queued]:
        text = output_of(_LOOK, "launcher=slurm must be used where SLURM answers", _ELSEWHERE)
        found: dict[Path, Queued] = {}
        for line in sorted(text.splitlines(), key=_number):
            number, state, reason, script = line.strip().split("|", 3)
            kind = "running" if state in _RUNNING else "waiting" if state in _WAITING else "ended"
            found[Path(script).parent] = Queued(number, kind, reason if kind == "waiting" else state)
        return found

    def submit(self, jobs: Sequence[Job]) -> None:
        ids = {folder.name: queued.id for folder, queued in self.queue().items() if queued.live}
        for number, job in enumerate(jobs):
            needed = [ids[name] for name in job.needs if name in ids]
            kind = "afterok" if job.stages else "afterany"
            after = [f"--dependency={kind}:{':'.join(needed)}"] if needed else []
            try:
                command = ["sbatch", "--parsable", *after, str(job.script)]
                said = output_of(command, f"job {job.name} must be accepted by SLURM")
            except ValueError as error:
                raise ValueError(
                    f"{error}; {number} of {len(jobs)} jobs are queued, the same command submits the rest"
                ) from error
            ids[job.name] = said.strip().split(";")[0]

    def cancel(self, jobs: Sequence[Job]) -> None:
        queue = self.queue()
        ids = [queue[job.folder].id for job in jobs if is_live(job.folder, queue)]
        if ids:
            output_of(["scancel", *ids], "the cancelling must be accepted by SLURM")
