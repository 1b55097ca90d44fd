"""Rows without labels: read from any source of a task's inputs, and none of them a row that chooses or tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..core.errors import DataError, Problem, shorten
from ..core.spec import DataSpec
from ..core.task import Task
from ..core.values import Row
from .columns import infer_columns
from .duplicates import canonical
from .sources import Rules, open_source
from .table import Table, read_table

WHERE = "method.unlabelled"


class HasRows(Protocol):
    """A part of a split."""

    @property
    def rows(self) -> Sequence[Row]: ...


def read_unlabeled(source: str, data: DataSpec, task: Task,
                   parts: Mapping[str, HasRows]) -> tuple[Table, dict[str, int]]:
    """The rows of `source` that have other texts than those of `parts`, each text once, and what was left out.

    parts: rows by the name of their part; a text of several is counted for the first of them.
    Returns  (rows with the inputs of `task` and nothing else, counts).
    Raises   DataError for a source that is empty, that lacks a column, or that holds nothing new.
    """
    table = read_table(source, data, task, gold="ignored", lenient=True)
    where_of = {canonical(task.text(row)): name for name, part in reversed([*parts.items()]) for row in part.rows}
    counts, kept = Counter[str](), list[int]()
    for i, row in enumerate(table.rows):
        text = canonical(task.text(row))
        if name := where_of.get(text):
            counts[f"n_unlabeled_rows_left_out_as_in_{name}"] += 1
            continue
        where_of[text] = "unlabeled"
        kept.append(i)
    counts["n_unlabeled_rows"] = len(kept)
    if not kept:
        raise DataError(source, f"holds no row that is not in {', '.join(parts)} already.",
                        f"Name other texts, or leave {WHERE} out.")
    rows = table.take(kept)
    problems = [Problem(rows.where(i), what) for i, what in task.check_gold(list(map(task.placeholder, rows.rows)))]
    if problems:
        raise DataError.of(problems, "Unlabeled rows have all columns that train rows have, but for the answer's.")
    return rows, dict(counts)


def gold_columns(source: str, data: DataSpec, task: Task) -> list[str]:
    """The columns of `source` that hold answers of `task`: nobody reads them."""
    opened = open_source(source, Rules(data.encoding, data.delimiter, data.errors, data.max_chars, data.max_bytes))
    if opened.lines:
        opened.lines.close()
    try:
        columns = infer_columns(opened.header, data, task, source, gold="optional", lenient=True)
    except DataError:
        return []
    return [shorten(name) for column, name in columns.items() if column in task.columns.gold]
