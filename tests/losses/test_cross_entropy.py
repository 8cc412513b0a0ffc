"""Cross-entropy by hand, with three words."""

import math

import pytest
import torch

from dcsft.losses.cross_entropy import row_losses


def _logits(*probabilities: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_a_rows_loss_is_the_sum_over_its_tokens() -> None:
    logits = _logits((0.5, 0.25, 0.25), (0.1, 0.2, 0.7), (1 / 3, 1 / 3, 1 / 3))
    losses = row_losses(logits, torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), num_rows=2)
    # Row 0: -ln .25 - ln .7 = 1.386294 + .356675; row 1: ln 3.
    expected = torch.tensor([-math.log(0.25) - math.log(0.7), math.log(3)], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)
    assert losses[0].item() == pytest.approx(1.742969, abs=1e-6)


def test_logits_need_not_be_normalised() -> None:
    # exp(0), exp(ln 2), exp(ln 5) are 1, 2, 5 of 8; a shift by 100 changes nothing.
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64)
    for shift in (0, 100, -100):
        loss = row_losses(logits + shift, torch.tensor([1]), torch.tensor([0]), 1)
        assert loss.item() == pytest.approx(math.log(4), abs=1e-12)


def test_rows_may_stand_in_any_order_and_be_without_tokens() -> None:
    logits = _logits((0.5, 0.25, 0.25), (0.5, 0.25, 0.25), (0.5, 0.25, 0.25))
    losses = row_losses(logits, torch.tensor([0, 1, 0]), torch.tensor([2, 0, 2]), num_rows=4)
    ln2 = math.log(2)  # row 2 has two tokens of probability 1/2, row 0 one of 1/4
    torch.testing.assert_close(losses, torch.tensor([2 * ln2, 0, 2 * ln2, 0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_gradient_is_the_probability_less_the_target() -> None:
    logits = _logits((0.5, 0.3, 0.2)).requires_grad_()
    row_losses(logits, torch.tensor([1]), torch.tensor([0]), 1).sum().backward()
    torch.testing.assert_close(
        logits.grad, torch.tensor([[0.5, 0.3 - 1, 0.2]], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_no_tokens_give_no_loss() -> None:
    losses = row_losses(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)
    assert losses.tolist() == [0.0, 0.0]
