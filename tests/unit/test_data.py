"""Every kind of bad input, and what the user reads about it; then what good input gives."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headstart.core.errors import DataError, HeadstartError, SpecError
from headstart.core.spec import DataSpec, check_data_spec
from headstart.data import table as data
from headstart.data.sources import hub, open_source, parts
from headstart.data.sources import lines as sources_lines
from headstart.tasks.text_classification import TextClassification

TASK = TextClassification()


def read(path, content=None, gold="required", **settings):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return data.read_table(str(path), check_data_spec({"train": "unused"}, settings), TASK, gold=gold)


def complaint(path, content=None, gold="required", **settings):
    with pytest.raises(HeadstartError) as caught:
        read(path, content, gold, **settings)
    return str(caught.value).replace(f"{path.parent}/", "")


# file, settings, the message's beginning ("..." stands for anything), a piece of what to do
BAD: dict[str, tuple[str, bytes, dict[str, Any], str, str]] = {
    "empty": ("a.csv", b"", {}, "a.csv: is empty.", "right file"),
    "blank lines only": ("a.csv", b"\n\n\n", {}, "a.csv: is empty.", "right file"),
    "header only": ("a.csv", b"text,label\n", {}, "a.csv: has a header and no row below it.", "right file"),
    "empty jsonl": ("a.jsonl", b"", {}, "a.jsonl: is empty.", "right file"),
    "empty json": ("a.json", b"", {}, "a.json: is empty.", "right file"),
    "empty list": ("a.json", b"[]", {}, "a.json: is empty.", "right file"),
    "nameless column": ("a.csv", b"text,,label\n0,a,b\n", {},
                        "a.csv:1: the header cannot be used: column 2 has no name.",
                        "index=False"),
    "repeated column": ("a.csv", b"text,label,text\na,b,c\n", {}, 'a.csv: has two columns called "text".', "Rename"),
    "ragged rows": ("a.csv", b"text,label\na,b\nc\nd,e,f\n", {},
                    "a.csv:3: has 1 field, the header has 2.\na.csv:4: has 3 fields, the header has 2.",
                    "--set data.errors=skip"),
    "quote never closes": ("a.csv", b'text,label\na,b\n"c\nd",e\nf,"g\nh,i\n', {},
                           "a.csv:5: a quoted field opens here; in line 6, the file ends before it closes.",
                           "written twice"),
    "quote swallows lines": ("a.csv", b'text,label\na,"b\nc,d\ne"f,g\n', {},
                             "a.csv:2: a quoted field opens here; in line 4, text follows a closing quote.",
                             "written twice"),
    "text after quote": ("a.csv", b'text,label\n"a" b,c\nd,e\n', {}, "a.csv:2: text follows a closing quote.", "skip"),
    "carriage return in a field": ("a.csv", b"text,label\na\rb,c\n", {},
                                   "a.csv:2: a carriage return stands in a field without quotes.", "skip"),
    "NUL": ("a.csv", b"text,label\na\0b,c\n", {}, 'a.csv:2: column "text" contains a NUL character; is the file UTF-16',
            "skip"),
    "field too long": ("a.csv", b"text,label\n" + b"a" * 30 + b",b\n", {"max_chars": 20},
                       "a.csv:2: a field is longer than 20 characters (data.max_chars).", "skip"),
    "quoted field too long": ("a.csv", b'text,label\nx,y\n"' + b"a\n" * 30, {"max_chars": 20},
                              "a.csv:3: a quoted field opens here; in line 13, a field is longer than 20 characters",
                              "Close it"),
    "line too long": ("a.jsonl", b'{"text": "' + b"a" * 1_000_001, {"max_chars": 9},
                      "a.jsonl:1: the line is longer than 1,000,000 characters", "text file"),
    "text too long": ("a.jsonl", b'{"text": "aaaaaaaaaa", "label": "b"}', {"max_chars": 9},
                      'a.jsonl:1: column "text" has 10 characters; data.max_chars allows 9.', "skip"),
    "latin-1": ("a.csv", b"text,label\nok,b\ncaf\xe9,c\nna\xefve,\xe9\n", {},
                "a.csv:3: byte 4 of the line (0xe9) is not utf-8; 3 bytes in 2 lines cannot be decoded.",
                "--encoding latin-1; or have those bytes replaced or those rows skipped, and counted: "
                "--set data.errors=replace (or skip)"),
    "latin-1 header": ("a.csv", b"text,label,\xe9\nok,b,c\n", {}, "a.csv:1: byte 12 of the line (0xe9)", "--encoding"),
    "latin-1 in json": ("a.json", b'[{"text": "caf\xe9", "label": "b"}]', {}, "a.json:1: byte 15 of the line (0xe9)",
                        "--encoding"),
    "stray bytes and a bad row": ("a.csv", b"text,label\ncaf\xe9,c\nd\n", {},
                                  "a.csv:2: byte 4 of the line (0xe9) is not utf-8; 1 byte in 1 line cannot be "
                                  "decoded.\n"
                                  "a.csv:3: has 1 field, the header has 2.", "--encoding"),
    "cut UTF-16": ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], {},
                   "a.csv: is not utf-16 after line 1: truncated",
                   "--encoding NAME"),
    "no encoding": ("a.csv", b"text,label\na,b\n", {"encoding": "latin1x"},
                    'settings: data.encoding: "latin1x" is not allowed; it must be a text', "utf-8, latin-1"),
    "codec that is no encoding": ("a.csv", b"text,label\na,b\n", {"encoding": "base64"},
                                  'settings: data.encoding: "base64" is not allowed; it must be', "utf-8, latin-1"),
    "broken line": ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a",\n', {},
                    "a.jsonl:2: is not JSON: Expecting property name", "skip"),
    "NaN": ("a.jsonl", b'{"text": "a", "label": NaN}', {}, "a.jsonl:1: NaN is not JSON; write null.", "skip"),
    "Infinity": ("a.jsonl", b'{"text": "a", "label": "b", "x": -Infinity}', {}, "a.jsonl:1: -Infinity is not JSON",
                 "skip"),
    "endless float": ("a.jsonl", b'{"text": "a", "label": 1e999}', {}, "a.jsonl:1: the number 1e999 does not fit",
                      "skip"),
    "huge int": ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", {}, "a.jsonl:1: the number 9999", "skip"),
    "65-bit int": ("a.jsonl", b'{"text": "a", "label": 9223372036854775808}', {},
                   "a.jsonl:1: the number 9223372036854775808 does not fit into 64 bits.", "skip"),
    "key twice": ("a.jsonl", b'{"text": "a", "label": "b", "text": "c"}', {}, 'a.jsonl:1: the key "text" stands twice.',
                  "skip"),
    "too deep for Python": ("a.jsonl", b'{"text": ' + b"[" * 100_000, {}, "a.jsonl:1: is nested too deeply.", "skip"),
    "too deep for us": ("a.jsonl", b'{"text": ' + b"[" * 90 + b"]" * 90 + b', "label": "b"}', {},
                        'a.jsonl:1: column "text" is nested deeper than 64 levels.', "skip"),
    "not an object": ("a.jsonl", b'["a", "b"]\n', {}, "a.jsonl:1: is ['a', 'b'], not a JSON object.", "skip"),
    "missing key": ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a"}\n', {},
                    'a.jsonl:2: has no "label"; task "text-classification" needs a string or a whole number in every '
                    "row.", "skip"),
    "half a surrogate pair": ("a.jsonl", b'{"text": "a \\ud83d b", "label": "b"}', {},
                              'a.jsonl:1: column "text" contains U+D83D, half of a surrogate pair', "skip"),
    "NUL escape": ("a.jsonl", b'{"text": "a\\u0000", "label": "b"}', {}, 'a.jsonl:1: column "text" contains a NUL',
                   "skip"),
    "json of another shape": ("a.json", b'{"text": ["a"]}', {},
                              'a.json: begins with "{"text": ["a"]}"; a JSON file must hold a list of objects',
                              ".jsonl"),
    "json cut short": ("a.json", b'[{"text": "a", "label": "b"},\n{"text"', {},
                       "a.json:2: is not JSON: Expecting ':' delimiter, in or after row 1.", "Mend"),
    "json without a comma": ("a.json", b'[{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}]', {},
                             "a.json:2: is not JSON: Expecting ',' delimiter", "Mend"),
    "json with more behind": ("a.json", b'[{"text": "a", "label": "b"}] []', {}, "a.json:1: is not JSON: Extra data",
                              "Mend"),
    "json rows": ("a.json", b'[{"text": "a", "label": "b"}, 7, {"text": "", "label": "b"}]', {},
                  "a.json: row 2: is 7, not a JSON object.\n"
                  'a.json: row 3: column "text" is empty; task "text-classification" needs a string that is not empty',
                  "skip"),
    "json too deep": ("a.json", b"[" * 100_000, {}, "a.json: row 1: is nested too deeply.", "one object a row"),
    "not gzip": ("a.csv.gz", b"text,label\na,b\n", {}, "a.csv.gz: is not a sound gzip file; 0 bytes", "gzip -t"),
    "cut gzip": ("a.csv.gz", gzip.compress(b"text,label\na,b\n" * 99)[:-9], {},
                 "a.csv.gz: ends in the middle of its gzip stream", "gzip -t"),
    "gzip bomb": ("a.csv.gz", gzip.compress(b"text,label\n" + (b"a" * 9_998 + b",b\n") * 2_000), {},
                  "a.csv.gz: unpacks to more than 200 times its size", "gunzip"),
    "gzip too large": ("a.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 99), {"max_bytes": 50},
                       "a.csv.gz: has more than 50 bytes; data.max_bytes allows 50.", "--set data.max_bytes=100"),
    "too large": ("a.csv", b"text,label\n" + b"a,b\n" * 99, {"max_bytes": 50},
                  "a.csv: has 407 bytes; data.max_bytes allows 50.", "--set data.max_bytes=407"),
    "no Parquet": ("a.parquet", b"PAR1 not at all PAR1", {}, "a.parquet: cannot be read as Parquet:", "again"),
    "empty Parquet": ("a.parquet", b"", {}, "a.parquet: cannot be read as Parquet:", "again"),
    "unknown format": ("a.xlsx", b"PK", {}, "a.xlsx: has a name that ends in none of .csv, .tsv, .jsonl", "Rename"),
    "empty label": ("a.csv", b"text,label\na,b\nc,\n", {},
                    'a.csv:3: column "label" is empty; task "text-classification" needs a string or a whole number in '
                    "every row.", "skip"),
    "empty label under another name": ("a.csv", b"review,sentiment\na,b\nc,\n", {},
                                       'a.csv:3: column "sentiment" (the task\'s "label") is empty; task', "skip"),
    "no such column": ("a.csv", b"phrase,stars\na,b\n", {},
                       'a.csv: no column is called "text". The file has: phrase, stars.\n'
                       'a.csv: no column is called "label". The file has: phrase, stars.',
                       "--set data.columns.text=NAME"),
    "named column missing": ("a.csv", b"phrase,stars\na,b\n", {"columns": {"text": "phrases", "label": "stars"}},
                             'a.csv: no column is called "phrases". Did you mean "phrase"? The file has: phrase, '
                             "stars.",
                             "--set data.columns.text=NAME"),
    "ambiguous column": ("a.csv", b"review,comment,label\na,b,c\n", {},
                         'a.csv: "review" and "comment" could each be the task\'s "text".',
                         "--set data.columns.text=NAME"),
    "no task column": ("a.csv", b"text,label\na,b\n", {"columns": {"txt": "text"}},
                       'data.columns.txt: is not a column of task "text-classification"; did you mean "text"?', ""),
    "only an id left": ("a.csv", b"id,text\n1,a\n", {}, 'a.csv: no column is called "label".',
                        "data.columns.label=NAME"),
    "other delimiter": ("a.csv", b"text^label\na^b\n", {},
                        'a.csv: no column is called "text". The file has: text^label.',
                        "--set data.delimiter=CHARACTER"),
    "plain text has no label": ("a.txt", b"a\n", {}, 'a.txt: no column is called "label". The file has: text.',
                                "label=NAME"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(tmp_path, name):
    file, content, settings, message, fix = BAD[name]
    told = complaint(tmp_path / file, content, **settings)
    assert told.startswith(message)
    assert fix in told
    assert "Traceback" not in told


def test_all_problems_come_together_first_ten_and_a_count(tmp_path):
    told = complaint(tmp_path / "a.csv", "text,label\n" + "a,\n" * 25)
    assert told.count("is empty") == 10
    assert "... and 15 more problems (25 in all)" in told


def test_reading_stops_when_everything_is_wrong(tmp_path):
    told = complaint(tmp_path / "a.csv", "text,label\n" + "a,\n" * 5000)
    assert "(1,000 in all)" in told
    assert "Reading stopped at 1,000 problems." in told


def test_a_fatal_problem_does_not_hide_the_ones_before(tmp_path):
    told = complaint(tmp_path / "a.csv", 'text,label\na\nb,"c')
    assert told.startswith("a.csv:2: has 1 field, the header has 2.\na.csv:3: a quoted field opens here")


# ------------------------------------------------------------------------------------------------ good input

ROWS = [{"text": "a, b", "label": "x"}, {"text": "naïve 房间", "label": "y"}]
CSV = 'text,label\n"a, b",x\nnaïve 房间,y\n'
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
GOOD = {
    "csv": ("a.csv", CSV.encode(), [2, 3]),
    "no last newline": ("a.csv", CSV.strip().encode(), [2, 3]),
    "windows": ("a.csv", CSV.replace("\n", "\r\n").encode(), [2, 3]),
    "old Macintosh": ("a.csv", CSV.replace("\n", "\r").encode(), [2, 3]),
    "byte-order mark": ("a.csv", CSV.encode("utf-8-sig"), [2, 3]),
    "UTF-16": ("a.csv", CSV.encode("utf-16"), [2, 3]),
    "UTF-32": ("a.csv", CSV.encode("utf-32"), [2, 3]),
    "blank lines": ("a.csv", CSV.replace("\n", "\n\n").encode(), [3, 5]),
    "semicolons": ("a.csv", 'text;label\n"a, b";x\nnaïve 房间;y\n'.encode(), [2, 3]),
    "tabs": ("a.tsv", "text\tlabel\na, b\tx\nnaïve 房间\ty\n".encode(), [2, 3]),
    "bars": ("a.csv", "text|label\na, b|x\nnaïve 房间|y\n".encode(), [2, 3]),
    "spaces around names": ("a.csv", CSV.replace("text,label", " text , label").encode(), [2, 3]),
    "packed": ("a.csv.gz", gzip.compress(CSV.encode()), [2, 3]),
    "jsonl": ("a.jsonl", JSONL.encode(), [1, 2]),
    "ndjson with gaps": ("a.ndjson", JSONL.replace("\n", "\n\n").encode(), [1, 3]),
    "packed jsonl": ("a.jsonl.gz", gzip.compress(JSONL.encode()), [1, 2]),
    "json": ("a.json", json.dumps(ROWS).encode(), [1, 2]),
    "json under data": ("a.json", json.dumps({"version": "1.1", "n": 2, "data": ROWS, "more": {}}).encode(), [1, 2]),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_input_is_read(tmp_path, name):
    file, content, lines = GOOD[name]
    table = read(tmp_path / file, content)
    assert table.rows == ROWS
    assert table.lines_N.tolist() == lines
    assert table.counts["n_read"] == 2


def test_newlines_inside_quotes_keep_line_numbers_right(tmp_path):
    table = read(tmp_path / "a.csv", 'text,label\n"a\nb\n\nc",x\nd,y\n')
    assert [row["text"] for row in table.rows] == ["a\nb\n\nc", "d"]
    assert table.where(1) == f"{tmp_path}/a.csv:6"


def test_quotes_of_a_tab_separated_file_may_be_literal(tmp_path):
    table = read(tmp_path / "a.tsv", 'text\tlabel\n"so" he said\tx\n"and left\ty\n')
    assert [row["text"] for row in table.rows] == ['"so" he said', '"and left']
    quoted = read(tmp_path / "b.tsv", 'text\tlabel\n"a\tb"\tx\n')
    assert quoted.rows == [{"text": "a\tb", "label": "x"}]
    over_lines = read(tmp_path / "c.tsv", '"text"\t"label"\n"a"\t"x\n\t"\n')  # found by make fuzz
    assert over_lines.rows == [{"text": "a", "label": "x"}]


def test_a_delimiter_that_is_set_wins(tmp_path):
    table = read(tmp_path / "a.csv", "text^label\na,b^c\n", delimiter="^")
    assert table.rows == [{"text": "a,b", "label": "c"}]


def test_csv_limit_of_the_process_is_put_back(tmp_path):
    before = csv.field_size_limit()
    table = read(tmp_path / "a.csv", "text,label\n" + "a" * 200_000 + ",b\n")
    assert len(table.rows[0]["text"]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(("errors", "rows", "counts"), [
    ("skip", ["ok"], {"n_skipped": 2, "n_replaced_rows": 0, "n_undecodable_bytes": 3}),
    ("replace", ["ok", "caf\ufffd", "na\ufffdve"], {"n_skipped": 0, "n_replaced_rows": 2, "n_undecodable_bytes": 3}),
])
def test_undecodable_bytes_are_skipped_or_replaced_and_counted(tmp_path, errors, rows, counts):
    table = read(tmp_path / "a.csv", b"text,label\nok,b\ncaf\xe9,c\nna\xefve,d\xe9\n", errors=errors)
    assert [row["text"] for row in table.rows] == rows
    assert counts.items() <= table.counts.items()
    assert [str(p).rpartition("/")[2] for p in table.skipped] == (
        ["a.csv:3: 1 of its bytes cannot be decoded.", "a.csv:4: 2 of its bytes cannot be decoded."]
        if errors == "skip" else [])


def test_the_encoding_that_is_named_is_used(tmp_path):
    assert read(tmp_path / "a.csv", b"text,label\ncaf\xe9,c\n", encoding="latin-1").rows[0]["text"] == "café"
    assert read(tmp_path / "b.csv", CSV.encode("gb18030"), encoding="gb18030").rows == ROWS
    assert read(tmp_path / "c.csv", CSV.encode("utf-8-sig"), encoding="UTF-8").rows == ROWS


def test_replacement_characters_that_were_there_are_counted(tmp_path):
    table = read(tmp_path / "a.csv", "text,label\na\ufffd,b\nc,d\n")
    assert table.rows[0]["text"] == "a\ufffd"
    assert table.counts["n_rows_with_replacement_character"] == 1


def test_skipping_counts_and_remembers(tmp_path):
    table = read(tmp_path / "a.csv", "text,label\na,b\nc\n,d\n" + "e,\n" * 20, errors="skip")
    assert (len(table), table.counts["n_read"], table.counts["n_skipped"]) == (1, 23, 22)
    assert len(table.skipped) == 10
    assert str(table.skipped[0]) == f"{tmp_path}/a.csv:3: has 1 field, the header has 2."


def test_skipping_everything_is_an_error(tmp_path):
    told = complaint(tmp_path / "a.csv", "text,label\na,\nb,\n", errors="skip")
    assert told.startswith("a.csv: all 2 rows were skipped; the first: a.csv:2: column")


def test_labels_are_normalized_when_asked(tmp_path):
    table = read(tmp_path / "a.csv", "text,label\na,Good \nb,good\n", normalize_labels=True)
    assert [row["label"] for row in table.rows] == ["good", "good"]
    assert table.counts["n_normalized_labels"] == 1


def test_equal_labels_are_one_object(tmp_path):
    first, second = read(tmp_path / "a.csv", "text,label\na,some label\nb,some label\n").rows
    assert first["label"] is second["label"]


@pytest.mark.parametrize(("header", "columns", "inferred"), [
    ("text,label,topic", {"text": "text", "label": "label"}, {}),
    ("Text,Sentiment", {"text": "Text", "label": "Sentiment"}, {"text": "Text", "label": "Sentiment"}),
    ("sentiment,confidence,text", {"text": "text", "label": "sentiment"}, {"label": "sentiment"}),
    ("phrase,label", {"text": "phrase", "label": "label"}, {"text": "phrase"}),
    ("评论,标签", {"text": "评论", "label": "标签"}, {"text": "评论", "label": "标签"}),
])
def test_columns_are_inferred_and_told(tmp_path, header, columns, inferred):
    table = read(tmp_path / "a.csv", f"{header}\n{','.join('abc'[:header.count(',') + 1])}\n")
    assert (table.columns, table.inferred) == (columns, inferred)


def test_columns_that_are_named_win(tmp_path):
    table = read(tmp_path / "a.csv", "text,body,label\na,b,c\n", columns={"text": "body"})
    assert table.rows == [{"text": "b", "label": "c"}]
    assert table.inferred == {}


@pytest.mark.parametrize(("gold", "rows"), [("ignored", [{"text": "a"}]), ("optional", [{"text": "a", "label": "b"}])])
def test_gold_when_predicting(tmp_path, gold, rows):
    assert read(tmp_path / "a.csv", "text,label\na,b\n", gold=gold).rows == rows
    assert read(tmp_path / "b.csv", "text\na\n", gold=gold).rows == [{"text": "a"}]
    assert read(tmp_path / "c.txt", "a\n", gold=gold).rows == [{"text": "a"}]


def test_gold_that_is_there_is_checked(tmp_path):
    assert 'column "label" is empty' in complaint(tmp_path / "a.csv", "text,label\na,\n", gold="optional")


@pytest.mark.parametrize(("content", "texts"), [
    (b'\n {"text": "a"}\n{"text": "b"}\n', ["a", "b"]), (b"a {\nb\n", ["a {", "b"]), (b"\xef\xbb\xbfa", ["a"]),
])
def test_standard_input(monkeypatch, content, texts):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    table = data.read_table("-", DataSpec(train="unused"), TASK, gold="ignored")
    assert [row["text"] for row in table.rows] == texts
    assert table.where(0).startswith("standard input:")


def test_a_stream_stops_at_the_first_problem_and_tells_all(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\nc,\nd,e\nf,\n")
    stream = iter(data.stream_rows(str(path), DataSpec(train="unused"), TASK))
    assert next(stream) == (2, {"text": "a", "label": "b"})
    with pytest.raises(DataError) as caught:
        next(stream)
    assert len(caught.value.problems) == 2


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "some words,b\n" * 20_000)
    stream = iter(data.stream_rows(str(path), DataSpec(train="unused"), TASK))
    next(stream)
    with path.open("a") as file:
        file.write("more,b\n")
    with pytest.raises(DataError, match="changed while it was read"):
        list(stream)


# ---------------------------------------------------------------------------------------------------- Parquet

def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    labels = pa.array(["x", "y"]).dictionary_encode()
    pq.write_table(pa.table({"extra": [1, 2], "text": ["a", "b"], "label": labels}), path)
    table = read(path)
    assert table.rows == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert table.where(1) == f"{path}: row 2"


def test_parquet_is_weighed_before_and_while_it_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 1000] * 5000, "label": ["x"] * 5000}), path)
    packed_bytes = 4000
    assert "a.parquet: has " in complaint(path, max_bytes=100)
    assert f"a.parquet: has more than {packed_bytes:,} bytes" in complaint(path, max_bytes=packed_bytes)


def test_parquet_rows_are_checked(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None], "label": ["x", "y"]}), path)
    assert complaint(path).startswith('a.parquet: row 2: column "text" is None, not a string')


# ---------------------------------------------------------------------------------------------------- sources

def test_a_missing_file_is_guessed(tmp_path):
    (tmp_path / "tickets.csv").write_text(CSV)
    told = complaint(tmp_path / "ticket.csv")
    assert told.startswith('ticket.csv: there is no such file; did you mean "tickets.csv"?')
    assert "there is no folder" in complaint(tmp_path / "nowhere" / "ticket.csv")


def test_what_the_system_refuses_is_told():
    told = str(sources_lines.unreadable("a.csv", PermissionError(13, "Permission denied")))
    assert told == "a.csv: cannot be read: permission denied.\n  Check the path and its permissions."
    assert "cannot be read: file name too long" in complaint(Path("/" + "a" * 5000))


def test_a_folder_brings_its_splits(tmp_path):
    for name in ("train.csv", "dev.csv", "test.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(CSV.encode()) if name.endswith("gz") else CSV.encode())
    (tmp_path / "extra.jsonl").write_text(JSONL)
    tables = data.read_splits(DataSpec(train=str(tmp_path)), TASK)
    assert {part: table.source.rpartition("/")[2] for part, table in tables.items()} == {
        "train": "train.csv", "validation": "dev.csv", "test": "test.csv.gz"}
    named = data.read_splits(DataSpec(train=str(tmp_path), test=f"{tmp_path}/extra.jsonl"), TASK)
    assert named["test"].source.endswith("extra.jsonl")


def test_a_folder_that_will_not_do(tmp_path):
    with pytest.raises(DataError, match=r"is a folder without a train file; it holds: nothing\."):
        parts(str(tmp_path))
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / "train.jsonl").write_text(JSONL)
    with pytest.raises(DataError, match=r"holds 2 files that could be the train rows: train.csv, train.jsonl\."):
        parts(str(tmp_path))
    assert "is a folder; one file is wanted here." in complaint(tmp_path)


@pytest.mark.parametrize(("source", "message"), [
    ("pip:no_such_package/a.csv", 'the package "no_such_package" is not installed.\n  Install it: pip install no_such'),
    ("pip:numpy/../../secret.csv", 'leads out of the package "numpy".'),
    ("pip:numpy", "is not pip:PACKAGE/PATH."),
    ("pip:numpy.random/a.csv", "is not pip:PACKAGE/PATH."),
    ("pip:numpy/no.csv", "there is no such file."),
    ("hub:a/b/c", "is not hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG@SPLIT."),
    ("hub:headstart-tests/not-in-any-cache", "is not in the cache, and HF_HUB_OFFLINE is set"),
])
def test_sources_that_will_not_do(source, message):
    with pytest.raises(DataError) as caught:
        data.read_table(source, DataSpec(train="unused"), TASK)
    assert str(caught.value).startswith(f"{source}: {message}")


def test_the_hub_is_given_up_in_seconds(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody answers
    with pytest.raises(DataError, match=r"http://127.0.0.1:9 does not answer within 3 s\."):
        open_source("hub:nobody/nothing", sources_lines.Rules())


def test_a_folder_here_does_not_pass_for_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imdb").mkdir()
    with pytest.raises(DataError, match=r'hub:imdb: a file or folder called "imdb" is here and would be read'):
        parts("hub:imdb")


def test_class_numbers_of_the_hub_become_names():
    labels = datasets.ClassLabel(names=["no", "yes"])
    assert [hub.named(value, labels) for value in (0, 1, -1, None)] == ["no", "yes", None, None]
    assert hub.named([1, 0], datasets.List(labels)) == ["yes", "no"]
    assert hub.named(1, datasets.Value("int64")) == 1


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "boobytrapped"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('was imported')")
    (package / "rows.csv").write_text(CSV)
    monkeypatch.syspath_prepend(tmp_path)
    table = data.read_table("pip:boobytrapped/rows.csv", DataSpec(train="unused"), TASK)
    assert table.rows == ROWS
    assert table.where(0) == "pip:boobytrapped/rows.csv:2"


def test_a_spec_error_is_one(tmp_path):
    with pytest.raises(SpecError):
        read(tmp_path / "a.csv", CSV, columns={"txt": "text"})


def test_a_table_can_be_taken_from(tmp_path):
    table = read(tmp_path / "a.csv", CSV).take([1])
    assert (table.rows, table.where(0), len(table)) == (ROWS[1:], f"{tmp_path}/a.csv:3", 1)
