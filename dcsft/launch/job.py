"""What runs in a job: `python -m dcsft.launch.job FOLDER`, started by the script of that folder."""

import os
import socket
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dcsft import stopping
from dcsft.artefacts import write_json
from dcsft.config import explain
from dcsft.launch.jobs import CONFIG, REPORT, SUPERVISED, Job
from dcsft.stages.cells import cell_title


def _run(cfg: DictConfig, console: Console) -> None:
    """The stages of one frozen configuration."""
    from dcsft.stages.run import Run

    Run(cfg, console)()


def _report(job: Job, console: Console) -> None:
    """Tables, figures and page of a sweep, from the frozen configurations of its cells."""
    import json

    from dcsft.report.page import write_report
    from dcsft.report.tables import show_tables
    from dcsft.stages.gather import gather_cells, sights_of
    from dcsft.tracking import send_report

    given = json.loads((job.folder / REPORT).read_text())
    configs = [OmegaConf.load(job.folder.parent / name / CONFIG) for name in job.needs]
    cells, tasks = gather_cells(list(zip(configs, given["commands"], strict=True)), console.print)
    show_tables(cells, console)
    page = write_report(job.run, given["sweep"], cells, sights_of(tasks), given["description"])
    console.print(f"page: {page}", highlight=False, soft_wrap=True)
    missing = [cell_title(cfg) for cfg, cell in zip(configs, cells, strict=True) if cell.results is None]
    if missing:
        raise ValueError(f"the report must have every cell, got none of {', '.join(missing)}; see status.py")
    send_report(job.run, given["sweep"], configs[0].logger)
    write_json(job.folder / "DONE", {"page": str(page)})


def main(folder: Path) -> None:
    """Run the job of `folder`; the exit code says whether it wants another turn."""
    from dcsft.stages.run import console_and_log

    if os.environ.pop(SUPERVISED, None):
        stopping.end_with_standard_input()
    job = Job.load(folder)
    cfg = OmegaConf.load(folder / CONFIG)
    on_cluster = cfg.launcher.name == "slurm"
    stopping.listen(cfg.launcher.warning_s // 2, on_term=on_cluster)
    console = console_and_log()
    turn = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
    place = f"SLURM job {os.environ.get('SLURM_JOB_ID')}, turn {turn}" if on_cluster else f"process {os.getpid()}"
    console.print(f"{job.title}: {place} on {socket.gethostname()}", highlight=False, soft_wrap=True)
    try:
        if job.stages:
            _run(cfg, console)
        else:
            _report(job, console)
    except KeyboardInterrupt:
        if stopping.stop_asked():
            console.print("warned: all is saved, to go on in another turn", highlight=False)
            sys.exit(stopping.EXIT_CODE)
        sys.exit("interrupted; the same command goes on from here")
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.exit(message)


if __name__ == "__main__":
    if "SLURM_JOB_ID" not in os.environ:
        import signal

        signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(Path(sys.argv[1]))
