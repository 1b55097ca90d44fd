"""Control of what is written: a label that a fitted run tells, forced beginnings, candidates, and the model without."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_layers import loaded_by
from tiny import BAD, GOOD

import headstart
from headstart import tasks
from headstart.core import writing
from headstart.core.errors import ArtifactError, DataError, Interrupted, RunFolderError, SpecError
from headstart.core.manifest import identity
from headstart.core.progress import Progress
from headstart.exporters.export import export
from headstart.models import backbone as backbones
from headstart.models.chat import chat_format
from headstart.models.stepping import TorchStepper
from headstart.tasks.text_generation import TextGeneration
from headstart.tasks.writing.task import WritingTask

CPU = torch.device("cpu")
LABELS = ("negative", "positive")
DRAWN = {"max_new_tokens": 12, "temperature": 1.0}


def completions(n=60):
    """Rows of which two thirds ask for a label and a length."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        word, other = rng.choice((BAD, GOOD)[i % 2], 2)
        row: dict[str, Any] = {"prompt": f"Tell about the room {i}.", "completion": f"the room was {word} and {other}"}
        rows.append(row if i % 3 == 2 else {**row, "control": {"label": LABELS[i % 2], "max_words": 8}})
    return rows


ROWS = completions()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.chat(tiny.backbone(tmp_path_factory.mktemp("llama") / "model", "llama", writes=True,
                                   tie_word_embeddings=True))


@pytest.fixture(scope="module")
def judge(tmp_path_factory, backbone, reviews):
    """A fitted text-classification that is exported: it answers without torch."""
    folder = tmp_path_factory.mktemp("judge")
    headstart.fit(tiny.spec(reviews, backbone, method="linear-probe"), out=folder / "run")
    export(folder / "run", out=folder / "exported")
    return folder / "exported"


def spec(rows, model, tmp_path, judge=None, task=None, **more):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = {"judge": str(judge)} if judge else {}
    return {"task": {"name": "text-generation", "decoding": {"max_new_tokens": 12}, **judged, **(task or {})},
            "backbone": str(model), "method": "lora", "seed": 1,
            "data": {"max_tokens": 110, "near_duplicate": 1.0, "train": str(source)},
            "train": {"epochs": 1, "tokens_per_batch": 512, "precision": "fp32", **more.pop("train", {})},
            "evaluate": {"n_resamples": 100, "tokens_per_batch": 2048}, **more}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, model, judge):
    """A run whose rows ask for labels, with four candidates a row."""
    place = tmp_path_factory.mktemp("fitted")
    wanted = spec(ROWS, model, place, judge, {"decoding": {**DRAWN, "candidates": 4}, "metric": "control_success"})
    return headstart.fit(wanted, out=place / "run")


# ------------------------------------------------------------------------------------------------- without control


def test_the_same_model_without_control_stands_in_certificate_and_report(fitted):
    scores = fitted.certificate
    assert set(scores.baselines) == {"copy", "most-frequent", "nearest", "before-training", "without-control"}
    gain = scores.gains["without-control"]
    assert gain.interval[0] <= gain.difference <= gain.interval[1]
    assert gain.n == scores.fitted.n
    assert scores.baselines["without-control"].metrics["perplexity"] > 1
    assert "the same model without control" in scores.verdict
    assert "without-control" in (fitted.folder / "report.html").read_text("utf-8")


def test_without_control_neither_prompt_nor_decoder_know_of_it(fitted):
    task = fitted.task
    controlled = [row for row in ROWS if "control" in row]
    free, = task.ablated(controlled).values()
    assert [row.get("control") for row in free] == [None] * len(controlled)
    for row, without in zip(controlled[:3], free, strict=False):
        windows = [task.encode(0, task.without_gold(part), fitted.reader)[0] for part in (row, without)]
        shown, hidden = (fitted.reader.text(window.inputs["input_ids"]) for window in windows)
        assert shown.replace(f"\n\nLabel: {row['control']['label']}. Write at most 8 words.", "") == hidden
        assert task.constraint(row, fitted.reader) is not None
        assert task.constraint(without, fitted.reader) is None
    assert task.ablated(free) == {}


