"""Files as records: each knows the line it began on, and carries what is wrong with it.

    path --lines.py--> Lines --CSV | JSON lines | JSON | plain text--> Record --data.py--> Row

A flaw of one record travels inside it, so that the caller may skip that record alone. What makes the rest of a file
unreadable, such as a quote that never closes, raises DataError here.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import DataError, MissingExtraError, shorten
from . import conll
from .lines import Lines, Rules, open_lines, too_large

DELIMITERS = ",;\t|"
SAMPLE_LINES = 50  # what the delimiter is judged by
SAMPLE_RECORDS = 100  # JSON records whose keys together are the header
BATCH_ROWS = 1000  # Parquet rows in memory at once

_csv_lock = threading.Lock()


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


# ---------------------------------------------------------------------------------------------------- CSV and TSV


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
    found = []
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in _limited(max_chars, list, csv.reader(sample, delimiter=delimiter)) if row]
        except csv.Error:
            continue
        rows = rows[:-1] if len(sample) == SAMPLE_LINES else rows  # the sample may end inside a record
        if rows and len(rows[0]) > 1:
            found.append((sum(len(row) == len(rows[0]) for row in rows), len(rows[0]), delimiter))
    return max(found)[2] if found else ","


def _is_unquoted(sample: list[str]) -> bool:
    """Whether a tab-separated file means its quotes literally: some field opens one that the line does not close."""
    rows = [line.rstrip("\r\n").split("\t") for line in sample]
    closed = re.compile(r'"(?:[^"]|"")*+"')
    is_open = any(field.startswith('"') and not closed.fullmatch(field) for row in rows for field in row)
    return is_open and len({len(row) for row in rows}) == 1


# ------------------------------------------------------------------------------------------- JSON and JSON lines


def _decoder(flaws: list[str]) -> json.JSONDecoder:
    """JSON as RFC 8259 has it; what Python would let pass, or quietly change, is noted in `flaws`."""
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            names = [name for name, _ in items]
            flaws.append(f"the key {shorten(next(n for n in names if names.count(n) > 1))} stands twice")
        return values

    def constant(name: str) -> None:
        flaws.append(f"{name} is not JSON; write null")

    def whole(text: str) -> int:
        if len(text) < 19 or (len(text) < 21 and -(2**63) <= int(text) < 2**63):
            return int(text)
        flaws.append(f"the number {shorten(text)[1:-1]} does not fit into 64 bits")
        return 0

    def real(text: str) -> float:
        if abs(value := float(text)) == float("inf"):
            flaws.append(f"the number {shorten(text)[1:-1]} does not fit into 64 bits")
        return value

    return json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant, parse_int=whole, parse_float=real)


def open_jsonl(lines: Lines) -> Opened:
    """One JSON object a line."""
    return _with_keys(_json_lines(lines), lines, "line")


def _json_lines(lines: Lines) -> Iterator[Record]:
    flaws: list[str] = []
    decoder = _decoder(flaws)
    lines.begin_record()
    for line in lines:
        values: Any = None
        if not (text := line.strip()):
            lines.n_blank_lines += 1
        else:
            try:
                values = decoder.decode(text)
            except json.JSONDecodeError as error:
                flaws[:] = [f"is not JSON: {error.msg}, column {error.colno}"]
            except RecursionError:
                flaws[:] = ["is nested too deeply"]
            yield _json_record(lines.number, values, flaws, lines.record_n_bad_bytes)
        flaws.clear()
        lines.begin_record()


def _json_record(line: int, values: Any, flaws: list[str], n_bad_bytes: int = 0) -> Record:
    if not flaws and not isinstance(values, dict):
        flaws = [f"is {shorten(values)}, not a JSON object"]
    return Record(line, {}, flaws[0], n_bad_bytes) if flaws else Record(line, values, "", n_bad_bytes)


# `[`, or `{"data": [` with nothing but plain values before it, as question-answering files have a version there.
_LIST_OPENS = re.compile(r'\s*(?:\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[-+.\w]+)\s*,)*\s*"data"\s*:\s*)?\[')
_BLANKS = re.compile(r"[ \t\r\n]*")


def _skip_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def open_json(lines: Lines) -> Opened:
    """One JSON document: a list of objects, or {"data": [...]}. Its text is held in memory; JSON lines are not.

    Articles as SQuAD nests them give a row for every question.
    """
    text = "".join(lines)
    lines.begin_record()
    if not text.strip():
        return Opened([], lambda _: iter(()), "row", lines)
    opening = _LIST_OPENS.match(text)
    if not opening:
        fix = "If every line is an object of its own, name the file .jsonl." if text.lstrip().startswith("{") else ""
        raise DataError(lines.source, f"begins with {shorten(text.strip(), 30)}; a JSON file must hold a list of "
                        'objects, or {"data": [...]}.', fix)
    return _with_keys(_flattened(_json_elements(text, opening.end(), lines.source)), lines, "row")


def _json_elements(text: str, at: int, source: str) -> Iterator[Record]:
    """The objects of the list whose bracket opens before `at`, one at a time."""
    flaws: list[str] = []
    decoder = _decoder(flaws)
    head, n = text[:at], 0
    try:
        at = _skip_blanks(text, at)
        while text[at : at + 1] != "]" or n:
            value, at = decoder.raw_decode(text, at)
            n += 1
            yield _json_record(n, value, flaws)
            flaws.clear()
            at = _skip_blanks(text, at)
            if text[at : at + 1] != ",":
                break
            at = _skip_blanks(text, at + 1)
        if text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        decoder.decode(head + text[at:])  # without its elements, what remains must be a document
    except json.JSONDecodeError as error:
        line = text.count("\n", 0, max(at, error.pos)) + 1
        raise DataError(f"{source}:{line}", f"is not JSON: {error.msg}, in or after row {n:,}.",
                        "Mend the file at that line.") from None
    except RecursionError:
        raise DataError(f"{source}: row {n + 1}", "is nested too deeply.", "Flatten it: one object a row.") from None


def _flattened(records: Iterator[Record]) -> Iterator[Record]:
    """Records of SQuAD's shape, {"title", "paragraphs": [{"context", "qas": [{"question", ...}]}]}, as one a question.

    They are numbered in the order of the questions; what is damaged inside is the flaw of one record.
    """
    n = 0
    for record in records:
        paragraphs = record.values.get("paragraphs")
        is_nested = isinstance(paragraphs, list) and any(isinstance(p, dict) and "qas" in p for p in paragraphs)
        for values in _questions(record.values) if is_nested else [record.values]:
            n += 1
            flaw = record.flaw if isinstance(values, dict) else values
            yield Record(n, {} if flaw else values, flaw, record.n_bad_bytes)


def _questions(article: dict[str, Any]) -> Iterator[Any]:
    """The values of every question of an article, or what is wrong with it, in words."""
    above = {"title": article["title"]} if "title" in article else {}
    for paragraph in article["paragraphs"]:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            yield f'holds the paragraph {shorten(paragraph)}, which has no list "qas"'
            continue
        inner = {**above, **({"context": paragraph["context"]} if "context" in paragraph else {})}
        for question in paragraph["qas"]:
            is_sound = isinstance(question, dict)
            yield {**question, **inner} if is_sound else f"holds the question {shorten(question)}, not a JSON object"


def _with_keys(records: Iterator[Record], lines: Lines, unit: Literal["line", "row"]) -> Opened:
    """The header of JSON records is all the keys of the first ones, in order."""
    first = list(itertools.islice(records, SAMPLE_RECORDS))
    header = list(dict.fromkeys(key for record in first for key in record.values))
    return Opened(header, lambda _: itertools.chain(first, records), unit, lines)


# -------------------------------------------------------------------------------------------- plain text, Parquet


def open_text(lines: Lines) -> Opened:
    """One text a line. The only column is called "text"; a blank line is an empty text, so that answers line up."""
    def records(_: list[str]) -> Iterator[Record]:
        for line in lines:
            yield Record(lines.number, {"text": line.rstrip("\r\n")}, "", lines.record_n_bad_bytes)
            lines.begin_record()

    return Opened(["text"], records, "line", lines)


def open_conll(lines: Lines) -> Opened:
    """A sentence a record: "tokens" is its first column, "tags" its last, "column_2" ... what stands between."""
    found = conll.layout(lines.peek(conll.SAMPLE_LINES), lines.rules.delimiter)
    header = ["tokens", *(f"column_{i}" for i in range(2, found.width)), "tags"][: found.width]

    def records(columns: list[str]) -> Iterator[Record]:
        wanted = [(name, header.index(name)) for name in columns if name in header]
        for line, rows, flaw in conll.sentences(lines, found):
            values = {} if flaw else {name: [row[i] for row in rows] for name, i in wanted}
            yield Record(line, values, flaw, lines.record_n_bad_bytes)

    return Opened(header, records, "line", lines)


def open_txt(lines: Lines) -> Opened:
    """CoNLL where every line is columns that end in a tag; otherwise one text a line."""
    return open_conll(lines) if conll.is_conll(lines.peek(conll.SAMPLE_LINES)) else open_text(lines)


def open_stdin(lines: Lines) -> Opened:
    """JSON lines when the first character that is not blank is "{", otherwise one text a line."""
    for n in itertools.count(1):
        ahead = lines.peek(n)
        if len(ahead) < n or ahead[-1].strip():
            break
    return open_jsonl(lines) if ahead and ahead[-1].lstrip("\ufeff \t").startswith("{") else open_text(lines)


def open_parquet(path: Path, source: str, rules: Rules) -> Opened:
    """Parquet, a batch of rows at a time; its own count of bytes is believed only to refuse it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "pyarrow", "train") from None
    broken = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    try:
        file = pyarrow.parquet.ParquetFile(path)
        n_bytes = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        header = list(file.schema_arrow.names)
    except broken as error:
        raise DataError(source, f"cannot be read as Parquet: {shorten(str(error), 200)}.",
                        "Write or download the file again.") from None
    if n_bytes > rules.max_bytes:
        raise too_large(source, "", n_bytes, rules.max_bytes)

    def records(columns: list[str]) -> Iterator[Record]:
        n_rows = n_read_bytes = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                n_read_bytes += batch.nbytes  # a dictionary page may unpack to far more than the metadata says
                if n_read_bytes > rules.max_bytes:
                    raise too_large(source, "more than ", rules.max_bytes, rules.max_bytes)
                for values in batch.to_pylist():
                    n_rows += 1
                    yield Record(n_rows, values)
        except broken as error:
            what = f"cannot be read as Parquet: {shorten(str(error), 200)}."
            raise DataError(f"{source}: after row {n_rows:,}", what,
                            "Write or download the file again.") from None

    return Opened(header, records, "row")


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
    if not ending:
        raise DataError(source, f"has a name that ends in none of {', '.join(SUFFIXES)}.",
                        "Rename it after its format.")
    if ending == ".parquet":
        return open_parquet(path, source, rules)
    return OPENERS[ending.removesuffix(".gz")](open_lines(path, source, rules))
