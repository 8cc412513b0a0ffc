"""Full fine-tuning with FSDP2: each rank keeps a part of every decoder layer, and gathers one whole where it is used.

A trained weight takes 16 bytes: itself, its gradient and AdamW's two moments, in float32. Of the decoder layers a rank
of N keeps 16 / N bytes a weight, and two layers whole in the model's dtype while it computes. The vision tower, the
embedding, which may be the output head too, and the head stay whole, 16 bytes a weight; so do norms and biases, which
are few, and layers of another kind than the first, which mllama passes by where there is no picture. Matrices are
gathered in the model's dtype, as autocast would have them, norms are not, and gradients are summed in float32: the
numbers are those of whole weights.

Source: PyTorch's `fully_shard` (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html); PyTorch FSDP,
arXiv 2304.11277.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

from dcsft.models.vlm import VLM


def sharded_layers(vlm: VLM) -> list[FSDPModule]:
    """The decoder layers of which each rank keeps a part; none unless `shard` was called."""
    return [layer for layer in vlm.language_model.layers if isinstance(layer, FSDPModule)]


def shard(vlm: VLM) -> None:
    """Shard the decoder layers of a fully tuned model over all ranks; nothing, where they are frozen.

    From here on forward and backward passes need all ranks, equally often, except within `whole`. A sharded weight is a
    DTensor, and its gradient is summed in the backward pass.
    """
    model = vlm.language_model
    layers = [layer for layer in model.layers if type(layer) is type(model.layers[0])]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    mesh = init_device_mesh(vlm.device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=vlm.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        vectors = {parameter for parameter in layer.parameters() if parameter.ndim == 1}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=vectors)
        layer.set_gradient_divide_factor(1.0)  # a sum, not a mean: the loss is divided by what the whole batch has
        layer.set_force_sum_reduction_for_comms(True)
    # The model itself is the root, which has the layers' communication overlap with their work.
    rest = {parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(model, mesh=mesh, ignored_params=rest)
    for layer, before in zip(layers, [layers[0], *layers], strict=False):
        # By default what comes next is taken from past forward passes, of which ranks make different ones in `whole`.
        layer.set_modules_to_backward_prefetch([before])


@contextmanager
def whole(vlm: VLM) -> Iterator[None]:
    """Inside, every rank has all weights, in the model's dtype: a forward pass, as in sampling, needs no other rank."""
    layers = sharded_layers(vlm)
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    yield
    for layer in layers:
        layer.set_reshard_after_forward(True)
        layer.reshard()


def assemble(vlm: VLM) -> None:
    """Each rank gets all weights for good, in the model's dtype; then they can be saved, but not trained or run."""
    for layer in sharded_layers(vlm):
        for module in layer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if isinstance(parameter, DTensor):
                    full = parameter.full_tensor().to(vlm.dtype)
                    setattr(module, name, nn.Parameter(full, parameter.requires_grad))


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all numbers of tensors, of which some may be sharded; the same on every rank."""
    with implicit_replication():
        total = nn.utils.get_total_norm(tensors)
    return total.full_tensor() if isinstance(total, DTensor) else total


def gathered(tensor: Tensor, keep: bool) -> Tensor | None:
    """A sharded tensor whole, in the CPU's memory, on ranks that `keep` it; all ranks must call. Others stay as is."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if keep else None


def part_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a whole tensor, as it has one of `parameter`; needs no other rank."""
    if not isinstance(parameter, DTensor) or not tensor.ndim:
        return tensor
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
