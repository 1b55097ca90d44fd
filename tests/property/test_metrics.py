"""Scores against scikit-learn on random input; intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from headstart.core import metrics, statistics
from headstart.core.values import collate, pad

pairs = st.integers(2, 6).flatmap(lambda k: st.lists(
    st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=60).map(lambda p: (k, np.array(p))))


@given(pairs)
def test_scores_equal_scikit_learn(made):
    k, pairs_N2 = made
    gold, predicted = pairs_N2.T
    counts = metrics.label_counts(gold, predicted, k)
    assert metrics.accuracy(counts) == pytest.approx(accuracy_score(gold, predicted))
    assert metrics.macro_f1(counts) == pytest.approx(f1_score(gold, predicted, average="macro"))
    theirs = precision_recall_fscore_support(gold, predicted, labels=range(k), zero_division=0)
    for j, ours in enumerate(metrics.per_label(counts)):
        assert (ours["precision"], ours["recall"], ours["f1"], ours["n"]) == pytest.approx([t[j] for t in theirs])


def test_systems_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(0)
    a = (rng.random(300) < 0.7).astype(float)
    scores_SR = statistics.bootstrap(lambda o: float(o.mean()), [a, a, 1 - a], 200, 1)
    assert np.array_equal(scores_SR[0], scores_SR[1])
    assert scores_SR[0] + scores_SR[2] == pytest.approx(np.ones(200))


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_softmax_sums_to_one(logits):
    shares = metrics.softmax(np.array(logits) * 100)
    assert shares.sum(-1) == pytest.approx(np.ones(len(logits)))
    assert (shares >= 0).all()


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=6))
def test_collate_keeps_every_token_and_masks_the_rest(ids):
    batch = collate({"input_ids": ids}, {"label": [1] * len(ids)}, pad_id=0)
    assert [list(line[m == 1]) for line, m in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"],
                                                  strict=True)] == ids
    assert (batch.inputs["input_ids"][batch.inputs["attention_mask"] == 0] == 0).all()
    assert batch.n_tokens == sum(map(len, ids)) == batch.inputs["attention_mask"].sum()


def test_pad_keeps_numbers_and_fills_lists():
    assert pad([3, 4], 0).tolist() == [3, 4]
    assert pad([[1], [2, 3]], -100).tolist() == [[1, -100], [2, 3]]
