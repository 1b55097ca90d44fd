"""What every task must do, whatever it asks. A new file in headstart/tasks is picked up by itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from headstart import tasks
from headstart.core.errors import SpecError
from headstart.core.predict import predict
from headstart.core.task import Task
from headstart.core.values import IGNORE, collate
from headstart.models import backbone as backbones
from headstart.models.families import FAMILIES
from headstart.models.runtime import TorchRuntime
from headstart.tasks.text_classification import TextClassification

NAMES = tasks.names()
CPU = torch.device("cpu")


def test_tasks_are_found():
    assert "text-classification" in NAMES


@pytest.fixture(params=NAMES)
def task(request) -> Task:
    kind = tasks.find(request.param)
    return kind().learn(kind.examples)


@pytest.fixture
def loaded(backbone, language_model, task):
    return backbones.load_backbone(str(backbone if task.generation is None else language_model), 64)


@pytest.fixture
def model(loaded, task):
    return backbones.build_model(loaded, task, "mean", seed=0).eval()


def windows_of(task, reader, rows=None):
    return [w for i, row in enumerate(rows or task.examples) for w in task.encode(i, row, reader)]


def batch_of(windows, pad_id, longer=0):
    inputs = {k: [w.inputs[k] for w in windows] for k in windows[0].inputs}
    batch = collate(inputs, {k: [w.target[k] for w in windows] for k in windows[0].target}, pad_id)
    if longer:
        n_tokens = batch.inputs["input_ids"].shape[1]
        for name, a in batch.inputs.items():
            fill = pad_id if name == "input_ids" else 0
            batch.inputs[name] = np.pad(a, ((0, 0), (0, longer)), constant_values=fill)
        for name, a in batch.target.items():
            if a.ndim == 2 and a.shape[1] == n_tokens:
                batch.target[name] = np.pad(a, ((0, 0), (0, longer)), constant_values=IGNORE)
    return batch


def tensors(arrays):
    return {k: torch.from_numpy(a) for k, a in arrays.items()}


def loss_of(model, task, batch):
    return task.loss(model(tensors(batch.inputs)).logits, tensors(batch.target))


def gradient(model, task, batches):
    model.zero_grad()
    count = 0.0
    for batch in batches:
        summed, n = loss_of(model, task, batch)
        summed.backward()
        count += float(n)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / count


def without_gold(task):
    return [task.without_gold(row) for row in task.examples]


def is_close(a, b):
    """Equal, numbers to rounding."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_close(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(is_close, a, b))
    return a == pytest.approx(b, abs=1e-4) if isinstance(a, float) else a == b


def fitted(task, loaded):
    """A model that knows the examples by heart, and its losses on the way."""
    model = backbones.build_model(loaded, task, "mean", seed=1)
    batch = batch_of(windows_of(task, loaded.reader), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(80):
        summed, n = loss_of(model, task, batch)
        (summed / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed.item() / float(n))
    return model.eval(), losses


def test_encodes_its_own_examples(task, loaded):
    for row in task.examples:
        assert task.check(row) is None
    assert task.check_gold(task.examples) == []
    windows = windows_of(task, loaded.reader)
    assert [w.row for w in windows] == sorted(w.row for w in windows)
    assert {w.row for w in windows} == set(range(len(task.examples)))
    for w in windows:
        assert 0 < len(w) <= loaded.reader.max_tokens
        assert w.target
        assert all(len(values) == len(w) for values in w.inputs.values())


def test_gold_is_hidden_when_predicting(task, loaded):
    assert all(w.target == {} for w in windows_of(task, loaded.reader, without_gold(task)))


def test_a_confidence_is_a_probability_or_none(task, loaded, model):
    answers = list(predict(task, without_gold(task), loaded.reader, TorchRuntime(model, CPU)))
    values = [task.confidence(answer) for answer in answers]
    assert len(values) == len(task.examples)
    has_scores = any(value is not None for value in values)
    has_none = task.name in ("text-regression", "sentence-similarity") or task.generation is not None
    assert has_scores != has_none
    assert all(0 <= value <= 1 for value in values if value is not None)


def test_a_batch_is_not_corrupted_unless_the_task_says_so(task, loaded):
    batch = batch_of(windows_of(task, loaded.reader), 0)
    assert task.corrupt(batch, np.random.default_rng(0)) is batch


def test_a_backbone_of_another_kind_is_refused(task, backbone):
    loaded = backbones.load_backbone(str(backbone), 64)
    if task.generation is not None:
        with pytest.raises(SpecError, match="is an encoder, which writes nothing") as raised:
            backbones.build_model(loaded, task, "mean", seed=0)
        assert "--backbone" in raised.value.fix
        return
    writes = type("Writes", (type(task),), {"architectures": ("causal", "encoder-decoder")})
    written = writes(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)})
    with pytest.raises(SpecError, match=f'read as an encoder, and task "{task.name}" needs.*causal, encoder-decoder'):
        backbones.build_model(loaded, written, "mean", seed=0)


