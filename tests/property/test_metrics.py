"""Scores against scikit-learn on random input; intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from headstart.core import metrics, statistics
from headstart.core.values import collate, pad
from headstart.runs import evidence
from headstart.tasks.text_classification import TextClassification

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


def test_the_bootstrap_interval_is_about_right():
    rng = np.random.default_rng(0)
    outcomes = (rng.random(400) < 0.8).astype(float)
    scores_SR = statistics.bootstrap(lambda o: float(o.mean()), [outcomes], 2000, 0)
    low, high = statistics.interval(scores_SR[0])
    half = 1.96 * np.sqrt(outcomes.mean() * (1 - outcomes.mean()) / 400)
    assert low == pytest.approx(outcomes.mean() - half, abs=0.006)
    assert high == pytest.approx(outcomes.mean() + half, abs=0.006)


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


TASK = TextClassification(labels=("a", "b"))


def answers(labels):
    return [{"label": label, "scores": {}} for label in labels]


def certificate(fitted, **baselines):
    rows = [{"text": "x", "label": "ab"[i % 2]} for i in range(200)]
    gold = [row["label"] for row in rows]
    flip = {"a": "b", "b": "a"}

    def made(n_wrong):
        return answers([flip[g] if i < n_wrong else g for i, g in enumerate(gold)])

    outcomes = {name: TASK.outcomes(made(n), rows) for name, n in {"": fitted, **baselines}.items()}
    return evidence.certify(TASK, outcomes.pop(""), outcomes, method="fine-tuning", n_resamples=500, seed=0)


def test_verdicts_in_words():
    scores = certificate(10, majority=100, **{"tf-idf": 40})
    assert scores.verdict_kind == "positive"
    assert scores.verdict.startswith("positive transfer: +15.0 points over TF-IDF + logistic regression [")
    scores = certificate(40, majority=100, **{"frozen-backbone": 41})
    assert scores.verdict_kind == "undecided"
    assert scores.verdict.startswith("no proof that fine-tuning beats the frozen backbone with a linear head: +0.5 ")
    scores = certificate(60, majority=100, **{"tf-idf": 20})
    assert scores.verdict_kind == "negative"
    assert scores.verdict.startswith("negative transfer: -20.0 points against TF-IDF + logistic regression [")
    assert certificate(1).verdict_kind == "undecided"


def test_every_gain_is_paired_and_has_an_interval():
    scores = certificate(10, majority=100, **{"tf-idf": 40})
    assert scores.gains.keys() == scores.baselines.keys() == {"majority", "tf-idf"}
    for name, gain in scores.gains.items():
        low, high = gain.interval
        assert (gain.n, gain.seed) == (200, 0)
        assert low <= gain.difference <= high
        assert gain.difference == pytest.approx(scores.fitted.value - scores.baselines[name].value)
