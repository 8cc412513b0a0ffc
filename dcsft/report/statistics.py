"""Intervals and tests for accuracies: over test pictures within a seed, over seeds, and over a family of tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, in [0, 1]; (0, 1) when nothing was counted.

    E. B. Wilson, JASA 22 (1927) 209-212, without continuity correction.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be in 0 ... n = {n}, got {correct!r}; pass the counts of one split")
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of an arm minus accuracy of a reference, on the same pictures or the same seeds."""

    n: int
    """Pairs: pictures for McNemar, seeds for the t-test."""
    difference: float
    low: float
    high: float
    p: float
    """Two-sided; nan where the test says nothing."""


def mcnemar(arm: Sequence[bool], reference: Sequence[bool], level: float = 0.95) -> PairedDifference:
    """Exact McNemar test and interval for the difference in accuracy of two arms on the same n pictures.

    p is the exact two-sided binomial test of the discordant pairs. The interval is Wald's after half a picture is
    added to each of the four outcomes (A. Agresti and Y. Min, Statistics in Medicine 24 (2005) 729-740); its centre
    therefore lies a little closer to zero than the difference.
    """
    if len(arm) != len(reference) or len(arm) == 0:
        raise ValueError(
            f"arm and reference must be paired and not empty, got {len(arm)!r} and {len(reference)!r} answers; "
            "join them on the example id first"
        )
    a, b = np.asarray(arm, bool), np.asarray(reference, bool)
    gained, lost, n = int((a & ~b).sum()), int((~a & b).sum()), len(a)
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    gained_, lost_, n_ = gained + 0.5, lost + 0.5, n + 2
    centre = (gained_ - lost_) / n_
    half = _z(level) * math.sqrt(gained_ + lost_ - (gained_ - lost_) ** 2 / n_) / n_
    return PairedDifference(n, (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half), p)


def _z(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds."""

    n: int
    mean: float
    standard_error: float
    low: float
    high: float


def mean_t_interval(values: Sequence[float], level: float = 0.95) -> MeanInterval:
    """Mean, standard error and Student's t interval of at least two values, in the values' unit."""
    n = len(values)
    if n < 2:
        raise ValueError(f"values must be at least two, got {n!r}; one seed has no spread to measure")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return MeanInterval(n, mean, error, mean - half, mean + half)


def paired_t(differences: Sequence[float], level: float = 0.95) -> PairedDifference:
    """Student's t-test that per-seed differences have mean zero.

    Where all differences are equal there is no spread to compare the mean with, and p is nan.
    """
    interval = mean_t_interval(differences, level)
    if np.ptp(differences) == 0:
        p = math.nan
    else:
        p = float(2 * stats.t.sf(abs(interval.mean) / interval.standard_error, interval.n - 1))
    return PairedDifference(interval.n, interval.mean, interval.low, interval.high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values in the order given; nan stays nan and is not part of the family.

    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    ranked = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        adjusted[i] = largest
    return adjusted
