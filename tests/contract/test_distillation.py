"""Every task that answers learns from a teacher: from a file to an artifact, stopped, gone on with, and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

import headstart
from headstart import methods, tasks
from headstart.core.values import Outputs, collate
from headstart.models import backbone as backbones


def rows_of(kind, n=12, word=""):
    """The task's examples `n` times, each with a word of its own."""
    columns = {column for row in kind.examples for column in row}
    rows = []
    for i in range(n):
        for row in kind.examples:
            changed: dict[str, object] = {c: f"{row[c]} {word}{i}" for c in ("text", "question") if c in row}
            if "tokens" in row:
                changed["tokens"] = [*row["tokens"][:-1], f"{row['tokens'][-1]}{word}{i}"]
            rows.append({**dict.fromkeys(columns), **row, **changed})
    return rows


def write(path: Path, rows) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def student(source, model, teacher, *, method=None, **fields):
    """A Spec of a student of `teacher`."""
    return tiny.spec(source, model, method={"name": "distillation", "teacher": teacher, **(method or {})},
                     data={"near_duplicate": 1, **fields.pop("data", {})},
                     train={"epochs": 2, "precision": "fp32", **fields.pop("train", {})},
                     evaluate={"n_resamples": 100}, **fields)


def weights_of(run) -> bytes:
    folder = Path(getattr(run, "folder", run))
    return (folder / "model.safetensors").read_bytes() + (folder / "head.safetensors").read_bytes()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A teacher's backbone: deeper and wider than the student's, of the same vocabulary."""
    return tiny.backbone(tmp_path_factory.mktemp("big") / "model", hidden_size=48, num_hidden_layers=4, seed=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_csv(tmp_path_factory.mktemp("rows") / "reviews.csv", tiny.rows(80))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Texts without labels, a line each."""
    path = tmp_path_factory.mktemp("more") / "more.txt"
    path.write_text("\n".join(row["text"] for row in tiny.rows(60, seed=9)), "utf-8")
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, big, source):
    spec = tiny.spec(source, big, evaluate={"n_resamples": 100, "baselines": False})
    return str(headstart.fit(spec, out=tmp_path_factory.mktemp("teacher") / "run").folder)


@pytest.mark.parametrize("name", tiny.ANSWERING)
def test_every_task_learns_from_a_teacher(name, backbone, big, tmp_path):
    kind = tasks.find(name)
    source = write(tmp_path / "rows.jsonl", rows_of(kind))
    teacher = headstart.fit(tiny.spec(source, big, task=name, data={"near_duplicate": 1}, train={"epochs": 1},
                                      evaluate={"n_resamples": 100}), out=tmp_path / "teacher")
    more = write(tmp_path / "more.jsonl", [kind().without_gold(row) for row in rows_of(kind, 6, "more")])
    method = {"unlabelled": str(more), "match": ["logits", "hidden", "attention"], "ablation": True}
    run = headstart.fit(student(source, backbone, str(teacher.folder), task=name, train={"lr": 1e-2, "epochs": 4},
                                method=method), out=tmp_path / "student")
    losses = [json.loads(line)["loss"] for line in (run.folder / "steps.jsonl").read_text("utf-8").splitlines()]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    teaching = run.scores["teaching"]
    assert teaching["systems"].keys() == {"teacher", "student-from-labels", "student-from-teacher",
                                          "without-unlabeled-rows"} == teaching["gains"].keys()
    assert teaching["n_unlabeled"] == 6 * len(kind.examples)
    assert min(teaching["teacher_rows_per_s"], teaching["student_rows_per_s"], teaching["teacher_bytes"]) > 0
    assert "student-from-labels" in run.scores["gain_over"]
    assert "Teacher and student" in (run.folder / "report.md").read_text("utf-8")
    blind = [kind().without_gold({k: v for k, v in row.items() if v is not None}) for row in kind.examples]
    assert run.predict(blind) == headstart.load(run.folder).predict(blind)
    assert headstart.export(run.folder, out=tmp_path / "exported").certificate.teaching == run.certificate.teaching


