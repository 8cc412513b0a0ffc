"""cold_start: a short full fine-tuning on held-out examples, so that the model knows the answers' form (paper, 4.2)."""

from collections.abc import Callable
from pathlib import Path

from dcsft.data.batches import num_steps
from dcsft.models.render import tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.paradigms.paradigm import Item
from dcsft.paradigms.sft import SFT
from dcsft.stages.fitting import fit, forget_checkpoint
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task

MODEL = "model"


def schedule_of(settings: dict, num_items: int) -> Schedule:
    """The schedule that `cold_start` or `train` settings ask for."""
    return Schedule(
        steps=num_steps(settings["steps"], settings["epochs"], num_items, settings["batch_size"]),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        weight_decay=settings["weight_decay"],
        warmup_ratio=settings["warmup_ratio"],
        max_grad_norm=settings["max_grad_norm"],
    )


def run(
    folder: Path,
    vlm: VLM,
    task: Task,
    settings: dict,
    seed: int,
    runtime: Runtime,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Fine-tune `vlm` and save it whole in `folder`/model."""
    items = [
        Item(example.id, task.prompt(example), tokenize_answer(vlm, task.target(example)), None)
        for example in task.examples("cold_start")
    ]
    vlm.tune_fully(settings["parts"])
    schedule = schedule_of(settings, len(items))
    fit("cold start", vlm, SFT(), items, settings["batch_size"], schedule, seed, 0, folder, runtime, on_step)
    vlm.save(folder / MODEL)
    forget_checkpoint(folder)
