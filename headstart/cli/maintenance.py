"""What runs leave behind: cache, report."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import Json, RunArgument


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    keep: Annotated[str | None, typer.Option(metavar="SIZE", help="Clean up to this size, such as 2GB.")] = None,
    as_json: Json = False,
) -> None:
    """Progress what frozen layers said and was kept for later runs, and clean it up: the longest unused goes first."""
    from ..features import store

    freed = store.prune(0 if clear else store.parse_size(keep)) if clear or keep else 0
    n_bytes, limit = sum(size for _, size, _ in store.used()), store.limit_bytes()
    if as_json:
        print(json.dumps({"folder": str(store.folder()), "bytes": n_bytes, "limit_bytes": limit,
                          "freed_bytes": freed}))
    else:
        print(f"{store.folder()}: {n_bytes / 1e6:,.1f} MB of at most {limit / 1e6:,.0f} MB"
              + (f"; {freed / 1e6:,.1f} MB freed" if freed else ""))


def report(run: RunArgument, as_json: Json = False) -> None:
    """Write the report of a finished run again, and name it."""
    from ..report.page import write
    from ..runs.artifact import check_seal

    check_seal(run)
    path = write(run)
    print(json.dumps({"report": str(path)}) if as_json else path)
