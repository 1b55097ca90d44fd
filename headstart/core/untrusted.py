"""Files that somebody else wrote: read in bounded memory, or refused with one message.

A pipe, a device or a file without end never blocks a reader: the kind of file is looked at before it is opened.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .errors import MAX_PROBLEMS_SHOWN, HeadstartError, shorten

MAX_JSON_BYTES = 20_000_000
MAX_JSON_DEPTH = 64
T = TypeVar("T")

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISCHR, "a device"),
         (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"))


def check_regular(path: Path, error: type[HeadstartError], max_bytes: int | None = None) -> os.stat_result:
    """Raise `error` unless `path` is a regular file, or a link to one, of at most `max_bytes`. Returns its status."""
    try:
        status = path.stat()
    except OSError as reason:
        raise error(str(path), f"cannot be read: {(reason.strerror or str(reason)).lower()}.",
                    "Check the path and its permissions.") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "no regular file")
        raise error(str(path), f"is {kind}; a regular file is wanted here.", "Name a file.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise error(str(path), f"has {status.st_size:,} bytes; the limit is {max_bytes:,}.",
                    "Is this the right file?")
    return status


def expand_user(path: str | Path, error: type[HeadstartError]) -> Path:
    """`path` with ~ and ~USER as home folders. Raises `error` where there is no such user, or no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise error(str(path), "begins with a home folder that cannot be found: there is no such user, or HOME is not "
                    "set.", "Write the whole path.") from None


def read_text(path: Path, error: type[HeadstartError], max_bytes: int = MAX_JSON_BYTES) -> str:
    """The text of a UTF-8 file. Raises `error` for what is no regular file, too large or not UTF-8."""
    check_regular(path, error, max_bytes)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)  # it may have grown since, or be in /proc, where sizes are 0
        if len(content) > max_bytes:
            raise error(str(path), f"has more than {max_bytes:,} bytes.", "Is this the right file?")
        return content.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(str(path), f"byte {reason.start} is not UTF-8.", "The file is damaged; fetch it again.") from None
    except OSError as reason:
        raise error(str(path), f"cannot be read: {(reason.strerror or str(reason)).lower()}.",
                    "Check the path and its permissions.") from None


def parse_json(text: str | bytes, where: str, error: type[HeadstartError], max_depth: int = MAX_JSON_DEPTH) -> Any:
    """A JSON value. Raises `error` for what is not JSON: a key twice, NaN and Infinity, deep nesting, huge numbers."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise error(where, "is nested too deeply.", "The file is damaged; fetch it again.") from None
    except ValueError as reason:
        raise error(where, f"is not valid JSON: {shorten(str(reason), 120)[1:-1]}.",
                    "The file is damaged; fetch it again.") from None
    if _depth(value, max_depth) > max_depth:
        raise error(where, f"is nested more than {max_depth} deep.", "The file is damaged; fetch it again.")
    return value


def read_json(path: Path, error: type[HeadstartError], max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object that a file holds. Raises `error` as `read_text` and `parse_json` do, and for another value."""
    value = parse_json(read_text(path, error, max_bytes), str(path), error)
    if not isinstance(value, dict):
        raise error(str(path), f"holds {shorten(value)}; a JSON object is wanted here.",
                    "The file is damaged; fetch it again.")
    return value


def instance(kind: type[T], value: Any, where: str, error: type[HeadstartError]) -> T:
    """A JSON value as a `kind` (a dataclass or a pydantic model), checked against its annotations, nothing converted.

    Raises `error` with all that does not fit. Keys that `kind` does not have are passed over, unless it forbids them.
    """
    import pydantic

    try:
        checked: T = _adapter(kind).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]
        return checked
    except pydantic.ValidationError as reason:
        problems = [f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {shorten(problem['input'])} is not allowed; "
                    f"it {problem['msg'].removeprefix('Input ')}" for problem in reason.errors()]
        more = len(problems) - MAX_PROBLEMS_SHOWN
        problems[MAX_PROBLEMS_SHOWN:] = [f"... and {more:,} more"] if more > 0 else []
        raise error(where, "\n".join(problems) + ".", "The file is damaged; fetch it again.") from None


@cache
def _adapter(kind: type) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shorten(next(key for key in keys if keys.count(key) > 1))} stands twice")
    return values


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shorten(text)[1:-1]} is beyond what a number can be")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _depth(value: Any, limit: int) -> int:
    """How deep `value` is nested, counted no further than `limit` + 1."""
    depth, level = 0, [value]
    while level and depth <= limit:
        level = [inner for outer in level if isinstance(outer, dict | list)
                 for inner in _members(outer) if isinstance(inner, dict | list)]
        depth += 1
    return depth


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def check_utf8(value: str, where: str, why: str, error: type[HeadstartError]) -> None:
    """Raise `error` for a text that cannot be written as UTF-8, such as a file's name of other bytes."""
    try:
        value.encode()
    except UnicodeEncodeError as reason:
        raise error(where, f"{shorten(value)} holds {shorten(value[reason.start])}, which is not UTF-8; {why}.",
                    "Rename the file or folder, or make a link to it that has another name.") from None


@contextmanager
def library_errors(where: str, what: str, error: type[HeadstartError], fix: str) -> Iterator[None]:
    """Whatever a library raises inside becomes one `error`: `where` `what`: the library's words.

    A panic of a Rust library is a BaseException, so all are caught. Errors of ours and signals pass as they are. Put
    nothing inside but calls of libraries: a bug of ours keeps its traceback.
    """
    try:
        yield
    except (HeadstartError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as reason:  # noqa: BLE001 - see above
        words = shorten(str(reason).strip() or type(reason).__name__, 200)
        raise error(where, f"{what}: {words}.", fix) from None
