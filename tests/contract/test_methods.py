"""What every method must do, with every task. A new file in headstart/methods is picked up by itself."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

import headstart
from headstart import methods, tasks
from headstart.core.values import collate
from headstart.models import backbone as backbones
from headstart.training import loop as train

NAMES = methods.names()
PAIRS = [(t, m) for t in tasks.names() for m in NAMES]


def test_methods_are_found():
    assert {"fine-tuning", "linear-probe"} <= set(NAMES)
    assert len(PAIRS) >= 2


def model_and_batch(backbone, task_name):
    kind = tasks.find(task_name)
    task = kind().learn(kind.examples)
    loaded = backbones.load(str(backbone), 64)
    windows = [w for i, row in enumerate(kind.examples) for w in task.encode(i, row, loaded.reader)]
    batch = collate({k: [w.inputs[k] for w in windows] for k in windows[0].inputs},
                    {k: [w.target[k] for w in windows] for k in windows[0].target}, loaded.reader.pad_id)
    inputs = {k: torch.from_numpy(a) for k, a in batch.inputs.items()}
    target = {k: torch.from_numpy(a) for k, a in batch.target.items()}
    return task, backbones.build(loaded, task, "mean", seed=0), inputs, target


@pytest.mark.parametrize(("task_name", "method_name"), PAIRS)
def test_only_the_weights_in_groups_move(backbone, task_name, method_name):
    task, model, inputs, target = model_and_batch(backbone, task_name)
    method = methods.build({"name": method_name})
    method.prepare(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = method.groups(model, 1e-2, 0.01)
    moving = {id(p) for group in groups for p in group["params"]}
    optimizer = train.optimizer("adamw", groups)
    losses = []
    for _ in range(30):
        summed, n = task.loss(model(inputs).logits, target)
        (summed / n).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed.item() / float(n))
    assert losses[-1] < losses[0]
    assert any(id(p) in moving for p in model.parameters())
    for name, p in model.named_parameters():
        # Rows of the embedding that no example reads have no gradient; the table as a whole moves.
        assert torch.equal(p, before[name]) != (id(p) in moving), name


@pytest.mark.parametrize("method_name", NAMES)
def test_decay_spares_biases_and_norms(backbone, method_name):
    _, model, _, _ = model_and_batch(backbone, "text-classification")
    method = methods.build({"name": method_name})
    method.prepare(model)
    for group in method.groups(model, 1e-3, 0.5):
        assert {p.ndim > 1 for p in group["params"]} <= {group["weight_decay"] == 0.5}


@pytest.mark.parametrize("method_name", NAMES)
def test_finish_keeps_the_outputs(backbone, method_name):
    _, model, inputs, _ = model_and_batch(backbone, "text-classification")
    method = methods.build({"name": method_name})
    method.prepare(model)
    model.eval()
    with torch.no_grad():
        before = copy.deepcopy(model)(inputs).logits
        torch.testing.assert_close(method.finish(model)(inputs).logits, before)


@pytest.mark.parametrize("method_name", NAMES)
def test_one_seed_one_result(method_name, backbone, reviews, tmp_path):
    said = {"method": method_name, "train": {"epochs": 1}, "evaluate": {"n_resamples": 100, "baselines": False}}
    runs = [headstart.fit(tiny.spec(reviews, backbone, **copy.deepcopy(said)), out=tmp_path / name)
            for name in ("a", "b")]
    first, second = [(r.folder / "model.safetensors").read_bytes() + (r.folder / "head.safetensors").read_bytes()
                     for r in runs]
    assert first == second
    assert runs[0].scores["score"] == runs[1].scores["score"]
