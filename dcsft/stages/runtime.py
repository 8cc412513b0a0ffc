"""What a stage needs of the machine, and how it shows its progress."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dcsft.artefacts import write_json
from dcsft.generation.client import Client
from dcsft.generation.engine import Engine
from dcsft.generation.server import Server
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.features import FeatureCache
from dcsft.models.flops import Meter
from dcsft.models.vlm import VLM


@dataclass(frozen=True)
class Bar:
    """One long piece of work on the screen."""

    progress: Progress
    task: TaskID

    def advance(self, done: int, note: str = "") -> None:
        """`done` units are finished in all; `note` is the current figure."""
        self.progress.update(self.task, completed=done, note=note)


def client_of(settings: Mapping[str, Any], start: str | None) -> Client:
    """The client that `engine` settings ask for; `start` is the command that starts its server, where we know it."""
    keys = ("url", "model", "api_key_env", "concurrency", "timeout_s", "num_retries", "patience_s", "backoff_s")
    return Client(**{key: settings[key] for key in keys}, extra_body=settings["extra_body"], start=start)


@dataclass(frozen=True)
class Asked:
    """The server that answers in a stage: `engine` settings, and the command that starts it."""

    settings: Mapping[str, Any]
    start: str

    def engine(self, vlm: VLM, local: Engine) -> Engine:
        """The engine that asks it instead of `local`."""
        values = (self.settings[key] for key in ("parity_check", "extensions", "samples_per_request"))
        return Server(client_of(self.settings, self.start), vlm, local, *values)


def asked(settings: Mapping[str, Any], stage: str, folders: Mapping[str, Path], rank: int | None) -> Asked | None:
    """The server that answers in `stage`; None where the local engine does.

    Args:
        folders: of the stages so far; they say which weights it must hold.
        rank: of the LoRA adapter.
    """
    if settings["name"] != "server" or stage not in settings["stages"]:
        return None
    weights, name = folders["cold_start"] / "model", settings["model"]
    named = f"--served-model-name {name}"
    if stage == "evaluate" and "train" in folders:
        if (folders["train"] / "adapter").exists():
            named = f"--enable-lora --max-lora-rank {rank} --lora-modules {name}={folders['train'] / 'adapter'}"
        else:
            weights = folders["train"] / "model"
    return Asked(settings, f"vllm serve {weights} {named}")


@dataclass(frozen=True)
class Runtime:
    """Hardware and display; nothing here changes a number beyond float rounding."""

    device: str
    micro_batch_size: int
    generation_batch_size: int
    checkpoint_every: int
    decoding: str
    feature_folder: Path
    feature_cache_gb: float
    num_processes: int
    console: Console
    server: Asked | None = None

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A progress bar with the time that remains; it disappears when done."""
        columns = (
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        shown = dict(console=self.console, transient=True, refresh_per_second=2, disable=not self.console.is_terminal)
        with Progress(*columns, **shown) as progress:
            yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))

    def features(self, vlm: VLM) -> FeatureCache | None:
        """The shared picture features, where the model allows them and its vision tower is frozen."""
        if not (vlm.takes_picture_features and vlm.vision_frozen) or self.feature_cache_gb == 0:
            return None
        return FeatureCache(vlm, self.feature_folder, self.feature_cache_gb)

    def engine(self, vlm: VLM) -> Engine:
        """What answers in a stage; made once, when the policy is tuned: the vision weights say which features fit."""
        local = SharedPrefix(vlm, self.generation_batch_size, self.decoding, self.features(vlm))
        return local if self.server is None else self.server.engine(vlm, local)


class Ledger:
    """What a stage has cost over all its attempts; kept in the stage's folder as `cost.json`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cost.json"
        self.cost = {"seconds": 0.0, "flops": 0.0, "tokens_trained": 0, "tokens_generated": 0}
        if self.path.exists():
            self.cost |= json.loads(self.path.read_text())
        self._seconds, self._flops = self.cost["seconds"], self.cost["flops"]
        self._start = time.perf_counter()

    def save(self, meter: Meter, tokens_trained: int = 0, tokens_generated: int = 0) -> None:
        """Write the state; token counts are totals, the meter and the clock count this attempt."""
        self.cost["seconds"] = self._seconds + time.perf_counter() - self._start
        self.cost["flops"] = self._flops + meter.flops
        self.cost |= {"tokens_trained": tokens_trained, "tokens_generated": tokens_generated}
        write_json(self.path, self.cost)
