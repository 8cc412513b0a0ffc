"""GRPO: what the rollouts say, and which groups cost nothing; RS: which answers it takes."""

from collections import namedtuple

import pytest
import torch

from dcsft.paradigms.grpo import GRPO, Group
from dcsft.paradigms.paradigm import Item
from dcsft.paradigms.rs import RejectionSampling
from dcsft.records import Completion, Example

ARGUMENTS = dict(
    num_completions=2,
    temperature=0.9,
    kl=0.0,
    delta=1e-4,
    epsilon_low=0.2,
    epsilon_high=0.2,
    scaling="std",
    level="token",
    aggregation="sequence",
)
Answer = namedtuple("Answer", "token_ids correct finished")


def grpo(**changed) -> GRPO:
    paradigm = GRPO(**(ARGUMENTS | changed))
    paradigm.max_new_tokens = 4
    return paradigm


def group(item: Item, advantage: list[float]) -> Group:
    completions = [Completion((30, 40), "", -1.0, True), Completion((50,), "", -1.0, True)]
    return Group(item, completions, torch.tensor(advantage))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_completions": 1}, "paradigm.num_completions must be at least 2, got 1"),
        ({"kl": -0.1}, r"paradigm.kl must not be negative, got -0.1"),
        ({"temperature": 0}, "paradigm.temperature must be positive"),
        ({"scaling": "max"}, "paradigm.scaling must be one of std, none, got 'max'"),
        ({"aggregation": "sum"}, "paradigm.aggregation must be one of"),
    ],
)
def test_wrong_arguments_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        grpo(**changed)


def test_a_group_without_advantage_costs_no_pass_when_there_is_no_penalty(lora, icon_items):
    vlm, items = lora(trained=True), icon_items(2)
    flat, live = group(items[0], [0.0, 0.0]), group(items[1], [0.7, -0.7])
    before = vlm.meter.tokens
    assert grpo().loss(vlm, [flat], [flat, live], None).loss is None
    assert vlm.meter.tokens == before
    together = grpo().loss(vlm, [flat, live], [flat, live], None)
    alone = grpo().loss(vlm, [live], [flat, live], None)
    torch.testing.assert_close(together.loss, alone.loss)
    assert together.row_losses[0] == 0.0


def test_with_a_penalty_an_untrained_policy_has_none_to_pay(lora, icon_items):
    """At the start the policy is the reference: k3 is 0 and its gradient too."""
    vlm, items = lora(), icon_items(1)
    term = grpo(kl=0.5).loss(vlm, [group(items[0], [0.0, 0.0])], [group(items[0], [0.0, 0.0])], None)
    assert term.loss.item() == pytest.approx(0.0, abs=1e-7)


def test_the_loss_on_policy_is_minus_the_mean_advantage_and_rows_add_up(lora, icon_items):
    vlm, items = lora(trained=True), icon_items(2)
    groups = [group(items[0], [1.0, 3.0]), group(items[1], [-1.0, 0.0])]
    term = grpo().loss(vlm, groups, groups, None)
    # ratio 1: each completion's mean is -A; the mean of -1, -3, 1, 0 is -3/4
    assert term.loss.item() == pytest.approx(-0.75, abs=1e-6)
    assert sum(term.row_losses) / grpo().weight(groups) == pytest.approx(-0.75, abs=1e-6)


def test_rejection_sampling_takes_distinct_right_finished_answers_and_drops_who_has_none(vlm, icon_items):
    class Task:
        def prompt(self, example):
            return icon_items(1)[0].messages

    example = Example("train/1", "train", (), "house")
    answers = [
        Answer([5, 6], True, False),  # right, but cut
        Answer([7], False, True),
        Answer([8, 9], True, True),
        Answer([8, 9], True, True),  # a copy
        Answer([1, 9], True, True),
        Answer([3], None, True),  # cannot be judged
    ]
    one = RejectionSampling(1).items(vlm, Task(), example, "medium", answers)
    assert [item.answer_ids for item in one] == [(8, 9)]
    both = RejectionSampling(4).items(vlm, Task(), example, "medium", answers)
    assert [(item.id, item.answer_ids) for item in both] == [("train/1", (8, 9)), ("train/1#1", (1, 9))]
    assert RejectionSampling(1).items(vlm, Task(), example, "hard", answers[:2]) == []
    with pytest.raises(ValueError, match="num_per_prompt must be at least 1"):
        RejectionSampling(0)
