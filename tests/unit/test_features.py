"""The linear head: solved to convergence at every strength, and put on without changing what it says."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headstart.features import STRENGTHS, LinearMap, solve_head
from headstart.metrics import softmax


def rows(n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(n_labels, 24))
    gold_N = np.arange(40 * n_labels) % n_labels
    return (centres[gold_N] + random.normal(size=(len(gold_N), 24))).astype(np.float32), gold_N


@pytest.mark.parametrize("n_labels", [2, 3, 40])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_strength_is_solved_to_convergence(n_labels: int, strength: float) -> None:
    """Starting from the last strength's answer must not end the search at once (it did, with a coarse tolerance)."""
    features_ND, gold_N = rows(n_labels)
    solved = solve_head(features_ND, gold_N, n_labels, lambda head: float(head.strength == strength), "none")
    scale = np.sqrt(np.mean(features_ND**2)) * np.sqrt(features_ND.shape[1]) / 4
    exact = LogisticRegression(C=strength, max_iter=10_000, tol=1e-9).fit(features_ND.astype(float) / scale, gold_N)
    assert solved.strength == strength
    assert np.abs(softmax(solved(features_ND)) - exact.predict_proba(features_ND / scale)).max() < 0.02


def test_a_map_on_a_layer_says_what_the_map_says() -> None:
    features_ND, gold_N = rows(5)
    head = solve_head(features_ND, gold_N, 5, lambda head: head.strength, "none")
    layer = torch.nn.Linear(24, 5)
    head.put_on(layer)
    assert isinstance(head, LinearMap)
    assert np.allclose(layer(torch.from_numpy(features_ND)).detach(), head(features_ND), atol=1e-4)
