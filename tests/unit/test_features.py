"""The linear head: solved to convergence at every strength, and put on without changing what it says."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headstart.core.metrics import softmax
from headstart.core.progress import Progress
from headstart.core.values import LinearMap
from headstart.features.solve import STRENGTHS, solve_head, solve_or_load
from headstart.models.heads import put_on


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
    put_on(layer, head)
    assert isinstance(head, LinearMap)
    assert np.allclose(layer(torch.from_numpy(features_ND)).detach(), head(features_ND), atol=1e-4)


def test_a_head_is_solved_once_for_the_same_numbers(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    features_ND, gold_N = rows(3)
    n_solved = []

    def ask(words: str, *numbers: np.ndarray) -> LinearMap:
        def solve() -> LinearMap:
            n_solved.append(1)
            return solve_head(features_ND, gold_N, 3, lambda head: -head.strength, "none")

        return solve_or_load(words, numbers, 24, solve, Progress(quiet=True))

    first, again = ask("task", features_ND), ask("task", features_ND.copy())
    assert len(n_solved) == 1
    assert np.array_equal(first.weight_KD, again.weight_KD)
    assert np.array_equal(first.bias_K, again.bias_K)
    assert again.strength == pytest.approx(first.strength)
    ask("another task", features_ND)
    ask("task", features_ND + np.float32(1e-6))
    assert len(n_solved) == 3

    damaged = max((tmp_path / "cache").rglob("*.bin"), key=lambda path: path.stat().st_mtime)
    damaged.write_bytes(b"\x7f" * damaged.stat().st_size)
    assert np.array_equal(ask("task", features_ND + np.float32(1e-6)).weight_KD, first.weight_KD)
    assert len(n_solved) == 4
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file" / "cache"))
    assert np.array_equal(ask("task", features_ND).bias_K, first.bias_K)
    assert len(n_solved) == 5
