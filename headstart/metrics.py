"""Scores, and how far to trust them. numpy only.

Shape suffixes: N rows, K labels, S systems that are compared, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z) / sum exp(z) over the last axis, in float64, without overflow."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def confusion(gold_N: np.ndarray, predicted_N: np.ndarray, n_labels: int) -> np.ndarray:
    """counts_KK of (gold, predicted)."""
    flat = np.bincount(gold_N * n_labels + predicted_N, minlength=n_labels * n_labels)
    return flat.reshape(n_labels, n_labels)


def accuracy(confusion_KK: np.ndarray) -> float:
    """The share of rows on the diagonal."""
    return float(np.trace(confusion_KK) / confusion_KK.sum())


def _f1_K(confusion_KK: np.ndarray) -> np.ndarray:
    """F1 of each label: 2 TP / (gold + predicted); nan for a label that neither gold nor predictions hold."""
    support = confusion_KK.sum(0) + confusion_KK.sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * np.diag(confusion_KK) / support)


def macro_f1(confusion_KK: np.ndarray) -> float:
    """The mean F1 over the labels that occur, as gold or as prediction (scikit-learn's convention)."""
    return float(np.nanmean(_f1_K(confusion_KK)))


def per_label(confusion_KK: np.ndarray) -> list[dict[str, float]]:
    """n (gold rows), precision, recall and F1 of each label; 0 where a denominator is 0."""
    hits, gold, predicted = np.diag(confusion_KK), confusion_KK.sum(1), confusion_KK.sum(0)
    return [{"n": int(g), "precision": float(h / p) if p else 0.0, "recall": float(h / g) if g else 0.0,
             "f1": float(2 * h / (g + p)) if g + p else 0.0} for h, g, p in zip(hits, gold, predicted, strict=True)]


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
    for r in range(n_resamples):
        chosen = rng.integers(n, size=n)
        for s, outcomes in enumerate(systems):
            scores_SR[s, r] = score(outcomes[chosen])
    return scores_SR


def interval(values_R: np.ndarray, confidence: float = CONFIDENCE) -> list[float]:
    """[low, high]: the central `confidence` of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return [float(low), float(high)]
