"""A real SLURM of one node on the loopback interface, for as long as the tests run: no systemd, no accounting."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
_SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
_CPUS = 4  # advertised, whatever the machine has
_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
KillWait=15
ReturnToService=2
InactiveLimit=0
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=urgent Nodes={host} DefaultTime=10 PriorityTier=10
PartitionName=cheap Nodes={host} Default=YES DefaultTime=10 PriorityTier=1 GraceTime=30
"""


def missing() -> list[str]:
    """The programs of SLURM that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_SEARCHED) is None]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Controller, node and authentication daemon; everything under `root`, a short path (a socket's name is in it)."""

    def __init__(self, root: Path) -> None:
        self.root, self.conf = root, root / "slurm.conf"
        self.processes: list[subprocess.Popen] = []
        self._held: dict[str, float] = {}
        for name in ("state", "spool"):
            (root / name).mkdir(parents=True)
        root.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        filled = {"host": host, "ports": _free_ports(2), "root": root, "user": getpass.getuser(), "cpus": _CPUS}
        self.conf.write_text(_CONF.format(**filled))
        key = root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.env = os.environ | {"SLURM_CONF": str(self.conf), "PATH": _SEARCHED}
        files = {name: f"--{name}-file={root}/munge.{name}" for name in ("key", "pid", "seed", "log")}
        self._start("munged", "--foreground", "--force", f"--socket={root}/munge.socket", *files.values())
        self._until(lambda: (root / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D", "-i", "-f", str(self.conf))
        self._start("slurmd", "-D", "-f", str(self.conf), "-N", host)
        self._until(lambda: self("sinfo", "-h", "-p", "cheap", "-o", "%T").strip() == "idle", "an idle node")

    def _start(self, *command: str) -> None:
        with (self.root / f"{command[0]}.out").open("w") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.env))

    def _until(self, holds, what: str) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, f"no {what} within a minute: see {self.root}"
            time.sleep(0.1)

    def __call__(self, *command: str) -> str:
        """The output of a command of SLURM's."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout

    def kick(self) -> None:
        """Start requeued jobs soon: SLURM itself holds them for two minutes.

        Not at once: within the second of the requeue the node still takes the job's credential for a revoked one, and
        the job fails.
        """
        for line in self("squeue", "-h", "-t", "PD", "-o", "%i %r").splitlines():
            job, reason = line.split(maxsplit=1)
            if reason == "BeginTime" and time.monotonic() > self._held.setdefault(job, time.monotonic()) + 3:
                del self._held[job]
                self("scontrol", "update", f"JobId={job}", "StartTime=now")

    def ids(self, pattern: str, state: str = "all") -> list[str]:
        """The jobs whose names contain a pattern."""
        lines = self("squeue", "-h", f"--states={state}", "-o", "%i %j").splitlines()
        return [job for job, name in map(str.split, lines) if pattern in name]

    def stop(self) -> None:
        """End the jobs, then the daemons that were started here."""
        self("scancel", "--user", getpass.getuser())
        self._until(lambda: not self("squeue", "-h"), "end of all jobs")
        for process in reversed(self.processes):
            process.terminate()
            process.wait(timeout=30)
