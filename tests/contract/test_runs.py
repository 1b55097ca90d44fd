"""Every task from a file to an artifact that answers: under a method that solves, one that trains, one that adapts."""

from __future__ import annotations

import json

import pytest
import tiny
from cards import rows_of, run_the_card

import headstart
from headstart import tasks

METHODS = ["linear-probe", {"name": "fine-tuning", "last_blocks": 1}, "lora"]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", tiny.ANSWERING)
def test_a_file_becomes_an_artifact_that_answers(name, method, backbone, tmp_path):
    kind = tasks.find(name)
    rows = rows_of(kind)
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    run = headstart.fit(tiny.spec(source, backbone, task=name, method=method, data={"near_duplicate": 1},
                                  train={"epochs": 1}, evaluate={"n_resamples": 100}), out=tmp_path / "run")
    blind = [{k: v for k, v in row.items() if k not in kind().columns.gold} for row in kind.examples]
    answers = run.predict(blind)
    assert answers == headstart.load(tmp_path / "run").predict(blind)
    assert run.evaluate(rows)["n"] == len(rows)
    assert run.scores["baselines"]
    assert kind.name in (run.folder / "report.md").read_text("utf-8")
    run_the_card(run.folder)
