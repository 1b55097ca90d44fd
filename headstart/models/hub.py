"""Models of the Hugging Face hub: from its cache on this machine, or downloaded when it can be reached. No torch."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ..core.errors import ModelError, shorten
from ..core.untrusted import library_errors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
PATTERNS = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES)
TIMEOUT_S = 3.0
FIX = "Download it where there is a network (hf download), or name a local folder."


def snapshot(hub_id: str) -> Path:
    """The local snapshot of a hub model, downloaded when a hub can be reached. One try, no retries.

    Raises  ModelError where it is neither here nor to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    where, patterns = f"backbone {shorten(hub_id)}", list(PATTERNS)
    with library_errors(where, "cannot be looked up", ModelError, FIX), suppress(LocalEntryNotFoundError):
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        if (folder / "config.json").exists():
            return folder
    if not _answers():
        raise ModelError(where, "is not in the local cache, and the hub cannot be reached (offline).", FIX)
    with library_errors(where, "cannot be downloaded", ModelError, FIX):
        return Path(snapshot_download(hub_id, allow_patterns=patterns, etag_timeout=TIMEOUT_S))


def _answers() -> bool:
    """Whether a connection to the hub (or to the proxy before it) opens at all."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    url = (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
           or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), TIMEOUT_S).close()
    except OSError:
        return False
    return True
