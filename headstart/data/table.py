"""Sources to rows: which columns are meant, what a row must hold, and a count of all that was not taken as it is.

    tickets.csv --sources--> Record --Stream--> Row {"text": ..., "label": ...} --read--> Table

In strict mode, the default, one bad row stops everything; but all of a file's problems are told at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..core.errors import MAX_PROBLEMS_SHOWN, DataError, Problem, shorten
from ..core.spec import DataSpec
from ..core.values import Row
from .columns import Gold, Question, infer_columns, normal_name
from .sources import Opened, Record, Rules, open_source, parts

MAX_PROBLEMS = 1000  # a file with more is the wrong file, or the wrong column
MAX_DEPTH = 64  # of lists within lists in one value
MAX_INTERNED = 10_000  # equal labels share one string; where there are more of them, gold hardly repeats
COUNTS = ("n_read", "n_skipped", "n_blank_lines", "n_undecodable_bytes", "n_replaced_rows",
          "n_rows_with_replacement_character", "n_normalized_labels", "n_rows_with_trimmed_entities",
          "n_rows_of_several_lines", "n_quotes_that_never_close")

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """Rows of one source under the task's column names, and where each of them stands.

    lines_N: the line a row begins on (CSV, JSON lines, text), or its number counted from 1 (Parquet, JSON, hub).
    counts:  everything that was skipped, replaced or changed; every key is always there.
    skipped: the first ten rows that were left out, and why.
    """

    rows: list[Row]
    lines_N: np.ndarray
    source: str
    unit: Literal["line", "row"]
    columns: dict[str, str]
    inferred: dict[str, str]
    counts: dict[str, int]
    skipped: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, i: int) -> str:
        """Row `i` as a message names it: "tickets.csv:41"."""
        return _where(self.source, self.unit, int(self.lines_N[i]))

    def take(self, indices: Sequence[int] | np.ndarray) -> Table:
        """The rows at `indices`, in that order."""
        return replace(self, rows=[self.rows[i] for i in indices], lines_N=self.lines_N[np.asarray(indices, np.int64)])

    def digest(self) -> str:
        """sha256 (hex) of the rows in their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, ensure_ascii=True).encode())
        return digest.hexdigest()


def _where(source: str, unit: str, line: int) -> str:
    return f"{source}:{line}" if unit == "line" else f"{source}: row {line}"


