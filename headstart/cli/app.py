"""The command line: one function a verb, no logic. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..core.errors import HeadstartError, Interrupted, ResourceError, shorten
from .deployment import export, serve
from .inference import evaluate, extract, mine, predict, search
from .maintenance import cache, report
from .shelf import models
from .training import audit, compare, ensemble, fit, pretrain, shrink

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Carry what a pretrained language model knows over to your own task, and prove that it helped.")


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options before any verb."""
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


# What the system refuses is no bug of ours, also where nobody knows the file's name any more.
SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE,
                 errno.ENOMEM, errno.EBADF)


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn what the system, not a bug, makes of a command into one message, or into silence where nobody listens."""
    try:
        try:
            yield
        except SystemExit:
            _flush_stdout()
            raise
        _flush_stdout()
    except BrokenPipeError:
        _give_up_streams()  # the reader of our answers went away, as `head` does
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT) from None
    except MemoryError:
        raise ResourceError("", "memory does not suffice.", "Close other programs, or give smaller files.") from None
    except UnicodeEncodeError as error:
        if not any("\ud800" <= c <= "\udfff" for c in error.object):
            raise
        raise ResourceError(shorten(error.object), "holds bytes that are not UTF-8, and cannot be written down.",
                            "Rename the file, or give it a link with a plain name.") from None
    except OSError as error:
        if error.filename is None and error.errno not in SYSTEM_ERRORS:
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "standard output or a file"
        raise ResourceError(where, f"cannot be read or written: {(error.strerror or str(error)).lower()}.",
                            "Check the path, its permissions and the room that is left.") from None


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_streams()
        raise OSError(error.errno, error.strerror, "standard output") from None


def _give_up_streams() -> None:
    """Python writes what is left in them when it ends, and would complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# In the order in which --help lists them.
for verb in (fit, predict, evaluate, export, shrink, extract, search, mine, pretrain, ensemble, compare, audit, serve,
             models, cache, report):
    app.command()(system_errors()(verb))  # inside, as click has its own ways with some of them


def main(run: Callable[[], Any] = app) -> None:
    """Run the command line; a HeadstartError is printed without a traceback and becomes the exit code."""
    try:
        with system_errors():
            _open_streams()
            run()
    except HeadstartError as error:
        message = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
                          for c in f"headstart: {error}")
        print(message, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _open_streams() -> None:
    """Answers are UTF-8 wherever they go; a stream that is closed is not taken by the first file that is opened."""
    is_closed = sys.stdout is None
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if is_closed:
        raise ResourceError("standard output", "is closed; answers go there.", "Name a place: > FILE, or > /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # half a pair as JSON writes it, \udce9
