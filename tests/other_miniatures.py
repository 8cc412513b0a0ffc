"""Miniatures of the architectures that are not Qwen's: true models and processors, with tokenizers made here.

Their tokenizers have the special tokens, and their templates the words, of the published models.
"""

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    GemmaTokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2 import Qwen2Tokenizer

from dcsft.models.processors import SettingsOnlyVideoProcessor, allow_missing_torchvision

HIDDEN = 48
TILE = 56  # pixels; 4 x 4 patches
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPECIAL = {
    "internvl": (*_CHATML, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "llava_onevision": (*_CHATML, "<image>", "<video>"),
    "gemma3": (
        *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    ),
    "mllama": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        *("<|finetune_right_pad_id|>", "<|python_tag|>", "<|image|>"),
    ),
}
"""In mllama's the picture is last: its id is one beyond what the output head knows, as in the published weights."""


def _template(start: str, opening: str, image: str, closing: str, answer: str) -> str:
    """A chat template in which `opening` has ROLE for who speaks."""
    before, after = opening.split("ROLE")
    return (
        f"{{{{ {start!r} }}}}{{% for message in messages %}}"
        f"{{{{ {before!r} + message.role + {after!r} }}}}"
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{{{{ {image!r} }}}}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{{{{ {closing!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer!r} }}}}{{% endif %}}"
    )


_TEMPLATES = {
    "internvl": _template(
        "", "<|im_start|>ROLE\n", "<IMG_CONTEXT>\n", "<|im_end|>\n", "<|im_start|>assistant\n"
    ),
    "llava_onevision": _template("", "<|im_start|>ROLE\n", "<image>\n", "<|im_end|>", "<|im_start|>assistant\n"),
    "gemma3": _template(
        "<bos>", "<start_of_turn>ROLE\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n"
    ),
    "mllama": _template(
        "<|begin_of_text|>", "<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|image|>", "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}  # fmt: skip


def _bpe(words: Sequence[str], gemma: bool) -> Tokenizer:
    """Bytes, or for Gemma words with their leading space as ▁ and bytes for what is not known."""
    bpe = Tokenizer(models.BPE(byte_fallback=gemma, unk_token="<unk>" if gemma else None, fuse_unk=gemma))
    if gemma:
        bpe.normalizer = normalizers.Replace(" ", "▁")
        alphabet, first = [*map(chr, range(33, 127)), "▁", "\n"], [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet, first = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    trainer = trainers.BpeTrainer(
        vocab_size=290 + 128 * gemma, initial_alphabet=alphabet, special_tokens=first, show_progress=False
    )
    bpe.train_from_iterator([" ".join(words)] * 4, trainer)
    return bpe


@cache
def tokenizer(family: str, words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Of the class that the published weights name."""
    special = _SPECIAL[family]
    bpe = _bpe(words, family == "gemma3")
    if family == "mllama":
        made = PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token=special[0], eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>"
        )
    elif family == "gemma3":
        learned = _learned(bpe)
        vocab = {token: i for i, token in enumerate(dict.fromkeys([*special, *learned["vocab"]]))}
        made = GemmaTokenizer(
            vocab=vocab, merges=[tuple(pair) for pair in learned["merges"]],
            extra_special_tokens=dict(
                boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
            ),
        )  # fmt: skip
    else:
        learned = _learned(bpe)
        named = dict(
            start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )  # fmt: skip
        made = Qwen2Tokenizer(
            vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]], eos_token="<|im_end|>",
            pad_token="<|endoftext|>", unk_token=None,
            **(dict(extra_special_tokens=named) if family == "internvl" else {}),
        )  # fmt: skip
    made.add_tokens([AddedToken(token, special=True) for token in special])
    return made


def _learned(bpe: Tokenizer) -> dict:
    return json.loads(bpe.to_str())["model"]


def processor(family: str, words: Sequence[str]) -> ProcessorMixin:
    allow_missing_torchvision()
    size = {"height": TILE, "width": TILE}
    text, template = tokenizer(family, words), _TEMPLATES[family]
    if family == "internvl":
        video = SettingsOnlyVideoProcessor(video_processor_type="InternVLVideoProcessor")
        pictures = GotOcr2ImageProcessorPil(size=size, max_patches=4)
        return InternVLProcessor(pictures, text, video, image_seq_length=4, chat_template=template)
    if family == "llava_onevision":
        video = SettingsOnlyVideoProcessor(video_processor_type="LlavaOnevisionVideoProcessor")
        pinpoints = [[height, width] for height in (TILE, 2 * TILE) for width in (TILE, 2 * TILE)]
        pictures = LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=pinpoints)
        return LlavaOnevisionProcessor(
            pictures, text, video, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template
        )
    if family == "gemma3":
        return Gemma3Processor(Gemma3ImageProcessorPil(size=size), text, chat_template=template, image_seq_length=4)
    return MllamaProcessor(MllamaImageProcessorPil(size=size, max_image_tiles=4), text, chat_template=template)


def model(family: str, words: Sequence[str]) -> PreTrainedModel:
    known = tokenizer(family, words)
    text = dict(
        vocab_size=len(known) - (family == "mllama"), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        bos_token_id=known.bos_token_id, eos_token_id=known.eos_token_id, pad_token_id=known.pad_token_id,
    )  # fmt: skip
    vision = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=TILE, patch_size=14
    )

    def number(token: str) -> int:
        return known.convert_tokens_to_ids(token)

    if family == "internvl":
        config = InternVLConfig(
            text_config=dict(model_type="qwen2", **text), vision_config=vision, image_seq_length=4,
            image_token_id=number("<IMG_CONTEXT>"),
        )  # fmt: skip
        return InternVLForConditionalGeneration(config)
    if family == "llava_onevision":
        pinpoints = [[height, width] for height in (TILE, 2 * TILE) for width in (TILE, 2 * TILE)]
        config = LlavaOnevisionConfig(
            text_config=dict(model_type="qwen2", **text),
            vision_config=dict(model_type="siglip_vision_model", **vision),
            image_token_index=number("<image>"), video_token_index=number("<video>"), image_grid_pinpoints=pinpoints,
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(config)
    if family == "gemma3":
        text |= dict(head_dim=12, query_pre_attn_scalar=12, sliding_window=8)
        config = Gemma3Config(
            text_config=text | dict(layer_types=["sliding_attention", "full_attention"]),
            vision_config=dict(model_type="siglip_vision_model", vision_use_head=False, **vision),
            mm_tokens_per_image=4, boi_token_index=number("<start_of_image>"),
            eoi_token_index=number("<end_of_image>"), image_token_index=number("<image_soft_token>"),
        )  # fmt: skip
        return Gemma3ForConditionalGeneration(config)
    vision |= dict(attention_heads=vision.pop("num_attention_heads"), num_global_layers=1)
    vision |= dict(intermediate_layers_indices=[0], vision_output_dim=2 * 32)
    text |= dict(cross_attention_layers=[1], num_hidden_layers=3)
    text |= dict(rope_parameters=dict(rope_type="default", rope_theta=10_000.0))
    config = MllamaConfig(text_config=text, vision_config=vision, image_token_index=number("<|image|>"))
    return MllamaForConditionalGeneration(config)
