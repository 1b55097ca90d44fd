"""What every family of backbones must do: its lowest blocks can be left out once their answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch

import headstart
from headstart import methods
from headstart.core.errors import SpecError
from headstart.core.values import collate
from headstart.models import adapters, blocks, families
from headstart.models import backbone as backbones
from headstart.models.heads import PoolHead
from headstart.tasks.text_classification import TextClassification

N_FAMILIES, N_ENTERED, N_TAKING_PREFIX, N_NATIVE = 16, 14, 9, 11
# Those without a use for their encoder alone: tests/contract/test_writing_models.py.
FAMILIES = {name: family for name, family in families.FAMILIES.items() if family.loaded_as}
ADAPTED = ["lora", "ia3", "adapter", "bitfit", "dora", "prompt-tuning", "prefix-tuning"]
CANNOT = {"bitfit": {"llama", "t5", "modernbert", "qwen3"},
          "prefix-tuning": {name for name, family in FAMILIES.items() if not family.takes_prefix}}


def test_every_family_is_tested():
    assert tiny.FAMILIES.keys() == FAMILIES.keys()
    counts = [sum(bool(has(family)) for family in FAMILIES.values()) for has in (
        lambda f: f.name, lambda f: f.blocks, lambda f: f.takes_prefix, lambda f: f.has_native_head)]
    assert counts == [N_FAMILIES, N_ENTERED, N_TAKING_PREFIX, N_NATIVE]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    return request.param, tiny.backbone(tmp_path_factory.mktemp(request.param) / "model", request.param)


def built(folder, pooling="mean"):
    task = TextClassification(labels=("bad", "good"))
    loaded = backbones.load_backbone(str(folder), 64)
    model = backbones.build_model(loaded, task, pooling, seed=0).eval()
    rows = tiny.rows(6)
    inputs = collate({"input_ids": [task.encode(0, {"text": r["text"]}, loaded.reader)[0].inputs["input_ids"]
                                    for r in rows]}, {}, loaded.reader.pad_id).inputs
    return model, {name: torch.from_numpy(a) for name, a in inputs.items()}


def test_a_model_entered_in_the_middle_answers_as_the_whole_one(family):
    name, folder = family
    model, inputs = built(folder)
    layers = blocks.of(model.encoder)
    assert len(layers) == (2 if FAMILIES[name].blocks else 0)
    with torch.no_grad():
        whole = model(inputs).logits
        for n in range(1, len(layers) + 1):
            hidden_BTD = blocks.Span(model, 0, n).hidden(inputs)
            torch.testing.assert_close(hidden_BTD, hidden_of(layers[n - 1], model, inputs), atol=0, rtol=0)
            torch.testing.assert_close(blocks.Span(model, n)(inputs, hidden_BTD).logits, whole)
        if len(layers) > 1:
            first = blocks.Span(model, 0, 1).hidden(inputs)
            torch.testing.assert_close(blocks.Span(model, 1, 2).hidden(inputs, first), hidden_BTD)
        torch.testing.assert_close(model(inputs).logits, whole)  # the twins left it as it was


def hidden_of(block, model, inputs):
    """What a block of the whole model computes."""
    seen = []
    with block.register_forward_hook(lambda _, inputs, out: seen.append(out[0] if isinstance(out, tuple) else out)):
        model(inputs)
    return seen[0]


@pytest.mark.parametrize("pooling", ["mean", "native"])
def test_outputs_have_what_is_wanted(family, pooling):
    name, folder = family
    if pooling == "native" and not FAMILIES[name].has_native_head:
        return
    model, inputs = built(folder, pooling)
    n_windows, n_tokens = inputs["input_ids"].shape
    with torch.no_grad():
        plain = model(inputs)
        outputs = model(inputs, want=frozenset({"hidden", "attentions", "features"}))
        assert (plain.hidden, plain.attentions) == ((), ())
        assert [hidden.shape for hidden in outputs.hidden] == 3 * [(n_windows, n_tokens, 32)]
        assert [a.shape for a in outputs.attentions] == 2 * [(n_windows, 2, n_tokens, n_tokens)]
        assert outputs.features.shape == (n_windows, model.output.in_features)
        torch.testing.assert_close(model.output(outputs.features), outputs.logits)
        torch.testing.assert_close(outputs.logits, plain.logits)
        torch.testing.assert_close(model(inputs).logits, plain.logits, atol=0, rtol=0)  # attention is fused again


def test_a_second_job_has_its_own_head(family):
    _, folder = family
    model, inputs = built(folder)
    names = set(model.own_head().state_dict())
    model.add_head("sentiment", PoolHead(32, 5, "first"))
    with torch.no_grad():
        second = model(inputs, "sentiment")
        torch.testing.assert_close(second.logits, model.more_heads["sentiment"].out(second.features))
        assert second.logits.shape == (6, 5)
        assert model(inputs).logits.shape == (6, 2)
    assert set(model.own_head().state_dict()) == names
    with pytest.raises(SpecError, match='"sentimnt" has no head; did you mean "sentiment"'):
        model(inputs, "sentimnt")
    native, _ = built(folder, "native") if FAMILIES[family[0]].has_native_head else (None, None)
    if native is not None:
        with pytest.raises(SpecError, match='"native" has no head for the job "sentiment"'):
            native(inputs, "sentiment")


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_cached_and_uncached_training_reach_the_same_weights(family, precision, reviews, tmp_path):
    name, folder = family
    # A random head and plain gradient steps: a solved head is only known to its tolerance, and Adam divides rounding
    # by rounding where a gradient is nearly zero.
    method = {"name": "fine-tuning", "head_first": False} | ({"last_blocks": 1} if FAMILIES[name].blocks else {})
    weights = {}
    for cache in ("fp32", "off"):
        spec = tiny.spec(reviews, folder, method=copy.deepcopy(method), cache=cache, data={"limit": 40},
                         train={"epochs": 1, "dropout": 0.1, "optimizer": "sgd", "lr": 0.05, "precision": precision},
                         evaluate={"baselines": False})
        if precision == "bf16" and not FAMILIES[name].has_16_bits:
            with pytest.raises(SpecError, match=f"is not for {name}: it cannot compute in 16 bits"):
                headstart.fit(spec, out=tmp_path / cache)
            return
        run = headstart.fit(spec, out=tmp_path / cache)
        weights[cache] = tensors(run.folder)
    assert weights["fp32"].keys() == weights["off"].keys()
    for key, value in weights["fp32"].items():  # a sum in another order may round to the next number of 8 bits
        np.testing.assert_allclose(value, weights["off"][key], atol=1e-5 if precision == "fp32" else 1e-3, err_msg=key)


def tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors") | load_file(folder / "head.safetensors")


@pytest.mark.parametrize("method_name", ADAPTED)
def test_a_method_moves_and_stores_a_family_or_says_why_not(family, method_name, tmp_path):
    name, folder = family
    method = methods.build({"name": method_name})
    model, inputs = built(folder)
    with torch.no_grad():
        pretrained = model(inputs).logits
    if name in CANNOT.get(method_name, ()):
        with pytest.raises(SpecError, match=f'"{method_name}"') as raised:
            method.prepare(model)
        assert "se lora" in raised.value.fix
        return
    method.prepare(model)
    with torch.no_grad(), model.as_pretrained():
        torch.testing.assert_close(model(inputs).logits, pretrained)
    optimizer = torch.optim.Adam(method.groups(model, 1e-2, 0.0))
    losses = []
    for _ in range(10):
        loss = model(inputs).logits[:, 0].square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses) < losses[0]
    model.eval()
    with torch.no_grad():
        moved = model(inputs).logits
        model = method.finish(model)
        torch.testing.assert_close(model(inputs).logits, moved, rtol=1e-4, atol=1e-4)
        if adapters.is_on(model):
            adapters.save(model, tmp_path / "adapter")
            fresh, _ = built(folder)
            adapters.restore(fresh, tmp_path / "adapter")
            fresh.head.load_state_dict(model.head.state_dict())
            torch.testing.assert_close(fresh.eval()(inputs).logits, moved)
