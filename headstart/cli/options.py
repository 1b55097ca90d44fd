"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import SpecError, shorten
from ..core.progress import Progress

MAX_NAME_CHARS = 500
Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set any field of the Spec; repeatable.")]
Encoding = Annotated[str | None, typer.Option(help="Text encoding of the data, such as latin-1.")]
OutFile = Annotated[Path | None, typer.Option(help="Write the JSON to this file, whole or not at all.")]
SpecOrData = Annotated[str, typer.Argument(metavar="SPEC_OR_DATA", help="A Spec (.yaml), or labelled rows.")]
TaskName = Annotated[str | None, typer.Option(help="The kind of question, such as text-classification.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what is at --out.")]
NoTexts = Annotated[bool, typer.Option("--no-texts", help="Leave users' texts out of what is written.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


def started(what: str, name: str | Path) -> Progress:
    """The progress of a verb that computes, with a first line before the libraries that do are loaded: they take
    seconds."""
    progress = Progress()
    progress.say(f"{what} {shorten(str(name), MAX_NAME_CHARS)[1:-1]} ...")
    return progress


def data_settings(encoding: str | None, assignments: list[str]) -> dict[str, Any]:
    """`--encoding` and `--set data.KEY=VALUE` for verbs that only read data."""
    from ..core import spec

    settings = spec.parse_set(assignments)
    for key in settings.keys() - {"data"}:
        raise SpecError(f"--set {key}", "is not a field of data; a finished run's other settings are fixed.",
                        "For example: --set data.errors=skip")
    named = {"data": {"encoding": encoding}} if encoding else {}
    spec.resolve_layers(("", {"data": {"train": "-"}}), ("--set", settings), ("command line", named))
    return {**settings.get("data", {}), **named.get("data", {})}
