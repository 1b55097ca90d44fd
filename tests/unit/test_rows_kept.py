"""No row vanishes, and no answer moves to another row: quotes that mean themselves, late keys, skipped rows, pipes."""

import csv
import io
import itertools
import json
import sys

import numpy as np
import pytest

from headstart import tasks
from headstart.core.errors import DataError
from headstart.core.lines import write_lines
from headstart.core.predict import beside_errors
from headstart.core.spec import DataSpec, check_data_spec, parse_set
from headstart.data import sources
from headstart.data import table as data
from headstart.runs import resolve
from headstart.tasks.inference import read_as
from headstart.tasks.question_answering.squad import n_answers
from headstart.tasks.question_answering.task import QuestionAnswering
from headstart.tasks.text_classification import TextClassification
from headstart.use import answers

TASK = TextClassification()


def read(path, gold="required", **how):
    return data.read_table(str(path), DataSpec(train="unused", **how), TASK, gold=gold)


def lines_of(n, separator, opens, closes, *, label_first=False):
    """A file of `n` rows and a header, quotes never written twice: line `opens` begins with one, `closes` ends so."""
    lines = []
    for i in range(n):
        text = ('"' if i == opens else "") + f"By noon the kettle was dull {i}" + ('"' if i == closes else "")
        fields = [text, ("good", "bad")[i % 2]]
        lines.append(separator.join(fields[::-1] if label_first else fields))
    return "\n".join([separator.join(["label", "text"] if label_first else ["text", "label"]), *lines]) + "\n"


@pytest.mark.parametrize("closes", [None, 60, 65, 75, 89])  # None: never; 60: perhaps in its own line
@pytest.mark.parametrize("opens", [0, 60])
@pytest.mark.parametrize(("separator", "label_first"), [("\t", False), ("\t", True), (",", False), (",", True),
                                                        (";", False), ("|", False)])
def test_a_quote_that_means_itself_swallows_no_row(tmp_path, separator, label_first, opens, closes):
    path = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
    path.write_text(lines_of(90, separator, opens, closes, label_first=label_first))
    table = read(path)
    assert [row["label"] for row in table.rows] == ["good", "bad"] * 45
    assert table.lines_N.tolist() == list(range(2, 92))
    is_closed = opens == closes
    assert table.rows[opens]["text"] == '"' * (not is_closed) + f"By noon the kettle was dull {opens}"
    is_told_first = separator == "\t" and opens == 0  # of the whole file, by its first lines
    assert table.counts["n_quotes_that_never_close"] == (0 if is_told_first or is_closed else 1)


POEMS = ["Roses are red,\nviolets are blue", "Dear Anna,\nthank you, dear", "one\n\ntwo", "a,b\nc,d\ne,f", "1,2\n3,4",
         'she said "no",\nand left', "x,good\ny,bad and more\nz"]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_text_of_several_lines_stays_one_and_is_counted(tmp_path, separator, quoting):
    texts = [f"{text} {i}" for i, text in enumerate(3 * [text.replace(",", ";" if separator == ";" else ",")
                                                         for text in POEMS])]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n")
        writer.writerows([["text", "label"], *([text, "good"] for text in texts)])
    table = read(tmp_path / "a.csv")
    assert [row["text"] for row in table.rows] == texts
    assert table.counts["n_rows_of_several_lines"] == len(texts)
    assert table.counts["n_quotes_that_never_close"] == 0


def records(n, late, at):
    return [{"text": f"text {i}", "label": "ab"[i % 2]} | ({} if i < at else late) for i in range(n)]


def write_json(folder, form, rows):
    path = folder / f"a.{form}"
    path.write_text(json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "ndjson"])
@pytest.mark.parametrize("at", [1, 99, 100, 101, 500, 599])
def test_a_key_counts_wherever_it_first_stands(tmp_path, form, at):
    path = write_json(tmp_path, form, records(600, {"text_pair": "another"}, at))
    with pytest.raises(DataError, match='has no "text_pair"') as caught:
        read(path)
    assert len(caught.value.problems) == at  # the rows that lack it
    table = read(path, errors="skip")
    assert (len(table), table.counts["n_skipped"]) == (600 - at, at)
    assert "text_pair" in table.rows[0]


def test_rows_without_labels_may_come_first(tmp_path):
    rows = [{"text": f"text {i}"} | ({"label": "a"} if i > 150 else {}) for i in range(300)]
    assert len(read(write_json(tmp_path, "jsonl", rows), errors="skip")) == 149


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))