@dataclass
class Stream:
    """The rows of one source, one at a time, in the memory of one; `counts` is complete when they are through.

    columns:  the task's column -> the file's.
    inferred: those of them that neither the Spec nor an equal name decided.
    """

    source: str
    unit: Literal["line", "row"]
    columns: dict[str, str]
    inferred: dict[str, str]
    _opened: Opened
    _data: DataSpec
    _task: Question
    _gold: Gold
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    skipped: list[Problem] = field(default_factory=list)
    _n_known: int = 0  # names of the header by which the columns were chosen
    _strings: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """(line, row) of every row. Raises DataError with all problems of the file, after the rows before the first."""
        return ((line, row) for line, row in self.each() if isinstance(row, dict))

    def numbered(self) -> Iterator[Row | tuple[int, str]]:
        """The rows; in the place of one that is skipped, its number, counted from 1, and what is wrong with it."""
        return (row if isinstance(row, dict) else (n, row) for n, (_, row) in enumerate(self.each(), 1))

    def each(self) -> Iterator[tuple[int, Row | str]]:
        """(line, row) of every row, or what is wrong with one that is skipped. Raises DataError as iterating does."""
        problems: list[Problem] = []
        fixes: list[str] = []
        lines = self._opened.lines
        try:
            for record in self._records():
                row, complaint = self._row(record.values, record.flaw, record.n_bad_bytes)
                if complaint is None:
                    self._count(row, record.n_bad_bytes)
                    if not problems and not (self._data.errors == "strict" and lines and lines.n_bad_bytes):
                        yield record.line, row
                elif self._data.errors == "skip":
                    yield record.line, self._skip(record.line, complaint)
                elif complaint:
                    problems.append(Problem(_where(self.source, self.unit, record.line), complaint + "."))
                    if len(problems) == MAX_PROBLEMS:
                        fixes.append(f"Reading stopped at {MAX_PROBLEMS:,} problems.")
                        break
            if problems:
                fixes.append("Mend these rows, or leave them out and have them counted: --set data.errors=skip")
        except DataError as fatal:
            problems += fatal.problems or [Problem(fatal.where, fatal.what)]
            fixes.append(fatal.fix)
        finally:
            if lines:
                self.counts.update(n_blank_lines=lines.n_blank_lines, n_undecodable_bytes=lines.n_bad_bytes,
                                   n_rows_of_several_lines=lines.n_long_records,
                                   n_quotes_that_never_close=lines.n_open_quotes)
                lines.close()
        self._finish(problems, fixes)

    def _records(self) -> Iterator[Record]:
        for record in self._opened.records(list(dict.fromkeys(self.columns.values()))):
            self.counts["n_read"] += 1
            if len(self._opened.header) > self._n_known:
                self._check_new_keys(record.line)
            yield record

    def _check_new_keys(self, line: int) -> None:
        """Raise DataError for a key of a stream that comes late, and would have been a column of the task.

        One that rows may lack is read from here on: the rows before had none.
        """
        known, self._n_known = self._opened.header[: self._n_known], len(self._opened.header)
        columns = infer_columns(self._opened.header, self._data, self._task, self.source, gold=self._gold, lenient=True)
        late = {column: name for column, name in columns.items() if column in self._task.columns.sparse
                and name not in known}
        if {column: name for column, name in columns.items() if column not in late} == self.columns:
            self.columns = columns
        else:
            new = [name for name in columns.values() if name not in known]
            raise DataError(_where(self.source, self.unit, line),
                            f"the key {', '.join(map(shorten, new))} first stands here; the rows before were read "
                            "without it.", "Write the rows to a file, all of which is looked at first, or give every "
                            "row the same keys.")

    def _row(self, values: Row, flaw: str, n_bad_bytes: int) -> tuple[Row, str | None]:
        """The task's row and what is wrong with it; "" when that is told elsewhere, for the file as a whole."""
        if n_bad_bytes and self._data.errors != "replace":
            return {}, f"{n_bad_bytes:,} of its bytes cannot be decoded" if self._data.errors == "skip" else ""
        if flaw:
            return {}, flaw
        row: Row = {}
        for column, name in self.columns.items():
            if name not in values:
                if column in self._task.columns.sparse or (
                        column in self._task.columns.gold and self._gold == "optional"):
                    continue
                return {}, f"has no {shorten(name)}{self._rule(column)}"
            if unfit := _unfit(values[name], self._data.max_chars):
                return {}, f"column {shorten(name)} {unfit}"
            row[column] = self._normalized(column, values[name])
        row, change = self._task.normalized(row)
        if change:
            self.counts[change] += 1
        complaint = self._task.check(row)
        return row, self._in_words_of_the_file(complaint) if complaint else None

    def _normalized(self, column: str, value: Any) -> Any:
        """A gold string in its normal form, and the same object every time."""
        if column not in self._task.columns.gold or not isinstance(value, str):
            return value
        if self._data.normalize_labels and (normal := value.strip().casefold()) != value:
            self.counts["n_normalized_labels"] += 1
            value = normal
        return self._strings.setdefault(value, value) if len(self._strings) < MAX_INTERNED else value

    def _rule(self, column: str) -> str:
        return f'; task "{self._task.name}" needs {self._task.columns.rules[column]} in every row'

    def _in_words_of_the_file(self, complaint: str) -> str:
        """A task's complaint about its column, with the file's own name for it and the rule."""
        for column, name in self.columns.items():
            rest = complaint.removeprefix(f'"{column}"')
            if rest != complaint:
                known_as = "" if name == column else f' (the task\'s "{column}")'
                return f"column {shorten(name)}{known_as}{rest}{'' if ';' in rest else self._rule(column)}"
        return complaint

    def _count(self, row: Row, n_bad_bytes: int) -> None:
        if n_bad_bytes:
            self.counts["n_replaced_rows"] += 1
            return
        for value in row.values():
            if isinstance(value, str) and not value.isascii() and "\ufffd" in value:
                self.counts["n_rows_with_replacement_character"] += 1
                return

    def _skip(self, line: int, complaint: str) -> str:
        """Count a row that is left out. Returns where it stands, and what is wrong with it."""
        problem = Problem(_where(self.source, self.unit, line), complaint + ".")
        self.counts["n_skipped"] += 1
        if len(self.skipped) < MAX_PROBLEMS_SHOWN:
            self.skipped.append(problem)
        return str(problem)

    def _finish(self, problems: list[Problem], fixes: list[str]) -> None:
        """Raise what is wrong with the source as a whole."""
        lines = self._opened.lines
        if lines and lines.n_bad_bytes and self._data.errors == "strict":
            line, position, byte = lines.first_bad
            problems.insert(0, Problem(
                f"{self.source}:{line}", f"byte {position} of the line (0x{byte:02x}) is not {lines.encoding}; "
                f"{_n(lines.n_bad_bytes, 'byte')} in {_n(lines.n_bad_lines, 'line')} cannot be decoded."))
            fixes.insert(0, "Say which encoding it is: --encoding latin-1; or have those bytes replaced or those rows "
                            "skipped, and counted: --set data.errors=replace (or skip)")
        if problems:
            raise DataError.of(problems, "\n  ".join(filter(None, fixes)))
        if not self.counts["n_read"]:
            has_header = self._opened.header and (lines is None or lines.number)
            what = "has a header and no row below it" if has_header else "is empty"
            raise DataError(self.source, f"{what}.", "Is this the right file?")
        if self.counts["n_read"] == self.counts["n_skipped"]:
            first = self.skipped[0]
            raise DataError(self.source, f"all {_n(self.counts['n_read'], 'row')} were skipped; the first: {first}",
                            "Is this the right file?")


