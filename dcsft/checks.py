"""The checks of single groups of the configuration: each returns one line a problem."""

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from dcsft.records import PARTS
from dcsft.schema import Launcher

STAGES = (
    *("check", "distill", "foundation", "cold_start", "label", "publish"),
    *("train", "export", "evaluate", "report"),
)
ATTENTION = ("auto", "sdpa", "flash_attention_2", "eager")


def _broken(rules: Iterable[tuple[bool, str]]) -> list[str]:
    """The lines of the rules that do not hold."""
    return [problem for holds, problem in rules if not holds]


def _writable(folder: Path) -> bool:
    """Whether it is a folder to write to, or could be made."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def run_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with where a run stops and writes, and with how it is evaluated and looked at."""
    rules = [
        (
            cfg.stage in STAGES,
            f"stage must be one of {', '.join(STAGES)}, got {cfg.stage!r}; take one of these",
        ),
        (
            _writable(Path(cfg.outputs).absolute()),
            f"outputs must be a folder that can be written to, got {cfg.outputs!r}; set outputs=FOLDER",
        ),
        (
            cfg.max_new_tokens >= 1,
            f"max_new_tokens must be at least 1, got {cfg.max_new_tokens}; it is the length at which an answer is cut",
        ),
        (
            cfg.evaluate.repetition_penalty > 0,
            f"evaluate.repetition_penalty must be positive, got {cfg.evaluate.repetition_penalty}; 1.0 is off",
        ),
        (
            cfg.engine.decoding in ("tree", "expand"),
            f"engine.decoding must be tree or expand, got {cfg.engine.decoding!r}; tree is the faster one",
        ),
    ]
    for name, value in cfg.check.items():
        rules.append(
            (value is None or value >= 1, f"check.{name} must be null or at least 1, got {value}; null is all")
        )
    return _broken(rules)


def curation_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the choice of examples."""
    ratio, subset, size = cfg.hard_ratio, cfg.subset.name, cfg.subset.size
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    rules = [
        (
            ratio == "natural" or (number and 0 <= ratio <= 1),
            f"hard_ratio must be 'natural' or a share in [0, 1], got {ratio!r}; it is the share of hard training "
            "examples",
        ),
        (
            ratio == "natural" or subset not in ("hard", "none", "pass_rate"),
            f"hard_ratio must be natural with subset={subset}, got {ratio!r}; a share of hard examples needs easy or "
            "medium ones to mix with: use subset=all, easy, medium or em",
        ),
        (
            size is None or size == "equal" or (isinstance(size, int) and not isinstance(size, bool) and size > 0),
            f"subset.size must be null, 'equal' or a positive number of examples, got {size!r}; null takes them all",
        ),
    ]
    for bound in ("min_pass_rate", "max_pass_rate"):
        value = cfg.subset[bound]
        rules.append(
            (value is None or 0 <= value <= 1, f"subset.{bound} must be in [0, 1], got {value}; null is no bound")
        )
    return _broken(rules)


def training_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the optimisation of the cold start and of the training, and with what they tune."""
    rules = []
    for stage in ("cold_start", "train"):
        part = cfg[stage]
        rules.append(
            (
                (part.steps is None) != (part.epochs is None),
                f"{stage} must have a budget in steps or in epochs, got steps={part.steps} epochs={part.epochs}; "
                "set one and the other to null",
            )
        )
        for name in ("steps", "epochs", "batch_size", "lr", "max_grad_norm"):
            usual = f"see {stage}.{name} in conf/config.yaml"
            rules.append(
                (part[name] is None or part[name] > 0, f"{stage}.{name} must be positive, got {part[name]}; {usual}")
            )
        decay, betas, warmup = part.weight_decay, list(part.betas), part.warmup_ratio
        rules += [
            (decay >= 0, f"{stage}.weight_decay must not be negative, got {decay}; 0 is off"),
            (
                len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
                f"{stage}.betas must be two numbers in [0, 1), got {betas}; the paper's are in conf/config.yaml",
            ),
            (0 <= warmup < 1, f"{stage}.warmup_ratio must be in [0, 1), got {warmup}; 0 is off"),
        ]
    every, measured = cfg.train.eval_every, cfg.train.class_metrics_every
    rules += [
        (every is None or every >= 1, f"train.eval_every must be null or at least 1, got {every}; null is never"),
        (measured >= 0, f"train.class_metrics_every must be 0 (never) or a number of steps, got {measured}; set 10"),
        (
            cfg.tuning.name == "full" or min(cfg.tuning.r or 0, cfg.tuning.alpha or 0) > 0,
            f"tuning.r and tuning.alpha must be positive, got {cfg.tuning.r} and {cfg.tuning.alpha}; the paper has 32 "
            "and 64",
        ),
    ]
    for name, node in (("cold_start", cfg.cold_start), ("tuning", cfg.tuning)):
        rules.append(
            (
                bool(node.parts) and set(node.parts) <= set(PARTS),
                f"{name}.parts must be some of {', '.join(PARTS)}, got {node.parts}; [llm] is the usual one",
            )
        )
    return _broken(rules)


