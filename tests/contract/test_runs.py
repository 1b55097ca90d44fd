"""Every task from a file to an artifact that answers: under a method that solves, one that trains, one that adapts."""

from __future__ import annotations

import json
import os
import re

import pytest
import tiny

import headstart
from headstart import tasks

METHODS = ["linear-probe", {"name": "fine-tuning", "last_blocks": 1}, "lora"]


def rows_of(kind):
    """The task's examples, a dozen times with other texts."""
    columns = {column for row in kind.examples for column in row}
    rows = []
    for i in range(12):
        for row in kind.examples:
            changed = {c: f"{v} {i}" if c in ("text", "question") and isinstance(v, str) else v for c, v in row.items()}
            rows.append({**dict.fromkeys(columns), **changed})
    return rows


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


def run_the_card(folder):
    """Run the Python of the model card as a reader would: beside the folder, line by line. Its last line answers."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    before = os.getcwd()
    os.chdir(folder.parent)
    try:
        for block in blocks:
            *lines, last = block.replace("FOLDER", folder.name).strip().splitlines()
            names: dict[str, object] = {}
            exec("\n".join(lines), names)
            if last.startswith("artifact.predict"):
                assert len(eval(last, names)) == 1
            else:
                exec(last, names)
    finally:
        os.chdir(before)
