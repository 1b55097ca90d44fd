"""What a model folder may hold and say before anything in it is loaded.

Weights come as safetensors only, and code that came with a model never runs. config.json is read by us first: keys
that carry code or switches are refused, keys that the family's own configuration does not know are left out.
(CVE-2026-4372 and CVE-2026-5241 were both a key in config.json.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import ModelError, nearest, shorten
from .families import FAMILIES

REFUSED_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code", "_attn_implementation_internal",
                "attn_implementation", "_attn_implementation", "quantization_config")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.joblib", "*.ckpt")
MAX_CONFIG_BYTES = 5_000_000
MAX_SIZE = 1_000_000  # no honest width, depth or vocabulary of a text encoder is larger


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, once nothing in it is refused. Raises ModelError."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(str(folder), "has no config.json; a model folder holds config.json, tokenizer.json and "
                         "model.safetensors.", "Name a folder written by save_pretrained, or a hub id.")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(str(path), f"has {path.stat().st_size:,} bytes; the limit is {MAX_CONFIG_BYTES:,}.")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(str(path), f"is not valid JSON: {shorten(str(error), 120)}.") from None
    if not isinstance(config, dict):
        raise ModelError(str(path), "is not a JSON object.")
    refused = sorted(set(_keys(config)) & set(REFUSED_KEYS))
    if refused:
        raise ModelError(str(path), f"has {', '.join(map(shorten, refused))}, which can run code or change how the "
                         "model is loaded; headstart never does that.",
                         "Take the model from a source that needs no code of its own, or remove the key if you trust "
                         "that the model works without it.")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(str(path), f'model_type {shorten(family)} is not a supported encoder; '
                         + nearest(str(family), FAMILIES))
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and not -MAX_SIZE <= value <= MAX_SIZE:
            raise ModelError(str(path), f'{shorten(key)} is {value:,}; sizes are at most {MAX_SIZE:,}.')
    return config


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(value) + [k for v in value.values() for k in _keys(v)]
    return [k for v in value for k in _keys(v)] if isinstance(value, list) else []


def weights_file(folder: Path) -> Path:
    """The one safetensors file of a model folder, checked for whole, sound and finite tensors. Raises ModelError."""
    path = folder / "model.safetensors"
    if path.is_file():
        _check_tensors(path)
        return path
    if (folder / "model.safetensors.index.json").exists():
        raise ModelError(str(folder), "holds its weights in several files; headstart reads one model.safetensors.",
                         "Join them with transformers: model.save_pretrained(folder, max_shard_size='100GB')")
    pickled = sorted(p.name for pattern in PICKLED for p in folder.glob(pattern))
    if pickled:
        raise ModelError(str(folder), f"holds pickled weights ({', '.join(pickled)}) and no model.safetensors; reading "
                         "a pickle can run any code, so headstart never does.",
                         "Convert it where you trust it: AutoModel.from_pretrained(folder).save_pretrained(new_folder)")
    raise ModelError(str(folder), "has no model.safetensors.", "Name a folder written by save_pretrained.")


def _check_tensors(path: Path) -> None:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise ModelError(str(path), f'tensor {shorten(name)} holds nan or inf.',
                                     "The file is damaged or training diverged; fetch it again.")
    except SafetensorError as error:
        raise ModelError(str(path), f"is damaged: {shorten(str(error), 160)}.", "Fetch the file again.") from None
