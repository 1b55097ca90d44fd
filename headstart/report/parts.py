"""What a report is made of: sections of words, tables and pictures; HTML and Markdown are written from these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of ready words. The first `n_words` columns hold words, the rest numbers.

    main:   index of the row to set in bold. folded: the line to click on when the table is closed at first.
    shares: for every number a share of one, drawn as a bar beside the last column or, with look "heat", as a shade.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    n_words: int = 1
    main: int = -1
    look: str = ""
    shares: Sequence[Sequence[float]] = ()
    is_dense: bool = False
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG and what it shows."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A part of a page: words, pictures, tables."""

    name: str
    title: str
    lead: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Headline:
    """What stands at the top of a page."""

    title: str
    rest: str
    plain: str
