"""How cells become jobs, what their scripts say, and what is said of them; nothing is run."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console

from dcsft.config import CONF, check, register
from dcsft.launch.jobs import Job, jobs_of
from dcsft.launch.local import Supervisor
from dcsft.launch.scheduler import Queued, last_line
from dcsft.launch.slurm import Slurm
from dcsft.launch.status import Sweep, duration, state_of
from dcsft.launch.submit import snapshot, submit
from dcsft.schema import Launcher
from dcsft.stages.gather import sweep_cells
from dcsft.stages.plan import build_task, plain, plan

SWEEPS = CONF.parent / "sweeps"
SMALL = ["task.num_train=24", "task.num_cold_start=8", "task.num_test=8"]


def cells(sweep: str, *overrides: str) -> list:
    register()
    return [cfg for cfg, _ in sweep_cells(SWEEPS / f"{sweep}.yaml", [*SMALL, *overrides])]


def jobs(outputs: Path, sweep: str, *overrides: str) -> list[Job]:
    return [job for job, _ in jobs_of(cells(sweep, *overrides), outputs)[0]]


def test_what_all_cells_of_a_seed_need_is_one_job_before_them(tmp_path):
    planned = jobs(tmp_path, "table2")
    shared = [job for job in planned if job.stages == ("cold_start", "label")]
    own = planned[len(shared) :]
    assert planned[: len(shared)] == shared, "a job stands after those it needs"
    assert [job.title for job in shared] == [f"cold start, label of 6 cells, seed {seed}" for seed in (0, 1, 2)]
    assert len(own) == 18
    for seed, job in enumerate(shared):
        assert sum(other.needs == (job.name,) for other in own) == 6
        assert not job.needs
        assert job.title.endswith(str(seed))
    baseline = next(job for job in own if job.title == "Cold start, seed 0")
    assert baseline.stages == ("evaluate",)
    assert next(job for job in own if job.title == "GRPO, seed 0").stages == ("train", "evaluate")


def test_three_training_seeds_share_one_labelling(tmp_path):
    planned = jobs(tmp_path, "table2", "seed=0", "arm=sft", "seeds.train=0,1,2")
    assert [job.stages for job in planned] == [("cold_start", "label"), *[("train", "evaluate")] * 3]
    assert [job.title for job in planned[1:]] == [f"SFT, seeds.train={seed}, seed 0" for seed in (0, 1, 2)]


def test_a_single_cell_is_a_single_job(tmp_path):
    (job,) = jobs(tmp_path, "table2", "seed=0", "arm=sft")
    assert job.stages == ("cold_start", "label", "train", "evaluate")
    assert job.outcomes[-1] == job.run / "results.json"


def test_two_sweeps_name_a_shared_job_alike(tmp_path):
    first, second = (jobs(tmp_path, sweep, "seed=0")[0] for sweep in ("table1", "table2"))
    assert first.name == second.name
    assert first.folder == second.folder


def test_cells_that_are_one_experiment_are_refused(tmp_path):
    said = "a sweep's cells must differ, got 'SFT, seed 0' and 'SFT, seed 0', which are one experiment"
    with pytest.raises(ValueError, match=re.escape(said)):
        jobs(tmp_path, "table2", "seed=0", "arm=sft", "model.attention=auto,sdpa")


def test_a_frozen_configuration_asks_for_the_same_artefacts(tmp_path, monkeypatch):
    (cfg,) = cells("table2", "launcher=submitit_local", f"outputs={tmp_path}", "seed=0", "arm=grpo", "train.lr=1e-5")
    monkeypatch.setattr("dcsft.launch.local.Local.submit", lambda self, jobs: None)
    submit([cfg], [], "", Console(quiet=True))
    (path,) = (tmp_path / "jobs").glob("*/config.yaml")
    frozen = OmegaConf.load(path)
    check(frozen)
    keys = [{stage: one.key for stage, one in plan(some, build_task(some)).items()} for some in (cfg, frozen)]
    assert keys[0] == keys[1]
    assert "${" not in path.read_text()


def test_an_edit_after_submission_makes_another_snapshot(tmp_path, monkeypatch):
    code = tmp_path / "code"
    for name in ("dcsft", "conf"):
        (code / name).mkdir(parents=True)
        (code / name / "one.py").write_text("number = 1")
    monkeypatch.setattr("dcsft.launch.submit._ROOT", code)
    before = snapshot(tmp_path / "outputs")
    assert snapshot(tmp_path / "outputs") == before
    (code / "dcsft" / "one.py").write_text("number = 2")
    assert snapshot(tmp_path / "outputs") != before
    assert (before / "dcsft" / "one.py").read_text() == "number = 1"


KNOBS = (
    *("launcher.partition=h100", "launcher.account=lab", "launcher.qos=low", "launcher.time=08:00:00"),
    *("launcher.memory=64G", "launcher.cpus=8", "launcher.gpus=2", "launcher.extra=['--constraint=a b']"),
    *("launcher.setup=[module load cuda]", "launcher.container='apptainer exec --nv image.sif'"),
    *("launcher.srun=['--mpi=none']", "launcher.python=python3", "launcher.warning_s=90", "launcher.max_requeues=3"),
)


def test_a_script_has_every_knob(tmp_path):
    ((job, cfg),) = jobs_of(cells("table2", "seed=0", "arm=sft", "launcher=slurm", *KNOBS), tmp_path)[0]
    script = Slurm(plain(cfg.launcher), tmp_path).script(job, Path("/code"))
    options = re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)
    assert options == [
        f"--job-name={job.name}",
        f"--output={job.folder}/log.txt",
        *("--open-mode=append", "--nodes=1", "--ntasks-per-node=1", "--requeue", "--signal=USR2@90"),
        *("--kill-on-invalid-dep=yes", "--partition=h100", "--account=lab", "--qos=low", "--time=08:00:00"),
        *("--mem=64G", "--cpus-per-task=8", "--gpus-per-node=2", "'--constraint=a b'"),
    ]
    lines = script.splitlines()
    assert "module load cuda" in lines
    run = f"srun --export=ALL --mpi=none apptainer exec --nv image.sif python3 -P -m dcsft.launch.job {job.folder}"
    assert lines.index("module load cuda") < lines.index(f"{run} || code=$?")
    assert "export SRUN_CPUS_PER_TASK=8" in lines
    assert "export PYTHONPATH=/code" in script


@pytest.mark.parametrize(
    ("exit_code", "restarts", "said"),
    [
        (0, 0, ""),
        (1, 0, ""),
        (75, 2, "scontrol requeue 7"),
        (140, 0, "scontrol requeue 7"),  # 128 + USR2: warned before it could listen
        (75, 3, "launcher.max_requeues=3 turns are used up; all is saved, status.py NAME --resume goes on"),
    ],
)
def test_a_script_asks_for_another_turn_where_there_is_one_whatever_the_shell_was_set_to(
    tmp_path, exit_code, restarts, said
):
    more = ("launcher.setup=[set -eu]", "launcher.max_requeues=3")
    ((job, cfg),) = jobs_of(cells("table2", "seed=0", "arm=sft", "launcher=slurm", *more), tmp_path)[0]
    for name, line in (("srun", f"exit {exit_code}"), ("scontrol", 'echo scontrol "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = Slurm(plain(cfg.launcher), tmp_path).script(job, Path("/code"))
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    finished = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout.strip()) == (exit_code, said), finished.stderr


def test_one_process_plans_for_all_nodes(tmp_path):
    several = ("trainer=multi_gpu", "trainer.num_nodes=2")
    ((job, cfg),) = jobs_of(cells("table2", "seed=0", "arm=sft", "launcher=slurm", *several), tmp_path)[0]
    job.folder.mkdir(parents=True)
    job.save()
    script = Slurm(plain(cfg.launcher), tmp_path).script(Job.load(job.folder), Path("/code"))
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n" in script
    assert "\nsrun --export=ALL --nodes=1 --ntasks=1 " in script


def test_a_clusters_values_are_written_once_in_a_yaml_of_its_own(tmp_path):
    """As docs/slurm.md says."""
    yaml = re.search(r"```yaml\n(.*?)```", (CONF.parent / "docs" / "slurm.md").read_text(), re.DOTALL)
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "launcher" / "ours.yaml").write_text(yaml[1])
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        cfg = compose("config", ["launcher=ours"])
    assert (cfg.launcher.name, cfg.launcher.partition, cfg.launcher.max_requeues) == ("slurm", "gpu", 200)


def test_a_gpu_is_asked_for_where_the_trainer_uses_one(tmp_path):
    slurm = ("seed=0", "arm=sft", "launcher=slurm")
    assert jobs(tmp_path, "table2", *slurm)[0].num_gpus == 0
    assert jobs(tmp_path, "table2", *slurm, "trainer=gpu")[0].num_gpus == 1


def test_a_dry_run_shows_scripts_and_what_is_reused_and_leaves_nothing(tmp_path, capsys):
    some = cells("table2", "seed=0", "arm=baseline,sft", "launcher=slurm", "launcher.dry_run=true")
    for cfg in some:
        cfg.outputs = str(tmp_path)
    shared = jobs_of(some, tmp_path)[0][0][0]
    shared.outcomes[0].parent.mkdir(parents=True)
    shared.outcomes[0].write_text("{}")
    submit(some, ["", ""], "", Console(width=200))
    said = capsys.readouterr().out
    assert said.count("#!/bin/bash") == 4  # the shared stages, two cells, the report
    assert "cold start, label of 2 cells, seed 0: computes label; reuses cold_start" in said
    assert "SFT, seed 0: computes train, evaluate; after cold start, label of 2 cells, seed 0" in said
    assert not (tmp_path / "jobs").exists()


def test_no_slurm_on_this_machine_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (cfg,) = cells("table2", "seed=0", "arm=sft", "launcher=slurm")
    cfg.outputs = str(tmp_path)
    with pytest.raises(ValueError, match=r"^launcher=slurm must be used where SLURM is, got no squeue on this machine"):
        submit([cfg], [], "", Console(quiet=True))
    assert not list((tmp_path / "jobs").glob("*/job.sh"))


def test_a_slurm_that_does_not_answer_is_said_in_one_line_with_a_next_step(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'squeue: error: resolve: error: Unknown host' >&2\nexit 1")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (cfg,) = cells("table2", "seed=0", "arm=sft", "launcher=slurm", f"outputs={tmp_path}")
    said = (
        "launcher=slurm must be used where SLURM answers, got: Unknown host; use a machine of the cluster, "
        "launcher=submitit_local or launcher=local"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        submit([cfg], [], "", Console(quiet=True))


def test_looking_at_the_data_is_no_job(tmp_path):
    (cfg,) = cells("table2", "seed=0", "arm=sft", "launcher=slurm", "stage=check", f"outputs={tmp_path}")
    with pytest.raises(ValueError, match=r"^stage must not be check in jobs, got launcher=slurm; add"):
        submit([cfg], [], "", Console(quiet=True))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launcher=slurm", "launcher.warning_s=0"], "launcher.warning_s must be at least 2, got 0"),
        (
            ["launcher=submitit_local", "launcher.num_parallel=0"],
            "launcher.num_parallel must be at least 1, got 0; leave it out for the value of "
            "conf/launcher/submitit_local.yaml",
        ),
        (["launcher=slurm", "launcher.gpus=-1"], "launcher.gpus must be at least 0, got -1"),
        (
            ["launcher=slurm", "launcher.time=86400"],
            "launcher.time must be '[D-]HH:MM:SS', or minutes below 3600, got 86400; put it in quotes, as yaml reads "
            "24:00:00 as 86400",
        ),
        (
            ["launcher.partition=gpu", "launcher.memory=64G"],
            "launcher.memory must be left out with launcher=local, got 64G; use launcher=slurm\n"
            "launcher.partition must be left out with launcher=local, got gpu; use launcher=slurm",
        ),
        (
            ["launcher=submitit_local", "launcher.srun=['--mpi=none']"],
            "launcher.srun must be left out with launcher=submitit_local, got ['--mpi=none']; use launcher=slurm",
        ),
        (["launcher.gpus=2"], "launcher.gpus must be left out with launcher=local, got 2; use launcher=submitit_local"),
        (["launcher.name=pbs"], "launcher.name must be one of local, submitit_local, slurm, got 'pbs'"),
        (["stage=check", "launcher.dry_run=true"], "launcher.dry_run must be false with stage=check, got true"),
    ],
)
def test_a_wrong_or_idle_value_is_refused(overrides, said):
    (cfg,) = cells("table2", "seed=0", "arm=sft", *overrides)
    with pytest.raises(ValueError, match=re.escape(said)):
        check(cfg)


@pytest.mark.parametrize("name", ["local", "submitit_local", "slurm"])
def test_a_launcher_heeds_every_knob_of_its_yaml(name):
    knobs = set(OmegaConf.load(CONF / "launcher" / f"{name}.yaml").launcher) - {"name"}
    (cfg,) = cells("table2", "seed=0", "arm=sft", f"launcher={name}")
    others = {knob.name for knob in fields(Launcher)} - {"name"} - knobs
    for knob in others:
        OmegaConf.update(cfg, f"launcher.{knob}", ["1"] if knob in ("extra", "srun", "setup") else 1)
    with pytest.raises(ValueError, match="left out") as refused:
        check(cfg)
    assert {line.split()[0] for line in str(refused.value).splitlines()} == {f"launcher.{knob}" for knob in others}


def test_more_gpus_than_the_machine_is_said_to_have_are_refused(tmp_path):
    (cfg,) = cells("table2", "seed=0", "arm=sft", "launcher=submitit_local", "trainer=gpu", f"outputs={tmp_path}")
    with pytest.raises(ValueError, match=r"launcher.gpus must be at least 1, the GPUs of one job, got 0"):
        submit([cfg], [], "", Console(quiet=True))


def test_gpus_are_given_away_of_those_that_are_visible_here(tmp_path, monkeypatch):
    listed = tmp_path / "jobs" / ".local" / "list.json"
    listed.parent.mkdir(parents=True)
    listed.write_text(json.dumps({"num_parallel": 4, "gpus": 2, "max_requeues": 0, "states": {}}))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Supervisor(listed).gpus == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,GPU-7")
    assert Supervisor(listed).gpus == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    more = ("launcher=submitit_local", "launcher.gpus=2", f"outputs={tmp_path}")
    (cfg,) = cells("table2", "seed=0", "arm=sft", *more)
    with pytest.raises(ValueError, match="at most the GPUs of CUDA_VISIBLE_DEVICES=2, got 2; name more of them there"):
        submit([cfg], [], "", Console(quiet=True))


class _Written:
    """A queue that a test fills, and what was asked of it."""

    def __init__(self, monkeypatch):
        self.now: dict[Path, Queued] = {}
        self.submitted, self.cancelled = [], []
        monkeypatch.setattr(Slurm, "queue", lambda _: self.now)
        monkeypatch.setattr(Slurm, "refuse", lambda _, jobs: None)
        monkeypatch.setattr(Slurm, "submit", lambda _, jobs: self._submit(jobs))
        monkeypatch.setattr(Slurm, "cancel", lambda _, jobs: self.cancelled.extend(job.name for job in jobs))

    def _submit(self, jobs):
        self.submitted.append([job.name for job in jobs])
        self.now |= {job.folder: Queued("1", "waiting", "Dependency") for job in jobs}


def ask(outputs: Path, sweep: str, *overrides: str) -> None:
    some = cells(sweep, "seed=0", "launcher=slurm", f"outputs={outputs}", *overrides)
    submit(some, [""] * len(some), "", Console(quiet=True))


def test_a_report_waits_for_the_cells_that_are_submitted_after_it(tmp_path, monkeypatch):
    queue = _Written(monkeypatch)
    ask(tmp_path, "table2", "arm=sft,sft_m")
    _, sft, sft_m, report = queue.submitted.pop()
    assert report == "report-table2"
    queue.now[tmp_path / "jobs" / sft] = Queued("1", "ended", "FAILED")
    assert Sweep.load(tmp_path, "table2").resume() == 2
    assert (queue.cancelled, queue.submitted.pop()) == ([report], [sft, report])
    queue.now[tmp_path / "jobs" / sft_m] = Queued("1", "ended", "FAILED")
    ask(tmp_path, "table2", "arm=sft,sft_m")
    assert (queue.cancelled, queue.submitted.pop()) == ([report, report], [sft_m, report])
    ask(tmp_path, "table2", "arm=sft,sft_m")
    assert queue.submitted == [], "nothing is missing"


def test_a_sweep_is_shown_whose_shared_job_another_sweep_has_submitted(tmp_path, monkeypatch):
    _Written(monkeypatch)
    ask(tmp_path, "table1")
    ask(tmp_path, "tableS2")
    assert {state for state, _ in Sweep.load(tmp_path, "tableS2").states().values()} == {"waiting"}


def test_other_cells_need_another_name_while_the_first_are_alive(tmp_path, monkeypatch):
    queue = _Written(monkeypatch)
    ask(tmp_path, "table2", "arm=sft,sft_m")
    before = (tmp_path / "sweeps" / "table2.json").read_text()
    said = "sweep must be a new name while other cells are queued or running under it, got 'table2' with 2 of them; add"
    with pytest.raises(ValueError, match=said):
        ask(tmp_path, "table2", "arm=sft,sft_m", "train.lr=0.1")
    assert (tmp_path / "sweeps" / "table2.json").read_text() == before
    ask(tmp_path, "table2", "arm=sft,sft_m", "train.lr=0.1", "sweep=faster")
    assert queue.submitted[-1][-1] == "report-faster"
    ask(tmp_path, "table2", "arm=sft,sft_m,sft_em")
    assert queue.submitted[-1][-1] == "report-table2", "more cells of the same are welcome"


def test_where_the_queue_cannot_be_asked_only_what_is_done_is_known(tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        _Written(context)
        ask(tmp_path, "table2", "arm=sft")
    monkeypatch.setenv("PATH", str(tmp_path))
    sweep = Sweep.load(tmp_path, "table2")
    (job,) = sweep.jobs
    job.log.write_text("train on 24 rows\n")
    assert sweep.states()[job.name] == ("unknown", "train on 24 rows")
    assert "the queue is not known: launcher=slurm must be used where SLURM is, got no squeue" in sweep.table()[0].title
    for change in (sweep.cancel, sweep.resume):
        with pytest.raises(ValueError, match="got no squeue"):
            change()
    assert not json.loads(sweep.path.read_text())["cancelled"]
    for path in job.outcomes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"splits": {}}')
    assert sweep.states()[job.name][0] == "done"


def test_jobs_of_every_kind_stand_in_the_queue(tmp_path, monkeypatch):
    lines = "12_3|PENDING|Priority|/a/b/job.sh\n9+1|RUNNING|None|/a/c/job.sh\n10|FAILED|None|/a/b/job.sh"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '{lines}'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = Slurm({}, tmp_path).queue()
    assert {path.name: queued.state for path, queued in found.items()} == {"b": "waiting", "c": "running"}


@pytest.fixture
def pair(tmp_path) -> tuple[Job, Job]:
    """A shared job and a cell that needs it; nothing has been run."""
    shared, cell = (
        Job(
            tmp_path / "jobs" / name, name, stages, needs, tuple(tmp_path / out for out in outcomes), tmp_path / name, 0
        )
        for name, stages, needs, outcomes in (
            ("label", ("label",), (), ("DONE",)),
            ("cell", ("train", "evaluate"), ("label",), ("T", "E", "cell/results.json")),
        )
    )
    for job in (shared, cell):
        job.folder.mkdir(parents=True)
        job.save()
        job.script.touch()
    return shared, cell


def test_a_state_is_read_from_folders_and_queue(pair, tmp_path):
    shared, cell = pair
    both = {job.name: job for job in pair}
    assert Job.load(cell.folder) == cell
    assert state_of(shared, {}, both) == ("missing", "was not begun")
    assert state_of(cell, {cell.folder: Queued("2", "waiting", "Dependency")}, both) == ("waiting", "for label")
    assert state_of(shared, {shared.folder: Queued("1", "running", "")}, both) == ("running", "label, begins")
    shared.log.write_text("begun\nValueError: no room\n\n")
    assert state_of(shared, {}, both) == ("failed", f"ValueError: no room ({shared.log})")
    assert state_of(cell, {}, both) == ("missing", "needs label")
    shared.outcomes[0].touch()
    assert state_of(shared, {}, both)[0] == "done"
    partial = tmp_path.with_name(f"{tmp_path.name}.partial")
    partial.mkdir()
    progress = {"title": "train", "done": 12, "total": 60, "seconds_left": 200.0}
    (partial / "progress.json").write_text(json.dumps(progress))
    running = {cell.folder: Queued("3", "running", "RUNNING")}
    assert state_of(cell, running, both) == ("running", "train 12/60, 3 min left")
    (tmp_path / "T").touch()
    assert state_of(cell, running, both) == ("running", "evaluate, begins")
    (tmp_path / "E").touch()
    splits = {"id": {"n": 8, "accuracy": 0.75}, "ood": {"n": 4, "accuracy": 0.5}}
    cell.run.mkdir()
    (cell.run / "results.json").write_text(json.dumps({"splits": splits}))
    ended = {cell.folder: Queued("3", "ended", "COMPLETED")}
    assert state_of(cell, ended, both) == ("done", "id 75.0, ood 50.0")


def test_progress_of_an_earlier_attempt_is_not_shown(pair, tmp_path):
    _, cell = pair
    path = tmp_path.with_name(f"{tmp_path.name}.partial") / "progress.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"title": "train", "done": 12, "total": 60, "seconds_left": None}))
    os.utime(path, (1, 1))
    running = {cell.folder: Queued("3", "running", "RUNNING")}
    assert state_of(cell, running, {job.name: job for job in pair}) == ("running", "train, begins")


def test_the_last_line_of_a_long_log_is_found(tmp_path):
    (tmp_path / "log.txt").write_text("x" * 20000 + "\nthe end\n\n")
    assert last_line(tmp_path / "log.txt") == "the end"
    assert last_line(tmp_path / "none.txt") is None


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        (["train.lr must be 1", "srun: error: vm: task 0: Exited with exit code 1"], "train.lr must be 1"),
        (["train on 9 rows", "srun: error: vm: task 0: Killed", "srun: Force Terminated StepId=4.0"],
         "srun: error: vm: task 0: Killed"),
    ],
)  # fmt: skip
def test_what_srun_says_of_a_step_that_has_ended_hides_nothing(tmp_path, lines, last):
    (tmp_path / "log.txt").write_text("\n".join(lines))
    assert last_line(tmp_path / "log.txt") == last


def test_a_sweep_that_was_not_submitted_is_named_with_those_that_were(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "table1.json").write_text("{}")
    with pytest.raises(ValueError, match="must be one that was submitted, got 'table7'; there are: table1"):
        Sweep.load(tmp_path, "table7")


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (29, "29 s"), (90, "2 min"), (7500, "2 h 5 min")])
def test_a_duration_is_said_for_people(seconds, said):
    assert duration(seconds) == said