def _n(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _unfit(value: Any, max_chars: int) -> str | None:
    """What no value of any column may hold; looked for without recursion, as JSON may nest."""
    if isinstance(value, str) and len(value) <= max_chars and value.isascii() and "\0" not in value:
        return None  # nearly all values, without the walk
    ahead = [(value, 0)]
    while ahead:
        part, depth = ahead.pop()
        if isinstance(part, str):
            if len(part) > max_chars:
                return f"has {len(part):,} characters; data.max_chars allows {max_chars:,}"
            if "\0" in part:
                return "contains a NUL character; is the file UTF-16, or no text at all?"
            if not part.isascii() and (half := _SURROGATE.search(part)):
                return f"contains U+{ord(half[0]):04X}, half of a surrogate pair, which is not a character"
        elif isinstance(part, list | dict):
            if depth == MAX_DEPTH:
                return f"is nested deeper than {MAX_DEPTH} levels"
            ahead += [(inner, depth + 1) for inner in (part.values() if isinstance(part, dict) else part)]
    return None


def stream_rows(source: str, data: DataSpec, task: Question, *, gold: Gold = "required",
                lenient: bool = False, opened: Opened | None = None) -> Stream:
    """Open `source` for one reading, row by row; files of any size take the memory of one row.

    opened: the source, where it is open already; then `source` is only its name.
    gold: "required" to train and to evaluate; "optional" keeps and checks the answers that are there; "ignored"
    leaves them where they are. Raises DataError, at once for a file or a header that cannot be used.
    """
    shown = "standard input" if source == "-" else source
    names = (*task.columns.inputs, *map(normal_name, data.columns.values()))
    usual = tuple(name for column in task.columns.inputs for name in task.columns.usual_names.get(column, ()))
    opened = opened or open_source(source, Rules(data.encoding, data.delimiter, data.errors, data.max_chars,
                                                 data.max_bytes, names, usual))
    columns = {column: column for column in task.columns.rules}
    if opened.header:  # without one there is no row either, or none that is sound: the reading will say which
        columns = infer_columns(opened.header, data, task, shown, gold=gold, lenient=lenient)
    inferred = {c: name for c, name in columns.items() if name != c and c not in data.columns}
    return Stream(shown, opened.unit, columns, inferred, opened, data, task, gold, _n_known=len(opened.header))


def read_table(source: str, data: DataSpec, task: Question, *, gold: Gold = "required", lenient: bool = False) -> Table:
    """All rows of `source`. Arguments and errors as for `stream_rows`."""
    rows, lines = [], []
    reading = stream_rows(source, data, task, gold=gold, lenient=lenient)
    for line, row in reading:
        rows.append(row)
        lines.append(line)
    return Table(rows, np.array(lines, np.int64), reading.source, reading.unit, reading.columns, reading.inferred,
                 reading.counts, tuple(reading.skipped))


def read_splits(data: DataSpec, task: Question) -> dict[str, Table]:
    """"train", and "validation" and "test" where the Spec names them or the train source brings them."""
    sources = parts(data.train)
    sources.update({part: named for part in ("validation", "test") if (named := getattr(data, part))})
    return {part: read_table(source, data, task) for part, source in sources.items()}
