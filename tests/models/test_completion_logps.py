"""One row a prompt gives the log-probabilities and gradients of one row a completion."""

import pytest
import torch
from miniatures import MIXED, log_probs

from dcsft.models import completion_logps as ways
from dcsft.models.attention import say_once
from dcsft.models.completion_logps import completion_logps, completion_logps_naive
from dcsft.models.render import render_prompts
from dcsft.models.vlm import VLM

G = 4


def _groups(vlm: VLM, num: int) -> list[list[list[int]]]:
    """Completions of 1 to 5 tokens, none of them a picture's."""
    generator = torch.Generator().manual_seed(0)
    forbidden = set(vlm.picture_ids)
    allowed = [token for token in range(len(vlm.processor.tokenizer)) if token not in forbidden]
    lengths = torch.randint(1, 6, (num, G), generator=generator).tolist()
    pick = lambda n: [allowed[i] for i in torch.randint(0, len(allowed), (n,), generator=generator).tolist()]  # noqa: E731
    return [[pick(length) for length in row] for row in lengths]


def _logps_and_gradients(vlm, compute):
    vlm.model.requires_grad_(True)
    vlm.model.zero_grad()
    logp, mask = compute()
    (logp * mask).sum().backward()
    return logp.detach(), {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
@pytest.mark.parametrize("long_tokens", [1, 99], ids=["attention function", "dense mask"])
@pytest.mark.parametrize("head_tokens", [7, 2048], ids=["logits in parts", "logits at once"])
def test_shared_equals_naive_on_prompts_of_different_length(mini, checkpointing, long_tokens, head_tokens, monkeypatch):
    monkeypatch.setattr(ways, "LONG_TOKENS", long_tokens)
    monkeypatch.setattr(ways, "_HEAD_TOKENS", head_tokens)
    conversations = list(MIXED)
    groups = _groups(mini, len(conversations))
    if checkpointing:
        mini.model.activation_checkpointing_enable()
        mini.model.train()
    try:
        shared, shared_gradients = _logps_and_gradients(
            mini, lambda: completion_logps(mini, render_prompts(mini, conversations), groups, 0.9)
        )
    finally:
        mini.model.activation_checkpointing_disable()
        mini.model.eval()
    naive, naive_gradients = _logps_and_gradients(
        mini,
        lambda: completion_logps_naive(mini, render_prompts(mini, conversations), groups, 0.9),
    )
    torch.testing.assert_close(shared, naive, rtol=0, atol=1e-5)
    assert shared_gradients.keys() == naive_gradients.keys()
    for name, gradient in naive_gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(shared_gradients[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


def test_log_probabilities_are_those_of_a_plain_forward(shipped):
    conversations = list(MIXED)[:2]
    groups = _groups(shipped, 2)
    with torch.no_grad():
        found, mask = completion_logps(shipped, render_prompts(shipped, conversations), groups, 1.0)
    for row, messages in enumerate(conversations):
        for number, completion in enumerate(groups[row]):
            plain = log_probs(shipped, messages, completion)
            ours = found[row, number][mask[row, number]]
            # the plain forward leaves the picture tokens in: their mass is tiny, and the same shift for every way
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-3)


def test_the_attention_function_leaves_every_other_pass_as_it_was(shipped):
    conversations = list(MIXED)
    groups = _groups(shipped, len(conversations))
    with torch.no_grad():
        before = completion_logps_naive(shipped, render_prompts(shipped, conversations), groups, 0.9)[0]
        ways.prefix_attention.install(shipped.model)
        after = completion_logps_naive(shipped, render_prompts(shipped, conversations), groups, 0.9)[0]
    assert torch.equal(before, after)


def test_a_model_that_would_not_heed_the_mask_takes_the_naive_way_and_says_so_once(shipped, monkeypatch, caplog):
    conversations = list(MIXED)[:2]
    groups = _groups(shipped, 2)
    naive = completion_logps_naive(shipped, render_prompts(shipped, conversations), groups, 0.9)[0]
    monkeypatch.setattr(VLM, "full_attention", False)
    say_once.cache_clear()
    for _ in range(2):
        found = completion_logps(shipped, render_prompts(shipped, conversations), groups, 0.9)[0]
        assert torch.equal(found, naive)
    assert [record.message for record in caplog.records].count(
        "this model has layers that are not full attention: each completion is a row of its own in the loss"
    ) == 1


def test_a_picture_token_in_a_completion_is_refused(shipped):
    with pytest.raises(ValueError, match="a completion must not contain picture tokens"):
        completion_logps(shipped, render_prompts(shipped, list(MIXED)[:1]), [[[shipped.picture_ids[0]]]], 0.9)
