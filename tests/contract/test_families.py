"""What every family of backbones must do: its lowest blocks can be left out once their answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch

import headstart
from headstart import methods, tasks
from headstart.core.errors import SpecError
from headstart.core.values import collate
from headstart.models import adapters, blocks
from headstart.models import backbone as backbones
from headstart.models.families import FAMILIES

N_FAMILIES, N_ENTERED, N_TAKING_PREFIX, N_NATIVE = 14, 12, 7, 11
ADAPTED = ["lora", "ia3", "adapter", "bitfit", "dora", "prompt-tuning", "prefix-tuning"]
CANNOT = {"bitfit": {"llama", "t5", "modernbert"},
          "prefix-tuning": {name for name, family in FAMILIES.items() if not family.takes_prefix}}


def test_every_family_is_tested():
    assert tiny.FAMILIES.keys() == FAMILIES.keys()
    counts = [sum(bool(has(family)) for family in FAMILIES.values()) for has in (
        lambda f: f.name, lambda f: f.blocks, lambda f: f.takes_prefix, lambda f: f.has_native_head)]
    assert counts == [N_FAMILIES, N_ENTERED, N_TAKING_PREFIX, N_NATIVE]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    return request.param, tiny.backbone(tmp_path_factory.mktemp(request.param) / "model", request.param)


def built(folder):
    task = tasks.find("text-classification")(labels=("bad", "good"))
    loaded = backbones.load(str(folder), 64)
    model = backbones.build(loaded, task, "mean", seed=0).eval()
    rows = tiny.rows(6)
    inputs = collate({"input_ids": [task.encode(0, {"text": r["text"]}, loaded.reader)[0].inputs["input_ids"]
                                    for r in rows]}, {}, loaded.reader.pad_id).inputs
    return model, {name: torch.from_numpy(a) for name, a in inputs.items()}


def test_a_model_entered_in_the_middle_says_what_the_whole_one_says(family):
    name, folder = family
    model, inputs = built(folder)
    layers = blocks.of(model.encoder)
    assert len(layers) == (2 if FAMILIES[name].blocks else 0)
    with torch.no_grad():
        whole = model(inputs)
        for n in range(1, len(layers) + 1):
            with blocks.caught(layers[n - 1], lambda _, said: said) as seen:
                model(inputs)
            hidden_BTD = blocks.Span(model, 0, n)(inputs)
            torch.testing.assert_close(hidden_BTD, seen[0], atol=0, rtol=0)
            torch.testing.assert_close(blocks.Span(model, n)(inputs, hidden_BTD), whole)
        if len(layers) > 1:
            first = blocks.Span(model, 0, 1)(inputs)
            torch.testing.assert_close(blocks.Span(model, 1, 2)(inputs, first), hidden_BTD)
        torch.testing.assert_close(model(inputs), whole)  # the twins left it as it was


def test_cached_and_uncached_training_reach_the_same_weights(family, reviews, tmp_path):
    name, folder = family
    # A random head and plain gradient steps: a solved head is only known to its tolerance, and Adam divides rounding
    # by rounding where a gradient is nearly zero.
    method = {"name": "fine-tuning", "head_first": False} | ({"last_blocks": 1} if FAMILIES[name].blocks else {})
    weights = {}
    for cache in ("fp32", "off"):
        spec = tiny.spec(reviews, folder, method=copy.deepcopy(method), cache=cache, data={"limit": 40},
                         train={"epochs": 1, "dropout": 0.1, "optimizer": "sgd", "lr": 0.05},
                         evaluate={"baselines": False})
        run = headstart.fit(spec, out=tmp_path / cache)
        weights[cache] = tensors(run.folder)
    assert weights["fp32"].keys() == weights["off"].keys()
    for key, value in weights["fp32"].items():
        np.testing.assert_allclose(value, weights["off"][key], atol=1e-5, err_msg=key)


def tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors") | load_file(folder / "head.safetensors")


@pytest.mark.parametrize("method_name", ADAPTED)
def test_a_method_moves_and_stores_a_family_or_says_why_not(family, method_name, tmp_path):
    name, folder = family
    method = methods.build({"name": method_name})
    model, inputs = built(folder)
    with torch.no_grad():
        pretrained = model(inputs)
    if name in CANNOT.get(method_name, ()):
        with pytest.raises(SpecError, match=f'"{method_name}"') as raised:
            method.prepare(model)
        assert "se lora" in raised.value.fix
        return
    method.prepare(model)
    with torch.no_grad(), method.as_pretrained(model):
        torch.testing.assert_close(model(inputs), pretrained)
    optimizer = torch.optim.Adam(method.groups(model, 1e-2, 0.0))
    losses = []
    for _ in range(10):
        loss = model(inputs)[:, 0].square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses) < losses[0]
    model.eval()
    with torch.no_grad():
        moved = model(inputs)
        model = method.finish(model)
        torch.testing.assert_close(model(inputs), moved, rtol=1e-4, atol=1e-4)
        if adapters.is_on(model):
            adapters.save(model, tmp_path / "adapter")
            fresh, _ = built(folder)
            adapters.restore(fresh, tmp_path / "adapter")
            fresh.head.load_state_dict(model.head.state_dict())
            torch.testing.assert_close(fresh.eval()(inputs), moved)
