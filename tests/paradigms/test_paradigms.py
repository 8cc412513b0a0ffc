"""Every paradigm of conf/ whose code exists: two steps move the tiny model, and a resumed run repeats them."""

import importlib.util
import json
from collections import namedtuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console

from dcsft.config import CONF, build, register
from dcsft.models.vlm import VLM
from dcsft.module import Schedule
from dcsft.stages.cold_start import setting_of
from dcsft.stages.fitting import fit
from dcsft.stages.plan import build_task
from dcsft.stages.runtime import Runtime

Answer = namedtuple("Answer", "token_ids correct finished")
VARIANTS = {"grpo": [[], ["paradigm.num_iterations=2", "paradigm.max_resamples=1"]]}
"""Overrides of a paradigm that change what a checkpoint must hold."""
NAMES = sorted(path.stem for path in (CONF / "paradigm").glob("*.yaml"))


def _composed(name, more=()):
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"paradigm={name}", "task.num_train=24", "subset=all", *more])


EXISTING = [
    name
    for name in NAMES
    if importlib.util.find_spec(_composed(name).paradigm["_target_"].rpartition(".")[0]) is not None
]


class _Killed(Exception):
    pass


def _run(name, more, folder, lora, killed_after=None):
    cfg = _composed(name, more)
    task, paradigm = build_task(cfg), build(OmegaConf.to_container(cfg.paradigm, resolve=True))
    vlm: VLM = lora()
    examples = task.examples("train")
    tokens = vlm.processor.tokenizer
    kinds = ("easy", "medium", "hard")
    items = [
        item
        for number, example in enumerate(examples)
        for item in paradigm.items(
            vlm,
            task,
            example,
            kinds[number % 3],
            [Answer([*tokens(example.target)["input_ids"], vlm.end_of_turn_id], True, True)],
        )
    ]
    folder.mkdir(exist_ok=True)
    runtime = Runtime("cpu", 4, 8, 1, "tree", folder / "features", 0.01, 1, Console(quiet=True))
    schedule = Schedule(3, 1e-2, (0.9, 0.95), 0.0, 0.0, 1.0)

    def on_step(step, metrics):
        if step == killed_after:
            raise _Killed

    setting = setting_of(vlm, task, examples, items, 6, 0, runtime)
    fit("test", vlm, paradigm, items, 8, schedule, 0, 1, setting, folder, runtime, on_step)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], vlm


def test_a_policy_that_can_no_longer_be_sampled_stops_the_run(lora, tmp_path):
    def broken(*arguments):
        vlm = lora(*arguments)
        next(p for name, p in vlm.model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))
        return vlm

    said = (
        r"log-probabilities of sampled answers must be finite, got others at step 1 on train/.*; try a smaller train.lr"
    )
    with pytest.raises(ValueError, match=said):
        _run("grpo", [], tmp_path, broken)


def test_the_paradigms_are_found():
    assert {"sft", "rs", "grpo"} <= set(EXISTING)


@pytest.mark.parametrize(("name", "more"), [(name, more) for name in EXISTING for more in VARIANTS.get(name, [[]])])
def test_it_trains_with_a_finite_changing_loss_and_resumes_to_the_same_trajectory(name, more, lora, tmp_path):
    lines, trained = _run(name, more, tmp_path / "whole", lora)
    assert len({line["loss"] for line in lines}) == len(lines) == 3
    assert all(torch.isfinite(torch.tensor([line["loss"], line["grad_norm"]])).all() for line in lines)
    assert any(tensor.abs().sum() > 0 for key, tensor in trained.trainable_state().items() if "lora_B" in key)
    for killed_after in (1, 2):  # between a step's rollouts and the next save
        with pytest.raises(_Killed):
            _run(name, more, tmp_path / "resumed", lora, killed_after)
    again, resumed = _run(name, more, tmp_path / "resumed", lora)
    assert again == lines
    for key, tensor in trained.trainable_state().items():
        assert torch.equal(tensor, resumed.trainable_state()[key]), key
