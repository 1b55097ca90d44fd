"""Whatever bytes a file holds, reading it gives rows or an error of ours; and what is written is what is read."""

import csv
import gzip
import io
import json
import os
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.core.errors import HeadstartError
from headstart.core.spec import DataSpec
from headstart.data import duplicates, splits
from headstart.data import table as data
from headstart.data.table import COUNTS, Table
from headstart.tasks.text_classification import TextClassification

TASK = TextClassification()
# `make fuzz` asks for many more.
QUICK = settings(max_examples=int(os.environ.get("HEADSTART_FUZZ", "60")), deadline=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])

# Bytes that look enough like data to get past the first check.
PIECES = [b"text", b"label", b",", b"\t", b";", b"\n", b"\r", b'"', b'""', b"a", b"\xe9", b"\xff\xfe", b"\xef\xbb\xbf",
          b"\0", b"{", b"}", b"[", b"]", b":", b'{"text": "a", "label": "b"}', b'"\\ud800"', b"NaN", b"1e999",
          b"9" * 30, b"[" * 2000, b'{"data": [', b"PAR1", gzip.compress(b"text,label\na,b\n"), "房间".encode()]
SOME_BYTES = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join),
                       st.lists(st.sampled_from(PIECES), max_size=12).map(lambda p: b"text,label\na,b\n" + b"".join(p)))


def outcome(source, gold="required", **options):
    """The table; or None when reading ended in an error that can be shown to a user."""
    try:
        return data.read_table(str(source), DataSpec(train="unused", **options), TASK, gold=gold)
    except HeadstartError as error:
        return None if str(error).strip() else error


def as_they_are_meant(rows):
    return [TASK.normalized(row)[0] for row in rows]  # a label has no blanks around it, and one form of its letters


def well_formed(table):
    if table is None:
        return True
    is_clean = all(TASK.check(row) is None and row["text"].encode() for row in table.rows)  # no surrogate is left
    return is_clean and len(table.rows) == len(table.lines_N) > 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".csv.gz", ".jsonl.gz"])
@given(content=SOME_BYTES, errors=st.sampled_from(["strict", "replace", "skip"]),
       gold=st.sampled_from(["required", "ignored"]))
@QUICK
def test_any_bytes_give_a_table_or_an_error_of_ours(tmp_path, suffix, content, errors, gold):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    assert well_formed(outcome(path, gold, errors=errors))
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
        assert well_formed(outcome(path, gold, errors=errors))


@given(content=SOME_BYTES,
       encoding=st.sampled_from(["latin-1", "utf-16", "utf-32", "gb18030", "shift_jis", "utf-7", "cp037"]))
@QUICK
def test_any_bytes_in_any_encoding(tmp_path, content, encoding):
    path = tmp_path / "any.csv"
    path.write_bytes(content)
    assert well_formed(outcome(path, encoding=encoding))


@given(content=SOME_BYTES)
@QUICK
def test_any_bytes_on_standard_input(content):
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(content))
    try:
        assert well_formed(outcome("-", "ignored"))
    finally:
        sys.stdin = before


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=8)


@given(rows=ROWS, delimiter=st.sampled_from(",;\t|"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
       quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), ending=st.sampled_from(["\n", "\r\n"]))
@QUICK
def test_csv_is_read_as_it_was_written(tmp_path, rows, delimiter, encoding, quoting, ending):
    path = tmp_path / "a.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter, quoting=quoting, lineterminator=ending)
        writer.writeheader()
        writer.writerows(rows)
    table = outcome(path)
    assert table is not None
    assert table.rows == as_they_are_meant(rows)
    lines = path.read_text(encoding).split("\n") if path.stat().st_size else []
    assert table.lines_N[0] == 2
    assert table.lines_N[-1] <= len(lines)


@given(rows=ROWS, ascii_only=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-16"]))
@QUICK
def test_jsonl_and_json_are_read_as_they_were_written(tmp_path, rows, ascii_only, encoding):
    path = tmp_path / "a.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode(encoding))
    (tmp_path / "a.json").write_bytes(json.dumps({"data": rows}, ensure_ascii=ascii_only).encode(encoding))
    for table in (outcome(path), outcome(tmp_path / "a.json")):
        assert table is not None
        assert table.rows == as_they_are_meant(rows)
        assert table.lines_N.tolist() == list(range(1, len(rows) + 1))


WORDS = st.lists(st.sampled_from(["amber", "birch", "cedar", "delta", "ember"]), min_size=1, max_size=6).map(" ".join)


@given(rows=st.lists(st.fixed_dictionaries({"text": WORDS, "label": st.sampled_from("ab")}), min_size=12, max_size=60),
       seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False), limit=st.none() | st.integers(1, 30))
@QUICK
def test_splits_part_the_rows_whatever_their_order(rows, seed, order, limit):
    def make(rows):
        table = Table(rows, np.arange(len(rows)), "a.csv", "line", {}, {}, dict.fromkeys(COUNTS, 0))
        try:
            return splits.make({"train": table}, DataSpec(train="a.csv", limit=limit), TASK, seed)
        except HeadstartError as error:
            return str(error)

    made = make(rows)
    again = make(order.sample(rows, len(rows)))
    if isinstance(made, str):
        assert made == again
        return
    sides = [made.train.rows, made.validation.rows, made.test.rows]
    assert sides == [again.train.rows, again.validation.rows, again.test.rows]
    assert all(sides)
    texts = [{duplicates.canonical(row["text"]) for row in side} for side in sides]
    assert sum(map(len, texts)) == len(set.union(*texts)), "a text stands on two sides"
    assert sum(map(len, sides)) == len(rows) if limit is None else len(sides[0]) <= limit
