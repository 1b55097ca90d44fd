"""The command line: one function a verb, no logic. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..core.errors import HeadstartError
from .deployment import export, serve
from .inference import evaluate, extract, mine, predict, search
from .maintenance import cache, report
from .training import audit, compare, fit

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Carry what a pretrained language model knows over to your own task, and prove that it helped.")


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options before any verb."""
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


# In the order in which --help lists them.
for verb in (fit, predict, evaluate, export, extract, search, mine, compare, audit, serve, cache, report):
    app.command()(verb)


def main(run: Callable[[], Any] = app) -> None:
    """Run the command line; a HeadstartError is printed without a traceback and becomes the exit code."""
    try:
        run()
    except HeadstartError as error:
        print(f"headstart: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our answers went away, as `head` does
        raise SystemExit(141) from None
