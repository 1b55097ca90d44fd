"""What a report says of knowledge that came from other models, or from texts without labels."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.scores import Scores
from .parts import Section, Table
from .wording import MISSING, in_words, interval, percent, points

OF_MEMBERS = {
    "positive": "Together they do better than the best of them alone, by more than the luck of these rows explains.",
    "undecided": "These test rows cannot tell whether together they do better than the best alone; more of them could.",
    "negative": "The best member alone did better on the same rows: use that.",
}
OF_READING = {
    "positive": "Reading on helped, by more than the luck of the rows that were held out explains.",
    "undecided": "The rows that were held out cannot tell whether reading on helped; more of them could.",
    "negative": "The backbone did better before it read on: use that.",
}


def meanings(scores: Scores) -> Mapping[str, str]:
    """What each kind of verdict means in plain words; {} where a run fitted a model."""
    return OF_MEMBERS if scores.members else OF_READING if "before-reading" in scores.baselines else {}


def members(scores: Scores) -> Section | None:
    """What an ensemble, or a mean of weights, was made of."""
    if not scores.members:
        return None
    metric = in_words(scores.metric)
    best = next((k for k, member in enumerate(scores.members) if member.is_best), -1)
    rows = [(m.name, m.backbone, m.method, MISSING if m.weight is None else f"{m.weight:.3f}", percent(m.validation),
             percent(m.test)) for m in scores.members]
    lead = [f"{scores.kept.what}; its validation {metric} is {percent(scores.kept.score)}."] if scores.kept else []
    table = Table(f"Each alone: {metric} on {scores.data.n_validation or 0:,} validation rows, which chose the best "
                  f"one, and on {scores.fitted.n:,} test rows (intervals: in the certificate)",
                  ("member", "backbone", "method", "weight", f"validation {metric}", f"test {metric}"), rows, 3, best)
    return Section("members", "Members", lead, (), [table])


def downstream(scores: Scores) -> Section | None:
    """What labeled rows gain from a backbone that read on, and what a probe says it forgot."""
    if not scores.downstream:
        return None
    rows = [(result.kind, result.source, result.method, in_words(result.metric), percent(result.before.value),
             percent(result.after.value), points(result.gain.difference), interval(result.gain.interval),
             f"{result.gain.n:,}") for result in scores.downstream]
    lead = ["Each was fitted twice on the same rows: from the backbone before it read on, and after."]
    table = Table("Gain in points, paired on the same test rows, 95% interval",
                  ("what", "rows", "method", "metric", "before", "after", "gain", "interval", "n"), rows, 4)
    return Section("downstream", "Downstream", lead, (), [table])
