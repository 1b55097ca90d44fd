"""Cost that grows with rows and labels, not with their square; messages that stay short and printable."""

import itertools
import json
import time

import numpy as np
import pytest

from headstart.core import metrics
from headstart.core.errors import MAX_MESSAGE_CHARS, DataError, HeadstartError, Problem, SpecError, nearest
from headstart.core.scores import Details
from headstart.core.spec import DataSpec
from headstart.data.columns import infer_columns
from headstart.report import run as sections
from headstart.runs import evidence
from headstart.tasks.relation_extraction import RelationExtraction
from headstart.tasks.text_classification import TextClassification


def made_up(n_labels, n_rows, right=0.7):
    rng = np.random.default_rng(0)
    gold_N = rng.integers(n_labels, size=n_rows)
    predicted_N = np.where(rng.random(n_rows) < right, gold_N, rng.integers(n_labels, size=n_rows))
    return TextClassification(labels=tuple(f"SKU-{k:05d}" for k in range(n_labels))), np.stack([gold_N, predicted_N], 1)


def details_of(task, outcomes):
    rows = [{"text": "some text", "label": task.labels[gold]} for gold, _ in outcomes]
    answers = [{"label": task.labels[predicted], "scores": {task.labels[predicted]: 0.5}} for _, predicted in outcomes]
    return task.details(answers, rows)


@pytest.mark.parametrize("kind", [TextClassification, RelationExtraction])
def test_four_times_the_labels_cost_far_less_than_sixteen_times(kind):
    """Square cost would take 16 times as long; a tenth of a second is free, as small runs are all overhead."""
    seconds = []
    for n_labels in (2000, 8000):
        task, outcomes = made_up(n_labels, n_labels)
        began = time.process_time()
        evidence.certify(kind(labels=task.labels), outcomes, {"a": outcomes}, method="m", n_resamples=50, seed=0)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 8 * (seconds[0] + 0.1)


def test_the_details_of_many_labels_are_small_and_the_report_shows_the_worst():
    task, outcomes = made_up(5000, 10_000)
    details = Details.from_json(details_of(task, outcomes))
    assert len(json.dumps(details.to_json(), indent=1)) < 2_000_000
    confusion, labels = sections.confusion(details), sections.per_label(details)
    assert confusion
    assert labels
    assert len(confusion.tables[0].rows) == sections.MAX_PAIRS_SHOWN
    assert sum(len(table.rows) for table in labels.tables) == sections.MAX_LABELS_LISTED
    assert "300 weakest of 5,000 labels" in labels.lead[-1]


def test_pairs_are_the_matrix_and_an_old_matrix_is_read_as_pairs():
    task, outcomes = made_up(6, 200)
    new = details_of(task, outcomes)
    matrix_KK = np.zeros((6, 6), int)
    np.add.at(matrix_KK, tuple(outcomes.T), 1)
    old = Details.from_json({**new, "confused_pairs": [], "confusion": matrix_KK.tolist()})
    assert sorted(map(tuple, new["confused_pairs"])) == sorted(old.pairs)
    wrong = [n for gold, predicted, n in new["confused_pairs"] if gold != predicted]
    assert wrong == sorted(wrong, reverse=True)
    assert [new["confused_pairs"][k][0] == new["confused_pairs"][k][1] for k in (0, -1)] == [False, True]
    assert sections.confusion(old) == sections.confusion(Details.from_json(new))


def test_ranking_precision_is_that_of_every_pair_of_labels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores_K, gold_K = rng.integers(0, 5, 9) / 4, rng.integers(0, 2, 9)
        gold = [k for k in range(9) if gold_K[k]]
        shares = [sum(gold_K[j] for j in range(9) if scores_K[j] >= scores_K[k])
                  / sum(scores_K[j] >= scores_K[k] for j in range(9)) for k in gold]
        expected = np.mean(shares) if 0 < len(gold) < 9 else 1.0
        assert metrics.ranking_precision(scores_K, gold_K) == pytest.approx(expected)


HEADER = [f"column number {k}" for k in range(100_000)]


@pytest.mark.parametrize("header", [HEADER, [*HEADER, "text", "text"], [*HEADER, "text"]],
                         ids=["no text", "text twice", "no label"])
def test_a_hundred_thousand_columns_are_complained_of_at_once(header):
    began = time.process_time()
    with pytest.raises(DataError) as refused:
        infer_columns(header, DataSpec(train="x.csv"), TextClassification(), "x.csv")
    assert time.process_time() - began < 2
    assert len(str(refused.value)) < 2000


HOSTILE = {"long": "x" * 100_000, "an escape": "a\x1b[2Jb", "a bell": "\a", "a direction override": "a\u202eb",
           "a carriage return": "safe\roverwritten", "many lines": "line\n" * 50_000}


@pytest.mark.parametrize(("error", "text"), itertools.product((HeadstartError, DataError, SpecError), HOSTILE.values()))
def test_no_message_is_long_or_holds_control_characters(error, text):
    for message in map(str, (error(text, "is wrong", "mend it"), error("x", text, "mend it"), error("x", "is", text))):
        assert len(message) <= MAX_MESSAGE_CHARS
        assert all(line.isprintable() for line in message.split("\n"))
    assert str(error("x", text, "mend it")).endswith("\n  mend it")


def test_many_problems_and_many_names_fit_into_a_message():
    error = DataError.of([Problem(f"x.csv:{k}", "y" * 1000) for k in range(50)], "Mend these rows.")
    assert len(str(error)) <= MAX_MESSAGE_CHARS
    assert str(error).endswith("Mend these rows.")
    assert nearest("column number 7", HEADER).startswith('did you mean "column number ')
    assert nearest("column", HEADER).endswith(" and 99,970 more")
