"""The page of a comparison: scores against costs, and every pair of methods tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core import files as sealed
from . import drawing
from . import page as report
from .run import Headline, Picture, Section, Table
from .wording import duration, in_words, percent, points
from .wording import interval as in_brackets

BUDGETS = {"seconds": "seconds from the rows to the model", "bytes": "stored bytes", "latency_s": "seconds a text"}


def _write(found: dict[str, Any], out: Path) -> None:
    parts = [section for size in found["sizes"] for section in _sections(found, size)]
    top = _headline(found)
    facts = [("Task", found["task"]), ("Backbone", found["backbone"]), ("Data", found["data"]),
             ("Seeds", ", ".join(map(str, found["seeds"]))), ("CPU", str(found["machine"].get("cpu", "")))]
    sealed.write_file(out / "compare.json", [json.dumps(found, ensure_ascii=False, indent=1)])
    footer = "Written by headstart compare from compare.json, which lies beside this page."
    sealed.write_file(out / "compare.html", [report.page(top, facts, parts, "", "headstart compare", footer)])
    sealed.write_file(out / "compare.md", [report.markdown_page(top, facts, parts)])


def _headline(found: dict[str, Any]) -> Headline:
    size = found["sizes"][-1]
    best = max(size["systems"], key=lambda one: one["score"])
    ties = [pair["worse"] for pair in size["pairs"] if pair["better"] == best["method"] and pair["p_holm"] >= 0.05]
    cheapest = min([best, *(one for one in size["systems"] if one["method"] in ties)], key=lambda one: one["seconds"])
    title = f"{best['method']} scores best: {percent(best['score'])} {in_brackets(best['interval'])}"
    rest = ("Every other method is proven worse." if not ties
            else f"Not proven worse: {', '.join(ties)}. Of these, {cheapest['method']} takes the least time, "
                 f"{duration(cheapest['seconds'])} against {duration(best['seconds'])}."
            if cheapest is not best else f"Not proven worse: {', '.join(ties)}; it takes the least time of them.")
    of_seeds = f"mean of {len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "one seed"
    return Headline(title, rest, f"{in_words(found['metric']).capitalize()}, {of_seeds}, on the same "
                                 f"{found['n_test']:,} test rows, from {size['rows']:,} train rows.")


def _sections(found: dict[str, Any], size: dict[str, Any]) -> list[Section]:
    metric, n = in_words(found["metric"]), size["rows"]
    pictures = []
    for budget, words in BUDGETS.items():
        marks = [drawing.Mark(one["method"], one[budget], one["score"], tuple(one["interval"]), one["fronts"][budget])
                 for one in size["systems"]]
        svg = drawing.scatter_plot(f"{metric} against {words}", marks, _SHOWN[budget], percent)
        pictures.append(Picture(f"Test {metric} with 95% intervals against {words} (logarithmic); blue: nothing is "
                                "both cheaper and better", svg))
    rows = [(one["method"], percent(one["score"]), in_brackets(one["interval"]),
             percent(one["deviation"]) if one["deviation"] is not None else "–", duration(one["seconds"]),
             f"{one['bytes'] / 1e6:.1f} MB", f"{1000 * one['latency_s']:.1f} ms", f"{one['n_trainable']:,}",
             f"{one['peak_rss_mb']:,.0f} MB") for one in sorted(size["systems"], key=lambda one: -one["score"])]
    rows += [(name, percent(one["score"]), in_brackets(one["interval"]), *["–"] * 6)
             for name, one in size["baselines"].items()]
    table = Table(f"Means over seeds of {metric}; medians of costs; below, what needs no method (first seed)",
                  ("method", metric, "interval", "deviation of seeds", "time to the model", "stored", "one text",
                   "weights that move", "peak memory"), rows)
    pairs = Table("Every pair on the same test rows; p after Holm's correction for so many comparisons",
                  ("better", "worse", "difference", "interval", "p", "p, corrected"),
                  [(pair["better"], pair["worse"], points(pair["difference"]), in_brackets(pair["interval"]),
                    f"{pair['p']:.4f}", f"{pair['p_holm']:.4f}") for pair in size["pairs"]], n_words=2)
    return [Section(f"rows-{n}", f"{n:,} train rows", [], [p for p in pictures if p.svg],
                    [table, *([pairs] if pairs.rows else [])])]


_SHOWN = {"seconds": duration, "bytes": lambda n: f"{n / 1e6:.3g} MB", "latency_s": lambda s: f"{1000 * s:.3g} ms"}
