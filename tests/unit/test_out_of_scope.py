"""The label that means "none of the others" in text classification."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.core.errors import DataError
from headstart.tasks import build

ROWS = [{"text": "my card is lost", "label": "card"}, {"text": "pay rent", "label": "pay"},
        {"text": "sing a song", "label": "oos"}]


def asked(outside: str = "oos"):
    return build({"name": "text-classification", "outside": outside}).learn(ROWS)


def test_both_scores_by_hand():
    task = asked()  # labels: card, oos, pay
    assert task.labels == ("card", "oos", "pay")
    gold = ["card"] * 10 + ["pay"] * 10 + ["oos"] * 4
    rows = [{"text": "a", "label": label} for label in gold]
    shares = [[0.5 + i / 100, 0.0, 0.5 - i / 100] for i in range(1, 11)]  # card: .51 to .60
    shares += [[0.3, 0.0, 0.7]] * 8 + [[0.7, 0.0, 0.3]] + [[0.1, 0.6, 0.3]]  # pay: one taken for card, one for oos
    shares += [[0.2, 0.5, 0.3], [0.45, 0.1, 0.45], [0.9, 0.0, 0.1], [0.0, 1.0, 0.0]]
    answers = [task.answer(np.array(one)) for one in shares]
    scores = task.score(task.outcomes(answers, rows))
    assert scores["in_scope_accuracy"] == pytest.approx(18 / 20)
    # 95 of 100 rows in scope have .4995 or more (between .30 and .51): three of the four others have less.
    assert scores["out_of_scope_recall"] == pytest.approx(3 / 4)
    assert scores["accuracy"] == pytest.approx(20 / 24)


def test_without_rows_of_both_kinds_nothing_is_claimed():
    task = asked()
    answers = [task.answer(np.array([0.5, 0.2, 0.3]))] * 2
    for label in ("card", "oos"):
        found = task.score(task.outcomes(answers, [{"text": "a", "label": label}] * 2))
        assert set(found) == {"accuracy", "macro_f1"}


def test_not_asked_nothing_changes():
    task = asked("")
    answers = [task.answer(np.array([0.5, 0.2, 0.3]))] * len(ROWS)
    outcomes = task.outcomes(answers, ROWS)
    assert (outcomes.shape, outcomes.dtype) == ((3, 2), np.int64)
    assert set(task.score(outcomes)) == {"accuracy", "macro_f1"}


def test_a_label_that_no_row_has():
    with pytest.raises(DataError, match="out_of_scope"):
        asked("out_of_scope")
