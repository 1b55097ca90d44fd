"""The page of a comparison: scores against costs, and every pair of methods tested."""

from __future__ import annotations

from pathlib import Path

from ..core.comparison import Comparison, Size
from . import drawing
from .page import write_study
from .parts import Headline, Picture, Section, Table
from .wording import MISSING, duration, in_words, percent, points
from .wording import interval as in_brackets

BUDGETS = {"seconds": "seconds from the rows to the model", "bytes": "stored bytes", "latency_s": "seconds a text"}


def write(comparison: Comparison, out: Path) -> None:
    """compare.json, compare.html and compare.md into the folder `out`."""
    facts = [("Task", comparison.task), ("Backbone", comparison.backbone), ("Data", comparison.data),
             ("Seeds", ", ".join(map(str, comparison.seeds))), ("CPU", str(comparison.machine.get("cpu", "")))]
    write_study("compare", comparison.to_json(), _headline(comparison), facts,
                [_section(comparison, size) for size in comparison.sizes], out)


def _headline(comparison: Comparison) -> Headline:
    size = comparison.sizes[-1]
    best = max(size.systems, key=lambda system: system.score)
    ties = [pair.worse for pair in size.pairs if pair.better == best.method and pair.p_holm >= 0.05]
    cheapest = min([best, *(system for system in size.systems if system.method in ties)],
                   key=lambda system: system.costs.seconds)
    title = f"{best.method} scores best: {percent(best.score)} {in_brackets(best.interval)}"
    rest = ("Every other method is proven worse." if not ties
            else f"Not proven worse: {', '.join(ties)}. Of these, {cheapest.method} takes the least time, "
                 f"{duration(cheapest.costs.seconds)} against {duration(best.costs.seconds)}."
            if cheapest is not best else f"Not proven worse: {', '.join(ties)}; it takes the least time of them.")
    of_seeds = f"mean of {len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "one seed"
    return Headline(title, rest, f"{in_words(comparison.metric).capitalize()}, {of_seeds}, on the same "
                                 f"{comparison.n_test:,} test rows, from {size.rows:,} train rows.")


def _section(comparison: Comparison, size: Size) -> Section:
    metric = in_words(comparison.metric)
    pictures = []
    for budget, words in BUDGETS.items():
        marks = [drawing.Mark(system.method, system.costs.budgets[budget], system.score, system.interval,
                              system.fronts[budget]) for system in size.systems]
        svg = drawing.scatter_plot(f"{metric} against {words}", marks, _SHOWN[budget], percent)
        pictures.append(Picture(f"Test {metric} with 95% intervals against {words} (logarithmic); blue: nothing is "
                                "both cheaper and better", svg))
    rows: list[tuple[str, ...]] = [
        (system.method, percent(system.score), in_brackets(system.interval), percent(system.deviation),
         duration(costs.seconds), f"{costs.bytes / 1e6:.1f} MB", f"{1000 * costs.latency_s:.1f} ms",
         f"{costs.n_trainable:,}", f"{costs.peak_rss_mb:,.0f} MB")
        for system, costs in sorted(((s, s.costs) for s in size.systems), key=lambda pair: -pair[0].score)]
    rows += [(name, percent(score.value), in_brackets(score.interval), *[MISSING] * 6)
             for name, score in size.baselines.items()]
    table = Table(f"Means over seeds of {metric}; medians of costs; below, what needs no method (first seed)",
                  ("method", metric, "interval", "deviation of seeds", "time to the model", "stored", "one text",
                   "weights that move", "peak memory"), rows)
    pairs = Table("Every pair on the same test rows; p after Holm's correction for so many comparisons",
                  ("better", "worse", "difference", "interval", "p", "p, corrected"),
                  [(pair.better, pair.worse, points(pair.difference), in_brackets(pair.interval), f"{pair.p:.4f}",
                    f"{pair.p_holm:.4f}") for pair in size.pairs], n_words=2)
    return Section(f"rows-{size.rows}", f"{size.rows:,} train rows", [], [p for p in pictures if p.svg],
                   [table, *([pairs] if pairs.rows else [])])


_SHOWN = {"seconds": duration, "bytes": lambda n: f"{n / 1e6:.3g} MB", "latency_s": lambda s: f"{1000 * s:.3g} ms"}
