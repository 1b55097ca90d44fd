"""Scores, and how far to trust them. numpy only.

Shape suffixes: N rows, K labels, S systems that are compared, R resamples.
"""

from __future__ import annotations

import numpy as np


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
    return [of_counts(*map(float, one)) for one in zip(
        np.diag(confusion_KK), confusion_KK.sum(1), confusion_KK.sum(0), strict=True)]


def of_counts(n_hits: float, n_gold: float, n_predicted: float) -> dict[str, float]:
    """n (gold), precision, recall and F1; 0 where a denominator is 0."""
    return {"n": int(n_gold), "precision": n_hits / n_predicted if n_predicted else 0.0,
            "recall": n_hits / n_gold if n_gold else 0.0,
            "f1": 2 * n_hits / (n_gold + n_predicted) if n_gold + n_predicted else 0.0}


def best_cut(scores_N: np.ndarray, gold_N: np.ndarray) -> float:
    """The threshold whose "above it" has the best F1 against gold_N of 0 and 1; of equals, the nearest to 0.5.

    It lies halfway between two scores; 0.5 where no row is gold.
    """
    if not gold_N.any():
        return 0.5
    order = np.argsort(-scores_N, kind="stable")
    scores, hits = scores_N[order], np.cumsum(gold_N[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + gold_N.sum())
    below = np.append(scores[1:], scores[-1] / 2 - 1e-3)
    cuts = np.round((scores + below) / 2, 6)
    ends = scores > below  # a cut between equal scores is none
    best = ends & (f1 >= f1[ends].max() - 1e-12)
    return float(cuts[best][np.argmin(np.abs(cuts[best] - 0.5))])


def ranking_precision(scores_K: np.ndarray, gold_K: np.ndarray) -> float:
    """Label ranking average precision of one row: of the labels ranked as high as each gold one, the gold share.

    1 where no label or every label is gold (scikit-learn's convention). Source: Tsoumakas et al. 2010.
    """
    if gold_K.all() or not gold_K.any():
        return 1.0
    rank_K = (scores_K[None, :] >= scores_K[:, None]).sum(1)
    gold_rank_K = ((scores_K[None, :] >= scores_K[:, None]) & (gold_K[None, :] > 0)).sum(1)
    return float((gold_rank_K / rank_K)[gold_K > 0].mean())


def correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Pearson's r; 0 where either does not vary."""
    a, b = a_N - a_N.mean(), b_N - b_N.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 1e-12 else 0.0


def rank_correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Spearman's rho, equal values at their mean rank; 0 where either does not vary."""
    return correlation(_ranks(a_N), _ranks(b_N))


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """scipy.stats.rankdata, in numpy: an exported run is scored where there is no scipy."""
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place_N])
