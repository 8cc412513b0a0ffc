"""Train the tiny model's foundation from nothing, in minutes on two cores. Not part of the paper's method.

1. The vision tower learns to tell the classes apart through a throw-away linear head on its merged tokens.
2. Tower and merger are frozen; the language model learns to caption their features.

What makes so small a tower learn at all: a PCA-whitened patch embedding, and a head on the flattened tokens (Qwen's
tower has rotary positions only, so mean-pooled tokens would forget where a stroke is).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from dcsft.models.render import append_completions, completion_logits, render_prompts, tokenize_answer
from dcsft.models.vision import encode_pictures, patchify
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture
from dcsft.seeding import stream

SAVE_EVERY = 500


@dataclass(frozen=True)
class Phase:
    """One phase's optimisation; AdamW with betas (0.9, 0.98), clipping at 1, cosine schedule to 2 % of `lr`."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int


def _rate(step: int, phase: Phase) -> float:
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / phase.steps)
    return phase.lr * min(1.0, (step + 1) / phase.warmup_steps) * max(0.02, cosine)


def _fit(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    phase: Phase,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
) -> None:
    """Minimise `loss_of(step)` over the trainable parameters of `module`; continues from `folder` where it stopped."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, phase.lr, betas=(0.9, 0.98), weight_decay=phase.weight_decay)
    state_file, first = folder / f"{name}.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in progress(name, range(first, phase.steps), phase.steps):
        optimizer.param_groups[0]["lr"] = _rate(step, phase)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == phase.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)


def _whiten_patch_embedding(visual: nn.Module, patches: Tensor, generator: torch.Generator) -> None:
    """Initialise the patch embedding with the whitened principal components of `patches`."""
    sample = patches[torch.randperm(len(patches), generator=generator)[:8000]]
    _, spread, components = torch.linalg.svd(sample - sample.mean(0), full_matrices=False)
    weight = visual.patch_embed.proj.weight
    width = weight.shape[0]
    scale = spread[:width] / math.sqrt(len(sample))
    with torch.no_grad():
        weight.copy_((components[:width] / scale[:, None] * 0.5).view_as(weight))


def pretrain_vision(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pictures: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    num_classes: int,
    phase: Phase,
    seed: int,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
) -> None:
    """Phase 1: classify `pictures` [n, H, W, 3] into `num_classes`, with shifts and permuted colour channels."""
    visual = model.model.visual
    tokens = encode_pictures(visual, *patchify(pictures[:1], processor.image_processor))[0]
    torch.manual_seed(seed)
    head = nn.Linear(tokens.numel(), num_classes)
    generator = torch.Generator().manual_seed(seed)
    _whiten_patch_embedding(visual, patchify(pictures[:3000], processor.image_processor)[0], generator)
    classes = torch.from_numpy(numbers)

    def loss_of(step: int) -> Tensor:
        rng = stream("foundation", "vision", seed, step)
        rows = rng.integers(0, len(pictures), phase.batch_size)
        batch = np.roll(pictures[rows][..., rng.permutation(3)], rng.integers(-2, 3, 2), (1, 2))
        features = encode_pictures(visual, *patchify(np.ascontiguousarray(batch), processor.image_processor))
        return F.cross_entropy(head(torch.stack(features).flatten(1)), classes[rows], label_smoothing=0.05)

    _fit("vision", nn.ModuleList([visual, head]), loss_of, phase, folder, progress)


def pretrain_detection(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pictures: NDArray[np.uint8],
    labels: NDArray[np.int64],
    edges: NDArray[np.float32],
    num_labels: tuple[int, ...],
    phase: Phase,
    seed: int,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
) -> None:
    """Phase 1 for scenes: of each merged token of `pictures` [n, H, W, 3], what is there and where its edges are.

    Args:
        labels: [n, M, attributes], the last number of each attribute where there is nothing.
        edges: [n, M, 4], of the first attribute's thing, where there is one.
        num_labels: of each attribute, "nothing" included.
    """
    visual = model.model.visual
    width = encode_pictures(visual, *patchify(pictures[:1], processor.image_processor))[0].shape[-1]
    torch.manual_seed(seed)
    head = nn.Linear(width, sum(num_labels) + 4)
    generator = torch.Generator().manual_seed(seed)
    _whiten_patch_embedding(visual, patchify(pictures[:1000], processor.image_processor)[0], generator)

    def loss_of(step: int) -> Tensor:
        rows = stream("foundation", "detection", seed, step).integers(0, len(pictures), phase.batch_size)
        features = encode_pictures(visual, *patchify(pictures[rows], processor.image_processor))
        *logits, found = head(torch.cat(features)).split((*num_labels, 4), -1)
        truth = torch.from_numpy(labels[rows]).flatten(0, 1)
        loss = sum(F.cross_entropy(each, truth[:, i]) for i, each in enumerate(logits))
        there = truth[:, 0] < num_labels[0] - 1
        return loss + F.smooth_l1_loss(found[there], torch.from_numpy(edges[rows]).flatten(0, 1)[there], beta=0.1)

    _fit("vision", nn.ModuleList([visual, head]), loss_of, phase, folder, progress)


def pretrain_language(
    vlm: VLM,
    pictures: NDArray[np.uint8],
    caption: Callable[[int, np.random.Generator], tuple[str, str]],
    phase: Phase,
    seed: int,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
) -> None:
    """Phase 2: the language model learns to answer; `caption(row, rng)` draws a question and its answer."""
    visual = vlm.model.model.visual.requires_grad_(False)
    features = []
    with torch.no_grad():
        for start in range(0, len(pictures), 500):
            features += encode_pictures(visual, *patchify(pictures[start : start + 500], vlm.processor.image_processor))
    # Bring the merger's output to the scale of the embeddings; a linear layer ends it, so scaling it is exact.
    scale = 0.3 / float(torch.stack(features).std())
    with torch.no_grad():
        visual.merger.mlp[2].weight.mul_(scale)
        visual.merger.mlp[2].bias.mul_(scale)
    features = [feature * scale for feature in features]
    _, grid = patchify(pictures[:1], vlm.processor.image_processor)

    def loss_of(step: int) -> Tensor:
        rng = stream("foundation", "language", seed, step)
        rows = rng.integers(0, len(pictures), phase.batch_size)
        questions, answers = zip(*(caption(int(row), rng) for row in rows), strict=True)
        picture = Picture("pool", lambda: Image.fromarray(pictures[0]))
        conversations = [[Message("user", (picture, question))] for question in questions]
        prompts = render_prompts(vlm, conversations, lambda _: [(features[row], grid[0]) for row in rows])
        sequences = append_completions(vlm, prompts, [tokenize_answer(vlm, answer) for answer in answers])
        logits, targets, _ = completion_logits(vlm, sequences)
        return F.cross_entropy(logits, targets)

    _fit("language", vlm.model, loss_of, phase, folder, progress)
