"""Files as records: each knows the line it began on, and carries what is wrong with it.

    path --lines.py--> Lines --CSV | JSON lines | JSON | plain text--> Record --table.py--> Row

A flaw of one record travels inside it, so that the caller may skip that record alone. What makes the rest of a file
unreadable, such as a quote that never closes, raises DataError here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import DataError, MissingExtraError, shorten
from ...core.untrusted import check_regular
from . import conll
from .class_names import class_names, named, names_of_card
from .delimited import is_csv, open_csv
from .json_records import is_jsonl, keys, open_json, open_jsonl
from .lines import FREE_UNPACKED_BYTES, Lines, Rules, check_ratio, is_stream, open_lines, too_large
from .records import Opened, Record

T = TypeVar("T")
BATCH_ROWS = 64  # Parquet rows in memory at once: a value of a megabyte may take a few bytes in the file
MAX_BLANK_LINES = 1000  # before the first line that says what standard input holds


def open_text(lines: Lines) -> Opened:
    """One text a line. The only column is called "text"; a blank line is an empty text, so that answers line up."""
    def records(_: list[str]) -> Iterator[Record]:
        for line in lines:
            yield Record(lines.number, {"text": line.rstrip("\r\n")}, "", lines.record_n_bad_bytes)
            lines.begin_record()

    return Opened(["text"], records, "line", lines)


def open_conll(lines: Lines) -> Opened:
    """A sentence a record: "tokens" is its first column, "tags" its last, "column_2" ... what stands between."""
    layout = conll.layout(lines.peek(conll.SAMPLE_LINES), lines.rules.delimiter)
    header = ["tokens", *(f"column_{i}" for i in range(2, layout.width)), "tags"][: layout.width]

    def records(columns: list[str]) -> Iterator[Record]:
        wanted = [(name, header.index(name)) for name in columns if name in header]
        for line, rows, flaw in conll.sentences(lines, layout):
            values = {} if flaw else {name: [row[i] for row in rows] for name, i in wanted}
            yield Record(line, values, flaw, lines.record_n_bad_bytes)

    return Opened(header, records, "line", lines)


def open_txt(lines: Lines) -> Opened:
    """CoNLL where every line is columns that end in a tag; CSV under a header; otherwise one text a line."""
    if conll.is_conll(lines.peek(conll.SAMPLE_LINES)):
        return open_conll(lines)
    return open_csv(lines) if is_csv(lines) else open_text(lines)


def open_stdin(lines: Lines) -> Opened:
    """JSON lines when the first character that is not blank is "{"; CSV under a header; otherwise one text a line."""
    ahead = next(filter(str.strip, lines.peek(MAX_BLANK_LINES)), "")
    if ahead.lstrip("\ufeff \t").startswith("{"):
        return open_jsonl(lines)
    return open_csv(lines) if is_csv(lines) else open_text(lines)


def open_parquet(path: Path, source: str, rules: Rules) -> Opened:
    """Parquet, a few rows at a time; its own count of bytes is believed only to refuse it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "pyarrow", "train") from None
    broken = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    n_packed_bytes = check_regular(path, DataError).st_size
    try:
        file = pyarrow.parquet.ParquetFile(path)
        n_bytes = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        header = list(file.schema_arrow.names)
        names = class_names(file.schema_arrow.metadata, source) or names_of_card(path.parent)
    except broken as error:
        raise DataError(source, f"cannot be read as Parquet: {shorten(str(error), 200)}.",
                        "Write or download the file again.") from None
    if n_bytes > rules.max_bytes:
        raise too_large(source, "", n_bytes, rules.max_bytes)
    check_ratio(source, n_bytes, n_packed_bytes)

    def records(columns: list[str]) -> Iterator[Record]:
        n_rows = n_read_bytes = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for values in batch.to_pylist():
                    n_rows += 1
                    n_read_bytes += n_chars(values)  # a page may unpack to far more than the metadata says
                    if n_read_bytes > rules.max_bytes:
                        raise too_large(source, "more than ", rules.max_bytes, rules.max_bytes)
                    if n_read_bytes > FREE_UNPACKED_BYTES:
                        check_ratio(source, n_read_bytes, n_packed_bytes)
                    yield Record(n_rows, values | {
                        name: named(values[name], names[name]) for name in names.keys() & values})
        except broken as error:
            what = f"cannot be read as Parquet: {shorten(str(error), 200)}."
            raise DataError(f"{source}: after row {n_rows:,}", what,
                            "Write or download the file again.") from None

    return Opened(header, records, "row")


def n_chars(value: Any) -> int:
    """About how many characters a value would take as text."""
    n, ahead = 0, [value]
    while ahead:
        part = ahead.pop()
        if isinstance(part, dict | list):
            ahead += part.values() if isinstance(part, dict) else part
            n += len(part)
        else:
            n += len(part) if isinstance(part, str | bytes) else 8
    return n


OPENERS: dict[str, Callable[[Lines], Opened]] = {
    ".csv": open_csv, ".tsv": open_csv, ".jsonl": open_jsonl, ".ndjson": open_jsonl, ".json": open_json,
    ".txt": open_txt, ".conll": open_conll, ".bio": open_conll, ".iob": open_conll,
}
SUFFIXES = (*OPENERS, *(f"{suffix}.gz" for suffix in OPENERS), ".parquet")


def suffix(path: Path) -> str:
    """The part of a file's name that says its format: ".csv", ".csv.gz"; "" when it says none."""
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")


def open_file(path: Path, source: str, rules: Rules) -> Opened:
    """A file by the suffix of its name. Raises DataError when there is no format of that name."""
    ending = suffix(path)
    if not ending and is_stream(path):
        return open_stdin(open_lines(path, source, rules))
    if not ending:
        raise DataError(source, f"has a name that ends in none of {', '.join(SUFFIXES)}.",
                        "Rename it after its format.")
    if ending == ".parquet":
        return open_parquet(path, source, rules)
    ending = ending.removesuffix(".gz")
    if ending == ".json" and path.is_file() and _look(path, source, rules, is_jsonl):
        ending = ".jsonl"  # as pandas and datasets call it
    if OPENERS[ending] is open_jsonl and path.is_file():
        return open_jsonl(open_lines(path, source, rules), _look(path, source, rules, keys))
    return OPENERS[ending](open_lines(path, source, rules))


def _look(path: Path, source: str, rules: Rules, read: Callable[[Lines], T]) -> T:
    """What `read` makes of a file's lines, which are then read anew."""
    lines = open_lines(path, source, rules)
    try:
        return read(lines)
    finally:
        lines.close()