@pytest.mark.parametrize("name", [name for name in tiny.ANSWERING if not tasks.find(name).compares_rows])
def test_losses_of_pieces_are_that_of_the_whole(name, backbone):
    kind = tasks.find(name)
    task = kind().learn(kind.examples)
    loaded = backbones.load_backbone(str(backbone), 64)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    method = methods.build({"name": "distillation", "teacher": "x", "weight": 0.3})
    rows = [row if i % 2 else task.placeholder(task.without_gold(row)) for i, row in enumerate(kind.examples)]
    windows = [task.encode(i, row, loaded.reader) for i, row in enumerate(rows)]
    rng = np.random.default_rng(0)

    def loss(chosen):
        some = [w for i in chosen for w in windows[i]]
        batch = collate({k: [w.inputs[k] for w in some] for k in some[0].inputs},
                        {k: [w.target[k] for w in some] for k in some[0].target}, loaded.reader.pad_id)
        target = {k: torch.from_numpy(a) for k, a in batch.target.items()}
        outputs = Outputs(model({k: torch.from_numpy(a) for k, a in batch.inputs.items()}).logits)
        lines = [noise[i][: len(w)] if outputs.logits.ndim == 3 else noise[i][0] for i in chosen for w in windows[i]]
        logits = collate({"x": [[0]]}, {"teacher_logits": lines}, 0).target["teacher_logits"]
        target |= {"teacher_logits": torch.from_numpy(logits), "is_labeled": torch.tensor(
            [i % 2 for i in chosen for _ in windows[i]])}
        return method.loss(task, outputs, target)

    noise = rng.normal(size=(len(rows), 64, task.n_outputs)).astype(np.float32)
    model.eval()
    summed, count = loss(range(len(rows)))
    pieces = [loss([i]) for i in range(len(rows))]
    torch.testing.assert_close(summed, sum(piece for piece, _ in pieces))
    assert count == sum(n for _, n in pieces) > 0


class Dies:
    """A program that fits a Spec and is killed, as by the system, when its progress says a line for the nth time."""

    CODE = """
import os, signal, sys, headstart
from headstart.core.progress import Progress
class Kills(Progress):
    left = int(sys.argv[4])
    def say(self, line):
        if line.startswith(sys.argv[3]):
            Kills.left -= 1
            if not Kills.left:
                os.kill(os.getpid(), signal.SIGKILL)
headstart.fit(sys.argv[1], out=sys.argv[2], progress=Kills(quiet=True), resume=len(sys.argv) > 5)
"""

    @classmethod
    def run(cls, *arguments) -> int:
        return subprocess.run([sys.executable, "-c", cls.CODE, *map(str, arguments)], capture_output=True).returncode


def test_killed_while_it_learns_and_in_its_ablation_it_goes_on_to_the_same_bits(backbone, source, more, teacher,
                                                                               tmp_path):
    fields = student(source, backbone, teacher, method={"unlabelled": str(more), "match": ["logits", "hidden"]},
                     train={"evaluations_per_epoch": 2, "patience": 99})
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(fields), "utf-8")
    whole = headstart.fit(spec, out=tmp_path / "whole")
    out = tmp_path / "run"
    assert Dies.run(spec, out, "epoch 1:", 1) == -9
    assert Dies.run(spec, out, "epoch 2:", 2, "--resume") == -9  # the student's, then that of labels alone
    resumed = headstart.fit(spec, out=out, resume=True)
    assert weights_of(resumed) == weights_of(whole)
    for name in ("score", "baselines", "gain_over"):
        assert resumed.scores[name] == whole.scores[name]
    assert resumed.scores["teaching"]["gains"] == whole.scores["teaching"]["gains"]


def test_answers_are_kept_for_other_students_and_change_nothing(backbone, source, more, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    # A head that is solved on stored features may differ in its last bits from one solved on others' batches.
    spec = student(source, backbone, teacher, method={"unlabelled": str(more), "ablation": False, "head_first": False})

    def kept():
        return sorted((path.name, path.stat().st_size) for path in (tmp_path / "cache").glob("*-teacher-*/*.bin"))

    first = headstart.fit(spec, out=tmp_path / "first")
    assert (segments := kept())
    again = headstart.fit(spec, out=tmp_path / "again")
    headstart.fit({**spec, "seed": 1, "data": {**spec["data"], "limit": 40}}, out=tmp_path / "seed")
    other = tiny.backbone(tmp_path / "other", num_hidden_layers=1)
    headstart.fit({**spec, "backbone": str(other)}, out=tmp_path / "other-student")
    assert kept() == segments  # all texts were known
    off = headstart.fit({**spec, "cache": "off"}, out=tmp_path / "off")
    assert weights_of(first) == weights_of(again) == weights_of(off)
