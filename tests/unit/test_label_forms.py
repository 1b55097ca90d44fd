"""Labels and spans in the many forms that files have them in: read as they are meant, counted, or complained of."""

import json

import pytest

from headstart import tasks
from headstart.core.cells import written_list
from headstart.core.errors import DataError
from headstart.core.spec import DataSpec
from headstart.data.sources import Rules, open_source
from headstart.data.sources.class_names import class_names, names_of_card
from headstart.data.table import read_table


def read(path, task, **rules):
    return read_table(str(path), DataSpec(train=str(path), **rules), tasks.build({"name": task}))


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("text", [
    "['room', 'food']", '["room", "food"]', "['room' 'food']", "('room', 'food')", ' [ "room" , \'food\' ] ',
])
def test_a_list_that_was_written_as_text_is_a_list(text):
    assert written_list(text) == ["room", "food"]


@pytest.mark.parametrize("text", ["room", "[room]", "['room'", "[" * 100_000, "['a', ['b']]", "[1.5]", "{}", 7, None])
def test_what_is_no_such_list_stays_as_it_is(text):
    assert written_list(text) is text


@pytest.mark.parametrize(("cell", "expected", "n_changed"), [
    ("['room', 'food']", ["room", "food"], 1), ('["room", "food"]', ["room", "food"], 1), ("[0, 3]", ["0", "3"], 1),
    ([0, 3], ["0", "3"], 1), ([" room"], ["room"], 1), (["cafe\u0301"], ["caf\u00e9"], 1),
    ("room|food", "room|food", 0),
    (["room"], ["room"], 0), ("[]", [], 1), ("", "", 0), (4, "4", 1), ("it's", "it's", 0), ("['it\\'s']", ["it's"], 1),
])
def test_cells_of_many_labels(tmp_path, cell, expected, n_changed):
    table = read(written(tmp_path / "a.jsonl", [{"text": "x", "labels": cell}]), "multi-label-classification")
    assert table.rows[0]["labels"] == expected
    assert table.counts["n_normalized_labels"] == n_changed


@pytest.mark.parametrize("mark", [",", ", ", ";", "/"])
def test_labels_that_another_mark_parts_are_asked_about(mark):
    task = tasks.build({"name": "multi-label-classification"})
    cells = ["room", "food", "staff", f"room{mark}food", f"food{mark}staff", f"room{mark}staff"]
    rows = [{"text": "x", "labels": cell} for cell in cells]
    with pytest.raises(DataError, match=f"6 labels, parted there 3.*\n.*'task.separator={mark.strip()}'"):
        task.learn(rows)
    parted = tasks.build({"name": "multi-label-classification", "separator": mark.strip()})
    assert vars(parted.learn(rows))["labels"] == ("food", "room", "staff")
    whole = tasks.build({"name": "multi-label-classification", "separator": "||"})
    assert len(vars(whole.learn(rows))["labels"]) == 6


@pytest.mark.parametrize(("label", "expected"), [
    (" good", "good"), ("good\t", "good"), ("cafe\u0301", "caf\u00e9"), (True, "true"), ("good", "good"), (3, 3),
    ("nan", "nan"), ("None", "None"), ("NA", "NA"),
])
def test_one_label(tmp_path, label, expected):
    table = read(written(tmp_path / "a.jsonl", [{"text": "x", "label": label}]), "text-classification")
    assert table.rows[0]["label"] == expected
    assert table.counts["n_normalized_labels"] == (label != expected or label is True)


def test_a_label_that_an_older_model_learned_with_a_blank_stays():
    task = tasks.restore("text-classification", {"labels": [" good", "bad"], "has_pair": False, "outside": ""})
    assert task.normalized({"text": "x", "label": " good"}) == ({"text": "x", "label": " good"}, "")
    assert task.normalized({"text": "x", "label": " bad"})[0]["label"] == "bad"


