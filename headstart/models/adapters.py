"""Small weights beside a frozen backbone: those of peft, and bottleneck adapters of our own.

    wrap(model, "LoraConfig", r=8)   peft's adapter around the encoder
    insert(model, bottlenecks)       bottleneck adapters into it
    save(model, folder)              the adapter alone, a few MB; peft's own in peft's own format
    restore(model, folder)           ... and back onto a fresh backbone

Shape suffixes: B windows, T tokens, D width.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..core.errors import ArtifactError, MissingExtraError, SpecError, nearest, shorten
from ..core.model import Model
from ..core.untrusted import library_errors, read_json
from . import blocks, families
from .tensors import WEIGHT_DTYPES, check_finite, read_header

FILES = ("adapter_config.json", "adapter_model.safetensors")
BOTTLENECK = "BOTTLENECK"
MERGED_KINDS = ("LORA", "IA3")
MAX_SIZE = 16_384  # of a rank, a bottleneck, a prompt
REFIT = "Fit it again."
PEFT_KINDS = ("LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING")  # what we write is what we read


def linears(encoder: nn.Module, last_blocks: int | None = None) -> dict[str, nn.Module]:
    """Every linear layer of the backbone's blocks (of the upper `last_blocks`), by its full name."""
    model = blocks.base(encoder)
    layers = blocks.of(encoder)
    if last_blocks is not None and last_blocks > len(layers):
        raise SpecError("method.last_blocks", f"is {last_blocks}, but the backbone has {len(layers)} blocks that can "
                        "be told apart.", "Choose fewer, or leave it out.")
    inside = {id(m) for layer in (layers[-last_blocks:] if last_blocks else layers or [model]) for m in layer.modules()}
    return {name: m for name, m in model.named_modules()
            if id(m) in inside and (isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D")
            and not name.startswith("pooler")}


def named(layers: dict[str, nn.Module], targets: Sequence[str] | None) -> list[str]:
    """The full names that end in one of `targets` (None: all). Raises SpecError that lists what there is."""
    if not targets:
        return list(layers)
    chosen = [name for name in layers if any(name == t or name.endswith(f".{t}") for t in targets)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = {name.rpartition(".")[2] for name in layers} | {".".join(name.split(".")[-2:]) for name in layers}
            raise SpecError("method.targets", f"{shorten(target)} is no linear layer of this backbone; "
                            f"{nearest(target, ends)}.", "Correct the name, or leave method.targets out.")
    return chosen


def feed_forward_out(layers: dict[str, nn.Module], encoder: nn.Module) -> list[str]:
    """Of linear layers of `encoder`, those that end a block's feed-forward part: they read its inner width."""
    config: Any = blocks.base(encoder).config
    widths = {getattr(config, families.of(config).feed_forward) or 4 * int(config.hidden_size)}  # GPT-2's may be None
    if (decoder := blocks.decoder(encoder)) is not None:
        above: Any = decoder.config
        widths.add(getattr(above, "decoder_ffn_dim", None) or getattr(above, families.of(above).feed_forward))
    return [name for name, m in layers.items() if m.weight.shape[1 if isinstance(m, nn.Linear) else 0] in widths]  # type: ignore[index, union-attr]


def wrap(model: Model, kind: str, **options: Any) -> None:
    """Put peft's adapter around the encoder; the backbone freezes, the adapter and the head move.

    kind: the name of peft's configuration, such as "LoraConfig"; options: its own.
    """
    check_taught(model)
    config = getattr(peft(), kind)(task_type="FEATURE_EXTRACTION", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's and transformers' talk among themselves
        model.set_encoder(peft().get_peft_model(cast(Any, model.encoder), config))


def check_taught(model: Model) -> None:
    """Raise SpecError for a model with weights that no pretraining has seen: all methods but one would freeze them."""
    if blocks.new_weights(model.encoder):
        raise SpecError("method.name", "would leave a decoder's new vocabulary as it was drawn.",
                        "Use fine-tuning; with encoder: frozen only the decoder moves.")


def peft() -> Any:
    """The library, or the command that installs it."""
    try:
        import peft as library
    except ImportError:
        raise MissingExtraError("this method", "peft", "train") from None
    return library


def is_mergeable(model: Model) -> bool:
    """Whether the encoder has an adapter that is a change of the backbone's own weights."""
    return any(kind.peft_type in MERGED_KINDS for kind in getattr(model.encoder, "peft_config", {}).values())


def merged(model: Model) -> Model:
    """`model` with peft's low-rank changes added to the backbone's own weights."""
    layers = [cast(Any, m).base_layer for m in model.encoder.modules() if hasattr(m, "base_layer")]
    model.set_encoder(cast(Any, model.encoder).merge_and_unload())
    for layer in layers:
        torch.autograd.graph.increment_version(layer.parameters())  # peft writes past torch's own count
    return model


@contextmanager
def disabled(model: Model) -> Iterator[None]:
    """While it is open, the encoder computes what the backbone alone does."""
    wrapper = cast(Any, model.encoder)
    if not hasattr(wrapper, "disable_adapter"):
        yield
    elif wrapper.active_peft_config.is_prompt_learning:  # peft's own way fails for encoders that cannot generate
        model.set_encoder(wrapper.get_base_model())
        try:
            yield
        finally:
            model.set_encoder(wrapper)
    else:
        with wrapper.disable_adapter():
            model.revision += 1
            yield
        model.revision += 1


class Bottleneck(nn.Module):
    """A linear layer of the backbone with a bottleneck behind it: y + up(gelu(down(y))), y = linear(x).

    `up` begins at zero, so at first it computes what the layer alone does.
    Source  Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP".
    """

    def __init__(self, linear: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.linear = linear
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=1e-2 / math.sqrt(width / 384))
        for p in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(p)

    @property
    def weight(self) -> torch.Tensor:
        """T5 looks at its layer's dtype."""
        return cast(torch.Tensor, self.linear.weight)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        y_BTD: torch.Tensor = self.linear(x_BTD)
        return y_BTD + cast(torch.Tensor, self.up(nn.functional.gelu(self.down(y_BTD))))


def places(encoder: nn.Module, both: bool, last_blocks: int | None) -> list[str]:
    """The linear layers that get a bottleneck: behind each feed-forward part, and behind attention too if `both`."""
    layers = linears(encoder, last_blocks)
    attention = [name for name in layers if name.endswith(f".{blocks.family_of(encoder).attention_out}")]
    behind = [n for n in feed_forward_out(layers, encoder) if n not in attention]
    if not behind or (both and not attention):
        raise SpecError("method.name", "\"adapter\" does not know where a block of this backbone ends.",
                        "Use lora, bitfit or fine-tuning with last_blocks.")
    return behind + (attention if both else [])


def insert(model: Model, names: Sequence[str], size: int) -> None:
    """Put a bottleneck behind each of the linear layers called `names`; the backbone freezes."""
    check_taught(model)
    encoder = blocks.base(model.encoder)
    encoder.requires_grad_(False)
    for name in names:
        parent, _, last = name.rpartition(".")
        linear = encoder.get_submodule(name)
        setattr(encoder.get_submodule(parent), last, Bottleneck(linear, _width(linear), size))
    model.revision += 1


def _width(linear: nn.Module) -> int:
    """D of what a linear layer gives."""
    weight = cast(torch.Tensor, linear.weight)
    return int(weight.shape[0 if isinstance(linear, nn.Linear) else 1])


def is_on(model: Model) -> bool:
    """Whether the model answers with an adapter that is not part of the backbone's weights."""
    return hasattr(model.encoder, "peft_config") or any(isinstance(m, Bottleneck) for m in model.encoder.modules())


def is_acting(model: Model) -> bool:
    """Whether an adapter inside of the encoder's layers, which could be switched off, is on."""
    return any(getattr(m, "disable_adapters", None) is False for m in model.encoder.modules())


def idle(model: Model) -> set[int]:
    """The ids of weights of peft's that are switched off."""
    return {id(p) for m in model.encoder.modules() if getattr(m, "disable_adapters", None) is True
            for name in cast(Any, m).adapter_layer_names for p in getattr(m, name).parameters()}


def save(model: Model, folder: Path) -> None:
    """Write the adapter alone to `folder`; peft loads its own kinds with PeftModel.from_pretrained."""
    from safetensors.torch import save_file

    folder.mkdir()
    if hasattr(model.encoder, "peft_config"):
        cast(Any, model.encoder).save_pretrained(folder)
        for path in folder.iterdir():
            if path.name not in FILES:
                path.unlink()  # its own model card: ours is one floor up
        return
    bottlenecks = {name: m for name, m in model.encoder.named_modules() if isinstance(m, Bottleneck)}
    described = {"peft_type": BOTTLENECK, "places": list(bottlenecks),
                 "size": next(iter(bottlenecks.values())).down.out_features}
    (folder / FILES[0]).write_text(json.dumps(described, indent=1), "utf-8")
    save_file({f"{name}.{part}.{key}": value.detach().cpu().contiguous() for name, m in bottlenecks.items()
               for part in ("down", "up") for key, value in getattr(m, part).state_dict().items()}, folder / FILES[1])


def restore(model: Model, folder: Path) -> None:
    """Put a saved adapter onto a fresh backbone. Raises ArtifactError for what headstart does not write."""
    from safetensors.torch import load_file

    config_file, weights = (folder / name for name in FILES)
    described = read_json(config_file, ArtifactError)
    kind = described.get("peft_type")
    unknown = sorted({path.name for path in folder.iterdir()} - set(FILES))
    if unknown or kind not in (BOTTLENECK, *PEFT_KINDS):
        raise ArtifactError(str(folder), f"holds {shorten(unknown[0] if unknown else kind)}, which headstart does not "
                            "write.", REFIT)
    entries = read_header(weights, ArtifactError)
    shapes = {name: entry.shape for name, entry in entries.items()}
    if any(entry.dtype not in WEIGHT_DTYPES for entry in entries.values()):
        raise ArtifactError(str(weights), f"holds another dtype than {', '.join(WEIGHT_DTYPES)}.", REFIT)
    check_finite(weights, entries, ArtifactError)
    layers = linears(model.encoder)
    if kind != BOTTLENECK:
        _check_peft(described, shapes, layers, config_file)
        with library_errors(str(folder), "cannot be put onto the backbone", ArtifactError, REFIT):
            model.set_encoder(peft().PeftModel.from_pretrained(cast(Any, model.encoder), folder))
            wanted = {name: tuple(w.shape) for name, w in peft().get_peft_model_state_dict(model.encoder).items()}
        _check_shapes(shapes, wanted, weights)
        return
    names: Any = described.get("places")
    size: Any = described.get("size")
    if not _are_names(names, layers) or not layers.keys() >= {*names} or not _is_size(size):
        raise ArtifactError(str(config_file), f"puts bottlenecks of {shorten(size)} behind {shorten(names)}; wanted "
                            f"are 1 to {MAX_SIZE:,} behind linear layers of the backbone.", REFIT)
    wanted = {f"{name}.{part}": shape for name in names for width in (_width(layers[name]),)
              for part, shape in (("down.weight", (size, width)), ("down.bias", (size,)), ("up.weight", (width, size)),
                                  ("up.bias", (width,)))}
    _check_shapes(shapes, wanted, weights)
    insert(model, names, size)
    tensors = load_file(weights)
    for name in names:
        bottleneck = cast(Bottleneck, model.encoder.get_submodule(name))
        for part in ("down", "up"):
            prefix = f"{name}.{part}."
            getattr(bottleneck, part).load_state_dict(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})


def _check_peft(described: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], layers: Mapping[str, nn.Module],
                path: Path) -> None:
    """Raise ArtifactError for a configuration of peft's that headstart does not write, or that its weights deny."""
    kind = described["peft_type"]
    defaults = peft().PEFT_TYPE_TO_CONFIG_MAPPING[kind]().to_dict()
    for key, value in described.items():
        is_right, wanted = _OWN.get(key, (lambda v, key=key: not v or v == defaults.get(key), "peft's own default"))
        if key in ("target_modules", "feedforward_modules"):
            is_right, wanted = lambda v: not v or _are_names(v, layers), "names of linear layers of the backbone"
        if not is_right(value):
            raise ArtifactError(str(path), f"{shorten(key)} is {shorten(value)}; wanted is {wanted}.", REFIT)
    rank, n_tokens = described.get("r"), described.get("num_virtual_tokens")
    width = described.get("token_dim", 0) * (2 * described.get("num_layers", 0) if kind == "PREFIX_TUNING" else 1)
    if kind == "LORA" and any(shape[:1] != (rank,) for name, shape in shapes.items() if ".lora_A." in name):
        raise ArtifactError(str(path), f"has rank {rank}, but its weights have another.", REFIT)
    if kind in ("PREFIX_TUNING", "PROMPT_TUNING"):
        _check_shapes(shapes, {"prompt_embeddings": (n_tokens, width)}, path.with_name(FILES[1]))


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIZE


def _are_names(value: Any, layers: Mapping[str, nn.Module]) -> bool:
    """Whether `value` lists linear layers of the backbone, or ends of their names (peft shortens long lists), once."""
    return (isinstance(value, list) and len(set(map(str, value))) == len(value) > 0 and all(
        isinstance(name, str) and any(layer == name or layer.endswith(f".{name}") for layer in layers)
        for name in value))


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[Any, ...]], path: Path) -> None:
    """Raise ArtifactError unless the file holds the wanted tensors, in their shapes, and no others."""
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            raise ArtifactError(str(path), f"tensor {shorten(name)} has the shape {shapes.get(name)}; wanted is "
                                f"{wanted.get(name)} (None: no such tensor).", REFIT)


_WHOLE = (_is_size, f"a whole number from 1 to {MAX_SIZE:,}")
_ANY = (lambda v: v is None or isinstance(v, str | bool), "a string")  # read by nobody
_OWN: dict[str, tuple[Callable[[Any], bool], str]] = {  # what headstart sets itself, of all of peft's settings
    "r": _WHOLE, "num_virtual_tokens": _WHOLE, "token_dim": _WHOLE, "num_layers": _WHOLE, "num_attention_heads": _WHOLE,
    "encoder_hidden_size": _WHOLE, "num_transformer_submodules": (lambda v: v == 1, "1"),
    "lora_alpha": (lambda v: type(v) in (int, float) and 0 < v <= 1e6, "a number above 0"),
    "lora_dropout": (lambda v: type(v) in (int, float) and 0 <= v < 1, "a number from 0 to below 1"),
    "use_dora": (lambda v: isinstance(v, bool), "true or false"),
    "peft_type": _ANY, "peft_version": _ANY, "base_model_name_or_path": _ANY, "task_type": _ANY,
    "inference_mode": _ANY, "fan_in_fan_out": _ANY,
}
