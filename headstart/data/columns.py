"""Which column of a file is which of a task's: by name, by usual name, or as the only one left."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from ..core.errors import DataError, Problem, SpecError, nearest, shorten
from ..core.spec import DataSpec
from ..core.task import Columns
from ..core.values import Row
from .sources import Rules, open_source, parts

MAX_COLUMNS = 10_000
MAX_COLUMNS_SHOWN = 50  # in a message
MAX_SAMPLED_COLUMNS = 1000  # values of a wider file are not looked at
NESTED = ("qas", "paragraphs")  # hold whole questions, not one
NUMBERS = ("id", "idx", "index", "no", "number", "key", "uuid")  # columns that are never taken for the last one missing
Gold = Literal["required", "optional", "ignored"]  # what becomes of the columns that hold the answer


class Question(Protocol):
    """What this file asks of a task."""

    name: ClassVar[str]

    @property
    def columns(self) -> Columns: ...
    def check(self, row: Row) -> str | None: ...
    def normalized(self, row: Row) -> tuple[Row, str]: ...


def infer_columns(header: Sequence[str], data: DataSpec, task: Question, source: str, *,
                  gold: Gold = "required", lenient: bool = False) -> dict[str, str]:
    """The task's column -> the file's column.

    lenient: a column that the Spec names and the file lacks is looked for under its other names; so a model that was
    fitted to "review" also reads a file that says "text"; and what a file may lack may lack here too.

    The Spec has the first word, then an equal name, then the one column that goes by a usual name; where all but one
    have theirs so, the last column of the file is the last of the task. Anything less certain raises DataError.
    """
    _check_names(header, source)
    columns = task.columns
    for column in data.columns:
        if column not in columns.rules:
            raise SpecError(f"data.columns.{column}", f'is not a column of task "{task.name}"; '
                            f"{nearest(column, columns.rules)}.", "Correct the name, or leave it out.")
    wanted = list(columns.inputs if gold == "ignored" else columns.rules)
    chosen: dict[str, str] = {}
    missing: dict[str, str] = {}  # column -> complaint
    for column in sorted(wanted, key=lambda column: column not in header):  # equal names are not up for grabs
        names = _candidates(column, [n for n in header if n not in chosen.values()], data, columns, lenient)
        if len(names) == 1:
            chosen[column] = names[0]
        elif names:
            missing[column] = f'{" and ".join(map(shorten, names))} could each be the task\'s "{column}"'
        elif ((column in columns.required and (column not in columns.gold or gold == "required"))
              or (column in data.columns and not (lenient and column in columns.optional))):
            missing[column] = f'no column is called {shorten(data.columns.get(column, column))}'
    left = [name for name in header if name not in chosen.values()]
    is_sure = chosen and len(missing) == len(left) == 1 and next(iter(missing)) not in data.columns
    if is_sure and normal_name(left[0]) not in (*NUMBERS, *NESTED):
        chosen[next(iter(missing))] = left[0]
        missing = {}
    if missing:
        raise _no_columns(missing, header, source, data)
    return {column: chosen[column] for column in wanted if column in chosen}


def _check_names(header: Sequence[str], source: str) -> None:
    if len(header) > MAX_COLUMNS:
        raise DataError(source, f"has {len(header):,} columns; at most {MAX_COLUMNS:,} are read.",
                        "Is this the right file? If it is, keep the columns that the task needs.")
    if repeated := [name for name, n in Counter(header).items() if n > 1]:
        raise DataError(source, f"has two columns called {shorten(repeated[0])}.", "Rename one of them.")


def normal_name(name: str) -> str:
    """A column's name as names are compared: no blanks around it, composed letters (NFC), any case."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _candidates(column: str, header: list[str], data: DataSpec, columns: Columns, lenient: bool) -> list[str]:
    """The file's columns that could be the task's `column`, by the first rule that finds any."""
    if column in data.columns and (data.columns[column] in header or not lenient):
        exact = [name for name in header if name == data.columns[column]]
        return exact or [name for name in header if normal_name(name) == normal_name(data.columns[column])]
    if column in header:
        return [column]
    usual = columns.usual_names.get(column, ())
    return ([name for name in header if normal_name(name) == column]
            or [name for name in header if normal_name(name) in usual])


def _no_columns(missing: dict[str, str], header: Sequence[str], source: str, data: DataSpec) -> DataError:
    shown = [shorten(name)[1:-1] for name in header[:MAX_COLUMNS_SHOWN]]
    problems = []
    for column, complaint in missing.items():
        known = nearest(data.columns.get(column, column), shown).replace("Known: ", "The file has: ")
        problems.append(Problem(source, f"{complaint}. {known[0].upper()}{known[1:]}."))
    fix = f"Say which one it is: --set data.columns.{next(iter(missing))}=NAME"
    if "labels" in missing:
        fix += "\n  If each label has a column of its own (0 or 1): --set 'task.label_columns=[NAME, NAME]'"
    if len(header) == 1 and re.search(r"\W", header[0]):
        fix += "\n  If these are several columns in one, name what parts them: --set data.delimiter=CHARACTER"
    return DataError.of(problems, fix)


def sample(data: DataSpec, n_rows: int = 1000) -> tuple[list[str], list[Row]]:
    """The columns of the train rows' source, and the values of its first sound rows."""
    source = parts(data.train)["train"]
    opened = open_source(source, Rules(data.encoding, data.delimiter, data.errors, data.max_chars, data.max_bytes))
    header = list(opened.header)
    try:
        wide = len(header) > MAX_SAMPLED_COLUMNS
        records = opened.records(header) if header and not wide else iter(())
        return header, [record.values for record in itertools.islice(records, n_rows) if not record.flaw]
    finally:
        if opened.lines:
            opened.lines.close()