def label_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the sampling of answers."""
    label, sampled = cfg.label, cfg.label.name == "sampled"
    rules = [
        (label.num_samples >= 1, f"label.num_samples must be at least 1, got {label.num_samples}; the paper has 8")
    ]
    if sampled:
        rules += [
            (
                (label.temperature or 0) > 0,
                f"label.temperature must be positive, got {label.temperature}; greedy has no spread",
            ),
            (0 < (label.top_p or 0) <= 1, f"label.top_p must be in (0, 1], got {label.top_p}; 1.0 is off"),
            (label.top_k >= 0, f"label.top_k must be 0 (off) or positive, got {label.top_k}; the paper has none"),
            (
                label.of_model is None,
                f"label.of_model must be null with label=sampled, got {label.of_model}; use label=release",
            ),
        ]
    return _broken(rules)


def publish_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with where the labels shall go."""
    repo = cfg.publish.repo
    if repo is None:
        return []
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) is None:
        return [f"publish.repo must be null or OWNER/NAME at the Hub, got {repo!r}; null leaves the files here"]
    if cfg.stage != "publish":
        return [f"publish.repo must be null with stage={cfg.stage}, got {repo!r}; add stage=publish"]
    from huggingface_hub import get_token  # who publishes has it; nobody else waits for it

    return _broken(
        [(get_token() is not None, f"publish.repo={repo} must come with a token, got none; run: hf auth login")]
    )


def model_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the model, whichever it is."""
    model = cfg.model
    rules = [
        (
            model.foundation is not None or not model.from_scratch,
            f"model.from_scratch must be false with model={model.name}, got true; only model=tiny has a foundation "
            "recipe",
        ),
        (
            cfg.stage != "foundation" or (model.foundation is not None and model.from_scratch),
            f"stage=foundation must have model=tiny model.from_scratch=true, got model={model.name} "
            f"model.from_scratch={str(model.from_scratch).lower()}; shipped and downloaded weights need no training",
        ),
        (
            model.attention in ATTENTION,
            f"model.attention must be one of {', '.join(ATTENTION)}, got {model.attention!r}; auto takes what is there",
        ),
    ]
    for name in ("min_pixels", "max_pixels", "max_tiles"):
        value = model[name]
        rules.append(
            (
                value is None or value >= 1,
                f"model.{name} must be null or at least 1, got {value}; null is the model's own",
            )
        )
    return _broken(rules)


def task_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with what a task teaches: the cold start trains on its targets, whatever the paradigm."""
    task = cfg.task
    taught = task.get("targets", "its own") is not None
    return _broken(
        [
            (
                taught or task.get("system") is None,
                f"task.targets must be a file of reasoned answers, or bare, with task={task['name']}, whose prompt "
                "asks for reasoning, got null; set task.targets=FILE, which stage=distill makes, or task.targets=bare "
                "to train on the bare answers",
            )
        ]
    )


