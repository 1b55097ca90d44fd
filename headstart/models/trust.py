"""What a model folder may hold and say before anything in it is loaded.

Weights come as safetensors only, and code that came with a model never runs. config.json is read by us first: keys
that carry code or switches are refused, keys that the family's own configuration does not know are left out, and
each value of the others must be of its kind and within its range.
(CVE-2026-4372 and CVE-2026-5241 were both a key in config.json.)
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ModelError, nearest, shorten
from ..core.untrusted import check_regular, read_json
from ..readers.tokenizer import MAX_BYTES as MAX_TOKENIZER_BYTES
from . import tensors
from .families import FAMILIES
from .tensors import Entry

REFUSED_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code", "_attn_implementation_internal",
                "attn_implementation", "_attn_implementation", "quantization_config")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.joblib", "*.ckpt")
MAX_CONFIG_BYTES = 5_000_000
MAX_SIZE = 1_000_000  # no honest width or vocabulary of a text encoder is larger
MAX_LAYERS = 256  # twice those of the deepest there is
MAX_LABELS = 100_000
MAX_ROPE = 1e9
IDS_OF_BOTH = ("decoder_start_token_id", "forced_bos_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
LABELS = ("id2label", "label2id", "problem_type")  # of the model's own head; any family may have them
ONLY_CHECKED = ("dtype", "torch_dtype", "position_embedding_type")  # weights are read in fp32
SHARD = re.compile(r"model-[0-9a-z-]{1,40}\.safetensors")
FIX = "The file is damaged or made up; fetch the model again."

Check = Callable[[Any], bool]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, once nothing in it is refused. Its values are not checked. Raises ModelError."""
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise ModelError(str(folder), "has no config.json; a model folder holds config.json, tokenizer.json and "
                         "model.safetensors.", "Name a folder written by save_pretrained, or a hub id.")
    config = read_json(path, ModelError, MAX_CONFIG_BYTES)
    refused = sorted(set(_keys(config)) & set(REFUSED_KEYS))
    if refused:
        raise ModelError(str(path), f"has {', '.join(map(shorten, refused))}, which can run code or change how the "
                         "model is loaded; headstart never does that.",
                         "Take the model from a source that needs no code of its own, or remove the key if you trust "
                         "that the model works without it.")
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelError(str(path), f'model_type {shorten(family)} is not a supported encoder; '
                         + nearest(str(family), FAMILIES), "Take a model of one of these families.")
    return config


