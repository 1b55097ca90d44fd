"""A backbone that reads on: what it learns, what is proven of it, killed and resumed, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from forked import Command
from safetensors.numpy import load_file

import headstart
from headstart.core import manifest
from headstart.core.errors import DataError, HeadstartError, ModelError, RunFolderError, SpecError
from headstart.core.progress import Progress
from headstart.models.backbone import build_model, load_backbone
from headstart.runs import evidence
from headstart.tasks.objectives import CausalLanguage
from headstart.use.vectors import Extractor

FAST: dict[str, Any] = {"train": {"lr": 1e-2, "epochs": 3, "tokens_per_batch": 256, "tokens_per_micro_batch": None},
                        "evaluate": {"n_resamples": 200}}
OBJECTIVES = ["masked", "causal", "contrastive"]


def sayings(n: int) -> list[str]:
    """Texts in which words follow from others: what is hidden can be told."""
    rng = np.random.default_rng(7)
    pairs = list(zip(tiny.GOOD, tiny.BAD, strict=True))
    out = []
    for i in range(n):
        good, bad = pairs[int(rng.integers(len(pairs)))]
        noun = ("film", "hotel", "phone")[i % 3]
        out.append(f"the {noun} was {good} and the staff was {bad} {'quite' if i % 2 else 'really'} {good} {noun} "
                   f"{tiny.FILL[i % 20]}")
    return out


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(sayings(400)), "utf-8")
    return path


def read_on(texts: Path, backbone: Path, objective: str, out: Path, **options: Any):
    layers = [("test", FAST), ("test", {"data": {"near_duplicate": 1}}), ("test", options.pop("spec", {}))]
    return headstart.pretrain(texts, backbone=str(backbone), objective=objective, out=out, layers=layers, **options)


@pytest.fixture(scope="module")
def made(texts, backbone, language_model, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("backbones")
    return {objective: read_on(texts, language_model if objective == "causal" else backbone, objective,
                               folder / objective, **({"pairs": "crops"} if objective == "contrastive" else {}))
            for objective in OBJECTIVES}


@pytest.mark.parametrize("objective", ["masked", "causal"])
def test_it_reads_such_texts_better(objective, made):
    scores = made[objective].scores
    before = scores.baselines["before-reading"]
    assert scores.fitted.metrics["perplexity"] < before.metrics["perplexity"]
    assert scores.fitted.interval[0] <= scores.fitted.value <= scores.fitted.interval[1]
    assert (scores.fitted.n, scores.fitted.seed) == (40, 0)
    assert scores.verdict_kind == "positive"
    assert scores.verdict.startswith("it reads such texts better: perplexity")
    gain = scores.gains["before-reading"]
    assert gain.interval[0] > 0
    assert gain.p is not None
    assert gain.p < 0.05


def test_the_perplexity_of_a_causal_model_is_that_of_its_folder(made, texts):
    """Measured again by hand, on the folder that was written."""
    folder, scores = made["causal"].folder, made["causal"].scores
    loaded, task = load_backbone(str(folder), 128), CausalLanguage()
    model = build_model(loaded, task, "mean", 0).eval()
    nats, n = 0.0, 0
    for line in texts.read_text("utf-8").splitlines()[:50]:
        for window in task.encode(0, {"text": line}, loaded.reader):
            inputs = {name: torch.tensor([value]) for name, value in window.inputs.items()}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            target = {"labels": torch.tensor([window.target["labels"]])}
            with torch.no_grad():
                summed, count = task.loss(model(inputs).logits, target)
            nats, n = nats + float(summed), n + int(count)
    assert np.exp(nats / n) == pytest.approx(scores.fitted.metrics["perplexity"], rel=0.2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_folder_is_a_backbone_like_any_other(objective, made, backbone, language_model):
    folder = made[objective].folder
    assert manifest.verify(folder) == []
    first = load_backbone(str(language_model if objective == "causal" else backbone), 64)
    now = load_backbone(str(folder), 64)
    assert now.config.to_dict().keys() >= {"model_type", "hidden_size"}
    assert now.reader.ids("the film was lovely") == first.reader.ids("the film was lovely")
    assert now.sha256 != first.sha256
    assert Extractor(str(folder))(["the film"]).shape == (1, 32)
    assert "before-reading" in (folder / "report.md").read_text("utf-8")
    assert json.loads((folder / "scores.json").read_text("utf-8"))["backbone_sha256"] == now.sha256


def test_runs_begin_from_it_and_are_exported(made, reviews, tmp_path):
    run = headstart.fit(tiny.spec(reviews, made["masked"].folder), out=tmp_path / "run")
    exported = headstart.export(tmp_path / "run", out=tmp_path / "onnx")
    assert [a["label"] for a in exported.predict(["a lovely film"])] == [
        a["label"] for a in run.predict(["a lovely film"])]


def test_reading_on_twice_is_reading_on(made, texts, tmp_path):
    again = read_on(texts, made["masked"].folder, "masked", tmp_path / "again", spec={"train": {"max_steps": 3}})
    first = made["masked"].scores.fitted.metrics["perplexity"]
    assert again.scores.baselines["before-reading"].metrics["perplexity"] == pytest.approx(first, rel=0.2)


def test_lora_is_added_to_the_weights(texts, backbone, tmp_path):
    read = read_on(texts, backbone, "masked", tmp_path / "lora", spec={"method": {"name": "lora"},
                                                                      "train": {"max_steps": 5}})
    assert load_file(read.folder / "model.safetensors").keys() == load_file(backbone / "model.safetensors").keys()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_killed_and_resumed_equals_uninterrupted(objective, texts, backbone, language_model, tmp_path):
    """Masks, order and dropout of a step follow from the seed and its number."""
    model = language_model if objective == "causal" else backbone
    arguments = ["pretrain", texts, "--backbone", model, "--objective", objective]
    for assignment in ("train.epochs=3", "train.tokens_per_batch=128", "train.tokens_per_micro_batch=null",
                       "train.checkpoint_every_s=0.02", "data.near_duplicate=1", "evaluate.n_resamples=100",
                       "train.dropout=0.1"):
        arguments += ["--set", assignment]
    whole = Command(*arguments, "--out", tmp_path / "whole")
    _, stderr = whole.communicate(120)
    assert whole.returncode == 0, stderr
    log, options = tmp_path / "cut.partial" / "steps.jsonl", list[str]()
    for n_steps in (8, 30):
        process = Command(*arguments, "--out", tmp_path / "cut", *options)
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > n_steps):
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -9
        options = ["--resume"]
    process = Command(*arguments, "--out", tmp_path / "cut", "--resume")
    _, stderr = process.communicate(120)
    assert process.returncode == 0, stderr
    assert ((tmp_path / "cut" / "model.safetensors").read_bytes()
            == (tmp_path / "whole" / "model.safetensors").read_bytes())
    losses = [[json.loads(line)["loss"] for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
              for name in ("cut", "whole")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "cut.partial").exists()


def test_what_is_finished_is_not_done_again(made, texts, backbone):
    folder = made["masked"].folder
    before = (folder / "scores.json").stat().st_mtime_ns
    again = read_on(texts, backbone, "masked", folder, resume=True)
    assert again.scores.verdict == made["masked"].scores.verdict
    assert (folder / "scores.json").stat().st_mtime_ns == before
    with pytest.raises(RunFolderError, match="finished already, and of another Spec"):
        read_on(texts, backbone, "masked", folder, resume=True, spec={"train": {"lr": 0.5}})


def test_probe_and_proof_stand_in_the_certificate(texts, backbone, reviews, tmp_path):
    spec = tmp_path / "spec.yaml"
    fields = tiny.spec(reviews, backbone, train={"max_steps": 5})
    spec.write_text(yaml.safe_dump(fields), "utf-8")
    read = read_on(texts, backbone, "masked", tmp_path / "out", probe=str(reviews), proof=str(spec),
                   spec={"train": {"max_steps": 5}})
    probe, proof = read.scores.downstream
    assert (probe.kind, probe.method) == ("probe", "linear-probe")
    assert (proof.kind, proof.method) == ("proof", "fine-tuning")
    assert proof.gain.difference == pytest.approx(proof.after.value - proof.before.value)
    assert proof.gain.n == 30
    assert read.scores.verdict_kind in ("undecided", "positive", "negative")
    assert "points of accuracy" in read.scores.verdict
    page = (read.folder / "report.md").read_text("utf-8")
    assert "## Downstream" in page
    assert str(spec) in page


@pytest.mark.parametrize(("shift", "kind", "words"), [(-0.5, "positive", "better"), (0.5, "negative", "worse"),
                                                      (0.0, "undecided", "no proof")])
def test_held_out_texts_are_judged_by_a_paired_interval(shift, kind, words):
    rng = np.random.default_rng(0)
    n_tokens_N = rng.integers(5, 20, 200)
    before_N2 = np.column_stack([n_tokens_N * rng.normal(3, 0.5, 200), n_tokens_N])
    after_N2 = before_N2 + np.column_stack([n_tokens_N * (shift + rng.normal(0, 0.1, 200)), np.zeros(200)])
    scores = evidence.certify_texts(after_N2, before_N2, 500, 0)
    assert scores.verdict_kind == kind
    assert words in scores.verdict
    gain, fitted = scores.gains["before-reading"], scores.fitted
    assert gain.difference == pytest.approx(fitted.value - scores.baselines["before-reading"].value)
    assert fitted.metrics["perplexity"] == pytest.approx(np.exp(after_N2[:, 0].sum() / n_tokens_N.sum()))
    again = evidence.certify_texts(after_N2, before_N2, 500, 0)
    assert again == scores


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(error: type[HeadstartError], words: str, texts: Path, backbone: Path, out: Path, objective: str = "masked",
            **options: Any) -> HeadstartError:
    with pytest.raises(error, match=words) as raised:
        read_on(texts, backbone, objective, out, **options)
    assert raised.value.where or isinstance(raised.value, DataError)
    assert raised.value.fix
    assert not out.exists()
    return raised.value


@pytest.fixture
def write(tmp_path):
    def write(*lines: str) -> Path:
        path = tmp_path / "few.txt"
        path.write_text("\n".join(lines), "utf-8")
        return path

    return write


def test_no_texts_and_too_few(backbone, tmp_path, write):
    refused(DataError, "holds no|no rows|empty", write(""), backbone, tmp_path / "out")
    refused(DataError, "has 3 texts; reading on takes 30", write("the film was", "it was good", "we found it"),
            backbone, tmp_path / "out")


def test_texts_of_single_words(backbone, tmp_path, write):
    words = [f"word{i}" for i in range(60)]
    raised = refused(DataError, "long enough to ask anything of", write(*words), backbone, tmp_path / "out")
    assert "longer texts" in raised.fix
    refused(DataError, "of which a pair could be made", write(*words), backbone, tmp_path / "out", "contrastive")


def test_objectives_that_are_none_or_cannot_be(texts, backbone, language_model, tmp_path):
    raised = refused(SpecError, 'did you mean "masked"', texts, backbone, tmp_path / "out", "maskd")
    refused(SpecError, "needs a model that writes", texts, backbone, tmp_path / "out", "causal")
    refused(SpecError, "in both directions", texts, language_model, tmp_path / "out", "masked")
    refused(SpecError, "none; ", texts, backbone, tmp_path / "out", "contrastive", pairs="cropz")
    raised = refused(SpecError, "tells a text from itself by dropout", texts, backbone, tmp_path / "out", "contrastive",
                     spec={"train": {"dropout": 0.0}})
    assert "--pairs crops" in raised.fix
    with pytest.raises(SpecError, match=r"task\.share: 2 is not allowed"):
        read_on(texts, backbone, "masked", tmp_path / "out", spec={"task": {"name": "masked", "share": 2}})


def test_what_it_reads_and_writes_is_checked_first(texts, backbone, run, tmp_path):
    refused(ModelError, "nowhere|is neither", texts, tmp_path / "nowhere", tmp_path / "out")
    missing = str(tmp_path / "missing.yaml")
    refused(SpecError, "missing|cannot be read|is not there", texts, backbone, tmp_path / "out", proof=missing)
    with pytest.raises(RunFolderError, match="already"):
        read_on(texts, backbone, "masked", run)


def test_labels_in_the_file_are_never_read(backbone, reviews, tmp_path):
    """The same texts, other labels: the same backbone."""
    other = tiny.write_csv(tmp_path / "other.csv", [{**row, "label": "x"} for row in tiny.rows(300)])
    digests = {load_backbone(str(read_on(source, backbone, "masked", tmp_path / source.stem,
                                         spec={"train": {"max_steps": 3}}).folder), 64).sha256
               for source in (reviews, other)}
    assert len(digests) == 1


def test_texts_that_are_tested_on_later_are_left_out(backbone, reviews, tmp_path, capsys):
    """The very file that the proof is of: its test rows are not read, and that is counted."""
    read = read_on(reviews, backbone, "masked", tmp_path / "out", proof=str(reviews), progress=Progress(),
                   spec={"train": {"max_steps": 3}, "data": {"near_duplicate": 0.8}})
    assert read.scores.data.notes["n_texts_of_test_rows"] == 30
    err = capsys.readouterr().err
    assert "30 of 300 train texts stand in test rows" in err
    assert 'never read: "label"' in err


def test_the_command_line(texts, backbone, tmp_path, cli):
    out, _ = cli("pretrain", texts, "--backbone", backbone, "--objective", "masked", "--out", tmp_path / "out", "--set",
                 "train.max_steps=3", "--set", "evaluate.n_resamples=100", "--json")
    summary = json.loads(out.splitlines()[-1])
    assert summary["artifact"] == str(tmp_path / "out")
    assert summary["metric"] == "likelihood"
    assert "perplexity" in out
    cli("pretrain", texts, "--backbone", backbone, "--objective", "nothing", "--out", tmp_path / "x", rc=2)
