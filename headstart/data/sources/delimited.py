"""CSV and TSV: records whose values stand between delimiters."""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...core.errors import DataError
from .lines import Lines
from .records import Opened, Record

DELIMITERS = ",;\t|"
SAMPLE_LINES = 50  # what the delimiter is judged by

_csv_lock = threading.Lock()


def _limited(max_chars: int, read: Callable[[Any], Any], reader: Any) -> Any:
    """`read(reader)`. csv's own limit is one number for the whole process: it is set for one call and put back."""
    with _csv_lock:
        before = csv.field_size_limit(max_chars)
        try:
            return read(reader)
        finally:
            csv.field_size_limit(before)


def open_csv(lines: Lines) -> Opened:
    """Comma, semicolon, tab or bar separated records under one header line."""
    sample = lines.peek(SAMPLE_LINES)
    delimiter = lines.rules.delimiter or _delimiter(sample, lines.rules.max_chars)
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" and _is_unquoted(sample) else csv.QUOTE_MINIMAL
    parsed = _parsed(lines, delimiter, quoting)
    line, names, flaw = next(parsed, (1, [], ""))
    header = [name.strip() for name in names]
    flaw = flaw or next((f"column {i} has no name" for i, name in enumerate(header, 1) if header and not name), "")
    if flaw:
        raise DataError(f"{lines.source}:{line}", f"the header cannot be used: {flaw}.",
                        "Give every column a name of its own (pandas: to_csv(..., index=False) leaves out the index).")

    def records(columns: list[str]) -> Iterator[Record]:
        wanted = [(name, header.index(name)) for name in columns if name in header]
        for at, fields, flaw in parsed:
            if not flaw and len(fields) != len(header):
                flaw = f"has {_fields(len(fields))}, the header has {len(header)}"
            values = {} if flaw else {name: fields[i] for name, i in wanted}
            yield Record(at, values, flaw, lines.record_n_bad_bytes)

    return Opened(header, records, "line", lines)


def _fields(n: int) -> str:
    return "1 field" if n == 1 else f"{n} fields"


def _parsed(lines: Lines, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str], str]]:
    """(first line, fields, flaw) of every record. Raises DataError where a quote swallows the lines that follow."""
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        first = lines.begin_record()
        try:
            fields = _limited(lines.rules.max_chars, next, reader)
        except StopIteration:
            return
        except csv.Error as error:
            flaw = _csv_flaw(str(error), lines.rules.max_chars)
            if len(lines.record) > 1 or "file ends" in flaw:
                opened = first + _open_quote(lines.record, delimiter)
                raise DataError(f"{lines.source}:{opened}",
                                f"a quoted field opens here; in line {lines.number}, {flaw}.",
                                'Close it; inside a quoted field, a quote is written twice ("").') from None
            yield first, [], flaw
            continue
        if fields:
            yield first, fields, ""
        else:
            lines.n_blank_lines += 1


def _csv_flaw(error: str, max_chars: int) -> str:
    """csv's complaint in the house's words."""
    if "field limit" in error:
        return f"a field is longer than {max_chars:,} characters (data.max_chars)"
    if "unexpected end" in error:
        return "the file ends before it closes"
    if "expected after" in error:
        return "text follows a closing quote"
    return "a carriage return stands in a field without quotes" if "new-line" in error else error


def _open_quote(record: list[str], delimiter: str) -> int:
    """How many lines into the record the last quoted field opens."""
    text = "".join(record)
    quoted = re.compile(rf'(?:\A|(?<=[\n{re.escape(delimiter)}]))"(?:[^"]|"")*+')
    starts = [match.start() for match in quoted.finditer(text)]
    return text.count("\n", 0, starts[-1]) if starts else 0


def _delimiter(sample: list[str], max_chars: int) -> str:
    """The delimiter under which the most records of the sample have as many fields as the header, two at least."""
    candidates = []
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in _limited(max_chars, list, csv.reader(sample, delimiter=delimiter)) if row]
        except csv.Error:
            continue
        rows = rows[:-1] if len(sample) == SAMPLE_LINES else rows  # the sample may end inside a record
        if rows and len(rows[0]) > 1:
            candidates.append((sum(len(row) == len(rows[0]) for row in rows), len(rows[0]), delimiter))
    return max(candidates)[2] if candidates else ","


def _is_unquoted(sample: list[str]) -> bool:
    """Whether a tab-separated file means its quotes literally: some field opens one that the line does not close.

    Who quotes a column's name quotes fields, too; and such a field may go on in the next line.
    """
    rows = [line.rstrip("\r\n").split("\t") for line in sample]
    closed = re.compile(r'"(?:[^"]|"")*+"')
    if rows and any(map(closed.fullmatch, rows[0])):
        return False
    is_open = any(field.startswith('"') and not closed.fullmatch(field) for row in rows for field in row)
    return is_open and len({len(row) for row in rows}) == 1
