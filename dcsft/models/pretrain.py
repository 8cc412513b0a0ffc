"""Train the tiny model's foundation from nothing, in minutes on two cores. Not part of the paper's method.

1. The vision tower learns to tell the classes apart through a throw-away linear head on its merged tokens.
2. Tower and merger are frozen; the language model learns to caption their features.

What makes so small a tower learn at all: a PCA-whitened patch embedding, and a head on the flattened tokens (Qwen's
tower has rotary positions only, so mean-pooled tokens would forget where a stroke is).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
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
_INPUT_STD = 0.3  # of what the language model reads: features of pictures, and words that are learnt with them


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


class _WordHead(nn.Module):
    """What merged tokens show, said in words, and where its edges are: throw-away, but for the words."""

    def __init__(self, width: int, words: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.words = nn.ParameterList(0.3 * torch.randn(len(values) + 1, width) for values in words)
        """A vector for each value of each attribute, and one for nothing."""
        self.scale = nn.Parameter(torch.zeros(()))
        self.edges = nn.Linear(width, 4)

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits of each attribute and the edges of tokens [N, D]."""
        return [self.scale.exp() * features @ words.T for words in self.words], self.edges(features)


def pretrain_detection(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pictures: NDArray[np.uint8],
    labels: NDArray[np.int64],
    edges: NDArray[np.float32],
    words: Sequence[Sequence[int]],
    phase: Phase,
    seed: int,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
) -> None:
    """Phase 1 for scenes: of each merged token of `pictures` [n, H, W, 3], what is there and where its edges are.

    What is there is told by the likeness to a vector of each word, and the language model begins with these vectors as
    its embeddings: so a word and the tokens that show it are alike before the language model has learnt anything, and
    to find what a phrase names is a matter of comparing. Without that it took the language model longer to learn which
    token shows which word than everything else together.

    Args:
        labels: [n, M, attributes], the last number of each attribute where there is nothing.
        edges: [n, M, 4], of the first attribute's thing, where there is one.
        words: of each attribute, the token of each value.
    """
    visual = model.model.visual
    width = encode_pictures(visual, *patchify(pictures[:1], processor.image_processor))[0].shape[-1]
    torch.manual_seed(seed)
    head = _WordHead(width, words)
    generator = torch.Generator().manual_seed(seed)
    _whiten_patch_embedding(visual, patchify(pictures[:1000], processor.image_processor)[0], generator)

    def loss_of(step: int) -> Tensor:
        rows = stream("foundation", "detection", seed, step).integers(0, len(pictures), phase.batch_size)
        features = encode_pictures(visual, *patchify(pictures[rows], processor.image_processor))
        logits, found = head(torch.cat(features))
        truth = torch.from_numpy(labels[rows]).flatten(0, 1)
        loss = sum(F.cross_entropy(each, truth[:, i]) for i, each in enumerate(logits))
        there = truth[:, 0] < len(words[0])
        return loss + F.smooth_l1_loss(found[there], torch.from_numpy(edges[rows]).flatten(0, 1)[there], beta=0.1)

    _fit("vision", nn.ModuleList([visual, head]), loss_of, phase, folder, progress)
    learned = torch.cat([vectors[:-1] for vectors in head.words]).detach()
    tokens = [token for values in words for token in values]
    with torch.no_grad():
        model.get_input_embeddings().weight[tokens] = learned * (_INPUT_STD / learned.std())


