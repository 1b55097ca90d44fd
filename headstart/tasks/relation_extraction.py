"""How two marked spans of a text relate: cause and effect, part and whole, who works for whom.

The answer to a row is {"relation", "direction", "label", "score", "scores"}. Labels of the form "Name(e1,e2)" and
"Name(e2,e1)" are one relation in two directions: "head-to-tail" and "tail-to-head". The spans are marked in the text
that the model reads, and a text that is too long is cut so that both stay in it.

Source  Baldini Soares et al. 2019, "Matching the Blanks" (entity markers, the spans' own vectors); Hendrickx et al.
        2010, "SemEval-2010 Task 8" (the official score: relations without Other, a wrong direction is wrong).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np

from ..core import metrics
from ..core.errors import shorten
from ..core.reader import Reader
from ..core.task import Columns, Head, flaw_of_text
from ..core.values import Prediction, Row, Window
from ..readers.words import splits_character
from .text_classification import USUAL_TEXT, TextClassification

NONE = ("other", "no_relation", "none", "na", "无")  # labels that say that there is no relation
DIRECTED = re.compile(r"(.+)\((?:e1,\s*e2|(e2,\s*e1))\)")
WRITTEN = re.compile(r"\s*[\[(]?\s*(\d{1,9})\s*[,:\s]\s*(\d{1,9})\s*[\])]?\s*")  # a span in a CSV file
N_AROUND = 3  # words on each side of the spans that the linear baseline reads
MARKS = ("@", "#")  # around the head and the tail; every tokenizer has them


@dataclass(frozen=True)
class RelationExtraction(TextClassification):
    """The relation between two spans. Spans are [start, end) in characters of the text."""

    name: ClassVar = "relation-extraction"
    columns: ClassVar = Columns(
        {"text": "a string that is not empty",
         "head_span": "[start, end) of the first entity in the text, in characters",
         "tail_span": "[start, end) of the second entity",
         "relation": "a string"},
        gold=("relation",),
        usual_names={"text": USUAL_TEXT,
                     "head_span": ("head_span", "e1_span", "subject_span", "subj_span"),
                     "tail_span": ("tail_span", "e2_span", "object_span", "obj_span"),
                     "relation": ("relation", "label", "relation_type", "关系")},
        signatures=(frozenset(("text", "head_span", "tail_span", "relation")),))
    options: ClassVar = ("metric",)
    examples: ClassVar = (
        {"text": "The loud music broke the phone.", "head_span": [4, 14], "tail_span": [25, 30],
         "relation": "Cause-Effect(e1,e2)"},
        {"text": "We found a room with some dull staff.", "head_span": [11, 15], "tail_span": [31, 36],
         "relation": "Other"},
        {"text": "It was cold today, and the film was quite stale.", "head_span": [27, 31], "tail_span": [7, 11],
         "relation": "Cause-Effect(e2,e1)"},
        {"text": "酒店房间很干净", "head_span": [2, 4], "tail_span": [0, 2], "relation": "Part-Whole(e1,e2)"},
    )

    metric: Literal["accuracy", "macro_f1"] = "macro_f1"

    def check(self, row: Row) -> str | None:
        if flaw := flaw_of_text("text", row.get("text")):
            return flaw
        for column in ("head_span", "tail_span"):
            if flaw := check_span(row.get(column), row["text"]):
                return f'"{column}" {flaw}'
        head, tail = span(row["head_span"]), span(row["tail_span"])
        if head == tail:
            return f'"tail_span" is {shorten(row["tail_span"])}, as the head_span is; a relation needs two entities'
        return flaw_of_text("relation", row.get("relation", "-"))

    def text(self, row: Row) -> str:
        return mark(row["text"], span(row["head_span"]), span(row["tail_span"]))[0]

    def texts(self, row: Row) -> tuple[str, ...]:
        """Both spans, marked, with all between them and some words around."""
        text, spans = row["text"], (span(row["head_span"]), span(row["tail_span"]))
        start, end = min(first for first, _ in spans), max(last for _, last in spans)
        before, after = text[:start].split()[-N_AROUND:], text[end:].split()[:N_AROUND]
        marked = mark(text[start:end], *((first - start, last - start) for first, last in spans))[0]
        return (" ".join([*before, marked, *after]),)

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        inputs, n_cut_tokens = _read(row["text"], span(row["head_span"]), span(row["tail_span"]), reader)
        target = {"label": self._index[self._gold(row)]} if "relation" in row else {}
        return [Window(i, inputs, target, {"n_cut_tokens": n_cut_tokens})]

    @property
    def head(self) -> Head:
        return Head("spans", len(self.labels))

    def answer(self, shares_K: np.ndarray) -> Prediction:
        prediction = super().answer(shares_K)
        label, scores = prediction["label"], prediction["scores"]
        relation, is_reversed = directed(label)
        return {"relation": relation, "direction": "tail-to-head" if is_reversed else "head-to-tail",
                "label": label, "score": scores[label], "scores": scores}

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        counts = metrics.label_counts(outcomes[:, 0], outcomes[:, 1], len(self.labels))
        return {"macro_f1": official_f1(counts, self.labels), "accuracy": metrics.accuracy(counts),
                "macro_f1_with_other": metrics.macro_f1(counts)}

    def describe(self) -> dict[str, Any]:
        return {key: value for key, value in super().describe().items() if key != "problem_type"}


def official_f1(counts: metrics.LabelCounts, labels: tuple[str, ...]) -> float:
    """Macro F1 over relations, without those that say that there is none; both directions of one count as one.

    A right relation in the wrong direction is predicted, and is gold, but is no hit: the rule of the official scorer.
    Relations that neither gold nor predictions hold are left out.
    """
    relation_K = _relations(labels)
    hits, gold, predicted = (np.bincount(relation_K, n_K)[1:] for n_K in counts)
    occurs = gold + predicted > 0
    return float((2 * hits / np.maximum(gold + predicted, 1))[occurs].mean()) if occurs.any() else 0.0


@lru_cache(maxsize=8)
def _relations(labels: tuple[str, ...]) -> np.ndarray:
    """The number of each label's relation, from 1; 0 where the label says that there is none."""
    numbers: dict[str, int] = {}
    names = [directed(label)[0] for label in labels]
    return np.array([0 if name.casefold() in NONE else numbers.setdefault(name, len(numbers) + 1) for name in names])


