"""The architectures that the code knows: what differs between them, in one table. Nothing else asks which one it is.

A new family is a row here, a yaml in conf/model/ and a miniature in tests/miniatures.py.
"""

from dataclasses import dataclass
from typing import Literal

from dcsft.records import Part


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers. Names of modules are those within `model.model`."""

    vision: str
    """The vision tower."""
    merger: tuple[str, ...]
    """What joins tower and language model; may lie within the tower."""
    picture_tokens: tuple[str, ...]
    """Tokens that stand for pictures and videos, which an answer must never contain."""
    end_of_turn: str
    """The token that ends the assistant's turn in the chat template."""
    picture_settings: tuple[str, ...]
    """What decides how many tokens a picture becomes: attributes of the image processor."""
    pixel_limits: bool = False
    """Whether pictures keep their shape, between model.min_pixels and model.max_pixels; else they are cut into tiles or
    squeezed into a square."""
    tile_limit: str | None = None
    """The attribute of the image processor that bounds a picture's tiles (model.max_tiles), where it can be chosen."""
    mrope: bool = False
    """Whether positions are (time, height, width) triples."""
    precomputed_pictures: bool = False
    """Whether features computed earlier can stand for pictures. Qwen3-VL adds more of them in its inner layers."""
    flash: bool = True
    """Whether transformers runs it with flash attention."""
    shared_prefix: bool = True
    """Whether a mask of our own may replace the model's: Gemma 3 lets the tokens of a picture see one another."""
    equal_pictures: bool = False
    """Whether all rows of a batch must have the same number of pictures: in mllama, tokens that have seen no picture
    yet attend to all of their row's, and to those that only fill up the batch."""
    token_fields: tuple[str, ...] = ()
    """Inputs with a value for each token of the prompt; a completion's tokens repeat the last one."""
    step_fields: tuple[str, ...] = ()
    """Those of them that the model also wants while it decodes."""
    unused: tuple[str, ...] = ()
    """Modules that no forward pass goes through, so that they are never trained."""

    def part_of(self, name: str) -> Part | Literal["head", "unused"]:
        """Which part a parameter or module of the whole model belongs to, by its name."""

        def within(modules: tuple[str, ...]) -> bool:
            return any(f"{name}.".startswith(f"model.{module}.") for module in modules)

        if within(self.unused):
            return "unused"
        if within(self.merger):
            return "merger"
        if within((self.vision,)):
            return "vision"
        return "llm" if within(("language_model",)) else "head"


_QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_QWEN2_VL = Family(
    vision="visual",
    merger=("visual.merger",),
    picture_tokens=_QWEN_TOKENS,
    end_of_turn="<|im_end|>",
    picture_settings=("size",),
    pixel_limits=True,
    mrope=True,
    precomputed_pictures=True,
)

FAMILIES = {
    "qwen2_vl": _QWEN2_VL,
    "qwen2_5_vl": _QWEN2_VL,
    "qwen3_vl": Family(
        vision="visual",
        merger=("visual.merger", "visual.deepstack_merger_list"),
        picture_tokens=_QWEN_TOKENS,
        end_of_turn="<|im_end|>",
        picture_settings=("size",),
        pixel_limits=True,
        mrope=True,
    ),
    "internvl": Family(
        vision="vision_tower",
        merger=("multi_modal_projector",),
        picture_tokens=("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
        end_of_turn="<|im_end|>",
        picture_settings=("size", "min_patches", "max_patches"),
        tile_limit="max_patches",
    ),
    "llava_onevision": Family(
        vision="vision_tower",
        merger=("multi_modal_projector", "image_newline"),
        picture_tokens=("<image>", "<video>"),
        end_of_turn="<|im_end|>",
        picture_settings=("size", "image_grid_pinpoints"),
        unused=("vision_tower.head",),  # SigLIP's pooling; published weights leave it out, its default has it
    ),
    "gemma3": Family(
        vision="vision_tower",
        merger=("multi_modal_projector",),
        picture_tokens=("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        end_of_turn="<end_of_turn>",
        picture_settings=("size", "do_pan_and_scan"),
        shared_prefix=False,
        token_fields=("token_type_ids",),
        unused=("vision_tower.head",),
    ),
    "mllama": Family(
        vision="vision_model",
        merger=("multi_modal_projector",),
        picture_tokens=("<|image|>",),
        end_of_turn="<|eot_id|>",
        picture_settings=("size", "max_image_tiles"),  # as many as the weights have embeddings for
        flash=False,
        equal_pictures=True,
        token_fields=("cross_attention_mask",),
        step_fields=("cross_attention_mask",),
    ),
}


def family_of(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        ValueError: it is none that we know.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model_type must be one of {', '.join(FAMILIES)}, got {model_type!r}")
    return FAMILIES[model_type]
