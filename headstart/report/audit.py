"""The page of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.files import write_folder
from ..core.scores import UnknownTokens
from .page import markdown_page, write_study
from .parts import Headline, Section
from .parts import Table as Shown
from .run import unknown_table
from .wording import clean, cut, percent, unknown_warnings

MAX_LISTED = 20  # of every kind of finding, on the page; counts are of all, and audit.json lists all suspects
MAX_CHARS_LISTED = 160  # of a text
NOT_LOOKED_AT: Mapping[str, Any] = {"n_looked_at": 0, "n_rows": 0, "n_expected": 0.0, "rows": []}


def write(result: Mapping[str, Any], out: Path, overwrite: bool = False) -> None:
    """audit.json, audit.html and audit.md as the folder `out`; overwrite: in the place of one that an audit wrote."""
    shown = clean(result)
    top, facts, parts = headline(shown), [("Task", shown["task"]), ("Data", shown["source"])], sections(shown)
    with write_folder(out, overwrite) as folder:
        write_study("audit", result, top, facts, parts, folder)


def markdown(result: Mapping[str, Any]) -> str:
    """What the command line prints."""
    shown = clean(result)
    return markdown_page(headline(shown), [("Data", shown["source"])], sections(shown))


def headline(result: Mapping[str, Any]) -> Headline:
    """What to look at first."""
    suspects = result["suspects"] or NOT_LOOKED_AT
    counts = [(sum(result["leaks"]["n_rows"].values()), "row", "of validation or test with a twin in train"),
              (result["unusable"]["counts"].get("n_skipped", 0), "row", "that cannot be used"),
              (result["conflicts"]["n_texts"], "text", "with several labels"),
              (suspects["n_rows"], "train label",
               f"to check, about {suspects['n_expected']:.0f} of them expected to be wrong"),
              (result["twins"]["n_rows"], "row", "with a twin in the same part")]
    worst = [f"{n:,} {noun}{'s' if n > 1 else ''} {rest}" for n, noun, rest in counts if n]
    n_rows = ", ".join(f"{n:,} {part} rows" for part, n in result["parts"].items())
    unknown = unknown_warnings(_unknown(result), result["lengths"]["backbone"])
    worst += ["many unknown tokens"] if unknown else []
    return Headline(worst[0] if worst else "Nothing was found to be wrong", "; ".join(worst[1:]),
                    " ".join([f"Read: {n_rows}.", *unknown]))


def _unknown(result: Mapping[str, Any]) -> list[UnknownTokens]:
    return [UnknownTokens(*(count[name] for name in ("script", "n_rows", "n_tokens", "n_unknown")))
            for count in result["unknown_tokens"]]


def sections(result: Mapping[str, Any]) -> list[Section]:
    """All findings, the gravest first; a kind without any gives no section."""
    parts = list(result["parts"])
    twins, leaks = result["twins"], result["leaks"]
    suspects, n = result["suspects"] or NOT_LOOKED_AT, sum(result["parts"].values())
    columns = ("where", "and", "how", "text", "the other")
    made = [
        _listed("leaks", "Leaks", [f"{k:,} of {result['parts'][part]:,} {part} rows have a twin in train: a score on "
                                   "them says how well train was learned by heart." for part, k in
                                   leaks["n_rows"].items()], columns, map(_as_pair, leaks["pairs"]), 5),
        _listed("unusable", "Rows that cannot be used",
                [f"{name.removeprefix('n_').replace('_', ' ')}: {k:,}" for name, k in
                 result["unusable"]["counts"].items()], ("where", "what"),
                ((_place(entry), entry["what"]) for entry in result["unusable"]["rows"]), 2),
        _listed("conflicts", "One text, several labels", [f"{result['conflicts']['n_texts']:,} texts."],
                ("text", "labels"),
                ((entry["text"], ", ".join(f"{row['gold']} ({_place(row)})" for row in entry["rows"]))
                 for entry in result["conflicts"]["texts"]), 2),
        _listed("suspects", "Labels to check", [
            f"{suspects['n_rows']:,} of {suspects['n_looked_at']:,} train rows have a label that may well be wrong; "
            f"about {suspects['n_expected']:.0f} of these labels are expected to be wrong, by a classifier on the "
            "frozen backbone that has not seen the row. audit.json lists all, the most probable first."],
                ("where", "text", "label", "wrong", "rather", "its share"),
                ((_place(entry), entry["text"], entry["gold"], percent(entry["wrong"]), entry["predicted"],
                  percent(entry["predicted_share"])) for entry in suspects["rows"][:MAX_LISTED]), 6),
        _listed("twins", "Twins within a part",
                [f"{twins['n_rows']:,} of {n:,} rows, in {twins['n_groups']:,} groups."], columns,
                map(_as_pair, twins["pairs"]), 5),
        _listed("odd", "Odd texts", [], ("kind", "rows", "such as"),
                ((kind, f"{entry['n_rows']:,}", f"{_place(entry['rows'][0])}: {entry['rows'][0]['text']}")
                 for kind, entry in result["odd"].items()), 3),
        _listed("balance", "Labels", [], ("label", *parts),
                ((label, *(f"{counts.get(part, 0):,}" for part in parts)) for label, counts in
                 result["balance"].items()), 1),
        *_of_tokens(result),
    ]
    return [section for section in made if section.tables]


def _of_tokens(result: Mapping[str, Any]) -> list[Section]:
    """Lengths, unknown tokens and languages: what the backbone makes of the texts."""
    lengths, spoken = result["lengths"], result["languages"]
    return [
        _listed("lengths", "Lengths", [
            f"Tokens of {lengths['backbone']}: " + ", ".join(f"{name} {k:,}" for name, k in
                                                            lengths["n_tokens"].items())
            + f". data.max_tokens is {lengths['max_tokens']:,}."],
                ("data.max_tokens", "rows cut", "share of tokens cut"),
                ((f"{entry['max_tokens']:,}", f"{entry['n_cut']:,}", percent(entry["cut_tokens_share"]))
                 for entry in lengths["limits"]), 0),
        Section("vocabulary", "Vocabulary", [f"Tokens that {lengths['backbone']} has no entry for."], (),
                [unknown_table(_unknown(result))]),
        _listed("languages", "Languages", [f"Of {spoken['n_looked_at']:,} rows, by py3langid; "
                                           f"{spoken['n_rarer']:,} of them in languages of less than 1 %."],
                ("language", "rows", "unknown tokens"),
                ((name, f"{k:,}", percent(spoken["unknown_share"][name])) for name, k in spoken["n_rows"].items()), 1),
    ]


def _as_pair(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return _place(entry, "first"), _place(entry, "second"), entry["kind"], entry["text"], entry["other_text"]


def _place(entry: Mapping[str, Any], key: str = "where") -> str:
    """File and line without the folders, which a table has no room for."""
    return str(entry[key]).rpartition("/")[2]


def _listed(name: str, title: str, lead: Sequence[str], columns: tuple[str, ...], rows: Any, n_words: int) -> Section:
    short = [tuple(cut(word, MAX_CHARS_LISTED) for word in row) for row in rows]
    caption = f"{title}: the first {len(short)}" if len(short) == MAX_LISTED else title
    return Section(name, title, lead, (), [Shown(caption, columns, short, n_words)] if short else [])
