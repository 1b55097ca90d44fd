"""What every task must do, whatever it asks. A new file in headstart/tasks is picked up by itself."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from headstart import backbone as backbones
from headstart import tasks
from headstart.errors import SpecError
from headstart.predict import predict, torch_runtime
from headstart.tasks import Task
from headstart.types import IGNORE, collate

NAMES = tasks.names()
CPU = torch.device("cpu")


def test_tasks_are_found():
    assert "text-classification" in NAMES


@pytest.fixture(params=NAMES)
def task(request) -> Task:
    kind = tasks.find(request.param)
    return kind().learn(kind.examples)


@pytest.fixture
def loaded(backbone):
    return backbones.load(str(backbone), 64)


@pytest.fixture
def model(loaded, task):
    return backbones.build(loaded, task, "mean", seed=0).eval()


def windows_of(task, reader, rows=None):
    return [w for i, row in enumerate(rows or task.examples) for w in task.encode(i, row, reader)]


def batch_of(windows, pad_id, longer=0):
    inputs = {k: [w.inputs[k] for w in windows] for k in windows[0].inputs}
    batch = collate(inputs, {k: [w.target[k] for w in windows] for k in windows[0].target}, pad_id)
    if longer:
        for name, a in batch.inputs.items():
            fill = pad_id if name == "input_ids" else 0
            batch.inputs[name] = np.pad(a, ((0, 0), (0, longer)), constant_values=fill)
    return batch


def tensors(arrays):
    return {k: torch.from_numpy(a) for k, a in arrays.items()}


def gradient(model, task, batches):
    model.zero_grad()
    count = 0
    for batch in batches:
        summed, n = task.loss(model(tensors(batch.inputs)), tensors(batch.target))
        summed.backward()
        count += float(n)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / count


def test_encodes_its_own_examples(task, loaded):
    for row in task.examples:
        assert task.check(row) is None
    windows = windows_of(task, loaded.reader)
    assert {w.row for w in windows} == set(range(len(task.examples)))
    for w in windows:
        assert 0 < len(w) <= loaded.reader.max_tokens
        assert w.target


def test_gold_is_hidden_when_predicting(task, loaded):
    blind = [{k: v for k, v in row.items() if k not in task.gold} for row in task.examples]
    assert all(w.target == {} for w in windows_of(task, loaded.reader, blind))


def test_gradient_of_one_batch_is_that_of_its_pieces(task, loaded, model):
    windows = (windows_of(task, loaded.reader) * 16)[:16]
    whole = gradient(model, task, [batch_of(windows, 0)])
    for size in (4, 1):
        pieces = [batch_of(windows[i : i + size], 0) for i in range(0, 16, size)]
        torch.testing.assert_close(gradient(model, task, pieces), whole, rtol=1e-5, atol=1e-6)


def test_longer_padding_changes_nothing(task, loaded, model):
    windows = windows_of(task, loaded.reader)
    with torch.no_grad():
        short = model(tensors(batch_of(windows, 0).inputs))
        long = model(tensors(batch_of(windows, 0, longer=9).inputs))
    torch.testing.assert_close(long, short, rtol=1e-5, atol=1e-6)


def test_same_answer_in_a_batch_and_alone(task, loaded, model):
    blind = [{k: v for k, v in row.items() if k not in task.gold} for row in task.examples]
    runtime = torch_runtime(model, CPU)
    together = list(predict(task, blind, loaded.reader, runtime))
    alone = [next(predict(task, [row], loaded.reader, runtime)) for row in blind]
    assert len(together) == len(blind)
    for a, b in zip(together, alone, strict=True):
        assert a["label"] == b["label"]
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)


def test_gold_logits_decode_to_the_gold_answer(task, loaded):
    windows = windows_of(task, loaded.reader)
    sure = 50.0 * np.eye(task.n_outputs, dtype=np.float32)
    answers = [task.decode(task.examples[w.row], [w], [sure[w.target["label"]]]) for w in windows]
    scores = task.score(task.outcomes(answers, task.examples))
    assert scores[task.metric] == 1.0


def test_aligned_drops_what_is_ignored(task, loaded, model):
    batch = batch_of(windows_of(task, loaded.reader), 0)
    scores_NK, gold_N = task.aligned(model(tensors(batch.inputs)), tensors(batch.target))
    assert scores_NK.shape == (len(gold_N), task.n_outputs)
    assert (gold_N != IGNORE).all()


def test_scores_are_between_zero_and_one_on_any_resample(task):
    rng = np.random.default_rng(0)
    answers = [{"label": row["label"], "scores": {}} for row in task.examples]
    outcomes = task.outcomes(answers, task.examples)
    for _ in range(20):
        for value in task.score(outcomes[rng.integers(len(outcomes), size=3)]).values():
            assert 0.0 <= value <= 1.0


def test_fits_its_own_examples(task, loaded):
    model = backbones.build(loaded, task, "mean", seed=1)
    batch = batch_of(windows_of(task, loaded.reader), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        summed, n = task.loss(model(tensors(batch.inputs)), tensors(batch.target))
        (summed / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed.item() / int(n))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("pooling", ["mean", "first", "max", "native"])
def test_every_family_with_every_head(family, pooling, tmp_path):
    task = tasks.find("text-classification")(labels=("a", "b", "c"))
    loaded = backbones.load(str(tiny.backbone(tmp_path / family, family)), 64)
    if pooling == "native" and family in backbones.NO_NATIVE:
        with pytest.raises(SpecError, match=f'"native" is not for {family}'):
            backbones.build(loaded, task, pooling, seed=0)
        return
    model = backbones.build(loaded, task, pooling, seed=0).eval()
    caught = []
    model.output.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    windows = windows_of(task, loaded.reader, [{"text": "the lovely room"}, {"text": "a dull film was very cold"}])
    batch = batch_of(windows, loaded.reader.pad_id)
    with torch.no_grad():
        logits_BK = model(tensors(batch.inputs))
        assert logits_BK.shape == (2, 3)
        torch.testing.assert_close(model.output(caught[0]), logits_BK)  # what a probe solves is the last layer
        long = model(tensors(batch_of(windows, loaded.reader.pad_id, longer=7).inputs))
    torch.testing.assert_close(long, logits_BK, rtol=1e-4, atol=1e-5)
