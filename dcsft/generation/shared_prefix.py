"""Sample G answers per prompt while prompt and picture are encoded once.

`tree`: the G samples of a prompt are G query tokens of one row. A mask lets sample g see the prompt and its own
earlier tokens, so the prompt's keys and values are stored and read once. `expand`: the cache is copied G times, one
row a sample; the general way, right for layers that are not full attention, which ignore such a mask.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from dcsft.generation.draw import draw_tokens, uniforms
from dcsft.generation.engine import Diverged, Engine, Request, Sampling
from dcsft.models.attention import say_once
from dcsft.models.render import FeatureSource, Prompts, render_prompts, require_fit
from dcsft.models.sharding import whole
from dcsft.models.vlm import VLM
from dcsft.records import Completion, Picture

# B prompts, P prompt tokens, G samples a prompt, D hidden size


def _last(vlm: VLM, prompts: Prompts) -> dict[str, Tensor]:
    """[B, 1, ...] what the model wants to know of each new token: the same as of the prompt's last."""
    return {name: prompts.vision[name][:, -1:] for name in vlm.family.step_fields if name in prompts.vision}


class _Tree:
    """G parallel continuations of each row, in one cache row a prompt."""

    def __init__(self, vlm: VLM, prompts: Prompts, cache: DynamicCache, n: int) -> None:
        rows = len(prompts.input_ids)
        self.vlm, self.cache, self.next, self.n = vlm, cache, prompts.next_position, n
        self.fields = {name: field.expand(-1, n, *field.shape[2:]) for name, field in _last(vlm, prompts).items()}
        self.mask = prompts.attention_mask.bool()[:, None, None, :].expand(rows, 1, n, -1)
        self.own = torch.eye(n, dtype=torch.bool, device=vlm.device).expand(rows, 1, n, n)

    def step(self, tokens: Int[Tensor, "B G"], t: int) -> Float[Tensor, "B G D"]:
        self.mask = torch.cat([self.mask, self.own], -1)
        positions = (self.next + t).expand(-1, self.n)
        return self.vlm.hidden_states(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions.expand(3, -1, -1) if self.vlm.uses_mrope else positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.fields,
        )


class _Expand:
    """One cache row a sample."""

    def __init__(self, vlm: VLM, prompts: Prompts, cache: DynamicCache, n: int) -> None:
        rows = torch.arange(len(prompts.input_ids), device=vlm.device).repeat_interleave(n)
        cache.reorder_cache(rows)  # expands every kind of layer, linear attention too
        self.vlm, self.cache, self.n = vlm, cache, n
        self.fields = {name: field[rows] for name, field in _last(vlm, prompts).items()}
        self.next, self.mask = prompts.next_position[rows], prompts.attention_mask[rows]

    def step(self, tokens: Int[Tensor, "B G"], t: int) -> Float[Tensor, "B G D"]:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        positions = self.next + t
        hidden = self.vlm.hidden_states(
            input_ids=tokens.reshape(-1, 1),
            attention_mask=self.mask,
            position_ids=positions.expand(3, -1, -1) if self.vlm.uses_mrope else positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.fields,
        )
        return hidden.view(*tokens.shape, -1)


class _Repetition:
    """What each sample has read and said, and the penalty for saying it again: that of transformers.

    Padding is not part of a prompt here. Tokens are kept as numbers, never as a mask over the vocabulary.
    """

    def __init__(self, prompts: Prompts, n: int, sampling: Sampling) -> None:
        self.penalty, self.width = sampling.repetition_penalty, prompts.input_ids.shape[1]
        if self.penalty != 1.0:
            last = prompts.input_ids[:, -1:]  # on the left of a shorter prompt its own last token stands for padding
            ids = torch.where(prompts.attention_mask.bool(), prompts.input_ids, last)
            room = last.expand(-1, sampling.max_new_tokens)
            self.seen = torch.cat([ids, room], 1)[:, None].repeat(1, n, 1)

    def penalise(self, logits: Float[Tensor, "B G V"], t: int) -> None:
        """Change the logits of the t-th token in place."""
        if self.penalty != 1.0:
            seen = self.seen[..., : self.width + t]
            values = logits.gather(-1, seen)
            logits.scatter_(-1, seen, torch.where(values < 0, values * self.penalty, values / self.penalty))

    def add(self, token: Int[Tensor, "B G"], t: int) -> None:
        if self.penalty != 1.0:
            self.seen[..., self.width + t] = token


