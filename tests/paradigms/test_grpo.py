"""GRPO: what the rollouts say, and which groups cost nothing; RS: which answers it takes."""

import math
from collections import namedtuple

import pytest
import torch

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.completion_logps import completion_logps
from dcsft.models.render import render_prompts
from dcsft.paradigms import grpo as module
from dcsft.paradigms.grpo import GRPO, Group
from dcsft.paradigms.paradigm import Item, Setting
from dcsft.paradigms.rs import RejectionSampling
from dcsft.records import Completion, Example, Score

ARGUMENTS = dict(
    num_completions=2,
    temperature=0.9,
    num_iterations=1,
    max_resamples=0,
    warm_start_batches=0,
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
    return Group(item, completions, torch.tensor([1.0, 0.0]), torch.tensor(advantage))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_completions": 1}, "paradigm.num_completions must be at least 2, got 1"),
        ({"kl": -0.1}, r"paradigm.kl must not be negative, got -0.1"),
        ({"num_iterations": 0}, "paradigm.num_iterations must be at least 1, got 0"),
        ({"max_resamples": -1}, "paradigm.max_resamples must not be negative, got -1"),
        ({"warm_start_batches": -1}, "paradigm.warm_start_batches must not be negative, got -1"),
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


def logps(vlm, groups):
    """What the policy says now of each group's completions."""
    prompts = render_prompts(vlm, [group.item.messages for group in groups])
    with torch.no_grad():
        return completion_logps(vlm, prompts, [[c.token_ids for c in group.completions] for group in groups], 0.9)


def shift(vlm, scale=1.2):
    """Moves the policy, as an update does; the reference stays."""
    for name, tensor in vlm.trainable_state().items():
        if "lora_B" in name:
            tensor.mul_(scale)


def test_a_second_update_takes_the_ratio_to_the_first(lora, icon_items):
    vlm, items = lora(trained=True), icon_items(1)
    groups, paradigm = [group(items[0], [1.0, -2.0])], grpo(num_iterations=2, epsilon_low=9.0, epsilon_high=9.0)
    old, mask = logps(vlm, groups)
    paradigm.loss(vlm, groups, groups, None)
    torch.testing.assert_close(groups[0].logp_old, old[0], rtol=0, atol=1e-6)
    shift(vlm)
    new, _ = logps(vlm, groups)
    ratio = ((new - old)[0].exp() * mask[0]).sum(-1) / mask[0].sum(-1)  # each completion's mean
    expected = -(ratio[0] * 1.0 + ratio[1] * -2.0) / 2
    assert abs(float(ratio[0]) - 1) > 1e-3, "the policy must have moved"
    found = paradigm.loss(vlm, groups, groups, None)
    assert found.loss.item() == pytest.approx(float(expected), abs=1e-5)
    assert found.metrics["clip_fraction"] == 0.0


def test_clip_fraction_and_kl_are_means_over_the_batch_s_tokens(lora, icon_items):
    vlm, items = lora(trained=True), icon_items(2)
    groups, paradigm = [group(item, [1.0, -1.0]) for item in items], grpo(kl=0.04, epsilon_low=0.0, epsilon_high=0.0)
    old, mask = logps(vlm, groups)
    with vlm.reference():
        reference, _ = logps(vlm, groups)
    first = paradigm.loss(vlm, groups, groups, None)
    log_ratio = (reference - old)[mask]
    assert first.metrics["kl"] == pytest.approx(float((log_ratio.exp() - log_ratio - 1).mean()), abs=1e-5)
    assert first.metrics["clip_fraction"] == 0.0  # the ratio is one
    shift(vlm)
    rose = ((logps(vlm, groups)[0] - old) > 0)[mask]
    good = torch.tensor([[[True], [False]]] * 2).expand_as(mask)[mask]
    parts = [paradigm.loss(vlm, [one], groups, None).metrics["clip_fraction"] for one in groups]
    # with epsilon 0, a token is clipped where the ratio moved the way its advantage wants
    assert sum(parts) == pytest.approx(float((rose == good).float().mean()), abs=1e-6)


class Judge:
    """Gives each answer more than the one before."""

    def __init__(self):
        self.given = 0

    def score(self, example, text):
        self.given += 1
        return Score(None, float(self.given))


def setting(items):
    examples = {item.id: Example(item.id, "train", (), "house") for item in items}
    return Setting(Judge(), examples, items, None, 8, "tree", 4, 0)


def test_prompts_without_variance_are_replaced_by_others(vlm, icon_items, monkeypatch):
    items = icon_items(8)
    paradigm = grpo(max_resamples=2)
    teaching = {items[1].id, items[6].id}

    def sample(policy, batch, name, _):
        return [group(item, [0.7, -0.7] if item.id in teaching else [0.0, 0.0]) for item in batch]

    monkeypatch.setattr(paradigm, "_sample", sample)
    begun = paradigm.begin(vlm, items[:4], 0, setting(items))
    again = paradigm.begin(vlm, items[:4], 0, setting(items))
    ids = [row.id for row in begun.rows]
    assert ids == [row.id for row in again.rows]  # a function of the weights and the arguments alone
    # 3 flat prompts ask for 3 of the other 4; after that 2 or 3 are still flat, and one other is left
    assert ids[1] == items[1].id
    assert items[6].id in ids
    assert begun.metrics["resampled"] == 3 + 1
    assert begun.tokens_generated == 3 * (4 + begun.metrics["resampled"])  # a group has 3 tokens
    assert paradigm.begin(vlm, items[6:7], 0, setting(items)).metrics["resampled"] == 0
    assert grpo().max_resamples == 0


def test_batch_after_batch_without_variance_is_said_once(vlm, icon_items, monkeypatch, caplog):
    items, paradigm = icon_items(2), grpo()
    monkeypatch.setattr(paradigm, "_sample", lambda _, batch, *more: [group(item, [0.0, 0.0]) for item in batch])
    for number in range(3 * module._PATIENCE):
        paradigm.begin(vlm, items, number, setting(items))
    assert [record.message for record in caplog.records] == [
        "no prompt of the last 20 batches had completions of different reward: nothing is learned from them; "
        "look at the rewards, or train on subset=medium"
    ]


def label(vlm, items, num=2):
    """What labelling writes of `items`, sampled from the cold start."""
    Row = namedtuple("Row", "token_ids text logp finished correct")
    requests = [Request(item.id, item.messages) for item in items]
    with vlm.reference():
        answers = SharedPrefix(vlm, 8).generate(requests, num, Sampling(0.9, 1.0, 0, 4, 5))
    return [[Row(c.token_ids, c.text, c.logp, c.finished, False) for c in some] for some in answers]


class Task(Judge):
    def __init__(self, items):
        super().__init__()
        self.messages = {item.id: item.messages for item in items}

    def prompt(self, example):
        return self.messages[example.id]

    def target(self, example):
        return example.target


def warm_items(vlm, paradigm, plain, answers):
    task = Task(plain)
    found = [
        paradigm.items(vlm, task, Example(item.id, "train", (), "house"), "medium", some)
        for item, some in zip(plain, answers, strict=True)
    ]
    return [item for some in found for item in some]


def test_a_warm_start_is_what_sampling_with_labelling_s_streams_would_give(lora, icon_items):
    """At the start the policy is the cold start: same completions, same log-probabilities, so a ratio of one."""
    vlm, plain = lora(), icon_items(3)  # lora_B is zero
    paradigm = grpo(warm_start_batches=1)
    items = warm_items(vlm, paradigm, plain, label(vlm, plain))
    begun = paradigm.begin(vlm, items, 0, setting(items))
    requests = [Request(item.id, item.messages) for item in plain]
    sampled = SharedPrefix(vlm, 8).generate(requests, 2, Sampling(0.9, 1.0, 0, 4, 5))
    assert [[c.token_ids for c in row.completions] for row in begun.rows] == [[c.token_ids for c in s] for s in sampled]
    assert begun.tokens_generated == 0
    paradigm.loss(vlm, begun.rows, begun.rows, None)
    for row, some in zip(begun.rows, sampled, strict=True):
        recorded = [c.logp for c in some]
        lengths = [len(c.token_ids) for c in some]
        found = [float(logp[:n].sum()) for logp, n in zip(row.logp_old, lengths, strict=True)]
        assert found == pytest.approx(recorded, abs=1e-4)


def test_a_warm_start_of_later_batches_takes_the_ratio_to_the_cold_start(lora, icon_items):
    vlm, plain = lora(trained=True), icon_items(2)
    paradigm = grpo(warm_start_batches=2, epsilon_low=9.0, epsilon_high=9.0)
    items = warm_items(vlm, paradigm, plain, label(vlm, plain))
    rows = paradigm.begin(vlm, items, 1, setting(items)).rows
    new, mask = logps(vlm, rows)
    with vlm.reference():
        old, _ = logps(vlm, rows)
    ratio = ((new - old).exp() * mask).sum(-1) / mask.sum(-1)
    expected = -sum(float((row.advantage * r).sum()) for row, r in zip(rows, ratio, strict=True)) / 4
    assert paradigm.loss(vlm, rows, rows, None).loss.item() == pytest.approx(expected, abs=1e-5)


def test_rollouts_of_another_checkpoint_are_no_warm_start(lora, icon_items):
    vlm, plain = lora(), icon_items(2)
    paradigm = grpo(warm_start_batches=1)
    answers = label(vlm, plain)
    foreign = [[row._replace(logp=row.logp - 5.0) for row in some] for some in answers]
    items = warm_items(vlm, paradigm, plain, foreign)
    rows = paradigm.begin(vlm, items, 0, setting(items)).rows
    with pytest.raises(ValueError, match=r"must take rollouts of this cold start, got ones of test/. whose log-prob"):
        paradigm.loss(vlm, rows, rows, None)
    with pytest.raises(ValueError, match=r"label.num_samples must be at least paradigm.num_completions .* got 1 "):
        warm_items(vlm, paradigm, plain, label(vlm, plain, num=1))


def test_what_a_checkpoint_holds_between_updates_is_the_batch(lora, icon_items):
    vlm, items = lora(trained=True), icon_items(2)
    paradigm = grpo(num_iterations=2)
    rows = paradigm.begin(vlm, items, 0, setting(items)).rows
    paradigm.loss(vlm, rows, rows, None)
    again = paradigm.restored(paradigm.state(rows), setting(items))
    for row, other in zip(rows, again, strict=True):
        assert row.item is other.item
        assert list(row.completions) == list(other.completions)
        assert torch.equal(row.advantage, other.advantage)
        assert torch.equal(row.logp_old, other.logp_old)
    shift(vlm)
    assert math.isclose(
        paradigm.loss(vlm, rows, rows, None).loss.item(), paradigm.loss(vlm, again, again, None).loss.item()
    )


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
