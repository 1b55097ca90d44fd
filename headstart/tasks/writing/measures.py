"""How good written texts are: per row a few numbers that may be summed, and the scores of any sum of them.

    measures = (Bleu("13a"), Chrf(), Length())
    outcomes_NC = outcomes(measures, [Written("Ein Hund.", ("Ein Hund schläft.",)), ...])
    scores(measures, outcomes_NC)            {"bleu": ..., "chrf": ..., "length_ratio": ...}

A corpus score is no mean of sentence scores, but it follows from sums over rows (sufficient statistics). So a
bootstrap resamples rows of numbers, and no text is read twice. Scores lie between 0 and 1, but for `length_ratio` and
`perplexity`, which may be larger and can choose no checkpoint.

`distinct` is the exception: the kinds of n-grams in a corpus are no sum over rows, and a resample, which repeats rows,
always holds fewer kinds than the rows did. It is given without an interval; `Repetition` has one.

Shape suffixes: N rows, C numbers a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ...core.likelihood import likelihood
from ...core.statistics import share_interval
from ...core.task import N_MISTAKES_SHOWN
from ..question_answering.squad import compare
from .control import Control
from .sentences import words


@dataclass(frozen=True)
class Written:
    """A text that was written for a row, beside what it is measured by.

    references:              the row's targets, at least one where the measure compares.
    source:                  what was read.
    negative_log_likelihood: of the first target's tokens, their sum in nats, by the model that writes.
    n_tokens:                how many target tokens that sum has.
    control:                 what the text had to keep to; None: nothing.
    label:                   what the text was judged to be; "": nobody was asked.
    """

    text: str
    references: tuple[str, ...] = ()
    source: str = ""
    negative_log_likelihood: float = 0.0
    n_tokens: int = 0
    control: Control | None = None
    label: str = ""


class Measure(Protocol):
    """Numbers of one row, and the scores that their sums over rows have."""

    @property
    def width(self) -> int:
        """C, how many numbers a row has."""
        ...

    @property
    def signature(self) -> str:
        """All that decides its scores, for a report: library, version, tokenizer."""
        ...

    def outcomes(self, written: Written) -> Sequence[float]:
        """The row's C numbers."""
        ...

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        """Scores by name, of the sums over `n` rows."""
        ...


def outcomes(measures: Sequence[Measure], written: Iterable[Written]) -> np.ndarray:
    """[N, 1 + C]: a 1, which counts the row, then the numbers of each measure."""
    width = 1 + sum(measure.width for measure in measures)
    lines = [(1.0, *(number for measure in measures for number in measure.outcomes(row))) for row in written]
    return np.array(lines, np.float64).reshape(-1, width)


def scores(measures: Sequence[Measure], outcomes: np.ndarray) -> dict[str, float]:
    """Every measure's scores. outcomes: [N, 1 + C] of any multiset of rows, or their sums [1 + C]."""
    sums_C = outcomes.sum(0) if outcomes.ndim == 2 else outcomes
    n, at = round(float(sums_C[0])), 1
    named: dict[str, float] = {}
    for measure in measures:
        named |= measure.scores(sums_C[at : at + measure.width], n)
        at += measure.width
    return named


def share(part: float, whole: float) -> float:
    """`part` of `whole`; 0 where there is nothing to have a part of."""
    return float(part / whole) if whole else 0.0


def n_grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every run of `n` tokens, in their order."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


@dataclass(frozen=True)
class Length:
    """`length_ratio`: words written for each word of the reference that is nearest in length."""

    width: ClassVar[int] = 2
    signature: ClassVar[str] = "length_ratio|tok:words"

    def outcomes(self, written: Written) -> Sequence[float]:
        n_written = len(words(written.text))
        lengths = [len(words(reference)) for reference in written.references]
        return n_written, min(lengths, key=lambda n: (abs(n - n_written), n), default=0)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"length_ratio": share(*sums_C)}


@dataclass(frozen=True)
class Copied:
    """`copied_3grams`: the share of written n-grams of words that stand in the source, any case.

    Source  See, Liu & Manning 2017, "Get To The Point" (novel n-grams, which are the others).
    """

    n: int = 3
    width: ClassVar[int] = 2

    @property
    def signature(self) -> str:
        return f"copied_{self.n}grams|tok:words"

    def outcomes(self, written: Written) -> Sequence[float]:
        in_source = set(n_grams(words(written.source), self.n))
        grams = n_grams(words(written.text), self.n)
        return sum(gram in in_source for gram in grams), len(grams)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {f"copied_{self.n}grams": share(*sums_C)}