def paradigm_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with a paradigm beside what its class says of its arguments."""
    return grpo_problems(cfg) if cfg.paradigm["name"] == "grpo" else []


def engine_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the engine and with distillation, which needs a server."""
    engine, distill = cfg.engine, cfg.distill
    if engine.name != "server":
        rules = [
            (cfg.stage != "distill", f"engine must be server with stage=distill, got {engine.name}; add engine=server"),
            (
                engine.url is None,
                f"engine.url must be null with engine={engine.name}, got {engine.url}; add engine=server",
            ),
        ]
        return _broken(rules)
    stages = list(engine.stages)
    price = engine.usd_per_million_tokens
    rules = [
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
            engine.extensions or "evaluate" not in stages or cfg.evaluate.repetition_penalty == 1,
            "evaluate.repetition_penalty must be 1.0 with engine.extensions=false and engine.stages=[evaluate], got "
            f"{cfg.evaluate.repetition_penalty}; the protocol itself has none",
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
        rules.append((engine[name] > 0, f"engine.{name} must be positive, got {engine[name]}"))
    for name in ("num_samples", "max_new_tokens"):
        rules.append(
            (distill[name] >= 1, f"distill.{name} must be at least 1, got {distill[name]}; see conf/config.yaml")
        )
    return _broken(rules)


def trainer_problems(cfg: DictConfig) -> list[str]:
    """What is wrong with the number of processes, of which `strategy` is null where there is one alone, and batches."""
    trainer = cfg.trainer
    name, strategy, timeout = trainer.name, trainer.strategy, trainer.timeout_min
    several = name == "multi_gpu"
    rules = [
        (trainer.device in ("cpu", "cuda"), f"trainer.device must be cpu or cuda, got {trainer.device!r}"),
        (
            strategy in (None, "ddp", "fsdp"),
            f"trainer.strategy must be ddp, or fsdp to share the weights of full fine-tuning, got {strategy!r}",
        ),
        (
            (strategy is not None) == several,
            f"trainer.strategy must be null with trainer={name}, and ddp or fsdp with trainer=multi_gpu, got "
            f"{strategy!r}",
        ),
        (
            several or (trainer.num_devices in (None, 1) and trainer.num_nodes == 1),
            f"trainer.num_devices and trainer.num_nodes must be null and 1 with trainer={name}, got "
            f"{trainer.num_devices} and {trainer.num_nodes}; use trainer=multi_gpu",
        ),
        (
            trainer.num_devices is None or trainer.num_devices >= 1,
            f"trainer.num_devices must be null (all visible GPUs) or at least 1, got {trainer.num_devices}",
        ),
        (
            not several or trainer.device == "cuda" or trainer.num_devices is not None,
            "trainer.num_devices must be given with trainer.device=cpu, got null; set trainer.num_devices=2",
        ),
        (trainer.num_nodes >= 1, f"trainer.num_nodes must be at least 1, got {trainer.num_nodes}"),
        (
            trainer.num_nodes <= 1 or "SLURM_JOB_ID" in os.environ or cfg.launcher.name == "slurm",
            f"trainer.num_nodes must be 1 outside of a SLURM job, got {trainer.num_nodes}; use launcher=slurm",
        ),
        (not several or (timeout or 0) > 0, f"trainer.timeout_min must be positive, got {timeout}; 30 is usual"),
    ]
    for size in ("micro_batch_size", "generation_batch_size", "checkpoint_every"):
        usual = f"see conf/trainer/{name}.yaml"
        rules.append((trainer[size] >= 1, f"trainer.{size} must be at least 1, got {trainer[size]}; {usual}"))
    return _broken(rules)


_OF_JOBS = {"dry_run", "gpus", "setup", "container", "python", "warning_s", "max_requeues"}
_KNOBS = {
    "local": {"dry_run"},
    "submitit_local": _OF_JOBS | {"num_parallel"},
    "slurm": _OF_JOBS | {"partition", "account", "qos", "time", "memory", "cpus", "extra", "srun"},
}
"""What each launcher heeds: the keys of its yaml."""
_MINUTES = 3600
"""The least that an unquoted H:MM:SS can become."""
_LEAST = {"num_parallel": 1, "gpus": 0, "cpus": 1, "warning_s": 2, "max_requeues": 0}


def launcher_problems(cfg: DictConfig) -> list[str]:
    """What no scheduler need be asked about."""
    launcher, name = cfg.launcher, cfg.launcher.name
    if name not in _KNOBS:
        return [f"launcher.name must be one of {', '.join(_KNOBS)}, got {name!r}; use launcher=NAME"]
    rules = []
    for knob in sorted({knob.name for knob in fields(Launcher)} - {"name"} - _KNOBS[name]):
        heeding = " or ".join(f"launcher={other}" for other, knobs in _KNOBS.items() if knob in knobs)
        said = f"launcher.{knob} must be left out with launcher={name}, got {launcher[knob]}; use {heeding}"
        rules.append((not launcher[knob], said))
    for knob, least in _LEAST.items():
        value, usual = launcher[knob], f"leave it out for the value of conf/launcher/{name}.yaml"
        said = f"launcher.{knob} must be at least {least}, got {value}; {usual}"
        rules.append((value is None or value >= least, said))
    minutes = int(launcher.time) if (launcher.time or "").isdigit() else 0
    rules.append(
        (
            minutes < _MINUTES,
            f"launcher.time must be '[D-]HH:MM:SS', or minutes below {_MINUTES}, got {launcher.time}; put it in "
            "quotes, as yaml reads 24:00:00 as 86400",
        )
    )
    looks = "launcher.dry_run must be false with stage=check, got true; a check computes nothing anyway"
    return _broken([*rules, (not launcher.dry_run or cfg.stage != "check", looks)])


def grpo_problems(cfg: DictConfig) -> list[str]:
    """What the policy's rollouts and the labelling's must have in common, and what needs a reference model."""
    paradigm, label, problems = cfg.paradigm, cfg.label, []
    full = cfg.tuning.name == "full"
    if full and paradigm.get("kl", 0) > 0:
        problems.append(
            f"paradigm.kl must be 0 with tuning=full, got {paradigm['kl']}; the reference is the policy without its "
            "adapter: use tuning=lora"
        )
    warm = paradigm.get("warm_start_batches", 0)
    if full and warm > 1:
        problems.append(
            f"paradigm.warm_start_batches must be 0 or 1 with tuning=full, got {warm}; later ones are compared with "
            "the reference, which is the policy without its adapter: use tuning=lora"
        )
    if warm:
        ours = (paradigm["temperature"], 1.0, 0)
        theirs = (label.temperature, label.top_p, label.top_k)
        if ours != theirs:
            problems.append(
                "paradigm.warm_start_batches must be 0 unless labelling samples as the policy does, got label."
                f"temperature={theirs[0]} top_p={theirs[1]} top_k={theirs[2]} where the policy has {ours[0]}, 1.0 and 0"
            )
        if label.num_samples < paradigm["num_completions"]:
            problems.append(
                f"label.num_samples must be at least paradigm.num_completions={paradigm['num_completions']} for a warm "
                f"start, got {label.num_samples}; raise it or set paradigm.warm_start_batches=0"
            )
    return problems
