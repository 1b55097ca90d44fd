"""What frozen layers say of a text, and what a linear map makes of it.

Shape suffixes: N windows, D width, K labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .batches import WindowStore, by_length

MAX_HEAD_ROWS = 100_000  # a linear map with a few thousand numbers gains nothing from more
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse of L2 regularization, tried in this order; validation chooses
MAX_ITERATIONS = 2_000
TOLERANCE = 1e-5  # largest slope left in the mean loss; coarser ones stop long before the solution when labels are many
N_HASHED = 2**18  # columns of TF-IDF: bounded memory whatever the vocabulary


def enough(gold_N: np.ndarray, seed: int) -> np.ndarray:
    """The numbers of the windows that a head is solved on: all, or MAX_HEAD_ROWS drawn with every label among them."""
    if len(gold_N) <= MAX_HEAD_ROWS:
        return np.arange(len(gold_N))
    _, first_of_each_label = np.unique(gold_N, return_index=True)
    drawn = np.random.default_rng(seed).choice(len(gold_N), MAX_HEAD_ROWS, replace=False)
    return np.asarray(np.union1d(drawn, first_of_each_label))


@torch.inference_mode()
def extract(features: Callable[[dict[str, np.ndarray]], torch.Tensor], width: int, windows: WindowStore,
            chosen: np.ndarray, path: Path, *, tokens_per_batch: int, each: Callable[[int], None]) -> np.ndarray:
    """What `features` says of the windows numbered `chosen`, one vector of `width` numbers a window.

    features: a padded batch -> [B, D].  each: called with the windows done in each batch.
    path: file of the memory-mapped answer (overwritten).
    Returns  features_ND float32, N = len(chosen), in that order.
    Cost     one forward pass where the features are not known yet; 4 * D bytes a window on disk.
    """
    shape = (len(chosen), width)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])  # a full disk says so now, not by SIGBUS later
    features_ND = np.memmap(path, np.float32, "r+", shape=shape)
    for places in by_length(windows.lengths_N[chosen], np.arange(len(chosen)), tokens_per_batch):
        features_ND[places] = features(windows.batch(chosen[places]).inputs).float().cpu().numpy()
        each(len(places))
    return features_ND


@dataclass(frozen=True)
class LinearMap:
    """logits_NK = features_ND @ weight_KD.T + bias_K, and the strength C that it was solved with."""

    weight_KD: np.ndarray
    bias_K: np.ndarray
    strength: float

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        return np.asarray(features_ND @ self.weight_KD.T + self.bias_K)

    def put_on(self, linear: torch.nn.Linear) -> None:
        """Copy the map into a torch layer."""
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(self.weight_KD))
            if linear.bias is not None:
                linear.bias.copy_(torch.from_numpy(self.bias_K))


def solve_head(features_ND: np.ndarray, gold_N: np.ndarray, n_labels: int,
               score: Callable[[LinearMap], float], class_weights: str) -> LinearMap:
    """Logistic regression on `features_ND`, solved to convergence, as strong as scores best.

    score: how good a map is on held-out rows, larger is better.
    The features are scaled by one number, so that a strength means the same for every backbone; the number is folded
    back into the weights. Ties go to the stronger regularization.
    Source   Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (the head of LP-FT).
    """
    from sklearn.linear_model import LogisticRegression

    scale = float(np.sqrt(np.mean(np.square(features_ND), dtype=np.float64))) * np.sqrt(features_ND.shape[1]) / 4
    scaled = np.asarray(features_ND / np.float32(scale))
    best: tuple[float, LinearMap] | None = None
    regression = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True,
                                    class_weight=None if class_weights == "none" else "balanced")
    for strength in STRENGTHS:
        regression.set_params(C=strength).fit(scaled, gold_N)
        found = LinearMap(*_full(regression, n_labels, scale), strength)
        value = score(found)
        if best is None or value > best[0]:
            best = value, found
    assert best is not None
    return best[1]


def _full(regression: object, n_labels: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn keeps one line for two classes; a softmax over two logits needs both."""
    weight, bias = regression.coef_ / scale, regression.intercept_  # type: ignore[attr-defined]
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    assert len(weight) == n_labels, "every label has a train row"
    return weight.astype(np.float32), bias.astype(np.float32)


def tf_idf_logistic_regression(train: Sequence[str], gold_N: np.ndarray, test: Sequence[str],
                               n_labels: int) -> np.ndarray:
    """Probabilities_MK of the test texts: the classic answer without any pretrained knowledge.

    Word and word-pair counts for texts with spaces; characters (1 to 3) where most texts have none, as in Chinese.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    spaced = sum(" " in text.strip() for text in train) * 2 >= len(train)
    words = HashingVectorizer(n_features=N_HASHED, alternate_sign=False, norm=None, lowercase=True,
                              analyzer="word" if spaced else "char", ngram_range=(1, 2) if spaced else (1, 3),
                              token_pattern=r"(?u)\b\w+\b|[^\w\s]" if spaced else None)
    counts = words.transform(train)
    seen = np.flatnonzero(counts.getnnz(axis=0))  # weights for columns that no train text has would only take memory
    weigh = TfidfTransformer(sublinear_tf=True)
    regression = LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    regression.fit(weigh.fit_transform(counts[:, seen]), gold_N)
    shares = regression.predict_proba(weigh.transform(words.transform(test)[:, seen]))
    assert shares.shape[1] == n_labels, "every label has a train row"
    return np.asarray(shares)
