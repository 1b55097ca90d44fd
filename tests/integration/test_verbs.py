"""The verbs as a user runs them: fit, predict, evaluate, report; what they print, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import tiny
import yaml
from forked import Command
from typer.testing import CliRunner

import headstart
from headstart.cli.app import app
from headstart.core import files, manifest
from headstart.core.errors import ArtifactError, DataError, HeadstartError


def cli(*arguments: object, stdin: str | bytes = "", code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a verb."""
    found = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if isinstance(found.exception, HeadstartError):
        assert found.exception.exit_code == code, found.exception
        return found.stdout, f"headstart: {found.exception}"
    assert found.exit_code == code, (found.output, found.exception)
    return found.stdout, found.stderr


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def test_fit_prints_the_proof(backbone, reviews, tmp_path):
    stdout, stderr = cli("fit", reviews, "--backbone", backbone, "--out", tmp_path / "run", "--json", "--seed", 3,
                         "--method", "fine-tuning", "--set", "method.head_first=false", "--set", "train.epochs=1",
                         "--set", "train.lr=3e-3", "--set", "evaluate.n_resamples=100")
    found = json.loads(stdout.splitlines()[-1])
    assert found["artifact"] == str(tmp_path / "run")
    assert found["metric"] == "accuracy"
    assert found["interval"][0] <= found["score"] <= found["interval"][1]
    assert list(found["baselines"]) == ["majority", "tf-idf", "before-training", "frozen-backbone"]
    assert found["gain_over"].keys() == found["baselines"].keys()
    assert found["n_test"] == 30
    assert found["train_seconds"] > 0
    assert found["train_tokens_per_s"] > 0
    assert found["peak_rss_mb"] > 50
    assert found["verdict"]
    assert "95 % interval" in stdout
    assert "240 train rows, 30 validation rows, 30 test rows" in stderr
    assert ' is read as text-classification: text from "text", label from "label". To say otherwise: --t' in stderr
    assert "\r" not in stderr  # no bar where there is no terminal
    kept = yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text("utf-8"))
    assert (kept["seed"], kept["train"]["epochs"]) == (3, 1)
    assert "epochs: 1  # --set" in (tmp_path / "run" / "spec.yaml").read_text("utf-8")
    assert "seed: 3  # command line" in (tmp_path / "run" / "spec.yaml").read_text("utf-8")


def test_the_resolved_spec_makes_the_same_run_again(run, tmp_path):
    again = headstart.fit(run / "spec.yaml", out=tmp_path / "again")
    for name in ("model.safetensors", "head.safetensors"):
        assert (again.folder / name).read_bytes() == (run / name).read_bytes()


MEANS = {"wise-ft": r"\d+% of the way from .*", "ema": "the mean of .*", "swa": "the mean of .*",
         "none": "the best trained weights"}


@pytest.mark.parametrize("average", MEANS)
def test_what_is_kept_scores_best_on_validation(backbone, tmp_path, average):
    rows = tiny.rows(300)
    for row in rows[::4]:
        row["label"] = rows[0]["label"]  # noise, so that scores differ
    train, validation = rows[:200], rows[200:]
    data = {"validation": str(tiny.write_csv(tmp_path / "validation.csv", validation))}
    spec = tiny.spec(tiny.write_csv(tmp_path / "train.csv", train), backbone, data=data)
    found = headstart.fit(spec, out=tmp_path / "run", method={"name": "fine-tuning", "average": average})
    kept, curve = found.scores["kept"], found.scores["curve"]
    assert re.fullmatch(f"the first weights|the best trained weights|{MEANS[average]}", kept["what"])
    assert kept["score"] >= max(one["scores"]["accuracy"] for one in curve)
    assert found.evaluate(validation)["score"] == pytest.approx(kept["score"])
    assert [one["is_best"] for one in curve].count(True) == 1