def test_rows_without_any_control_have_no_such_baseline(model, tmp_path):
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in ROWS]
    run = headstart.fit(spec(rows, model, tmp_path), out=tmp_path / "run")
    assert "without-control" not in run.certificate.baselines
    assert "shares" not in run.certificate.details.other or not run.certificate.details.other["shares"]
    assert isinstance(run.task, TextGeneration)
    assert "control" not in run.task.prompt


# ----------------------------------------------------------------------------------------------------- by label


def test_a_label_is_asked_for_shown_judged_and_measured(fitted, judge):
    task = fitted.task
    assert (task.judge, task.judge_labels, task.judge_sha256) == (str(judge), LABELS, identity(judge))
    assert "{control}" in task.prompt
    answers = fitted.predict([{"prompt": "Tell about the room.", "control": {"label": "positive"}},
                              {"prompt": "Tell about the room.", "control": {"max_words": 3}}])
    assert answers[0]["label"] == headstart.load(judge).predict([answers[0]["text"]])[0]["label"]
    assert "label" not in answers[1]
    details = fitted.certificate.details.other
    for name in ("control_success", "label_success"):
        share = details["shares"][name]
        assert 0 <= share["interval"][0] <= share["value"] <= share["interval"][1] <= 1
        assert share["value"] == pytest.approx(fitted.certificate.fitted.metrics[name])
        assert all(name in of.metrics for of in fitted.certificate.baselines.values())
    assert f"judge:{judge}|sha256:{identity(judge)[:12]}" in " ".join(details["signatures"])
    assert "label success" in (fitted.folder / "report.html").read_text("utf-8")
    scores = fitted.evaluate([row for row in ROWS[:12] if "control" in row])["scores"]
    assert 0 < scores["label_success"] <= 1


def test_the_verdict_can_be_of_the_label(model, judge, tmp_path):
    wanted, test = spec(ROWS, model, tmp_path, judge, {"metric": "label_success"}), tmp_path / "test.jsonl"
    rows = [{**row, "prompt": f"{row['prompt']} {(BAD + GOOD)[i % 12]}"} for i, row in enumerate(ROWS[:24])]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    wanted["data"]["test"] = str(test)
    run = headstart.fit(wanted, out=tmp_path / "run")
    assert run.certificate.metric == "label_success"
    asking = [row for row in rows if "control" in row]  # what no model wrote is judged, too
    labels = [answer["label"] for answer in headstart.load(judge).predict([row["prompt"] for row in asking])]
    share = np.mean([label == row["control"]["label"] for label, row in zip(labels, asking, strict=True)])
    assert run.certificate.baselines["copy"].value == pytest.approx(share)
    assert 0 < share < 1
    assert run.certificate.fitted.interval
    assert run.certificate.gains["without-control"].interval
    asked = [row for row in ROWS[:9] if "control" in row]
    assert run.evaluate(asked)["interval"][0] <= run.evaluate(asked)["score"]


def test_a_judge_that_is_exported_answers_without_torch(judge):
    code = ("from headstart.runs.judge import RunJudge\n"
            f"judge = RunJudge({str(judge)!r}, {identity(judge)!r})\n"
            "assert set(judge.labels) == {'negative', 'positive'}\n"
            "assert judge(['the room was really lovely', '  '])[1] == ''")
    modules = loaded_by(code)
    assert "onnxruntime" in modules
    assert not {"torch", "transformers"} & modules


def refused(kind, values, tmp_path):
    with pytest.raises(kind) as raised:
        headstart.fit(values, out=tmp_path / "refused")
    assert raised.value.fix
    return raised.value


