"""Splits that are made, limited and counted; and the labels that cannot be split."""

import random
from collections import Counter

import numpy as np
import pytest

from headstart.core.errors import DataError
from headstart.core.spec import DataSpec
from headstart.data import duplicates, splits
from headstart.data.table import COUNTS, Table
from headstart.tasks.text_classification import TextClassification

TASK = TextClassification()


def table(rows, source="a.csv"):
    return Table(list(rows), np.arange(2, len(rows) + 2), source, "line", {}, {}, dict.fromkeys(COUNTS, 0))


WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath"]


def rows_of(**n_by_label):
    """`n` rows of each label, no two texts alike."""
    return [{"text": " ".join(random.Random(f"{label} {i}").choices(WORDS, k=20)), "label": label}
            for label, n in n_by_label.items() for i in range(n)]


def make(rows, seed=0, **settings):
    tables = rows if isinstance(rows, dict) else {"train": table(rows)}
    return splits.make(tables, DataSpec(train="a.csv", **settings), TASK, seed)


def labels(part):
    return Counter(row["label"] for row in part.rows)


def test_missing_splits_are_made_in_proportion():
    made = make(rows_of(a=100, b=50, c=10))
    assert [labels(part) for part in (made.train, made.validation, made.test)] == [
        {"a": 80, "b": 40, "c": 8}, {"a": 10, "b": 5, "c": 1}, {"a": 10, "b": 5, "c": 1}]
    assert made.counts["n_rare_label_rows"] == 0


def test_nothing_is_lost_and_rows_know_their_line():
    rows = rows_of(a=40, b=40)
    made = make(rows)
    parts = (made.train, made.validation, made.test)
    everything = [(part.where(i), row) for part in parts for i, row in enumerate(part.rows)]
    assert sorted(everything, key=str) == sorted(((f"a.csv:{i + 2}", row) for i, row in enumerate(rows)), key=str)


@pytest.mark.parametrize("settings", [{}, {"limit": 33}, {"test_limit": 5, "validation_limit": 4}])
def test_the_order_of_rows_does_not_matter_and_the_seed_does(settings):
    rows = rows_of(a=60, b=30, c=5) + rows_of(a=10)
    shuffled = random.Random(1).sample(rows, len(rows))
    made, again = make(rows, **settings), make(shuffled, **settings)
    assert [getattr(made, p).rows for p in ("train", "validation", "test")] == [
        getattr(again, p).rows for p in ("train", "validation", "test")]
    assert make(rows, seed=1, **settings).test.rows != made.test.rows


def test_duplicates_stay_on_one_side():
    rows = [{**row, "text": row["text"] + end} for row in rows_of(a=40, b=40) for end in ("", "!", "  ")]
    made = make(rows)
    assert len(made.test) == len(made.validation) == 24
    sides = [{duplicates.canonical(row["text"]).rstrip("!") for row in part.rows}
             for part in (made.train, made.validation, made.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 80
    assert {n for name, n in made.counts.items() if "seen_in_train" in name} == {0}


def test_given_splits_are_left_alone_and_twins_are_counted():
    train, test = rows_of(a=30, b=30), rows_of(a=3, b=2)
    test[0] = {"text": test[0]["text"] + " grove", "label": "a"}
    made = make({"train": table(train), "test": table(test, "b.csv")})
    assert sorted(row["text"] for row in made.test.rows) == sorted(row["text"] for row in test)
    assert made.test.where(0).startswith("b.csv:")
    n_validation_twins = sum(row in made.validation.rows for row in test)  # carved out of train, so not in it
    assert made.counts["n_test_rows_seen_in_train_exact"] == 4 - n_validation_twins
    assert made.counts["n_test_rows_seen_in_train_near"] <= 1
    assert made.counts["n_test_rows_seen_in_train_exact"] + made.counts["n_test_rows_seen_in_train_near"] >= 3


def test_counts_of_the_tables_are_added_up():
    tables = {name: table(rows_of(a=5, b=5)) for name in ("train", "validation", "test")}
    for one in tables.values():
        one.counts["n_skipped"] = 2
    made = make(tables)
    assert made.counts["n_skipped"] == 6
    assert made.counts["n_test_rows_seen_in_train_exact"] == 10


def test_rare_labels_are_an_error_that_names_them():
    with pytest.raises(DataError) as caught:
        make([*rows_of(a=20, b=20, once=1, twice=2), *[{"text": "always the same text", "label": "copied"}] * 5])
    assert str(caught.value) == (
        'labels: "copied" has 5 rows and 1 different text; to stand in each of 3 parts it needs 3.\n'
        'labels: "once" has 1 row and 1 different text; to stand in each of 3 parts it needs 3.\n'
        'labels: "twice" has 2 rows and 2 different texts; to stand in each of 3 parts it needs 3.\n'
        "  Add rows with these labels, or leave them out and have them counted: --set data.rare_labels=skip (or train: "
        "they stay there)")


def test_rare_labels_are_skipped_and_counted_when_asked():
    made = make(rows_of(a=20, b=20, once=1, twice=2), rare_labels="skip")
    assert made.counts["n_rare_label_rows"] == 3
    assert set(labels(made.train)) == {"a", "b"}
    with pytest.raises(DataError, match="no label has enough of them"):
        make(rows_of(a=1, b=1), rare_labels="skip")


def test_rare_labels_stay_in_train_when_asked():
    made = make(rows_of(a=20, b=20, once=1, twice=2), rare_labels="train")
    assert (labels(made.train)["once"], labels(made.train)["twice"]) == (1, 2)
    assert labels(made.validation).keys() == labels(made.test).keys() == {"a", "b"}
    assert made.counts["n_rare_label_rows"] == 3
    assert sum(map(len, (made.train.rows, made.validation.rows, made.test.rows))) == 43


def test_rare_labels_do_not_matter_when_nothing_is_made():
    tables = {name: table(rows_of(a=3, once=1)) for name in ("train", "validation", "test")}
    assert labels(make(tables).train) == {"a": 3, "once": 1}


def test_every_label_is_in_every_part():
    made = make(rows_of(a=300, b=3, c=4))
    assert all(set(labels(part)) == {"a", "b", "c"} for part in (made.train, made.validation, made.test))


def test_limits_draw_in_proportion_and_keep_every_label():
    made = make(rows_of(a=800, b=190, c=10), limit=20, validation_limit=10, test_limit=2)
    assert labels(made.train) == {"a": 16, "b": 3, "c": 1}
    assert labels(made.validation) == {"a": 8, "b": 1, "c": 1}
    assert labels(made.test) == {"a": 2}


def test_a_smaller_limit_draws_from_the_larger_draw():
    rows = rows_of(a=100, b=100)
    small, large = make(rows, limit=20).train.rows, make(rows, limit=60).train.rows
    assert all(row in large for row in small)


@pytest.mark.parametrize(("sizes", "total", "expected"), [
    ([90, 9, 1], 10, [8, 1, 1]), ([50, 50], 5, [3, 2]), ([3, 0, 3], 4, [2, 0, 2]), ([1, 1, 1], 2, [1, 1, 0]),
    ([5, 5], 100, [5, 5]), ([7, 2, 1], 0, [0, 0, 0]),
])
def test_apportion(sizes, total, expected):
    assert splits.apportion(np.array(sizes), total).tolist() == expected


def test_made_validation_is_as_large_as_choosing_needs():
    made = make([{"text": f"{i}", "label": "ab"[i % 2]} for i in range(30_000)], near_duplicate=1)
    assert len(made.validation.rows) == splits.MAX_MADE_VALIDATION
    assert len(made.test.rows) == 3_000
