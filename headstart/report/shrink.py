"""The page of a search for a smaller model: each student beside the run that it learned from."""

from __future__ import annotations

from pathlib import Path

from ..core.comparison import Shrinking, Student
from .page import write_study
from .parts import Headline, Section, Table
from .wording import MISSING, in_words, interval, n_rows, percent, points


def write(shrinking: Shrinking, out: Path) -> None:
    """shrink.json, shrink.html and shrink.md into the folder `out`."""
    facts = [("Run", shrinking.run), ("Task", shrinking.task), ("Seed", str(shrinking.seed)),
             ("Most that may be lost", f"{shrinking.max_loss:g} points of {in_words(shrinking.metric)}")]
    write_study("shrink", shrinking.to_json(), headline(shrinking), facts, [_section(shrinking)], out)


def headline(shrinking: Shrinking) -> Headline:
    """Which student is the smallest that is proven, or that none is."""
    metric, chosen = in_words(shrinking.metric), shrinking.chosen
    plain = (f"Students are tried from the largest to the smallest on the same {shrinking.n_test:,} test rows; "
             "the first whose loss is not proven to stay below what was asked ends the search.")
    if chosen is None:
        first = shrinking.students[0]
        return Headline("None: no student's loss is proven to be small enough",
                        f"The largest, of {_blocks(first, shrinking)}, loses {_loss(first)}; asked was at most "
                        f"{shrinking.max_loss:g} points. More test rows, unlabeled texts or a larger share may help.",
                        plain)
    return Headline(f"{_blocks(chosen, shrinking)} are enough: {percent(chosen.score)} {metric}, "
                    f"{points(chosen.difference)}", f"Proven: with 95 % certainty it loses less than "
                    f"{shrinking.max_loss:g} points. It was exported to {shrinking.exported}.", plain)


def _blocks(student: Student, shrinking: Shrinking) -> str:
    return f"{len(student.keep_blocks)} of {shrinking.n_blocks} blocks"


def _loss(student: Student) -> str:
    return f"{points(-student.difference)} {interval([-end for end in reversed(student.interval_of_difference)])}"


def _section(shrinking: Shrinking) -> Section:
    metric = in_words(shrinking.metric)
    rows = [("the run itself", percent(shrinking.students[0].teacher), MISSING, MISSING, MISSING, "1.0", "100.0%",
             MISSING)]
    rows += [(f"{_blocks(student, shrinking)} ({', '.join(map(str, student.keep_blocks))})", percent(student.score),
              interval(student.interval), points(student.difference), interval(student.interval_of_difference),
              MISSING if student.times_faster is None else f"{student.times_faster:.1f}",
              percent(student.bytes_share), "yes" if student.is_proven else "no") for student in shrinking.students]
    return Section("students", "Students", [], [], [Table(
        f"Test {metric}, {n_rows(shrinking.n_test)}, 95% intervals, seed {shrinking.seed}; differences are paired",
        ("model", metric, "interval", "difference", "interval of it", "times faster", "bytes",
         f"loses less than {shrinking.max_loss:g} points"), rows)])