def parts_of(values: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of an encoder and of a decoder that were trained apart, each of a family that can be that."""
    parts = []
    for name in ("encoder", "decoder"):
        part = values.get(name)
        family = FAMILIES.get(str(part.get("model_type"))) if isinstance(part, dict) else None
        if part is None or family is None or (family.name != "bert" if name == "decoder" else (
                family.decoder_blocks is not None or family.writes_as is not None)):
            raise ModelError(str(path), f"has the {name} {shorten(part)}; wanted is the configuration of "
                             f"{'a decoder of the family bert' if name == 'decoder' else 'an encoder'}.",
                             "Take a model saved by EncoderDecoderModel of two such parts.")
        parts.append(part)
    return parts[0], parts[1]


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(value) + [k for v in value.values() for k in _keys(v)]
    return [k for v in value for k in _keys(v)] if isinstance(value, list) else []


def _whole(low: int, high: int = MAX_SIZE) -> tuple[Check, str]:
    return lambda v: type(v) is int and low <= v <= high, f"a whole number from {low:,} to {high:,}"


def _number(low: float, high: float) -> tuple[Check, str]:
    return lambda v: type(v) in (int, float) and low <= v <= high, f"a number from {low:g} to {high:g}"


def _optional(rule: tuple[Check, str]) -> tuple[Check, str]:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def _is_labels(value: Any) -> bool:
    """id2label or label2id."""
    return value is None or (isinstance(value, dict) and len(value) <= MAX_LABELS and all(
        (type(v) is int and 0 <= v < MAX_LABELS) or (isinstance(v, str) and key.isdecimal())
        for key, v in value.items()))


def _is_rope(value: Any) -> bool:
    """Settings of rotary positions: numbers above 0, names, and lists and objects of those."""
    if isinstance(value, dict | list):
        return all(map(_is_rope, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | bool) or (type(value) in (int, float) and 0 < value <= MAX_ROPE)


# What a key's value must be, by the first pattern that its whole name fits; for all others see `_as_default`.
_RULES: tuple[tuple[str, tuple[Check, str]], ...] = (
    ("num_(hidden_)?layers|n_layers?|num_decoder_layers|(encoder|decoder)_layers", _whole(1, MAX_LAYERS)),
    ("inner_group_num|num_hidden_groups", _whole(1, 16)),
    ("chunk_size_feed_forward", _whole(0, 0)),
    ("type_vocab_size", _whole(0)),
    ("max_relative_positions|position_buckets", _whole(-1)),
    ("sparse_pred_ignore_index", _whole(-MAX_SIZE)),
    ("n_inner|head_dim|num_key_value_heads|pretraining_tp", _optional(_whole(1))),
    ("eos_token_id", (lambda v: v is None or all(type(i) is int and -1 <= i <= MAX_SIZE
                                                 for i in (v if isinstance(v, list) else [v])), "token ids")),
    (".*_token_id", _optional(_whole(-1))),
    (".*(dropout|pdrop).*", _optional(_number(0, 0.999))),
    (".*_eps(ilon)?", _number(1e-30, 1)),
    ("initializer_.*", _number(0, 1e4)),
    ("id2label|label2id", (_is_labels, f"at most {MAX_LABELS:,} ids with their labels")),
    ("rope_.*", (_is_rope, f"an object of numbers above 0 and up to {MAX_ROPE:g}")),
    ("problem_type", (lambda v: v is None or v in ("regression", "single_label_classification",
                                                   "multi_label_classification"), "a kind of problem, or null")),
    ("position_embedding_type", (lambda v: v in (None, "absolute"), "\"absolute\": transformers has no others now")),
    ("architectures", (lambda v: v is None or (isinstance(v, list) and all(isinstance(name, str) for name in v)),
                       "a list of names")),
    ("dtype|torch_dtype", (lambda v: v is None or isinstance(v, str), "a name")),
)


def _as_default(default: Any) -> tuple[Check, str]:
    """The rule for a value whose name says nothing: it is of its default's kind, and sizes are sizes."""
    if isinstance(default, bool):
        return lambda v: isinstance(v, bool), "true or false"
    if isinstance(default, int):
        return _whole(1)
    if isinstance(default, float):
        return _number(-1e9, 1e9)
    if isinstance(default, str):
        return lambda v: isinstance(v, str) and len(v) <= 1000, "a string"
    if isinstance(default, dict | list):
        words = "a list" if isinstance(default, list) else "an object"
        return lambda v: v is None or isinstance(v, type(default)), words
    return lambda v: not isinstance(v, dict) and not (isinstance(v, float) and not math.isfinite(v)), "no object"


def check_values(values: Mapping[str, Any], defaults: Mapping[str, Any], activations: Mapping[str, Any],
                 path: Path) -> None:
    """Raise ModelError for a value of config.json that cannot be.

    defaults:    of the family's configuration; what a value is measured by.
    activations: those that there are.
    """
    activation: tuple[Check, str] = (lambda v: isinstance(v, str) and v in activations,
                                     f"one of {', '.join(sorted(activations))}")
    for key, value in values.items():
        default = defaults.get(key)
        rules = (*_RULES, ("(?!is_)(.*_)?(act|activation|activation_function)", activation),
                 (".*", _as_default(default)))
        is_right, wanted = next(rule for pattern, rule in rules if re.fullmatch(pattern, key, re.DOTALL))
        if not is_right(value) and not (value is None and default is None):
            raise ModelError(str(path), f"{shorten(key)} is {shorten(value)}; wanted is {wanted}.", FIX)


def check_sizes(config: Any, entries: Mapping[str, Entry], path: Path) -> None:
    """Raise ModelError for sizes that no weights of the file could have, before a model of that size is thought of."""
    n_layers = max(config.num_hidden_layers, *(
        getattr(config, name, None) or 0 for name in ("num_decoder_layers", "decoder_layers")))
    if config.model_type != "albert" and n_layers > len(entries):
        raise ModelError(str(path), f"asks for {n_layers:,} layers, but model.safetensors has only "
                         f"{len(entries):,} tensors.", FIX)
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        raise ModelError(str(path), f"pad_token_id is {config.pad_token_id:,}, but the vocabulary has "
                         f"{config.vocab_size:,} ids (vocab_size).", FIX)


def weights_files(folder: Path) -> Sequence[Path]:
    """The safetensors files of a model folder, one or those of an index, checked for whole, sound and finite tensors.

    Raises  ModelError for a folder that has none, or whose index and files deny each other.
    """
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if os.path.lexists(path) or os.path.lexists(index):
        paths = [path] if os.path.lexists(path) else _indexed(index)
        for path in paths:
            tensors.check_finite(path, tensors.read_header(path))
        return paths
    pickled = sorted(p.name for pattern in PICKLED for p in folder.glob(pattern))
    if pickled:
        raise ModelError(str(folder), f"holds pickled weights ({', '.join(pickled)}) and no model.safetensors; reading "
                         "a pickle can run any code, so headstart never does.",
                         "Convert it where you trust it: AutoModel.from_pretrained(folder).save_pretrained(new_folder)")
    raise ModelError(str(folder), "has no model.safetensors.", "Name a folder written by save_pretrained.")


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, each of which holds just the tensors that it is said to hold."""
    places = read_json(index, ModelError).get("weight_map")
    if not isinstance(places, dict) or not places or not all(
            isinstance(name, str) and SHARD.fullmatch(name) for name in places.values()):
        raise ModelError(str(index), f"has the weight_map {shorten(places)}; wanted are tensors with the names of "
                         "files beside it, model-*.safetensors.", FIX)
    paths = [index.with_name(name) for name in sorted(set(places.values()))]
    for path in paths:
        wanted = {tensor for tensor, name in places.items() if name == path.name}
        if other := sorted(tensors.read_header(path).keys() ^ wanted):
            raise ModelError(str(path), f"does not hold what {index.name} says, such as {shorten(other[0])}.", FIX)
    return paths


def check_other_files(folder: Path) -> None:
    """Raise ModelError where a file that a library may look into is a pipe, a device, or too large."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".jinja"):
            check_regular(path, ModelError, MAX_TOKENIZER_BYTES)