@dataclass(frozen=True)
class Gaze:
    """Where the language model has to look, as a finger that points while a child is told about a picture.

    The loss is -log of the attention that goes to the right merged tokens: of each word of a question, to those that
    show it (a head of the first layer), and of each token of an answer, to those of what the answer is about (a head
    of `layer`). Attention that nothing guides comes to the same in the end, after many times as many steps.

    Args:
        words: of each attribute, the token of each value.
        labels: [n, M, attributes], the number of the value that each merged token shows.
        layer: of the answers' head.
    """

    words: Sequence[Sequence[int]]
    labels: NDArray[np.int64]
    layer: int = 2

    def loss(
        self,
        attentions: Sequence[Float[Tensor, "B H S S"]],
        input_ids: Int[Tensor, "B S"],
        first: Int[Tensor, "B"],
        rows: Sequence[int],
        about: Sequence[NDArray[np.bool_] | None],
        answers: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """
        Args:
            attentions: of each layer.
            first: position of the first merged token of each row's picture.
            rows: numbers of the pictures.
            about: which merged tokens [M] each answer is about; None: no particular ones.
            answers: the real tokens of the answers, which end the rows.
        """
        labels = torch.from_numpy(self.labels[list(rows)])
        number, width = labels.shape[1], answers.shape[1]
        picture = first[:, None] + torch.arange(number)

        def to_picture(weights: Tensor) -> Tensor:
            return weights.gather(2, picture[:, None].expand(-1, weights.shape[1], -1))

        shown = torch.zeros(*input_ids.shape, number, dtype=torch.bool)
        for attribute, values in enumerate(self.words):
            for value, token in enumerate(values):
                shown |= (input_ids == token)[..., None] & (labels[:, :, attribute] == value)[:, None]
        shown[:, -width:] = False
        pointed = torch.from_numpy(np.stack([np.zeros(number, bool) if one is None else one for one in about]))
        of_answers = answers[..., None] & pointed[:, None]
        loss = torch.zeros(())
        for weights, right in (
            (attentions[0][:, 0], shown),
            (attentions[self.layer][:, 0, -width - 1 : -1], of_answers),
        ):
            some = right.any(-1)
            if some.any():
                loss = loss - ((to_picture(weights) * right).sum(-1)[some] + 1e-6).log().mean()
        return loss


class Lesson(NamedTuple):
    """A question on a picture, its answer, and the merged tokens [M] that it is about, where there are such."""

    question: str
    answer: str
    about: NDArray[np.bool_] | None = None


def pretrain_language(
    vlm: VLM,
    pictures: NDArray[np.uint8],
    lesson: Callable[[int, np.random.Generator], Lesson],
    phase: Phase,
    seed: int,
    folder: Path,
    progress: Callable[[str, Iterable[int], int], Iterator[int]],
    gaze: Gaze | None = None,
) -> None:
    """Phase 2: the language model learns to answer; `lesson(row, rng)` draws a question and its answer."""
    visual = vlm.model.model.visual.requires_grad_(False)
    features = []
    with torch.no_grad():
        for start in range(0, len(pictures), 500):
            features += encode_pictures(visual, *patchify(pictures[start : start + 500], vlm.processor.image_processor))
    # Bring the merger's output to the scale of the embeddings; a linear layer ends it, so scaling it is exact.
    scale = _INPUT_STD / float(torch.stack(features).std())
    with torch.no_grad():
        visual.merger.mlp[2].weight.mul_(scale)
        visual.merger.mlp[2].bias.mul_(scale)
    features = [feature * scale for feature in features]
    _, grid = patchify(pictures[:1], vlm.processor.image_processor)

    def loss_of(step: int) -> Tensor:
        rng = stream("foundation", "language", seed, step)
        rows = rng.integers(0, len(pictures), phase.batch_size)
        questions, answers, about = zip(*(lesson(int(row), rng) for row in rows), strict=True)
        picture = Picture("pool", lambda: Image.fromarray(pictures[0]))
        conversations = [[Message("user", (picture, question))] for question in questions]
        prompts = render_prompts(vlm, conversations, lambda _: [(features[row], grid[0]) for row in rows])
        sequences = append_completions(vlm, prompts, [tokenize_answer(vlm, answer) for answer in answers])
        if gaze is None:
            logits, targets, _ = completion_logits(vlm, sequences)
            return F.cross_entropy(logits, targets)
        ids, mask = sequences.inputs["input_ids"], sequences.completion_mask
        seen = vlm.model.model(**sequences.inputs, output_attentions=True)
        logits = vlm.logits(seen.last_hidden_state[:, -mask.shape[1] - 1 : -1][mask])
        first = (ids == vlm.model.config.image_token_id).int().argmax(1)
        pointed = gaze.loss(seen.attentions, ids, first, rows.tolist(), about, mask)
        return F.cross_entropy(logits, sequences.completion_ids[mask]) + pointed

    chosen = vlm.language_model.config._attn_implementation
    if gaze is not None:
        vlm.language_model.set_attn_implementation("eager")  # the others do not say where they look
    _fit("language", vlm.model, loss_of, phase, folder, progress)
    vlm.language_model.set_attn_implementation(chosen)
