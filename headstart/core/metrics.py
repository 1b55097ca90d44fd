"""Scores, and how far to trust them. numpy only.

Shape suffixes: N rows, K labels, S systems that are compared, R resamples, P pairs of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z) / sum exp(z) over the last axis, in float64, without overflow."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def mean_scores(answers: Sequence[Mapping[str, Any]], weights_M: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The weighted mean of the scores of several answers, in the order of `labels`. weights_M: of each answer."""
    scores_MK = np.array([[answer["scores"][label] for label in labels] for answer in answers], np.float64)
    return np.asarray(weights_M @ scores_MK)


class LabelCounts(NamedTuple):
    """Of each label, how many rows are right, have it as gold, and have it as prediction."""

    hits_K: np.ndarray
    gold_K: np.ndarray
    predicted_K: np.ndarray


def label_counts(gold_N: np.ndarray, predicted_N: np.ndarray, n_labels: int) -> LabelCounts:
    """What accuracy and F1 need of N rows. Cost: N + K, for a bootstrap counts the labels of every resample."""
    return LabelCounts(*(np.bincount(labels_N, minlength=n_labels)
                         for labels_N in (gold_N[gold_N == predicted_N], gold_N, predicted_N)))


def confused_pairs(gold_N: np.ndarray, predicted_N: np.ndarray, n_labels: int) -> list[list[int]]:
    """[gold, predicted, rows] of each pair of labels that occurs: wrong ones first, the most frequent first.

    Cost: N log N. A matrix of K x K would be 125 MB of JSON for 5,000 labels.
    """
    pairs_P, n_P = np.unique(gold_N * n_labels + predicted_N, return_counts=True)
    gold_P, predicted_P = np.divmod(pairs_P, n_labels)
    order_P = np.lexsort((-n_P, gold_P == predicted_P))
    pairs: list[list[int]] = np.stack([gold_P, predicted_P, n_P], 1)[order_P].tolist()
    return pairs


def accuracy(counts: LabelCounts) -> float:
    """The share of rows that are right."""
    return float(counts.hits_K.sum() / counts.gold_K.sum())


def macro_f1(counts: LabelCounts) -> float:
    """The mean F1 over the labels that occur, as gold or as prediction (scikit-learn's convention)."""
    n_both_K = counts.gold_K + counts.predicted_K
    return float((2 * counts.hits_K[n_both_K > 0] / n_both_K[n_both_K > 0]).mean())


def per_label(counts: LabelCounts) -> list[dict[str, float]]:
    """n (gold rows), precision, recall and F1 of each label; 0 where a denominator is 0."""
    return [of_counts(*map(float, triple)) for triple in zip(*counts, strict=True)]


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
    gold_scores = scores_K[gold_K > 0]
    rank, gold_rank = (len(scores) - np.searchsorted(np.sort(scores), gold_scores)
                       for scores in (scores_K, gold_scores))
    return float((gold_rank / rank).mean())


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
