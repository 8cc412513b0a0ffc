"""Randomly initialised miniatures of the real architectures, each with its real processor, and pictures for them.

Their weights are larger than a fresh model's, so that logits differ from token to token and a wrong mask or position
shows. About 200,000 parameters each; built in some 20 ms.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import other_miniatures
import torch
from PIL import Image
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2 import Qwen2Tokenizer

from dcsft.models.processors import SettingsOnlyVideoProcessor, allow_missing_torchvision
from dcsft.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture
from dcsft.seeding import stream

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_windowed", "qwen3_vl")
"""Qwen's; `ALL` has the others too."""
ALL = (*FAMILIES, "internvl", "llava_onevision", "gemma3", "mllama")
WITH_FEATURES = FAMILIES[:3]
"""Those that take picture features computed earlier."""

HIDDEN = 48
WORDS = ("What is this?", "You are a helpful assistant.", "system user assistant", "house tree goldfish hot dog")


@cache
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer(WORDS * 4, vocab_size=300)


def _processor(family: str) -> ProcessorMixin:
    allow_missing_torchvision()
    patch = 16 if family == "qwen3_vl" else 14
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 196 * 4 * patch**2}  # 1 to 196 merged tokens
    kind = {"qwen2_vl": Qwen2VLProcessor, "qwen3_vl": Qwen3VLProcessor}.get(family, Qwen2_5_VLProcessor)
    video = SettingsOnlyVideoProcessor(video_processor_type="Qwen2VLVideoProcessor")
    pictures = Qwen2VLImageProcessorPil(size=size, patch_size=patch)
    return kind(pictures, tokenizer(), video, chat_template=CHAT_TEMPLATE)


def _model(family: str) -> PreTrainedModel:
    ids = {token: tokenizer().convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    rope = dict(rope_type="default", rope_theta=10_000.0, mrope_section=[2, 2, 2])  # of head_dim 12
    text = dict(
        vocab_size=len(tokenizer()),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters=rope,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    vision = dict(depth=2, num_heads=4)
    both = dict(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    if family == "qwen2_vl":
        vision |= dict(embed_dim=32, hidden_size=HIDDEN, mlp_ratio=2)
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **both))
    vision |= dict(hidden_size=32, intermediate_size=64, out_hidden_size=HIDDEN)
    if family == "qwen3_vl":
        text |= dict(head_dim=12, rope_parameters=rope | dict(mrope_interleaved=True))
        vision |= dict(num_position_embeddings=64, deepstack_visual_indexes=[0])
        return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **both))
    text |= dict(tie_word_embeddings=True)
    # A window is 112 px: larger pictures have several. Every block attends to the whole picture, or the last alone.
    vision |= dict(fullatt_block_indexes=[1] if family == "qwen2_5_vl_windowed" else [0, 1])
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **both))


def miniature(family: str, seed: int = 0) -> VLM:
    """A fresh one, in eval mode."""
    torch.manual_seed(seed)  # what stays as it was initialised
    model = _model(family) if family in FAMILIES else other_miniatures.model(family, WORDS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)  # norms and biases
                if name.endswith("gate"):
                    parameter.add_(1)  # mllama's pictures come in through gates, closed in a fresh model
            else:
                embedding = "embed_tokens" in name
                parameter.copy_(noise * (0.3 if embedding else parameter[0].numel() ** -0.5))
    processor = _processor(family) if family in FAMILIES else other_miniatures.processor(family, WORDS)
    vlm = VLM(model.eval(), processor)
    model.generation_config.eos_token_id = [vlm.end_of_turn_id, vlm.pad_id]
    model.generation_config.pad_token_id = vlm.pad_id
    return vlm


def picture(name: str, width: int = 56, height: int = 56) -> Picture:
    """Random pixels that `name` and the size choose."""
    name = f"{name}-{width}x{height}"
    pixels = stream("miniature", name).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(name, lambda: Image.fromarray(pixels))


def ask(*content: str | Picture) -> list[Message]:
    """A conversation of one question."""
    return [Message("user", content)]


MIXED = (
    ask(picture("a"), "What is this?"),
    ask("What is a tree? " * 6),
    ask(picture("b", 140, 56), "And", picture("c", 56, 84), "what is this? It is a house, or is it a tree?"),
    ask(picture("d", 168, 168), "?"),
)
"""Conversations of different length: one, no and two pictures of four sizes."""


def log_probs(vlm: VLM, messages: Sequence[Message], answer: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """[T] log-probabilities of the answer's tokens by one plain forward of transformers, which finds positions itself.

    Placeholder tokens of pictures have no probability, as when an answer is sampled.
    """
    chat = [{"role": m.role, "content": [_part(content) for content in m.content]} for m in messages]
    text = vlm.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    images = [part.open() for m in messages for part in m.content if isinstance(part, Picture)]
    encoded = vlm.processor(
        text=[text], images=[images] if images else None, add_special_tokens=False, return_tensors="pt"
    )
    tail = torch.tensor([list(answer)])
    inputs = dict(encoded) | {"input_ids": torch.cat([encoded["input_ids"], tail], 1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in {"mm_token_type_ids", "token_type_ids", "cross_attention_mask"} & set(inputs):
        field = encoded[name]  # no picture after the prompt; mllama looks on at the last one
        inputs[name] = torch.cat([field, field[:, -1:].expand(-1, len(answer), *field.shape[2:])], 1)
    with torch.no_grad():
        logits = vlm.model(**inputs, use_cache=False).logits[0, -len(answer) - 1 : -1].float()
    logits[:, vlm.picture_ids] = float("-inf")
    return (logits / temperature).log_softmax(-1).gather(-1, tail[0][:, None])[:, 0]


def _part(content: str | Picture) -> dict[str, str]:
    return {"type": "image"} if isinstance(content, Picture) else {"type": "text", "text": content}