def test_the_head_is_what_the_task_describes(task, loaded, model):
    width = loaded.config.vocab_size if model.writes else loaded.config.hidden_size
    assert model.output.out_features == (task.head.n_outputs or width)
    assert model.per_token == (task.head.kind == "tokens")
    assert (task.generation is None) == (task.head.kind != "language-model")


def test_columns_say_what_stands_in_a_row(task):
    columns = task.columns
    assert {column for row in task.examples for column in row} <= set(columns.rules)
    assert set(columns.inputs) == set(columns.rules) - set(columns.gold)
    assert set(columns.required_inputs) <= set(columns.inputs)
    assert set(columns.gold) <= set(columns.rules)
    assert not set(columns.required) & set(columns.optional)
    assert columns.signatures
    for row in task.examples:
        assert set(columns.required) <= set(row)
        assert not set(task.without_gold(row)) & set(columns.gold)


def test_is_what_its_fields_say(task):
    again = tasks.restore(task.name, json.loads(json.dumps(dataclasses.asdict(task))))
    assert again == task
    assert tasks.options_of(tasks.build(tasks.options_of(task))) == tasks.options_of(task)


def test_gradient_of_one_batch_is_that_of_its_pieces(task, loaded, model):
    if task.compares_rows:
        pytest.skip("its loss compares the rows of a batch")
    rows = (list(task.examples) * 16)[:16]
    whole = gradient(model, task, [batch_of(windows_of(task, loaded.reader, rows), 0)])
    for size in (4, 1):
        pieces = [batch_of(windows_of(task, loaded.reader, rows[i : i + size]), 0) for i in range(0, 16, size)]
        torch.testing.assert_close(gradient(model, task, pieces), whole, rtol=1e-5, atol=1e-6)


def test_longer_padding_changes_nothing(task, loaded, model):
    windows = windows_of(task, loaded.reader)
    short, long = batch_of(windows, 0), batch_of(windows, 0, longer=9)
    with torch.no_grad():
        short_logits, long_logits = model(tensors(short.inputs)).logits, model(tensors(long.inputs)).logits
        losses = [task.loss(logits, tensors(batch.target)) for logits, batch in
                  ((short_logits, short), (long_logits, long))]
    if model.per_token:
        long_logits = long_logits[:, : short_logits.shape[1]]
        mask_BT = torch.from_numpy(short.inputs["attention_mask"]).bool()
        short_logits, long_logits = short_logits[mask_BT], long_logits[mask_BT]
    atol = 1e-5 if model.writes else 1e-6  # more logits, and larger ones
    torch.testing.assert_close(long_logits, short_logits, rtol=1e-5, atol=atol)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)


def test_same_answer_in_a_batch_and_alone(task, loaded, model):
    runtime = TorchRuntime(model, CPU)
    together = list(predict(task, without_gold(task), loaded.reader, runtime))
    alone = [next(predict(task, [row], loaded.reader, runtime)) for row in without_gold(task)]
    assert len(together) == len(task.examples)
    for a, b in zip(together, alone, strict=True):
        assert is_close(a, b), (a, b)
        assert json.loads(json.dumps(a)) == a


def test_learns_its_own_examples_and_answers_them(task, loaded):
    model, losses = fitted(task, loaded)
    assert losses[-1] < 0.5 * losses[0]
    answers = list(predict(task, without_gold(task), loaded.reader, TorchRuntime(model, CPU)))
    tuned = task.calibrate(answers, task.examples)
    answers = [tuned.apply_threshold(answer) for answer in answers]
    scores = tuned.score(tuned.outcomes(answers, task.examples))
    assert scores[task.metric] > 0.95
    details = tuned.details(answers, task.examples)
    assert json.loads(json.dumps(details)) == details


