"""Model folders made to break us: each ends in one ModelError that names where and what, soon and in little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import time
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from headstart.core.errors import ArtifactError, HeadstartError, ModelError
from headstart.models import adapters
from headstart.models import backbone as backbones
from headstart.models.families import FAMILIES
from headstart.models.tensors import MAX_HEADER_BYTES
from headstart.readers.tokenizer import SAFE_PATTERNS, parse_tokenizer
from headstart.tasks.summarization import Summarization
from headstart.tasks.text_classification import TextClassification

HUGE = 10**9
MAX_SECONDS, MAX_GROWTH_KB = 30, 600_000


@pytest.fixture
def folder(backbone, tmp_path):
    return shutil.copytree(backbone, tmp_path / "model")


def built(folder, writes=False):
    task = Summarization() if writes else TextClassification(labels=("a", "b"))
    return backbones.build_model(backbones.load_backbone(str(folder), 64), task, "mean", 0)


def refused(call, kind: type[HeadstartError] = ModelError) -> str:
    """The message with which `call` stops: one that says where, what and what to do, in bounded time and memory."""
    began, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(kind) as caught:
        call()
    assert time.monotonic() - began < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MAX_GROWTH_KB
    assert caught.value.exit_code == 2
    assert caught.value.where
    assert caught.value.fix
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


def change_json(path, keys) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}), "utf-8")


# Values that are wrong for every key of that kind.
NO_SIZE = [0, -1, HUGE, "12", [12], True, 1.5, 1e308, {"a": 1}]
NO_SHARE = [-0.1, 1.5, "0.1", True, [0.1], 1e308]
NO_NAMES: list[Any] = [None, "x", ["none"], [7], [[]], [], {"a": 1}]
NO_EPSILON = [0, -1e-5, "x", True, [1e-5], 1e308]


@pytest.mark.parametrize(("key", "value"), [
    *((key, value) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                               "intermediate_size", "max_position_embeddings") for value in NO_SIZE),
    *((key, value) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob") for value in NO_SHARE),
    *(("layer_norm_eps", value) for value in NO_EPSILON),
    *(("hidden_act", value) for value in ("boom", "", 1, None, ["gelu"])),
    *(("pad_token_id", value) for value in (10**5, HUGE, -2, "0", True, [0], 141)),
    *(("type_vocab_size", value) for value in (-1, HUGE, "2", 0, 3)),
    ("num_hidden_layers", 1_000_000), ("num_hidden_layers", 200), ("num_hidden_layers", 1), ("num_hidden_layers", 3),
    ("num_attention_heads", 3), ("num_attention_heads", 64), ("hidden_size", 48), ("vocab_size", 140),
    ("vocab_size", 900_000), ("intermediate_size", 65), ("max_position_embeddings", 131),
    ("chunk_size_feed_forward", 7), ("initializer_range", -1.0), ("initializer_range", "x"),
    ("id2label", {"x": "a"}), ("id2label", ["a"]), ("id2label", {str(i): "a" for i in range(100_001)}),
    ("label2id", {"a": -1}), ("problem_type", "guessing"), ("problem_type", 3), ("architectures", "BertModel"),
    ("architectures", [1]), ("is_decoder", "yes"), ("use_cache", 3), ("add_cross_attention", True),
    ("dtype", 3), ("model_type", ["bert"]), ("model_type", {}), ("position_embedding_type", 3),
])
def test_values_of_config_json(folder, key, value):
    change_json(folder / "config.json", {key: value})
    told = refused(lambda: built(folder))
    assert str(folder) in told


def _family_cases():
    """One hostile value after another, for the keys by which each family is sized."""
    for name, settings in tiny.FAMILIES.items():
        for key in settings:
            if not key.endswith("_token_id") and isinstance(settings[key], int) and not isinstance(settings[key], bool):
                for value in (0, 255):
                    yield name, {key: value}
    for name in tiny.SEQ2SEQ:
        sizes = [key for key, value in tiny.SEQ2SEQ[name].items() if type(value) is int and not key.endswith("_id")]
        for key in (*sizes, "decoder_start_token_id", "forced_bos_token_id"):
            yield f"{name} that writes", {key: -3}
            yield f"{name} that writes", {key: 999_999}
    parts: list[Any] = [None, 7, {}, {"model_type": "none_such"}, {"model_type": "t5"},
                        {"model_type": "bert", "hidden_size": 0}, {"model_type": "encoder-decoder"},
                        {"model_type": "bert", "auto_map": {"AutoModel": "x.py"}}]
    for part in ("encoder", "decoder"):
        for value in parts:
            yield "encoder-decoder that writes", {part: value}
    yield "deberta", {"pos_att_type": ["x2y"], "relative_attention": False}
    yield "deberta", {"pooler_hidden_act": "boom"}
    yield "deberta", {"relative_attention": False}
    yield "deberta-v2", {"relative_attention": True}
    yield "deberta-v2", {"max_relative_positions": -7}
    yield "modernbert", {"layer_types": ["full_attention"]}
    yield "modernbert", {"layer_types": ["full_attention", "none_such"]}
    yield "modernbert", {"layer_types": "full_attention"}
    yield "modernbert", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": -1}}}
    yield "modernbert", {"local_attention": -3}
    yield "llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 0}}
    yield "llama", {"rope_parameters": {"rope_type": "none_such", "rope_theta": 1e4}}
    yield "llama", {"rope_theta": -5}
    yield "llama", {"head_dim": 7}
    yield "llama", {"num_key_value_heads": 3}
    yield "gpt2", {"n_positions": 0}
    yield "gpt2", {"activation_function": "boom"}
    yield "t5", {"feed_forward_proj": "boom-boom-boom"}
    yield "t5", {"relative_attention_num_buckets": 0}
    yield "t5", {"d_kv": 3}
    yield "albert", {"inner_group_num": 1000}
    yield "albert", {"num_hidden_groups": 3}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    assert {*tiny.FAMILIES, *tiny.SEQ2SEQ} == {*FAMILIES}
    return {name: tiny.backbone(root / name, name) for name in tiny.FAMILIES} | {
        f"{name} that writes": tiny.seq2seq(root / f"{name}-writes", name) for name in tiny.SEQ2SEQ}


@pytest.mark.parametrize(("name", "keys"), _family_cases())
def test_sizes_of_every_family(families, name, keys, tmp_path):
    if name == "albert" and keys == {"num_hidden_layers": 255}:
        pytest.skip("its layers share their weights: any number of them fits")
    folder = shutil.copytree(families[name], tmp_path / "model", copy_function=os.link)
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**json.loads(text), **keys}), "utf-8")
    refused(lambda: built(folder, writes=name.endswith("writes")))


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"decoder_start_token_id": "x"}', b'{"decoder_start_token_id": -1}',
                                     b'{"decoder_start_token_id": 99999}'])
def test_generation_config_of_a_decoder(families, content, tmp_path):
    folder = shutil.copytree(families["t5 that writes"], tmp_path / "model")
    change_json(folder / "config.json", {"decoder_start_token_id": None})
    (folder / "generation_config.json").write_bytes(content)
    refused(lambda: built(folder, writes=True))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": "1.0"}'])
def test_tokenizer_of_a_decoder(families, content, tmp_path):
    folder = shutil.copytree(families["encoder-decoder that writes"], tmp_path / "model")
    (folder / "target_tokenizer.json").write_bytes(content)
    assert "target_tokenizer.json" in refused(lambda: built(folder, writes=True))


@pytest.mark.parametrize("content", [
    b"", b"[]", b"null", b"{", b'{"a":' * 70 + b"1" + b"}" * 70, b'{"hidden_size": 1, "hidden_size": 2}',
    b'{"layer_norm_eps": NaN}', b'{"layer_norm_eps": Infinity}', b"\xff\xfe", b'{"a": "' + b"x" * 5_000_001 + b'"}',
])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_no_json(folder, name, content):
    if name == "tokenizer_config.json" and content.startswith(b'{"layer'):
        content = content.replace(b"layer_norm_eps", b"model_max_length")
    (folder / name).write_bytes(content)
    assert name in refused(lambda: built(folder))


def _tensor(tensors, name, value):
    tensors[name] = value


QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize("edit", [
    *(lambda tensors, dtype=dtype: _tensor(tensors, QUERY, torch.zeros(32, 32).to(dtype))
      for dtype in (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.uint8, torch.complex64)),
    *(lambda tensors, shape=shape: _tensor(tensors, QUERY, torch.zeros(shape))
      for shape in ((), (0,), (32,), (32, 33), (1, 32, 32), (0, 32), (1024,))),
    lambda tensors: tensors.pop(QUERY),
    lambda tensors: tensors.clear(),
    lambda tensors: _tensor(tensors, "encoder.layer.2.output.dense.bias", torch.zeros(32)),
    lambda tensors: _tensor(tensors, "encoder.surprise", torch.zeros(32)),
    lambda tensors: _tensor(tensors, f"bert.{QUERY}", torch.zeros(32, 32)),
    lambda tensors: _tensor(tensors, QUERY, torch.full((32, 32), torch.nan)),
    lambda tensors: _tensor(tensors, "encoder.layer.1.output.LayerNorm.weight", torch.full((32,), 3e38)),
])
def test_tensors_that_do_not_fit(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: built(folder))


def _header(values) -> bytes:
    text = json.dumps(values).encode() if not isinstance(values, bytes) else values
    return len(text).to_bytes(8, "little") + text


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("content", [
    b"", b"\0" * 8, (2**63).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{}",
    _header(b"[]"), _header(b"null"), _header(b"{"), _header(b"{" + b'"a":{' * 100),
    _header({"a": ONE}), _header({"a": ONE, "b": ONE}) + b"\0" * 4, _header({"a": 1}) + b"\0" * 4,
    _header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}') + b"\0" * 4,
    *(_header({"a": {**ONE, key: value}}) + b"\0" * 4 for key, value in (
        ("dtype", "F31"), ("dtype", 7), ("shape", [2]), ("shape", "1"), ("shape", [-1]), ("shape", [2**62, 4]),
        ("shape", [0, 2**62]), ("shape", [1] * 100), ("shape", [True]), ("shape", [1.0]), ("data_offsets", [4, 0]),
        ("data_offsets", [0, 2**62]), ("data_offsets", None), ("data_offsets", [-4, 0]))),
    _header(b"{" + b" " * MAX_HEADER_BYTES + b"}"),
])
def test_headers_of_safetensors(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in refused(lambda: built(folder))


def tokenizer_of(folder):
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def model(**keys):
    return lambda described: described["model"].update(keys)


def template(**keys):
    return lambda described: described["post_processor"].update(keys)


def added(**keys):
    token = {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    return lambda described: described.update(added_tokens=[{**token, **keys}])


TEXT, SEP = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
TOKENIZERS = {
    "a pattern that backtracks": lambda d: d.update(pre_tokenizer=split(r"(x+x+)+y")),
    "another": lambda d: d.update(pre_tokenizer=split(r"(a|aa)+$")),
    "one in the normalizer": lambda d: d.update(normalizer=replace({"Regex": r"(\s|\s\s)+b"}, "")),
    "one in a sequence": lambda d: d.update(normalizer={"type": "Sequence",
                                                        "normalizers": [replace({"Regex": r"(q+)+$"}, "")]}),
    "no pattern": lambda d: d.update(pre_tokenizer=split("(")),
    "a pattern of a wrong kind": lambda d: d.update(pre_tokenizer=split(7)),
    "a text that grows": lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [
        replace({"String": "a"}, "a" * 100)] * 6}),
    "a text that doubles": lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [
        replace({"String": "a"}, "aa")] * 40}),
    "a long prefix": lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 10**6}),
    "an unknown normalizer": lambda d: d.update(normalizer={"type": "Boom"}),
    "an unknown pre-tokenizer": lambda d: d.update(pre_tokenizer={"type": "Boom"}),
    "an unknown post-processor": lambda d: d.update(post_processor={"type": "Boom"}),
    "an unknown model": model(type="Boom"),
    "no model": lambda d: d.pop("model"),
    "a model that is a list": lambda d: d.update(model=[]),
    "an unknown token that is not there": model(unk_token="[NONE]"),
    "quadratic words": model(max_input_chars_per_word=10**9),
    "negative words": model(max_input_chars_per_word=-1),
    "an id beyond": lambda d: d["model"]["vocab"].update(zebra=5000),
    "an id beyond 32 bits": lambda d: d["model"]["vocab"].update(zebra=2**32),
    "a negative id": lambda d: d["model"]["vocab"].update(zebra=-1),
    "an id that is a string": lambda d: d["model"]["vocab"].update(zebra="7"),
    "a vocabulary that is a number": model(vocab=7),
    "an added token beyond": added(id=9999, content="[NEW]"),
    "a negative added token": added(id=-1),
    "an added token of a wrong kind": added(content=7),
    "special tokens beyond": template(special_tokens={
        name: {"id": name, "ids": [9999], "tokens": [name]} for name in ("[CLS]", "[SEP]")}),
    "special tokens that are not listed": template(special_tokens={}),
    "a template without the text": template(single=[SEP]),
    "a template with the text twice": template(single=[TEXT, TEXT]),
    "a pair without its second": template(pair=[TEXT, SEP]),
    "a template that fills the window": template(single=[TEXT, *[SEP] * 500], pair=[
        TEXT, {"Sequence": {"id": "B", "type_id": 1}}, *[SEP] * 500]),
    "a type beyond": template(pair=[TEXT, {"Sequence": {"id": "B", "type_id": 9}}]),
    "negative truncation": lambda d: d.update(truncation={"max_length": -1, "strategy": "LongestFirst", "stride": 0}),
    "stride over length": lambda d: d.update(truncation={"max_length": 1, "strategy": "LongestFirst", "stride": "x"}),
    "negative padding": lambda d: d.update(padding={"strategy": {"Fixed": -1}}),
    "a version of the future": lambda d: d.update(version="9.9"),
    "dropout": lambda d: d.update(model={"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}),
    "merges of nothing": lambda d: d.update(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}),
    "unigram without its unknown": lambda d: d.update(model={"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
    "a map that is damaged": lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(folder, case):
    described = tokenizer_of(folder)
    TOKENIZERS[case](described)
    (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    assert "tokenizer.json" in refused(lambda: backbones.load_backbone(str(folder), 64))


@pytest.mark.parametrize("pattern", sorted(SAFE_PATTERNS))
def test_known_patterns_need_no_trial_and_unknown_ones_may_be_sound(folder, pattern):
    from headstart.readers import tokenizer as tokenizers

    described = tokenizer_of(folder)
    described["pre_tokenizer"] = split(pattern)
    before = tokenizers._probe.cache_info().misses
    parse_tokenizer(json.dumps(described), "here", 141, ModelError)
    assert tokenizers._probe.cache_info().misses == before


def test_an_unknown_pattern_that_is_sound_is_taken(folder):
    described = tokenizer_of(folder)
    described["pre_tokenizer"] = split(r"[A-Z]?[a-z]+|\d{1,4}|\s+")
    parse_tokenizer(json.dumps(described), "here", 141, ModelError)


def test_a_panic_while_reading_a_text_is_an_error_like_any_other(folder):
    reader = backbones.load_backbone(str(folder), 64).reader
    from tokenizers import Regex, pre_tokenizers

    reader.tokenizer.normalizer = None
    reader.tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    for read in (lambda: reader.read("x" * 40), lambda: reader.read_all(["x" * 40]),
                 lambda: reader.read_windows("x" * 40), lambda: reader.read("a", "x" * 40)):
        with pytest.raises(ModelError, match="tokenizer: cannot read"):
            read()


@pytest.mark.parametrize("limit", [0, -1, "512", True, [], {}, -1e30])
def test_lengths_in_tokenizer_config(folder, limit):
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert "model_max_length" in refused(lambda: built(folder))


@pytest.mark.parametrize("limit", [1e30, 10**30, 64, 64.0, None])
def test_lengths_that_are_usual(folder, limit):
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert backbones.load_backbone(str(folder), 64).reader.max_tokens == 64


@pytest.mark.parametrize("name", ["spiece.model", "vocab.json", "vocab.txt", None])
def test_folders_without_tokenizer_json(folder, name):
    (folder / "tokenizer.json").unlink()
    if name is not None:
        (folder / name).write_bytes(b"\xff\xfe\0[")
    refused(lambda: built(folder))


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


KINDS = {"a named pipe": _fifo, "a folder": lambda path: path.mkdir(), "a socket": _socket,
         "a device": lambda path: path.symlink_to("/dev/zero"), "no such file": lambda path: path.symlink_to("nowhere"),
         "too many levels": lambda path: path.symlink_to(path.name)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_none(folder, name, kind):
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    told = refused(lambda: built(folder))
    assert name in told
    assert kind in told


def test_links_to_files_are_followed_as_in_the_cache_of_the_hub(backbone, tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path in backbone.iterdir():
        (folder / path.name).symlink_to(path)
    built(folder)


def test_an_adapter_in_a_model_folder_is_not_followed(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../elsewhere",
                                                            "peft_type": "LORA"}))
    built(folder)


@pytest.mark.parametrize("name", ["~nouser/model", "a\0b", "x" * 5000, "a b/c", "a/../b", "ä/ö", "-/-"])
def test_names_that_are_no_paths(name):
    refused(lambda: backbones.load_backbone(name, 64))


@pytest.fixture(scope="module")
def adapted(backbone, tmp_path_factory):
    """The folders of a LoRA, an IA3, a prefix, a prompt and a bottleneck adapter."""
    root = tmp_path_factory.mktemp("adapters")
    names = list(adapters.linears(built(backbone).encoder))[:2]
    tokens = {"num_virtual_tokens": 3, "token_dim": 32, "num_transformer_submodules": 1, "num_attention_heads": 2,
              "num_layers": 2}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "lora": ("LoraConfig", {"r": 4, "target_modules": names}),
        "ia3": ("IA3Config", {"target_modules": names, "feedforward_modules": []}),
        "prefix": ("PrefixTuningConfig", tokens), "prompt": ("PromptTuningConfig", tokens), "bottleneck": ("", {})}
    for kind, (config, options) in kinds.items():
        fresh = built(backbone)
        if config:
            adapters.wrap(fresh, config, **options)
        else:
            adapters.insert(fresh, names, 4)
        adapters.save(fresh, root / kind)
    return root


@pytest.mark.parametrize(("kind", "keys"), [
    *(("lora", {"r": value}) for value in (0, -1, 5, HUGE, "4", True, None, 1.5)),
    *(("lora", {"lora_alpha": value}) for value in (0, -1, "8", 1e300, None)),
    *(("lora", {"lora_dropout": value}) for value in (-1, 1, 2, "0", None)),
    *(("lora", {"target_modules": value}) for value in (
        "(a|aa)+$", "all-linear", ["none"], [7], [], ["encoder"], {"a": 1}, ["encoder.layer.0.output.dense"] * 2)),
    *(("lora", {key: value}) for key, value in (
        ("megatron_config", {"a": 1}), ("megatron_core", "os"), ("layer_replication", [[0, 1000000]]),
        ("auto_mapping", {"base_model_class": "X", "parent_library": "os"}), ("exclude_modules", "(a|aa)+$"),
        ("rank_pattern", {"(a+)+$": 9999}), ("alpha_pattern", {".*": 1e30}), ("modules_to_save", ["pooler"]),
        ("layers_to_transform", [9]), ("bias", "all"), ("use_dora", "yes"), ("use_dora", True), ("use_rslora", True),
        ("loftq_config", {"a": 1}), ("eva_config", {"a": 1}), ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"), ("base_model_name_or_path", ["x"]), ("none_such", 1), ("lora_bias", True),
        ("peft_type", "XLORA"), ("peft_type", None), ("peft_type", ["LORA"]), ("peft_type", "IA3"))),
    ("ia3", {"target_modules": None}), ("ia3", {"feedforward_modules": ["none"]}), ("ia3", {"exclude_modules": ".*"}),
    *((kind, {key: value}) for kind in ("prefix", "prompt") for key in ("num_virtual_tokens", "token_dim")
      for value in (0, -1, 4, 10**4, HUGE, "3", None)),
    ("prefix", {"num_layers": 3}), ("prefix", {"prefix_projection": True}), ("prefix", {"num_attention_heads": 0}),
    ("prompt", {"prompt_tuning_init": "TEXT"}), ("prompt", {"tokenizer_name_or_path": "http://x"}),
    *(("bottleneck", {"size": value}) for value in (0, -1, 5, HUGE, "4", True, None, 1.5)),
    *(("bottleneck", {"places": value}) for value in NO_NAMES),
])
def test_adapter_configs(backbone, adapted, tmp_path, kind, keys):
    folder = shutil.copytree(adapted / kind, tmp_path / "adapter")
    change_json(folder / "adapter_config.json", keys)
    fresh = built(backbone)
    refused(lambda: adapters.restore(fresh, folder), ArtifactError)


@pytest.mark.parametrize("kind", ["lora", "ia3", "prefix", "prompt", "bottleneck"])
def test_adapter_weights(backbone, adapted, tmp_path, kind):
    adapters.restore(built(backbone), shutil.copytree(adapted / kind, tmp_path / "sound"))
    tensors = load_file(adapted / kind / "adapter_model.safetensors")
    first = next(iter(tensors))
    for i, changed in enumerate(({**tensors, first: tensors[first] * torch.nan}, {**tensors, first: torch.zeros(3)},
                                 {**tensors, first: tensors[first].to(torch.int32)}, {**tensors, "more": torch.ones(1)},
                                 {name: tensor for name, tensor in tensors.items() if name != first}, {})):
        folder = shutil.copytree(adapted / kind, tmp_path / str(i))
        save_file(changed, folder / "adapter_model.safetensors")
        refused(lambda folder=folder: adapters.restore(built(backbone), folder), ArtifactError)
