"""The terms of GRPO and its relatives, worked by hand."""

import math

import pytest
import torch

from dcsft.losses.policy_gradient import aggregate, clipped_surrogate, group_advantage, importance_ratio, k3


def close(found: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_an_advantage_is_centred_and_scaled_by_the_groups_standard_deviation():
    # mean 1/4; squares 9/16 + 3 x 1/16 = 12/16, over G - 1 = 3: variance 1/4, std 1/2
    close(group_advantage(torch.tensor([[1.0, 0, 0, 0]]), "std", 0.0), [[1.5, -0.5, -0.5, -0.5]])
    # delta 0.5: divided by 1
    close(group_advantage(torch.tensor([[1.0, 0, 0, 0]]), "std", 0.5), [[0.75, -0.25, -0.25, -0.25]])


def test_dr_grpo_does_not_scale():
    close(group_advantage(torch.tensor([[1.0, 0, 0, 0]]), "none", 1e-4), [[0.75, -0.25, -0.25, -0.25]])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_group_of_equal_rewards_has_exactly_no_advantage(reward):
    for scaling in ("std", "none"):
        assert not group_advantage(torch.full((2, 7), reward), scaling, 1e-4).any()


def test_a_token_ratio_is_each_tokens_and_a_sequence_ratio_their_geometric_mean():
    logp = torch.tensor([[math.log(2.0), math.log(8.0), 99.0]])
    mask = torch.tensor([[True, True, False]])
    close(importance_ratio(logp, torch.zeros(1, 3), mask, "token"), [[2.0, 8.0, 1.0]])
    close(importance_ratio(logp, torch.zeros(1, 3), mask, "sequence")[:, :2], [[4.0, 4.0]])


def test_the_surrogate_is_pessimistic():
    ratio = torch.tensor([[1.5], [1.5], [0.5], [0.5]])
    loss, clipped = clipped_surrogate(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2, 0.2)
    # A > 0: min(1.5, 1.2); A < 0: min(-1.5, -1.2); A > 0: min(0.5, 0.8); A < 0: min(-0.5, -0.8)
    close(loss, [[-1.2], [1.5], [-0.5], [0.8]])
    assert clipped.flatten().tolist() == [True, False, False, True]


def test_asymmetric_clipping_lets_a_good_token_grow_further():
    loss, _ = clipped_surrogate(torch.tensor([[1.5]]), torch.tensor([1.0]), 0.2, 0.28)
    close(loss, [[-1.28]])


def test_k3_is_zero_for_equal_policies_and_positive_otherwise():
    logp = torch.tensor([[-1.0, -1.0, -1.0]])
    ref = torch.tensor([[-1.0, -1.0 + math.log(2.0), -1.0 - math.log(2.0)]])
    # 2 - ln 2 - 1 and 1/2 + ln 2 - 1
    close(k3(logp, ref), [[0.0, 1 - math.log(2), math.log(2) - 0.5]])


@pytest.mark.parametrize(("how", "expected"), [("sequence", 2.25), ("token", 2.0), ("constant", 0.75)])
def test_aggregations(how, expected):
    losses = torch.tensor([[1.0, 2.0], [3.0, 77.0]])
    mask = torch.tensor([[True, True], [True, False]])
    # sequence: (3/2 + 3/1) / 2; token: 6 / 3; constant: 6 / (2 x 4)
    whole = aggregate(losses, mask, how, num_completions=2, num_tokens=3, max_tokens=4)
    close(whole, expected)
    shares = [aggregate(losses[row : row + 1], mask[row : row + 1], how, 2, 3, 4) for row in (0, 1)]
    close(sum(shares), expected)


def test_on_policy_the_gradient_is_the_policy_gradient():
    """With one update the ratio is 1 and its gradient is A grad log pi, whatever the clipping."""
    logp = torch.tensor([[-0.3, -2.0]], requires_grad=True)
    ratio = importance_ratio(logp, logp.detach(), torch.ones(1, 2, dtype=torch.bool), "token")
    loss, _ = clipped_surrogate(ratio, torch.tensor([1.5]), 0.2, 0.2)
    loss.sum().backward()
    close(logp.grad, [[-1.5, -1.5]])
