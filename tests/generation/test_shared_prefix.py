"""The engine draws what a plain forward says, whatever is in the batch; and greedy answers are those of `generate`."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from miniatures import FAMILIES, MIXED, ask, log_probs, miniature, picture
from torch import nn

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.features import FeatureCache
from dcsft.models.vlm import VLM
from dcsft.records import Completion, Message, Picture

SAMPLING = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=7, seed=5)
QUESTIONS = (
    *MIXED,
    ask(picture("e", 112, 56), "What is this?"),
    ask(picture("f"), picture("g", 84, 84), picture("h"), "?"),
    ask("?"),
)
REQUESTS = [Request(f"train/{i}", messages) for i, messages in enumerate(QUESTIONS)]
DECODINGS = ("tree", "expand")


def _bits(answers: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in row] for row in answers]


def _logps(answers: list[list[Completion]]) -> torch.Tensor:
    return torch.tensor([[completion.logp for completion in row] for row in answers])


def _forbid_pictures(_: torch.Tensor, scores: torch.Tensor, ids: list[int]) -> torch.Tensor:
    scores = scores.clone()
    scores[:, ids] = float("-inf")
    return scores


@torch.no_grad()
def _official(vlm: VLM, messages: Sequence[Message], max_new_tokens: int) -> tuple[int, ...]:
    """Greedy tokens of transformers, one prompt at a time, up to and with the first end-of-turn token."""
    chat = [
        {"role": m.role, "content": [
            {"type": "image", "image": part.open()} if isinstance(part, Picture) else {"type": "text", "text": part}
            for part in m.content
        ]}
        for m in messages
    ]  # fmt: skip
    inputs = vlm.processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    out = vlm.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        logits_processor=[lambda ids, scores: _forbid_pictures(ids, scores, vlm.picture_ids)],
    )[0, inputs["input_ids"].shape[1] :].tolist()
    ends = [i for i, token in enumerate(out) if token in vlm.eos_ids]
    return tuple(out[: ends[0] + 1] if ends else out)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_greedy_answers_are_those_of_transformers(mini: VLM, decoding: str) -> None:
    answers = SharedPrefix(mini, 64, decoding).generate(REQUESTS, 1, Sampling.greedy(10))
    assert _bits(answers) == [[_official(mini, request.messages, 10)] for request in REQUESTS]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_greedy_answers_of_the_shipped_model_are_those_of_transformers(shipped: VLM, icon_items, decoding: str) -> None:
    requests = [Request(item.id, item.messages) for item in icon_items(12)]
    answers = SharedPrefix(shipped, 5, decoding).generate(requests, 1, Sampling.greedy(8))
    assert _bits(answers) == [[_official(shipped, request.messages, 8)] for request in requests]
    (first, *_), *_ = answers
    assert all(completion.finished for row in answers for completion in row)  # it has learnt to end its turn
    assert first.text == shipped.processor.tokenizer.decode(first.token_ids[:-1])
    assert len({completion.text for row in answers for completion in row}) > 6  # and to look at the picture


def test_the_tree_and_the_expanded_cache_give_the_same_samples(mini: VLM) -> None:
    tree, expand = (SharedPrefix(mini, 4, decoding).generate(REQUESTS, 5, SAMPLING) for decoding in DECODINGS)
    assert _bits(tree) == _bits(expand)
    torch.testing.assert_close(_logps(tree), _logps(expand), rtol=0, atol=2e-5)
    assert len({bits for row in _bits(tree) for bits in row}) > 30  # of 35: they do differ


@pytest.mark.parametrize("decoding", DECODINGS)
def test_log_probabilities_are_those_of_a_plain_forward(mini: VLM, decoding: str) -> None:
    answers = SharedPrefix(mini, 64, decoding).generate(REQUESTS, 3, SAMPLING)
    for request, row in zip(REQUESTS, answers, strict=True):
        for completion in row:
            plain = log_probs(mini, request.messages, completion.token_ids, temperature=0.9)
            assert completion.logp == pytest.approx(float(plain.sum()), abs=1e-5 * len(plain))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_each_token_is_drawn_from_the_distribution_of_a_plain_forward(mini: VLM, decoding: str) -> None:
    """Token by token, since a sum could hide two errors: an answer cut to t tokens has the sum of its first t."""
    sums = []
    for limit in (1, 2, 3, 4):
        sampling = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=limit, seed=5)
        sums.append(_logps(SharedPrefix(mini, 64, decoding).generate(REQUESTS[:3], 2, sampling)))
    full = SharedPrefix(mini, 64, decoding).generate(REQUESTS[:3], 2, SAMPLING)
    per_token = torch.stack([sums[0], *(later - earlier for earlier, later in pairwise(sums))], -1)
    for i, row in enumerate(full):
        for g, completion in enumerate(row):
            plain = log_probs(mini, REQUESTS[i].messages, completion.token_ids, temperature=0.9)[:4]
            torch.testing.assert_close(per_token[i, g, : len(plain)], plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_samples_do_not_depend_on_the_batch_or_the_order_or_their_number(mini: VLM, decoding: str) -> None:
    expected = SharedPrefix(mini, 64, decoding).generate(REQUESTS, 4, SAMPLING)
    order = [3, 0, 6, 2, 5, 1, 4]
    for batch_size in (1, 3, 64):
        engine = SharedPrefix(mini, batch_size, decoding)
        assert _bits(engine.generate(REQUESTS, 4, SAMPLING)) == _bits(expected)
        shuffled = engine.generate([REQUESTS[i] for i in order], 4, SAMPLING)
        assert _bits(shuffled) == [_bits(expected)[i] for i in order]
    fewer = SharedPrefix(mini, 2, decoding).generate(REQUESTS[:5], 2, SAMPLING)
    assert _bits(fewer) == [row[:2] for row in _bits(expected)[:5]]


def test_the_id_and_the_seed_decide_the_sample_and_nothing_else_does(mini: VLM) -> None:
    twins = [Request("a", MIXED[0]), Request("b", MIXED[0]), Request("a", MIXED[0])]
    first, other, again = _bits(SharedPrefix(mini, 64).generate(twins, 2, SAMPLING))
    assert first == again
    assert first != other
    reseeded = Sampling(**SAMPLING.__dict__ | {"seed": 6})
    assert _bits(SharedPrefix(mini, 64).generate(twins[:1], 2, reseeded)) != [first]


def test_features_from_the_cache_give_the_same_samples(shipped: VLM, icon_items, tmp_path) -> None:
    requests = [Request(item.id, item.messages) for item in icon_items(8)]
    cache = FeatureCache(shipped, tmp_path, 1)
    plain, computed, read = (
        SharedPrefix(shipped, 3, "tree", source).generate(requests, 4, SAMPLING) for source in (None, cache, cache)
    )
    assert _bits(plain) == _bits(computed) == _bits(read)
    torch.testing.assert_close(_logps(plain), _logps(read), rtol=0, atol=2e-5)


class _Biased(nn.Module):
    """An output head that prefers some tokens."""

    def __init__(self, head: nn.Module, tokens: Sequence[int], bias: float) -> None:
        super().__init__()
        self.head, self.weight = head, head.weight
        self.register_buffer("bias", torch.zeros(len(head.weight)))
        self.bias[list(tokens)] = bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden) + self.bias


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_picture_placeholder_is_never_drawn(temperature: float) -> None:
    vlm = miniature("qwen2_5_vl")
    vlm.model.lm_head = _Biased(vlm.model.lm_head, vlm.picture_ids, 50.0)
    sampling = Sampling(temperature=temperature, top_p=1.0, top_k=3, max_new_tokens=5, seed=0)
    answers = SharedPrefix(vlm, 64).generate(REQUESTS, 4, sampling)
    assert not {token for row in _bits(answers) for bits in row for token in bits} & set(vlm.picture_ids)
    assert torch.isfinite(_logps(answers)).all()


def _count_forwards(vlm: VLM) -> list[int]:
    """Grows by the width of the input with each forward pass of the language model."""
    calls: list[int] = []
    vlm.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("decoding", DECODINGS)
def test_decoding_stops_when_every_sample_has_ended(decoding: str) -> None:
    vlm = miniature("qwen2_5_vl")
    vlm.model.lm_head = _Biased(vlm.model.lm_head, [vlm.eos_ids[0]], 100.0)
    calls = _count_forwards(vlm)
    answers = SharedPrefix(vlm, 64, decoding).generate(REQUESTS[:1], 3, SAMPLING)
    assert len(calls) == 1  # the prompt; the first token already ends the answer
    assert answers[0] == [Completion((vlm.eos_ids[0],), "", answers[0][0].logp, True)] * 3


@pytest.mark.parametrize("decoding", DECODINGS)
def test_the_prompt_is_encoded_once_and_the_last_token_is_not_fed_back(decoding: str) -> None:
    vlm = miniature("qwen2_5_vl")
    vlm.model.lm_head = _Biased(vlm.model.lm_head, vlm.eos_ids, -100.0)
    calls = _count_forwards(vlm)
    (answers,) = SharedPrefix(vlm, 64, decoding).generate(REQUESTS[:1], 3, SAMPLING)
    prompt, *steps = calls
    assert steps == [3 if decoding == "tree" else 1] * 6  # 7 tokens: the first is the prompt's
    assert prompt == 41  # see the picture: 4 tokens and 37 around them
    assert [(len(answer.token_ids), answer.finished) for answer in answers] == [(7, False)] * 3


def test_a_sample_that_ended_is_not_changed_by_those_that_go_on(mini: VLM) -> None:
    long = Sampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=40, seed=1)
    answers = SharedPrefix(mini, 64).generate(REQUESTS[:2], 16, long)
    ended = [completion for row in answers for completion in row if completion.finished]
    assert ended  # the miniature ends some of its answers by chance
    for completion in ended:
        assert completion.token_ids[-1] in mini.eos_ids
        assert not set(completion.token_ids[:-1]) & set(mini.eos_ids)
    unfinished = [completion for row in answers for completion in row if not completion.finished]
    assert {len(completion.token_ids) for completion in unfinished} <= {40}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_lora_dropout_sleeps_while_sampling_and_the_mode_is_restored(family: str, training: bool) -> None:
    vlm = miniature(family)
    vlm.add_lora(r=4, alpha=8, dropout=0.5, parts=("llm",), seed=0)
    with torch.no_grad():
        for parameter in vlm.trainable_state().values():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    vlm.model.train(training)
    answers = [SharedPrefix(vlm, 64).generate(REQUESTS[:2], 3, SAMPLING) for _ in range(2)]
    assert vlm.model.training == training
    assert answers[0] == answers[1]
    vlm.model.eval()
    plain = log_probs(vlm, REQUESTS[0].messages, answers[0][0][0].token_ids, temperature=0.9)
    assert answers[0][0][0].logp == pytest.approx(float(plain.sum()), abs=1e-4)


def test_the_mode_is_restored_after_an_error() -> None:
    vlm = miniature("qwen2_5_vl")
    vlm.model.train()
    broken = Picture("broken", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SharedPrefix(vlm, 64).generate([Request("a", ask(broken, "?"))], 1, SAMPLING)
    assert vlm.model.training


def test_nothing_asked_is_nothing_answered(shipped: VLM) -> None:
    assert SharedPrefix(shipped, 4).generate([], 3, SAMPLING) == []