def test_what_cannot_judge_is_refused_before_anything_is_trained(model, judge, fitted, tmp_path):
    without = refused(DataError, spec(ROWS, model, tmp_path), tmp_path)
    assert 'asks for the label "negative"; nothing tells which text has it' in str(without)
    assert "task.judge=FOLDER" in str(without)
    assert "is not there" in str(refused(SpecError, spec(ROWS, model, tmp_path, tmp_path / "none"), tmp_path))
    other = refused(SpecError, spec(ROWS, model, tmp_path, fitted.folder), tmp_path)
    assert 'is a run of "text-generation"' in str(other)
    asks = {**ROWS[0], "prompt": "Another.", "control": {"label": "positiv"}}
    unknown = refused(DataError, spec([*ROWS, asks], model, tmp_path, judge), tmp_path)
    assert str(unknown).startswith(f"{tmp_path / 'rows.jsonl'}:61")
    assert 'did you mean "positive"' in str(unknown)
    named = refused(SpecError, spec(ROWS, model, tmp_path, task={"metric": "label_success"}), tmp_path)
    assert "judge: FOLDER" in str(named)


def test_a_judge_of_pairs_is_refused(model, backbone, tmp_path):
    rows = [{"text": row["text"], "text_pair": "it was", "label": row["label"]} for row in tiny.rows(60)]
    source = tiny.write_csv(tmp_path / "pairs.csv", rows)
    headstart.fit(tiny.spec(source, backbone, method="linear-probe"), out=tmp_path / "pairs")
    assert "pairs of texts" in str(refused(SpecError, spec(ROWS, model, tmp_path, tmp_path / "pairs"), tmp_path))


def test_a_saved_run_opens_without_its_judge_and_asks_for_that_very_one(model, backbone, reviews, tmp_path):
    def judge_of(seed):
        return headstart.fit(tiny.spec(reviews, backbone, method="linear-probe", seed=seed), out=tmp_path / "judge",
                             overwrite=True).folder

    run = headstart.fit(spec(ROWS, model, tmp_path, judge_of(0)), out=tmp_path / "run").folder
    asking, free = {"prompt": "A room.", "control": {"label": "positive"}}, {"prompt": "A room."}
    assert headstart.load(run).predict([asking])[0]["label"] in LABELS
    judge_of(1)
    with pytest.raises(ArtifactError, match="not the judge that this run was fitted with") as raised:
        headstart.load(run).predict([asking])
    assert raised.value.fix
    (tmp_path / "judge").rename(tmp_path / "moved")
    opened = headstart.load(run)
    assert opened.predict([free])[0]["text"] is not None
    with pytest.raises(SpecError, match="is not there") as gone:
        opened.predict([asking])
    assert "Bring this folder back" in gone.value.fix
    with pytest.raises(DataError, match='asks for the label "wet", unknown to'):
        opened.predict([{"prompt": "A room.", "control": {"label": "wet"}}])


