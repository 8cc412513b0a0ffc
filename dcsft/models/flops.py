"""Floating-point operations that a model really makes, counted where they happen: in its linear layers.

A layer of N weights takes 2 N a position forward, 2 N more backward if a gradient is wanted of its input, and 2 N more
if its weights are trained. So a frozen layer below everything that is trained costs its forward pass alone, one above
costs 4 N, and a LoRA matrix 6 N of its own few weights. Padding counts: it is computed. Attention scores, norms and
look-ups are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Meter:
    """Adds up the work of a model that it watches."""

    flops: float = 0.0
    tokens: int = 0
    """Tokens that went through the language model."""
    patches: int = 0
    """Picture patches that went through the vision tower."""

    def watch(self, model: nn.Module) -> None:
        """Count the work of all linear layers of `model`; call it again when adapters have been added."""
        for module in model.modules():
            if isinstance(module, nn.Linear) and self._count not in module._forward_hooks.values():
                module.register_forward_hook(self._count)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is counted."""
        before = self.flops, self.tokens, self.patches
        yield
        self.flops, self.tokens, self.patches = before

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passes = 1
        # Within a backward pass, what runs is a recomputation (gradient checkpointing) of what was counted before.
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            passes += inputs[0].requires_grad + module.weight.requires_grad
        self.flops += 2.0 * output.numel() * module.in_features * passes

    def count_patches(self, num_patches: int, tower: nn.Module) -> None:
        """Patches enter `tower` through its convolution, which is also computed as a matrix product: not by a hook."""
        weight = next(module.weight for module in tower.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
        trained = torch.is_grad_enabled() and weight.requires_grad
        self.patches += num_patches
        self.flops += 2.0 * num_patches * weight.numel() * (1 + trained)
