"""Everything that headstart raises on purpose.

    HeadstartError                 exit 2, no traceback: the caller can mend it
    ├── SpecError                  a Spec or a command line says something that cannot be
    ├── DataError                  a labelled file cannot be used as it is
    ├── ModelError                 a model folder or a hub id cannot be trusted or loaded
    ├── ArtifactError              a run's folder is damaged, incomplete or of another version
    ├── RunFolderError             the folder is taken: locked, or there already
    ├── MissingExtraError          an optional dependency is not installed
    ├── ResourceError              the disk is full or read-only
    ├── DivergenceError   exit 3   a loss or a gradient is not finite; the weights were not moved
    ├── ParityError      exit 4   an exported model does not answer as the one it came from; nothing was published
    └── Interrupted   exit 130/143 SIGINT or SIGTERM; what was done is on disk

A message has four parts: where (file:line, or the path in the Spec), what came, the rule, and what to do.
Anything else that escapes is a bug: it keeps its traceback and exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_PROBLEMS_SHOWN = 10
MAX_VALUE_CHARS = 60
MAX_NAMES_SHOWN = 30  # of what is known
MAX_NAMES_COMPARED = 1000  # with a name that is not known: one comparison takes 10 us
MAX_MESSAGE_CHARS = 4000
MAX_FIX_CHARS = 1000  # of them, for what to do; as many for where


def shorten(value: object, limit: int = MAX_VALUE_CHARS) -> str:
    """`value` as a message shows it: quoted, on one line, at most `limit` characters of it."""
    text = value if isinstance(value, str) else repr(value)
    text = _printable(text[: limit + 1])
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def _printable(text: str) -> str:
    """An escape or a direction override inside a value must not rewrite the message on a terminal."""
    return text if text.isprintable() else "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _message(text: str, limit: int) -> str:
    """What a message may hold: printable characters and line ends, `limit` of them at most."""
    text = "\n".join(map(_printable, text[: limit + 1].split("\n")))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(value: str, known: Iterable[str]) -> str:
    """The clause `; did you mean "x"? Known: a, b, c` for a name that is not known."""
    names = sorted(known)
    alike = names if len(names) <= MAX_NAMES_COMPARED else [
        name for name in names if name[:1].casefold() == value[:1].casefold()][:MAX_NAMES_COMPARED]
    match = difflib.get_close_matches(value[:MAX_VALUE_CHARS], alike, n=1, cutoff=0.6)
    guess = f'did you mean "{match[0]}"? ' if match else ""
    more = f" and {len(names) - MAX_NAMES_SHOWN:,} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"{guess}Known: {', '.join(names[:MAX_NAMES_SHOWN])}{more}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands, and what came against which rule."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class HeadstartError(Exception):
    """Where, what came, the rule; then, on a line of its own, what to do; 4,000 printable characters at most."""

    exit_code = 2

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix
        super().__init__(where, what, fix)

    def __str__(self) -> str:
        fix = _message(f"\n  {self.fix}", MAX_FIX_CHARS) if self.fix else ""
        where = _message(f"{self.where}: ", MAX_FIX_CHARS) if self.where else ""
        return where + _message(self.what, MAX_MESSAGE_CHARS - len(where) - len(fix)) + fix


class SpecError(HeadstartError):
    """A Spec, an option or a `--set` that cannot be."""


class DataError(HeadstartError):
    """A data file that cannot be used; all problems of the file come together."""

    problems: Sequence[Problem] = ()

    @classmethod
    def of(cls, problems: Sequence[Problem], fix: str) -> DataError:
        """One error for all `problems`: the first ten and a count."""
        shown = [str(p) for p in problems[:MAX_PROBLEMS_SHOWN]]
        if len(problems) > MAX_PROBLEMS_SHOWN:
            shown.append(f"... and {len(problems) - MAX_PROBLEMS_SHOWN:,} more problems ({len(problems):,} in all)")
        error = cls("", "\n".join(shown), fix)
        error.problems = tuple(problems)
        return error


class ModelError(HeadstartError):
    """A model that cannot be trusted or loaded."""


class ArtifactError(HeadstartError):
    """A run's folder that is damaged, incomplete or does not answer as it did."""


class RunFolderError(HeadstartError):
    """The output folder is locked by another process, or there already."""


class MissingExtraError(HeadstartError):
    """A dependency that an extra brings is not installed."""

    def __init__(self, verb: str, package: str, extra: str) -> None:
        super().__init__(verb, f'needs the package "{package}", which is not installed',
                         f'Install it: pip install "headstart[{extra}]"')


class ResourceError(HeadstartError):
    """The disk is full or read-only, or memory does not suffice."""


class DivergenceError(HeadstartError):
    """A loss or gradient is not finite. The weights stay as they were before the step."""

    exit_code = 3


class ParityError(HeadstartError):
    """An exported model that does not answer as the one it came from. Nothing is published."""

    exit_code = 4


class Interrupted(HeadstartError):
    """A signal asked the process to end. Exit code 128 + the signal's number."""

    def __init__(self, signum: int, what: str = "interrupted", fix: str = "") -> None:
        super().__init__("", what, fix)
        self.exit_code = 128 + signum
