"""Several runs as one: what it is worth, what it is made of, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file
from served import Server

import headstart
from headstart.core import manifest
from headstart.core.errors import ArtifactError, DataError, HeadstartError, RunFolderError, SpecError
from headstart.core.predict import is_close
from headstart.core.statistics import paired
from headstart.runs import ensemble_folder
from headstart.use.vectors import Extractor

ROWS = ["lovely staff", "a dull and rude film", "music"]


@pytest.fixture(scope="module")
def adapter_run(backbone, reviews, tmp_path_factory) -> Path:
    """A third run on the same rows: its adapter lies beside the backbone."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    headstart.fit(tiny.spec(reviews, backbone, method={"name": "lora", "alone": True}, train={"epochs": 1}), out=out)
    return out


@pytest.fixture(scope="module")
def pair(run, other_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ensembles") / "pair"
    headstart.ensemble([run, other_run], out=out)
    return out


def probabilities(folder: Path) -> np.ndarray:
    return np.array([list(answer["scores"].values()) for answer in headstart.load(folder).predict(ROWS)])


def test_the_mean_is_the_mean_of_the_members_probabilities(pair, run, other_run):
    expected = (probabilities(run) + probabilities(other_run)) / 2
    assert np.allclose(probabilities(pair), expected, atol=2e-6)


def test_the_certificate_is_of_the_best_member_on_the_same_rows(pair, run, other_run):
    scores, certificate = headstart.load(pair).scores, headstart.load(pair).certificate
    members = certificate.members
    assert [member.name for member in members] == [str(run), str(other_run)]
    best, = (member for member in members if member.is_best)
    assert best.validation == max(member.validation for member in members)
    assert certificate.baselines["best-member"].value == best.test
    outcomes = headstart.load(pair).outcomes()
    task, gain = headstart.load(pair).task, certificate.gains["best-member"]
    again = paired(task, [outcomes["fitted"], outcomes["best-member"]], 200, 0).difference(0, 1)
    assert (gain.difference, gain.interval) == (again.value, again.interval)
    assert "the best single member" in scores["verdict"]
    assert "transfer" not in scores["verdict"]
    own = headstart.load(run)
    assert certificate.fitted.n == own.certificate.fitted.n
    name = "best-member" if members[0].is_best else "member-1"
    assert np.array_equal(outcomes[name], own.outcomes()["fitted"])  # the very rows, in the very order


def test_the_folder_holds_its_members_whole(pair, run):
    assert manifest.verify(pair) == []
    member = headstart.load(pair / "members" / "1")
    assert member.predict(ROWS) == headstart.load(run).predict(ROWS)
    page = (pair / "report.md").read_text("utf-8")
    assert "## Members" in page
    assert str(run) in page
    assert "alone is proven" not in page


def test_damage_in_a_member_is_seen(pair, tmp_path):
    copy = shutil.copytree(pair, tmp_path / "copy")
    weights = copy / "members" / "2" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"members/2/model.safetensors is damaged"):
        headstart.load(copy)


@pytest.mark.parametrize(("change", "words"), [
    ({"members": []}, "at least 1"), ({"format": 9}, "format"), ({"head": {"weight": [[1.0]], "bias": [0.0],
     "strength": 1.0}}, "another shape"), ({"members": "weights"}, "not 1"), ({"members": "more"}, "no run's folder")])
def test_an_ensemble_that_says_what_cannot_be_is_refused(pair, tmp_path, change, words):
    copy = shutil.copytree(pair, tmp_path / "copy")
    facts = ensemble_folder.read_facts(copy)
    entries = facts["members"]
    change = {"weights": {"members": [{**entry, "weight": 0.9} for entry in entries]},
              "more": {"members": [{**entry, "weight": 1 / 3} for entry in [*entries, entries[0]]]},
              }.get(change.get("members") if isinstance(change.get("members"), str) else "", change)
    ensemble_folder.write_facts(copy, facts | change)
    (copy / "report.html").unlink()
    manifest.seal(copy)
    with pytest.raises(ArtifactError, match=words):
        headstart.load(copy)


