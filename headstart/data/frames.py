"""Rows that Python holds: texts, mappings, and the tables of pandas and polars, neither of which is imported.

    rows_of(["great film", {"text": "dull"}])    each as it is
    rows_of("great film")                        one row, not a row a letter
    rows_of(frame)                               the frame's lines, missing values as None
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..core.errors import DataError, shorten
from ..core.values import Row
from .sources import Opened, Record


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or what pandas writes in their place."""
    if isinstance(value, str | list | dict | np.ndarray):
        return False
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def plain(value: Any) -> Any:
    """A value as JSON knows it: numpy's as Python's, None for a missing one; anything else as it is."""
    if isinstance(value, str | list | dict) or value is None:
        return value
    if is_missing(value):
        return None
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def open_frame(values: Any) -> Opened | None:
    """A data frame as a source whose header is known; None for anything else."""
    if hasattr(values, "itertuples"):  # pandas
        lines: Iterable[tuple[Any, ...]] = values.itertuples(index=False, name=None)
    elif hasattr(values, "iter_rows"):  # polars
        lines = values.iter_rows()
    else:
        return None
    header = list(map(str, values.columns))

    def records(_: list[str]) -> Iterator[Record]:
        for n, line in enumerate(lines, 1):
            yield Record(n, dict(zip(header, map(plain, line), strict=True)))

    return Opened(header, records, "row")


def rows_of(values: Any, columns: Collection[str]) -> Iterable[Any]:
    """`values` one by one; a text, a mapping, or a line of a data frame with one of `columns`, is one row itself."""
    is_line = not isinstance(values, str | Mapping) and hasattr(values, "keys") and any(
        column in values.keys() for column in columns)  # noqa: SIM118 - a pandas Series has its values in it
    return [values] if isinstance(values, str | Mapping) or is_line else values


def row_of(value: Any, where: str) -> Row:
    """A row as a task reads it; a string is short for one text. Raises DataError for what is neither."""
    if isinstance(value, str):
        return {"text": value}
    if not hasattr(value, "keys"):
        raise DataError(where, f"is {shorten(value)}; a row is a text, or a mapping of columns to values.",
                        "Name its columns: {\"text\": ...}")
    return {name: plain(value[name]) for name in value.keys()}  # noqa: SIM118 - as above


def texts_of(values: Any, where: str = "texts") -> list[Any]:
    """Texts as a list; of a table, its only column. Raises DataError for one text alone, and for several columns."""
    if isinstance(values, str | bytes | Mapping):
        raise DataError(where, f"is {shorten(values)} alone; a list of texts is wanted here.", "Give [TEXT].")
    if getattr(values, "ndim", 1) == 2:
        if values.shape[1] != 1:
            raise DataError(where, f"has {values.shape[1]} columns; one of texts is wanted here.",
                            'Give that column: frame["text"]')
        values = np.asarray(values, object)[:, 0]
    return list(values)
