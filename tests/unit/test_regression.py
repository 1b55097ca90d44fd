"""One number for a text: what may stand in a row, the scale outside the weights, scores."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

import headstart
from headstart import tasks
from headstart.core import metrics
from headstart.core.errors import DataError, SpecError

TASK = tasks.build({"name": "text-regression"})


@pytest.mark.parametrize("score", [0, -3, 2.5, "2.5", " 7 ", "1e3"])
def test_numbers_however_written(score):
    assert TASK.check({"text": "x", "score": score}) is None


@pytest.mark.parametrize("score", [None, True, "", "good", "nan", float("nan"), float("inf"), [1], {}, "1,5"])
def test_what_is_no_number(score):
    assert '"score" is' in (TASK.check({"text": "x", "score": score}) or "")
    assert "must be a number" in (TASK.check({"text": "x", "score": score}) or "")


def test_too_large_to_compute_with():
    assert "must lie between" in (TASK.check({"text": "x", "score": 1e12}) or "")


def test_answers_stay_in_the_learned_range():
    task = TASK.learn([{"text": "a", "score": 1}, {"text": "b", "score": "5"}])
    assert task.decode({}, (), [np.array([100.0])]) == {"score": 5.0}
    assert task.decode({}, (), [np.array([-100.0])]) == {"score": 1.0}
    assert task.decode({}, (), [np.array([0.0])]) == {"score": 3.0}


def test_one_score_for_all_rows_is_nothing_to_learn():
    with pytest.raises(DataError, match="all rows have the score 3"):
        TASK.learn([{"text": "a", "score": 3}, {"text": "b", "score": 3.0}])


def test_a_pair_column_missing_in_some_rows():
    task = TASK.learn([{"text": "a", "text_pair": "b", "score": 1}, {"text": "b", "text_pair": "c", "score": 2}])
    assert task.check_gold([{"text": "a", "score": 1}]) == [(0, 'has no "text_pair", and the train rows are pairs')]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=30))
def test_correlations_are_scipys(pairs):
    a, b = np.array(pairs, float).T
    varies = len(set(a)) > 1 and len(set(b)) > 1
    assert metrics.correlation(a, b) == pytest.approx(pearsonr(a, b)[0] if varies else 0.0, abs=1e-9)
    assert metrics.rank_correlation(a, b) == pytest.approx(spearmanr(a, b)[0] if varies else 0.0, abs=1e-9)


def test_a_run_end_to_end(backbone, tmp_path):
    rows = [{"text": row["text"], "score": f"{4 if row['label'] == 'positive' else 1}.{i % 5}"}
            for i, row in enumerate(tiny.rows(240))]
    source = tiny.write_csv(tmp_path / "a.csv", rows)
    run = headstart.fit(tiny.spec(source, backbone, task="text-regression"), out=tmp_path / "run")
    assert run.scores["metric"] == "spearman"
    assert run.scores["score"] > run.scores["baselines"]["mean"]["score"]
    assert {"mean", "tf-idf-ridge", "before-training", "frozen-backbone"} <= run.scores["baselines"].keys()
    assert 1 <= run.predict(["a lovely film"])[0]["score"] <= 4.4
    page = (run.folder / "report.html").read_text("utf-8")
    assert "Predicted and gold" in page
    assert "Largest errors" in page
    with pytest.raises(SpecError, match="class_weights: is for tasks with classes"):
        headstart.fit(tiny.spec(source, backbone, task="text-regression", train={"class_weights": "balanced"}),
                      out=tmp_path / "weighted")
