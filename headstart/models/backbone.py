"""A pretrained encoder and its TextReader: located, checked, loaded, in fp32 whatever it was stored in.

    backbone = load_backbone("minilm-l6", max_tokens=256)
    model = build_model(backbone, task, "mean", seed=0)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from ..core import manifest
from ..core.errors import MissingExtraError, ModelError, SpecError, nearest, shorten
from ..core.untrusted import expand_user, library_errors, read_json
from ..readers.text import TextReader
from ..readers.tokenizer import parse_tokenizer, read_tokenizer
from . import families, hub, kept, shelf, tensors, trust
from .shelf import SHIPPED
from .tensors import Entry

try:
    import torch
    import transformers
    from safetensors.torch import load_file
    from torch import nn
    from transformers.activations import ACT2FN
except ImportError as error:
    raise MissingExtraError("loading a model", error.name or "torch", "train") from None

from ..core.model import Model
from ..core.task import Architecture, Head
from .encoder_decoder import Seq2SeqModel
from .families import ENCODER_DECODER
from .heads import NativeModel, PooledModel, build_head
from .masked import MaskedModel
from .writing import WritingModel, check_output_weight

TARGET_TOKENIZER = "target_tokenizer.json"  # of a decoder that has a vocabulary of its own
T = TypeVar("T")
VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
MAX_TOKENIZER_CONFIG_BYTES = 5_000_000
MIN_TOKENS = 4  # of a window: the special tokens of a pair alone take as many


class HasHead(Protocol):
    """What `build` asks of a task."""

    name: ClassVar[str]

    @property
    def head(self) -> Head: ...
    def check_backbone(self, architecture: Architecture, width: int) -> None: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Backbone:
    """A checked model folder. `config` holds only what its family knows; `sha256` is of the weights' files.

    new:         names of an encoder-decoder's weights, or beginnings of them, that no pretraining has seen.
    keep_blocks: the numbers of the blocks that it begins with; None: all. `config` is of these.
    """

    name: str
    folder: Path
    config: transformers.PretrainedConfig
    reader: TextReader
    sha256: str
    weights: Sequence[Path]
    new: tuple[str, ...] = ()
    keep_blocks: tuple[int, ...] | None = None

    @property
    def read_by(self) -> transformers.PretrainedConfig:
        """The configuration of what reads: the encoder's, where there are two."""
        return of_encoder(self.config)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights by their names in the files, which they are mapped from; blocks are counted without those left
        out."""
        return self._kept({name: tensor for path in self.weights for name, tensor in load_file(path).items()})

    def entries(self) -> dict[str, Entry]:
        """What the files' headers say of the same."""
        return self._kept({name: entry for path in self.weights for name, entry in tensors.read_header(path).items()})

    def _kept(self, by_name: dict[str, T]) -> dict[str, T]:
        return by_name if self.keep_blocks is None else kept.by_name(by_name, self.config, self.keep_blocks)


def load_backbone(name: str, max_tokens: int, n_extra_tokens: int = 0, sha256: str | None = None,
                  keep_blocks: tuple[int, ...] | None = None) -> Backbone:
    """Find `name` (a shipped model, a folder or a hub id), check it and read its tokenizer.

    max_tokens: wanted length of a window; the model's own limit wins when it is smaller.
    n_extra_tokens: of that limit, what is needed for other things than text, such as a prompt.
    sha256: of the weights, where it was checked just now; computed when absent.
    keep_blocks: the numbers of the blocks to begin with, ascending; absent: all.
    Raises  ModelError for a folder that cannot be trusted, is damaged, or whose parts do not fit each other.
    """
    folder = locate(name)
    config = _config(folder)
    weights = trust.weights_files(folder)
    digest = sha256 or manifest.sha256_of(weights)
    if name in SHIPPED and digest != SHIPPED[name].sha256:
        raise ModelError(str(weights[0]), f"has sha256 {digest[:12]}…, not {SHIPPED[name].sha256[:12]}… of {name}.",
                         f"Fetch it again: headstart models get {name}")
    reader = _reader(folder, config, max_tokens, n_extra_tokens)
    if keep_blocks is not None:
        config = kept.config_of(config, keep_blocks)
    return Backbone(name, folder, config, reader, digest, weights, keep_blocks=keep_blocks)


