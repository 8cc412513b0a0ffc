"""Who is told of a run's progress: nobody but the files (csv), or Weights & Biases as well."""

import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image


class Tracker(ABC):
    """Receives a run's metrics and tables."""

    @abstractmethod
    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one training step of `stage`."""

    @abstractmethod
    def table(self, name: str, rows: pd.DataFrame) -> None:
        """A table, e.g. the labels; cells may be pictures (PIL)."""

    @abstractmethod
    def counts(self, name: str, values: Mapping[str, int]) -> None:
        """A histogram whose bins have names."""

    @abstractmethod
    def folder_of(self, name: str, folder: Path) -> None:
        """A folder of files worth keeping, e.g. the report."""

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's results."""

    @abstractmethod
    def finish(self, exit_code: int) -> None:
        """Close the run: 0 for success."""


class Files(Tracker):
    """Metrics as `metrics.csv` in the run's folder, a row a step, written when the command ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        known = pd.read_csv(self.path).to_dict("records") if self.path.exists() else []
        self.rows: dict[tuple[str, int], dict[str, Any]] = {(row["stage"], row["step"]): row for row in known}

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.rows[stage, step] = {"stage": stage, "step": step, **metrics}

    def table(self, name: str, rows: pd.DataFrame) -> None:
        pass  # the store holds it

    def counts(self, name: str, values: Mapping[str, int]) -> None:
        pass  # so do the labels

    def folder_of(self, name: str, folder: Path) -> None:
        pass  # it is one already

    def summary(self, values: Mapping[str, Any]) -> None:
        pass  # results.json holds them

    def finish(self, exit_code: int) -> None:
        if self.rows:
            pd.DataFrame([self.rows[place] for place in sorted(self.rows)]).to_csv(self.path, index=False)


class WandB(Tracker):
    """A Weights & Biases run; offline where there is no login, with the command that uploads it later.

    `wandb.json` in the run's folder remembers the run's id and the last step that was told of each stage: the same
    command, after a preemption or a kill, goes on in the same run, where no step stands twice.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        project: str,
        entity: str | None,
        group: str | None,
        job_type: str,
        tags: list[str],
    ) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ValueError(
                "logger=wandb must have wandb installed, got no such module; pip install 'dcsft[wandb]' or use "
                "logger=csv"
            ) from error
        wandb.setup(wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        self.offline = mode == "offline"
        self._memory = folder / "wandb.json"
        known = json.loads(self._memory.read_text()) if self._memory.exists() else {}
        self.id = known.get("id") or uuid.uuid4().hex[:8]
        self._told: dict[str, int] = known.get("told", {})
        self._appends = bool(known)
        self._remember()  # now: who is killed must find it
        self.run = wandb.init(
            id=self.id,
            resume="allow",
            dir=folder,
            name=name,
            config=dict(config),
            project=project,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            mode=mode,
            settings=wandb.Settings(console="off"),
        )
        self._wandb = wandb
        for stage in ("cold_start", "train"):
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def _remember(self) -> None:
        draft = self._memory.with_suffix(".tmp")
        draft.write_text(json.dumps({"id": self.id, "told": self._told}))
        draft.replace(self._memory)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._told.get(stage, 0):
            return  # a resumed run repeats the steps after its checkpoint, with the same numbers
        self._told[stage] = step
        self._remember()  # before it is told: killed in between, a step is missing, which is better than twice
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in metrics.items()}})

    def table(self, name: str, rows: pd.DataFrame) -> None:
        table = self._wandb.Table(columns=list(rows.columns))
        for row in rows.itertuples(index=False):
            table.add_data(*(self._wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row))
        self.run.log({name: table})

    def counts(self, name: str, values: Mapping[str, int]) -> None:
        table = self._wandb.Table(columns=["bin", "count"], data=[[key, value] for key, value in values.items()])
        self.run.log({name: self._wandb.plot.bar(table, "bin", "count", title=name)})

    def folder_of(self, name: str, folder: Path) -> None:
        artifact = self._wandb.Artifact(f"{name}-{self.id}", type=name)
        artifact.add_dir(str(folder))
        self.run.log_artifact(artifact)

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def finish(self, exit_code: int) -> None:
        folder = Path(self.run.dir).parent
        self.run.finish(exit_code=exit_code)
        if self.offline:
            print(f"wandb sync {'--append ' if self._appends else ''}{folder}")


def send_report(folder: Path, sweep: str, logger: Mapping[str, Any]) -> None:
    """With logger=wandb, a sweep's report as the artifact of a run of its own, in the sweep's group.

    Args:
        folder: the report's; what W&B writes stands beside it.
        logger: the values of `conf/logger/`.
    """
    if logger["name"] != "wandb":
        return
    own = folder.parent / "wandb" / sweep
    own.mkdir(parents=True, exist_ok=True)
    told = {"project": logger["project"], "entity": logger["entity"], "group": logger["group"] or sweep}
    run = WandB(own, f"report of {sweep}", {}, **told, job_type="report", tags=[])
    run.folder_of("report", folder)
    run.finish(0)