def test_aligned_drops_what_is_ignored(task, loaded, model):
    batch = batch_of(windows_of(task, loaded.reader), 0, longer=3)
    scores_NK, gold_N = task.aligned(model(tensors(batch.inputs)).logits, tensors(batch.target))
    assert scores_NK.ndim == 2
    assert len(scores_NK) == len(gold_N) > 0
    assert (gold_N != IGNORE).all()


def test_scores_of_any_resample_are_numbers(task, loaded, model):
    rng = np.random.default_rng(0)
    answers = list(predict(task, without_gold(task), loaded.reader, TorchRuntime(model, CPU)))
    outcomes = task.outcomes(answers, task.examples)
    assert len(outcomes) == len(task.examples)
    for _ in range(20):
        scores = task.score(outcomes[rng.integers(len(outcomes), size=3)])
        assert task.metric in scores
        assert all(np.isfinite(value) for value in scores.values())
        assert -1 <= scores[task.metric] <= 1


def test_baselines_answer_every_test_row(task):
    baselines = dict(task.baselines(task.examples, task.examples, task.examples, 0))
    assert baselines
    assert set(baselines) <= set(task.baseline_titles)
    for answers in baselines.values():
        scores = task.score(task.outcomes(answers, task.examples))
        assert np.isfinite(scores[task.metric])


def test_bad_rows_are_told_and_nothing_breaks(task):
    bad: Any
    for row in task.examples:
        for column in row:
            for bad in (None, "", [], {}, 1.5e300, float("nan"), [None], [[1, 2], [3]]):
                flaw = task.check({**row, column: bad})
                assert flaw is None or flaw.startswith('"')
                assert flaw is None or len(flaw) < 500


@pytest.mark.parametrize("adds_tokens", [True, False])
def test_a_text_of_no_token_gets_an_answer(task, tmp_path, adds_tokens):
    if task.generation is not None:
        pytest.skip("its prompt always has a token; tests/contract/test_writing_models.py")
    folder = tiny.backbone(tmp_path / "model")
    if not adds_tokens:
        described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        (folder / "tokenizer.json").write_text(json.dumps({**described, "post_processor": None}), "utf-8")
    loaded = backbones.load_backbone(str(folder), 64)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    dropped = "\u200b\u200d"  # the tokenizer takes both for nothing
    rows = [{key: dropped if key in ("text", "question", "context") else value for key, value in row.items()}
            for row in without_gold(task)]
    rows = [row if "head_span" not in row else {**row, "head_span": [0, 1], "tail_span": [1, 2]} for row in rows]
    rows = [row if "tokens" not in row else {"tokens": [dropped]} for row in rows]
    for answer in predict(task, rows, loaded.reader, TorchRuntime(model, CPU)):
        assert all(np.isfinite(value) for value in numbers(answer))


def numbers(value):
    """Every float of an answer."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("pooling", ["mean", "first", "max", "native"])
def test_every_family_with_every_head(family, pooling, tmp_path):
    task = TextClassification(labels=("a", "b", "c"))
    loaded = backbones.load_backbone(str(tiny.backbone(tmp_path / family, family)), 64)
    if pooling == "native" and not FAMILIES[family].has_native_head:
        with pytest.raises(SpecError, match=f'"native" is not for {family}'):
            backbones.build_model(loaded, task, pooling, seed=0)
        return
    model = backbones.build_model(loaded, task, pooling, seed=0).eval()
    caught = []
    model.output.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    windows = windows_of(task, loaded.reader, [{"text": "the lovely room"}, {"text": "a dull film was very cold"}])
    batch = batch_of(windows, loaded.reader.pad_id)
    with torch.no_grad():
        logits_BK = model(tensors(batch.inputs)).logits
        assert logits_BK.shape == (2, 3)
        torch.testing.assert_close(model.output(caught[0]), logits_BK)  # what a probe solves is the last layer
        long = model(tensors(batch_of(windows, loaded.reader.pad_id, longer=7).inputs)).logits
    torch.testing.assert_close(long, logits_BK, rtol=1e-4, atol=1e-5)
