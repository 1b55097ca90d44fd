"""What every method must do, with every task. A new file in headstart/methods is picked up by itself."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import tiny
import torch

import headstart
from headstart import methods, tasks
from headstart.core.errors import SpecError
from headstart.core.values import Outputs, collate
from headstart.models import adapters
from headstart.models import backbone as backbones

NAMES = [name for name in methods.names() if name != "distillation"]  # it has a teacher: test_distillation.py


def fits(task_name, method_name):
    try:
        methods.build({"name": method_name}).check(tasks.build({"name": task_name}))
    except SpecError:
        return False
    return True


PAIRS = [(task_name, method_name) for task_name in tiny.ANSWERING for method_name in NAMES
         if fits(task_name, method_name)]
STAYING = {"adapter", "prefix-tuning", "prompt-tuning"}  # what they add is no part of the backbone in the end


def test_methods_and_pairs_are_found():
    assert NAMES == ["adapter", "auto", "bitfit", "dora", "fine-tuning", "ia3", "linear-probe", "lora",
                     "prefix-tuning", "prompt-tuning", "setfit"]
    assert len(methods.names()) == len(NAMES) + 1
    assert len(tasks.names()) == 12
    assert len(tiny.ANSWERING) == 8  # of the others: test_writing_models.py
    assert len(PAIRS) == 84  # of 88: setfit has no way to compare the answers of four tasks


def model_and_batch(backbone, task_name, method_name):
    """A learned task, a prepared method and its model, and the examples of the task as one batch."""
    kind, method = tasks.find(task_name), methods.build({"name": method_name})
    task = kind().learn(kind.examples)
    loaded = backbones.load_backbone(str(backbone), 64, method.plan.n_extra_tokens)
    windows = [w for i, row in enumerate(kind.examples) for w in task.encode(i, row, loaded.reader)]
    batch = collate({k: [w.inputs[k] for w in windows] for k in windows[0].inputs},
                    {k: [w.target[k] for w in windows] for k in windows[0].target}, loaded.reader.pad_id)
    inputs = {k: torch.from_numpy(a) for k, a in batch.inputs.items()}
    target = {k: torch.from_numpy(a) for k, a in batch.target.items()}
    model = backbones.build_model(loaded, task, "mean", seed=0)
    return task, method, model, inputs, target


def outputs_of(model, inputs, wants):
    """Logits, and of the rest only what is wanted."""
    outputs = model(inputs, want=wants)
    return Outputs(outputs.logits, outputs.features if "features" in wants else None)


def with_noise(model):
    """Weights as training could leave them: what a method added is no longer zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05)


@pytest.mark.parametrize(("task_name", "method_name"), PAIRS)
def test_its_loss_falls_and_only_the_weights_in_groups_move(backbone, task_name, method_name):
    task, method, model, inputs, target = model_and_batch(backbone, task_name, method_name)
    method.prepare(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = method.groups(model, 3e-3, 0.01)
    moving = {id(p) for group in groups for p in group["params"]}

    def loss():
        summed, count = method.loss(task, outputs_of(model, inputs, method.wants), target)
        assert summed.shape == count.shape == ()
        assert count > 0
        return summed, count

    losses, reached = tiny.descend(model, groups, loss, 30)
    assert losses[-1] < losses[0]
    assert moving
    # A loss that reads features has nothing to tell the head's last layer; it is solved, not trained.
    untouched = {id(p) for p in model.output.parameters()} if "features" in method.wants else set()
    assert reached == moving - untouched
    for name, p in model.named_parameters():
        # Rows of the embedding that no example reads have no gradient; the table as a whole moves.
        assert torch.equal(p, before[name]) != (id(p) in reached), name


@pytest.mark.parametrize("method_name", sorted(set(NAMES) - {"setfit"}))  # it compares the rows of a batch
def test_losses_of_logits_are_sums(backbone, method_name):
    task, method, model, inputs, target = model_and_batch(backbone, "text-classification", method_name)
    outputs = outputs_of(model.eval(), inputs, method.wants)
    pieces = [method.loss(task, Outputs(outputs.logits[i : i + 1]), {k: v[i : i + 1] for k, v in target.items()},
                          label_smoothing=0.1) for i in range(len(outputs.logits))]
    summed, count = method.loss(task, outputs, target, label_smoothing=0.1)
    torch.testing.assert_close(summed, sum(piece for piece, _ in pieces))
    assert count == sum(n for _, n in pieces) == len(outputs.logits)
    weights_K = torch.full((task.n_outputs,), 3.0)
    heavier, count_of_weights = method.loss(task, outputs, target, weights_K=weights_K, label_smoothing=0.1)
    torch.testing.assert_close(heavier, 3 * summed)
    assert count_of_weights == 3 * count


def test_what_methods_want_is_a_field_of_outputs():
    wanted = {name: methods.build({"name": name}).wants for name in NAMES}
    assert {name for name, wants in wanted.items() if wants} == {"setfit"}
    assert set().union(*wanted.values()) <= {field.name for field in fields(Outputs)} - {"logits"}


@pytest.mark.parametrize("method_name", NAMES)
def test_decay_spares_biases_and_norms(backbone, method_name):
    _, method, model, _, _ = model_and_batch(backbone, "text-classification", method_name)
    method.prepare(model)
    for group in method.groups(model, 1e-3, 0.5):
        assert {p.ndim > 1 for p in group["params"]} <= {group["weight_decay"] == 0.5}


@pytest.mark.parametrize("method_name", NAMES)
def test_finish_keeps_the_outputs(backbone, method_name):
    _, method, model, inputs, _ = model_and_batch(backbone, "text-classification", method_name)
    method.prepare(model)
    with_noise(model)
    model.eval()
    with torch.no_grad():
        before = copy.deepcopy(model)(inputs).logits
        finished = method.finish(model)
        torch.testing.assert_close(finished(inputs).logits, before)
    assert adapters.is_on(finished) == (method_name in STAYING)


@pytest.mark.parametrize("method_name", NAMES)
def test_as_pretrained_gives_the_outputs_of_the_backbone(backbone, method_name):
    _, method, model, inputs, _ = model_and_batch(backbone, "text-classification", method_name)
    model.eval()
    with torch.no_grad():
        pretrained = model(inputs).logits
        method.prepare(model)
        model.eval()
        with model.as_pretrained():
            torch.testing.assert_close(model(inputs).logits, pretrained)


@pytest.mark.parametrize("method_name", NAMES)
def test_one_seed_one_result(method_name, backbone, reviews, tmp_path):
    settings = {"method": method_name, "data": {"limit": 80}, "train": {"epochs": 1},
                "evaluate": {"n_resamples": 100, "baselines": False}}
    runs = [headstart.fit(tiny.spec(reviews, backbone, **copy.deepcopy(settings)), out=tmp_path / name)
            for name in ("a", "b")]
    first, second = [(r.folder / "model.safetensors").read_bytes() + (r.folder / "head.safetensors").read_bytes()
                     for r in runs]
    assert first == second
    assert runs[0].scores["score"] == runs[1].scores["score"]
