"""How far to trust a score: intervals, paired differences, and how many rows a proof takes. numpy only.

Checked by simulation: bench/results/coverage.md.

Shape suffixes: N rows, S systems that are compared, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np


class Scoring(Protocol):
    """Scores of any multiset of rows, from their outcomes; a Task is one."""

    @property
    def metric(self) -> str:
        """The score that is compared: larger is better."""

    @property
    def lowest_score(self) -> float:
        """What no system can fall below."""

    @property
    def gives_parts(self) -> bool:
        """Whether a row can be right in part, so that a score varies less than a share of rows does."""

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        """All scores of some rows."""

    def correct(self, outcomes: np.ndarray) -> np.ndarray | None:
        """is_right_N, where the metric is the share of such rows."""


CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
ONE_SIDED_Z = NormalDist().inv_cdf(CONFIDENCE)
POWER = 0.8  # the chance that a real gain is proven: the usual one
MIN_RESAMPLED_ROWS = 30  # with fewer, resamples of a score do not say enough about its spread to prove a difference
PARTS_ROWS = 30  # from so many on, scores of rows that are right in part may vary less than shares
LIKELY_ERRORS = 0.5  # a gain of so many standard errors is likely enough to ship: bench/results/guard.md
FOLDS_INFLATION = 1.6  # of the variance of a score by cross-validation: any two folds learn from mostly the same rows
POISSON_LOW = (0.051293, 0.355362, 0.817691)  # lower 95 % limits of a mean of which 1, 2 or 3 were counted


@dataclass(frozen=True)
class Difference:
    """One system minus another on the same rows.

    p:       two-sided, that a difference like this is luck.
    unequal: the share of rows on which just one of both is right, or would be if the score were a share.
    """

    value: float
    interval: tuple[float, float]
    p: float
    unequal: float

    @property
    def is_proven(self) -> bool:
        """Whether the sign is beyond luck: by the test, and by the interval."""
        return self.p <= 1 - CONFIDENCE and not self.interval[0] <= 0 <= self.interval[1]


    @property
    def error(self) -> float:
        """The standard error."""
        return (self.interval[1] - self.interval[0]) / 2 / Z

    @property
    def is_likely(self) -> bool:
        """Whether the first system is likely the better one: enough to ship it, and no proof."""
        return self.value > LIKELY_ERRORS * self.error


@dataclass(frozen=True)
class Paired:
    """Systems on the same N rows, in the same order.

    lowest:    the score that no system can fall below, such as 0 or, for a correlation, -1.
    n_folds:   of a cross-validation in which the rows were answered; 0 where they were held out. Answers of folds are
               not independent, since any two folds learned from mostly the same rows: that widens intervals.
    gives_parts: as of `Scoring`.
    right_SN:  whether each row is answered right, where the score is the share of such rows; means of several systems
               lie between 0 and 1. None for other scores, which have scores_SR of the same resamples of the rows.
    """

    values_S: np.ndarray
    n: int
    lowest: float
    right_SN: np.ndarray | None
    scores_SR: np.ndarray | None
    n_folds: int = 0
    gives_parts: bool = False

    def interval(self, s: int) -> tuple[float, float]:
        """Of the score of system `s`."""
        value = float(self.values_S[s])
        if self.right_SN is None:
            assert self.scores_SR is not None
            return self._interval(value, float(self.scores_SR[s].std()))
        right_N = self.right_SN[s]
        if _is_whole(right_N) and not self.n_folds:
            return share_interval(int(right_N.sum()), self.n)
        return self._interval(value, float(right_N.std()) / math.sqrt(self.n))

    def _interval(self, value: float, deviation: float) -> tuple[float, float]:
        times = inflation(self.n_folds)
        return score_interval(value, deviation * math.sqrt(times), max(1, int(self.n / times)), self.lowest,
                              gives_parts=self.gives_parts)

    def difference(self, a: int, b: int) -> Difference:
        """System `a` minus system `b`."""
        value = float(self.values_S[a] - self.values_S[b])
        if self.right_SN is None:
            assert self.scores_SR is not None
            return self._difference(value, float((self.scores_SR[a] - self.scores_SR[b]).std()))
        gap_N = self.right_SN[a] - self.right_SN[b]
        if _is_whole(gap_N) and not self.n_folds:
            return share_difference(int((gap_N > 0).sum()), int((gap_N < 0).sum()), self.n)
        return self._difference(value, float(gap_N.std()) / math.sqrt(self.n))

    def _difference(self, value: float, deviation: float) -> Difference:
        times = inflation(self.n_folds)
        return score_difference(value, deviation * math.sqrt(times), max(1, int(self.n / times)))

    def means(self, lengths: Sequence[int]) -> Paired:
        """The means of so many systems each, in their order: fits of one method with several seeds."""
        starts = np.cumsum([0, *lengths[:-1]])

        def mean(values: np.ndarray) -> np.ndarray:
            summed = np.add.reduceat(values, starts)
            return np.asarray(summed / np.reshape(lengths, (-1, *[1] * (values.ndim - 1))))

        right_SN, scores_SR = (None if values is None else mean(values) for values in (self.right_SN, self.scores_SR))
        return Paired(mean(self.values_S), self.n, self.lowest, right_SN, scores_SR, self.n_folds, self.gives_parts)


def inflation(n_folds: int) -> float:
    """How many times as large the variance of a score is as if its rows had been answered independently.

    n_folds: of a cross-validation; 0 where rows were held out.
    Source   Bates, Hastie & Tibshirani 2023, "Cross-validation: what does it estimate and how well does it do it?"
             (that intervals are too narrow without it); by how much is measured: bench/results/folds.md.
    """
    return FOLDS_INFLATION if n_folds else 1.0


def paired(task: Scoring, systems: Sequence[np.ndarray], n_resamples: int, seed: int, n_folds: int = 0) -> Paired:
    """Score every system by the task's metric. systems: for each, its outcomes on the same rows. n_folds: of `Paired`.

    Cost  shares: none. Other scores: that of `bootstrap`.
    """
    def score(outcomes: np.ndarray) -> float:
        return task.score(outcomes)[task.metric]

    values_S, n = np.array([score(outcomes) for outcomes in systems]), len(systems[0])
    right = [right_N for outcomes in systems if (right_N := task.correct(outcomes)) is not None]
    if len(right) == len(systems):
        return Paired(values_S, n, task.lowest_score, np.array(right, np.float64), None, n_folds)
    return Paired(values_S, n, task.lowest_score, None, bootstrap(score, systems, n_resamples, seed), n_folds,
                  task.gives_parts)


def bootstrap(score: Callable[[np.ndarray], float], systems: Sequence[np.ndarray], n_resamples: int,
              seed: int) -> np.ndarray:
    """Score every system on the same resamples of the rows.

    systems: for each, its outcomes on the same N rows in the same order; resampling rows jointly is what makes
             differences between systems paired.
    Returns  scores_SR.
    Cost     S * R calls of `score`.
    Source   Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 6 (the spread of a score).
    """
    rng = np.random.default_rng(seed)
    n = len(systems[0])
    scores_SR = np.empty((len(systems), n_resamples))
    drawn = [np.empty_like(outcomes) for outcomes in systems]  # new memory each time costs more than scoring
    for r in range(n_resamples):
        chosen = rng.integers(n, size=n)
        for s, outcomes in enumerate(systems):
            scores_SR[s, r] = score(outcomes.take(chosen, 0, drawn[s], "clip"))  # a ninth of outcomes[chosen]'s time
    return scores_SR


def share_interval(n_right: int, n: int) -> tuple[float, float]:
    """(low, high) of a share of which n_right of n rows were counted: 10 of 10 give (0.72, 1).

    Source  Wilson 1927, with Poisson limits where three rows at most are on one side: Brown, Cai & DasGupta 2001,
            "Interval Estimation for a Binomial Proportion".
    """
    low, high = _wilson(n_right / n, n, Z)
    if 1 <= n_right <= 3:
        low = min(low, POISSON_LOW[n_right - 1] / n)
    if 1 <= n - n_right <= 3:
        high = max(high, 1 - POISSON_LOW[n - n_right - 1] / n)
    return low, high


def score_interval(value: float, deviation: float, n: int, lowest: float = 0.0, *,
                   gives_parts: bool = False) -> tuple[float, float]:
    """(low, high) of a score between `lowest` and 1. deviation: of its resamples.

    A share of as many rows as would vary like it, and never of more than there are: where no resample differs, as
    when every row is answered right, the rows still bound what could have been seen. Where
    rows are right in part (gives_parts), it may vary as that of more rows does, the more of them there are: resamples
    of few know too little of what is rare.

    Source  Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts".
    """
    width = 1 - lowest
    share, deviation = (value - lowest) / width, deviation / width * math.sqrt(n / max(1, n - 1))
    if not 0 <= share <= 1:  # a score of its own range
        return value - _t(n) * deviation * width, value + _t(n) * deviation * width
    most = n / (1 - (value * n / (n + 2)) ** 2) if lowest < 0 else n  # a correlation varies less, the larger it is
    most *= max(1, n / PARTS_ROWS) if gives_parts else 1
    rows = min(most, share * (1 - share) / deviation**2) if deviation else most
    low, high = _wilson(share, max(1.0, rows), _t(n))
    return lowest + width * low, lowest + width * high


def share_difference(n_better: int, n_worse: int, n: int) -> Difference:
    """n_better of n rows only the first system answers right, n_worse only the second; tested exactly.

    Source  Agresti & Min 2005, "Simple improved confidence intervals for comparing matched proportions" (interval);
            McNemar 1947, the exact conditional test.
    """
    d, unequal = (n_better - n_worse) / n, n_better + n_worse
    k = np.arange(1, min(n_better, n_worse) + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((unequal - k + 1) / k))])
    p = min(1.0, 2 * float(np.exp(log_ways - unequal * math.log(2)).sum()))
    return Difference(d, _around(d, unequal, n, Z), p, unequal / n)


def score_difference(value: float, deviation: float, n: int) -> Difference:
    """Of two scores of the same n rows. deviation: of the difference, resample by resample.

    Not proven below MIN_RESAMPLED_ROWS: there p is 1.
    """
    unequal = n * (n * deviation**2 * n / max(1, n - 1) + value**2)  # what it would be for shares that vary so
    low, high = _around(value, unequal, n, _t(n))
    if n < MIN_RESAMPLED_ROWS:
        return Difference(value, (low, high), 1.0, unequal / n)
    t, freedom = abs(low + high) / (high - low) * _t(n), n - 1
    z = t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
    return Difference(value, (low, high), 2 * NormalDist().cdf(-z), unequal / n)


def least_difference(difference: Difference, n: int) -> float:
    """The lower end of the one-sided 95 % interval of a difference over n rows, by its score test.

    Where no row differs it is near the rule of three: 100 rows that agree leave room for a loss of 2.6 points.
    Source  Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
            paired-sample design".
    """
    d, unequal = difference.value, max(difference.unequal, abs(difference.value))
    worse = (unequal - d) / 2

    def z(least: float) -> float:
        """How many standard errors lie between the difference and one of `least`, were that the true one."""
        b = (2 - d) * least - unequal
        share = (math.sqrt(max(0.0, b * b + 8 * worse * least * (1 - least))) - b) / 4  # the likeliest of worse rows
        spread = 2 * share + least * (1 - least)
        return (d - least) * math.sqrt(n / spread) if spread > 0 else math.inf

    low, high = -1.0, d
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if z(middle) >= ONE_SIDED_Z else (low, middle)
    return low


def rows_needed(gain: float, unequal: float, n_folds: int = 0) -> int:
    """How many rows it takes to prove a gain in a share, 8 times of 10.

    unequal: the share of rows on which just one of both systems is right, at least the gain itself.
    n_folds: of a cross-validation; 0 where rows are held out.
    Source  Connor 1987, "Sample size for testing differences in proportions for the paired-sample design".
    """
    unequal = max(unequal, gain)
    z = Z * math.sqrt(unequal) + NormalDist().inv_cdf(POWER) * math.sqrt(unequal - gain**2)
    return math.ceil(inflation(n_folds) * (z / gain) ** 2)


def _around(d: float, unequal: float, n: int, z: float) -> tuple[float, float]:
    """The interval of a paired difference with half a row added to each of the four kinds: never without width."""
    middle, m = d * n / (n + 2), n + 2
    half = z * math.sqrt(unequal + 1 - (d * n) ** 2 / m) / m
    return max(-2.0, middle - half), min(2.0, middle + half)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return (max(0.0, low) if share > 0 else 0.0), (min(1.0, high) if share < 1 else 1.0)


def _t(n: int) -> float:
    """Student's quantile for n rows, by its expansion around the normal one: within 1 % from 6 rows on."""
    f = max(1, n - 1)
    return Z + (Z**3 + Z) / (4 * f) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * f**2)


def _is_whole(values_N: np.ndarray) -> bool:
    return bool((values_N == np.rint(values_N)).all())
