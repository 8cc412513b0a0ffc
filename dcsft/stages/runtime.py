"""What a stage needs of the machine, and what it has cost."""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dcsft.artefacts import write_json
from dcsft.generation.engine import Engine
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.features import FeatureCache
from dcsft.models.flops import Meter
from dcsft.models.vlm import VLM
from dcsft.ranks import ALONE, Ranks
from dcsft.stages.asking import Asked
from dcsft.stages.progress import Bar, bar


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
    progress_file: Path | None = None
    ranks: Ranks = ALONE
    sharded: bool = False
    """Whether ranks share the weights of a model that is fully tuned; one with LoRA each has whole."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """A progress bar with the time that remains; it disappears when done."""
        return bar(self.console, title, total, done, self.progress_file)

    def features(self, vlm: VLM) -> FeatureCache | None:
        """The shared picture features, where the model allows them and its vision tower is frozen."""
        if not (vlm.takes_picture_features and vlm.vision_frozen) or self.feature_cache_gb == 0:
            return None
        return FeatureCache(vlm, self.feature_folder, self.feature_cache_gb)

    def engine(self, vlm: VLM) -> Engine:
        """What answers in a stage; made once, when the policy is tuned: the vision weights say which features fit."""
        if self.server is not None and self.server.trusted:
            return self.server.engine(vlm, None)
        local = SharedPrefix(vlm, self.generation_batch_size, self.decoding, self.features(vlm))
        return local if self.server is None else self.server.engine(vlm, local)


class Ledger:
    """What a stage has cost over all its attempts; kept in the stage's folder as `cost.json`.

    Seconds pass for all ranks alike; operations are added up.
    """

    def __init__(self, folder: Path, ranks: Ranks = ALONE) -> None:
        self.path, self.ranks = folder / "cost.json", ranks
        self.cost = {"seconds": 0.0, "flops": 0.0, "tokens_trained": 0, "tokens_generated": 0}
        if self.path.exists():
            self.cost |= json.loads(self.path.read_text())
        self._seconds, self._flops = self.cost["seconds"], self.cost["flops"]
        self._start = time.perf_counter()

    def save(self, meter: Meter, tokens_trained: int = 0, tokens_generated: int = 0) -> None:
        """Write the state; token counts are totals, the meter and the clock count this attempt. Called by all ranks."""
        self.cost["seconds"] = self._seconds + time.perf_counter() - self._start
        self.cost["flops"] = self._flops + self.ranks.sums({"flops": meter.flops})["flops"]
        self.cost |= {"tokens_trained": tokens_trained, "tokens_generated": tokens_generated}
        if self.ranks.first:
            write_json(self.path, self.cost)
