"""Which attention kernels a model computes with."""

import functools
import logging

import torch
from transformers.utils import is_flash_attn_2_available

from dcsft.models.families import Family

log = logging.getLogger(__name__)


@functools.cache
def say_once(message: str) -> None:
    """Warn of a slower way that a model must go, once in a process."""
    log.warning(message)


def attention_of(choice: str, family: Family, device: str, dtype: str) -> str | dict[str, str]:
    """What transformers is told, from `model.attention`.

    `auto`: flash attention for the pictures where it is installed, on a GPU in 16 bits; PyTorch's own, SDPA, for the
    language model, since flash attention knows no mask but the causal one, and samples that share their prompt's cache
    need one. `flash_attention_2`: for both; then each sample has a cache of its own.

    Raises:
        ValueError: flash attention is asked for and not there.
    """
    installed = is_flash_attn_2_available() and device != "cpu" and torch.cuda.is_available() and dtype != "float32"
    if choice == "flash_attention_2" and not (installed and family.flash):
        missing = "a GPU, flash-attn and dtype bfloat16" if family.flash else "a model that supports it"
        raise ValueError(
            f"model.attention=flash_attention_2 must have {missing}, got none on this machine; use model.attention=auto"
        )
    if choice == "auto":
        return {"text_config": "sdpa", "vision_config": "flash_attention_2"} if installed and family.flash else "sdpa"
    return choice