def test_a_soup_is_the_mean_of_trainings_from_the_same_first_weights(backbone, tmp_path):
    """Members differ in the order of rows alone, and each begins with a new optimizer at the start of the schedule."""
    method = {"name": "fine-tuning", "average": "soup", "members": 2}
    train = {"epochs": 2, "patience": 9}
    spec = tiny.spec(tiny.write_csv(tmp_path / "reviews.csv", tiny.rows(300)), backbone, method=method, train=train)
    found = headstart.fit(spec, out=tmp_path / "run")
    curve = found.scores["curve"]
    assert [one["epoch"] for one in curve] == [0, 1, 2, 3, 4]
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text("utf-8").splitlines()]
    assert [one["n"] for one in steps] == list(range(1, curve[-1]["step"] + 1))
    half = curve[2]["step"]
    first, second = steps[:half], steps[half:]
    assert [one["lr"] for one in first] == pytest.approx([one["lr"] for one in second][:half], rel=0.1)
    assert first[0]["loss"] != second[0]["loss"]
    assert abs(first[0]["loss"] - second[0]["loss"]) < abs(first[0]["loss"] - first[-1]["loss"])
    assert found.scores["kept"]["what"] in ("the first weights", "the mean of the best weights of each training")
    if found.scores["kept"]["what"] != "the first weights":
        marked, *others = sorted(curve[1:], key=lambda one: (-one["scores"]["accuracy"], one["step"]))
        assert (marked["is_best"], any(one["is_best"] for one in others)) == (True, False)


def test_predict_answers_every_row_in_order(run, tmp_path):
    rows = tiny.rows(50, seed=5)
    path = tiny.write_csv(tmp_path / "new.csv", [{"id": str(i), "text": r["text"]} for i, r in enumerate(rows)])
    stdout, _ = cli("predict", run, path)
    answers = [json.loads(line) for line in stdout.splitlines()]
    assert len(answers) == 50
    assert all(sum(a["scores"].values()) == pytest.approx(1, abs=1e-4) for a in answers)
    assert [a["label"] for a in answers] == [a["label"] for a in headstart.load(run).predict([r["text"] for r in rows])]
    cli("predict", run, path, "--out", tmp_path / "out" / "answers.jsonl")
    assert (tmp_path / "out" / "answers.jsonl").read_text("utf-8") == stdout
    _, stderr = cli("predict", run, path, "--out", tmp_path / "out" / "answers.jsonl", code=2)
    assert "exists already" in stderr
    assert "--overwrite" in stderr
    stdout, _ = cli("predict", run, path, "--out", tmp_path / "out" / "answers.jsonl", "--overwrite", "--json")
    assert json.loads(stdout) == {"out": str(tmp_path / "out" / "answers.jsonl"), "n_rows": 50}


def test_predict_reads_stdin_as_lines_or_json(run):
    expected = headstart.load(run).predict(["the lovely room", "the dull film"])
    stdout, _ = cli("predict", run, "-", stdin="the lovely room\nthe dull film\n")
    assert [json.loads(line) for line in stdout.splitlines()] == expected
    stdout, _ = cli("predict", run, stdin='{"text": "the lovely room"}\n{"text": "the dull film"}\n')
    assert [json.loads(line) for line in stdout.splitlines()] == expected


def test_predict_ignores_gold_and_reads_other_column_names(backbone, tmp_path):
    said = [{"review": r["text"], "stars": r["label"]} for r in tiny.rows(120)]
    data = tiny.write_csv(tmp_path / "a.csv", said)
    spec = tiny.spec(data, backbone, data={"columns": {"text": "review", "label": "stars"}})
    headstart.fit(spec, out=tmp_path / "run")
    by_own_name, _ = cli("predict", tmp_path / "run", data)
    other = tiny.write_csv(tmp_path / "b.csv", [{"text": r["review"]} for r in said])
    assert cli("predict", tmp_path / "run", other)[0] == by_own_name
    assert len(cli("predict", tmp_path / "run", "-", stdin="the lovely room\n")[0].splitlines()) == 1


def test_evaluate(run, tmp_path):
    path = tiny.write_csv(tmp_path / "test.csv", tiny.rows(60, seed=9))
    found = json.loads(cli("evaluate", run, path, "--json")[0].splitlines()[-1])
    assert found["n"] == 60
    assert found["interval"][0] <= found["score"] <= found["interval"][1]
    assert found["score"] == found["scores"]["accuracy"] > 0.8
    cli("evaluate", run, path, "--out", tmp_path / "scores.json", "--seed", 9)
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["score"] == found["score"]
    assert "--overwrite" in cli("evaluate", run, path, "--out", tmp_path / "scores.json", code=2)[1]


def test_evaluate_refuses_a_label_it_does_not_know(run, tmp_path):
    path = tiny.write_csv(tmp_path / "test.csv", [*tiny.rows(4), {"text": "so so", "label": "neutral"}])
    _, stderr = cli("evaluate", run, path, code=2)
    assert '"label" is "neutral", which no train row has' in stderr
    assert "This artifact knows: negative, positive" in stderr


def test_report_is_written_again(copy):
    (copy / "report.html").unlink()
    assert json.loads(cli("report", copy, "--json")[0]) == {"report": str(copy / "report.html")}
    assert "certificate" in (copy / "report.html").read_text("utf-8").lower()
    assert manifest.verify(copy) == []


