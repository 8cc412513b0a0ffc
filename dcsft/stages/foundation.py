"""foundation: train the tiny model from nothing (see models/pretrain.py). Writes a folder like any of the Hub's."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dcsft.models.pretrain import Phase, pretrain_language, pretrain_vision
from dcsft.models.tiny import build_model, build_processor, build_tokenizer
from dcsft.models.vlm import VLM
from dcsft.stages.runtime import Ledger, Runtime
from dcsft.tasks.foundation_mix import DIGIT_QUESTION, ICON_QUESTION, QUESTIONS, Mix, draw_pool

MODEL = "model"


def run(folder: Path, recipe: dict, runtime: Runtime) -> None:
    """Train by `recipe` (conf/model/tiny.yaml) into `folder`/model."""
    mix = Mix(**{name: tuple(value) if isinstance(value, list) else value for name, value in recipe["mix"].items()})
    ledger = Ledger(folder)

    def progress(title: str, steps: Iterable[int], total: int) -> Iterator[int]:
        with runtime.bar(f"foundation: {title}", total) as bar:
            for step in steps:
                yield step
                bar.advance(step + 1)

    with runtime.bar("foundation: pictures", mix.num_pictures) as bar:
        pictures, numbers, done = [], [], 0
        for some, their_numbers in draw_pool(mix, runtime.num_processes):
            pictures.append(some)
            numbers.append(their_numbers)
            done += len(some)
            bar.advance(done)
    pictures, numbers = np.concatenate(pictures), np.concatenate(numbers)

    sentences = (*QUESTIONS, ICON_QUESTION, DIGIT_QUESTION, "system\nYou are a helpful assistant.", "user\nassistant\n")
    tokenizer = build_tokenizer([*mix.words(), *sentences * 30], recipe["vocab_size"])
    processor = build_processor(tokenizer, recipe["min_pixels"], recipe["max_pixels"])
    sizes = {name: recipe[name] for name in ("hidden_size", "num_layers", "num_heads")}
    sizes |= {name: recipe[name] for name in ("vision_hidden_size", "vision_depth")}
    vlm = VLM(build_model(tokenizer, recipe["seed"], **sizes), processor)
    seed = recipe["seed"]
    vision, language = Phase(**recipe["vision"]), Phase(**recipe["language"])
    pretrain_vision(vlm.model, processor, pictures, numbers, len(mix.names), vision, seed, folder, progress)
    alias_probability = mix.alias_probability()

    def caption(row: int, rng: np.random.Generator) -> tuple[str, str]:
        number = int(numbers[row])
        return mix.question(number, rng), mix.caption(number, rng, alias_probability)

    pretrain_language(vlm, pictures, caption, language, seed, folder, progress)
    vlm.save(folder / MODEL)
    for name in ("vision.pt", "language.pt"):
        (folder / name).unlink()
    ledger.save(vlm.meter)