class Stops(Progress):
    """Sends this process a signal after the first epoch."""

    def say(self, line: str) -> None:
        if line.startswith("epoch 1:"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_needs_the_judge_it_was_begun_with(model, backbone, reviews, tmp_path):
    judge = tmp_path / "judge"
    headstart.fit(tiny.spec(reviews, backbone, method="linear-probe"), out=judge)
    wanted = spec(ROWS, model, tmp_path, judge, train={"epochs": 2})
    with pytest.raises(Interrupted):
        headstart.fit(wanted, out=tmp_path / "run", progress=Stops(quiet=True))
    headstart.fit(tiny.spec(reviews, backbone, method="linear-probe", seed=1), out=judge, overwrite=True)
    with pytest.raises(RunFolderError, match="judge was sha256"):
        headstart.fit(wanted, out=tmp_path / "run", resume=True)


def test_a_run_never_replaces_its_judge(model, judge, tmp_path):
    before = identity(judge)
    with pytest.raises(RunFolderError):
        headstart.fit(spec(ROWS, model, tmp_path, judge), out=judge, overwrite=True)
    assert identity(judge) == before


# -------------------------------------------------------------------------------------------------------- candidates


class Words:
    """A judge that looks for a word."""

    labels = ("yes", "no")

    def __init__(self, word):
        self.word = word

    def __call__(self, texts):
        return ["yes" if self.word in text else "no" for text in texts]


def generation(model, **decoding):
    loaded = backbones.load_backbone(str(model), 120)
    task = tasks.build({"name": "text-generation", "judge": "-", "decoding": {"max_new_tokens": 12, **decoding}})
    task = task.learn(ROWS).fitted_to(loaded.reader, lambda: chat_format(Path(model)))
    assert isinstance(task, TextGeneration)
    return loaded, task, backbones.build_model(loaded, task, "mean", seed=0).eval()


def answers_of(loaded, task, model, rows, judge=None, tokens_per_batch=4096):
    blind = [task.without_gold(row) for row in rows]
    windows = [w for i, row in enumerate(blind) for w in task.encode(i, row, loaded.reader)]
    return writing.predictions(task, blind, windows, loaded.reader, TorchStepper(model, CPU), tokens_per_batch,
                               judge=judge)


def test_candidates_are_the_same_alone_and_in_a_batch(model):
    loaded, task, built = generation(model, temperature=1.0, candidates=4)
    judge = Words("e")
    rows = [{**row, "control": {"label": "yes"}} for row in ROWS[:8]]
    together = answers_of(loaded, task, built, rows, judge)
    alone = answers_of(loaded, task, built, rows[::-1], judge, tokens_per_batch=1)[::-1]
    assert together == alone
    assert together == answers_of(loaded, task, built, rows, judge)
    other = generation(model, temperature=1.0, candidates=4, seed=1)[1]
    assert answers_of(loaded, other, built, rows, judge) != together


def test_more_candidates_meet_more_and_of_equals_the_likeliest_is_kept(model):
    judge = Words("film")
    rows = [{**row, "control": {"label": "yes"}} for row in ROWS]
    met = {}
    for n in (1, 8):
        loaded, task, built = generation(model, temperature=1.0, candidates=n)
        met[n] = sum(answer["label"] == "yes" for answer in answers_of(loaded, task, built, rows, judge))
    assert met[8] > met[1]
    loaded, task, built = generation(model, temperature=1.0, candidates=8)
    free = [{"prompt": row["prompt"]} for row in ROWS[:6]]
    windows = [w for i, row in enumerate(free) for w in task.encode(i, row, loaded.reader)]
    best = writing.continuations(task, free, windows, loaded.reader, TorchStepper(built, CPU), 4096)
    single = generation(model, temperature=1.0)[1]
    first = writing.continuations(single, free, windows, loaded.reader, TorchStepper(built, CPU), 4096)
    assert all(a.value(1.0) >= b.value(1.0) for a, b in zip(best, first, strict=True))
    assert any(a.ids != b.ids for a, b in zip(best, first, strict=True))


# -------------------------------------------------------------------------------------------------------- beginnings

SAY = "so we found"
HOW: dict[str, dict[str, Any]] = {
    "greedy": {}, "beams": {"beams": 3}, "drawn": {"temperature": 1.0}, "no repeats": {"no_repeat_ngram": 1},
    "candidates": {"temperature": 1.0, "candidates": 3}}


@pytest.mark.parametrize("how", HOW)
def test_every_text_begins_as_it_must(model, how):
    loaded, task, built = generation(model, prefix=SAY, **HOW[how])
    free = [{"prompt": row["prompt"]} for row in ROWS[:6]]
    together = answers_of(loaded, task, built, free)
    assert all(answer["text"].startswith(SAY) for answer in together)
    assert any(len(answer["text"]) > len(SAY) for answer in together)
    assert answers_of(loaded, task, built, free, tokens_per_batch=1) == together
    own = [{**row, "control": {"prefix": "the film", "max_words": 5, "include": ["music"]}} for row in free]
    for answer in answers_of(loaded, task, built, own):  # a row's own goes before; what else it asks holds behind it
        assert answer["text"].startswith("the film")
        assert task.n_unmet(own[0], answer) == 0, answer
    loaded, task, built = generation(model, **HOW[how])
    assert not all(answer["text"].startswith(SAY) for answer in answers_of(loaded, task, built, free))


def test_a_form_holds_behind_a_beginning(model):
    loaded, task, built = generation(model)
    row = {"prompt": "A number.", "control": {"prefix": "n: 1", "pattern": "^n: [0-9]{3}$"}}
    answer, = answers_of(loaded, task, built, [row])
    assert task.n_unmet(row, answer) == 0, answer
    assert answer["text"].startswith("n: 1")


def test_targets_begin_so_and_are_scored_so(model, tmp_path):
    rows = [{**row, "completion": f"{SAY} {row['completion']}"} for row in completions(30)]
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    task = {"decoding": {"prefix": SAY, "max_new_tokens": 12}}
    run = headstart.fit(spec(rows, model, tmp_path, task=task), out=tmp_path / "run")
    assert run.predict([{"prompt": "A room."}])[0]["text"].startswith(SAY)
    assert headstart.load(run.folder).evaluate(rows)["score"] > 0.3  # the beginning is part of the answer
    assert isinstance(run.task, WritingTask)
    golden = [json.loads(line) for line in (run.folder / "golden.jsonl").read_text("utf-8").splitlines()]
    begin = run.task.prefix_ids({}, run.reader)
    assert all(entry["ids"][: len(begin)] == begin for entry in golden)
    again = writing.log_probabilities(run.task, golden[0]["row"], golden[0]["ids"], run.reader, run.runtime)
    np.testing.assert_allclose(again, golden[0]["log_probabilities"], atol=1e-4)
    other = refused(DataError, spec([*rows, ROWS[2]], model, tmp_path, task=task), tmp_path)
    assert f'must begin with "{SAY}"' in str(other)
    assert "task.template" in str(other)


@pytest.mark.parametrize("name", ["summarization", "translation", "dialogue"])
def test_every_task_that_writes_wants_targets_that_begin_so(name):
    task = tasks.build({"name": name, "decoding": {"prefix": "Also:"}})
    row, gold = tasks.find(name).examples[0], tasks.find(name)().columns.gold[0]
    assert f'"{gold}" is' in str(task.check(row))
    assert task.check({**row, gold: "Also: yes."}) is None
    assert task.check(task.without_gold(row)) is None


def test_a_beginning_that_leaves_no_room_is_refused(model, tmp_path):
    rows = [{**row, "control": {"prefix": "the room was really quite lovely and very bright"}} for row in ROWS[:20]]
    error = refused(DataError, spec(rows, model, tmp_path, task={"decoding": {"max_new_tokens": 4}}), tmp_path)
    assert "and 4 may be written" in str(error)


# ---------------------------------------------------------------------------------------------- rows without control


def test_control_may_stand_in_some_rows_only(model, judge, tmp_path, cli):
    wanted = spec([*completions(9)[2::3], *ROWS], model, tmp_path, judge)  # the first rows have none
    run = headstart.fit(wanted, out=tmp_path / "run")
    source = tmp_path / "new.jsonl"
    source.write_text('{"prompt": "A room."}\n{"prompt": "A room.", "control": {"max_words": 2}}\n'
                      '{"prompt": "A room.", "control": null}\n', "utf-8")
    lines = [json.loads(line) for line in cli("predict", run.folder, source)[0].splitlines()]
    assert len(lines) == 3
    assert lines[0] == lines[2]
    assert len(lines[1]["text"].split()) <= 2
    assert run.predict([{"prompt": "A room."}, {"prompt": "A room.", "control": {"max_words": 2}}]) == lines[:2]


def test_a_prompt_of_ones_own_shows_control_in_words_or_leaves_its_line_out(model, judge, tmp_path):
    task = {"template": "{control}\nQ: {prompt}", "chat": False}
    run = headstart.fit(spec(ROWS, model, tmp_path, judge, task), out=tmp_path / "run")
    assert isinstance(run.task, TextGeneration)
    texts = ["".join(text for text, _ in run.task.pieces(row)) for row in (
        {"prompt": "Why?", "control": {"label": "positive", "max_words": 4}}, {"prompt": "Why?"})]
    assert texts == ["Label: positive. Write at most 4 words.\nQ: Why?", "Q: Why?"]