def test_the_notebook_fragment(run):
    assert "<svg" in headstart.load(run)._repr_html_()


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "task.json", "scores.json", "golden.jsonl"])
def test_a_damaged_artifact_does_not_load(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        headstart.load(copy)
    assert f"{name} is damaged (its sha256 is not the manifest's)" in str(caught.value)


@pytest.mark.parametrize("changes", [False, True])
def test_a_folder_that_its_writer_sealed_is_sealed_again_only_if_it_changed(tmp_path, changes):
    with files.write_folder(tmp_path / "out") as folder:
        (folder / "weights").write_text("one")
        manifest.seal(folder)
        time.sleep(0.02)  # clocks of file systems tick in hundredths
        before = (folder / manifest.MANIFEST).stat().st_mtime_ns
        if changes:
            (folder / "weights").write_text("two")
    assert manifest.verify(tmp_path / "out") == []
    assert ((tmp_path / "out" / manifest.MANIFEST).stat().st_mtime_ns > before) == changes


def test_a_missing_file_a_missing_manifest_and_a_path_outside(copy):
    (copy / "config.json").unlink()
    assert manifest.verify(copy) == ["config.json is missing"]
    (copy / "MANIFEST.json").write_text(json.dumps({"format": 1, "sha256": {"../x": "0"}}))
    assert manifest.verify(copy) == ['MANIFEST.json names a path outside the folder: "../x"']
    (copy / "MANIFEST.json").write_text("[]")
    assert manifest.verify(copy) == ['MANIFEST.json holds []; a JSON object is wanted here']


def test_an_artifact_that_answers_otherwise_does_not_load(copy):
    golden = [json.loads(line) for line in (copy / "golden.jsonl").read_text("utf-8").splitlines()]
    assert len(golden) == 10
    golden[3]["prediction"]["scores"]["positive"] = 0.123
    (copy / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)), "utf-8")
    manifest.seal(copy)
    with pytest.raises(ArtifactError) as caught:
        headstart.load(copy)
    assert "golden input 4 was answered" in str(caught.value)


def test_what_is_no_run(tmp_path):
    assert "is not a run's folder." in cli("predict", tmp_path / "nothing", "-", code=2)[1]
    (tmp_path / "half.partial").mkdir()
    assert "--resume" in cli("predict", tmp_path / "half", "-", code=2)[1]


def test_rows_that_cannot_be_answered(run):
    loaded = headstart.load(run)
    for rows, expected in ((["fine", "  "], 'row 2: "text" is empty'), ([{"txt": "a"}], 'row 1: has no "text"'),
                           ([{"text": 3}], 'row 1: "text" is 3, not a string')):
        with pytest.raises(DataError) as caught:
            loaded.predict(rows)
        assert expected in str(caught.value)
    assert loaded.predict([]) == []


def test_texts_of_any_kind_are_answered(run):
    texts = ["a" * 5000, "the " * 5000, "the " * 100_000,
             "房间很干净，服务也好", "שלום עולם", "👩‍👩‍👧 🎉", "\u200b.\u200b", "é" * 3]
    answers = headstart.load(run).predict(texts)
    assert len(answers) == len(texts)
    assert all(sum(answer["scores"].values()) == pytest.approx(1, abs=1e-4) for answer in answers)


def test_answers_do_not_depend_on_company(run):
    loaded = headstart.load(run)
    texts = [r["text"] for r in tiny.rows(40, seed=4)]
    together = loaded.predict(texts)
    for text, answer in list(zip(texts, together, strict=True))[::7]:
        (alone,) = loaded.predict([text])
        assert alone["label"] == answer["label"]
        assert alone["scores"] == pytest.approx(answer["scores"], abs=1e-5)


