"""What a report says: the values of scores.json and steps.jsonl as sections of words, tables and pictures.

    for section in sections(clean(scores), clean(steps)): ...

Decided once, so that HTML and Markdown cannot differ. Nothing is scored here. A part that the run does not have (no
steps, no baselines, no mistakes) gives no section, and keys that nobody here knows are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import drawing
from .wording import (
    MAX_TEXT_CHARS,
    MISSING,
    amount,
    cut,
    in_words,
    interval,
    n_rows,
    percent,
    points,
    score_words,
    tick_percent,
    tick_points,
)

Scores = Mapping[str, Any]

MAX_MATRIX_LABELS = 30  # a larger matrix is a gray square: the most confused pairs say more
MAX_PAIRS_SHOWN = 20
MAX_LABELS_SHOWN = 30  # further ones are folded away
MAX_ANSWER_CHARS = 160
MAX_NAME_CHARS = 32
MAX_TITLE_CHARS = 90  # a longer first clause is no headline; it is cut at its colon
PLAIN = {
    "positive": "Starting from the pretrained model helped, by more than the luck of these test rows would explain.",
    "undecided": "These test rows cannot tell whether starting from the pretrained model helped; more of them could.",
    "negative": "Something simpler did better on the same rows: use that, or change the Spec and fit again.",
}


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
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    lead: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Headline:
    title: str
    rest: str
    plain: str


# ---- words ---------------------------------------------------------------------------------------------------------


# ---- what to say ---------------------------------------------------------------------------------------------------


def headline(scores: Scores) -> Headline:
    """The first clause of the verdict, the rest of it, and what both mean in plain words."""
    ends = scores.get("interval")
    score = f"{in_words(scores['metric'])} {percent(scores['score'])} {interval(ends)}".rstrip()
    verdict = scores.get("verdict") or score
    first, _, rest = verdict.partition("; ")
    if len(first) > MAX_TITLE_CHARS:
        first, _, rest = verdict.partition(": ")
    meaning = PLAIN.get(scores.get("verdict_kind", ""), "") if scores.get("baselines") else ""
    plain = (f"On {scores['n_test']:,} test rows that training never saw, the fitted model reaches {score} "
             f"({'95% interval' if ends else 'no interval'}, seed {scores.get('seed', MISSING)}). {meaning}")
    return Headline(first[:1].upper() + first[1:], rest[:1].upper() + rest[1:], plain.strip())


def facts(scores: Scores) -> list[tuple[str, str]]:
    wanted = {"Task": scores.get("task"), "Backbone": scores.get("backbone"), "Method": scores.get("method"),
              "Pooling": scores.get("head", {}).get("pooling"), "Seed": scores.get("seed"),
              "Created": scores.get("created")}
    return [(name, str(value)) for name, value in wanted.items() if value is not None]


def sections(scores: Scores, steps: Sequence[Mapping[str, Any]]) -> list[Section]:
    """All parts that this run has, in the order of the page."""
    details = scores.get("details", {})
    found = [certificate(scores), learning(scores, steps), confusion(details), scatter(details), per_label(details),
             groups(details), mistakes(details), truncation(scores), data(scores),
             _amounts("cost", "Cost", "What this run took", scores.get("cost", {})),
             _amounts("machine", "Machine and versions", "Where this run took place, and with what",
                      {**scores.get("machine", {}), **scores.get("versions", {}),
                       **{key: scores[key] for key in ("spec_sha256", "backbone_sha256") if key in scores}})]
    return [section for section in found if section]


def _scored(scores: Scores) -> list[tuple[str, Mapping[str, Any]]]:
    return [("fitted model", scores), *scores.get("baselines", {}).items()]


def certificate(scores: Scores) -> Section:
    """The fitted model beside every baseline, and the paired differences."""
    metric, n = in_words(scores["metric"]), n_rows(scores["n_test"])
    gains = scores.get("gain_over", {})
    others = [f"{in_words(name)} {score_words(name, value)}" for name, value in scores.get("scores", {}).items()
              if name != scores["metric"]]
    lead = [f"All models answer the same {scores['n_test']:,} test rows. A line is a 95% interval: how far the score "
            "could move if other rows of the same kind had been drawn."] if scores.get("baselines") else []
    lead += [f"Also measured for the fitted model ({n}, seed {scores.get('seed', MISSING)}): {', '.join(others)}."
             ] if others else []
    pictures = [Picture(f"Test {metric} with 95% intervals, {n}", score_picture(scores))]
    if gains:
        dots = [drawing.Dot(cut(name, MAX_NAME_CHARS), gain["difference"], tuple(gain["interval"]),
                            f"{points(gain['difference'])} {interval(gain['interval'])}", is_main=True)
                for name, gain in gains.items()]
        pictures.append(Picture(f"Gain of the fitted model over each baseline in points, paired on the same rows, {n}; "
                                "an interval that holds 0 decides nothing",
                                drawing.dot_plot("Paired gains", dots, tick_points, zero=True)))
    return Section("certificate", "Certificate", lead, [picture for picture in pictures if picture.svg],
                   [certificate_table(scores)])


def score_picture(scores: Scores) -> str:
    dots = [drawing.Dot(cut(name, MAX_NAME_CHARS), one["score"], tuple(one.get("interval") or [one["score"]] * 2),
                        f"{percent(one['score'])} {interval(one.get('interval'))}".rstrip(), is_main=k == 0)
            for k, (name, one) in enumerate(_scored(scores))]
    return drawing.dot_plot(f"Test {in_words(scores['metric'])}", dots, tick_percent)


def certificate_table(scores: Scores, folded: str = "The same numbers as a table") -> Table:
    gains, rows = scores.get("gain_over", {}), []
    for name, one in _scored(scores):
        gain = gains.get(name)
        rows.append((name, percent(one["score"]), interval(one.get("interval")) or MISSING, f"{scores['n_test']:,}",
                     *((points(gain["difference"]), interval(gain["interval"])) if gain else (MISSING, MISSING))))
    metric = in_words(scores["metric"])
    return Table(f"Test {metric}, 95% intervals, seed {scores.get('seed', MISSING)}; gain: fitted minus baseline, "
                 "paired on the same rows", ("model", metric, "interval", "n", "gain", "interval of the gain"), rows,
                 main=0, folded=folded)


def learning(scores: Scores, steps: Sequence[Mapping[str, Any]]) -> Section | None:
    """Training loss by step, and the validation score of every evaluation with the best one marked."""
    metric = scores["metric"]
    curve = [one for one in scores.get("curve", []) if _is_number(one["scores"].get(metric))]
    raw = [(float(step["n"]), float(step["loss"])) for step in steps if _is_number(step.get("loss"))]
    scored = [(float(one["step"]), float(one["scores"][metric])) for one in curve]
    if not raw and not scored:
        return None
    x = drawing.Scale.around([0.0, *(at for at, _ in raw + scored)], n_steps=6)
    lead, pictures, tables = [], [], []
    if raw:
        smooth = drawing.smoothed(raw)
        words = (f"Training loss went from {raw[0][1]:.3f} at step {raw[0][0]:,.0f} to {smooth[-1][1]:.3f} (smoothed) "
                 f"at step {raw[-1][0]:,.0f}.") if len(raw) > 1 else f"Training loss of the one step: {raw[0][1]:.3f}."
        lead.append(words)
    if len(raw) > 1:
        pictures.append(Picture("Training loss by step: smoothed, and faintly as measured", drawing.line_plot(
            "Training loss", words, drawing.thinned(smooth), "{:g}".format, x=x, faint=drawing.thinned(raw))))
    if scored:
        n = n_rows(scores.get("data", {}).get("n_validation"))
        best = next((k for k, one in enumerate(curve) if one.get("is_best")), len(curve) - 1)
        words = f"Best validation {in_words(metric)}: {percent(scored[best][1])} at step {scored[best][0]:,.0f}, {n}."
        lead.append(words)
        kept = scores.get("kept", {})
        if kept.get("what", "the best trained weights") != "the best trained weights":
            lead.append(f"Kept: {kept['what']}; its validation {in_words(metric)} is {percent(kept['score'])}.")
        pictures.append(Picture(f"Validation {in_words(metric)} by step, {n}", drawing.line_plot(
            f"Validation {in_words(metric)}", words, scored, tick_percent, x=x, best=best,
            label=f"best {percent(scored[best][1])}")))
        tables.append(_curve_table(curve, best, n))
    return Section("learning", "Learning", lead, pictures, tables)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve_table(curve: Sequence[Mapping[str, Any]], best: int, n: str) -> Table:
    names = list(curve[0]["scores"])
    rows = [(f"{one['step']:,}", f"{one.get('epoch', math.nan):.2f}",
             *(score_words(name, one["scores"].get(name)) for name in names),
             "best" if k == best else "") for k, one in enumerate(curve)]
    return Table(f"Validation scores, {n}", ("step", "epoch", *map(in_words, names), ""), rows, n_words=0, main=best,
                 folded="Every evaluation as a table")


def confusion(details: Scores) -> Section | None:
    """The matrix, or the most confused pairs when there are too many labels to read one."""
    labels, counts_KK = details.get("labels"), details.get("confusion")
    if not labels or not counts_KK:
        return None
    n_gold = [sum(row) for row in counts_KK]
    if len(labels) > MAX_MATRIX_LABELS:
        pairs = sorted((-count, g, p) for g, row in enumerate(counts_KK) for p, count in enumerate(row)
                       if g != p and count)
        rows = [(labels[g], labels[p], f"{-count:,}", f"{n_gold[g]:,}") for count, g, p in pairs[:MAX_PAIRS_SHOWN]]
        table = Table(f"The {len(rows)} most frequent of {len(pairs):,} confused pairs, {n_rows(sum(n_gold))}",
                      ("gold", "predicted", details.get("counted", "rows"), "of"), rows, n_words=2)
        return Section("confusion", "Confusion", (), (), [table]) if rows else None
    names = [cut(label, MAX_NAME_CHARS) for label in labels]
    shares = [[count / max(1, n) for count in row] for row, n in zip(counts_KK, n_gold, strict=True)]
    is_dense = len(labels) > 8 or sum(map(len, labels)) > 90  # names across the top must stand upright to fit
    counted = details.get("counted", "rows")
    table = Table(f"Test {counted} by gold label (down) and predicted label (across), {n_rows(sum(n_gold))}",
                  ("", *names),
                  [(name, *(f"{count:,}" for count in row)) for name, row in zip(names, counts_KK, strict=True)],
                  look="heat", shares=shares, is_dense=is_dense)
    return Section("confusion", "Confusion", (), (), [table])


def per_label(details: Scores) -> Section | None:
    found = sorted(details.get("per_label", []), key=lambda one: one["f1"] if _is_number(one["f1"]) else -1.0)
    if not found:
        return None
    names = ("precision", "recall", "f1")
    rows = [(one["label"], f"{one['n']:,}", *(percent(one[name]) for name in names)) for one in found]
    shares = [[0.0] * 3 + [one["f1"] if _is_number(one["f1"]) else 0.0] for one in found]
    counted = details.get("counted", "rows")
    tables = [Table(f"Scores of each label, weakest F1 first; n: test {counted} with this gold label"
                    if not start else f"Labels {start + 1} to {len(rows)}",
                    ("label", "n", "precision", "recall", "F1"), rows[start:end], look="bars", shares=shares[start:end],
                    folded=f"The other {len(rows) - start} labels" if start else "")
              for start, end in ((0, MAX_LABELS_SHOWN), (MAX_LABELS_SHOWN, len(rows))) if start < len(rows)]
    n_out, n = details.get("n_out_of_reach"), sum(one["n"] for one in found)
    lead = [f"{n_out:,} of {n:,} gold {counted} can be no answer: they end inside a word, or no train row has their "
            "label. They count as missed."] if n_out else []
    return Section("labels", "Labels", lead, (), tables)


def groups(details: Scores) -> Section | None:
    """Scores of rows that are alike in something the task knows, such as the word that asks a question."""
    found = details.get("groups", {})
    if not found.get("rows"):
        return None
    names = [name for name in found["rows"][0] if name not in ("label", "n")]
    rows = [(cut(one["label"], MAX_NAME_CHARS), f"{one['n']:,}", *(percent(one[name]) for name in names))
            for one in found["rows"]]
    table = Table(f"Scores by {found['by']}, most frequent first; n: test rows",
                  (found["by"], "n", *map(in_words, names)), rows[:MAX_LABELS_SHOWN])
    return Section("groups", f"By {found['by']}", (), (), [table])


def mistakes(details: Scores) -> Section | None:
    found = details.get("mistakes", [])
    sure, ranked = (all(key in one for one in found) for key in ("confidence", "rank"))
    rows = [(cut(one["text"], MAX_TEXT_CHARS), *(cut(one[side], MAX_ANSWER_CHARS) for side in ("label", "predicted")),
             *([percent(one["confidence"])] if sure else []), *([f"{one['rank']:,}"] if ranked else []))
            for one in found]
    order = "most confident first" if sure else "furthest off first"
    numbers = ["confidence"] * sure + ["rank of gold"] * ranked
    table = Table(f"Wrong answers of the fitted model on test rows, {order}", ("text", "gold", "predicted", *numbers),
                  rows, n_words=3, look="texts")
    lead = ["Some of these may be mistakes in the labels: the first thing to look at."]
    title = "Most confident mistakes" if sure else "Largest errors"
    return Section("mistakes", title, lead, (), [table]) if rows else None


def scatter(details: Scores) -> Section | None:
    """Gold and predicted numbers."""
    found = details.get("scatter")
    if not found:
        return None
    pairs = list(zip(found["gold"], found["predicted"], strict=True))
    words = f"Predicted (upwards) against gold (to the right) of {len(pairs):,} test rows; on the line they are equal"
    return Section("scatter", "Predicted and gold", (), [Picture(words, drawing.cloud(
        "Predicted against gold", words, pairs, "{:g}".format))])


def truncation(scores: Scores) -> Section | None:
    found = scores.get("truncation")
    if not found:
        return None
    splits = [(split, found[split]) for split in ("train", "validation", "test") if found.get(split)]
    lead = [f"The model reads at most {found['max_tokens']:,} tokens of a text; {_cut_words(splits)}"]
    metric = in_words(scores["metric"])
    both = [(words, found.get(f"score_{kind}"), found.get(f"n_{kind}")) for words, kind in
            (("texts that were cut", "cut"), ("texts that were read whole", "whole"))]
    if all(_is_number(score) for _, score, _ in both):
        lead.append(f"Test {metric} on " + ", on ".join(f"{words}: {percent(score)} ({n_rows(n)})"
                                                        for words, score, n in both) + ".")
    rows = [(split, f"{one['n_rows']:,}", f"{one['n_cut']:,}", percent(one.get("cut_tokens_share")))
            for split, one in splits]
    table = Table("Texts that were cut", ("split", "rows", "rows cut", "share of tokens cut"), rows)
    return Section("truncation", "Truncation", lead, (), [table] if any(one["n_cut"] for _, one in splits) else [])


def _cut_words(splits: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    words = [f"{one['n_cut']:,} of {one['n_rows']:,} {split} texts" for split, one in splits if one["n_cut"]]
    return f"{' and '.join(words)} are longer and lost their end." if words else "no text is longer."


def data(scores: Scores) -> Section | None:
    found = scores.get("data", {})
    rows = [(f"{split} rows", f"{found[f'n_{split}']:,}") for split in ("train", "validation", "test")
            if f"n_{split}" in found]
    rows += [amount(*note) for note in found.get("notes", {}).items()]
    lead = [f"Source: {found['source']}"] if found.get("source") else []
    tables = [Table("Rows, and what was counted on the way", ("what", "count"), rows)] if rows else []
    return Section("data", "Data", lead, (), tables) if rows or lead else None


def _amounts(name: str, title: str, caption: str, found: Scores) -> Section | None:
    rows = [amount(*one) for one in found.items()]
    return Section(name, title, (), (), [Table(caption, ("what", "value"), rows, n_words=2)]) if rows else None


