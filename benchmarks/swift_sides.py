"""ms-swift's side of sft.py and grpo.py, by its own command line; runs in an environment of its own, without dcsft.

    .venv-swift/bin/python benchmarks/swift_sides.py {sft|grpo} FOLDER BATCH_SIZE STEPS PARTS

The arguments are those of the paper's release, without DeepSpeed, flash attention and bfloat16; PARTS = all trains the
vision tower and merger too. Two things make it run here:

- its dependency torchvision has no build for a CPU-only PyTorch on every platform: the two operators whose absence
  stops the import are declared, and never called.
- it takes 151655 for the picture token of every Qwen2.5-VL: our small vocabulary has another one.
"""

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

RANK, LR_SFT, LR_GRPO = 32, "1e-4", "1e-5"
G, TOKENS = 8, 8
WARM_UP = 2


def _declare_operators() -> torch.library.Library | None:
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _dataset(task: str, folder: Path, out: Path) -> Path:
    rows = []
    for row in json.loads((folder / "rows.json").read_text()):
        messages = [{"role": "user", "content": "<image>" + row["question"]}]
        if task == "sft":
            messages.append({"role": "assistant", "content": row["answer"]})
        rows.append({"messages": messages, "images": [row["picture"]]})
    path = out / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def _arguments(task: str, folder: Path, batch_size: int, steps: int, parts: str, out: Path) -> list[str]:
    settings = {
        "model": folder / "model",
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": _dataset(task, folder, out),
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.05 if task == "sft" else 0.0,
        "freeze_vit": str(parts == "llm").lower(),
        "freeze_aligner": str(parts == "llm").lower(),
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "use_cpu": "true",
        "max_steps": steps,
        "per_device_train_batch_size": batch_size * (1 if task == "sft" else G),
        "gradient_accumulation_steps": 1,
        "learning_rate": LR_SFT if task == "sft" else LR_GRPO,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine",
        "gradient_checkpointing": "false",
        "vit_gradient_checkpointing": "false",
        "max_length": 512,
        "split_dataset_ratio": 0,
        "load_from_cache_file": "false",
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "logging_steps": 10,
        "report_to": "none",
        "output_dir": out / "run",
    }
    if task == "grpo":
        settings |= {
            "rlhf_type": "grpo",
            "reward_funcs": "length",
            "use_vllm": "false",
            "num_generations": G,
            "max_completion_length": TOKENS,
            "temperature": 0.9,
            "top_p": 1.0,
            "beta": 0.04,
            "log_completions": "false",
        }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def main() -> None:
    task, folder, batch_size, steps, parts = sys.argv[1:]
    library = _declare_operators()  # declared for as long as it is referred to
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "MODELSCOPE_CACHE": str(out / "cache")}
        arguments = _arguments(task, Path(folder), int(batch_size), int(steps), parts, out)
        sys.argv = [task, *arguments]
        result = _train(task, json.loads(Path(folder, "model", "config.json").read_text()), arguments)
    del library
    print(json.dumps(result))


def _train(task: str, config: dict[str, object], arguments: list[str]) -> dict[str, object]:
    ends: list[float] = []
    found: dict[str, object] = {}
    from swift.pipelines import rlhf_main, sft_main
    from swift.rewards import ORM, orms
    from swift.template.templates.qwen import Qwen2VLTemplate
    from transformers import Trainer, TrainerCallback

    class Ticks(TrainerCallback):
        def on_train_begin(self, args: object, state: object, control: object, model: torch.nn.Module, **_) -> None:
            found["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            found["loaded_mib"] = _peak_mib()

        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.process_time())

        def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **_: object) -> None:
            if "completions/mean_length" in logs:
                found["tokens"] = logs["completions/mean_length"]

    class Length(ORM):
        def __call__(self, completions: list[str], **_: object) -> list[float]:
            return [float(len(completion) % 3) for completion in completions]

    orms["length"] = Length
    Qwen2VLTemplate.image_token_id, Qwen2VLTemplate.video_token_id = config["image_token_id"], config["video_token_id"]
    usual = Trainer.train

    def train(self: Trainer, *args: object, **kwargs: object) -> object:
        self.add_callback(Ticks())
        return usual(self, *args, **kwargs)

    Trainer.train = train
    (sft_main if task == "sft" else rlhf_main)(arguments)
    steps = len(ends) - WARM_UP
    packages = {"ms-swift": "ms-swift", "its transformers": "transformers", "its trl": "trl", "its peft": "peft"}
    return {
        "rate": steps / (ends[-1] - ends[WARM_UP - 1]),
        "step_mib": _peak_mib() - found["loaded_mib"],
        "versions": {name: version(package) for name, package in packages.items()},
        **found,
    }


if __name__ == "__main__":
    main()
