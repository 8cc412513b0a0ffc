"""Loss and gradients equal those of TRL's GRPOTrainer on the same completions, which benchmarks/trl_loss.py wrote down.

Nothing here runs TRL: the figures are in tests/references/trl_grpo.json.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dcsft.losses.policy_gradient import aggregate, clipped_surrogate, group_advantage, importance_ratio, k3
from dcsft.models.completion_logps import completion_logps
from dcsft.models.render import render_prompts
from dcsft.models.vlm import VLM
from dcsft.paradigms.grpo import GRPO, Group
from dcsft.paradigms.paradigm import Item
from dcsft.records import PARTS, Completion, Message, Picture
from dcsft.seeding import stream
from dcsft.stages.plan import SHIPPED_FOUNDATION as FOUNDATION

FOUND = json.loads((Path(__file__).parents[1] / "references" / "trl_grpo.json").read_text())
CASES = [
    pytest.param(case, id=f"{case['name']}, {'on' if case['on_policy'] else 'off'} policy") for case in FOUND["cases"]
]
G = len(FOUND["rewards"][0])
Case = dict[str, Any]


def _picture(number: int, place: int) -> Picture:
    noise = stream("trl", number, place).integers(0, 256, (56, 56, 3), "uint8")
    return Picture(f"trl/{number}/{place}", lambda: Image.fromarray(noise))


CONVERSATIONS = [
    [Message("user", (*(_picture(number, place) for place in range(num_pictures)), question))]
    for number, (question, num_pictures) in enumerate(FOUND["prompts"])
]


@pytest.fixture(scope="module")
def policy() -> VLM:
    """The shipped model with the adapter of the figures."""
    vlm = VLM.load(FOUNDATION)
    vlm.add_lora(**FOUND["lora"], parts=PARTS, seed=0)
    with torch.no_grad():
        for name, parameter in vlm.trainable_state().items():
            noise = stream("trl", name).standard_normal(tuple(parameter.shape))
            parameter.copy_(FOUND["adapter_scale"] * torch.from_numpy(noise))
    return vlm


def _gradients(vlm: VLM, loss: Tensor) -> dict[str, list[float]]:
    """Of each trained tensor: the norm, and the product with (cos 0, cos 1, cos 2, ...)."""
    vlm.model.zero_grad()
    loss.backward()
    found = {}
    for name, parameter in vlm.model.named_parameters():
        if parameter.requires_grad:
            flat = parameter.grad.double().flatten()
            found[name] = [float(flat.norm()), float(flat @ torch.arange(len(flat), dtype=torch.float64).cos())]
    return found


def _check(case: Case, loss: Tensor, gradients: dict[str, list[float]]) -> None:
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=0, abs=1e-5)
    assert gradients.keys() == case["gradients"].keys()
    assert max(norm for norm, _ in case["gradients"].values()) > 0.01
    for name, expected in case["gradients"].items():
        assert gradients[name] == pytest.approx(expected, rel=1e-5, abs=1e-5), name


def _logp_old(number: int) -> Tensor:
    """[G, T] log-probabilities of group `number` under an earlier policy."""
    rows = [torch.tensor(row) for row in FOUND["logp_old"][number]]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("case", CASES)
def test_the_terms_make_trls_loss(policy: VLM, case: Case) -> None:
    arguments = case["arguments"]
    advantage = group_advantage(torch.tensor(FOUND["rewards"]), arguments["scaling"], FOUND["delta"])
    torch.testing.assert_close(advantage, torch.tensor(case["advantages"]), rtol=0, atol=1e-6)
    prompts = render_prompts(policy, CONVERSATIONS)
    logp, mask = completion_logps(policy, prompts, FOUND["completions"], FOUND["temperature"])
    logp_old = logp.detach()
    if not case["on_policy"]:
        logp_old = torch.zeros_like(logp)
        for number, row in enumerate(logp_old):
            known = _logp_old(number)
            row[:, : known.shape[1]] = known
    logp, mask, logp_old = logp.flatten(0, 1), mask.flatten(0, 1), logp_old.flatten(0, 1)
    ratio = importance_ratio(logp, logp_old, mask, arguments["level"])
    losses, clipped = clipped_surrogate(ratio, advantage.flatten(), arguments["epsilon_low"], arguments["epsilon_high"])
    if arguments["level"] == "token":
        assert float(clipped[mask].float().mean()) == pytest.approx(case["clipped"], abs=1e-6)
    else:  # TRL counts completions
        assert float((clipped & mask).any(-1).float().mean()) == pytest.approx(case["clipped"], abs=1e-6)
    assert case["on_policy"] == (case["clipped"] == 0)
    if arguments["kl"] > 0:
        with torch.no_grad(), policy.reference():
            logp_ref, _ = completion_logps(policy, prompts, FOUND["completions"], FOUND["temperature"])
        penalty = k3(logp, logp_ref.flatten(0, 1))
        assert float(penalty[mask].detach().mean()) == pytest.approx(case["kl"], rel=1e-5)
        assert case["kl"] > 0.01
        losses = losses + arguments["kl"] * penalty
    counts = (len(mask), int(mask.sum()), FOUND["max_tokens"])
    loss = aggregate(losses, mask, arguments["aggregation"], *counts)
    _check(case, loss, _gradients(policy, loss))


def _groups(scaling: str, on_policy: bool) -> list[Group]:
    """The prompts with their completions, advantages scaled as asked."""
    rewards = torch.tensor(FOUND["rewards"])
    advantages = group_advantage(rewards, scaling, FOUND["delta"])
    return [
        Group(
            Item(f"trl/{number}", messages, (), None),
            [Completion(tuple(ids), "", 0.0, True) for ids in FOUND["completions"][number]],
            rewards[number],
            advantages[number],
            logp_old=None if on_policy else _logp_old(number),
        )
        for number, messages in enumerate(CONVERSATIONS)
    ]


@pytest.mark.parametrize("micro_batch_size", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_paradigm_has_trls_loss_however_the_batch_is_cut(policy: VLM, case: Case, micro_batch_size: int) -> None:
    arguments = case["arguments"]
    once = dict(num_iterations=1, max_resamples=0, warm_start_batches=0)
    paradigm = GRPO(num_completions=G, temperature=FOUND["temperature"], delta=FOUND["delta"], **once, **arguments)
    paradigm.max_new_tokens = FOUND["max_tokens"]
    batch = _groups(arguments["scaling"], case["on_policy"])
    parts = [batch[start : start + micro_batch_size] for start in range(0, len(batch), micro_batch_size)]
    terms = [paradigm.loss(policy, part, batch, None) for part in parts]
    loss = sum(term.loss for term in terms if term.loss is not None)
    _check(case, loss, _gradients(policy, loss))
    rows = sum(sum(term.row_losses) for term in terms)
    assert rows / paradigm.weight(batch) == pytest.approx(case["loss"], rel=0, abs=1e-5)
    if arguments["kl"] > 0:
        assert sum(term.metrics["kl"] for term in terms) == pytest.approx(case["kl"], rel=1e-5)
