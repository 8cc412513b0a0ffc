"""Conversations to tensors: the one place where the chat template, the tokenizer and the pictures meet.

A prompt is rendered once, left-padded; completions are appended to it as tokens, right-padded. So sampling, SFT and
reinforcement learning see the same prompt tokens, and no completion is ever tokenised together with its prompt.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture

# B rows, P prompt tokens (left-padded), T completion tokens (right-padded), N real completion tokens, V vocabulary,
# M merged tokens of one picture, D hidden size

PictureFeatures = tuple[Float[Tensor, "M D"], Int[Tensor, "3"]]
"""Merged tokens of one picture and its (time, height, width) grid of patches."""

FeatureSource = Callable[[Sequence[Picture]], list[PictureFeatures]]
"""Returns the features of pictures, in order."""


@dataclass(frozen=True)
class Prompts:
    """B prompts as the model takes them."""

    input_ids: Int[Tensor, "B P"]
    attention_mask: Int[Tensor, "B P"]
    position_ids: Int[Tensor, "*axes B P"]
    """[3, B, P] for models with M-RoPE, else [B, P]."""
    next_position: Int[Tensor, "B 1"]
    """Position of the first completion token."""
    vision: dict[str, object]
    """Pixels, or features computed earlier, and what else the processor says, under the model's own argument names."""

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each prompt."""
        return self.attention_mask.sum(-1).tolist()


@dataclass(frozen=True)
class Sequences:
    """B prompts with one completion each."""

    inputs: dict[str, object]
    """Arguments of the forward pass."""
    completion_ids: Int[Tensor, "B T"]
    completion_mask: Bool[Tensor, "B T"]


def _chat(messages: Sequence[Message]) -> list[dict[str, object]]:
    def part(content: str | Picture) -> dict[str, object]:
        return {"type": "image"} if isinstance(content, Picture) else {"type": "text", "text": content}

    return [{"role": message.role, "content": [part(content) for content in message.content]} for message in messages]


def chat_text(processor: ProcessorMixin, messages: Sequence[Message]) -> str:
    """The conversation in the model's own template, up to where the assistant begins."""
    return processor.apply_chat_template(_chat(messages), tokenize=False, add_generation_prompt=True)


def pictures_in(messages: Sequence[Message]) -> list[Picture]:
    """The pictures of a conversation in reading order."""
    return [content for message in messages for content in message.content if isinstance(content, Picture)]


def render_prompts(
    vlm: VLM, conversations: Sequence[Sequence[Message]], features: FeatureSource | None = None
) -> Prompts:
    """Conversations that end with the assistant's turn about to begin.

    Args:
        conversations: B of them.
        features: picks up features of the pictures instead of encoding pixels; only where
            `vlm.takes_picture_features`.

    Raises:
        ValueError: the rows must not stand in one batch.
    """
    texts = [chat_text(vlm.processor, messages) for messages in conversations]
    pictures = [pictures_in(messages) for messages in conversations]
    if vlm.family.equal_pictures and len({len(row) for row in pictures}) > 1:
        raise ValueError(
            f"rows of a batch must have equally many pictures with {vlm.model.config.model_type}, got "
            f"{', '.join(str(len(row)) for row in pictures)}; set trainer.micro_batch_size=1"
        )
    if features is None or not any(pictures):
        encoded = dict(with_pixels(vlm.processor, texts, pictures).to(vlm.device))
    else:
        encoded = _with_features(vlm, texts, features([picture for row in pictures for picture in row]))
    input_ids, attention_mask = encoded.pop("input_ids"), encoded.pop("attention_mask")
    kinds = encoded.pop("mm_token_type_ids", None)
    positions, following = _positions(vlm, input_ids, attention_mask, kinds, encoded.get("image_grid_thw"))
    return Prompts(input_ids, attention_mask, positions, following, encoded)


def with_pixels(processor: ProcessorMixin, texts: list[str], pictures: list[list[Picture]]) -> BatchFeature:
    """Rendered conversations and their pictures as the processor encodes them, left-padded."""
    images = [[picture.open() for picture in row] for row in pictures]
    return processor(
        text=texts,
        images=images if any(images) else None,
        padding=True,
        padding_side="left",
        add_special_tokens=False,  # the template has written all of them, the first of the text too
        return_tensors="pt",
    )


def _with_features(vlm: VLM, texts: list[str], features: list[PictureFeatures]) -> dict[str, object]:
    """As the processor does it: each placeholder becomes as many tokens as its picture has features."""
    grids = torch.stack([grid for _, grid in features])
    number = iter(range(len(features)))
    token = vlm.processor.image_token
    expanded = []
    for text in texts:
        first, *rest = text.split(token)
        sizes = [vlm.processor.replace_image_token({"image_grid_thw": grids}, next(number)) for _ in rest]
        expanded.append(first + "".join(size + piece for size, piece in zip(sizes, rest, strict=True)))
    encoded = vlm.processor.tokenizer(expanded, padding=True, padding_side="left", return_tensors="pt").to(vlm.device)
    merged = tuple(tensor.to(vlm.device) for tensor, _ in features)
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "mm_token_type_ids": (encoded["input_ids"] == vlm.model.config.image_token_id).int(),
        "image_grid_thw": grids.to(vlm.device),
        "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=merged)},
    }


_POSITIONS: OrderedDict[tuple[object, ...], tuple[Tensor, int]] = OrderedDict()
_POSITIONS_KEPT = 4096


