"""The server that answers in a stage: where it is, what it must hold, and how it is started."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsft.generation.client import Client
from dcsft.generation.engine import Engine

if TYPE_CHECKING:
    from dcsft.models.vlm import VLM


def client_of(settings: Mapping[str, Any], start: str | None) -> Client:
    """The client that `engine` settings ask for; `start` is the command that starts its server, where we know it."""
    keys = ("url", "model", "api_key_env", "concurrency", "timeout_s", "num_retries", "patience_s", "backoff_s")
    return Client(**{key: settings[key] for key in keys}, extra_body=settings["extra_body"], start=start)


@dataclass(frozen=True)
class Asked:
    """The server that answers in a stage."""

    settings: Mapping[str, Any]
    """Those of `engine`."""
    weights: Path
    """The folder of the model or the adapter that it must hold."""
    start: str
    """The command that starts it."""

    @property
    def trusted(self) -> bool:
        """Whether its answers are compared with no local model's, which then need not be loaded."""
        return bool(self.settings["parity_check"] == 0)

    def engine(self, vlm: "VLM", local: Engine | None) -> Engine:
        """The engine that asks it instead of `local`."""
        from dcsft.generation.server import Server  # torch; a distillation does without

        values = (self.settings[key] for key in ("parity_check", "extensions", "samples_per_request"))
        return Server(client_of(self.settings, self.start), vlm, local, self.weights, *values)


def asked(settings: Mapping[str, Any], stage: str, folders: Mapping[str, Path], rank: int | None) -> Asked | None:
    """The server that answers in `stage`; None where the local engine does.

    Args:
        folders: of the stages so far; they say which weights it must hold.
        rank: of the LoRA adapter.
    """
    if settings["name"] != "server" or stage not in settings["stages"]:
        return None
    start, name = folders["cold_start"] / "model", settings["model"]
    if stage == "evaluate" and "train" in folders:
        adapter = folders["train"] / "adapter"
        if adapter.exists():
            lora = f"--enable-lora --max-lora-rank {rank} --lora-modules {name}={adapter}"
            return Asked(settings, adapter, f"vllm serve {start} {lora}")
        start = folders["train"] / "model"
    return Asked(settings, start, f"vllm serve {start} --served-model-name {name}")