def test_a_late_key_of_a_stream_is_told_where_it_matters(monkeypatch):
    pipe(monkeypatch, "".join(json.dumps(row) + "\n" for row in records(300, {"text_pair": "another"}, 200)))
    with pytest.raises(DataError, match='standard input:201: the key "text_pair" first stands here'):
        read("-", gold="ignored")
    pipe(monkeypatch, "".join(json.dumps(row) + "\n" for row in records(300, {"note": "another"}, 200)))
    assert len(read("-", gold="ignored")) == 300


@pytest.mark.parametrize("name", ["a.json", "a.JSON"])
def test_json_lines_may_be_called_json(tmp_path, name):
    (tmp_path / name).write_text('\n{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}\n')
    assert [row["text"] for row in read(tmp_path / name).rows] == ["a", "c"]


def test_an_index_without_a_name_is_left_alone(tmp_path):
    (tmp_path / "a.csv").write_text(",text,label\n0,a,b\n1,c,d\n")
    assert read(tmp_path / "a.csv").rows == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(("content", "texts", "columns"), [
    ("id,text\n1,a\n2,b\n", ["a", "b"], {}),
    ("id;Review\n1;a\n", ["a"], {}),
    ("text\tlabel\na, b\tx\n", ["a, b"], {}),
    ("text\na\nb\n", ["a", "b"], {}),
    ('"text","label"\n"a\nb","x"\n', ["a\nb"], {}),
    ("id,story\n1,a\n", ["a"], {"text": "story"}),
    ("great text, good review\nnot so good\n", ["great text, good review", "not so good"], {}),
    ("text, review\nno comma here\nnone\n", ["text, review", "no comma here", "none"], {}),
    ("review\na\n", ["review", "a"], {}),  # one word, and no column's own name
    ("review\na\n", ["a"], {"text": "review"}),
    ("message, received\nit came, at last\nlate\n", ["message, received", "it came, at last", "late"], {}),
])
def test_a_header_of_a_stream_is_no_text(monkeypatch, tmp_path, content, texts, columns, as_file):
    (tmp_path / "a.txt").write_text(content)
    pipe(monkeypatch, content)
    table = read(tmp_path / "a.txt" if as_file else "-", gold="ignored", columns=columns)
    assert [row["text"] for row in table.rows] == texts


def test_a_stream_of_a_header_alone_holds_no_row(monkeypatch):
    pipe(monkeypatch, "id,text\n")
    with pytest.raises(DataError, match="has a header and no row below it"):
        read("-", gold="ignored")


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("bad", [(), (1,), (3,), (1, 2), (2, 4), (5,), (4, 5), (1, 2, 3, 4, 5)])
def test_each_row_has_its_answer_or_its_error(bad, at_once):
    rows = [(n, "is empty") if n in bad else {"text": str(n)} for n in range(1, 6)]

    def answer(sound):
        sound = iter(sound)
        while some := list(itertools.islice(sound, at_once)):
            yield from ({"label": row["text"]} for row in some)

    assert list(beside_errors(rows, answer)) == [
        {"row": n, "error": "is empty"} if n in bad else {"label": str(n)} for n in range(1, 6)]


@pytest.fixture(scope="module")
def skipping(run, tmp_path_factory):
    """A file with two rows that are skipped, and the lines that answer it."""
    new = tmp_path_factory.mktemp("new") / "new.csv"
    new.write_text("id,text\n1,the lovely room\n2,\n3,the dull film\n4,  \n")
    return new, [json.dumps(answer) for answer in answers.answers(run, str(new), {"errors": "skip"})]


def test_skipped_rows_keep_their_line(run, cli, skipping):
    new, lines = skipping
    assert [json.loads(line).get("row") for line in lines] == [None, 2, None, 4]
    assert json.loads(lines[1])["error"].startswith(f'{new}:3: column "text" is empty')
    assert cli("predict", run, new, "--set", "data.errors=skip")[0].splitlines() == lines


@pytest.mark.parametrize("kept", [0, 1, 2, 3])  # lines of the command that broke off
def test_skipped_rows_keep_their_line_when_answers_are_resumed(tmp_path, run, skipping, kept):
    new, lines = skipping

    def source(breaks):
        rows, answer = answers.open_rows(run, str(new), {"errors": "skip"})

        def written(some):
            for n, result in enumerate(answer(some)):
                if breaks and n == kept:
                    raise DataError("", "it broke off", "Begin again.")
                yield json.dumps(result)
        return rows, written

    with pytest.raises(DataError, match="broke off"):
        write_lines(tmp_path / "a.jsonl", lambda: source(True), {})
    assert write_lines(tmp_path / "a.jsonl", lambda: source(False), {}, resume=True) == 4
    assert (tmp_path / "a.jsonl").read_text().splitlines() == lines


