"""The checks of single groups of the configuration: each returns one line a problem."""

import os
import re
from dataclasses import fields

from omegaconf import DictConfig

from dcsft.schema import Launcher


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
        wrong.append((engine[name] > 0, f"engine.{name} must be positive, got {engine[name]}"))
    for name in ("num_samples", "max_new_tokens"):
        wrong.append((distill[name] >= 1, f"distill.{name} must be at least 1, got {distill[name]}"))
    return [problem for holds, problem in wrong if not holds]


def trainer_problems(trainer: DictConfig) -> list[str]:
    """What is wrong with the number of processes; `strategy` is null where there is one alone."""
    name, strategy, timeout = trainer.name, trainer.strategy, trainer.timeout_min
    several = name == "multi_gpu"
    wrong = [
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
            trainer.num_nodes <= 1 or "SLURM_JOB_ID" in os.environ,
            f"trainer.num_nodes must be 1 outside of a SLURM job, got {trainer.num_nodes}; use sbatch or salloc",
        ),
        (not several or (timeout or 0) > 0, f"trainer.timeout_min must be positive, got {timeout}"),
    ]
    return [problem for holds, problem in wrong if not holds]


_OF_JOBS = {"dry_run", "gpus", "setup", "container", "python", "warning_s", "max_requeues"}
_KNOBS = {
    "local": {"dry_run"},
    "submitit_local": _OF_JOBS | {"num_parallel"},
    "slurm": _OF_JOBS | {"partition", "account", "qos", "time", "memory", "cpus", "extra", "srun"},
}
"""What each launcher heeds: the keys of its yaml."""
_LEAST = {"num_parallel": 1, "gpus": 0, "cpus": 1, "warning_s": 2, "max_requeues": 0}


def launcher_problems(cfg: DictConfig) -> list[str]:
    """What no scheduler need be asked about."""
    launcher, name = cfg.launcher, cfg.launcher.name
    if name not in _KNOBS:
        return [f"launcher.name must be one of {', '.join(_KNOBS)}, got {name!r}; use launcher=NAME"]
    problems = []
    for knob in fields(Launcher):
        value = launcher[knob.name]
        if knob.name == "name" or knob.name in _KNOBS[name] or not value:
            continue
        heeding = " or ".join(f"launcher={other}" for other, knobs in _KNOBS.items() if knob.name in knobs)
        problems.append(f"launcher.{knob.name} must be left out with launcher={name}, got {value}; use {heeding}")
    for knob, least in _LEAST.items():
        if launcher[knob] is not None and launcher[knob] < least:
            problems.append(
                f"launcher.{knob} must be at least {least}, got {launcher[knob]}; leave it out for the value of "
                f"conf/launcher/{name}.yaml"
            )
    if launcher.dry_run and cfg.stage == "check":
        problems.append("launcher.dry_run must be false with stage=check, got true; a check computes nothing anyway")
    return problems


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