def locate(name: str) -> Path:
    """The folder of a model, without importing a package that carries it. Raises ModelError where it is not here."""
    if name in SHIPPED:
        return shelf.find(name) or _from_hub(name)
    where = f"backbone {shorten(name)}"
    with library_errors(where, "is no path", ModelError, "Name a folder, or a hub id."):
        path = expand_user(name, ModelError)
        is_folder, is_there = path.is_dir(), os.path.lexists(path)
    if is_folder:
        return path
    if is_there or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(where, "is neither a shipped model, nor a folder, nor a hub id "
                         f"(OWNER/NAME); {nearest(name, SHIPPED)}", "Check the path.")
    return hub.snapshot(name)


def hub_id(name: str) -> str | None:
    """Where the hub has this model; None for a folder."""
    if name in SHIPPED:
        return SHIPPED[name].hub_id
    return None if expand_user(name, ModelError).is_dir() else name


def _from_hub(name: str) -> Path:
    """A model of the shelf where the hub has the same bytes. Raises ModelError that says how to fetch it."""
    why = f"it is not in {shelf.folder()}."
    if SHIPPED[name].is_same_on_hub:
        try:
            return hub.snapshot(SHIPPED[name].hub_id)
        except ModelError as error:
            why = f"it is neither in {shelf.folder()} nor to be had from the hub: {error.where} {error.what}"
    raise ModelError(f"backbone {name}", f"is not on this machine: {why}", f"Fetch it: headstart models get {name}")


def of_encoder(config: transformers.PretrainedConfig) -> transformers.PretrainedConfig:
    """The encoder's part of a configuration of two models; any other one as it is."""
    return config.encoder if config.model_type == ENCODER_DECODER else config


def _config(folder: Path) -> transformers.PretrainedConfig:
    values, path = trust.read_config(folder), folder / "config.json"
    if values["model_type"] == ENCODER_DECODER:
        encoder, decoder = (_checked(part, path) for part in trust.parts_of(values, path))
        ids = {key: value for key, value in values.items() if key in trust.IDS_OF_BOTH}
        trust.check_values(ids, {}, ACT2FN, path)
        return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)  # type: ignore[no-any-return]
    return _checked(values, path)


def _checked(values: dict[str, Any], path: Path) -> transformers.PretrainedConfig:
    """A configuration of what its family knows of `values`, which were checked."""
    kind = transformers.CONFIG_MAPPING[values["model_type"]]
    defaults = kind().to_dict()
    allowed = {*defaults, *families.FORMER_KEYS, *trust.LABELS, *trust.ONLY_CHECKED, *trust.IDS_OF_BOTH}
    known = {key: value for key, value in values.items() if key in allowed and value != {}}  # {}: a run's, of no labels
    trust.check_values(known, defaults, ACT2FN, path)
    with library_errors(str(path), "is not accepted", ModelError, trust.FIX):
        config = kind.from_dict({key: value for key, value in known.items() if key not in trust.ONLY_CHECKED})
        config.dtype = torch.float32
    return config  # type: ignore[no-any-return]


def _reader(folder: Path, config: transformers.PretrainedConfig, max_tokens: int, n_extra_tokens: int) -> TextReader:
    """How the model reads and, where a decoder writes beside its encoder, how it writes."""
    reader = _reader_of(folder, of_encoder(config), "tokenizer.json", max_tokens, n_extra_tokens)
    if families.of(config).decoder_blocks is None:
        return reader
    written_by = config.decoder if config.model_type == ENCODER_DECODER else config
    n_ids = getattr(config, "decoder_vocab_size", None) or written_by.vocab_size
    ends, begins = _end_ids(config, n_ids), begin_ids(folder, config, reader, n_ids)
    if not os.path.lexists(folder / TARGET_TOKENIZER):
        return replace(reader, end_ids=ends, begin_ids=begins)
    target = _reader_of(folder, written_by, TARGET_TOKENIZER, max_tokens, n_extra_tokens)
    return replace(reader, begin_ids=begins, of_target=replace(target, end_ids=ends))


def begin_ids(folder: Path, config: transformers.PretrainedConfig, reader: TextReader, n_ids: int) -> tuple[int, ...]:
    """What a decoder's text begins with: the token that transformers shifts in, and what stands before every target.

    n_ids: V, of what is written.
    """
    said = [read_json(folder / name, ModelError, trust.MAX_CONFIG_BYTES)  # `config` lacks some
            for name in ("config.json", "generation_config.json") if os.path.lexists(folder / name)]
    start, forced = (next((values[name] for values in said if values.get(name) is not None), None)
                     for name in ("decoder_start_token_id", "forced_bos_token_id"))
    start = getattr(config, "decoder_start_token_id", None) if start is None else start
    if start is None and config.model_type == "t5":
        start = config.pad_token_id  # as transformers does
    before = [forced] if forced is not None else [*reader.start_ids] if config.model_type != ENCODER_DECODER else []
    ids: tuple[Any, ...] = (start, *(i for i in before if i != start))
    if not all(type(i) is int and 0 <= i < n_ids for i in ids):
        raise ModelError(str(folder / "config.json"), f"lets a text begin with the tokens {shorten(list(ids))} "
                         f"(decoder_start_token_id, forced_bos_token_id); wanted are ids below {n_ids:,}.",
                         "Set decoder_start_token_id to the token that its decoder was taught to begin with.")
    return ids


