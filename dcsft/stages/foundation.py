"""foundation: train the tiny model from nothing (see models/pretrain.py). Writes a folder like any of the Hub's."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dcsft.models.pretrain import Gaze, Lesson, Phase, pretrain_detection, pretrain_language, pretrain_vision
from dcsft.models.tiny import build_model, build_processor, build_tokenizer
from dcsft.models.vlm import VLM
from dcsft.stages.runtime import Ledger, Runtime
from dcsft.tasks import scene_mix
from dcsft.tasks.foundation_mix import DIGIT_QUESTION, ICON_QUESTION, QUESTIONS, Mix, draw_pool

MODEL = "model"
_TEMPLATE_WORDS = ("system\nYou are a helpful assistant.", "user\nassistant\n")
CORPUS = 3000  # questions that the tokenizer learns its words from


class _Training:
    """What the worlds share: progress on the screen, the model and the two phases of its recipe."""

    def __init__(self, folder: Path, recipe: dict[str, Any], runtime: Runtime) -> None:
        self.folder, self.recipe, self.runtime = folder, recipe, runtime
        self.vision, self.language = Phase(**recipe["vision"]), Phase(**recipe["language"])
        self.mix = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe["mix"].items()}

    def progress(self, title: str, steps: Iterable[int], total: int) -> Iterator[int]:
        with self.runtime.bar(f"foundation: {title}", total) as bar:
            for step in steps:
                yield step
                bar.advance(step + 1)

    def collect(self, chunks: Iterable[tuple[NDArray, ...]], total: int) -> Iterator[NDArray]:
        """The arrays of all chunks, joined."""
        with self.runtime.bar("foundation: pictures", total) as bar:
            collected, done = [], 0
            for chunk in chunks:
                collected.append(chunk)
                done += len(chunk[0])
                bar.advance(done)
        return map(np.concatenate, zip(*collected, strict=True))

    def build(self, corpus: Sequence[str]) -> VLM:
        """The model as it begins."""
        recipe = self.recipe
        tokenizer = build_tokenizer(corpus, recipe["vocab_size"])
        processor = build_processor(tokenizer, recipe["min_pixels"], recipe["max_pixels"])
        sizes = {name: recipe[name] for name in ("hidden_size", "num_layers", "num_heads")}
        sizes |= {name: recipe[name] for name in ("vision_hidden_size", "vision_depth")}
        return VLM(build_model(tokenizer, recipe["seed"], **sizes), processor)


def _icons(training: _Training) -> VLM:
    """Captions of single icons and digits."""
    mix, seed = Mix(**training.mix), training.recipe["seed"]
    pictures, numbers = training.collect(draw_pool(mix, training.runtime.num_processes), mix.num_pictures)
    sentences = (*QUESTIONS, ICON_QUESTION, DIGIT_QUESTION, *_TEMPLATE_WORDS)
    vlm = training.build([*mix.words(), *sentences * 30])
    told, end = (training.folder, training.progress), len(mix.names)
    pretrain_vision(vlm.model, vlm.processor, pictures, numbers, end, training.vision, seed, *told)
    alias_probability = mix.alias_probability()

    def lesson(row: int, rng: np.random.Generator) -> Lesson:
        number = int(numbers[row])
        return Lesson(mix.question(number, rng), mix.caption(number, rng, alias_probability))

    pretrain_language(vlm, pictures, lesson, training.language, seed, *told)
    return vlm


def _scenes(training: _Training) -> VLM:
    """Boxes and letters on scenes of several icons."""
    mix, seed = scene_mix.SceneMix(**training.mix), training.recipe["seed"]
    pool = scene_mix.draw_pool(mix, training.runtime.num_processes)
    pictures, labels, edges = training.collect(pool, mix.num_pictures)
    vlm = training.build([*scene_mix.corpus(mix, CORPUS), *_TEMPLATE_WORDS * 30])
    told = (training.folder, training.progress)
    words = [[_token_of(vlm.processor.tokenizer, name) for name in names] for names in scene_mix.ATTRIBUTES]
    pretrain_detection(vlm.model, vlm.processor, pictures, labels, edges, words, training.vision, seed, *told)

    scenes = [mix.layout(index) for index in range(mix.num_pictures)]

    def lesson(row: int, rng: np.random.Generator) -> Lesson:
        question, answer, icon = mix.ask(scenes[row], rng)
        return Lesson(question, answer, None if icon is None else scene_mix.tokens_of(icon))

    pretrain_language(vlm, pictures, lesson, training.language, seed, *told, Gaze(words, labels))
    return vlm


def _token_of(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """The token of a word inside a sentence."""
    ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"model.foundation.vocab_size must be large enough for {word!r} to be one token, got {len(tokenizer)}; "
            "raise it"
        )
    return ids[0]


_WORLDS = {"icons": _icons, "scenes": _scenes}


def run(folder: Path, world: str, recipe: dict[str, Any], runtime: Runtime) -> None:
    """Train by `recipe` (conf/model/tiny.yaml, conf/model/tiny_scenes.yaml) into `folder`/model."""
    ledger = Ledger(folder)
    vlm = _WORLDS[world](_Training(folder, recipe, runtime))
    vlm.save(folder / MODEL)
    for name in ("vision.pt", "language.pt"):
        (folder / name).unlink()
    ledger.save(vlm.meter)
