"""What a report says of a teacher: what of its score the student kept, at which speed, and what it was worth."""

from __future__ import annotations

from ..core.scores import Scores, Teaching
from . import drawing
from .parts import Picture, Section, Table
from .wording import MISSING, cut, in_words, interval, n_rows, percent, points

MAX_NAME_CHARS = 32


def teaching(scores: Scores) -> Section | None:
    """The fitted student beside its teacher, and beside itself as learned from less, in as many steps."""
    taught = scores.teaching
    if taught is None:
        return None
    pictures = [Picture("Gain of the fitted student in points, paired on the same rows, "
                        f"{n_rows(scores.fitted.n)}; an interval that holds 0 decides nothing", _gains(taught))]
    return Section("teaching", "Teacher and student", lead(scores), [p for p in pictures if p.svg],
                   [teaching_table(scores, taught)])


def lead(scores: Scores) -> list[str]:
    """The facts in sentences; [] of a run without a teacher."""
    taught = scores.teaching
    if taught is None:
        return []
    several = f"the mean of {len(taught.teachers)} teachers" if len(taught.teachers) > 1 else "its teacher"
    speed = (f"at {taught.student_rows_per_s / taught.teacher_rows_per_s:.1f} times the speed and "
             if taught.teacher_rows_per_s else "with ")
    smaller = taught.student_bytes / taught.teacher_bytes if taught.teacher_bytes else 0.0
    lines = [f"The student keeps {percent(taught.kept_share)} of the {in_words(scores.metric)} of {several} "
             f"({', '.join(taught.teachers)}), {speed}{percent(smaller)} of the bytes."]
    alone = taught.gains.get("student-from-labels")
    if alone:
        is_proven = not alone.interval[0] <= 0 <= alone.interval[1] and (alone.p or 0) <= 0.05
        what = "a proven gain" if alone.difference > 0 else "a proven loss"
        lines.append(f"Beside the same student trained as often on the labels alone the teacher's answers are worth "
                     f"{points(alone.difference)} {interval(alone.interval)}: {what if is_proven else 'no proof'}.")
    else:
        lines.append("Nothing shows what the teacher was worth: the student was not trained without it "
                     "(method.ablation).")
    rows = f"Beside the labeled rows it answered {taught.n_unlabeled:,} without labels." if taught.n_unlabeled else (
        "It answered the labeled rows alone; texts without labels (method.unlabelled) are what usually helps.")
    return [*lines, rows]


def _gains(taught: Teaching) -> str:
    dots = [drawing.Dot(cut(name, MAX_NAME_CHARS), gain.difference, gain.interval,
                        f"{points(gain.difference)} {interval(gain.interval)}", is_main=True)
            for name, gain in taught.gains.items()]
    return drawing.dot_plot("Student minus each", dots, lambda tick: f"{100 * tick:+g}", zero=True)


def teaching_table(scores: Scores, taught: Teaching) -> Table:
    """A line a system: score, interval, and what the fitted student gains over it."""
    speeds: dict[str, tuple[float | None, int]] = {"teacher": (taught.teacher_rows_per_s, taught.teacher_bytes)}
    rows = []
    for name, score in {"fitted student": scores.fitted, **taught.systems}.items():
        gain = taught.gains.get(name)
        speed, n_bytes = speeds.get(name, (taught.student_rows_per_s, taught.student_bytes))
        rows.append((name.replace("-", " "), percent(score.value), interval(score.interval) or MISSING,
                     *((points(gain.difference), interval(gain.interval)) if gain else (MISSING, MISSING)),
                     MISSING if speed is None else f"{speed:,.0f}", f"{n_bytes / 1e6:,.1f}"))
    columns = ("system", in_words(scores.metric), "interval", "gain", "interval of the gain", "rows/s", "MB of weights")
    return Table(f"Test {in_words(scores.metric)}, {n_rows(scores.fitted.n)}, 95% intervals; gain: fitted student "
                 "minus each, paired; speeds on the same rows and machine", columns, rows, main=0)
