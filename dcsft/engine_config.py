"""The typed schema of the engine and of distillation, and their checks: a part of `config.py`."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig


@dataclass
class Engine:
    name: str = MISSING
    decoding: str = "tree"
    stages: list[str] = field(default_factory=list)
    url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int | None = None
    timeout_s: float | None = None
    num_retries: int | None = None
    patience_s: float | None = None
    backoff_s: float | None = None
    parity_check: int | None = None
    extensions: bool | None = None
    samples_per_request: int | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    usd_per_million_tokens: list[float] | None = None


@dataclass
class Distill:
    splits: list[str] = MISSING
    num_samples: int = MISSING
    temperature: float = MISSING
    max_new_tokens: int = MISSING
    system: str | None = MISSING


def engine_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the engine and with distillation, which needs a server."""
    engine, distill = cfg.engine, cfg.distill
    if engine.name != "server":
        wrong = [
            (cfg.stage != "distill", f"engine must be server with stage=distill, got {engine.name}; add engine=server"),
            (
                engine.url is None,
                f"engine.url must be null with engine={engine.name}, got {engine.url}; add engine=server",
            ),
        ]
        return [problem for holds, problem in wrong if not holds]
    stages = list(engine.stages)
    price = engine.usd_per_million_tokens
    wrong = [
        (
            re.match(r"https?://[^/\s]", engine.url or "") is not None,
            f"engine.url must begin with http:// or https://, got {engine.url}; set engine.url=http://HOST:PORT/v1",
        ),
        (
            engine.model is not None,
            "engine.model must be the model's name at the server, got null; set engine.model=NAME",
        ),
        (
            bool(stages) and set(stages) <= {"label", "evaluate"},
            f"engine.stages must be some of label, evaluate, got {stages}; training samples from the policy's own "
            "weights, which a server does not follow",
        ),
        (
            engine.extensions or not cfg.label.top_k,
            f"label.top_k must be 0 with engine.extensions=false, got {cfg.label.top_k}; the protocol itself has none",
        ),
        (
            "label" not in stages or not cfg.paradigm.get("warm_start_batches", 0),
            "paradigm.warm_start_batches must be 0 with labels of a server, got more; a server's log-probabilities are "
            "not known",
        ),
        (
            price is None or (len(price) == 2 and min(price) >= 0),
            f"engine.usd_per_million_tokens must be [input, output] in dollars, got {price}",
        ),
        (
            bool(distill.splits) and set(distill.splits) <= {"cold_start", "train"},
            f"distill.splits must be some of cold_start, train, got {list(distill.splits)}",
        ),
        (
            distill.temperature > 0 or (distill.temperature == 0 and distill.num_samples == 1),
            f"distill.temperature must be positive, or 0 with distill.num_samples=1, got {distill.temperature}; "
            "greedy answers do not differ",
        ),
        (engine.num_retries >= 0, f"engine.num_retries must not be negative, got {engine.num_retries}"),
        (engine.parity_check >= 0, f"engine.parity_check must be 0 (off) or positive, got {engine.parity_check}"),
    ]
    for name in ("concurrency", "samples_per_request", "timeout_s", "patience_s", "backoff_s"):
        wrong.append((engine[name] > 0, f"engine.{name} must be positive, got {engine[name]}"))
    for name in ("num_samples", "max_new_tokens"):
        wrong.append((distill[name] >= 1, f"distill.{name} must be at least 1, got {distill[name]}"))
    return [problem for holds, problem in wrong if not holds]
