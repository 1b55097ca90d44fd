"""What a report says: the values of scores.json and steps.jsonl as sections of words, tables and pictures.

    for section in sections(shown(scores), clean(steps)): ...

Decided once, so that HTML and Markdown cannot differ. Nothing is scored here. A part that the run does not have (no
steps, no baselines, no mistakes) gives no section.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeGuard

from ..core.scores import Cut, DataCounts, Details, Evaluation, Score, Scores, UnknownTokens
from . import drawing
from .knowledge import downstream, meanings, members
from .parts import Headline, Picture, Section, Table
from .teaching import teaching
from .wording import (
    MAX_TEXT_CHARS,
    MISSING,
    amount,
    clean,
    cut,
    in_words,
    interval,
    n_rows,
    percent,
    points,
    score_words,
    tick_percent,
    tick_points,
    unknown_warnings,
)

MAX_MATRIX_LABELS = 30  # a larger matrix is a gray square: the most confused pairs say more
MAX_PAIRS_SHOWN = 20
MAX_LABELS_SHOWN = 30  # further ones are folded away
MAX_LABELS_LISTED = 300  # of the weakest; scores.json has all
MAX_ANSWER_CHARS = 160
MAX_NAME_CHARS = 32
MAX_TITLE_CHARS = 90  # a longer first clause is no headline; it is cut at its colon
PLAIN = {
    "positive": "Starting from the pretrained model helped, by more than the luck of these test rows would explain.",
    "undecided": "These test rows cannot tell whether starting from the pretrained model helped; more of them could.",
    "negative": "Something simpler did better on the same rows: use that, or change the Spec and fit again.",
}


def shown(scores: Scores) -> Scores:
    """`scores` with every word fit to be written on a page."""
    return Scores.from_json(clean(scores.to_json()))


def headline(scores: Scores) -> Headline:
    """The first clause of the verdict, the rest of it, and what both mean in plain words."""
    fitted = scores.fitted
    score = f"{in_words(scores.metric)} {percent(fitted.value)} {interval(fitted.interval)}".rstrip()
    verdict = scores.verdict or score
    first, _, rest = verdict.partition("; ")
    if len(first) > MAX_TITLE_CHARS:
        first, _, rest = verdict.partition(": ")
    meaning = (meanings(scores) or PLAIN).get(scores.verdict_kind, "") if scores.baselines else ""
    kind = "95% interval" if fitted.interval else "no interval"
    plain = (f"On {scores.test_rows}{_seen(scores)}, the fitted model reaches {score} ({kind}, {_seed(scores)})"
             f"{_without_seen(scores)}. {meaning}")
    plain = " ".join([plain.strip(), *unknown_warnings(scores.unknown_tokens, scores.backbone)])
    return Headline(first[:1].upper() + first[1:], rest[:1].upper() + rest[1:], plain)


def _seen(scores: Scores) -> str:
    """Whether training saw the test rows: only what was counted is said."""
    if scores.n_folds:
        return ", each answered by what was learned without its fold"
    counts = [scores.data.notes.get(f"n_test_rows_seen_in_train_{kind}") for kind in ("exact", "near")]
    if None in counts:
        return ""
    n = sum(count or 0 for count in counts)
    return f", of which {n:,} have a twin in train" if n else " that training never saw"


def _without_seen(scores: Scores) -> str:
    if scores.unseen is None:
        return ""
    return (f"; on the {scores.unseen.n:,} rows without a twin in train it reaches {percent(scores.unseen.value)} "
            f"{interval(scores.unseen.interval)}, and the verdict is of these")


def _seed(scores: Scores) -> str:
    return f"seed {MISSING if scores.fitted.seed is None else scores.fitted.seed}"


def facts(scores: Scores) -> list[tuple[str, str]]:
    """Names and values that stand at the top of the page."""
    values = {"Task": scores.task, "Backbone": scores.backbone, "Method": scores.method,
              "Pooling": scores.head.get("pooling"), "Seed": scores.fitted.seed, "Created": scores.created}
    return [(name, str(value)) for name, value in values.items() if value is not None]


def sections(scores: Scores, steps: Sequence[Mapping[str, Any]]) -> list[Section]:
    """All parts that this run has, in the order of the page. steps: the values of steps.jsonl, a mapping a step."""
    details, cost = scores.details, asdict(scores.cost)
    hashes = {name: value for name, value in (("spec_sha256", scores.spec_sha256),
                                              ("backbone_sha256", scores.backbone_sha256)) if value}
    parts = [certificate(scores), members(scores), downstream(scores), teaching(scores), learning(scores, steps),
             confusion(details), scatter(details), per_label(details), groups(details), mistakes(details),
             examples(details), truncation(scores), vocabulary(scores), data(scores.data, scores.n_folds),
             _amounts("cost", "Cost", "What this run took", cost if any(v is not None for v in cost.values()) else {}),
             _amounts("machine", "Machine and versions", "Where this run took place, and with what",
                      {**scores.machine, **scores.versions, **hashes})]
    return [section for section in parts if section]


def _systems(scores: Scores) -> list[tuple[str, Score]]:
    return [("fitted model", scores.fitted), *scores.baselines.items()]


def certificate(scores: Scores) -> Section:
    """The fitted model beside every baseline, and the paired differences."""
    metric, n = in_words(scores.metric), n_rows(scores.fitted.n)
    others = [f"{in_words(name)} {score_words(name, value)}" for name, value in scores.fitted.metrics.items()
              if name != scores.metric]
    lead = [f"All models answer the same {scores.test_rows}. A line is a 95% interval: how far the score "
            "could move if other rows of the same kind had been drawn."] if scores.baselines else []
    lead += [f"For want of rows to hold out, all of them were tested in {scores.n_folds} folds, near-duplicates in one "
             "fold: the fitted model and the baselines answered each fold as learned from the others. What is shipped "
             "learned from all rows."] if scores.n_folds else []
    lead += [f"Also measured for the fitted model ({n}, {_seed(scores)}): {', '.join(others)}."] if others else []
    pictures = [Picture(f"Test {metric} with 95% intervals, {n}", score_picture(scores))]
    if scores.gains:
        dots = [drawing.Dot(cut(name, MAX_NAME_CHARS), gain.difference, gain.interval,
                            f"{points(gain.difference)} {interval(gain.interval)}", is_main=True)
                for name, gain in scores.gains.items()]
        pictures.append(Picture(f"Gain of the fitted model over each baseline in points, paired on the same rows, {n}; "
                                "an interval that holds 0 decides nothing, and one that does not is a proof if "
                                "its test agrees",
                                drawing.dot_plot("Paired gains", dots, tick_points, zero=True)))
    return Section("certificate", "Certificate", lead, [picture for picture in pictures if picture.svg],
                   [certificate_table(scores)])


def score_picture(scores: Scores) -> str:
    """The fitted model and its baselines as an SVG; "" where there is nothing to compare."""
    dots = [drawing.Dot(cut(name, MAX_NAME_CHARS), score.value, score.interval or (score.value, score.value),
                        f"{percent(score.value)} {interval(score.interval)}".rstrip(), is_main=k == 0)
            for k, (name, score) in enumerate(_systems(scores))]
    return drawing.dot_plot(f"Test {in_words(scores.metric)}", dots, tick_percent)


def certificate_table(scores: Scores, folded: str = "The same numbers as a table") -> Table:
    """A line a system: score, interval, n, and what the fitted model gains over it."""
    rows = []
    for name, score in _systems(scores):
        gain = scores.gains.get(name)
        rows.append((name, percent(score.value), interval(score.interval) or MISSING, f"{score.n:,}",
                     *((points(gain.difference), interval(gain.interval)) if gain else (MISSING, MISSING))))
    metric = in_words(scores.metric)
    return Table(f"Test {metric}, 95% intervals, {_seed(scores)}; gain: fitted minus baseline, "
                 "paired on the same rows", ("model", metric, "interval", "n", "gain", "interval of the gain"), rows,
                 main=0, folded=folded)


def choosing_metric(scores: Scores) -> str:
    """What checkpoints were chosen by: the metric, or the likelihood of a model that writes."""
    is_there = any(scores.metric in entry.scores for entry in scores.curve)
    return scores.metric if is_there or not scores.curve else next(iter(scores.curve[0].scores), scores.metric)


def learning(scores: Scores, steps: Sequence[Mapping[str, Any]]) -> Section | None:
    """Training loss by step, and the validation score of every evaluation with the best one marked."""
    losses = [(float(step["n"]), float(step["loss"])) for step in steps if _is_number(step.get("loss"))]
    chosen_by = choosing_metric(scores)
    curve = [(float(entry.step), float(value), entry) for entry in scores.curve
             if _is_number(value := entry.scores.get(chosen_by))]
    if not losses and not curve:
        return None
    x = drawing.Scale.around([0.0, *(at for at, _ in losses), *(at for at, _, _ in curve)], n_steps=6)
    lead, pictures, tables = [], [], []
    if losses:
        smooth = drawing.smoothed(losses)
        words = (f"Training loss went from {losses[0][1]:.3f} at step {losses[0][0]:,.0f} to {smooth[-1][1]:.3f} "
                 f"(smoothed) at step {losses[-1][0]:,.0f}."
                 ) if len(losses) > 1 else f"Training loss of the one step: {losses[0][1]:.3f}."
        lead.append(words)
    if len(losses) > 1:
        pictures.append(Picture("Training loss by step: smoothed, and faintly as measured", drawing.line_plot(
            "Training loss", words, drawing.thinned(smooth), "{:g}".format, x=x, faint=drawing.thinned(losses))))
    if curve:
        n, metric = n_rows(scores.data.n_validation), in_words(chosen_by)
        best = next((k for k, (_, _, entry) in enumerate(curve) if entry.is_best), len(curve) - 1)
        words = f"Best validation {metric}: {percent(curve[best][1])} at step {curve[best][0]:,.0f}, {n}."
        lead.append(words)
        if scores.kept and (scores.kept.why or scores.kept.what != "the best trained weights"):
            why = f": {scores.kept.why}" if scores.kept.why else ""
            lead.append(f"Kept: {scores.kept.what}{why}; its validation {metric} is {percent(scores.kept.score)}.")
        pictures.append(Picture(f"Validation {metric} by step, {n}", drawing.line_plot(
            f"Validation {metric}", words, [point[:2] for point in curve], tick_percent, x=x, best=best,
            label=f"best {percent(curve[best][1])}")))
        tables.append(_curve_table([entry for _, _, entry in curve], best, n))
    return Section("learning", "Learning", lead, pictures, tables)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve_table(curve: Sequence[Evaluation], best: int, n: str) -> Table:
    names = list(curve[0].scores)
    rows = [(f"{entry.step:,}", f"{math.nan if entry.epoch is None else entry.epoch:.2f}",
             *(score_words(name, entry.scores.get(name)) for name in names),
             "best" if k == best else "") for k, entry in enumerate(curve)]
    return Table(f"Validation scores, {n}", ("step", "epoch", *map(in_words, names), ""), rows, n_words=0, main=best,
                 folded="Every evaluation as a table")


def confusion(details: Details) -> Section | None:
    """The matrix, or the most confused pairs when there are too many labels to read one."""
    labels, pairs, counted = details.labels, details.pairs, details.counted
    if not labels or not pairs:
        return None
    n_gold = [0] * len(labels)
    for g, _, n in pairs:
        n_gold[g] += n
    if len(labels) > MAX_MATRIX_LABELS:
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        rows = [(labels[g], labels[p], f"{n:,}", f"{n_gold[g]:,}") for g, p, n in wrong[:MAX_PAIRS_SHOWN]]
        table = Table(f"The {len(rows)} most frequent of {len(wrong):,} confused pairs, {n_rows(sum(n_gold))}",
                      ("gold", "predicted", counted, "of"), rows, n_words=2)
        return Section("confusion", "Confusion", (), (), [table]) if rows else None
    counts_KK = [[0] * len(labels) for _ in labels]
    for g, p, n in pairs:
        counts_KK[g][p] = n
    names = [cut(label, MAX_NAME_CHARS) for label in labels]
    shares = [[count / max(1, n) for count in row] for row, n in zip(counts_KK, n_gold, strict=True)]
    is_dense = len(labels) > 8 or sum(map(len, labels)) > 90  # names across the top must stand upright to fit
    table = Table(f"Test {counted} by gold label (down) and predicted label (across), {n_rows(sum(n_gold))}",
                  ("", *names),
                  [(name, *(f"{count:,}" for count in row)) for name, row in zip(names, counts_KK, strict=True)],
                  look="heat", shares=shares, is_dense=is_dense)
    return Section("confusion", "Confusion", (), (), [table])


def per_label(details: Details) -> Section | None:
    """Precision, recall and F1 of each label, the weakest first."""
    labels = sorted(details.per_label, key=lambda label: label.f1 if _is_number(label.f1) else -1.0)
    if not labels:
        return None
    listed = labels[:MAX_LABELS_LISTED]
    rows = [(label.label, f"{label.n:,}", *map(percent, (label.precision, label.recall, label.f1)))
            for label in listed]
    shares = [[0.0] * 3 + [label.f1 if _is_number(label.f1) else 0.0] for label in listed]
    counted = details.counted
    tables = [Table(f"Scores of each label, weakest F1 first; n: test {counted} with this gold label"
                    if not start else f"Labels {start + 1} to {len(rows)}",
                    ("label", "n", "precision", "recall", "F1"), rows[start:end], look="bars", shares=shares[start:end],
                    folded=f"The other {len(rows) - start} labels" if start else "")
              for start, end in ((0, MAX_LABELS_SHOWN), (MAX_LABELS_SHOWN, len(rows))) if start < len(rows)]
    n_out, n = details.n_out_of_reach, sum(label.n for label in labels)
    lead = [f"{n_out:,} of {n:,} gold {counted} can be no answer: they end inside a word, or no train row has their "
            "label. They count as missed."] if n_out else []
    if len(rows) < len(labels):
        lead.append(f"The {len(rows):,} weakest of {len(labels):,} labels; scores.json has all.")
    return Section("labels", "Labels", lead, (), tables)


def groups(details: Details) -> Section | None:
    """Scores of rows that share something the task knows, such as the word that asks a question."""
    if not details.groups or not details.groups.rows:
        return None
    by, groups = details.groups.by, details.groups.rows
    names = [name for name in groups[0] if name not in ("label", "n")]
    rows = [(cut(group["label"], MAX_NAME_CHARS), f"{group['n']:,}", *(percent(group[name]) for name in names))
            for group in groups]
    table = Table(f"Scores by {by}, most frequent first; n: test rows",
                  (by, "n", *map(in_words, names)), rows[:MAX_LABELS_SHOWN])
    return Section("groups", f"By {by}", (), (), [table])


def mistakes(details: Details) -> Section | None:
    """Wrong answers, the worst first."""
    wrong = details.mistakes
    confidences = [mistake.confidence for mistake in wrong if mistake.confidence is not None]
    ranks = [mistake.rank for mistake in wrong if mistake.rank is not None]
    is_sure, is_ranked = len(confidences) == len(wrong), len(ranks) == len(wrong)
    rows = [(cut(mistake.text, MAX_TEXT_CHARS), cut(mistake.label, MAX_ANSWER_CHARS),
             cut(mistake.predicted, MAX_ANSWER_CHARS), *([percent(confidences[i])] if is_sure else []),
             *([f"{ranks[i]:,}"] if is_ranked else [])) for i, mistake in enumerate(wrong)]
    order = "most confident first" if is_sure else "furthest off first"
    numbers = ["confidence"] * is_sure + ["rank of gold"] * is_ranked
    table = Table(f"Wrong answers of the fitted model on test rows, {order}", ("text", "gold", "predicted", *numbers),
                  rows, n_words=3, look="texts")
    lead = ["Some of these may be mistakes in the labels: the first thing to look at."]
    title = "Most confident mistakes" if is_sure else "Largest errors"
    return Section("mistakes", title, lead, (), [table]) if rows else None


def examples(details: Details) -> Section | None:
    """Texts that were written, beside their sources and references."""
    if not details.examples:
        return None
    has_before = any(example.before for example in details.examples)
    rows = []
    for example in details.examples:
        is_same = example.before == example.written
        before = ["as after training" if is_same else cut(example.before, MAX_TEXT_CHARS)] if has_before else []
        rows.append((example.place, *(cut(text, MAX_TEXT_CHARS) for text in (example.source, example.reference)),
                     *before, cut(example.written, MAX_TEXT_CHARS),
                     MISSING if example.score is None else percent(example.score)))
    n_same = sum(example.before == example.written for example in details.examples)
    lead = ["The worst, the median and the best of the test rows, by the metric of each row alone."]
    if has_before:
        lead.append(f"Training changed {len(rows) - n_same} of these {len(rows)} texts.")
    if isinstance(n_incomplete := details.other.get("n_incomplete"), int) and n_incomplete:
        lead.append(f"{n_incomplete:,} of all texts reached task.decoding.max_new_tokens and end in the middle.")
    lead += _shares(details.other.get("shares"))
    if isinstance(signatures := details.other.get("signatures"), Sequence):
        lead.append(f"Measured by: {', '.join(map(str, signatures))}.")
    columns = ("", "source", "reference", *(["before training"] if has_before else []), "written", "score")
    table = Table("Texts side by side", columns, rows, n_words=len(columns) - 1, look="texts")
    return Section("examples", "Texts side by side", lead, (), [table])


def _shares(named: Any) -> list[str]:
    """A sentence for each share of rows whose text meets what the row asks for."""
    if not isinstance(named, Mapping):
        return []
    return [f"{in_words(str(name))}: {percent(share['value'])} {interval(share['interval'])} of the {share['n']:,} "
            "rows that ask for it." for name, share in named.items() if _is_share(share)]


def _is_share(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("n"), int):
        return False
    ends = value.get("interval")
    return isinstance(ends, Sequence) and len(ends) == 2 and all(
        isinstance(number, float | int) for number in (value.get("value"), *ends))


def scatter(details: Details) -> Section | None:
    """Gold and predicted numbers."""
    if not details.scatter:
        return None
    pairs = list(zip(details.scatter.gold, details.scatter.predicted, strict=True))
    words = f"Predicted (upwards) against gold (to the right) of {len(pairs):,} test rows; on the line they are equal"
    return Section("scatter", "Predicted and gold", (), [Picture(words, drawing.cloud(
        "Predicted against gold", words, pairs, "{:g}".format))])


def truncation(scores: Scores) -> Section | None:
    """How many texts were cut, and whether their answers are worse."""
    cuts = scores.truncation
    if not cuts:
        return None
    splits = [(name, split) for name, split in (("train", cuts.train), ("test", cuts.test)) if split]
    lead = [f"The model reads at most {cuts.max_tokens:,} tokens of a text; {_cut_words(splits)}"]
    metric = in_words(scores.metric)
    if _is_number(cuts.score_cut) and _is_number(cuts.score_whole):
        lead.append(f"Test {metric} on texts that were cut: {percent(cuts.score_cut)} ({n_rows(cuts.n_cut)}), on "
                    f"texts that were read whole: {percent(cuts.score_whole)} ({n_rows(cuts.n_whole)}).")
    rows = [(name, f"{split.n_rows:,}", f"{split.n_cut:,}", percent(split.cut_tokens_share)) for name, split in splits]
    table = Table("Texts that were cut", ("split", "rows", "rows cut", "share of tokens cut"), rows)
    return Section("truncation", "Truncation", lead, (), [table] if any(split.n_cut for _, split in splits) else [])


def _cut_words(splits: Iterable[tuple[str, Cut]]) -> str:
    words = [f"{split.n_cut:,} of {split.n_rows:,} {name} texts" for name, split in splits if split.n_cut]
    return f"{' and '.join(words)} are longer and lost their end." if words else "no text is longer."


def vocabulary(scores: Scores) -> Section | None:
    """How many tokens the backbone's vocabulary has no entry for."""
    if not scores.unknown_tokens:
        return None
    lead = [f"A token that {scores.backbone or 'the backbone'} has no entry for is read as one placeholder, "
            "whatever it says. A row counts under the script of most of its letters."]
    return Section("vocabulary", "Vocabulary", lead, (), [unknown_table(scores.unknown_tokens)])