@pytest.mark.parametrize("header", ["Text, Label", " TEXT ,LABEL", "text,label "])
def test_names_of_columns(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\nx, good\n", "utf-8")
    assert read(path, "text-classification").rows == [{"text": "x", "label": "good"}]


def test_a_name_in_another_unicode_form(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("re\u0301sume\u0301,label\nx,good\n", "utf-8")
    assert read(path, "text-classification", columns={"text": "r\u00e9sum\u00e9"}).rows[0]["text"] == "x"


TEXT = "Yesterday Lena Holt returned to Bergen."
CLEAN = [{"start": 10, "end": 19, "label": "PER"}, {"start": 32, "end": 38, "label": "LOC"}]


@pytest.mark.parametrize(("entities", "n_trimmed"), [
    (CLEAN, 0), ([[10, 19, "PER"], [32, 38, "LOC"]], 0), ([[10, 20, "PER"], [31, 38, " LOC"]], 1),
    ([{"start": 9, "end": 20, "label": "PER"}, CLEAN[1]], 1),
    ([{"start_offset": 10, "end_offset": 20, "label": "PER"}, CLEAN[1]], 1),
    ([{"id": 3, "start_offset": 10, "end_offset": 19, "label": "PER"}, CLEAN[1]], 0),
])
def test_entities(tmp_path, entities, n_trimmed):
    table = read(written(tmp_path / "a.jsonl", [{"text": TEXT, "entities": entities}]), "token-classification")
    ours = [{name: entity[name] for name in ("start", "end", "label")} for entity in table.rows[0]["entities"]]
    assert ours == CLEAN
    assert table.counts["n_rows_with_trimmed_entities"] == n_trimmed


@pytest.mark.parametrize("entities", [[[10, 19]], [{"start": 10}], [3], ["PER"], [[10, "x", "PER"]], [[0, 99, "PER"]],
                                      [[19, 10, "PER"]], [{"start_offset": 10, "label": "PER"}], "[[10, 19]]"])
def test_entities_that_cannot_be_meant_are_complained_of(tmp_path, entities):
    with pytest.raises(DataError, match=r"a\.jsonl:1: column \"entities\""):
        read(written(tmp_path / "a.jsonl", [{"text": TEXT, "entities": entities}]), "token-classification")


def test_tokens_and_tags_that_a_csv_file_holds_as_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("tokens,tags\n\"['Lena', 'left']\",\"['B-PER ', 'O']\"\n", "utf-8")
    assert read(path, "token-classification").rows == [{"tokens": ["Lena", "left"], "tags": ["B-PER", "O"]}]


CLASSES = {"names": ["bad", "good"], "_type": "ClassLabel"}


@pytest.mark.parametrize(("feature", "value", "expected"), [
    (CLASSES, 1, "good"), ({"feature": CLASSES, "_type": "Sequence"}, [1, 0], ["good", "bad"]),
    ([CLASSES], [1], ["good"]),
    ({"feature": CLASSES, "_type": "List"}, [], []), ({"dtype": "int64", "_type": "Value"}, 1, 1), (CLASSES, -1, None),
    ({"names": 3}, 1, 1), ({"names": [3]}, 1, 1), ("x", 1, 1), ([], 1, 1), (CLASSES, 7, 7),
])
def test_class_names_of_a_parquet_file(tmp_path, feature, value, expected):
    import pyarrow
    import pyarrow.parquet

    kind = pyarrow.list_(pyarrow.int64()) if isinstance(value, list) else pyarrow.int64()
    table = pyarrow.table({"text": ["x"], "label": [value]}, schema=pyarrow.schema(
        {"text": pyarrow.string(), "label": kind},
        {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    record = next(iter(open_source(str(tmp_path / "a.parquet"), Rules()).records(["text", "label"])))
    assert record.values["label"] == expected


@pytest.mark.parametrize("written", [b"[]", b'"x"', b"{}", b'{"info": 3}', b'{"info": {"features": [1]}}', b""])
def test_a_schema_that_says_nothing_names_nothing(written):
    assert class_names({b"huggingface": written}, "a.parquet") == {}


@pytest.mark.parametrize("written", [b"{", b"\xff", b"[" * 100_000, b'{"info": 1, "info": 2}'])
def test_a_schema_that_is_not_json_is_complained_of(written):
    with pytest.raises(DataError, match=r"^a\.parquet: schema"):
        class_names({b"huggingface": written}, "a.parquet")


CARD = "---\nlicense: mit\ndataset_info:\n{}---\n# Reviews\n"
CLASS_LABEL = "class_label:\n{0}  names:\n{0}    '0': bad\n{0}    '1': good\n"
ONE = "  features:\n  - name: label\n    dtype:\n      " + CLASS_LABEL.format(" " * 6)
TWO = "".join(f"- config_name: {name}\n{ONE}" for name in "ab")


@pytest.mark.parametrize(("card", "expected"), [
    (CARD.format(ONE), "good"), (CARD.format(TWO), "good"), (CARD.format(TWO.replace("good", "fine", 1)), 1),
    (CARD.format(ONE.replace("name: label", "name: other")), 1), (CARD.format("  features: 3\n"), 1),
    ("---\nlicense: mit\n---\n", 1), ("# no head", 1), ("---\n[ : \n---\n", 1), ("---\na: &x 1\nb: *x\n---\n", 1),
    (b"\xff", 1)], ids=["one", "two that agree", "two that do not", "another column", "no features", "no info",
                        "no head", "no YAML", "an alias", "no text"])
@pytest.mark.parametrize("place", [".", "data"])
def test_class_names_of_a_data_sets_card(tmp_path, card, expected, place):
    import pyarrow.parquet

    (tmp_path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    (tmp_path / "data").mkdir()
    path = tmp_path / place / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"], "label": [1]}), path)
    record = next(iter(open_source(str(path), Rules()).records(["text", "label"])))
    assert record.values["label"] == expected


def test_class_names_of_a_list_in_a_card(tmp_path):
    text = "  features:\n  - name: labels\n    sequence:\n      " + CLASS_LABEL.format(" " * 6)
    (tmp_path / "README.md").write_text(CARD.format(text), "utf-8")
    assert names_of_card(tmp_path) == {"labels": ["bad", "good"]}


def test_a_file_without_labels_is_told_of_columns_of_labels(tmp_path):
    with pytest.raises(DataError, match="label_columns"):
        read(written(tmp_path / "a.jsonl", [{"text": "x", "toxic": 1, "insult": 0}]), "multi-label-classification")
