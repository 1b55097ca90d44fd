"""JSON lines, and JSON documents that are one list."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal

from ...core.errors import DataError, shorten
from .lines import Lines
from .records import Opened, Record

SAMPLE_RECORDS = 100  # of a stream, which cannot be read twice: their keys together are the header at first


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


def open_jsonl(lines: Lines, header: Iterable[str] = ()) -> Opened:
    """One JSON object a line. header: the keys of all lines, where they are known."""
    return _with_keys(_json_lines(lines), lines, "line", header)


def keys(lines: Lines) -> list[str]:
    """The keys of all JSON lines in their order; what is wrong with a line is left to whoever reads its values."""
    names: dict[str, None] = {}
    with suppress(DataError):
        for line in lines:
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict) and not value.keys() <= names.keys():
                    names.update(dict.fromkeys(value))
            lines.begin_record()
    return list(names)


def is_jsonl(lines: Lines) -> bool:
    """Whether the first two lines that are not blank are an object each."""
    objects = [line for line in lines.peek(SAMPLE_RECORDS) if line.strip()][:2]
    with suppress(ValueError, RecursionError):
        return len(objects) == 2 and all(isinstance(json.loads(line.lstrip("\ufeff")), dict) for line in objects)
    return False


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
    text = "".join(iter(lines.piece, ""))
    lines.begin_record()
    if not text.strip():
        return Opened([], lambda _: iter(()), "row", lines)
    opening = _LIST_OPENS.match(text)
    if not opening:
        fix = ("If every line is an object of its own, name the file .jsonl." if text.lstrip().startswith("{")
               else "Is this the right file?")
        raise DataError(lines.source, f"begins with {shorten(text.strip(), 30)}; a JSON file must hold a list of "
                        'objects, or {"data": [...]}.', fix)
    def records() -> Iterator[Record]:
        return _flattened(_json_elements(text, opening.end(), lines.source))

    header: dict[str, None] = {}
    with suppress(DataError):  # whoever reads the rows reports it
        for record in records():
            header.update(dict.fromkeys(record.values))
    return _with_keys(records(), lines, "row", header)


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


def _with_keys(records: Iterator[Record], lines: Lines, unit: Literal["line", "row"],
               keys: Iterable[str] = ()) -> Opened:
    """The header of JSON records is `keys`, or those of the first ones, to which others are added as they come."""
    first = list(itertools.islice(records, 0 if keys else SAMPLE_RECORDS))
    header = dict.fromkeys((*keys, *(key for record in first for key in record.values)))
    names = list(header)

    def all_records(_: list[str]) -> Iterator[Record]:
        for record in itertools.chain(first, records):
            if not record.values.keys() <= header.keys():
                new = [key for key in record.values if key not in header]
                header.update(dict.fromkeys(new))
                names.extend(new)
            yield record

    return Opened(names, all_records, unit, lines)
