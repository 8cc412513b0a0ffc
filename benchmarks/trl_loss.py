"""What TRL's GRPOTrainer makes of given completions and rewards: figures that a test compares our losses with.

    python benchmarks/trl_loss.py

Writes tests/references/trl_grpo.json: the case (prompts, completions, rewards, earlier log-probabilities) and, for each
published algorithm, TRL's loss, KL, share of clipped tokens, and gradients. Float32, no dropout, the shipped model.
TRL renders the prompts, normalises the rewards, and runs the reference and the policy itself; handed to it are the
completions (through its `rollout_func`), the adapter, and the log-probabilities of an earlier policy.

Three differences are evened out:

- TRL's softmax takes in the placeholder tokens of pictures, ours leaves them out, because a rollout never draws them.
  Here TRL's output head gives them a bias of -10,000, so that their probability is zero.
- TRL multiplies the KL penalty by the ratio unless `use_bias_correction_kl=False` (arXiv 2512.02556); equations 3 and 5
  of DC-SFT do not. On policy the values are the same, but not the gradients.
- TRL leaves it to the processor on which side prompts are padded, and looks for pictures in the wrong place unless
  that is the left one.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

import dcsft.models
from dcsft.models.processors import load_processor
from dcsft.models.vlm import VLM
from dcsft.records import PARTS
from dcsft.seeding import stream

MODEL = Path(dcsft.models.__file__).parent / "foundation"
REFERENCE = Path(__file__).parents[1] / "tests" / "references" / "trl_grpo.json"

G, TEMPERATURE, DELTA, MAX_TOKENS, RANK, ALPHA = 4, 0.9, 1e-4, 8, 4, 8
PROMPTS = (("What is this?", 1), ("Compare these two pictures: what is in the second?", 2), ("Name it.", 1))
"""Questions, and how many pictures come before each."""
REWARDS = ((1.0, 0.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0), (0.3, 0.0, 0.7, 1.0))
"""The second group has no variance."""
ADAPTER_SCALE, OLD_SCALE = 0.05, 0.3
"""Standard deviation of the adapter's weights, and of how far an earlier policy's log-probabilities lie off."""


@dataclass(frozen=True)
class Algorithm:
    """One published algorithm, in our words and in TRL's."""

    scaling: str
    level: str
    aggregation: str
    epsilon_low: float
    epsilon_high: float
    kl: float
    loss_type: str
    """TRL's name for the aggregation."""

    def config(self, folder: str) -> GRPOConfig:
        return GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(PROMPTS) * G,
            num_generations=G,
            max_completion_length=MAX_TOKENS,
            temperature=TEMPERATURE,
            beta=self.kl,
            epsilon=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            scale_rewards={"std": "group", "none": "none"}[self.scaling],
            importance_sampling_level=self.level,
            loss_type=self.loss_type,
            use_bias_correction_kl=False,  # times the ratio: not in equation 5
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        )


ALGORITHMS = {
    "GRPO": Algorithm("std", "token", "sequence", 0.2, 0.2, 0.04, "grpo"),
    "Dr. GRPO": Algorithm("none", "token", "constant", 0.2, 0.2, 0.0, "dr_grpo"),
    "DAPO": Algorithm("std", "token", "token", 0.2, 0.28, 0.0, "dapo"),
    "GSPO": Algorithm("std", "sequence", "sequence", 0.05, 0.08, 0.0, "grpo"),
    # not published, but a choice of arguments like any other: each of the above with the other's terms
    "token mean with a penalty": Algorithm("none", "token", "token", 0.2, 0.2, 0.04, "dapo"),
    "constant with a penalty": Algorithm("std", "token", "constant", 0.1, 0.3, 0.04, "dr_grpo"),
    "sequence ratio with a penalty": Algorithm("std", "sequence", "sequence", 0.05, 0.05, 0.04, "grpo"),
}


def pictures(number: int) -> list[Image.Image]:
    """Those of prompt `number`: noise, each of the size that the processor keeps."""
    named = (stream("trl", number, place) for place in range(PROMPTS[number][1]))
    return [Image.fromarray(noise.integers(0, 256, (56, 56, 3), "uint8")) for noise in named]


def completions(vlm: VLM) -> list[list[list[int]]]:
    """G for each prompt, of 1 to 6 ordinary tokens."""
    numbers = stream("trl", "completions")
    ordinary = sorted(set(range(vlm.processor.tokenizer.vocab_size)) - set(vlm.processor.tokenizer.all_special_ids))
    ordinary = [token for token in ordinary if token not in vlm.picture_ids]
    return [[numbers.choice(ordinary, length).tolist() for length in numbers.integers(1, 7, G)] for _ in PROMPTS]


def set_adapter(model: nn.Module) -> None:
    """Not as LoRA starts, where policy and reference are one and half of the gradients are zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = stream("trl", name).standard_normal(tuple(parameter.shape))
                parameter.copy_(ADAPTER_SCALE * torch.from_numpy(noise))


def rows() -> list[dict[str, object]]:
    """What TRL's data loader would hand over: each prompt G times."""
    return [
        {
            "prompt": [{"role": "user", "content": question}],
            "images": pictures(number),
            "given": REWARDS[number][place],
        }
        for number, (question, _) in enumerate(PROMPTS)
        for place in range(G)
    ]


