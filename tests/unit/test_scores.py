"""scores.json, typed: files that runs wrote before are read whole and written as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headstart.core.errors import ArtifactError
from headstart.core.scores import Gain, Score, Scores

FILES = sorted((Path(__file__).parents[1] / "golden" / "scores").glob("*.json"))
LEAST = {"metric": "accuracy", "score": 0.5, "n_test": 8}


def read(name):
    return json.loads((FILES[0].parent / f"{name}.json").read_text("utf-8"))


def test_there_are_files_of_every_shape():
    assert [path.stem for path in FILES] == ["entities", "linear-probe", "multi-label", "question-answering",
                                             "regression", "relations"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_was_written_is_read_and_written_again(path):
    before = json.loads(path.read_text("utf-8"))
    scores = Scores.from_json(before)
    after = json.loads(json.dumps(scores.to_json()))
    assert after["data"].pop("languages") == []  # newer than these files
    assert after == before
    assert json.dumps(Scores.from_json(scores.to_json()).to_json()) == json.dumps(scores.to_json())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_of_a_comparison_has_n_seed_and_interval(path):
    scores = Scores.from_json(json.loads(path.read_text("utf-8")))
    numbers: list[Score | Gain] = [scores.fitted, *scores.baselines.values(), *scores.gains.values()]
    assert len(numbers) >= 3
    for number in numbers:
        assert number.n == scores.data.n_test
        assert number.seed == 0
        assert number.interval is not None
        low, high = number.interval
        assert low <= high


def test_parts_are_typed():
    entities, regression = Scores.from_json(read("entities")), Scores.from_json(read("regression"))
    assert entities.details.counted in ("entities", "words")
    assert entities.details.per_label[0].n > 0
    assert entities.curve[0].step == 0
    assert entities.truncation is not None
    assert entities.truncation.train is not None
    assert entities.truncation.train.n_rows == entities.data.n_train
    scatter, groups = regression.details.scatter, Scores.from_json(read("question-answering")).details.groups
    assert scatter is not None
    assert len(scatter.gold) == len(scatter.predicted) == 5
    assert groups is not None
    assert groups.by == "question word"
    assert Scores.from_json(read("linear-probe")).kept is None


def test_what_a_task_adds_to_its_details_is_kept():
    scores = Scores.from_json(LEAST | {"details": {"thresholds": {"a": 0.4}}})
    assert scores.details.other == {"thresholds": {"a": 0.4}}
    assert scores.to_json()["details"]["thresholds"] == {"a": 0.4}


def test_the_least_file_is_read():
    scores = Scores.from_json(LEAST | {"a key of another version": 1})
    assert (scores.fitted.value, scores.fitted.n, scores.fitted.seed, scores.fitted.interval) == (0.5, 8, None, None)
    assert not scores.baselines
    assert scores.cost.train_seconds is None


@pytest.mark.parametrize(("values", "message"), [
    ({"metric": "accuracy", "score": 1.0}, r"a/scores\.json: has no n_test"),
    (LEAST | {"format": 2}, r"a/scores\.json: has format 2; this version reads 1"),
])
def test_what_is_no_certificate_is_named(values, message):
    with pytest.raises(ArtifactError, match=message):
        Scores.from_json(values, "a/scores.json")
