"""One side of sft.py, in a process of its own: train some steps, print steps a CPU second as JSON.

    python benchmarks/sft_sides.py SIDE FOLDER BATCH_SIZE STEPS PARTS

All sides: the same rows, LoRA on every linear layer of PARTS (all, or llm), AdamW, gradients clipped, one forward pass
a step.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_model import QUESTION, picture, read_rows
from measuring import peak_mib
from rich.console import Console

from dcsft.models.render import append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.paradigms.paradigm import Item, Setting
from dcsft.paradigms.sft import SFT
from dcsft.records import PARTS, Message
from dcsft.stages.fitting import fit
from dcsft.stages.runtime import Runtime

WARM_UP = 2
"""Steps that do not count."""
LR, BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, (0.9, 0.95), 0.1, 1.0
RANK, ALPHA, DROPOUT = 32, 64, 0.05


class Clock:
    """CPU seconds at the end of each step, and memory before the first."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.loaded_mib = 0.0

    def begin(self) -> None:
        """The model is loaded, nothing is trained yet."""
        self.loaded_mib = peak_mib()

    def step(self, *_: object) -> None:
        self.ends.append(time.process_time())

    def rate(self) -> float:
        """Steps a CPU second after the warm-up."""
        return (len(self.ends) - WARM_UP) / (self.ends[-1] - self.ends[WARM_UP - 1])


def policy(folder: Path, dropout: float, parts: str) -> VLM:
    vlm = VLM.load(folder / "model")
    vlm.add_lora(r=RANK, alpha=ALPHA, dropout=dropout, parts=PARTS if parts == "all" else (parts,), seed=0)
    return vlm


def _items(vlm: VLM, folder: Path) -> list[Item]:
    return [
        Item(
            row["picture"],
            [Message("user", (picture(row["picture"]), QUESTION))],
            tokenize_answer(vlm, row["answer"]),
            None,
        )
        for row in read_rows(folder)
    ]


def num_trained(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def bare_loop(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock) -> int:
    """The least a training loop must do: no Lightning, no metrics, no checkpoints."""
    vlm = policy(folder, DROPOUT, parts)
    items = _items(vlm, folder)
    vlm.model.train()
    clock.begin()
    parameters = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        batch = [items[(step * batch_size + row) % len(items)] for row in range(batch_size)]
        prompts = render_prompts(vlm, [item.messages for item in batch])
        sequences = append_completions(vlm, prompts, [item.answer_ids for item in batch])
        logits, targets, _ = completion_logits(vlm, sequences)
        F.cross_entropy(logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        clock.step()
    return num_trained(vlm.model)


def dcsft(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock, label: bool = True) -> int:
    """The train stage's fitting, its progress bar drawn as on a terminal.

    Args:
        label: a frozen vision tower's features are in the store, since labelling has looked at every picture.
    """
    vlm = policy(folder, DROPOUT, parts)
    schedule = Schedule(steps, LR, BETAS, WEIGHT_DECAY, warmup_ratio=0.1, max_grad_norm=MAX_GRAD_NORM)
    with tempfile.TemporaryDirectory() as out, quiet_runtime(Path(out), batch_size, steps) as runtime:
        items = _items(vlm, folder)
        features = runtime.features(vlm) if label else None
        if features is not None:
            features([picture(row["picture"]) for row in read_rows(folder)])
        clock.begin()
        fit(
            "train",
            vlm,
            SFT(),
            items,
            batch_size,
            schedule,
            seed=0,
            class_metrics_every=0,
            setting=Setting(None, {}, items, features, batch_size, "tree", 8, 0),
            folder=Path(out),
            runtime=runtime,
            on_step=clock.step,
        )
    return num_trained(vlm.model)


@contextmanager
def quiet_runtime(folder: Path, batch_size: int, steps: int) -> Iterator[Runtime]:
    """One forward pass a step, no checkpoint before the end, and a terminal that nobody sees."""
    with Path("/dev/null").open("w") as screen:
        yield Runtime(
            device="cpu",
            micro_batch_size=batch_size,
            generation_batch_size=batch_size,
            checkpoint_every=steps,
            decoding="tree",
            feature_folder=folder,
            feature_cache_gb=1.0,
            num_processes=1,
            console=Console(file=screen, force_terminal=True),
        )


def unlabelled(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock) -> int:
    """The same, each picture going through the vision tower at each step."""
    return dcsft(folder, batch_size, steps, parts, clock, label=False)


def trl_arguments(out: str, steps: int, lr: float) -> dict[str, object]:
    """What both of TRL's trainers are told: as ours, and nothing beside the training."""
    return dict(
        output_dir=out,
        max_steps=steps,
        learning_rate=lr,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler_type="cosine",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        seed=0,
    )


def peft_lora(dropout: float, parts: str) -> object:
    """The LoRA of `policy`, for a trainer that injects it itself."""
    from peft import LoraConfig

    others = None if parts == "all" else r".*visual.*"
    targets = dict(target_modules="all-linear", exclude_modules=others)
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, **targets)


def ticks(clock: Clock) -> object:
    """The clock as a callback of transformers."""
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            clock.begin()

        def on_step_end(self, *_: object, **__: object) -> None:
            clock.step()

    return Ticks()


def trl(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock) -> int:
    """TRL's SFTTrainer as it comes; it logs every ten steps, we every step."""
    from datasets import Dataset, Image, List
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    from dcsft.models.processors import load_processor

    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}],
            "images": [row["picture"]],
        }
        for row in read_rows(folder)
    ]
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=AutoModelForImageTextToText.from_pretrained(folder / "model"),
            args=SFTConfig(
                **trl_arguments(out, steps, LR),
                per_device_train_batch_size=batch_size,
                max_length=None,
                completion_only_loss=True,
            ),
            train_dataset=Dataset.from_list(rows).cast_column("images", List(Image())),
            processing_class=load_processor(folder / "model"),
            callbacks=[ticks(clock)],
            peft_config=peft_lora(DROPOUT, parts),
        )
        trainer.train()
    return num_trained(trainer.model)


SIDES = {"trl": trl, "bare": bare_loop, "dcsft": dcsft, "unlabelled": unlabelled}


def main(sides: Mapping[str, Callable[[Path, int, int, str, Clock], int]]) -> None:
    side, folder, batch_size, steps, parts = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clock = Clock()
    trained = sides[side](Path(folder), int(batch_size), int(steps), parts, clock)
    memory = {"loaded_mib": clock.loaded_mib, "step_mib": peak_mib() - clock.loaded_mib}
    print(json.dumps({"rate": clock.rate(), "trained": trained, **memory}))


if __name__ == "__main__":
    main(SIDES)
