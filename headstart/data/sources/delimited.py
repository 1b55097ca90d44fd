"""CSV and TSV: records whose values stand between delimiters."""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...core.errors import DataError
from .lines import Lines
from .records import Opened, Record

DELIMITERS = ",;\t|"
SAMPLE_LINES = 50  # what the delimiter is judged by
SEEN_ROWS = 1000  # of one line, that tell what a column holds
MIN_LINES = 5  # lines behind an open quote that are rows by their number of fields alone

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
    """Comma, semicolon, tab or bar separated records under one header line.

    A first column without a name, as pandas writes an index, is nobody's: it is passed over.
    """
    sample = lines.peek(SAMPLE_LINES)
    delimiter = lines.rules.delimiter or _delimiter(sample, lines.rules.max_chars)
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" and _is_unquoted(sample) else csv.QUOTE_MINIMAL
    parsed = _parsed(lines, delimiter, quoting)
    line, names, flaw = next(parsed, (1, [], ""))
    header = [name.strip() for name in names]
    first = 1 if len(header) > 1 and not header[0] else 0
    flaw = flaw or next((f"column {i} has no name" for i, name in enumerate(header, 1) if i > first and not name), "")
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

    return Opened(header[first:], records, "line", lines)


def is_csv(lines: Lines) -> bool:
    """Whether the first line is a header with a column that is meant (Rules.names, usual_names), and no text itself.

    A line that is one name and nothing else is a header where that very column is meant: "review" may be a text.
    """
    sample, rules = [line for line in lines.peek(SAMPLE_LINES) if line.strip()], lines.rules
    delimiter = rules.delimiter or _delimiter(sample, rules.max_chars)
    header = [name.strip().casefold() for name in _alone(sample[0].lstrip("\ufeff"), delimiter)] if sample else []
    if len(header) < 2:
        return bool(header) and header[0] in rules.names
    widths = [len(_alone(line, delimiter)) for line in sample[1:] if line.count('"') % 2 == 0]
    return (len(set(header)) == len(header) and not {*rules.names, *rules.usual_names}.isdisjoint(header)
            and 2 * widths.count(len(header)) >= len(widths) + bool(widths))


def _fields(n: int) -> str:
    return "1 field" if n == 1 else f"{n} fields"


def _parsed(lines: Lines, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str], str]]:
    """(first line, fields, flaw) of every record. Raises DataError where a quote swallows the lines that follow.

    Where these lines are rows of their own, and the quote a character of its text, each of them is a record.
    """
    rows = _Rows(delimiter, lines.peek(SAMPLE_LINES))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        first = lines.begin_record()
        flaw = ""
        try:
            fields = _limited(lines.rules.max_chars, next, reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields, flaw = [], _csv_flaw(str(error), lines.rules.max_chars)
        if len(lines.record) > 1 or "file ends" in flaw:
            if own := rows.of_their_own(lines.record):
                lines.n_open_quotes += 1
                yield from ((first + i, fields, "") for i, fields in enumerate(own))
                continue
            if flaw:
                opened = first + _open_quote(lines.record, delimiter)
                raise DataError(f"{lines.source}:{opened}",
                                f"a quoted field opens here; in line {lines.number}, {flaw}.",
                                'Close it; inside a quoted field, a quote is written twice ("").')
            lines.n_long_records += 1
        elif not fields and not flaw:
            lines.n_blank_lines += 1
            continue
        elif len(rows.seen) < SEEN_ROWS:
            rows.seen.append(fields)
        yield first, fields, flaw


def _alone(line: str, delimiter: str) -> list[str]:
    """The fields of a line that is a record of its own; a quote that it opens and does not close is a character."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return line.rstrip("\r\n").split(delimiter)


class _Rows:
    """What rows of a file look like, to tell a field of several lines from a quote that means itself.

    sample: the first lines; the first of all is the header.
    seen:   the fields of the first rows of one line.
    """

    def __init__(self, delimiter: str, sample: Sequence[str]) -> None:
        self.delimiter, self.header_line = delimiter, sample[0] if sample else ""
        self.width = len(_alone(self.header_line, delimiter))
        self.seen = [_alone(line, delimiter) for line in sample[1:] if line.count('"') % 2 == 0]
        self._n_looked_at, self._telling = 0, list[tuple[int, set[str], bool]]()

    def of_their_own(self, record: Sequence[str]) -> list[list[str]]:
        """The fields of each of a record's lines where all of them are rows of their own; [] where they are not.

        Who quotes a column's name means quotes as quotes. Otherwise every line must have as many fields as the header;
        that is enough where tabs part them, which texts do not hold. A text's lines may have a comma each: there they
        must also hold, in columns of few values or of numbers, what other rows hold; or be many.
        """
        if self.width < 2 or '"' in self.header_line:
            return []
        own = [_alone(line, self.delimiter) for line in record]
        if any(len(fields) != self.width for fields in own):
            return []
        if self.delimiter == "\t":
            return own
        if telling := self._columns():
            is_row = all((value := fields[i].strip()) in values or (is_numbers and _is_number(value))
                         for fields in own for i, values, is_numbers in telling)
        else:
            is_row = len(own) >= MIN_LINES and all(value.strip() for fields in own for value in fields)
        return own if is_row else []

    def _columns(self) -> list[tuple[int, set[str], bool]]:
        """(place, values that are not empty, whether all are numbers) of the columns that tell a row."""
        if len(self.seen) > 2 * self._n_looked_at:  # looked at seldom: some texts have many lines
            rows = [fields for fields in self.seen if len(fields) == self.width]
            self._n_looked_at, self._telling = len(self.seen), []
            for i, column in enumerate(zip(*rows, strict=True)):
                values = {value.strip() for value in column}
                is_numbers = all(map(_is_number, values))
                if is_numbers or 2 * len(values) <= len(column):
                    self._telling.append((i, values - {""}, is_numbers))
        return self._telling


def _is_number(value: str) -> bool:
    return value.strip().lstrip("-").replace(".", "", 1).isdecimal()


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
