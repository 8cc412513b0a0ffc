"""Floating-point operations of the passes a model makes, by the usual count of parameters.

Forward: 2 N a token. Backward through a layer: 2 N for the gradient of its input, whether frozen or trained, and 2 N
more for the gradient of each trained weight. N of a part is its matrix weights; attention scores, norms and embeddings
look-ups are left out.
"""

from dataclasses import dataclass, field

from torch import nn


def num_weights(module: nn.Module, trained_only: bool = False) -> int:
    """Matrix weights of `module`, embedding tables left out."""
    tables = {id(inner.weight) for inner in module.modules() if isinstance(inner, nn.Embedding)}
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.ndim >= 2 and id(parameter) not in tables and (parameter.requires_grad or not trained_only)
    )


@dataclass
class Meter:
    """Adds up the work of a model."""

    flops: float = 0.0
    tokens: int = 0
    """Tokens that went through the language model."""
    patches: int = 0
    """Picture patches that went through the vision tower."""
    _weights: dict[tuple[int, bool], int] = field(default_factory=dict)
    """Counted once a module: counting takes milliseconds, and a step has many passes."""

    def forget(self) -> None:
        """Count weights again: others are trained now, or adapters were added."""
        self._weights.clear()

    def _num_weights(self, module: nn.Module, trained_only: bool) -> int:
        key = (id(module), trained_only)
        if key not in self._weights:
            self._weights[key] = num_weights(module, trained_only)
        return self._weights[key]

    def add(self, module: nn.Module, positions: int, backward: bool) -> None:
        """`positions` tokens or patches through `module`, forward and perhaps backward."""
        self.flops += 2.0 * positions * self._num_weights(module, False) * (2 if backward else 1)
        if backward:
            self.flops += 2.0 * positions * self._num_weights(module, True)
