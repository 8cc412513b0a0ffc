"""`python train.py ... stage=export` as a user runs it: a folder that transformers loads with nothing of ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from miniatures import ask, picture
from transformers import AutoModelForImageTextToText, AutoProcessor

from dcsft.config import CONF
from dcsft.models.render import append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vlm import VLM
from dcsft.stages import export
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

ROOT = CONF.parent
SMALL = ("task.num_train=60", "task.num_cold_start=32", "task.num_test=20", "train.steps=3", "subset=all")
ROWS = [ask(picture(str(i)), "What is this?") for i in range(3)]


@torch.no_grad()
def _logits(vlm: VLM) -> torch.Tensor:
    answers = [tokenize_answer(vlm, "house")] * len(ROWS)
    return completion_logits(vlm, append_completions(vlm, render_prompts(vlm, ROWS), answers))[0]


def test_an_export_is_a_plain_model_with_the_adapters_logits(lora, tmp_path: Path) -> None:
    vlm = lora(trained=True)
    tuned = _logits(vlm)
    export.run(tmp_path / "exports/one", vlm)
    export.run(tmp_path / "exports/one", VLM.load(tmp_path / "exports/one"))  # again, over the first
    names = {path.name for path in (tmp_path / "exports/one").iterdir()}
    assert names >= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("processor_config.json", "preprocessor_config.json", "chat_template.jinja", "dcsft.json"),
    }
    assert not [name for name in names if "adapter" in name]
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["one"]
    torch.testing.assert_close(_logits(VLM.load(tmp_path / "exports/one")), tuned, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_runs_export_answers_as_the_run_with_its_adapter(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", f"outputs={tmp_path}", *SMALL, "stage=export"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    last = finished.stdout.strip().splitlines()[-1]
    assert last.startswith("export: ")
    folder = Path(last.removeprefix("export: "))
    (run,) = (tmp_path / "runs").iterdir()
    assert folder == tmp_path / "exports" / run.name
    assert not (run / "evaluate").exists()  # nothing was evaluated
    policy = VLM.load(run / "cold_start/model")
    cold = _logits(policy)
    policy.load_adapter(run / "train/adapter")
    tuned = _logits(policy)
    assert (tuned - cold).abs().max() > 1e-3

    model = AutoModelForImageTextToText.from_pretrained(folder)  # as anybody would
    processor = AutoProcessor.from_pretrained(folder)
    assert model.generation_config.eos_token_id == policy.model.generation_config.eos_token_id
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    for row, messages in enumerate(ROWS):
        inputs = processor(text=[text], images=[messages[0].content[0].open()], return_tensors="pt")
        with torch.no_grad():
            first = model(**inputs).logits[0, -1]
        torch.testing.assert_close(first, tuned[row * (len(tuned) // 3)], rtol=0, atol=1e-5)


def test_the_foundation_itself_can_be_exported(tmp_path: Path) -> None:
    """What stage=export writes for the baseline, which has no adapter."""
    vlm = VLM.load(FOUNDATION)
    export.run(tmp_path / "plain", vlm)
    assert torch.equal(_logits(VLM.load(tmp_path / "plain")), _logits(vlm))