def directed(label: str) -> tuple[str, bool]:
    """"Cause-Effect(e2,e1)" as ("Cause-Effect", True); a label without a direction as itself."""
    match = DIRECTED.fullmatch(label.strip())
    return (match[1], match[2] is not None) if match else (label.strip(), False)


def check_span(value: Any, text: str) -> str | None:
    """What is wrong with a span of `text`, in words that follow its name; None when nothing is."""
    ends = span(value)
    if ends is None:
        return f"is {shorten(value)}; it must be [start, end], two whole numbers"
    start, end = ends
    if start >= end:
        return f"is {shorten(value)}; its start must lie before its end"
    if start < 0 or end > len(text):
        return f"is {shorten(value)}, outside the text, which has {len(text):,} characters"
    if not text[start:end].strip():
        return f"is {shorten(value)}, which holds nothing but blanks"
    for at in (start, end):
        if splits_character(text, at):
            return f"is {shorten(value)}; {at} lies inside a character, before its combining mark U+{ord(text[at]):04X}"
    return None


def span(value: Any) -> Any:
    """(start, end) of a list of two whole numbers, or of a string such as "[3, 8]" or "3:8"; None for anything else."""
    if isinstance(value, str) and (match := WRITTEN.fullmatch(value)):
        return int(match[1]), int(match[2])
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(at) is int for at in value):
        return value[0], value[1]
    return None


def mark(text: str, head: tuple[int, int], tail: tuple[int, int]) -> tuple[str, list[tuple[int, int]]]:
    """`text` with marks around both spans, and where the spans are in it.

    >>> mark("fire makes smoke", (0, 4), (11, 16))
    ('@ fire @ makes # smoke #', [(2, 6), (17, 22)])
    """
    ends = sorted([(head[0], 1, 0), (head[1], 0, 0), (tail[0], 1, 1), (tail[1], 0, 1)])  # at one place, ends come first
    out, at, where = "", 0, [[0, 0], [0, 0]]
    for place, is_start, which in ends:
        out, at = out + text[at:place], place
        before, after = ("" if not out or out.endswith(" ") else " "), "" if text[at : at + 1] == " " else " "
        if is_start:
            out += f"{before}{MARKS[which]} "
            where[which][0] = len(out)
        else:
            where[which][1] = len(out)
            out += f" {MARKS[which]}{after if at < len(text) else ''}"
    return out + text[at:], [(start, end) for start, end in where]


def _read(text: str, head: tuple[int, int], tail: tuple[int, int], reader: Reader) -> tuple[dict[str, list[int]], int]:
    """The marked text as model inputs, with the tokens of each span marked too; cut so that both stay in it."""
    marked, spans = mark(text, head, tail)
    piece, *rest = reader.read_windows(marked)
    n_cut = 0
    if rest:
        offsets = [at for part in (piece, *rest) for at in part.offsets_T if at is not None]
        n_kept = sum(at is not None for at in piece.offsets_T)
        n_cut = len(offsets) - n_kept
        while rest and n_kept:  # words that are cut and joined again may have a token more than they had
            kept, spans_kept = _around(marked, spans, offsets, n_kept)
            piece, *rest = reader.read_windows(kept)
            n_kept -= 1
        spans = spans_kept
    marks = [0] * len(piece.offsets_T)
    for k, (start, end) in sorted(enumerate(spans, 1), key=lambda item: item[1][0] - item[1][1]):  # the inner one last
        for t, offset in enumerate(piece.offsets_T):
            if offset is not None and offset[0] < end and start < offset[1]:
                marks[t] = k
    return {**piece.inputs, "marks": marks}, n_cut


def _around(text: str, spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]],
            n_kept: int) -> tuple[str, list[tuple[int, int]]]:
    """About `n_kept` tokens of `text`: those nearest to the spans; and where the spans are in what is left.

    A gap between kept parts becomes " … ".
    """
    starts, ends = np.array(offsets).T
    distance = np.full(len(offsets), len(text))
    for start, end in spans:
        distance = np.minimum(distance, np.maximum(0, np.maximum(start - ends, starts - end)))
    kept = np.zeros(len(offsets), bool)
    kept[np.argsort(distance, kind="stable")[:n_kept]] = True
    out, moved, last = "", [list(span_kept) for span_kept in spans], -1
    for t in map(int, np.flatnonzero(kept)):
        if t != last + 1:
            out += " … " if out else ""
            begin = int(starts[t])
        else:
            begin = int(ends[t - 1])
        for span_kept, (start, end) in zip(moved, spans, strict=True):
            if begin <= start < ends[t]:
                span_kept[0] = len(out) + start - begin
            if begin < end <= ends[t]:
                span_kept[1] = len(out) + end - begin
        out += text[begin : ends[t]]
        last = t
    return out, [(start, end) for start, end in moved]
