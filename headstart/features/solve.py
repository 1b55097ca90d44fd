"""Linear heads solved exactly on features: logistic regression, ridge.

Shape suffixes: N windows, D width, K labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..core.progress import Progress
from ..core.values import LinearMap
from .store import ActivationStore, make_room

MAX_HEAD_ROWS = 100_000  # a linear map with a few thousand numbers gains nothing from more
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse of L2 regularization, tried in this order; validation chooses
MAX_ITERATIONS = 2_000
NEVER = -30.0  # the logit of a label that no train row has
TOLERANCE = 1e-5  # largest slope left in the mean loss; coarser ones stop long before the solution when labels are many


def enough(n_lines_N: np.ndarray, gold_N: np.ndarray | None, seed: int) -> np.ndarray:
    """The numbers of the windows that a head is solved on: all, or as many as give MAX_HEAD_ROWS lines of features.

    n_lines_N: lines of features that each window gives.  gold_N: where each window has one class; then every class is
    among those that are drawn.
    """
    if n_lines_N.sum() <= MAX_HEAD_ROWS:
        return np.arange(len(n_lines_N))
    order = np.random.default_rng(seed).permutation(len(n_lines_N))
    drawn = order[np.cumsum(n_lines_N[order]) <= MAX_HEAD_ROWS]
    first_of_each = np.unique(gold_N, return_index=True)[1] if gold_N is not None else drawn[:0]
    return np.asarray(np.union1d(drawn, first_of_each))


def solve_or_load(words: str, numbers: Iterable[np.ndarray], width: int, solve: Callable[[], LinearMap],
                  progress: Progress) -> LinearMap:
    """`solve()`, or what an earlier run solved for the very same numbers: methods that share frozen features share
    their head, too.

    words, numbers: all that the answer depends on.  width: D, of the features.
    """
    import sklearn

    how = f"{STRENGTHS} {TOLERANCE} {MAX_ITERATIONS} {NEVER} {sklearn.__version__} {words}"
    digest = hashlib.blake2b(how.encode(), digest_size=8)
    for part in numbers:
        digest.update(np.ascontiguousarray(part).data)
    key_N = np.array([int.from_bytes(digest.digest(), "little")], np.uint64)
    store = ActivationStore(f"heads-{width}", width + 2, "<f4")
    if stored := store.get(key_N):
        lines_KE = np.array(stored[0])
        return LinearMap(lines_KE[:, :-2].copy(), lines_KE[:, -2].copy(), float(lines_KE[0, -1]))
    solved = solve()
    lines_KE = np.column_stack([solved.weight_KD, solved.bias_K, np.full(len(solved.bias_K), solved.strength)])
    try:
        with store.locked(progress):
            if make_room(lines_KE.nbytes, store.folder):
                store.write(key_N, np.array([len(lines_KE)]), iter([(np.array([0]), [lines_KE])]))
    except OSError as error:
        progress.say(store.unwritable(error))
    return solved


def solve_head(features_ND: np.ndarray, gold_N: np.ndarray, n_labels: int,
               score: Callable[[LinearMap], float], class_weights: str) -> LinearMap:
    """Logistic regression on `features_ND`, solved to convergence, as strong as scores best.

    score: how good a map is on held-out rows, larger is better.
    The features are scaled by one number, so that a strength means the same for every backbone; the number is folded
    back into the weights. Ties go to the stronger regularization.
    Source   Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (the head of LP-FT).
    """
    from sklearn.linear_model import LogisticRegression

    scale = _scale(features_ND)
    scaled = np.asarray(features_ND / np.float32(scale))
    regression = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True,
                                    class_weight=None if class_weights == "none" else "balanced")

    def solved(strength: float) -> LinearMap:
        if len(np.unique(gold_N)) < 2:
            bias_K = np.where(np.arange(n_labels) == gold_N[0], 0, NEVER).astype(np.float32)
            return LinearMap(np.zeros((n_labels, features_ND.shape[1]), np.float32), bias_K, strength)
        regression.set_params(C=strength).fit(scaled, gold_N)
        return LinearMap(*_full(regression, n_labels, scale), strength)

    return strongest(solved, score)


def _scale(features_ND: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(features_ND), dtype=np.float64)) * np.sqrt(features_ND.shape[1]) / 4)


def strongest(solved: Callable[[float], LinearMap], score: Callable[[LinearMap], float]) -> LinearMap:
    """Of the maps solved at each of STRENGTHS the one that scores best; ties go to the stronger regularization."""
    heads = [solved(strength) for strength in STRENGTHS]
    return heads[int(np.argmax([score(head) for head in heads]))]


def _full(regression: Any, n_labels: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn keeps one line for two classes, and none for a class without a line of features."""
    weight, bias = regression.coef_ / scale, regression.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight_KD, bias_K = np.zeros((n_labels, weight.shape[1]), np.float32), np.full(n_labels, NEVER, np.float32)
    weight_KD[regression.classes_], bias_K[regression.classes_] = weight, bias
    return weight_KD, bias_K


def solve_yes_or_no(features_ND: np.ndarray, gold_NK: np.ndarray, score: Callable[[LinearMap], float],
                    class_weights: str) -> LinearMap:
    """K logistic regressions beside each other, each "does this hold?"; logits_NK > 0 means yes. As `solve_head`."""
    from sklearn.linear_model import LogisticRegression

    scale = _scale(features_ND)
    scaled = np.asarray(features_ND / np.float32(scale))
    regressions = [LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True,
                                      class_weight=None if class_weights == "none" else "balanced")
                   for _ in range(gold_NK.shape[1])]

    def solved(strength: float) -> LinearMap:
        weight_KD = np.zeros((gold_NK.shape[1], features_ND.shape[1]), np.float32)
        bias_K = np.zeros(gold_NK.shape[1], np.float32)
        for k, (regression, gold_N) in enumerate(zip(regressions, gold_NK.T, strict=True)):
            if len(np.unique(gold_N)) < 2:
                bias_K[k] = NEVER if gold_N[0] == 0 else -NEVER
                continue
            regression.set_params(C=strength).fit(scaled, gold_N)
            weight_KD[k], bias_K[k] = regression.coef_[0] / scale, regression.intercept_[0]
        return LinearMap(weight_KD, bias_K, strength)

    return strongest(solved, score)


def solve_ridge(features_ND: np.ndarray, gold_N: np.ndarray, score: Callable[[LinearMap], float]) -> LinearMap:
    """Ridge regression of one number. As `solve_head`."""
    from sklearn.linear_model import Ridge

    scale = _scale(features_ND)
    scaled = np.asarray(features_ND / np.float32(scale), np.float64)

    def solved(strength: float) -> LinearMap:
        ridge = Ridge(alpha=1 / strength).fit(scaled, gold_N)
        bias_K = np.asarray([ridge.intercept_], np.float32)
        return LinearMap((ridge.coef_[None] / scale).astype(np.float32), bias_K, strength)

    return strongest(solved, score)
