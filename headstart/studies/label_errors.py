"""Which labels are probably wrong, how probably, and how many are: from features of the rows and the labels alone.

Shape suffixes: N rows, D width, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.metrics import softmax

N_FOLDS = 5
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)  # inverse of L2 regularization; the held-out likelihood chooses
CONFIDENT = (0.1, 0.2, 0.3, 0.5)  # shares of rows, the most confident ones: where disputes are fewest, labels are wrong
MIN_CONFIDENT_ROWS = 20
OWN_ERRORS = 0.1  # of a classifier's errors as a share of rows, where it is most confident: seen on sound labels
MAX_RATE = 0.3  # disputed even there: the classifier cannot tell a wrong label from what it does not know
MAX_DISPUTED = 0.5  # of all rows: the same


@dataclass(frozen=True)
class LabelErrors:
    """What was found out about each row's label.

    wrong_N:   the probability that it is wrong.
    shares_NK: of each label, by a classifier that has not seen the row, calibrated.
    rate:      the share of labels that are disputed where the classifier is most confident: at most that many are
               wrong. Where the classifier is too weak to tell, wrong_N is 0.
    """

    wrong_N: np.ndarray
    shares_NK: np.ndarray
    rate: float


def label_errors(features_ND: np.ndarray, gold_N: np.ndarray, seed: int) -> LabelErrors:
    """How probably each label is wrong, where wrong ones are any other label and may stand at any row.

    gold_N: 0 to K - 1, each at least N_FOLDS times.
    Mistakes of a good classifier gather where it is uncertain, wrong labels do not: the rate of these is that of the
    labels it disputes where it is most confident, less its own errors. With it and calibrated shares, Bayes' rule says
    the rest.
    Source  Northcutt et al. 2021, "Confident Learning" (held-out disputes); Natarajan et al. 2013, "Learning with Noisy
            Labels" (the rule); Guo et al. 2017, "On Calibration of Modern Neural Networks" (the temperature).
    """
    errors = _errors(features_ND, gold_N, np.ones(len(gold_N)), seed)
    return _errors(features_ND, gold_N, 1 - errors.wrong_N, seed)  # what is probably wrong teaches the others less


def _errors(features_ND: np.ndarray, gold_N: np.ndarray, trusted_N: np.ndarray, seed: int) -> LabelErrors:
    tried = (_calibrated(_held_out(features_ND, gold_N, trusted_N, strength, seed), gold_N) for strength in STRENGTHS)
    _, shares_NK = max(tried, key=lambda pair: pair[0])
    is_disputed_N = (shares_NK.argmax(1) != gold_N)[np.argsort(-shares_NK.max(1), kind="stable")]
    heads = [max(MIN_CONFIDENT_ROWS, int(share * len(gold_N))) for share in CONFIDENT]
    rate = float(min((is_disputed_N[:n].sum() + 1) / (min(n, len(gold_N)) + 2) for n in heads))  # few rows prove little
    if rate > MAX_RATE or is_disputed_N.mean() > MAX_DISPUTED:
        return LabelErrors(np.zeros(len(gold_N)), shares_NK, rate)
    share_N = shares_NK[np.arange(len(gold_N)), gold_N]
    each = rate / (shares_NK.shape[1] - 1)  # of one other label
    right_N = np.clip((share_N - each) / (1 - rate - each), 0, 1)  # the share that the label had if none were wrong
    odd_N = np.clip(1 - (1 - rate) * right_N / np.maximum(share_N, 1e-9), 0, 1)  # that the label was not drawn so
    own = OWN_ERRORS * (is_disputed_N.mean() - rate)
    return LabelErrors(odd_N * np.clip(1 - own / rate, 0, 1), shares_NK, rate)


def _held_out(features_ND: np.ndarray, gold_N: np.ndarray, trusted_N: np.ndarray, strength: float,
              seed: int) -> np.ndarray:
    """logits_NK by logistic regressions that have not seen the row. trusted_N: how much each row counts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    logits_NK = np.zeros((len(gold_N), gold_N.max() + 1))
    for train_N, held_N in StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(features_ND, gold_N):
        regression = LogisticRegression(C=strength, max_iter=1000)
        regression.fit(features_ND[train_N], gold_N[train_N], np.maximum(trusted_N[train_N], 1e-3))
        logits_NK[held_N] = regression.predict_log_proba(features_ND[held_N])
    return logits_NK


def _calibrated(logits_NK: np.ndarray, gold_N: np.ndarray) -> tuple[float, np.ndarray]:
    """The labels' mean log likelihood at the temperature where it is largest, and the shares_NK there."""
    from scipy.optimize import minimize_scalar

    def shares(log_temperature: float) -> np.ndarray:
        return softmax(logits_NK / np.exp(log_temperature))

    def loss(log_temperature: float) -> float:
        return float(-np.log(shares(log_temperature)[np.arange(len(gold_N)), gold_N] + 1e-12).mean())

    fitted = minimize_scalar(loss, bounds=(-3, 4), method="bounded")
    return -float(fitted.fun), shares(float(fitted.x))
