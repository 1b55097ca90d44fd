"""What frozen layers say of a text, and what a linear map makes of it.

Shape suffixes: N windows, D width, K labels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batches import WindowStore, by_length
from .memo import Memo, make_room
from .progress import Show

MAX_HEAD_ROWS = 100_000  # a linear map with a few thousand numbers gains nothing from more
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse of L2 regularization, tried in this order; validation chooses
MAX_ITERATIONS = 2_000
NEVER = -30.0  # the logit of what no train row says
TOLERANCE = 1e-5  # largest slope left in the mean loss; coarser ones stop long before the solution when labels are many
N_HASHED = 2**18  # columns of TF-IDF: bounded memory whatever the vocabulary


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


@torch.inference_mode()
def extract(features: Callable[[dict[str, np.ndarray]], torch.Tensor], width: int, windows: WindowStore,
            chosen: np.ndarray, path: Path, *, tokens_per_batch: int, each: Callable[[int], None],
            per_token: bool = False) -> np.ndarray:
    """What `features` says of the windows numbered `chosen`, one vector of `width` numbers a window (or a token).

    features: a padded batch -> [B, D] (or [B, T, D]).  each: called with the windows done in each batch.
    path: file of the memory-mapped answer (overwritten).
    Returns  features_MD float32 in the order of `chosen`, M windows (or all their tokens, window after window).
    Cost     one forward pass where the features are not known yet; 4 * D bytes a line on disk.
    """
    n_lines_N = windows.lengths_N[chosen].astype(np.int64) if per_token else np.ones(len(chosen), np.int64)
    ends_N = np.cumsum(n_lines_N)
    shape = (int(ends_N[-1]), width)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])  # a full disk says so now, not by SIGBUS later
    features_MD = np.memmap(path, np.float32, "r+", shape=shape)
    for places in by_length(windows.lengths_N[chosen], np.arange(len(chosen)), tokens_per_batch):
        said = features(windows.batch(chosen[places]).inputs).float().cpu().numpy()
        if per_token:
            for place, said_TD in zip(places, said, strict=True):
                features_MD[ends_N[place] - n_lines_N[place] : ends_N[place]] = said_TD[: n_lines_N[place]]
        else:
            features_MD[places] = said
        each(len(places))
    return features_MD


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


def once(words: str, numbers: Iterable[np.ndarray], width: int, solve: Callable[[], LinearMap],
         show: Show) -> LinearMap:
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
    memo = Memo(f"heads-{width}", width + 2, "<f4")
    if known := memo.get(key_N):
        lines_KE = np.array(known[0])
        return LinearMap(lines_KE[:, :-2].copy(), lines_KE[:, -2].copy(), float(lines_KE[0, -1]))
    found = solve()
    lines_KE = np.column_stack([found.weight_KD, found.bias_K, np.full(len(found.bias_K), found.strength)])
    try:
        with memo.adding(show):
            if make_room(lines_KE.nbytes, memo.folder):
                memo.write(key_N, np.array([len(lines_KE)]), iter([(np.array([0]), [lines_KE])]))
    except OSError as error:
        show.say(memo.unwritable(error))
    return found


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
        regression.set_params(C=strength).fit(scaled, gold_N)
        return LinearMap(*_full(regression, n_labels, scale), strength)

    return strongest(solved, score)


def _scale(features_ND: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(features_ND), dtype=np.float64)) * np.sqrt(features_ND.shape[1]) / 4)


def strongest(solved: Callable[[float], LinearMap], score: Callable[[LinearMap], float]) -> LinearMap:
    """Of the maps solved at each of STRENGTHS the one that scores best; ties go to the stronger regularization."""
    found = [solved(strength) for strength in STRENGTHS]
    return found[int(np.argmax([score(one) for one in found]))]


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
        found = Ridge(alpha=1 / strength).fit(scaled, gold_N)
        bias_K = np.asarray([found.intercept_], np.float32)
        return LinearMap((found.coef_[None] / scale).astype(np.float32), bias_K, strength)

    return strongest(solved, score)


def tf_idf(train: Sequence[str], *others: Sequence[str]) -> list[Any]:
    """Sparse matrices of train texts and of others: what is known of a text without any pretrained knowledge.

    Word and word-pair counts for texts with spaces; characters (1 to 3) where most texts have none, as in Chinese.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    spaced = sum(" " in text.strip() for text in train) * 2 >= len(train)
    words = HashingVectorizer(n_features=N_HASHED, alternate_sign=False, norm=None, lowercase=True,
                              analyzer="word" if spaced else "char", ngram_range=(1, 2) if spaced else (1, 3),
                              token_pattern=r"(?u)\b\w+\b|[^\w\s]" if spaced else None)
    counts = words.transform(train)
    seen = np.flatnonzero(counts.getnnz(axis=0))  # weights for columns that no train text has would only take memory
    weigh = TfidfTransformer(sublinear_tf=True)
    return [weigh.fit_transform(counts[:, seen]), *(weigh.transform(words.transform(one)[:, seen]) for one in others)]


def tf_idf_logistic_regression(train: Sequence[str], gold_N: np.ndarray, test: Sequence[str],
                               n_labels: int) -> np.ndarray:
    """Probabilities_MK of the test texts: the classic answer without any pretrained knowledge."""
    from sklearn.linear_model import LogisticRegression

    known, asked = tf_idf(train, test)
    regression = LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS, tol=TOLERANCE).fit(known, gold_N)
    shares_MK = np.zeros((len(test), n_labels))
    shares_MK[:, regression.classes_] = regression.predict_proba(asked)
    return shares_MK