@dataclass(frozen=True)
class Repetition:
    """`repeated_3grams`: the share of written n-grams of words that stood in the same text before: loops show here."""

    n: int = 3
    width: ClassVar[int] = 2

    @property
    def signature(self) -> str:
        return f"repeated_{self.n}grams|tok:words"

    def outcomes(self, written: Written) -> Sequence[float]:
        grams = n_grams(words(written.text), self.n)
        return len(grams) - len(set(grams)), len(grams)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {f"repeated_{self.n}grams": share(*sums_C)}


@dataclass(frozen=True)
class TokenF1:
    """`token_f1` and `exact_match` with the reference that fits best, as SQuAD's script has them; means over rows."""

    width: ClassVar[int] = 2
    signature: ClassVar[str] = "token_f1|tok:squad"

    def outcomes(self, written: Written) -> Sequence[float]:
        return compare(written.text, written.references)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"exact_match": share(sums_C[0], n), "token_f1": share(sums_C[1], n)}


@dataclass(frozen=True)
class Likelihood:
    """`likelihood`, the geometric mean of the probabilities of all target tokens, and `perplexity`, one over it.

    Of texts that no model wrote it has no scores. Two tokenizers' values cannot be compared.
    """

    width: ClassVar[int] = 2
    signature: ClassVar[str] = "likelihood|per:token"

    def outcomes(self, written: Written) -> Sequence[float]:
        return written.negative_log_likelihood, written.n_tokens

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        nats, n_tokens = map(float, sums_C)
        # Without tokens nobody asked how likely the targets are to it: it is no model.
        return likelihood(nats, n_tokens) if n_tokens else {}


@dataclass(frozen=True)
class ControlSuccess:
    """`control_success`: of the rows that have constraints, the share whose text meets all of them."""

    width: ClassVar[int] = 2
    signature: ClassVar[str] = "control_success"

    def outcomes(self, written: Written) -> Sequence[float]:
        has_control = written.control is not None and not written.control.is_empty
        is_met = has_control and written.control is not None and not written.control.unmet(written.text, written.label)
        return float(is_met), has_control

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"control_success": share(*sums_C)}


@dataclass(frozen=True)
class LabelSuccess:
    """`label_success`: of the rows whose control asks for a label, the share whose text has it.

    judge: what tells which label a text has, and the sha256 (hex) of its manifest.
    """

    judge: str
    sha256: str
    width: ClassVar[int] = 2

    @property
    def signature(self) -> str:
        return f"label_success|judge:{self.judge}|sha256:{self.sha256[:12]}"

    def outcomes(self, written: Written) -> Sequence[float]:
        asked = written.control.label if written.control else None
        return float(asked is not None and written.label == asked), asked is not None

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"label_success": share(*sums_C)}


def shares(measures: Sequence[Measure], written: Sequence[Written]) -> dict[str, dict[str, Any]]:
    """Of measures that count rows, (met, asked) each: the share of rows that meet them, with n and 95 % interval."""
    named: dict[str, dict[str, Any]] = {}
    for measure in measures:
        sums_C = outcomes([measure], written).sum(0)[1:]
        n_met, n = map(int, sums_C)
        for name, value in measure.scores(sums_C, n).items() if n else ():
            named[name] = {"value": value, "interval": list(share_interval(n_met, n)), "n": n}
    return named


def distinct(texts: Iterable[str]) -> dict[str, float]:
    """`distinct_1` and `distinct_2`: kinds of words and of pairs of words, for each that was written; no interval.

    It falls with the number of words, `n_words`: compare systems on the same rows alone.
    Source  Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    kinds: tuple[Counter[tuple[str, ...]], ...] = (Counter(), Counter())
    for text in texts:
        tokens = words(text)
        for n, counter in enumerate(kinds, 1):
            counter.update(n_grams(tokens, n))
    return {"distinct_1": share(len(kinds[0]), kinds[0].total()), "distinct_2": share(len(kinds[1]), kinds[1].total()),
            "n_words": float(kinds[0].total())}


def worst(measure: Measure, name: str, written: Sequence[Written],
          n: int = N_MISTAKES_SHOWN) -> list[dict[str, Any]]:
    """The `n` rows of the least score `name` of a measure, as a report shows mistakes."""
    values = [measure.scores(np.asarray(measure.outcomes(row), np.float64), 1)[name] for row in written]
    order = sorted(range(len(written)), key=lambda i: (values[i], i))[:n]
    return [{"text": written[i].source, "label": " | ".join(written[i].references), "predicted": written[i].text}
            for i in order]
