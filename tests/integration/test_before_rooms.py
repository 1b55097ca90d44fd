"""Files that the version before the folders wrote are still read: runs, an exported run, a Spec, the cache, answers.

tests/data/before_rooms/make.py says how they were made.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import transformers

import headstart
from headstart.cli import main
from headstart.core.spec import Spec

FILES = Path(__file__).parent.parent / "data" / "before_rooms"
RUNS = ["text-classification", "token-classification", "sentence-similarity", "exported"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of the files, and the working directory: their Specs name what lies beside them."""
    copy = shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HEADSTART_CACHE", str(copy / "cache"))
    return copy


def run_cli(monkeypatch, *arguments: str) -> int:
    """Run a verb in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["headstart", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def assert_close(value: object, expected: object) -> None:
    """Equal; floats to rounding between machines."""
    if isinstance(expected, dict):
        assert isinstance(value, dict)
        assert value.keys() == expected.keys()
        for key in expected:
            assert_close(value[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(value, list)
        assert len(value) == len(expected)
        for pair in zip(value, expected, strict=True):
            assert_close(*pair)
    else:
        assert value == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_answers_as_it_did(folder, name):
    loaded = headstart.load(folder / name)
    golden = [json.loads(line) for line in (folder / name / "golden.jsonl").read_text("utf-8").splitlines()]
    assert len(golden) >= 6
    assert_close(loaded.predict([line["row"] for line in golden]), [line["prediction"] for line in golden])
    assert loaded.spec.data.max_tokens == 32


@pytest.mark.parametrize("name", RUNS)
def test_its_scores_become_a_report(folder, name, monkeypatch):
    assert run_cli(monkeypatch, "report", name) == 0
    scores = json.loads((folder / name / "scores.json").read_text("utf-8"))
    page = (folder / name / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert scores["backbone"] in page
    assert f"{100 * scores['score']:.1f}" in (folder / name / "report.md").read_text("utf-8")


def cache_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("cache/*/*") if path.suffix in (".npy", ".bin")}


def as_before(spec: Spec) -> Spec:
    """Without the options that came since."""
    task, method = ({key: value for key, value in part.items() if key != since}
                    for part, since in ((spec.task, "metric"), (spec.method, "encoder")))
    return spec.model_copy(update={"task": task, "method": method})


def test_its_spec_is_fitted_from_the_cache_it_left(folder):
    scores = json.loads((folder / "text-classification" / "scores.json").read_text("utf-8"))
    if scores["versions"]["transformers"] != transformers.__version__:
        pytest.skip("the cache holds what another version of transformers computed")
    before = cache_files(folder)
    assert len(before) == 6  # activations, features, solved heads: values and where they stand
    again = headstart.fit("spec.yaml", out="again")
    assert cache_files(folder) == before
    assert again.scores["score"] == scores["score"]
    assert as_before(again.spec) == headstart.load("text-classification").spec


def test_the_resolved_spec_of_a_run_is_a_spec(folder):
    for name in RUNS[:3]:
        again = headstart.fit(folder / name / "spec.yaml", out=f"again-{name}", train={"max_steps": 1})
        loaded = headstart.load(folder / name).spec
        assert as_before(again.spec).model_copy(update={"train": loaded.train}) == loaded


def test_answers_that_were_interrupted_are_finished(folder, monkeypatch):
    kept = (folder / "answers.jsonl.partial").read_text("utf-8")
    assert kept.count("\n") == 7
    arguments = "predict", "text-classification", "reviews.csv", "--out", "answers.jsonl"
    assert run_cli(monkeypatch, *arguments) == 2
    assert run_cli(monkeypatch, *arguments, "--resume") == 0
    answers = (folder / "answers.jsonl").read_text("utf-8")
    assert answers.startswith(kept)
    assert answers.count("\n") == 60


def test_an_unfinished_comparison_is_not_gone_on_with(folder, monkeypatch, capsys):
    """It did not note its backbone, so nobody knows whether what follows would be on the same one."""
    before = {path: path.read_bytes() for path in (folder / "compared").rglob("*") if path.is_file()}
    assert run_cli(monkeypatch, "compare", "spec.yaml", "--methods", "linear-probe,bitfit", "--seeds", "1",
                   "--out", "compared", "--resume") == 2
    assert "begun by an earlier headstart" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in (folder / "compared").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != "lock"} == before
