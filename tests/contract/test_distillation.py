"""Every task that answers learns from a teacher: from a file to an artifact that is exported, stopped and gone on with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

import headstart
from headstart import tasks

TEXTS = ("text", "question", "context")


def rows_of(kind, n=12, word=""):
    """The task's examples, a dozen times with other texts."""
    columns = {column for row in kind.examples for column in row}
    return [{**dict.fromkeys(columns), **row, **{c: f"{row[c]} {word}{i}" for c in ("text", "question") if c in row}}
            for i in range(n) for row in kind.examples]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def student_spec(source, model, teacher, **fields):
    method = {"name": "distillation", "teacher": str(teacher), **fields.pop("method", {})}
    return tiny.spec(source, model, method=method, data={"near_duplicate": 1, **fields.pop("data", {})},
                     train={"epochs": 2, **fields.pop("train", {})}, evaluate={"n_resamples": 100}, **fields)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A teacher's backbone: deeper and wider than the student's, of the same vocabulary."""
    return tiny.backbone(tmp_path_factory.mktemp("big"), hidden_size=48, num_hidden_layers=4, seed=1)


@pytest.mark.parametrize("name", tiny.ANSWERING)
def test_every_task_learns_from_a_teacher(name, backbone, big, tmp_path):
    kind = tasks.find(name)
    source = write(tmp_path / "rows.jsonl", rows_of(kind))
    teacher = headstart.fit(tiny.spec(source, big, task=name, data={"near_duplicate": 1}, train={"epochs": 1},
                                      evaluate={"n_resamples": 100}), out=tmp_path / "teacher")
    more = write(tmp_path / "more.jsonl", [kind().without_gold(row) for row in rows_of(kind, 6, "more")])
    run = headstart.fit(student_spec(source, backbone, teacher.folder, task=name, train={"lr": 1e-2, "epochs": 4},
                                     method={"unlabelled": str(more), "match": ["logits", "hidden", "attention"],
                                             "ablation": True}), out=tmp_path / "student")
    steps = [json.loads(line) for line in (run.folder / "steps.jsonl").read_text("utf-8").splitlines()]
    losses = [step["loss"] for step in steps]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    teaching = run.certificate.teaching
    assert teaching.systems.keys() == {"teacher", "student-from-labels", "student-from-teacher",
                                       "without-unlabeled-rows"} == teaching.gains.keys()
    assert teaching.n_unlabeled == 6 * len(kind.examples)
    assert min(teaching.teacher_rows_per_s, teaching.student_rows_per_s, teaching.teacher_bytes) > 0
    assert "student-from-labels" in run.certificate.gains
    assert "Teacher and student" in (run.folder / "report.md").read_text("utf-8")
    blind = [kind().without_gold({k: v for k, v in row.items() if v is not None}) for row in kind.examples]
    assert run.predict(blind) == headstart.load(run.folder).predict(blind)
