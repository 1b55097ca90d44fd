"""A row of a task that writes, as measures and baselines read it: a source and its targets; and what no file may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.cells import written_list
from ...core.errors import DataError, Problem, shorten

MAX_REFERENCES = 100  # of a row


@dataclass(frozen=True)
class Pair:
    """What is read and what may be written for it; the first target is what a model learns to write.

    targets: () when predicting.
    title:   of the source, where the file has one.
    """

    source: str
    targets: tuple[str, ...] = ()
    title: str = ""


def references(value: Any) -> tuple[str, ...] | str:
    """The targets that a row's value holds: a string, a list of them, or a list as CSV files write it.

    Returns what is wrong with another value, in words that follow the column's name.
    """
    if isinstance(value, str) and not value.strip():
        return "is empty"
    if isinstance(value := written_list(value), str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        return f"is {shorten(value)}; it must be a string or a list of strings"
    if not value:
        return "is an empty list"
    if len(value) > MAX_REFERENCES:
        return f"has {len(value):,} texts; at most {MAX_REFERENCES} are compared"
    if not all(text.strip() for text in value):
        return f"has an empty text in {shorten(list(value))}"
    return tuple(value)


def check_pairs(pairs: Sequence[Pair], source: str, target: str) -> None:
    """Raise DataError for train rows that nothing can be learned from.

    source, target: the columns' names, for the message.
    """
    n = len(pairs)
    fix = f"Is this the right column? --set data.columns.{target}=NAME"
    if n_without := sum(not pair.targets for pair in pairs):
        raise DataError.of([Problem(target, f"stands in {n - n_without:,} of {n:,} rows; each must have it.")], fix)
    if n < 2:
        return
    if all( pair.targets[0].strip() == pair.source.strip() for pair in pairs):
        raise DataError.of([Problem(target, f'equals "{source}" in all {n:,} rows; a model would learn to copy.')], fix)
    if len({pair.targets for pair in pairs}) == 1:
        what = f"is {shorten(pairs[0].targets[0])} in all {n:,} rows; there must be at least two different ones."
        raise DataError.of([Problem(target, what)], fix)
