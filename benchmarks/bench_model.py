"""The model and the data of the benchmarks: a random Qwen2.5-VL of middle size, and synthetic photos.

Random weights do as well as trained ones: only the work is measured, never an answer.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from dcsft.models.render import render_prompts
from dcsft.models.tiny import build_model, build_processor, build_tokenizer
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture

REAL_VOCABULARY = 151_936
"""Qwen2.5-VL's."""
SIDE, LARGE_SIDE = 224, 448
"""Pixels: 64 and 256 merged picture tokens."""
NAMES = ("goldfish", "tabby cat", "sports car", "pizza", "mushroom", "jellyfish", "ambulance", "bald eagle")
QUESTION = "what type of object is in this photo? please output only the name."
FILLER = " please look at it closely"

_SYSTEM = "system user assistant\nYou are a helpful assistant."


def build(folder: Path, num_pictures: int, vocab_size: int | None = None, side: int = SIDE) -> None:
    """Write `folder`/model, `folder`/pictures and `folder`/rows.json.

    Args:
        side: of the square pictures, in pixels.
        vocab_size: of the model; None: that of its tokenizer, 448.
    """
    tokenizer = build_tokenizer([QUESTION, FILLER, _SYSTEM, *NAMES] * 4, 448)
    config = build_model(
        tokenizer, seed=0, hidden_size=256, num_layers=4, num_heads=4, vision_hidden_size=128, vision_depth=4
    ).config
    config.vision_config.fullatt_block_indexes = [3]  # the others attend within windows, as in the real model
    if vocab_size is not None:
        config.text_config.vocab_size = vocab_size
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # Picture tokens are never sampled, so an answer never ends: all ways sample the same number of tokens.
    model.generation_config.eos_token_id = config.video_token_id
    model.save_pretrained(folder / "model")
    build_processor(tokenizer, min_pixels=28 * 28, max_pixels=side * side).save_pretrained(folder / "model")
    (folder / "pictures").mkdir()
    rows = []
    for number in range(num_pictures):
        path = folder / "pictures" / f"{number}.png"
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        rows.append({"picture": str(path.resolve()), "question": QUESTION, "answer": NAMES[number % len(NAMES)]})
    (folder / "rows.json").write_text(json.dumps(rows))


def read_rows(folder: Path) -> list[dict[str, str]]:
    """`picture` (a file), `question` and `answer` of each row."""
    return json.loads((folder / "rows.json").read_text())


def picture(path: str) -> Picture:
    """A picture that is read from its file each time it is looked at."""
    return Picture(path, lambda: Image.open(path).convert("RGB"))


def question_of(vlm: VLM, path: str, num_tokens: int) -> str:
    """The question, lengthened until its prompt has at least `num_tokens` tokens."""
    question = QUESTION
    while prompt_tokens(vlm, path, question) < num_tokens:
        question += FILLER
    return question


def prompt_tokens(vlm: VLM, path: str, question: str) -> int:
    """Tokens of the prompt with one picture."""
    return render_prompts(vlm, [[Message("user", (picture(path), question))]]).lengths[0]
