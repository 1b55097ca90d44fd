"""Any number of labels for a text: how rows give them, thresholds, scores."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, label_ranking_average_precision_score

from headstart import tasks
from headstart.core import metrics
from headstart.core.errors import DataError, SpecError
from headstart.core.spec import DataSpec
from headstart.data import table as data
from headstart.tasks.multi_label_classification import MultiLabelClassification

TASK = MultiLabelClassification()


def learned(*sets, **options):
    task = tasks.build({"name": "multi-label-classification", **options})
    return task.learn([{"text": f"t{i}", "labels": list(one)} for i, one in enumerate(sets)])


def answer(task, *shares):
    return task.answer(np.array(shares))


@pytest.mark.parametrize(("written", "meant"), [
    (["a", "b"], ["a", "b"]), ("a|b", ["a", "b"]), ("a | b ", ["a", "b"]), ("", []), ([], []), ("a", ["a"])])
def test_labels_of_a_row(written, meant):
    row = {"text": "x", "labels": written}
    assert TASK.check(row) is None
    assert TASK._gold(row) == meant


@pytest.mark.parametrize(("row", "complaint"), [
    ({"text": "x", "labels": None}, '"labels" is None; it must be a list of strings'),
    ({"text": "x", "labels": 3}, '"labels" is 3; it must be a list of strings'),
    ({"text": "x", "labels": ["a", 1]}, "it must be a list of strings"),
    ({"text": "x", "labels": ["a", " "]}, "it must be a list of strings"),
    ({"text": "x", "labels": ["a", "a"]}, "which holds a label twice"),
    ({"text": " ", "labels": []}, '"text" is empty'),
    ({"text": 3, "labels": []}, '"text" is 3, not a string'),
])
def test_bad_rows(row, complaint):
    assert complaint in (TASK.check(row) or "")


def test_one_column_a_label(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("text,rude,loud\nhello,0,1\nbye,yes,no\nwell,,\n", "utf-8")
    task = tasks.build({"name": "multi-label-classification", "label_columns": ["rude", "loud"]})
    assert isinstance(task, MultiLabelClassification)
    table = data.read_table(str(source), DataSpec(train=str(source)), task)
    assert [task._gold(row) for row in table.rows] == [["loud"], ["rude"], []]
    assert task.learn(table.rows).labels == ("loud", "rude")
    assert task.columns.gold == ("rude", "loud")
    learned = task.learn(table.rows)
    assert tasks.restore(task.name, dataclasses.asdict(learned)).columns == task.columns
    assert TASK.columns.gold == ("labels",)
    source.write_text("text,rude,loud\nhello,0,maybe\n", "utf-8")
    with pytest.raises(DataError, match='column "loud" is "maybe"; it must be yes or no'):
        data.read_table(str(source), DataSpec(train=str(source)), task)


def test_nothing_to_learn_is_said():
    with pytest.raises(DataError, match="no row has any label"):
        learned([], [])
    with pytest.raises(DataError, match="every row has all labels"):
        learned(["a", "b"], ["b", "a"])


def test_options_are_checked():
    with pytest.raises(SpecError, match="is not an option of task"):
        tasks.build({"name": "multi-label-classification", "labels": ["a"]})
    with pytest.raises(SpecError, match="thresholds"):
        tasks.build({"name": "multi-label-classification", "thresholds": [0.1]})


def test_thresholds_are_each_labels_own_where_rows_suffice():
    task = learned(["a"], ["b"])
    rows = [{"text": "x", "labels": ["a"] * (i < 12) + ["b"] * (i < 2)} for i in range(40)]
    answers = [answer(task, 0.3 if i < 12 else 0.1, 0.9 if i < 2 else 0.05) for i in range(40)]
    tuned = task.calibrate(answers, rows)
    assert 0.1 <= tuned.thresholds[0] < 0.3  # twelve rows have "a"; two are too few for a threshold of b's own
    assert tuned.thresholds[1] == metrics.best_cut(np.array([[a["scores"]["a"], a["scores"]["b"]] for a in answers])
                                                   .ravel(), np.array([[i < 12, i < 2] for i in range(40)]).ravel())
    assert tuned.apply_threshold(answers[0])["labels"] == ["a", "b"]
    assert tuned.apply_threshold(answers[5])["labels"] == ["a"]
    assert tuned.apply_threshold(answers[30])["labels"] == []
    assert tasks.restore(task.name, dataclasses.asdict(tuned)) == tuned


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30))
def test_the_best_cut_is_the_best_of_all(pairs):
    scores_N, gold_N = np.array([s / 20 for s, _ in pairs]), np.array([g for _, g in pairs], int)

    def f1(cut):
        said_N = scores_N > cut
        total = said_N.sum() + gold_N.sum()
        return 2 * (said_N & (gold_N == 1)).sum() / total if total else 1.0

    cut = metrics.best_cut(scores_N, gold_N)
    if gold_N.any():
        assert f1(cut) == pytest.approx(max(f1(at) for at in [-0.01, *scores_N]))


@given(st.integers(1, 8), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_scores_are_scikit_learns(n, k, seed):
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(k)]
    task = dataclasses.replace(TASK, labels=tuple(names))
    gold_NK, scores_NK = rng.integers(0, 2, (n, k)), np.round(rng.random((n, k)), 1)
    rows = [{"text": "x", "labels": [names[j] for j in np.flatnonzero(line)]} for line in gold_NK]
    answers = [answer(task, *line) for line in scores_NK]
    found = task.score(task.outcomes(answers, rows))
    said_NK = (scores_NK > 0.5).astype(int)
    if gold_NK.any() or said_NK.any():
        assert found["micro_f1"] == pytest.approx(f1_score(gold_NK, said_NK, average="micro", zero_division=0))
    assert found["lrap"] == pytest.approx(label_ranking_average_precision_score(gold_NK, scores_NK))
    assert found["exact_match"] == pytest.approx((gold_NK == said_NK).all(1).mean())


def test_a_label_never_seen_in_train_counts_as_missed():
    task = learned(["a"], [])
    scores = task.score(task.outcomes([answer(task, 0.9)], [{"text": "x", "labels": ["a", "new"]}]))
    assert scores["micro_f1"] == pytest.approx(2 / 3)
    assert scores["exact_match"] == 0
