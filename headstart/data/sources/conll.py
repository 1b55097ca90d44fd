"""CoNLL files: a word a line, its columns beside it, a blank line after each sentence.

    EU  NNP  B-ORG          sentences(lines, layout) -> (1, [["EU", "NNP", "B-ORG"], ["rejects", ...]], "")
    rejects  VBZ  O
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .lines import Lines

SAMPLE_LINES = 200  # what the layout is judged by
MIN_LINES = 3  # fewer do not say that a .txt file is meant so
_DIVIDER = "-DOCSTART-"
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_BLANKS = " \t\r\n"  # no others: a no-break space may be a word


class Layout(NamedTuple):
    """What parts the columns (None: any number of blanks), and how many there are."""

    separator: str | None
    width: int

    def fields(self, line: str) -> list[str]:
        line = line.strip(_BLANKS) if self.separator is None else line.strip("\r\n")
        if not line.strip(_BLANKS):
            return []
        parts = line.split(self.separator) if self.separator else re.split("[ \t]+", line)
        return [part.strip(_BLANKS) for part in parts]


def layout(sample: Sequence[str], separator: str | None = None) -> Layout:
    """The layout that most lines of the sample have."""
    filled = [line for line in sample if line.strip(_BLANKS) and not line.startswith(_DIVIDER)]
    if separator is None and 2 * sum("\t" in line for line in filled) > len(filled):
        separator = "\t"
    widths = Counter(len(Layout(separator, 0).fields(line)) for line in filled)
    return Layout(separator, max(widths, key=lambda width: (widths[width], width), default=0))


def is_conll(sample: Sequence[str]) -> bool:
    """Whether every line of a text file is two to four columns of which the last is a tag such as B-PER or O."""
    columns = layout(sample)
    rows = [columns.fields(line) for line in sample if not line.startswith(_DIVIDER)]
    rows = [row for row in rows if row]
    return (len(rows) >= MIN_LINES and 2 <= columns.width <= 4
            and all(len(row) == columns.width and _TAG.fullmatch(row[-1]) for row in rows))


def sentences(lines: Lines, columns: Layout) -> Iterator[tuple[int, list[list[str]], str]]:
    """(first line, the columns of each word, what is wrong) of every sentence; comments and -DOCSTART- are none."""
    rows: list[list[str]] = []
    first, flaw = 0, ""
    lines.begin_record()
    for line in itertools.chain(lines, [""]):
        fields = columns.fields(line)
        if not fields or fields[0] == _DIVIDER:
            if rows:
                yield first, rows, flaw
            rows, first, flaw = [], 0, ""
            lines.begin_record()
        elif rows or not line.startswith("#") or len(fields) == columns.width:  # "# O" may be a word; "# id 1" is none
            first = first or lines.number
            if len(fields) != columns.width and not flaw:
                flaw = f"line {lines.number:,} has {len(fields)} columns; the file has {columns.width}"
            rows.append(fields)
