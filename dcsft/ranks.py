"""The processes that compute one stage together: who does which part, and how the parts become whole again.

A process alone is one rank of one: each method is then the identity. All ranks must call the same methods in the same
order; a decision that depends on a file or a clock is therefore taken by the first rank and told to the others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

T = TypeVar("T")

_BUCKET = 2**26
"""Numbers that are summed together: few calls, and little memory beside the gradients."""


class Unanswered(RuntimeError):
    """Another rank has ended, or has not come to the same place in time."""


def unanswered(error: Exception) -> bool:
    """Whether it is what a rank sees of another's end, in calls made here or by FSDP in a forward or backward pass."""
    return isinstance(error, Unanswered | dist.DistError) or "gloo/transport" in str(error)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch makes of a lost connection or of a time-out
        raise Unanswered(str(error)) from error


@dataclass(frozen=True)
class Ranks:
    """This process (`rank`, from 0) among the `size` that work together."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def joined_by(cls, rank: int, size: int, device: str, timeout_min: float) -> Iterator["Ranks"]:
        """Inside, this process is a member of the group that torchrun's environment describes."""
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        with _together():
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout_min))
        yield cls(rank, size)
        dist.destroy_process_group()  # not after an error: it could wait for a rank that is gone

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This rank's part: every `size`-th row, so that parts of sorted rows are alike."""
        return rows[self.rank :: self.size]

    def whole(self, mine: Sequence[T]) -> list[T]:
        """All rows in their order, from what each rank has made of its share. Plain values and small tensors."""
        parts = self._gathered(mine)
        rows = [row for part in parts for row in part]
        for rank, part in enumerate(parts):
            rows[rank :: self.size] = part
        return rows

    def agreed(self, value: T) -> T:
        """What the first rank says."""
        said = [value]
        if self.size > 1:
            with _together():
                dist.broadcast_object_list(said)
        return said[0]

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over the ranks that have it."""
        total: dict[str, float] = {}
        for part in self._gathered(values):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each parameter's gradient becomes its sum over the ranks; it stays None where no rank has one.

        That of a sharded parameter is one already.
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        (anywhere,) = self.summed([torch.tensor([parameter.grad is not None for parameter in parameters]).int()])
        known = [parameter for parameter, count in zip(parameters, anywhere.tolist(), strict=True) if count]
        gradients = (torch.zeros_like(some) if some.grad is None else some.grad for some in known)
        for parameter, gradient in zip(known, self.summed(gradients), strict=True):
            parameter.grad = gradient

    def summed(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """The sum of each tensor over the ranks, one bucket of them after another."""
        if self.size == 1:
            yield from tensors
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _together():
                dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            yield from (part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True))

    def _gathered(self, mine: T) -> list[T]:
        parts = [mine] * self.size
        if self.size > 1:
            with _together():
                dist.all_gather_object(parts, mine)
        return parts


ALONE = Ranks()
"""The one rank of a process that has no others."""


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of about `_BUCKET` numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(some.numel() for some in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
