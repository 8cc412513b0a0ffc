"""The repetition penalty is that of transformers, for any batch and both ways of decoding."""

from collections.abc import Sequence

import pytest
import torch
from miniatures import MIXED, ask, log_probs, picture
from transformers import RepetitionPenaltyLogitsProcessor

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.vlm import VLM
from dcsft.records import Message, Picture

QUESTIONS = (*MIXED, ask(picture("f"), picture("g", 84, 84), "What is a tree?"))
REQUESTS = [Request(f"train/{i}", messages) for i, messages in enumerate(QUESTIONS)]
DECODINGS = ("tree", "expand")


@torch.no_grad()
def _official(vlm: VLM, messages: Sequence[Message], max_new_tokens: int, penalty: float) -> tuple[int, ...]:
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

    def forbid(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor(vlm.picture_ids), float("-inf"))

    out = vlm.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        repetition_penalty=penalty,
        logits_processor=[forbid],
    )[0, inputs["input_ids"].shape[1] :].tolist()
    ends = [i for i, token in enumerate(out) if token in vlm.eos_ids]
    return tuple(out[: ends[0] + 1] if ends else out)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_greedy_answers_are_those_of_transformers(mini: VLM, decoding: str) -> None:
    for penalty in (1.1, 3.0):
        answers = SharedPrefix(mini, 64, decoding).generate(REQUESTS, 1, Sampling.greedy(10, penalty))
        expected = [_official(mini, request.messages, 10, penalty) for request in REQUESTS]
        assert [row[0].token_ids for row in answers] == expected
    plain = SharedPrefix(mini, 64, decoding).generate(REQUESTS, 1, Sampling.greedy(10))
    assert [row[0].token_ids for row in plain] != expected


@pytest.mark.parametrize("decoding", DECODINGS)
def test_greedy_answers_of_the_shipped_model_are_those_of_transformers(shipped, icon_items, decoding: str) -> None:
    requests = [Request(item.id, item.messages) for item in icon_items(6)]
    answers = SharedPrefix(shipped, 4, decoding).generate(requests, 1, Sampling.greedy(8, 1.1))
    assert [row[0].token_ids for row in answers] == [_official(shipped, r.messages, 8, 1.1) for r in requests]


def test_padding_and_the_other_samples_are_not_part_of_what_was_said(mini: VLM) -> None:
    """Drawn samples: the prompts have different lengths, the samples of a prompt different words."""
    sampling = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=6, seed=5, repetition_penalty=2.0)
    tree, expand = (SharedPrefix(mini, 64, decoding).generate(REQUESTS, 3, sampling) for decoding in DECODINGS)
    alone = [SharedPrefix(mini, 1).generate([request], 3, sampling)[0] for request in REQUESTS]
    bits = [[[completion.token_ids for completion in row] for row in answers] for answers in (tree, expand, alone)]
    assert bits[0] == bits[1] == bits[2]


def test_the_log_probability_is_that_of_the_penalised_distribution(mini: VLM) -> None:
    """The first token of a prompt without padding: transformers' processor on the logits of a plain forward."""
    messages = QUESTIONS[0]
    ((answer,),) = SharedPrefix(mini, 1).generate([Request("a", messages)], 1, Sampling.greedy(1, 1.5))
    assert answer.logp != pytest.approx(float(log_probs(mini, messages, answer.token_ids)), abs=1e-4)
    prompt = mini.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": messages[0].content[0].open()},
                                      {"type": "text", "text": messages[0].content[1]}]}],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip
    with torch.no_grad():
        logits = mini.model(**prompt).logits[:, -1].float()
    logits = RepetitionPenaltyLogitsProcessor(1.5)(prompt["input_ids"], logits)
    logits[:, mini.picture_ids] = float("-inf")
    assert answer.logp == pytest.approx(float(logits.log_softmax(-1)[0, answer.token_ids[0]]), abs=1e-4)
