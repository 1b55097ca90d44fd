"""A safetensors file that somebody else wrote: its header is read by us before any tensor is.

    entries = read_header(path)          names, dtypes and shapes; no tensor was touched
    check_finite(path, entries)          one tensor after another
    check_fit(model, entries, path)      against a model on the meta device, which holds no numbers either
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import HeadstartError, ModelError, shorten
from ..core.untrusted import check_regular, library_errors, parse_json

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 10_000_000  # of the largest models: a few hundred thousand
MAX_DIMENSIONS = 8
WEIGHT_DTYPES = ("BF16", "F16", "F32", "F64")
DAMAGED = "The file is damaged or of another model; fetch it again."
POOLER = re.compile(r"(encoder\.)?pooler\.")
BUFFERS = re.compile(r"(.*\.)?(position_ids|token_type_ids|(.*_)?inv_freq|attn\.(masked_)?bias)")  # of old versions


@dataclass(frozen=True)
class Entry:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path, error: type[HeadstartError] = ModelError) -> dict[str, Entry]:
    """The tensors of a safetensors file, by name. Reads the header alone. Raises `error` when it is none."""
    n_bytes = check_regular(path, error).st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if not 2 <= n_header <= n_bytes - 8:
            raise error(str(path), f"is damaged: its header should have {n_header:,} bytes, the file has {n_bytes:,}.",
                        DAMAGED)
        if n_header > MAX_HEADER_BYTES:
            raise error(str(path), f"has a header of {n_header:,} bytes; the limit is {MAX_HEADER_BYTES:,}.", DAMAGED)
        header = parse_json(file.read(n_header).rstrip(b" "), str(path), error)
    if not isinstance(header, dict):
        raise error(str(path), "is damaged: its header is not a JSON object.", DAMAGED)
    return {name: _entry(name, value, str(path), error) for name, value in header.items() if name != "__metadata__"}


def _entry(name: str, value: Any, where: str, error: type[HeadstartError]) -> Entry:
    value = value if isinstance(value, dict) else {}
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(
            type(n) is int and 0 <= n < 2**48 for n in shape):
        raise error(where, f"is damaged: tensor {shorten(name)} has the dtype {shorten(dtype)} and the shape "
                    f"{shorten(shape)}.", DAMAGED)
    return Entry(dtype, tuple(shape))


def check_finite(path: Path, entries: Mapping[str, Entry], error: type[HeadstartError] = ModelError) -> None:
    """Raise `error` unless the file is sound and each of its numbers is finite. Memory: one tensor at a time."""
    from safetensors import safe_open

    with library_errors(str(path), "is damaged", error, DAMAGED), safe_open(path, "pt") as tensors:
        for name, entry in entries.items():
            if entry.dtype in WEIGHT_DTYPES and not _is_finite(tensors.get_tensor(name)):
                raise error(str(path), f'tensor {shorten(name)} holds nan or inf.',
                            "The file is damaged or training diverged; fetch it again.")


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    # A finite sum has finite parts, and is had ten times as fast; one that is not may have run over.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_fit(model: Any, entries: Mapping[str, Entry], path: Path) -> None:
    """Raise ModelError unless the file holds each weight of the encoder in its shape, and no more of them.

    model: a model of transformers on the meta device. Its head may be new, and so may its pooler.
    """
    encoder = model.base_model
    names = [_as_now(name).removeprefix(f"{model.base_model_prefix}.") for name in entries]
    in_file = dict(zip(names, entries.values(), strict=True))
    twice = [name for name, n in Counter(names).items() if n > 1]
    weights = dict(encoder.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    shared: dict[int, list[str]] = {}  # weights that have several names: one of them is enough
    for name, weight in weights.items():
        shared.setdefault(id(weight), []).append(name)
    computed = getattr(model, "_keys_to_ignore_on_load_missing", None) or []  # such as Marian's table of positions
    computed = [key.removeprefix(f"{model.base_model_prefix}.") for key in computed]
    missing = [names[0] for names in shared.values()
               if not any(name in in_file or name in computed or POOLER.match(name) for name in names)]
    read = [name for name in shapes if name in in_file]
    ignored = getattr(encoder, "_keys_to_ignore_on_load_unexpected", None) or []
    parts = {name for name, _ in encoder.named_children()} - {"pooler"}
    extra = [name for name in in_file if name.partition(".")[0] in parts and name not in shapes
             and not BUFFERS.fullmatch(name) and not any(re.search(pattern, name) for pattern in ignored)]
    wrong = [f"{name}: {list(in_file[name].shape)} in the file, {list(shapes[name])} by config.json"
             for name in read if in_file[name].shape != shapes[name]]
    odd = [f"{name}: {in_file[name].dtype}" for name in read if in_file[name].dtype not in WEIGHT_DTYPES]
    for names, what in ((twice, "holds {} tensors twice"), (missing, "lacks {} tensors that config.json asks for"),
                        (wrong, "has another shape for {} tensors that config.json asks for"),
                        (extra, "holds {} tensors that config.json does not ask for"),
                        (odd, f"has another dtype than {', '.join(WEIGHT_DTYPES)} for {{}} tensors")):
        if names:
            raise ModelError(str(path), f"{what.format(f'{len(names):,}')}, such as {shorten(min(names), 140)}.",
                             "Weights and config.json are of different models, or the file is incomplete; "
                             "take both from one.")


def _as_now(name: str) -> str:
    """The name that transformers gives today to a tensor of TensorFlow's times."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
