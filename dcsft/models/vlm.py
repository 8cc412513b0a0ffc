"""A vision-language model with its processor: load, tune, freeze, save."""

import hashlib
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dcsft.models.flops import Meter
from dcsft.models.processors import load_processor
from dcsft.models.vision import encode_pictures

PARTS = ("llm", "vision", "merger")
"""What can be tuned: the language model, the vision tower, and the merger that joins them."""

_MROPE_MODELS = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
_PRECOMPUTED_PICTURES = frozenset({"qwen2_vl", "qwen2_5_vl"})  # others add features inside the language model too


def _part_of(name: str) -> str | None:
    """The part that a parameter or module belongs to, by its name; None for none (the output head)."""
    if ".visual.merger" in name or ".visual.deepstack_merger_list" in name:
        return "merger"
    if ".visual." in name:
        return "vision"
    return "llm" if ".language_model." in name else None


class VLM:
    """The policy: `model` is the plain transformers model, into which LoRA layers are injected when there are any.

    Example:
        vlm = VLM.load("Qwen/Qwen2.5-VL-3B-Instruct", max_pixels=802816)
        vlm.add_lora(r=32, alpha=64, dropout=0.05, parts=("llm",), seed=0)
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.model = model
        self.processor = processor
        self.peft: PeftModel | None = None
        self.meter = Meter()

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "float32",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        device: str = "cpu",
    ) -> "VLM":
        """A model saved at `path` or on the Hub, in eval mode; code in the checkpoint is never run.

        Raises:
            ValueError: nothing that can be loaded is at `path`.
        """
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                path, dtype=getattr(torch, dtype), trust_remote_code=False
            )
            processor = load_processor(path, min_pixels, max_pixels)
        except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"model.path must be a folder or a Hub id with a vision-language model, got {str(path)!r} ({reason}); "
                "download the weights first or set model.path=FOLDER"
            ) from error
        return cls(model.eval().to(device), processor)

    @property
    def uses_mrope(self) -> bool:
        """Whether positions are (time, height, width) triples."""
        return self.model.config.model_type in _MROPE_MODELS

    @property
    def takes_picture_features(self) -> bool:
        """Whether picture features computed earlier can stand for the pictures."""
        return self.model.config.model_type in _PRECOMPUTED_PICTURES

    @property
    def full_attention(self) -> bool:
        """Whether every layer attends to the whole context, which tree decoding and shared prefixes need."""
        text = self.model.config.get_text_config()
        kinds = set(text.layer_types) if "layer_types" in text.to_dict() else {"full_attention"}
        return kinds == {"full_attention"}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self.model.generation_config.eos_token_id
        return list(eos) if isinstance(eos, list) else [eos]

    @property
    def end_of_turn_id(self) -> int:
        """The token that SFT teaches as the end of an answer."""
        return self.processor.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        return self.processor.tokenizer.pad_token_id

    @cached_property
    def picture_ids(self) -> list[int]:
        """Placeholder tokens of pictures and videos, which an answer must never contain."""
        config = self.model.config
        named = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        settings = config.to_dict()
        return sorted({settings[name] for name in named if settings.get(name) is not None})

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def visual(self) -> nn.Module:
        return self.model.model.visual

    def hidden_states(self, **inputs: object) -> Float[Tensor, "B S D"]:
        """Last hidden states; the output head is applied where it is needed and nowhere else."""
        backward = torch.is_grad_enabled() and self.model.training
        num_tokens = inputs["input_ids"].numel()
        self.meter.tokens += num_tokens
        self.meter.add(self.language_model, num_tokens, backward)
        if inputs.get("pixel_values") is not None:
            self.count_pictures(inputs["image_grid_thw"], backward and not self.vision_frozen)
            if self.takes_picture_features:  # the same numbers, batched over pictures and windows
                pixels, grids = inputs.pop("pixel_values"), inputs["image_grid_thw"]
                features = BaseModelOutputWithPooling(pooler_output=tuple(encode_pictures(self.visual, pixels, grids)))
                inputs["mm_encoder_outputs"] = {"image": features}
        return self.model.model(**inputs).last_hidden_state

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Output head, in float32."""
        self.meter.add(self.model.lm_head, hidden.shape[:-1].numel(), torch.is_grad_enabled() and self.model.training)
        return self.model.lm_head(hidden).float()

    def count_pictures(self, grids: Int[Tensor, "N 3"], backward: bool) -> None:
        """Tell the meter of pictures that go through the vision tower."""
        num_patches = int(grids.prod(-1).sum())
        self.meter.patches += num_patches
        self.meter.add(self.visual, num_patches, backward)

    # --- tuning -------------------------------------------------------------------------------------------------

    def tune_fully(self, parts: Collection[str]) -> None:
        """All weights of `parts` are trained, the rest frozen."""
        for name, parameter in self.model.named_parameters():
            # Tied embeddings and the output head belong to the language model.
            parameter.requires_grad_((_part_of(name) or "llm") in parts)
        self.meter.forget()

    def add_lora(self, r: int, alpha: int, dropout: float, parts: Collection[str], seed: int) -> None:
        """Inject LoRA into every linear layer of `parts` (arXiv 2106.09685); all other weights are frozen."""
        linears = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        targets = [name for name in linears if _part_of(name) in parts]
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that transformers is about to drop (2026-11).
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = get_peft_model(self.model, config)
        self.meter.forget()

    def load_adapter(self, folder: str | Path) -> None:
        """Put a saved adapter on the model, for inference."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = PeftModel.from_pretrained(self.model, folder)
        self.model.eval()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model answers as it did before LoRA: a reference that costs no memory."""
        if self.peft is None:
            raise ValueError("reference() must be called on a LoRA model, got full tuning; use tuning=lora")
        layers = self.peft.base_model  # PeftModel.disable_adapter does the same, after a look at every layer's state
        layers.disable_adapter_layers()
        try:
            yield
        finally:
            layers.enable_adapter_layers()

    @property
    def vision_frozen(self) -> bool:
        """Whether picture features cannot change in training."""
        return not any(p.requires_grad for p in self.visual.parameters())

    def vision_digest(self) -> str:
        """Identity of what turns a picture into features: vision weights and picture preprocessing."""
        digest = hashlib.sha256(self.processor.image_processor.to_json_string().encode())
        for name, tensor in sorted(self.visual.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # --- keeping ------------------------------------------------------------------------------------------------

    def trainable_state(self) -> dict[str, Tensor]:
        """The trained tensors alone, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, folder: str | Path) -> None:
        """The adapter alone under LoRA, else model and processor, in the layout of the Hub (safetensors)."""
        if self.peft is not None:
            self.peft.save_pretrained(folder)
        else:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
