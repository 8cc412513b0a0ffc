"""Who is told of a run's progress: nobody but the files (csv), or Weights & Biases as well."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd


class Tracker(ABC):
    """Receives a run's metrics and tables."""

    @abstractmethod
    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one training step of `stage`."""

    @abstractmethod
    def table(self, name: str, rows: pd.DataFrame) -> None:
        """A table, e.g. the labels."""

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's results."""

    @abstractmethod
    def finish(self, exit_code: int) -> None:
        """Close the run: 0 for success."""


class Files(Tracker):
    """Metrics as `metrics.csv` in the run's folder, written when the run ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append({"stage": stage, "step": step, **metrics})

    def table(self, name: str, rows: pd.DataFrame) -> None:
        pass  # the store holds it

    def summary(self, values: Mapping[str, Any]) -> None:
        pass  # results.json holds them

    def finish(self, exit_code: int) -> None:
        if self.rows:
            pd.DataFrame(self.rows).to_csv(self.folder / "metrics.csv", index=False)


class WandB(Tracker):
    """A Weights & Biases run; offline where there is no login, with the command that uploads it later."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
    ) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ValueError(
                "logger=wandb must have wandb installed, got no such module; pip install 'dcsft[wandb]' or use "
                "logger=csv"
            ) from error
        mode = os.environ.get("WANDB_MODE")
        if mode is None and wandb.api.api_key is None:
            mode = "offline"
        self.offline = mode == "offline"
        self.run = wandb.init(
            dir=folder,
            name=name,
            config=dict(config),
            project=project,
            entity=entity,
            group=group,
            tags=tags,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._table = wandb.Table
        for stage in ("cold_start", "train"):
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in metrics.items()}})

    def table(self, name: str, rows: pd.DataFrame) -> None:
        self.run.log({name: self._table(dataframe=rows)})

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def finish(self, exit_code: int) -> None:
        folder = Path(self.run.dir).parent
        self.run.finish(exit_code=exit_code)
        if self.offline:
            print(f"wandb sync {folder}")