def _mrope_row(vlm: VLM, ids: Tensor, kinds: Tensor, grids: Tensor | None) -> tuple[Tensor, int]:
    """Positions [3, length] of one unpadded row and the next position; memoised, since prompts repeat."""
    shape = tuple(map(tuple, grids.tolist())) if grids is not None else ()
    key = (vlm.model.config.model_type, tuple(kinds.tolist()), shape)
    if key not in _POSITIONS:
        positions, delta = vlm.model.model.get_rope_index(ids[None], kinds[None], image_grid_thw=grids)
        _POSITIONS[key] = positions[:, 0].cpu(), len(ids) + int(delta)
        if len(_POSITIONS) > _POSITIONS_KEPT:
            _POSITIONS.popitem(last=False)
    return _POSITIONS[key]


def _positions(
    vlm: VLM, input_ids: Tensor, attention_mask: Tensor, kinds: Tensor | None, grids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Position ids of left-padded rows, and each row's next position [B, 1].

    Never left to the model: its forward falls back to one-dimensional positions when an argument is missing.
    """
    if not vlm.uses_mrope:
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return positions, attention_mask.sum(-1, keepdim=True)
    kinds = torch.zeros_like(input_ids) if kinds is None else kinds
    positions = torch.zeros(3, *input_ids.shape, dtype=torch.long)
    following, used = [], 0
    starts = input_ids.shape[1] - attention_mask.sum(-1)
    for row, start in enumerate(starts.tolist()):
        row_kinds = kinds[row, start:]
        # A picture is a run of placeholders; two pictures never touch, the template puts marks between them.
        num_pictures = int(((row_kinds == 1) & (row_kinds.roll(1) != 1)).sum())
        row_grids = grids[used : used + num_pictures] if num_pictures else None
        used += num_pictures
        positions[:, row, start:], after = _mrope_row(vlm, input_ids[row, start:], row_kinds, row_grids)
        following.append([after])
    return positions.to(input_ids.device), torch.tensor(following, device=input_ids.device)


def tokenize_answer(vlm: VLM, text: str) -> list[int]:
    """The tokens of a target answer and the end of the turn.

    Raises:
        ValueError: the text contains a picture placeholder.
    """
    ids = vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if set(ids) & set(vlm.placeholder_ids):
        raise ValueError(f"an answer must not contain picture tokens, got {text!r}; clean the dataset's targets")
    return [*ids, vlm.end_of_turn_id]


def continued(vlm: VLM, vision: dict[str, object], width: int) -> dict[str, object]:
    """`vision`, with its fields that have a value for each token prolonged over `width` completion tokens.

    The prompt ends in text, and so does what follows it: each such field repeats its last value.
    """
    longer = dict(vision)
    for name in set(vlm.family.token_fields) & set(vision):
        field = vision[name]
        longer[name] = torch.cat([field, field[:, -1:].expand(-1, width, *field.shape[2:])], 1)
    return longer


def require_fit(vlm: VLM, prompts: Prompts, names: Sequence[str], num_answer_tokens: Sequence[int]) -> None:
    """Nothing is ever truncated.

    Args:
        names: of the B rows, for the message.
        num_answer_tokens: that each needs room for.

    Raises:
        ValueError: prompt and answer of a row are longer than the model's context.
    """
    for name, prompt, answer in zip(names, prompts.lengths, num_answer_tokens, strict=True):
        if prompt + answer > vlm.context_length:
            raise ValueError(
                f"prompt and answer must fit the model's context of {vlm.context_length} tokens, got {prompt} + "
                f"{answer} for {name}; make pictures smaller (model.max_pixels or model.max_tiles) or leave the row out"
            )


def append_completions(vlm: VLM, prompts: Prompts, completions: Sequence[Sequence[int]]) -> Sequences:
    """Each prompt followed by its completion's tokens, ready for one forward pass without a cache."""
    width = max(map(len, completions))
    device = prompts.input_ids.device
    ids = torch.full((len(completions), width), vlm.pad_id)
    mask = torch.zeros(len(completions), width, dtype=torch.bool)
    for row, completion in enumerate(completions):
        ids[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = True
    ids, mask = ids.to(device), mask.to(device)
    attention_mask = torch.cat([prompts.attention_mask, mask.to(prompts.attention_mask.dtype)], 1)
    later = prompts.next_position + torch.arange(width, device=device)
    if vlm.uses_mrope:
        later = later.expand(3, -1, -1)
    inputs = {
        "input_ids": torch.cat([prompts.input_ids, ids], 1),
        # A right-padded token is never attended to by a real one, so only left padding needs a mask.
        "attention_mask": attention_mask if not bool(prompts.attention_mask.all()) else None,
        "position_ids": torch.cat([prompts.position_ids, later], -1),
        "use_cache": False,
        **continued(vlm, prompts.vision, width),
    }
    return Sequences(inputs, ids, mask)


def completion_logits(
    vlm: VLM, sequences: Sequences
) -> tuple[Float[Tensor, "N V"], Int[Tensor, "N"], Int[Tensor, "N"]]:
    """Logits that predict each real completion token, those tokens, and the row each belongs to.

    The output head sees these N positions only: with 150,000 words and short answers that is most of the work saved.
    """
    width = sequences.completion_ids.shape[1]
    hidden = vlm.hidden_states(**sequences.inputs)[:, -width - 1 : -1]
    mask = sequences.completion_mask
    return vlm.logits(hidden[mask]), sequences.completion_ids[mask], mask.nonzero()[:, 0]
