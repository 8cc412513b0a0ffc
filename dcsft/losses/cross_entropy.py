"""Cross-entropy of answer tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# N answer tokens of all rows one after another, V vocabulary, B rows


def row_losses(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], rows: Int[Tensor, " N"], num_rows: int
) -> Float[Tensor, " B"]:
    """Each row's sum of -log p(token) over its answer tokens (DC-SFT, equation 1), in nats.

    Args:
        logits: predict the tokens.
        targets: the tokens.
        rows: the row each token belongs to, in [0, num_rows).
    """
    losses = F.cross_entropy(logits, targets, reduction="none")
    return torch.zeros(num_rows, dtype=losses.dtype, device=losses.device).index_add(0, rows, losses)
