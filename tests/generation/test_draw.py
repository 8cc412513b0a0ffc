"""One token from one uniform number, by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dcsft.generation.draw import draw_tokens, uniforms
from dcsft.generation.engine import Sampling

PLAIN = dict(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=4, seed=0)
LOGITS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()


def _draw(uniform: list[float], logits: Tensor = LOGITS, **sampling: float) -> list[int]:
    chance = torch.tensor(uniform, dtype=torch.float64)
    return draw_tokens(logits.expand(len(uniform), -1), chance, Sampling(**PLAIN | sampling))[0].tolist()


def test_a_uniform_picks_the_token_in_whose_interval_it_lies() -> None:
    # [0, .5) is token 0, [.5, .8) token 1, [.8, 1) token 2.
    chances = [0.0, 0.25, 0.499999, 0.500001, 0.65, 0.799999, 0.800001, 0.999999]
    assert _draw(chances) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_an_interval_holds_its_lower_end_and_not_its_upper_one() -> None:
    quarters = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()  # exact in binary
    assert _draw([0.0, 0.25, 0.5, 1 - 2**-53], quarters) == [0, 1, 2, 2]


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    assert _draw([0.0, 0.499, 0.5, 1 - 2**-53], logits) == [1, 1, 3, 3]


def test_temperature_sharpens_and_flattens() -> None:
    # T = 0.5 squares: .25, .09, .04 of .38, so the borders are .6579 and .8947. T = 2 takes roots: .7071, .5477, .4472
    # of 1.7020: .4154 and .7372.
    assert _draw([0.657, 0.658, 0.894, 0.895], temperature=0.5) == [0, 1, 1, 2]
    assert _draw([0.415, 0.416, 0.737, 0.738], temperature=2.0) == [0, 1, 1, 2]


def test_temperature_zero_is_the_most_likely_token_whatever_the_uniform() -> None:
    assert _draw([0.0, 0.5, 0.999], temperature=0.0) == [0, 0, 0]
    assert _draw([0.999], torch.tensor([1.0, 3.0, 3.0]), temperature=0.0) == [1]  # of equal ones, the first


def test_top_k_keeps_the_k_most_likely_in_proportion() -> None:
    shuffled = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    # Kept: tokens 1 and 2, .5 and .3 of .8, so the border is .625; token 0 is gone.
    assert _draw([0.0, 0.624, 0.626, 0.999], shuffled, top_k=2) == [1, 1, 2, 2]
    assert _draw([0.0, 0.999], shuffled, top_k=1) == [1, 1]
    assert _draw([0.1, 0.3, 0.9], shuffled, top_k=3) == _draw([0.1, 0.3, 0.9], shuffled)
    assert _draw([0.1, 0.3, 0.9], shuffled, top_k=50) == _draw([0.1, 0.3, 0.9], shuffled)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.05, {0}),  # the most likely token always stays
        (0.49, {0}),
        (0.51, {0, 1}),  # .5 does not reach .51 yet, so the next one comes in
        (0.79, {0, 1}),
        (0.81, {0, 1, 2}),
        (1.0, {0, 1, 2}),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert set(_draw([i / 1000 for i in range(1000)], top_p=top_p)) == kept


def test_top_p_counts_within_top_k() -> None:
    # Of top_k=2 the first has .5 / .8 = .625, which reaches .6; without top_k it has .5, which does not.
    assert set(_draw([0.0, 0.5, 0.999], top_p=0.6, top_k=2)) == {0}
    assert set(_draw([0.0, 0.8, 0.999], top_p=0.6)) == {0, 1}


def test_logp_is_of_the_tempered_distribution_without_filters() -> None:
    chance = torch.tensor([0.0, 0.7, 0.9], dtype=torch.float64)
    for filters in ({}, dict(top_k=2), dict(top_p=0.6)):
        tokens, logp = draw_tokens(LOGITS.expand(3, -1), chance, Sampling(**PLAIN | filters))
        torch.testing.assert_close(logp, LOGITS[tokens], rtol=0, atol=1e-12)
    tokens, logp = draw_tokens(LOGITS.expand(3, -1), chance, Sampling(**PLAIN | dict(temperature=0.5)))
    expected = torch.tensor([0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38], dtype=torch.float64).log()  # squares, as above
    torch.testing.assert_close(logp, expected[tokens], rtol=0, atol=1e-12)


def test_logp_of_greedy_tokens_is_of_the_untempered_distribution() -> None:
    tokens, logp = draw_tokens(LOGITS[None], torch.zeros(1, dtype=torch.float64), Sampling.greedy(4))
    assert tokens.tolist() == [0]
    assert logp.item() == pytest.approx(math.log(0.5), abs=1e-12)


def test_the_shape_of_the_leading_axes_is_kept() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    chance = torch.rand(2, 3, generator=torch.Generator().manual_seed(1)).double()
    for sampling in (Sampling(**PLAIN), Sampling(**PLAIN | dict(top_k=2)), Sampling.greedy(4)):
        tokens, logp = draw_tokens(logits, chance, sampling)
        assert tokens.shape == logp.shape == (2, 3)
        for row in range(2):
            assert torch.equal(draw_tokens(logits[row], chance[row], sampling)[0], tokens[row])


def test_frequencies_are_those_of_the_distribution() -> None:
    # 5 tokens, 20,000 draws. Pearson's statistic has 4 degrees of freedom; 18.47 is its quantile at 0.999. The uniforms
    # are fixed, so this is no lottery.
    probability = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    num_draws = 20_000
    chance = uniforms(["a"], 1, Sampling(**PLAIN | dict(max_new_tokens=num_draws)))[0, 0]
    logits = torch.tensor(probability).log().expand(num_draws, -1)
    counts = np.bincount(draw_tokens(logits, chance, Sampling(**PLAIN))[0], minlength=5)
    expected = num_draws * probability
    assert ((counts - expected) ** 2 / expected).sum() < 18.47


def test_uniforms_depend_on_seed_id_and_sample_alone() -> None:
    sampling = Sampling(**PLAIN)
    many = uniforms(["a", "b", "c"], 4, sampling)
    assert many.shape == (3, 4, 4)
    assert many.dtype == torch.float64
    assert torch.equal(uniforms(["c", "a"], 2, sampling), many[[2, 0], :2])  # other requests and samples play no part
    longer = uniforms(["a"], 1, Sampling(**PLAIN | dict(max_new_tokens=9)))
    assert torch.equal(longer[0, 0, :4], many[0, 0])  # a longer limit goes on with the same numbers
    hotter = uniforms(["a"], 1, Sampling(**PLAIN | dict(temperature=0.3, top_k=5)))
    assert torch.equal(hotter[0, 0], many[0, 0])
    other_seed = uniforms(["a"], 1, Sampling(**PLAIN | dict(seed=1)))
    assert len(torch.cat([many.flatten(), other_seed.flatten()]).unique()) == 3 * 4 * 4 + 4
    assert 0 <= float(many.min()) <= float(many.max()) < 1


def test_uniforms_are_the_same_on_any_machine() -> None:
    # numpy's PCG64 seeded with the first 63 bits of SHA-256("sample/0/train/12/3"), computed once without our code.
    pinned = [0.17739794476385795, 0.8081552657277411, 0.8147428451188409, 0.7400798911160351]
    assert uniforms(["train/12"], 4, Sampling(**PLAIN))[0, 3].tolist() == pinned
