"""One side of grpo.py, in a process of its own: take some GRPO steps, print steps a CPU second and memory as JSON.

    python benchmarks/grpo_sides.py SIDE FOLDER PROMPTS STEPS all

All sides: the same prompts, 8 completions of 8 tokens each, the same reward, the KL penalty to the model without its
adapter, LoRA on every linear layer, AdamW, gradients clipped, one update on each batch of rollouts.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_model import QUESTION, picture, read_rows
from sft_sides import (
    BETAS,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    Clock,
    main,
    num_trained,
    peft_lora,
    policy,
    quiet_runtime,
    ticks,
    trl_arguments,
)

from dcsft.module import Schedule
from dcsft.paradigms.grpo import GRPO
from dcsft.paradigms.paradigm import Setting
from dcsft.records import Example, Score
from dcsft.rewards.reward import Reward
from dcsft.stages.fitting import fit
from dcsft.tasks.task import Task

G, TOKENS, TEMPERATURE, KL, LR = 8, 8, 0.9, 0.04, 1e-5


def reward_of(text: str) -> float:
    """Differs within a group, whatever a random model says."""
    return float(len(text) % 3)


class _Length(Reward):
    def __call__(self, text: str, target: str, options: Sequence[str] = ()) -> Score:
        return Score(correct=None, reward=reward_of(text))


class _Photos(Task):
    def __init__(self, folder: Path) -> None:
        super().__init__(_Length(), QUESTION)
        self.rows = read_rows(folder)

    @property
    def ood(self) -> tuple[str, ...]:
        return ()

    def examples(self, split: str) -> list[Example]:
        return [Example(row["picture"], split, (picture(row["picture"]),), row["answer"]) for row in self.rows]

    def identity(self, split: str) -> dict[str, object]:
        return {}


def dcsft(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock) -> int:
    """The train stage's fitting, its progress bar drawn as on a terminal."""
    vlm = policy(folder, 0.0, parts)
    paradigm = GRPO(
        num_completions=G,
        temperature=TEMPERATURE,
        num_iterations=1,
        max_resamples=0,
        warm_start_batches=0,
        kl=KL,
        delta=1e-4,
        epsilon_low=0.2,
        epsilon_high=0.2,
        scaling="std",
        level="token",
        aggregation="sequence",
    )
    task = _Photos(folder)
    examples = {example.id: example for example in task.examples("train")}
    items = [item for example in examples.values() for item in paradigm.items(vlm, task, example, None, [])]
    with tempfile.TemporaryDirectory() as out, quiet_runtime(Path(out), batch_size, steps) as runtime:
        clock.begin()
        fit(
            "train",
            vlm,
            paradigm,
            items,
            batch_size,
            Schedule(steps, LR, BETAS, WEIGHT_DECAY, warmup_ratio=0.1, max_grad_norm=MAX_GRAD_NORM),
            seed=0,
            class_metrics_every=0,
            setting=Setting(task, examples, items, None, batch_size, "tree", TOKENS, 0),
            folder=Path(out),
            runtime=runtime,
            on_step=clock.step,
        )
    return num_trained(vlm.model)


def trl(folder: Path, batch_size: int, steps: int, parts: str, clock: Clock) -> int:
    """TRL's GRPOTrainer as it comes, sampling with transformers; it logs every ten steps, we every step."""
    from datasets import Dataset, Image
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer

    from dcsft.models.processors import load_processor
    from dcsft.models.vlm import VLM

    def reward(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
        return [reward_of(completion[0]["content"]) for completion in completions]

    rows = [{"prompt": [{"role": "user", "content": QUESTION}], "image": row["picture"]} for row in read_rows(folder)]
    picture_ids = VLM.load(folder / "model").picture_ids
    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(folder / "model"),
            args=GRPOConfig(
                **trl_arguments(out, steps, LR),
                per_device_train_batch_size=batch_size * G,
                num_generations=G,
                max_completion_length=TOKENS,
                # All sides sample the same number of tokens, and none a placeholder of a picture.
                generation_kwargs=dict(min_new_tokens=TOKENS, suppress_tokens=picture_ids),
                temperature=TEMPERATURE,
                beta=KL,
                loss_type="grpo",
            ),
            reward_funcs=reward,
            train_dataset=Dataset.from_list(rows).cast_column("image", Image()),
            processing_class=load_processor(folder / "model"),
            callbacks=[ticks(clock)],
            peft_config=peft_lora(0.0, parts),
        )
        trainer.train()
    lengths = trainer._metrics["train"]["completions/mean_length"] or [TOKENS]
    assert set(lengths) == {float(TOKENS)}, lengths  # or the sides would not do the same work
    return num_trained(trainer.model)


SIDES = {"trl": trl, "dcsft": dcsft}


if __name__ == "__main__":
    main(SIDES)
