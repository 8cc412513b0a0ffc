"""What Hydra hands a whole sweep to: `Here` computes it, and `Jobs` gives it to dcsft/launch and waits for nothing.

Hydra finds plugins in this folder by its name. (hydra-submitit-launcher waits for its jobs, and composes each job's
configuration when it starts, from whatever the files then say.)
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


def _cells(context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[DictConfig]:
    """The configurations of a sweep."""
    cells = [context.config_loader.load_sweep_config(config, list(overrides)) for overrides in job_overrides]
    for cell in cells:
        with open_dict(cell):
            del cell["hydra"]
    return cells


class Here(BasicLauncher):
    """The cells one after another in this process, when all are known to be good."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from dcsft.stages.cells import planned

        cells = _cells(self.hydra_context, self.config, job_overrides)
        planned([cell for cell in cells if cell.stage != "check"])  # which finds out more, and makes nothing
        return super().launch(job_overrides, initial_job_idx)


class Jobs(Launcher):
    """The cells as jobs of a scheduler."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from dcsft.launch.submit import submit
        from dcsft.stages.gather import command_of, opening_comment
        from dcsft.stages.run import console_and_log

        cells, name = _cells(self.hydra_context, self.config, job_overrides), self.config.hydra.job.config_name
        if name == "config":
            commands = [f"python train.py -m {shlex.join(overrides)}" for overrides in job_overrides]
            submit(cells, commands, "", console_and_log())
            return []
        paths = [source.path for source in self.config.hydra.runtime.config_sources if source.schema == "file"]
        sweep = next(path for path in (Path(folder) / f"{name}.yaml" for folder in paths) if path.exists())
        commands = [command_of(sweep, overrides) for overrides in job_overrides]
        submit(cells, commands, opening_comment(sweep), console_and_log())
        return []
