"""Where headstart keeps what it computed or fetched, on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import SpecError
from .untrusted import expand_user


def cache_folder(fix: str) -> Path:
    """$HEADSTART_CACHE, or headstart's folder in the platform's cache. Raises SpecError where there is no home."""
    path = os.environ.get("HEADSTART_CACHE")
    if not path:
        path = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/headstart"
    try:
        return expand_user(path, SpecError)
    except SpecError as error:
        error.fix = fix
        raise
