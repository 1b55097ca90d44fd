"""What every family that writes, causal or with a decoder beside its encoder, must do with every method."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import GOOD

import headstart
from headstart import methods, tasks
from headstart.core import writing
from headstart.core.errors import Interrupted, SpecError
from headstart.core.progress import Progress
from headstart.core.values import collate
from headstart.models import backbone as backbones
from headstart.models import blocks
from headstart.models.chat import chat_format
from headstart.models.families import FAMILIES
from headstart.models.runtime import TorchRuntime
from headstart.models.stepping import stepper_of
from headstart.runs.weights import open_model
from headstart.tasks.writing.task import WritingTask

CPU = torch.device("cpu")
CAUSAL = sorted(name for name, family in FAMILIES.items() if family.writes_as and not family.decoder_blocks)
SEQ2SEQ = sorted(name for name, family in FAMILIES.items() if family.decoder_blocks)
WRITERS = [*CAUSAL, *SEQ2SEQ]
WRITING = [name for name in tasks.names() if tasks.build({"name": name}).generation is not None]
METHODS = ["adapter", "auto", "bitfit", "dora", "fine-tuning", "ia3", "lora", "prefix-tuning", "prompt-tuning"]
PAIRS = [(family, method) for family in WRITERS for method in METHODS if method != "bitfit"
         or family not in ("llama", "qwen3", "t5")]
ROWS = tiny.stories(24)


def test_families_tasks_and_methods_are_found():
    assert CAUSAL == ["gpt2", "llama", "qwen2", "qwen3"]
    assert SEQ2SEQ == ["bart", "encoder-decoder", "marian", "mbart", "t5"] == sorted(tiny.SEQ2SEQ)
    assert WRITING == ["dialogue", "summarization", "text-generation", "translation"]
    able = [name for name in methods.names() if can_write(name)]
    assert able == METHODS
    assert len(PAIRS) == 78


def can_write(method_name):
    try:
        methods.build({"name": method_name}).check(tasks.build({"name": "summarization"}))
    except SpecError:
        return False
    return True


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    causal = {name: tiny.backbone(tmp_path_factory.mktemp(name) / "model", name, writes=True, tie_word_embeddings=True,
                                  num_hidden_layers=3) for name in CAUSAL}
    return causal | {name: tiny.seq2seq(tmp_path_factory.mktemp(name) / "model", name) for name in SEQ2SEQ}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request, folders):
    return folders[request.param]


def summarization(**decoding):
    task = tasks.build({"name": "summarization", "decoding": {"max_new_tokens": 12, **decoding}})
    return task.learn(ROWS)


def loaded_model(folder, task, n_extra_tokens=0):
    loaded = backbones.load_backbone(str(folder), 128, n_extra_tokens)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    return loaded, task.fitted_to(loaded.reader, lambda: chat_format(folder)), model


def batch_of(task, reader, rows=ROWS[:6]):
    windows = [w for i, row in enumerate(rows) for w in task.encode(i, row, reader)]
    batch = collate({k: [w.inputs[k] for w in windows] for k in windows[0].inputs},
                    {k: [w.target[k] for w in windows] for k in windows[0].target}, reader.pad_id)
    return tuple({k: torch.from_numpy(a) for k, a in part.items()} for part in (batch.inputs, batch.target))


def texts_of(task, loaded, model, rows, tokens_per_batch=4096):
    blind = [task.without_gold(row) for row in rows]
    windows = [w for i, row in enumerate(blind) for w in task.encode(i, row, loaded.reader)]
    return writing.continuations(task, blind, windows, loaded.reader, stepper_of(model, CPU), tokens_per_batch)


def with_noise(model, scale=0.05):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * scale)


# ------------------------------------------------------------------------------------------------------ the model


def test_logits_are_those_of_the_whole_model_where_they_are_asked_for(folder):
    loaded, task, model = loaded_model(folder, summarization())
    inputs, target = batch_of(task, loaded.reader)
    with torch.no_grad():
        whole_BTV = model.model(**{name: a for name, a in inputs.items() if name != "predicts"}).logits
        logits_MV, labels_M = task.aligned(model(inputs).logits, target)
    torch.testing.assert_close(logits_MV, whole_BTV[inputs["predicts"] == 1])
    assert len(logits_MV) == len(labels_M) == int(inputs["predicts"].sum())
    following_BT = torch.roll(inputs.get("decoder_input_ids", inputs["input_ids"]), -1, 1)
    is_inside_BT = (inputs["predicts"] == 1) & (torch.roll(inputs["predicts"], -1, 1) == 1)
    is_inside_BT[:, -1] = False
    assert is_inside_BT.any()
    torch.testing.assert_close(target["labels"][is_inside_BT], following_BT[is_inside_BT])


def test_entered_in_the_middle_it_answers_as_the_whole(folder):
    loaded, task, model = loaded_model(folder, summarization())
    inputs, _ = batch_of(task, loaded.reader)
    with torch.no_grad():
        whole_MV = model.eval()(inputs).logits
        for n in range(1, blocks.n_entered(model.encoder) + 1):
            hidden_BTD = blocks.Span(model, 0, n).hidden(inputs)
            torch.testing.assert_close(blocks.Span(model, n)(inputs, hidden_BTD).logits, whole_MV)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_output_stays_as_it_is_and_so_does_an_embedding_that_is_one(is_tied, tmp_path):
    folder = tiny.backbone(tmp_path / "model", "llama", writes=True, tie_word_embeddings=is_tied)
    _, _, model = loaded_model(folder, summarization())
    embedding = model.encoder.get_input_embeddings().weight
    assert (embedding is model.output.weight) == is_tied
    assert not model.output.weight.requires_grad
    assert embedding.requires_grad != is_tied
    assert any(p is embedding for p in model.below_output())
    names = [name for name, p in model.named_parameters() if p is model.output.weight]
    assert len(names) == 1
    method = methods.build({"name": "fine-tuning", "freeze_embeddings": False})
    if is_tied:
        with pytest.raises(SpecError, match="embedding is its output layer"):
            method.prepare(model)
        return
    method.prepare(model)
    moving = {id(p) for group in method.groups(model, 1e-3, 0.0) for p in group["params"]}
    assert id(embedding) in moving
    assert id(model.output.weight) not in moving


@pytest.mark.parametrize(("family", "method_name"), PAIRS)
def test_its_loss_falls_and_only_the_weights_in_groups_move(family, method_name, folders):
    method, task = methods.build({"name": method_name}), summarization()
    loaded, task, model = loaded_model(folders[family], task, method.plan.n_extra_tokens)
    inputs, target = batch_of(task, loaded.reader)
    method.prepare(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = method.groups(model, 3e-3, 0.01)
    moving = {id(p) for group in groups for p in group["params"]}
    losses, reached = tiny.descend(model, groups, lambda: method.loss(task, model(inputs), target), 25)
    assert losses[-1] < losses[0]
    assert moving
    assert reached == moving
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != (id(p) in reached), name


@pytest.mark.parametrize(("family", "method_name"), PAIRS)
def test_a_text_is_the_same_alone_in_a_batch_and_without_a_cache(family, method_name, folders):
    method = methods.build({"name": method_name})
    loaded, task, model = loaded_model(folders[family], summarization(), method.plan.n_extra_tokens)
    method.prepare(model)
    with_noise(model)
    together = texts_of(task, loaded, model.eval(), ROWS)
    alone = texts_of(task, loaded, model, ROWS, tokens_per_batch=1)
    assert [text.ids for text in together] == [text.ids for text in alone]
    assert len({text.ids for text in together}) > 1
    for row, text in zip(ROWS[:4], together, strict=False):
        assert text.ids == without_cache(task, loaded, model, row)


def without_cache(task, loaded, model, row):
    """Greedy decoding that reads everything anew for each token."""
    written: list[int] = []
    prompt = task.encode(0, task.without_gold(row), loaded.reader)[0].inputs
    while len(written) < 12:
        inputs = {name: [ids] for name, ids in task.continued(prompt, [*written, 0]).items()}
        with torch.no_grad():
            batch = collate(inputs, {}, loaded.reader.pad_id).inputs
            token = int(model({name: torch.from_numpy(a) for name, a in batch.items()}).logits[-1].argmax())
        if token in task.ends(loaded.reader):
            break
        written.append(token)
    return tuple(written)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize("method_name", METHODS)
def test_finish_keeps_the_texts(method_name, family, folders):
    method = methods.build({"name": method_name})
    loaded, task, model = loaded_model(folders[family], summarization(), method.plan.n_extra_tokens)
    method.prepare(model)
    with_noise(model)
    before = texts_of(task, loaded, copy.deepcopy(model).eval(), ROWS[:4])
    after = texts_of(task, loaded, method.finish(model).eval(), ROWS[:4])
    assert [text.ids for text in before] == [text.ids for text in after]


# --------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("beams", [1, 3])
def test_greedy_texts_and_beams_are_those_of_transformers(beams, folder):
    loaded, task, model = loaded_model(folder, summarization(beams=beams, max_new_tokens=8))
    texts = texts_of(task, loaded, model.eval(), ROWS[:4])
    assert [text.ids for text in texts] == [text.ids for text in texts_of(task, loaded, model, ROWS[:4], 1)]
    for row, text in zip(ROWS[:4], texts, strict=True):
        prompt = task.encode(0, task.without_gold(row), loaded.reader)[0].inputs
        inputs = {name: torch.tensor([ids]) for name, ids in prompt.items() if name != "predicts"}
        theirs = model.model.generate(inputs.pop("input_ids"), **inputs, max_new_tokens=8, num_beams=beams,
                                      do_sample=False, pad_token_id=0, eos_token_id=list(task.ends(loaded.reader)))
        n_before = len(prompt.get("decoder_input_ids", prompt["input_ids"]))
        assert list(text.ids) == [i for i in theirs[0, n_before:].tolist() if i not in task.ends(loaded.reader)]


def test_drawn_texts_depend_on_seed_and_prompt_alone(folder):
    loaded, task, model = loaded_model(folder, summarization(temperature=1.0, top_p=0.9, min_p=0.01))
    model.eval()
    together = texts_of(task, loaded, model, ROWS)
    assert [t.ids for t in texts_of(task, loaded, model, ROWS[::-1], tokens_per_batch=1)[::-1]] == [
        t.ids for t in together]
    other = loaded_model(folder, summarization(temperature=1.0, top_p=0.9, min_p=0.01, seed=1))[1]
    assert [t.ids for t in texts_of(other, loaded, model, ROWS)] != [t.ids for t in together]


def test_log_probabilities_are_those_of_one_pass(folder):
    loaded, task, model = loaded_model(folder, summarization())
    text = texts_of(task, loaded, model.eval(), ROWS[:1])[0]
    ids = [*text.ids, *([] if text.end_id is None else [text.end_id])]
    again = writing.log_probabilities(task, ROWS[0], ids, loaded.reader, TorchRuntime(model, CPU))
    np.testing.assert_allclose(again, text.log_probabilities, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- whole runs


SPEC: dict[str, Any] = {"task": {"name": "summarization", "decoding": {"max_new_tokens": 8}},
        "data": {"max_tokens": 96}, "train": {"epochs": 1, "lr": 3e-3, "tokens_per_batch": 512,
                                                "precision": "fp32"},
        "evaluate": {"n_resamples": 100, "tokens_per_batch": 2048}}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    return tiny.write_csv(tmp_path_factory.mktemp("data") / "stories.csv", tiny.stories(80))


def spec(source, model, **more):
    values = copy.deepcopy({**SPEC, "backbone": str(model)})
    for name, part in more.items():
        values[name] = {**values.get(name, {}), **part} if isinstance(part, dict) else part
    return {**values, "data": {**values["data"], "train": str(source)}}


@pytest.mark.parametrize(("family", "method"), [
    ("llama", {"name": "fine-tuning", "last_blocks": 1}), ("gpt2", {"name": "fine-tuning", "last_blocks": 1}),
    ("llama", {"name": "lora", "last_blocks": 2}), ("gpt2", {"name": "adapter", "last_blocks": 1}),
    *[(family, {"name": "fine-tuning", "encoder": "frozen"}) for family in SEQ2SEQ],
    ("bart", {"name": "fine-tuning", "encoder": "last_blocks"}), ("t5", {"name": "lora", "last_blocks": 3}),
    ("marian", {"name": "adapter", "last_blocks": 1})])
def test_cached_and_uncached_training_reach_the_same_weights(family, method, folders, stories, tmp_path):
    weights = {}
    for cache in ("fp32", "off"):
        run = headstart.fit(spec(stories, folders[family], method=method, cache=cache, evaluate={"baselines": False},
                                 train={"optimizer": "sgd", "lr": 1e-2}), out=tmp_path / cache)
        model, _ = open_model(tmp_path / cache, run.task, run.spec)
        weights[cache] = {name: p.detach() for name, p in model.named_parameters()}
    assert weights["fp32"].keys() == weights["off"].keys()
    for name, p in weights["fp32"].items():
        torch.testing.assert_close(p, weights["off"][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "t5", "encoder-decoder"])
@pytest.mark.parametrize("method", [
    {"name": "fine-tuning"}, {"name": "auto"}, {"name": "lora", "alone": True}, {"name": "prefix-tuning"},
    {"name": "prompt-tuning"}, {"name": "adapter"}], ids=lambda method: method["name"])
def test_a_run_ends_with_a_certificate_and_reads_back(method, family, folders, stories, tmp_path):
    run = headstart.fit(spec(stories, folders[family], method=method), out=tmp_path / "run")
    scores = run.certificate
    assert scores.metric == "rouge_l"
    assert {"lead-1", "text-rank", "nearest", "before-training"} <= set(scores.baselines)
    assert scores.fitted.metrics["perplexity"] > 1
    assert "perplexity" in scores.baselines["before-training"].metrics
    assert "perplexity" not in scores.baselines["lead-1"].metrics
    assert [set(entry.scores) for entry in scores.curve] == [{"likelihood", "perplexity"}] * len(scores.curve)
    assert {example.place for example in scores.details.examples} == {"worst", "median", "best"}
    assert any(example.before for example in scores.details.examples)
    row = {"document": "the hotel was really lovely today"}
    answer, = run.predict([row])
    assert set(answer) == {"text", "is_complete"}
    assert headstart.load(tmp_path / "run").predict([row]) == [answer]
    golden = [json.loads(line) for line in (tmp_path / "run" / "golden.jsonl").read_text("utf-8").splitlines()]
    assert all(len(entry["ids"]) == len(entry["log_probabilities"]) > 0 for entry in golden)
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "side by side" in report


class Stops(Progress):
    """Sends this process a signal after the first epoch."""

    def say(self, line: str) -> None:
        if line.startswith("epoch 1:"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("family", "method"), [
    ("llama", {"name": "lora", "last_blocks": 1}), ("llama", {"name": "fine-tuning"}),
    ("bart", {"name": "lora", "last_blocks": 1}), ("encoder-decoder", {"name": "fine-tuning", "encoder": "frozen"})])
def test_a_resumed_run_is_the_run_that_was_never_stopped(family, method, folders, stories, tmp_path):
    wanted = spec(stories, folders[family], method=method, train={"epochs": 2})
    whole = headstart.fit(wanted, out=tmp_path / "whole").folder
    with pytest.raises(Interrupted):
        headstart.fit(wanted, out=tmp_path / "stopped", progress=Stops(quiet=True))
    resumed = headstart.fit(wanted, out=tmp_path / "stopped", resume=True).folder
    for name in ("model.safetensors", "golden.jsonl", "outcomes.npy"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("family", ["llama", "bart"])
@pytest.mark.parametrize("task", ["dialogue", "text-generation", "translation"])
def test_every_task_that_writes_fits_and_answers(task, family, folders, tmp_path, monkeypatch):
    examples = tasks.find(task).examples
    empty: dict[str, Any] = {"control": {}} if task == "text-generation" else {}  # as in any file
    gold, = tasks.find(task)().columns.gold
    rows = [{**empty, **row, gold: f"{row[gold]} {GOOD[i % 6]} {i}"} for i, row in enumerate(examples * 14)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    model = tiny.chat(shutil.copytree(folders[family], tmp_path / "model"))
    run = headstart.fit(spec(source, model, task={"name": task, "decoding": {"max_new_tokens": 8}}, method="lora",
                             data={"near_duplicate": 1.0}), out=tmp_path / "run")
    assert isinstance(run.task, WritingTask)
    assert (run.task.chat_format is not None) == (family in CAUSAL)
    assert run.certificate.task == task
    blind = [run.task.without_gold(row) for row in examples]
    answers = run.predict(blind)
    assert all(isinstance(answer["text"], str) for answer in answers)
    assert [run.predict([row])[0] for row in blind] == answers
    assert 0 <= run.evaluate(list(examples))["score"] <= 1
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (run.folder / "README.md").read_text("utf-8"), re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", "run").replace("artifact.predict", "answers = artifact.predict"), names)
    assert "text" in names["answers"][0]


def test_without_texts_no_file_of_an_artifact_holds_one(folders, stories, tmp_path):
    run = headstart.fit(spec(stories, folders["gpt2"], method="lora", data={"keep_texts": False}), out=tmp_path / "run")
    texts = [text for row in tiny.stories(80) for text in row.values() if len(text) > 12]
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not [text for text in texts if text.encode() in content], path.name


def test_a_model_that_is_told_the_language_by_a_token_is_told_it(tmp_path):
    from tokenizers import AddedToken, Tokenizer, processors

    folder = tiny.seq2seq(tmp_path / "model", "mbart", vocab_size=720)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("en_XX", "de_DE", "ro_RO")])
    english, german = tokenizer.token_to_id("en_XX"), tokenizer.token_to_id("de_DE")
    tokenizer.post_processor = processors.TemplateProcessing(single="en_XX $A [SEP]", special_tokens=[
        ("[SEP]", 3), ("en_XX", english)])
    tokenizer.save(str(folder / "tokenizer.json"))
    rows = list(tasks.find("translation").examples)
    asked = {"name": "translation", "source_language": "German", "target_language": "en"}
    loaded = backbones.load_backbone(str(folder), 64)
    task = tasks.build(asked).learn(rows).fitted_to(loaded.reader, lambda: None)
    window, = task.encode(0, rows[0], loaded.reader)
    assert window.inputs["input_ids"][0] == german
    assert window.inputs["decoder_input_ids"][:2] == [3, english]
    assert window.inputs["predicts"][:2] == [0, 1]
    for option, language in (("target_language", ""), ("target_language", "fr"), ("source_language", "Klingon")):
        with pytest.raises(SpecError, match=option):
            tasks.build({**asked, option: language}).learn(rows).fitted_to(loaded.reader, lambda: None)