def unknown_table(counts: Sequence[UnknownTokens]) -> Table:
    """A line a script."""
    rows = [(count.script, f"{count.n_rows:,}", f"{count.n_tokens:,}", f"{count.n_unknown:,}", percent(count.share))
            for count in counts]
    return Table("Unknown tokens of all rows by script", ("script", "rows", "tokens", "unknown", "share"), rows)


def data(counts: DataCounts, n_folds: int = 0) -> Section | None:
    """Where the rows came from, and how many they are."""
    splits = (("train", counts.n_train), ("validation", counts.n_validation), ("test", counts.n_test))
    tested = " (all of them tested, by cross-validation)" if n_folds else ""
    rows = [(f"{name} rows{tested if name == 'train' else ''}", f"{n:,}") for name, n in splits if n is not None]
    rows += [amount(*note) for note in counts.notes.items()]
    lead = [f"Source: {counts.source}"] if counts.source else []
    tables = [Table("Rows, and what was counted on the way", ("what", "count"), rows)] if rows else []
    return Section("data", "Data", lead, (), tables) if rows or lead else None


def _amounts(name: str, title: str, caption: str, amounts: Mapping[str, Any]) -> Section | None:
    rows = [amount(*item) for item in amounts.items()]
    return Section(name, title, (), (), [Table(caption, ("what", "value"), rows, n_words=2)]) if rows else None
