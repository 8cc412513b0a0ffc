"""The typed schema of the configuration, a dataclass a group; conf/ holds the values.

`task`, `reward` and `paradigm` hold constructor arguments of the class that `_target_` names: that class's signature
is their schema. So it is with a foundation's `mix`, whose class `model.world` chooses.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class FoundationPhase:
    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING


@dataclass
class Foundation:
    seed: int = MISSING
    vocab_size: int = MISSING
    hidden_size: int = MISSING
    num_layers: int = MISSING
    num_heads: int = MISSING
    vision_hidden_size: int = MISSING
    vision_depth: int = MISSING
    mix: Any = MISSING
    vision: FoundationPhase = field(default_factory=FoundationPhase)
    language: FoundationPhase = field(default_factory=FoundationPhase)


@dataclass
class Boxes:
    frame: str = MISSING
    multiple: int | None = None


@dataclass
class Model:
    name: str = MISSING
    path: str | None = None
    dtype: str = MISSING
    min_pixels: int | None = MISSING
    max_pixels: int | None = MISSING
    max_tiles: int | None = MISSING
    attention: str = MISSING
    gradient_checkpointing: bool = MISSING
    square_pictures: bool = MISSING
    boxes: Boxes | None = None
    from_scratch: bool = False
    world: str | None = None
    foundation: Foundation | None = None


@dataclass
class Seeds:
    data: int = MISSING
    cold_start: int = MISSING
    label: int = MISSING
    train: int = MISSING


@dataclass
class Optimization:
    steps: int | None = MISSING
    epochs: float | None = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    betas: list[float] = MISSING
    weight_decay: float = MISSING
    warmup_ratio: float = MISSING
    max_grad_norm: float = MISSING


@dataclass
class ColdStart(Optimization):
    parts: list[str] = MISSING


@dataclass
class Train(Optimization):
    class_metrics_every: int = MISSING
    eval_every: int | None = MISSING


@dataclass
class Sampling:
    temperature: float = MISSING
    top_p: float = MISSING
    top_k: int = MISSING
    max_new_tokens: int = MISSING


@dataclass
class LabelStage:
    name: str = MISSING
    num_samples: int = MISSING
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    of_model: str | None = None
    counts: Any = None


@dataclass
class Distill:
    splits: list[str] = MISSING
    num_samples: int = MISSING
    temperature: float = MISSING
    max_new_tokens: int = MISSING
    system: str | None = MISSING


@dataclass
class CheckStage:
    num_pictures: int | None = MISSING
    num_prompts: int | None = MISSING


@dataclass
class Publish:
    repo: str | None = MISSING
    private: bool = MISSING


@dataclass
class EvaluateStage:
    repetition_penalty: float = MISSING


@dataclass
class Subset:
    name: str = MISSING
    size: Any = None
    min_pass_rate: float | None = None
    max_pass_rate: float | None = None


@dataclass
class Tuning:
    name: str = MISSING
    r: int | None = None
    alpha: int | None = None
    dropout: float | None = None
    parts: list[str] = MISSING


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
class Trainer:
    name: str = MISSING
    device: str = MISSING
    threads: int | None = None
    micro_batch_size: int = MISSING
    generation_batch_size: int = MISSING
    checkpoint_every: int = MISSING
    feature_cache_gb: float = MISSING
    strategy: str | None = None
    num_devices: int | None = None
    num_nodes: int = 1
    timeout_min: float | None = None


@dataclass
class Logger:
    name: str = MISSING
    project: str | None = None
    entity: str | None = None
    group: str | None = None


@dataclass
class Launcher:
    name: str = MISSING
    dry_run: bool = False
    num_parallel: int | None = None
    gpus: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    memory: str | None = None
    cpus: int | None = None
    extra: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    srun: list[str] = field(default_factory=list)
    python: str | None = None
    warning_s: int | None = None
    max_requeues: int | None = None


@dataclass
class Config:
    """One experiment."""

    stage: str = MISSING
    seed: int = MISSING
    seeds: Seeds = field(default_factory=Seeds)
    hard_ratio: Any = MISSING
    outputs: str = MISSING
    sweep: str | None = None
    shows: list[str] = field(default_factory=list)
    model: Model = field(default_factory=Model)
    task: Any = MISSING
    reward: Any = MISSING
    subset: Subset = field(default_factory=Subset)
    paradigm: Any = MISSING
    tuning: Tuning = field(default_factory=Tuning)
    engine: Engine = field(default_factory=Engine)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    launcher: Launcher = field(default_factory=Launcher)
    max_new_tokens: int = MISSING
    kl: float = MISSING
    cold_start: ColdStart = field(default_factory=ColdStart)
    label: LabelStage = field(default_factory=LabelStage)
    check: CheckStage = field(default_factory=CheckStage)
    distill: Distill = field(default_factory=Distill)
    publish: Publish = field(default_factory=Publish)
    train: Train = field(default_factory=Train)
    evaluate: EvaluateStage = field(default_factory=EvaluateStage)
