"""`backbone: {name, keep_blocks}`: what is loaded is the pretrained model without some of its blocks."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

import headstart
from headstart import tasks
from headstart.core.errors import HeadstartError, SpecError
from headstart.core.pretrained import BackboneSpec
from headstart.core.spec import resolve_layers
from headstart.models import backbone as backbones
from headstart.models import blocks, families

DEEP = {"num_hidden_layers": 4, "n_layers": 4, "n_layer": 4, "num_layers": 4}


def deep(folder, family="bert"):
    deeper: dict[str, Any] = {name: 4 for name in tiny.FAMILIES[family] if name in DEEP}
    return tiny.backbone(folder, family, **deeper)


def built(folder, keep=None):
    kind = tasks.find("text-classification")
    loaded = backbones.load_backbone(str(folder), 64, keep_blocks=keep)
    return backbones.build_model(loaded, kind().learn(kind.examples), "mean", seed=0).eval()


WITH_BLOCKS = [name for name, family in families.FAMILIES.items() if family.blocks and family.loaded_as]


def test_all_families_with_blocks_are_tried():
    assert len(WITH_BLOCKS) == 14


@pytest.mark.parametrize("family", WITH_BLOCKS)
def test_the_weights_are_those_of_the_blocks_that_stay(family, tmp_path):
    folder = deep(tmp_path / "model", family)
    whole, kept = built(folder), built(folder, (0, 3))
    ours, theirs = blocks.of(kept.encoder), blocks.of(whole.encoder)
    assert len(ours) == 2
    for block, before in zip(ours, (theirs[0], theirs[3]), strict=True):
        assert block.state_dict().keys() == before.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(block.state_dict().values(), before.state_dict().values(),
                                                     strict=True))
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    assert torch.isfinite(kept(inputs).logits).all()


@pytest.mark.parametrize("method", ["fine-tuning", {"name": "lora", "alone": True}, "prompt-tuning"], ids=str)
def test_what_was_fitted_loads_with_its_own_blocks(method, reviews, tmp_path):
    folder = deep(tmp_path / "model")
    spec = tiny.spec(reviews, folder, method=method, data={"limit": 60}, train={"epochs": 1},
                     evaluate={"n_resamples": 100, "baselines": False})
    run = headstart.fit({**spec, "backbone": {"name": str(folder), "keep_blocks": [1, 2]}}, out=tmp_path / "run")
    assert run.predict("a lovely film") == headstart.load(tmp_path / "run").predict("a lovely film")
    assert run.spec.backbone.keep_blocks == (1, 2)
    assert "of its blocks 1, 2" in run.scores["backbone"]
    if method == "fine-tuning":
        assert headstart.export(run.folder, out=tmp_path / "onnx").spec.backbone == run.spec.backbone
    again = headstart.fit({**spec, "method": "fine-tuning", "backbone": str(tmp_path / "run")}, out=tmp_path / "on"
                          ) if method == "fine-tuning" else run
    assert again.predict("a lovely film")


@pytest.mark.parametrize(("blocks_kept", "words"), [
    ([], "must name one block or more"), ([2, 1], "ascending"), ([1, 1], "ascending"), ([-1], "greater than or equal"),
    ([0, 9], "names block 9, and the backbone has 4"), ("all", "valid tuple"), ([True], "valid integer")])
def test_blocks_that_cannot_be(blocks_kept, words, reviews, tmp_path):
    folder = deep(tmp_path / "model")
    with pytest.raises(HeadstartError, match=words) as raised:
        headstart.fit({**tiny.spec(reviews, folder), "backbone": {"name": str(folder), "keep_blocks": blocks_kept}},
                      out=tmp_path / "run")
    assert raised.value.fix


def test_the_fix_of_a_block_that_is_not_there_works(tmp_path):
    folder = deep(tmp_path / "model")
    with pytest.raises(SpecError) as raised:
        built(folder, (4,))
    assert raised.value.fix == "Choose among them: --set 'backbone.keep_blocks=[0, 2]'"
    assert len(blocks.of(built(folder, (0, 2)).encoder)) == 2


def test_a_name_stays_a_name():
    spec, origins = resolve_layers(("file", {"data": {"train": "x"}, "backbone": "a/b"}))
    assert spec.backbone == BackboneSpec(name="a/b")
    assert spec.model_dump()["backbone"] == "a/b"
    assert origins["backbone"] == "file"
    spec, origins = resolve_layers(("file", {"data": {"train": "x"}, "backbone": {"name": "a/b", "keep_blocks": [0]}}),
                                   ("call", {"backbone": "c/d"}))
    assert spec.model_dump()["backbone"] == "c/d"
    assert origins["backbone"] == "call"
    spec, origins = resolve_layers(("file", {"data": {"train": "x"}, "backbone": "a/b"}),
                                   ("--set", {"backbone": {"keep_blocks": [0, 2]}}))
    assert spec.model_dump()["backbone"] == {"name": "a/b", "keep_blocks": [0, 2]}
    assert origins["backbone.name"] == "file"
    assert origins["backbone.keep_blocks"] == "--set"