def test_exports_join_too_and_the_export_of_an_ensemble_needs_no_torch(run, other_run, tmp_path):
    headstart.export(run, out=tmp_path / "run-onnx")
    both = headstart.ensemble([tmp_path / "run-onnx", other_run], out=tmp_path / "both", how="weighted")
    assert sum(member.weight or 0 for member in both.certificate.members) == pytest.approx(1)
    exported = headstart.export(tmp_path / "both", out=tmp_path / "both-onnx")
    assert not list((tmp_path / "both-onnx").rglob("*.safetensors"))
    assert is_close(both.predict(ROWS), exported.predict(ROWS), 1e-3)
    code = (f"import sys, headstart; headstart.load({str(tmp_path / 'both-onnx')!r}).predict(['a film']); "
            "assert not {'torch', 'transformers', 'yaml'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ArtifactError, match="is exported already"):
        headstart.export(tmp_path / "both-onnx", out=tmp_path / "again")


def test_an_ensemble_is_served(pair, tmp_path):
    with Server(tmp_path / "log", [pair]) as server:
        status, answer, _ = server.predict([{"text": text} for text in ROWS])
    assert status == 200
    expected = headstart.load(pair).predict(ROWS)
    assert [a["label"] for a in answer["predictions"]] == [a["label"] for a in expected]


def test_a_soup_is_the_mean_of_the_weights_and_a_plain_run(run, adapter_run, tmp_path):
    soup = headstart.ensemble([run, adapter_run], out=tmp_path / "soup", how="soup")
    assert not (tmp_path / "soup" / "members").exists()
    merged = headstart.ensemble([adapter_run, run], out=tmp_path / "other-order", how="soup")
    assert np.allclose(probabilities(tmp_path / "soup"), probabilities(tmp_path / "other-order"), atol=1e-4)
    heads = [load_file(folder / "head.safetensors") for folder in (run, adapter_run, tmp_path / "soup")]
    for name, of_soup in heads[2].items():
        assert np.allclose(of_soup, (heads[0][name] + heads[1][name]) / 2, atol=1e-6)
    weights = [load_file(folder / "model.safetensors") for folder in (run, tmp_path / "soup")]
    assert weights[0].keys() == weights[1].keys()
    assert soup.spec.method["name"] == merged.spec.method["name"] == "fine-tuning"
    assert headstart.export(tmp_path / "soup", out=tmp_path / "soup-onnx").predict(ROWS)
    again = headstart.ensemble([tmp_path / "soup", run], out=tmp_path / "again")  # a soup can be a member
    assert again.certificate.members[0].method == "fine-tuning"


def test_a_greedy_soup_is_never_worse_on_validation_than_its_best_member(run, other_run, adapter_run, tmp_path):
    soup = headstart.ensemble([run, other_run, adapter_run], out=tmp_path / "soup", how="greedy-soup")
    certificate = soup.certificate
    assert certificate.kept is not None
    assert certificate.kept.score >= max(member.validation for member in certificate.members)
    kept = [member.weight for member in certificate.members if member.weight]
    assert kept == [1 / len(kept)] * len(kept)


@pytest.mark.parametrize("how", ["task-arithmetic", "ties"])
def test_sums_of_changes(how, other_run, adapter_run, tmp_path):
    made = headstart.ensemble([other_run, adapter_run], out=tmp_path / "made", how=how)
    assert made.evaluate([{"text": "a lovely film", "label": "positive"}])["n"] == 1
    assert made.certificate.kept is not None
    assert "times" in made.certificate.kept.what


def test_what_is_taken_away_is_gone(run, other_run, adapter_run, backbone, tmp_path):
    """Two members and both taken away again: what is left is the backbone."""
    made = headstart.ensemble([other_run, adapter_run], out=tmp_path / "made", how="task-arithmetic",
                              subtract=[other_run, adapter_run])
    left, first = (load_file(folder / "model.safetensors") for folder in (made.folder, backbone))
    shared = left.keys() & first.keys()
    assert len(shared) > 20
    assert all(np.allclose(left[name], first[name], atol=1e-5) for name in shared)


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(error: type[HeadstartError], words: str, runs: list, out: Path, **options: Any) -> HeadstartError:
    """The four parts of an error that names where, and nothing is written."""
    with pytest.raises(error, match=words) as raised:
        headstart.ensemble(runs, out=out, **options)
    assert raised.value.where
    assert raised.value.fix
    assert not out.exists()
    return raised.value


@pytest.fixture(scope="module")
def strangers(run, backbone, reviews, tmp_path_factory) -> dict[str, Path]:
    """Runs that do not fit `run`, each in its own way."""
    place = tmp_path_factory.mktemp("strangers")
    relabeled = tiny.write_csv(place / "relabeled.csv", tiny.rows(300, labels=("negative", "neutral")))
    numbers = tiny.write_csv(place / "numbers.csv", [{"text": row["text"], "score": str(len(row["text"]))}
                                                     for row in tiny.rows(150)])
    other = tiny.backbone(place / "electra", "electra", seed=3)
    specs = {"seed": tiny.spec(reviews, backbone, seed=1), "labels": tiny.spec(relabeled, backbone),
             "task": tiny.spec(numbers, backbone, task="text-regression"),
             "backbone": tiny.spec(reviews, other), "prompt": tiny.spec(reviews, backbone, method="prompt-tuning"),
             "folds": tiny.spec(reviews, backbone, method="linear-probe")}
    for name, spec in specs.items():
        headstart.fit({**spec, "train": {**spec["train"], "max_steps": 2}}, out=place / name)
    return {name: place / name for name in specs}


@pytest.mark.parametrize(("name", "error", "words"), [
    ("seed", DataError, r"tested on other rows .* of its 30 test rows .* it was trained on"),
    ("labels", ArtifactError, r'knows other labels than .*/reviews: .*/labels alone has "neutral"; .*"positive"'),
    ("task", ArtifactError, r'is of task "text-regression"'),
    ("folds", SpecError, r"tested by 5-fold cross-validation")])
def test_members_that_do_not_fit_are_named(name, error, words, run, strangers, tmp_path):
    raised = refused(error, words, [run, strangers[name]], tmp_path / "out")
    assert str(strangers[name]) in raised.where


@pytest.mark.parametrize(("name", "words"), [("backbone", r"began from .*electra"),
                                             ("prompt", r'answers with an adapter of "prompt-tuning"')])
def test_weights_that_have_no_mean_are_named(name, words, run, strangers, tmp_path):
    raised = refused(ArtifactError, words, [run, strangers[name]], tmp_path / "out", how="soup")
    assert str(strangers[name]) in raised.where
    assert headstart.ensemble([run, strangers[name]], out=tmp_path / "mean")  # as the message says, answers have one


def test_too_few_runs(run, tmp_path):
    refused(SpecError, "got 1 run; it takes two", [run], tmp_path / "out")
    refused(SpecError, "is the same run as", [run, run], tmp_path / "out")


def test_a_copy_of_a_run_is_the_same_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    refused(SpecError, "is the same run as", [run, tmp_path / "copy"], tmp_path / "out")


def test_a_folder_that_is_not_there(run, tmp_path):
    raised = refused(ArtifactError, "is not a run's folder", [run, tmp_path / "nowhere"], tmp_path / "out")
    assert "nowhere" in raised.where


def test_an_ensemble_is_no_member(pair, run, tmp_path):
    raised = refused(SpecError, "is an ensemble itself", [run, pair], tmp_path / "out")
    assert str(pair / "members" / "1") in raised.fix


def test_an_ensemble_has_no_weights_of_its_own(pair):
    with pytest.raises(ArtifactError, match="is an ensemble") as error:
        Extractor(pair)
    assert str(pair / "members" / "1") in error.value.fix
    assert Extractor(pair / "members" / "1")(["a film"]).shape == (1, 32)


def test_ways_that_are_none(run, other_run, tmp_path):
    raised = refused(SpecError, "is no way to join models", [run, other_run], tmp_path / "out", how="stackin")
    assert 'did you mean "stacking"' in raised.what
    refused(SpecError, "goes with --how task-arithmetic", [run, other_run], tmp_path / "out", subtract=[run])


def test_exported_weights_have_no_mean(run, other_run, tmp_path):
    headstart.export(other_run, out=tmp_path / "onnx")
    refused(ArtifactError, "holds no weights to average", [run, tmp_path / "onnx"], tmp_path / "out", how="soup")


def test_rows_that_changed_since(backbone, tmp_path):
    source = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(120))
    for seed, method in enumerate(("fine-tuning", "lora")):
        headstart.fit(tiny.spec(source, backbone, method=method, train={"max_steps": 2}), out=tmp_path / str(seed))
    tiny.write_csv(source, tiny.rows(120, seed=9))
    refused(DataError, "no longer holds the validation rows", [tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    source.unlink()
    refused(DataError, "rows.csv", [tmp_path / "0", tmp_path / "1"], tmp_path / "out")


def test_what_is_there_is_not_replaced(pair, run, other_run, tmp_path):
    copy = shutil.copytree(pair, tmp_path / "there")
    with pytest.raises(RunFolderError, match="there"):
        headstart.ensemble([run, other_run], out=copy)
    headstart.ensemble([run, other_run], out=copy, overwrite=True)
    with pytest.raises(RunFolderError, match="holds an input of this command"):
        headstart.ensemble([copy / "members" / "1", other_run], out=copy, overwrite=True)


def test_the_command_line(run, other_run, tmp_path, cli):
    out, err = cli("ensemble", run, other_run, "--out", tmp_path / "both", "--how", "stacking", "--json")
    summary = json.loads(out.splitlines()[-1])
    assert summary["artifact"] == str(tmp_path / "both")
    assert summary["verdict_kind"] == "undecided"
    assert f"{run}: validation accuracy" in err
    cli("ensemble", run, "--out", tmp_path / "one", rc=2)
    answers, _ = cli("predict", tmp_path / "both", tiny.write_csv(tmp_path / "new.csv", tiny.rows(3)))
    assert len(answers.splitlines()) == 3


def test_no_texts_of_the_rows_where_a_member_keeps_none(backbone, reviews, tmp_path, other_run):
    headstart.fit(tiny.spec(reviews, backbone, data={"keep_texts": False}, train={"max_steps": 2}),
                  out=tmp_path / "blind")
    made = headstart.ensemble([tmp_path / "blind", other_run], out=tmp_path / "out")
    texts = {row["text"] for row in tiny.rows(300)}
    own = (made.folder / "golden.jsonl").read_text("utf-8")
    assert not any(text in own for text in texts)
    assert not made.certificate.details.mistakes
