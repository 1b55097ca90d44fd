"""Which task a file means when nobody names one: by the names of its columns, then by the values in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.cells import finite_number, written_list
from ..core.errors import SpecError, shorten
from ..core.spec import DEFAULT
from ..core.task import Task
from ..core.values import Row
from ..data.columns import NUMBERS, normal_name
from ..data.table import Table
from . import by_columns, find
from .multi_label_classification import NO, YES
from .text_classification import USUAL_LABEL
from .text_regression import USUAL_SCORE
from .writing.columns import infer_writing
from .writing.task import WritingTask

CLASSES, NUMBER, TAGS = "text-classification", "text-regression", "multi-label-classification"
MAX_COLUMNS_SHOWN = 6
MAX_CLASSES = 20  # different numbers with a fraction: with more of them, they are no names of classes


def infer(header: Sequence[str], rows: Sequence[Row], source: str) -> str | None:
    """The task that a file's columns mean; None where they mean no particular one.

    rows: the first ones, the file's own columns. Raises SpecError where two readings are plausible, with a command for
    each.
    """
    names = by_columns(header)
    writes = all(issubclass(find(name), WritingTask) for name in names)  # none, too: columns called by languages
    if writes and (task := infer_writing(header, rows, source)) is not None:
        return task
    if len(names) > 1:
        raise _ambiguous(source, f"the columns could mean {' or '.join(names)}", [f"--task {name}" for name in names])
    if names and names[0] not in (CLASSES, TAGS):
        return names[0]
    by_name = {normal_name(name): name for name in header}
    for usual in (("labels",), USUAL_LABEL, USUAL_SCORE):
        column = next((by_name[name] for name in usual if name in by_name), None)
        values = [row[column] for row in rows if row.get(column) is not None] if column else []
        if column and values:
            if usual is USUAL_SCORE:
                return _of_scores(column, values, source)
            return _of_classes(column, values, source) if usual is USUAL_LABEL else _of_labels(values)
    _check_columns_of_labels(header, rows, source)
    return names[0] if names else None


def read_as(task: Task, origins: Mapping[str, str], table: Table) -> str:
    """One line: what a file's columns were taken for, and how to say otherwise; "" where the caller named it all."""
    is_named = origins["task.name"] != DEFAULT and not origins["task.name"].startswith("inferred from ")
    if is_named and not table.inferred:
        return ""
    columns = [f"{column} from {shorten(name)}" for column, name in table.columns.items()]
    if len(columns) > MAX_COLUMNS_SHOWN:
        columns[MAX_COLUMNS_SHOWN:] = [f"and {len(columns) - MAX_COLUMNS_SHOWN:,} more"]
    options = f"--set data.columns.{next(iter(table.inferred or table.columns))}=NAME"
    return (f"{table.source} is read as {task.name}: {', '.join(columns)}. To say otherwise: "
            + (options if is_named else f"--task NAME, {options}"))


def _of_labels(values: Sequence[Any]) -> str:
    """One class in every row is a classifier, whatever the column is called; a list, or none, in some row is not."""
    lists = [value for value in map(written_list, values) if isinstance(value, list | tuple)]
    is_parted = any(not str(value).strip() or "|" in str(value) or "," in str(value) for value in values)
    return TAGS if lists or is_parted else CLASSES


def _of_scores(column: str, values: Sequence[Any], source: str) -> str | None:
    """Numbers in a column of scores: to be predicted as numbers, if they are not a few whole ones."""
    numbers = list(map(finite_number, values))
    if None in numbers or len(set(numbers)) <= 2:
        return CLASSES if len(set(map(str, values))) <= 2 else None
    if any(isinstance(value, float) or not str(value).strip().lstrip("-").isdigit() for value in values):
        return NUMBER
    raise _ambiguous(source, f"the column {shorten(column)} holds {len(set(numbers))} whole numbers: they could be "
                     "classes or a scale", _both(column))


def _of_classes(column: str, values: Sequence[Any], source: str) -> str:
    """Classes, unless the values are lists, or numbers of which no two are the same class."""
    if any(isinstance(written_list(value), list | tuple) for value in values):
        return TAGS
    numbers = [number for value in values if (number := finite_number(value)) is not None]
    if len(numbers) == len(values) and len(set(numbers)) > MAX_CLASSES and any(number % 1 for number in numbers):
        raise _ambiguous(source, f"the column {shorten(column)} holds {len(set(numbers))} numbers: they could be "
                         "classes or a scale", _both(column))
    return CLASSES


def _both(column: str) -> list[str]:
    return [f"--task {CLASSES} --set data.columns.label={column}", f"--task {NUMBER} --set data.columns.score={column}"]


def _check_columns_of_labels(header: Sequence[str], rows: Sequence[Row], source: str) -> None:
    """Raise SpecError for a file with a column of yes or no for each of several labels."""
    def is_yes_or_no(name: str) -> bool:
        values = {str(row.get(name, "")).strip().casefold().removesuffix(".0") for row in rows}
        return bool(values) and values <= {"0", "1", "true", "false", "yes", "no"} & {*YES, *NO}

    labels = [name for name in header if normal_name(name) not in NUMBERS and is_yes_or_no(name)]
    texts = [name for name in header if name not in labels and normal_name(name) not in NUMBERS]
    if len(labels) > 1 and len(texts) == 1:
        raise _ambiguous(source, f"{len(labels)} columns hold yes or no: each could be a label of the text, or one "
                         "of them is meant", [
            f"--task {TAGS} --set data.columns.text={texts[0]} --set 'task.label_columns=[{', '.join(labels)}]'",
            f"--task {CLASSES} --set data.columns.text={texts[0]} --set data.columns.label={labels[0]}"])


def _ambiguous(source: str, what: str, commands: Sequence[str]) -> SpecError:
    return SpecError(f"Spec: task ({source})", f"{what}.", "Say which: " + "\n  or: ".join(commands))
