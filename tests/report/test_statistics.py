import math

import pytest

from dcsft.report.statistics import holm, mcnemar, mean_t_interval, paired_t, wilson

Z = 1.9599639845400545


def test_wilson_of_eight_in_ten():
    # z^2 = 3.841459; centre (8 + z^2/2) / (10 + z^2) = 9.920729 / 13.841459 = 0.716740
    # half z sqrt(8 * 2 / 10 + z^2/4) / (10 + z^2) = 1.959964 * sqrt(2.560365) / 13.841459 = 0.226577
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_wilson_at_the_ends():
    # none of n: [0, z^2 / (n + z^2)] = [0, 3.841459 / 13.841459]; all of n mirrors it
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_refuses_impossible_counts():
    with pytest.raises(ValueError, match="correct must be in"):
        wilson(11, 10)


def test_mcnemar_on_a_small_table():
    # both right 3, arm alone 6, reference alone 1, both wrong 2: n = 12
    arm = [True] * 9 + [False] * 3
    reference = [True] * 3 + [False] * 6 + [True] + [False] * 2
    found = mcnemar(arm, reference)
    assert found.n == 12
    assert found.difference == pytest.approx(5 / 12)
    # two-sided binomial: 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    assert found.p == pytest.approx(0.125, abs=1e-12)
    # half a picture more in each outcome: 6.5, 1.5, n 14; centre 5/14, half z sqrt(8 - 25/14) / 14
    half = Z * math.sqrt(8 - 25 / 14) / 14
    assert (found.low, found.high) == pytest.approx((5 / 14 - half, 5 / 14 + half), abs=1e-9)


def test_mcnemar_without_discordant_pairs():
    found = mcnemar([True, False], [True, False])
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_mcnemar_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="join them"):
        mcnemar([True], [True, False])


def test_mean_t_interval_of_three():
    # mean 2, sd 1, standard error 1/sqrt(3); t(0.975, 2) = 4.302653
    found = mean_t_interval([1.0, 2.0, 3.0])
    assert (found.n, found.mean) == (3, 2.0)
    assert found.standard_error == pytest.approx(0.577350, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_mean_t_interval_needs_two():
    with pytest.raises(ValueError, match="at least two"):
        mean_t_interval([1.0])


def test_paired_t_of_three():
    # t = 2 sqrt(3) = 3.4641 with 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14)
    assert paired_t([1.0, 2.0, 3.0]).p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)


def test_paired_t_without_spread_says_nothing():
    found = paired_t([0.5, 0.5])
    assert math.isnan(found.p)
    assert (found.low, found.difference, found.high) == (0.5, 0.5, 0.5)


def test_holm_on_three():
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1: 0.03, 0.06, 0.04; the last is raised to 0.06
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=1e-12)


def test_holm_leaves_nan_out_of_the_family_and_stops_at_one():
    adjusted = holm([0.6, math.nan, 0.7])
    assert adjusted[0] == adjusted[2] == 1.0
    assert math.isnan(adjusted[1])