class SharedPrefix(Engine):
    """The local engine.

    Args:
        vlm: the policy; it is put into eval mode while it generates.
        batch_size: prompts decoded together; bounds the memory.
        decoding: "tree" or "expand"; a model whose attention takes no such mask always expands.
        features: picks up picture features computed earlier, where the vision tower is frozen.
    """

    def __init__(
        self,
        vlm: VLM,
        batch_size: int,
        decoding: Literal["tree", "expand"] = "tree",
        features: FeatureSource | None = None,
    ) -> None:
        if decoding == "tree" and not vlm.full_attention:
            say_once("this model's attention takes no mask of ours: the cache is expanded, one copy a sample")
            decoding = "expand"
        self.vlm, self.batch_size, self.decoding, self.features = vlm, batch_size, decoding, features

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        answers: dict[int, list[Completion]] = {}
        training = self.vlm.model.training
        self.vlm.model.eval()  # a LoRA model left in training mode would sample with dropout
        try:
            with whole(self.vlm):  # ranks make as many passes as their own answers want
                for rows in self._batches(requests):
                    answers.update(zip(rows, self._batch([requests[i] for i in rows], n, sampling), strict=True))
        finally:
            self.vlm.model.train(training)
        return [answers[i] for i in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Prompts of similar length together, so that little is padding; text length orders them well enough."""
        groups: dict[int, list[int]] = {}
        for i in sorted(range(len(requests)), key=lambda i: (_size(requests[i]), i)):
            groups.setdefault(_num_pictures(requests[i]) if self.vlm.family.equal_pictures else 0, []).append(i)
        for rows in groups.values():
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size]

    def _batch(self, requests: Sequence[Request], n: int, sampling: Sampling) -> list[list[Completion]]:
        vlm = self.vlm
        prompts = render_prompts(vlm, [request.messages for request in requests], self.features)
        require_fit(vlm, prompts, [request.id for request in requests], [sampling.max_new_tokens] * len(requests))
        cache = DynamicCache(config=vlm.model.config.get_text_config())
        hidden = vlm.hidden_states(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            position_ids=prompts.position_ids,
            past_key_values=cache,
            use_cache=True,
            **prompts.vision,
        )
        logits = vlm.logits(hidden[:, -1:]).expand(-1, n, -1)
        branches = (_Tree if self.decoding == "tree" else _Expand)(vlm, prompts, cache, n)
        chance = uniforms([request.id for request in requests], n, sampling)
        end = torch.tensor(vlm.eos_ids, device=vlm.device)
        alive = torch.ones(len(requests), n, dtype=torch.bool, device=vlm.device)
        repetition = _Repetition(prompts, n, sampling)
        tokens, logps = [], []
        for t in range(sampling.max_new_tokens):
            logits = logits.clone()
            repetition.penalise(logits, t)
            logits[..., vlm.picture_ids] = float("-inf")  # a placeholder in an answer would break the next forward
            token, logp = draw_tokens(logits, chance[:, :, t], sampling)
            repetition.add(token, t)
            tokens.append(torch.where(alive, token, -1))
            logps.append(torch.where(alive, logp, 0.0))
            alive = alive & ~torch.isin(token, end)
            if t + 1 == sampling.max_new_tokens or not bool(alive.any()):
                break
            logits = vlm.logits(branches.step(torch.where(alive, token, vlm.pad_id), t))
        total = torch.stack(logps, -1).sum(-1)
        finite = total.isfinite().all(-1).tolist()
        broken = [request.id for request, holds in zip(requests, finite, strict=True) if not holds]
        if broken:
            raise Diverged(
                f"log-probabilities of sampled answers must be finite, got others for {', '.join(broken[:8])}; "
                "the weights are broken: train with a smaller learning rate"
            )
        return self._completions(torch.stack(tokens, -1), total, alive)

    def _completions(
        self, tokens: Int[Tensor, "B G T"], logps: Float[Tensor, "B G"], cut: Tensor
    ) -> list[list[Completion]]:
        rows = [[tuple(token for token in sample if token >= 0) for sample in row] for row in tokens.tolist()]
        flat = [sample for row in rows for sample in row]
        texts = iter(self.vlm.processor.tokenizer.batch_decode(flat, skip_special_tokens=True))
        return [
            [
                Completion(ids, next(texts), logp, not unfinished)
                for ids, logp, unfinished in zip(row, row_logps, row_cut, strict=True)
            ]
            for row, row_logps, row_cut in zip(rows, logps.tolist(), cut.tolist(), strict=True)
        ]


def _num_pictures(request: Request) -> int:
    return sum(isinstance(part, Picture) for message in request.messages for part in message.content)


def _size(request: Request) -> int:
    return sum(len(part) for message in request.messages for part in message.content if isinstance(part, str))