def _reader_of(folder: Path, config: transformers.PretrainedConfig, name: str, max_tokens: int,
               n_extra_tokens: int) -> TextReader:
    path = folder / name
    if os.path.lexists(path):
        tokenizer = read_tokenizer(path, config.vocab_size, ModelError)
    else:
        tokenizer = parse_tokenizer(_converted(folder, config), str(folder), config.vocab_size, ModelError)
    n_tokens = tokenizer.get_vocab_size(with_added_tokens=True)
    if n_tokens < config.vocab_size // 2:  # of another model, or made up where the vocabulary could not be read
        raise ModelError(str(folder), f"has a tokenizer of {n_tokens:,} tokens, but the embedding has "
                         f"{config.vocab_size:,} rows (vocab_size).",
                         "Take tokenizer.json from where the weights are from.")
    n_types = int(getattr(config, "type_vocab_size", 0) or 0)
    types = tokenizer.encode("a", "a").type_ids if n_types > 1 and name != TARGET_TOKENIZER else []
    if types and max(types) >= n_types:
        raise ModelError(str(path), f"gives a pair's texts the types {sorted(set(types))}, but the model has {n_types}"
                         " (type_vocab_size).", "Tokenizer and weights are of different models; take both from one.")
    longest = _longest(folder, config) - n_extra_tokens
    if longest < MIN_TOKENS:
        raise ModelError(str(folder), f"reads {longest:,} tokens at once; at least {MIN_TOKENS} are wanted here.",
                         "Take a model that reads longer texts, or a method that adds fewer tokens.")
    pad_id = config.pad_token_id
    if pad_id is None or pad_id < 0:
        pad_id = 0  # the attention mask hides it; any row of the embedding will do
    return TextReader(tokenizer, max(tokenizer.num_special_tokens_to_add(True), min(max_tokens, longest)), pad_id,
                      n_types > 1, _end_ids(config, config.vocab_size))


def _end_ids(config: transformers.PretrainedConfig, n_ids: int) -> tuple[int, ...]:
    """The tokens that end a text; () of a configuration that names none."""
    value = config.eos_token_id
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(i for i in ids if 0 <= i < n_ids)


def _converted(folder: Path, config: transformers.PretrainedConfig) -> str:
    """What tokenizer.json would hold, of a folder that has a vocabulary of an older form."""
    trust.check_other_files(folder)
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make one up
        raise ModelError(str(folder), "has no tokenizer: neither tokenizer.json nor a vocabulary "
                         f"({', '.join(VOCABULARIES)}).", "A model folder holds tokenizer.json beside its weights.")
    with library_errors(str(folder), "has no tokenizer that can be read", ModelError,
                        "A model folder holds tokenizer.json beside its weights."):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True,
                                                               trust_remote_code=False).backend_tokenizer
        return str(tokenizer.to_str())


def _longest(folder: Path, config: transformers.PretrainedConfig) -> int:
    """The longest window that the model itself can read."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 512)
    offset = families.of(config).position_offset
    positions -= max(offset, (config.pad_token_id or 0) + 1) if offset else 0
    path = folder / "tokenizer_config.json"
    limit = (read_json(path, ModelError, MAX_TOKENIZER_CONFIG_BYTES).get("model_max_length")
             if os.path.lexists(path) else None)
    if limit is None:
        return positions
    if type(limit) not in (int, float) or limit < 1:
        raise ModelError(str(path), f"model_max_length is {shorten(limit)}; wanted is a number of tokens, 1 or more.",
                         "Correct it, or remove the key.")
    return int(min(positions, limit))


def build_model(backbone: Backbone, task: HasHead, pooling: str, seed: int, dropout: float | None = None) -> Model:
    """The pretrained encoder with a fresh head for `task`, in fp32; the head's weights are drawn from `seed`.

    dropout: in place of what the backbone was pretrained with.
    """
    model = _with_head(backbone, task, pooling, seed)
    _set_dropout(model, dropout)
    return model


def build_masked_model(backbone: Backbone, seed: int, dropout: float | None = None) -> MaskedModel:
    """The backbone's encoder with a new head that says which words are hidden. Arguments are those of `build_model`."""
    family = families.of(backbone.config)
    if family.loaded_as is None or (family.writes_as is not None and family.decoder_blocks is None):
        raise SpecError("--objective", f'"masked" reads in both directions, as an encoder does; {family.name} writes.',
                        "Use --objective causal." if family.loaded_as else "Take an encoder, such as minilm-l6.")
    torch.manual_seed(seed)
    model = MaskedModel(load_encoder(backbone))
    _set_dropout(model, dropout)
    return model


