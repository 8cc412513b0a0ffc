"""What makes Hydra hand a whole sweep to dcsft/launch: a launcher plugin that submits, and waits for nothing.

Hydra finds plugins in this folder by its name. (hydra-submitit-launcher waits for its jobs, and composes each job's
configuration when it starts, from whatever the files then say.)
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class Jobs(Launcher):
    """The cells of a sweep as jobs of a scheduler."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from dcsft.launch.submit import submit
        from dcsft.stages.gather import opening_comment
        from dcsft.stages.run import console_and_log

        cells, commands = [], []
        name = self.config.hydra.job.config_name
        paths = [source.path for source in self.config.hydra.runtime.config_sources if source.schema == "file"]
        found = [path for path in (Path(folder) / f"{name}.yaml" for folder in paths) if path.exists()]
        where = "-m" if name == "config" else f"-cd {found[0].parent.name} -cn {name}"
        for overrides in job_overrides:
            cell = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cell):
                del cell["hydra"]
            cells.append(cell)
            commands.append(f"python train.py {where} {shlex.join(overrides)}")
        description = "" if name == "config" else opening_comment(found[0])
        submit(cells, commands, description, console_and_log())
        return []
