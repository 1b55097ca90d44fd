"""What a student is told, what it is not, and what cannot be."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import headstart
from headstart import methods, tasks
from headstart.core.errors import HeadstartError, SpecError
from headstart.core.progress import Progress
from headstart.core.values import IGNORE, Outputs
from headstart.methods.distillation import attention_loss, hidden_loss, soft_loss
from headstart.models.runtime import TorchRuntime
from headstart.tasks.multi_label_classification import MultiLabelClassification
from headstart.tasks.relation_extraction import RelationExtraction
from headstart.tasks.text_classification import TextClassification
from headstart.tasks.text_regression import TextRegression
from headstart.training.lessons import first


class Listens(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_csv(tmp_path_factory.mktemp("rows") / "reviews.csv", tiny.rows(80))


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    return tiny.backbone(tmp_path_factory.mktemp("big") / "model", hidden_size=48, num_hidden_layers=3, seed=1)


def fitted(out, source, model, **fields):
    spec = tiny.spec(source, model, evaluate={"n_resamples": 100, "baselines": False}, **fields)
    return str(headstart.fit(spec, out=out).folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, big, source):
    return fitted(tmp_path_factory.mktemp("teacher") / "run", source, big)


def spec(source, model, teacher, **method):
    return tiny.spec(source, model, method={"name": "distillation", "teacher": teacher, "ablation": False, **method},
                     train={"epochs": 1}, evaluate={"n_resamples": 100})


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_soft_loss_is_the_divergence_times_the_temperature_squared():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(5, 3, generator=rng) for _ in range(2))
    p, q = (torch.softmax(scores / 2, -1) for scores in (theirs, ours))
    torch.testing.assert_close(soft_loss(ours, theirs, 2.0), 4 * (p * (p / q).log()).sum())
    assert soft_loss(ours, ours + 7, 2.0).abs() < 1e-5  # a constant changes no distribution
    torch.testing.assert_close(soft_loss(ours[:, :1], theirs[:, :1], 2.0), (ours - theirs)[:, 0].square().sum())


def test_closed_places_tell_nothing():
    ours, theirs = torch.tensor([[1.0, torch.finfo().min]]), torch.tensor([[3.0, torch.finfo().min]])
    ours.requires_grad_()
    loss = soft_loss(ours, theirs, 1.0)
    loss.backward()
    assert loss == 0
    assert ours.grad is not None
    assert torch.isfinite(ours.grad).all()


def test_padding_is_not_matched():
    hidden = torch.randn(2, 3, 4)
    wanted = torch.full((2, 3, 1, 4), float(IGNORE))
    wanted[0], wanted[1, :2] = hidden[0][:, None] + 2, hidden[1, :2][:, None]
    torch.testing.assert_close(hidden_loss((hidden,), wanted), torch.tensor(4.0))
    attention = torch.softmax(torch.randn(2, 3, 4, 4), -1)
    lines = torch.full((2, 16), float(IGNORE))
    lines[0], lines[1, :4] = attention[0].mean(0).flatten(), torch.tensor([0.5, 0.5, 0.5, 0.5])
    alone = attention_loss(attention[1:], lines[1:])
    torch.testing.assert_close(attention_loss(attention, lines), alone)
    assert alone > 0


def test_all_of_the_weight_on_one_side_leaves_the_other_unread():
    task = tasks.find("text-classification")().learn([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    outputs = Outputs(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    target = {"label": torch.tensor([0, 1]), "is_labeled": torch.tensor([1, 1]),
              "teacher_logits": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    method = methods.build({"name": "distillation", "teacher": "x", "weight": 1})
    other = {**target, "label": torch.tensor([1, 0])}
    assert method.loss(task, outputs, target) == method.loss(task, outputs, other)
    alone, reads_unlabeled = method.ablations()["student-from-labels"]
    assert not reads_unlabeled
    assert alone.loss(task, outputs, target)[0] == task.loss(outputs.logits, {"label": target["label"]})[0]


# ---- the teacher -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TextClassification, MultiLabelClassification, RelationExtraction])
def test_labels_are_matched_by_name(kind):
    task = kind().learn(kind.examples)
    teacher = replace(task, labels=task.labels[::-1])
    logits = np.arange(len(task.labels), dtype=np.float32)[None]
    assert task.from_teacher(teacher, logits).tolist() == logits[:, ::-1].tolist()
    with pytest.raises(SpecError, match="other labels"):
        task.from_teacher(replace(task, labels=(*task.labels[1:], "unheard of")), logits)


def test_numbers_are_told_on_the_scale_of_the_student():
    task, teacher = TextRegression(mean=3.0, spread=2.0), TextRegression(mean=1.0, spread=4.0)
    assert task.from_teacher(teacher, np.array([[0.5]])).tolist() == [[(0.5 * 4 + 1 - 3) / 2]]


def test_an_exported_teacher_teaches_what_the_run_does(backbone, source, teacher, tmp_path):
    headstart.export(teacher, out=tmp_path / "onnx")
    runs = [headstart.fit(spec(source, backbone, str(folder)), out=tmp_path / f"student-{i}")
            for i, folder in enumerate((teacher, tmp_path / "onnx"))]
    texts = [row["text"] for row in tiny.rows(20, seed=5)]
    for ours, theirs in zip(*(run.predict(texts) for run in runs), strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-3)
    with pytest.raises(SpecError, match="is exported: it tells its logits alone"):
        headstart.fit(spec(source, backbone, str(tmp_path / "onnx"), match=["hidden"]), out=tmp_path / "x")


def test_several_teachers_are_their_mean_and_none_is_left_in_memory(backbone, source, teacher, tmp_path):
    other = fitted(tmp_path / "other", source, tiny.backbone(tmp_path / "model", seed=3))

    class Counts(Progress):
        n_teachers: list[int] = []  # noqa: RUF012

        def say(self, line):
            if line.startswith("epoch"):
                self.n_teachers.append(sum(type(value) is TorchRuntime for value in gc.get_objects()))

    gc.collect()
    before = sum(type(value) is TorchRuntime for value in gc.get_objects())
    run = headstart.fit(spec(source, backbone, [teacher, other]), out=tmp_path / "student", progress=Counts(quiet=True))
    assert Counts.n_teachers == [before] * 2
    assert run.scores["teaching"]["teachers"] == [teacher, other]
    assert "mean of 2 teachers" in (run.folder / "report.md").read_text("utf-8")


def test_a_teacher_of_another_vocabulary_reads_rows_but_no_tokens(source, teacher, tmp_path):
    other = tiny.backbone(tmp_path / "model")
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    run = headstart.fit(spec(source, other, teacher), out=tmp_path / "student")
    assert run.scores["teaching"]["kept_share"] > 0
    with pytest.raises(SpecError, match="another tokenizer"):
        headstart.fit(spec(source, other, teacher, match=["logits", "hidden"]), out=tmp_path / "x")


# ---- rows without labels ---------------------------------------------------------------------------------------------


def test_labels_of_unlabelled_rows_are_never_read_and_known_rows_are_left_out(backbone, source, teacher, tmp_path):
    texts = [row["text"] for row in tiny.rows(30, seed=9)]
    known = [row["text"] for row in tiny.rows(80)]
    runs, listens = [], Listens()
    for name, label in (("a", "positive"), ("b", "no such label")):
        more = tiny.write_csv(tmp_path / f"{name}.csv", [{"text": text, "label": label}
                                                         for text in [*texts, *known, texts[0].upper()]])
        fields = spec(source, backbone, teacher, unlabelled=str(more))
        runs.append(headstart.fit(fields, out=tmp_path / f"run-{name}", progress=listens))
    assert runs[0].scores["score"] == runs[1].scores["score"]
    assert (runs[0].folder / "model.safetensors").read_bytes() == (runs[1].folder / "model.safetensors").read_bytes()
    notes = runs[0].scores["data"]["notes"]
    assert notes["n_unlabeled_rows"] == 30
    assert notes["n_unlabeled_rows_left_out_as_in_unlabeled"] == 1
    assert sum(notes[f"n_unlabeled_rows_left_out_as_in_{part}"] for part in ("train", "validation", "test")) == 80
    assert any('"label" there is not read' in line for line in listens.lines)
    assert any("8 rows left out as in test" in line for line in listens.lines)


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_texts_come_from_any_file(suffix, backbone, source, teacher, tmp_path):
    texts = [row["text"] for row in tiny.rows(12, seed=9)]
    more = tmp_path / f"more.{suffix}"
    lines = {"txt": texts, "csv": ["text", *texts], "jsonl": [json.dumps({"text": text}) for text in texts]}[suffix]
    more.write_text("\n".join(lines), "utf-8")
    run = headstart.fit(spec(source, backbone, teacher, unlabelled=str(more)), out=tmp_path / "run")
    assert run.scores["teaching"]["n_unlabeled"] == 12


def test_the_first_windows_of_a_store_are_those(backbone, tmp_path):
    from headstart.core.values import Window
    from headstart.core.windows import store

    windows = store([Window(i, {"input_ids": [1] * (i + 1)}, {"label": i, "teacher_logits": [0.5] * (i + 1)})
                     for i in range(4)], tmp_path / "windows", 0)
    some = first(windows, 2)
    assert len(some) == 2
    assert some.targets()["teacher_logits"].tolist() == [0.5] * 3
    assert some.batch(np.array([1])).target["label"].tolist() == [1]


# ---- what cannot be --------------------------------------------------------------------------------------------------


def bad(tmp_path, source, backbone, teacher):
    """(the method's options, what is said), by name."""
    (tmp_path / "empty.txt").write_text("", "utf-8")
    known = tiny.write_csv(tmp_path / "known.csv", tiny.rows(80))
    other = tiny.write_csv(tmp_path / "other.csv", tiny.rows(60, labels=("one", "two")))
    numbers = [{**row, "score": str(i % 7)} for i, row in enumerate(tiny.rows(60))]
    for row in numbers:
        del row["label"]
    return {
        "missing": ({"teacher": ""}, "method.teacher: is missing"),
        "nowhere": ({"teacher": "no/such"}, "is not the folder of a finished run"),
        "twice": ({"teacher": [teacher, teacher]}, "names a run twice"),
        "not a run": ({"teacher": str(backbone)}, "task.json|manifest|MANIFEST"),
        "labels": ({"teacher": lambda: fitted(tmp_path / "labels", other, backbone)}, "other labels"),
        "task": ({"teacher": lambda: fitted(tmp_path / "numbers", tiny.write_csv(tmp_path / "n.csv", numbers), backbone,
                                            task="text-regression")}, 'answers "text-regression"'),
        "deeper": ({"teacher": lambda: fitted(tmp_path / "flat", source, tiny.backbone(
            tmp_path / "m", num_hidden_layers=1)), "match": ["hidden"]}, "student has 2 blocks, its teacher 1"),
        "nothing matched": ({"match": []}, "must name one or more"),
        "no weight": ({"weight": 0}, "greater than 0"),
        "cold": ({"temperature": 0.5}, "greater than or equal to 1"),
        "empty": ({"unlabelled": str(tmp_path / "empty.txt")}, "is empty"),
        "stream": ({"unlabelled": "-"}, "is standard input"),
        "no file": ({"unlabelled": str(tmp_path / "none.txt")}, "no such file"),
        "nothing new": ({"unlabelled": str(known)}, "holds no row that is not in test, validation, train already"),
    }


@pytest.mark.parametrize("name", ["missing", "nowhere", "twice", "not a run", "labels", "task", "deeper",
                                  "nothing matched", "no weight", "cold", "empty", "stream", "no file",
                                  "nothing new"])
def test_what_cannot_teach_is_an_error_that_says_what_to_do(name, backbone, source, teacher, tmp_path):
    options, words = bad(tmp_path, source, backbone, teacher)[name]
    options = {key: value() if callable(value) else value for key, value in options.items()}
    with pytest.raises(HeadstartError, match=words) as raised:
        headstart.fit(spec(source, backbone, options.pop("teacher", teacher), **options), out=tmp_path / "run")
    assert raised.value.fix
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run.partial").exists()


def test_a_student_never_replaces_its_teacher(backbone, source, tmp_path):
    teacher = fitted(tmp_path / "run", source, backbone)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(HeadstartError, match="is an input of this command"):
        headstart.fit(spec(source, backbone, teacher), out=tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_texts_are_not_distilled(language_model, tmp_path, teacher):
    source = tiny.write_csv(tmp_path / "stories.csv", tiny.stories(40))
    with pytest.raises(SpecError, match="writes texts"):
        headstart.fit({**spec(source, language_model, teacher), "task": "summarization"}, out=tmp_path / "run")