def _set_dropout(model: Model, dropout: float | None) -> None:
    for module in model.modules() if dropout is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = float(dropout or 0)


def _with_head(backbone: Backbone, task: HasHead, pooling: str, seed: int) -> Model:
    family, width = families.of(backbone.config), backbone.read_by.hidden_size
    torch.manual_seed(seed)
    has_decoder = family.decoder_blocks is not None
    if task.head.kind == "language-model":
        task.check_backbone("encoder-decoder" if has_decoder else "causal" if family.writes_as else "encoder", width)
        if has_decoder:
            return Seq2SeqModel(_pretrained(getattr(transformers, str(family.writes_as)), backbone, {}), family,
                                backbone.new)
        check_output_weight(backbone.config, backbone.entries(), backbone.folder)
        return WritingModel(_pretrained(getattr(transformers, str(family.writes_as)), backbone, {}))
    # Decoders are read as encoders, T5 by its encoder.
    task.check_backbone("encoder" if family.loaded_as else "encoder-decoder", width)
    if pooling == "native":
        if not family.has_native_head:
            raise SpecError("head.pooling", f'"native" is not for {family.name}: its own head does not read one '
                            "vector a text.", "Use mean, first or max.")
        if task.head.native is None:
            raise SpecError("head.pooling", f'"native" is not for "{task.name}".', "Use mean, first or max.")
        return NativeModel(_pretrained(getattr(transformers, task.head.native), backbone, task.describe()))
    return PooledModel(load_encoder(backbone), build_head(task.head, backbone.config.hidden_size, pooling))


def load_encoder(backbone: Backbone) -> nn.Module:
    """The encoder of transformers alone, in fp32 and eval mode."""
    return _pretrained(getattr(transformers, str(families.of(backbone.config).loaded_as)), backbone, {})


def _pretrained(auto: Any, backbone: Backbone, describe: dict[str, Any]) -> nn.Module:
    """Load weights into the family's class; every weight of the encoder must be there and fit, and it must compute.

    transformers is handed tensors, never the folder: it would follow other files in there, such as adapter_config.json.
    """
    path = backbone.weights[0]
    entries = backbone.entries()
    for part in (backbone.config,) if backbone.read_by is backbone.config else (
            backbone.config.encoder, backbone.config.decoder):
        trust.check_sizes(part, entries, backbone.folder / "config.json")
    config = type(backbone.config).from_dict({**backbone.config.to_dict(), **describe})
    kind = getattr(auto, "_model_mapping", {type(config): auto})[type(config)]
    with _loading(backbone), torch.device("meta"):
        empty = kind(config)
    tensors.check_fit(empty, entries, path)
    with _loading(backbone):
        model = kind.from_pretrained(None, config=config, dtype=torch.float32, state_dict=backbone.tensors(),
                                     ignore_mismatched_sizes=True).eval()
    model.config._name_or_path = model.name_or_path = model.base_model.name_or_path = str(backbone.folder)
    _check_output(model, backbone)
    return model  # type: ignore[no-any-return]


@contextmanager
def _loading(backbone: Backbone) -> Iterator[None]:
    """What transformers cannot do with a folder is one ModelError, and its report stays unsaid: we make our own."""
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        with library_errors(str(backbone.folder), "cannot be loaded", ModelError, trust.FIX):
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


@torch.inference_mode()
def _check_output(model: Any, backbone: Backbone) -> None:
    """Raise ModelError unless the encoder makes finite vectors of two tokens, as wide as it says."""
    read_by = backbone.read_by
    ids_BT = torch.tensor([[0, read_by.vocab_size - 1]])
    reads = model.base_model.encoder if hasattr(model.base_model, "decoder") else model.base_model
    with _loading(backbone):
        hidden_BTD = reads(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state
    wanted = (1, 2, read_by.hidden_size)
    if tuple(hidden_BTD.shape) != wanted or not bool(torch.isfinite(hidden_BTD).all()):
        raise ModelError(str(backbone.folder), f"computes {list(hidden_BTD.shape)} numbers of two tokens, some of them "
                         f"not finite; wanted are {list(wanted)}, all finite.", trust.FIX)
