"""cold_start: a short full fine-tuning on held-out examples, so that the model knows the answers' form (paper, 4.2)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dcsft.data.batches import num_steps
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.paradigms.paradigm import Item, Setting
from dcsft.paradigms.sft import SFT
from dcsft.records import Example
from dcsft.stages.fitting import fit, forget_checkpoint
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task

MODEL = "model"


def schedule_of(settings: dict, num_items: int, updates_per_batch: int) -> Schedule:
    """The schedule that `cold_start` or `train` settings ask for."""
    return Schedule(
        steps=num_steps(settings["steps"], settings["epochs"], num_items, settings["batch_size"], updates_per_batch),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        weight_decay=settings["weight_decay"],
        warmup_ratio=settings["warmup_ratio"],
        max_grad_norm=settings["max_grad_norm"],
    )


def setting_of(
    vlm: VLM,
    task: Task,
    examples: Sequence[Example],
    items: Sequence[Item],
    max_new_tokens: int,
    seed: int,
    runtime: Runtime,
) -> Setting:
    """What a paradigm may use; call it when the policy is tuned, since that decides whether features may be cached."""
    return Setting(
        task,
        {example.id: example for example in examples},
        items,
        runtime.features(vlm),
        runtime.generation_batch_size,
        runtime.decoding,
        max_new_tokens,
        seed,
        runtime.ranks,
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
    paradigm, examples = SFT(), task.examples("cold_start")
    items = [item for example in examples for item in paradigm.items(vlm, task, example, None, ())]
    vlm.tune_fully(settings["parts"])
    schedule = schedule_of(settings, len(items), paradigm.updates_per_batch)
    setting = setting_of(vlm, task, examples, items, 0, seed, runtime)  # nothing is sampled
    batch_size = settings["batch_size"]
    fit("cold start", vlm, paradigm, items, batch_size, schedule, seed, 0, setting, folder, runtime, on_step)
    if runtime.ranks.first:
        vlm.save(folder / MODEL)
        forget_checkpoint(folder)
