"""A vision-language model with its processor: load, tune, freeze, save."""

import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dcsft.models.attention import attention_of
from dcsft.models.contract import contract_of, read
from dcsft.models.families import family_of
from dcsft.models.flops import Meter
from dcsft.models.processors import limit_pictures, load_processor
from dcsft.models.vision import encode_pictures


class VLM:
    """The policy: `model` is the plain transformers model, into which LoRA layers are injected when there are any.

    Args:
        model: of one of the families that we know.
        processor: its own.
        base: what all training began with; a Hub id or a name.

    Example:
        vlm = VLM.load("Qwen/Qwen2.5-VL-3B-Instruct", max_pixels=802816)
        vlm.add_lora(r=32, alpha=64, dropout=0.05, parts=("llm",), seed=0)
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, base: str = "") -> None:
        self.model = model
        self.processor = processor
        self.family = family_of(model.config.model_type)
        self.contract = contract_of(base, model.config.model_type, self.family, processor)
        self.dtype = model.dtype
        self.peft: PeftModel | None = None
        self.meter = Meter()
        self.meter.watch(model)
        # Placeholders are looked up once: the vocabulary has up to 260,000 words.
        known = processor.tokenizer.get_vocab()
        self.placeholder_ids = sorted(known[token] for token in self.family.picture_tokens if token in known)
        self.end_of_turn_id = known[self.family.end_of_turn]

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "float32",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        device: str = "cpu",
        max_tiles: int | None = None,
        attention: str = "sdpa",
        weights: bool = True,
    ) -> "VLM":
        """A model saved at `path` or on the Hub, in eval mode; code in the checkpoint is never run.

        Args:
            dtype: of the weights; rotary frequencies stay in float32.
            min_pixels, max_pixels, max_tiles: how large pictures are seen; null leaves it to the processor.
            attention: auto, sdpa, flash_attention_2 or eager.
            weights: without, it knows its tokens and pictures, but can compute nothing, and needs no memory.

        Raises:
            ValueError: nothing that can be loaded is at `path`, or it was trained on pictures of another size.
        """
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            family = family_of(config.model_type)
            processor = load_processor(path)
        except (OSError, ValueError) as error:
            raise _no_model(path, error) from error
        limit_pictures(processor, family, min_pixels, max_pixels, max_tiles)
        ours = read(Path(path))
        base = ours.base if ours is not None else Path(path).name if Path(path).is_dir() else str(path)
        contract_of(base, config.model_type, family, processor).refuse_other(Path(path), family)
        if not weights:
            return cls(_without_weights(path, config).eval(), processor, base)
        kernels = attention_of(attention, family, device, dtype)
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                path, dtype=getattr(torch, dtype), attn_implementation=kernels, trust_remote_code=False
            )
        except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
            raise _no_model(path, error) from error
        return cls(model.eval().to(device), processor, base)

    @property
    def uses_mrope(self) -> bool:
        """Whether positions are (time, height, width) triples."""
        return self.family.mrope

    @property
    def takes_picture_features(self) -> bool:
        """Whether picture features computed earlier can stand for the pictures."""
        return self.family.precomputed_pictures

    @property
    def full_attention(self) -> bool:
        """Whether every layer attends as a mask of ours says, which tree decoding and shared prefixes need."""
        text = self.model.config.get_text_config()
        kinds = set(text.layer_types) if "layer_types" in text.to_dict() else {"full_attention"}
        # Flash attention knows causal masks alone.
        heeded = kinds == {"full_attention"} and "flash" not in text._attn_implementation
        return self.family.shared_prefix and heeded

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self.model.generation_config.eos_token_id
        return list(eos) if isinstance(eos, list) else [eos]

    @property
    def pad_id(self) -> int:
        return self.processor.tokenizer.pad_token_id

    @cached_property
    def picture_ids(self) -> list[int]:
        """Placeholder tokens that the output head could draw; in an answer they would break the next forward pass."""
        return [token for token in self.placeholder_ids if token < self.model.lm_head.weight.shape[0]]

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def visual(self) -> nn.Module:
        """The vision tower."""
        return self.model.model.get_submodule(self.family.vision)

    def hidden_states(self, **inputs: object) -> Float[Tensor, "B S D"]:
        """Last hidden states; the output head is applied where it is needed and nowhere else."""
        self.meter.tokens += inputs["input_ids"].numel()
        if inputs.get("pixel_values") is not None:
            self.meter.count_patches(self._num_patches(inputs), self.visual)
            if self.takes_picture_features:  # the same numbers, batched over pictures and windows
                pixels, grids = inputs.pop("pixel_values"), inputs["image_grid_thw"]
                features = BaseModelOutputWithPooling(pooler_output=tuple(encode_pictures(self.visual, pixels, grids)))
                inputs["mm_encoder_outputs"] = {"image": features}
        return self.model.model(**inputs).last_hidden_state

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Output head, in float32."""
        return self.model.lm_head(hidden).float()

    def _num_patches(self, inputs: Mapping[str, object]) -> int:
        """Patches that go through the vision tower; tiles that only fill up a batch are left out."""
        if self.family.pixel_limits:
            return int(inputs["image_grid_thw"].prod(-1).sum())
        pixels = inputs["pixel_values"]
        size = self.model.config.vision_config.patch_size
        side = size if isinstance(size, int) else size[0]
        tiles = pixels.flatten(0, -4).flatten(1).any(-1).sum()
        return int(tiles) * (pixels.shape[-2] // side) * (pixels.shape[-1] // side)

    # --- tuning -------------------------------------------------------------------------------------------------

    def tune_fully(self, parts: Collection[str]) -> None:
        """All weights of `parts` are trained, the rest frozen; the output head belongs to the language model.

        Trained weights are kept in float32 and used in the model's dtype under autocast: a step of 1e-5 on a weight of
        1 is lost in bfloat16, whose next number is 1.0078. Memory: 16 bytes a trained weight, for the weight, its
        gradient and AdamW's two moments, instead of 8 in bfloat16 alone; 49 GB for 3 billion. `finish` rounds.
        """
        trained = {*parts, "head"} if "llm" in parts else {*parts}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.family.part_of(name) in trained)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def finish(self) -> None:
        """Training is over: eval mode, and fully tuned weights in the dtype in which they are kept."""
        self.model.eval()
        for parameter in self.model.parameters():
            if self.peft is None and parameter.requires_grad:
                parameter.data = parameter.data.to(self.dtype)

    def recompute_activations(self) -> None:
        """Gradient checkpointing: in training, activations are computed again in the backward pass and not kept."""
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        # transformers lets a gradient flow to all embeddings, which only the reentrant kind needs: it would take a
        # frozen vision tower through a backward pass for nothing.
        self.model.disable_input_require_grads()

    def add_lora(self, r: int, alpha: int, dropout: float, parts: Collection[str], seed: int) -> None:
        """Inject LoRA into every linear layer of `parts` (arXiv 2106.09685); all other weights are frozen.

        Raises:
            ValueError: the parts have no linear layer, as Gemma 3's merger.
        """
        linears = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        targets = [name for name in linears if self.family.part_of(name) in parts]
        if not targets:
            raise ValueError(
                f"tuning.parts must name parts with linear layers, got {', '.join(parts)} of "
                f"{self.model.config.model_type}, which have none; add llm or vision"
            )
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that transformers is about to drop (2026-11).
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            recomputes = self.model.is_activation_checkpointing
            self.model.activation_checkpointing_disable()  # PEFT would do the same to the embeddings, for good
            self.peft = get_peft_model(self.model, config)
        if recomputes:
            self.recompute_activations()
        self.meter.watch(self.model)

    def load_adapter(self, folder: str | Path) -> None:
        """Put a saved adapter on the model, for inference.

        Raises:
            ValueError: it was trained on pictures of another size, or on another kind of model.
        """
        self.contract.refuse_other(Path(folder), self.family)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = PeftModel.from_pretrained(self.model, folder)
        self.meter.watch(self.model)
        self.model.eval()

    def merge_adapter(self) -> None:
        """Make the adapter a part of the weights; nothing is left of LoRA."""
        self.model = self.peft.merge_and_unload()
        self.peft = None

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
        trained = (name for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        return not any(self.family.part_of(name) in ("vision", "merger") for name in trained)

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
        """The adapter alone under LoRA, else model and processor, in the layout of the Hub (safetensors).

        Beside them stands how pictures were seen (see contract.py).
        """
        if self.peft is not None:
            self.peft.save_pretrained(folder)
        else:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            # Readers older than transformers 5 look for this file, which `processor_config.json` has replaced.
            self.processor.image_processor.save_pretrained(folder)
        self.contract.write(Path(folder))


def _without_weights(path: str | Path, config: PretrainedConfig) -> PreTrainedModel:
    """The model at `path` with tensors that have shapes and no numbers."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    with suppress(OSError):  # it has none of its own: the model's stands
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def _no_model(path: str | Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(
        f"model.path must be a folder or a Hub id with a vision-language model, got {str(path)!r} ({reason}); "
        "download the weights first or set model.path=FOLDER"
    )