def test_skipped_rows_keep_their_vector_and_their_number(tmp_path, backbone, cli):
    (tmp_path / "a.csv").write_text("text\nthe lovely room\n \nthe dull film\n")
    skip = ("--set", "data.errors=skip")
    _, stderr = cli("extract", backbone, tmp_path / "a.csv", "--out", tmp_path / "a.npy", *skip)
    assert "1 of 3 rows were skipped; their vectors are NaN" in stderr
    assert np.isnan(np.load(tmp_path / "a.npy")).all(1).tolist() == [False, True, False]
    stdout, _ = cli("search", backbone, tmp_path / "a.csv", "--query", "the dull film", "--json", *skip)
    assert [hit["row"] for hit in json.loads(stdout)["hits"]] == [2, 0]


def test_skipped_rows_of_a_score_are_counted(tmp_path, run, cli):
    (tmp_path / "a.csv").write_text("text,label\nthe lovely room,positive\n,positive\nthe dull film,negative\n")
    stdout, _ = cli("evaluate", run, tmp_path / "a.csv", "--set", "data.errors=skip", "--json")
    assert "on 2 rows; skipped: 1" in stdout
    assert json.loads(stdout.splitlines()[-1])["n_skipped"] == 1


@pytest.mark.parametrize(("names", "parts"), [
    (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"train", "test"}),
    (["data/train-00000-of-00001-0123456789abcdef.parquet", "README.md"], {"train"}),
    (["train.jsonl", "data/dev.jsonl"], {"train", "validation"}),
])
def test_a_folder_as_the_hub_gives_it(tmp_path, names, parts):
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert sources.parts(str(tmp_path)).keys() == parts


def test_one_of_several_files_is_not_taken_for_all(tmp_path):
    for i in range(2):
        (tmp_path / f"train-0000{i}-of-00002.parquet").touch()
    with pytest.raises(DataError, match="holds 2 files that could be the train rows") as caught:
        sources.parts(str(tmp_path))
    assert caught.value.fix == "Join them to one file."


def test_a_column_may_be_called_by_a_number(tmp_path):
    (tmp_path / "a.csv").write_text("0,1\na,b\n")
    columns = parse_set(["data.columns.text=0", "data.columns.label=1"])["data"]["columns"]
    how = check_data_spec({"train": "unused"}, {"columns": columns})
    assert data.read_table(str(tmp_path / "a.csv"), how, TASK).rows == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize(("answers", "n"), [('{"text": ["Mira"], "answer_start": [0]}', 1), ('{"text": []}', 0),
                                            ('[{"text": "Mira", "answer_start": 0}]', 1)])
def test_answers_as_json_in_a_cell(tmp_path, answers, n):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "context", "answers"], ["Who?", "Mira came.", answers]])
    row, = data.read_table(str(tmp_path / "a.csv"), DataSpec(train="unused"), QuestionAnswering()).rows
    assert n_answers(row) == n


@pytest.mark.parametrize(("header", "options", "expected"), [
    ("text,label", {}, 'is read as text-classification: text from "text", label from "label". To say otherwise: '
                       "--task NAME, --set data.columns.text=NAME"),
    ("Review,Sentiment", {"task": "text-classification"},
     'is read as text-classification: text from "Review", label from "Sentiment". To say otherwise: '
     "--set data.columns.text=NAME"),
    ("sentence1,sentence2,score", {}, 'is read as text-regression: text from "sentence1"'),
    ("text,label", {"task": "text-classification"}, ""),
])
def test_one_line_says_what_was_inferred(tmp_path, header, options, expected):
    path = tmp_path / "a.csv"
    n = header.count(",")
    path.write_text(header + "\n" + "".join(",".join([f"text {i}"] * n + [f"{i / 4}"]) + "\n" for i in range(12)))
    spec, origins, _ = resolve.resolve([resolve.first_layer(str(path)), ("command line", options)])
    task = tasks.build(spec.task)
    line = read_as(task, origins, data.read_table(str(path), spec.data, task))
    assert line.startswith(f"{path} {expected}") if expected else line == ""