@contextmanager
def trainer_of(algorithm: Algorithm, targets: list[str], answers: list[list[list[int]]]) -> Iterator[GRPOTrainer]:
    """TRL's trainer, whose rollouts are `answers`."""

    def rollout(prompts: list[object], trainer: GRPOTrainer) -> dict[str, object]:
        flat = [completion for group in answers for completion in group]
        return {"prompt_ids": trainer._tokenize_prompts(prompts)[0], "completion_ids": flat, "logprobs": None}

    def reward(given: list[float], **_: object) -> list[float]:
        return given

    processor = load_processor(MODEL)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(MODEL)
    model.lm_head.bias = nn.Parameter(torch.zeros(model.lm_head.out_features), requires_grad=False)
    model.lm_head.bias[VLM.load(MODEL).picture_ids] = -1e4
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            args=algorithm.config(folder),
            reward_funcs=reward,
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows()]),
            processing_class=processor,
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets),
            rollout_func=rollout,
        )
        trainer.current_gradient_accumulation_steps = 1  # what `train()` sets
        trainer.model.train()
        set_adapter(trainer.model.get_base_model())
        yield trainer


def run(trainer: GRPOTrainer, logp_old: torch.Tensor | None) -> dict[str, object]:
    """Loss and gradients of one step."""
    inputs = trainer._generate_and_score_completions(rows())
    if logp_old is not None:
        inputs["old_per_token_logps"] = logp_old
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    metrics = trainer._metrics["train"]
    return {
        "advantages": inputs["advantages"].view(-1, G).tolist(),
        "loss": float(loss.detach()),
        "kl": metrics["kl"][-1] if trainer.beta else None,
        "clipped": metrics["clip_ratio/region_mean"][-1],
        "gradients": {
            name: probe(parameter.grad)
            for name, parameter in trainer.model.get_base_model().named_parameters()
            if parameter.requires_grad
        },
    }


def probe(gradient: torch.Tensor) -> list[float]:
    """Two numbers that a gradient must match: its norm, and its product with (cos 0, cos 1, cos 2, ...)."""
    flat = gradient.double().flatten()
    return [float(flat.norm()), float(flat @ torch.arange(len(flat), dtype=torch.float64).cos())]


def earlier_policy(trainer: GRPOTrainer) -> torch.Tensor:
    """Log-probabilities [R, T] that lie off the policy's, to both sides and beyond what is clipped."""
    inputs = trainer._generate_and_score_completions(rows())
    with torch.no_grad():
        logp, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
            **{name: inputs[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
        )
    noise = torch.from_numpy(stream("trl", "earlier policy").standard_normal(tuple(logp.shape)))
    return ((logp + OLD_SCALE * noise).clamp(max=-0.01) * inputs["completion_mask"]).round(decimals=4)


def rounded(value: object) -> object:
    """Floats to eight digits: more than float32 has."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def main() -> None:
    torch.set_num_threads(1)
    vlm = VLM.load(MODEL)
    answers = completions(vlm)
    vlm.add_lora(r=RANK, alpha=ALPHA, dropout=0.0, parts=PARTS, seed=0)
    targets = sorted({name.split(".lora_")[0] for name in vlm.trainable_state()})
    with trainer_of(ALGORITHMS["GRPO"], targets, answers) as trainer:
        logp_old = earlier_policy(trainer)
    cases = []
    for name, algorithm in ALGORITHMS.items():
        for on_policy in (True, False):
            with trainer_of(algorithm, targets, answers) as trainer:
                found = run(trainer, None if on_policy else logp_old)
            arguments = {key: value for key, value in vars(algorithm).items() if key != "loss_type"}
            cases.append({"name": name, "on_policy": on_policy, "arguments": arguments, **found})
            print(f"{name:30} on policy: {on_policy!s:5} loss {found['loss']:.6f}  clipped {found['clipped']:.3f}")
    lengths = iter(len(completion) for group in answers for completion in group)
    flat = [row[: next(lengths)] for row in logp_old.tolist()]
    reference = {
        "made_by": "python benchmarks/trl_loss.py",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
        "temperature": TEMPERATURE,
        "delta": DELTA,
        "max_tokens": MAX_TOKENS,
        "lora": {"r": RANK, "alpha": ALPHA, "dropout": 0.0},
        "adapter_scale": ADAPTER_SCALE,
        "prompts": PROMPTS,
        "completions": answers,
        "rewards": REWARDS,
        "logp_old": [flat[start : start + G] for start in range(0, len(flat), G)],
        "cases": cases,
    }
    text = json.dumps(rounded(reference))
    REFERENCE.write_text(text.replace('{"name"', '\n{"name"').replace(', "gradients"', ',\n "gradients"') + "\n")
    print(f"written to {REFERENCE}")


if __name__ == "__main__":
    main()
