"""Which task a file's columns mean when nobody names one."""

import json

import pytest

from headstart import tasks
from headstart.core.errors import SpecError
from headstart.runs.resolve import first_layer, resolve, stack
from headstart.tasks.inference import infer


@pytest.mark.parametrize(("header", "expected"), [
    (["text", "label"], ["text-classification"]),
    (["id", "text", "text_pair", "label"], ["text-classification"]),
    (["text", "labels"], ["multi-label-classification"]),
    (["text", "score"], ["text-regression"]),
    (["question", "choices", "label"], ["multiple-choice"]),
    (["text", "head_span", "tail_span", "relation"], ["relation-extraction"]),
    (["tokens", "tags"], ["token-classification"]),
    (["text", "entities"], ["token-classification"]),
    (["id", "question", "context", "answers"], ["question-answering"]),
    (["text", "label", "score"], ["text-classification", "text-regression"]),
    (["review", "stars"], []),
])
def test_columns_and_what_they_mean(header, expected):
    assert tasks.by_columns(header) == expected


def resolved(tmp_path, **row):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps(row) + "\n", "utf-8")
    return resolve([first_layer(str(source))])


def test_the_inferred_task_and_its_origin_are_written_out(tmp_path):
    spec, origins, _ = resolved(tmp_path, question="how?", choices=["a", "b"], label=0)
    assert spec.task == {"name": "multiple-choice", "separator": "|"}
    assert origins["task.name"].startswith("inferred from")


def test_several_meanings_are_named(tmp_path):
    with pytest.raises(SpecError, match="could mean text-classification or text-regression"):
        resolved(tmp_path, text="a", label="b", score=1)


def test_a_named_task_is_not_inferred(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "a", "label": "b", "score": 1}) + "\n", "utf-8")
    spec, _, _ = resolve([first_layer(str(source)), ("x", {"task": "text-regression"})])
    assert spec.task["name"] == "text-regression"


def test_what_rows_tell_leaves_the_inferred_task_its_origin(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "a", "labels": ["b"]}) + "\n", "utf-8")
    layers = stack([first_layer(str(source)), ("x", {"task": {"separator": ";"}})])
    spec, origins = layers.resolve(("chosen for 1 rows", {"train": {"epochs": 9}}))
    assert (spec.task["name"], spec.task["separator"], spec.train.epochs) == ("multi-label-classification", ";", 9)
    assert origins["task.name"] == f"inferred from {source}"
    assert origins["task.separator"] == "x"


SENTENCES = {"sentence1": "a", "sentence2": "b"}
MEANT = {
    "a score with a fraction": ([{**SENTENCES, "score": f"{k}.0"} for k in range(5)], "text-regression"),
    "names in capitals": ([{"Sentence_A": "a", "Sentence_B": "b", "Score": k / 2} for k in range(5)],
                          "text-regression"),
    "a rating beside the label": ([{"text": "a", "label": "x", "rating": k} for k in range(5)], None),
    "one class a row in labels": ([{"text": "a", "labels": k % 2} for k in range(5)], "text-classification"),
    "lists in label": ([{"text": "a", "label": ["x", "y"]}], "multi-label-classification"),
    "lists written as text": ([{"text": "a", "labels": "['x', 'y']"}], "multi-label-classification"),
    "parted labels": ([{"text": "a", "labels": "x|y"}], "multi-label-classification"),
    "classes that are numbers": ([{"text": "a", "label": k} for k in range(5)], None),
}


@pytest.mark.parametrize(("rows", "expected"), MEANT.values(), ids=MEANT)
def test_values_tell_what_names_leave_open(rows, expected):
    assert infer(list(rows[0]), rows, "a.jsonl") == (expected or "text-classification")


AMBIGUOUS = {
    "whole numbers of stars": ([{"review": "a", "stars": k} for k in range(1, 6)], ["text-classification",
                                                                                    "text-regression"]),
    "many fractions in label": ([{"text": "a", "label": k / 7} for k in range(50)], ["text-classification",
                                                                                     "text-regression"]),
    "a column a label": ([{"id": 1, "comment_text": "a", "toxic": "1", "threat": "0"}], [
        "task.label_columns=[toxic, threat]", "data.columns.label=toxic"]),
}


@pytest.mark.parametrize(("rows", "named"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_two_readings_are_both_named_with_commands(rows, named):
    with pytest.raises(SpecError) as refused:
        infer(list(rows[0]), rows, "a.csv")
    assert all(part in str(refused.value) for part in named)
    assert str(refused.value).count("--task ") == 2
