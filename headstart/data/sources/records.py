"""What every format is read as: records under a header."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from .lines import Lines


class Record(NamedTuple):
    """One record: the line (or the record's number) it begins on, its values, and what is wrong with it."""

    line: int
    values: dict[str, Any]
    flaw: str = ""
    n_bad_bytes: int = 0


class Opened(NamedTuple):
    """A file whose header is known. `records` is given the columns that are wanted, and reads them once."""

    header: list[str]
    records: Callable[[list[str]], Iterator[Record]]
    unit: Literal["line", "row"]
    lines: Lines | None = None  # None: the format brings its own encoding
