"""The page of an audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import files as sealed
from . import page as report
from .run import Headline, Section
from .run import Table as Shown
from .wording import clean, cut, percent

MAX_LISTED = 20  # of every kind of finding, in the table and on the page; counts are of all
MAX_CHARS_LISTED = 160  # of a text


def write(found: Mapping[str, Any], out: Path) -> None:
    """audit.json, audit.html and audit.md into the folder `out`."""
    shown = clean(found)
    top, facts, parts = headline(shown), [("Task", shown["task"]), ("Data", shown["source"])], sections(shown)
    sealed.write_file(out / "audit.json", [json.dumps(found, ensure_ascii=False, indent=1)])
    footer = "Written by headstart audit from audit.json, which lies beside this page."
    sealed.write_file(out / "audit.html", [report.page(top, facts, parts, "", "headstart audit", footer)])
    sealed.write_file(out / "audit.md", [report.markdown_page(top, facts, parts)])


def markdown(found: Mapping[str, Any]) -> str:
    """What the command line prints."""
    shown = clean(found)
    return report.markdown_page(headline(shown), [("Data", shown["source"])], sections(shown))


def headline(found: Mapping[str, Any]) -> Headline:
    """What to look at first."""
    said = [(sum(found["leaks"]["n_rows"].values()), "row", "of validation or test with a twin in train"),
            (found["unusable"]["counts"].get("n_skipped", 0), "row", "that cannot be used"),
            (found["conflicts"]["n_texts"], "text", "with several labels"),
            ((found["suspects"] or {}).get("n_rows", 0), "train label", "probably wrong"),
            (found["twins"]["n_rows"], "row", "with a twin in the same part")]
    worst = [f"{n:,} {noun}{'s' if n > 1 else ''} {rest}" for n, noun, rest in said if n]
    n_rows = ", ".join(f"{n:,} {part} rows" for part, n in found["parts"].items())
    return Headline(worst[0] if worst else "Nothing was found to be wrong", "; ".join(worst[1:]), f"Read: {n_rows}.")


def sections(found: Mapping[str, Any]) -> list[Section]:
    """All that was found, the gravest first; a kind of which there is nothing gives no section."""
    parts = list(found["parts"])
    twins, leaks, lengths, spoken = found["twins"], found["leaks"], found["lengths"], found["languages"]
    n = sum(found["parts"].values())
    columns = ("where", "and", "how", "text", "the other")
    made = [
        _listed("leaks", "Leaks", [f"{k:,} of {found['parts'][part]:,} {part} rows have a twin in train: a score on "
                                   "them says how well train was learned by heart." for part, k in
                                   leaks["n_rows"].items()], columns, map(_as_pair, leaks["pairs"]), 5),
        _listed("unusable", "Rows that cannot be used",
                [f"{name.removeprefix('n_').replace('_', ' ')}: {k:,}" for name, k in
                 found["unusable"]["counts"].items()], ("where", "what"),
                ((_place(one), one["what"]) for one in found["unusable"]["rows"]), 2),
        _listed("conflicts", "One text, several labels", [f"{found['conflicts']['n_texts']:,} texts."],
                ("text", "labels"), ((one["text"], ", ".join(f"{row['gold']} ({_place(row)})" for row in one["rows"]))
                                     for one in found["conflicts"]["texts"]), 2),
        _listed("suspects", "Labels that are probably wrong", [
            f"{(found['suspects'] or {}).get('n_rows', 0):,} of {(found['suspects'] or {}).get('n_looked_at', 0):,} "
            "train rows: a classifier on the frozen backbone that has not seen them is confident of another label."],
                ("where", "text", "label", "its share", "rather", "its share "),
                ((_place(one), one["text"], one["gold"], percent(one["gold_share"]), one["predicted"],
                  percent(one["predicted_share"])) for one in (found["suspects"] or {}).get("rows", ())), 6),
        _listed("twins", "Twins within a part",
                [f"{twins['n_rows']:,} of {n:,} rows, in {twins['n_groups']:,} groups."], columns,
                map(_as_pair, twins["pairs"]), 5),
        _listed("odd", "Odd texts", [], ("kind", "rows", "such as"),
                ((kind, f"{one['n_rows']:,}", f"{_place(one['rows'][0])}: {one['rows'][0]['text']}")
                 for kind, one in found["odd"].items()), 3),
        _listed("balance", "Labels", [], ("label", *parts),
                ((label, *(f"{counts.get(part, 0):,}" for part in parts)) for label, counts in
                 found["balance"].items()), 1),
        _listed("lengths", "Lengths", [
            f"Tokens of {lengths['backbone']}: " + ", ".join(f"{name} {k:,}" for name, k in
                                                            lengths["n_tokens"].items())
            + f". data.max_tokens is {lengths['max_tokens']:,}."],
                ("data.max_tokens", "rows cut", "share of tokens cut"),
                ((f"{one['max_tokens']:,}", f"{one['n_cut']:,}", percent(one["cut_tokens_share"]))
                 for one in lengths["limits"]), 0),
        _listed("languages", "Languages", [f"Of {spoken['n_looked_at']:,} rows, by py3langid; "
                                           f"{spoken['n_rarer']:,} of them in languages of less than 1 %."],
                ("language", "rows"), ((name, f"{k:,}") for name, k in spoken["n_rows"].items()), 1),
    ]
    return [section for section in made if section.tables]


def _as_pair(one: Mapping[str, Any]) -> tuple[str, ...]:
    return _place(one, "first"), _place(one, "second"), one["kind"], one["text"], one["other_text"]


def _place(one: Mapping[str, Any], key: str = "where") -> str:
    """File and line without the folders, which a table has no room for."""
    return str(one[key]).rpartition("/")[2]


def _listed(name: str, title: str, lead: Sequence[str], columns: tuple[str, ...], rows: Any, n_words: int) -> Section:
    short = [tuple(cut(word, MAX_CHARS_LISTED) for word in row) for row in rows]
    caption = f"{title}: the first {len(short)}" if len(short) == MAX_LISTED else title
    return Section(name, title, lead, (), [Shown(caption, columns, short, n_words)] if short else [])