def test_a_native_head_loads_with_transformers(backbone, reviews, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = headstart.fit(tiny.spec(reviews, backbone, head={"pooling": "native"}), out=tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(made.folder).eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    text = "the lovely room was very warm"
    inputs = {"input_ids": torch.tensor([made.reader.read(text)[0]["input_ids"]])}
    with torch.no_grad():
        theirs = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits.numpy()
    import numpy as np

    ours = made.runtime.logits({"input_ids": inputs["input_ids"].numpy(),
                                "attention_mask": np.ones_like(inputs["input_ids"].numpy())})
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert AutoTokenizer.from_pretrained(made.folder)(text)["input_ids"] == inputs["input_ids"][0].tolist()


def test_a_pooled_artifact_loads_as_an_encoder(run):
    from transformers import AutoModel

    _, report = AutoModel.from_pretrained(run, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize(("rows", "expected"), [
    ([{"text": f"t {i}", "label": "a"} for i in range(30)], 'all rows have the label "a"; a classifier needs at least'),
    ([{"text": f"t {i}", "label": "aA"[i % 2]} for i in range(30)],
     '"A" (15 rows), "a" (15 rows) differ only in case or blanks'),
    ([{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(30)] + [{"text": "x", "label": "c"}],
     '"c" has 1 row and 1 different text; to stand in each of 3 parts it needs 3.'),
])
def test_labels_that_cannot_be(backbone, tmp_path, rows, expected):
    path = tiny.write_csv(tmp_path / "a.csv", rows)
    _, stderr = cli("fit", path, "--backbone", backbone, "--out", tmp_path / "run", code=2)
    assert expected in stderr
    assert not (tmp_path / "run").exists()


def test_labels_of_mixed_types(backbone, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"t {i}", "label": [1, "1"][i % 2]}) + "\n" for i in range(40)))
    _, stderr = cli("fit", path, "--backbone", backbone, "--out", tmp_path / "run", code=2)
    assert "labels have mixed types" in stderr


def test_a_test_label_that_no_train_row_has(backbone, reviews, tmp_path):
    test = tiny.write_csv(tmp_path / "test.csv", [{"text": "so so", "label": "neutral"}])
    _, stderr = cli("fit", reviews, "--backbone", backbone, "--out", tmp_path / "run",
                    "--set", f"data.test={test}", code=2)
    assert f'{test}:2: "label" is "neutral", which no train row has' in stderr


def test_truncation_is_counted(backbone, tmp_path):
    rows = tiny.rows(100)
    long = [{**r, "text": r["text"] + " the" * 60} if i % 4 == 0 else r for i, r in enumerate(rows)]
    made = headstart.fit(tiny.spec(tiny.write_csv(tmp_path / "a.csv", long), backbone, data={"max_tokens": 20}),
                         out=tmp_path / "run")
    found = made.scores["truncation"]
    assert found["max_tokens"] == 20
    assert found["train"]["n_cut"] + found["test"]["n_cut"] <= 25
    assert found["test"]["n_cut"] == found["n_cut"]
    assert found["n_cut"] + found["n_whole"] == found["test"]["n_rows"]
    assert found["train"]["cut_tokens_share"] > 0.3


@pytest.mark.parametrize("settings", [
    {"train": {"tokens_per_micro_batch": 64}}, {"train": {"class_weights": "balanced", "label_smoothing": 0.1}},
    {"train": {"optimizer": "sgd", "lr": 0.1, "schedule": "cosine"}}, {"train": {"schedule": "slanted-triangular"}},
    {"train": {"evaluations_per_epoch": 3, "patience": 1}}, {"train": {"max_steps": 5}}, {"train": {"dropout": 0.3}},
    {"head": {"pooling": "max"}}, {"head": {"pooling": "first"}}, {"evaluate": {"baselines": False}},
    {"method": {"name": "fine-tuning", "head_first": False, "freeze_embeddings": False}},
])
def test_every_setting_makes_a_run(backbone, reviews, tmp_path, settings):
    made = headstart.fit(tiny.spec(reviews, backbone, **settings), out=tmp_path / "run")
    asked = made.spec.model_dump()
    for section, fields in settings.items():
        assert fields.items() <= asked[section].items()
    assert made.scores["cost"]["n_steps"] > 0
    metric, before = made.scores["metric"], made.scores["curve"][0]["scores"]
    assert made.scores["kept"]["score"] >= before[metric]  # whatever was asked for, no step back


def test_errors_reach_the_shell_without_a_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = Command("fit", tmp_path / "nothing.csv")
    stdout, stderr = command.communicate()
    assert command.returncode == 2
    first, message = stderr.split("\n", 1)  # the first line is there before anything is loaded
    assert first == f"fit {tmp_path / 'nothing.csv'} ..."
    assert message.startswith("headstart: ")
    assert "nothing.csv" in message
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not list(tmp_path.glob("runs/*"))  # nothing is in the way of the next try


def test_divergence_exits_3(backbone, reviews, tmp_path):
    _, stderr = cli("fit", reviews, "--backbone", backbone, "--out", tmp_path / "run", "--set", "train.lr=1e30",
                    "--set", "train.optimizer=sgd", "--set", "train.clip_norm=1e30", code=3)
    assert "the weights were not changed." in stderr
    assert not (tmp_path / "run").exists()
