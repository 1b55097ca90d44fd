"""BLEU and chrF of a corpus, by sacrebleu's own statistics of each row and its own scores of their sums.

Source  Papineni et al. 2002, "BLEU"; Popović 2015, "chrF"; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...core.errors import MissingExtraError
from .measures import Written
from .sentences import has_kana, is_unspaced

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

Tokenizer = Literal["13a", "zh", "char"]
NONE = ("",)  # a row without a reference is compared with an empty one
VARYING = -1  # sacrebleu's number of references where rows have different ones


def tokenizer_of(texts: Sequence[str]) -> Tokenizer:
    """BLEU's tokenizer for such targets: `zh` for Chinese, `char` for Japanese, else `13a`, that of WMT."""
    if not is_unspaced(texts):
        return "13a"
    return "char" if has_kana(texts) else "zh"


@cache
def _metric(name: str, tokenizer: str = "") -> Metric:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise MissingExtraError(f"the metric {name}", "sacrebleu", "write") from None
    return BLEU(tokenize=tokenizer, force=True) if name == "bleu" else CHRF()


def _statistics(metric: Metric, written: Written) -> Sequence[float]:
    # The statistics of a row are what sacrebleu's paired tests use; only the method's name is private.
    references = [[reference] for reference in written.references or NONE]
    statistics: list[list[int]] = metric._extract_corpus_statistics([written.text], references)
    return statistics[0]


def _score(metric: Metric, sums_C: np.ndarray) -> float:
    score = metric._compute_score_from_stats(np.rint(sums_C).astype(np.int64).tolist()).score
    return min(1.0, float(score) / 100)  # a perfect BLEU is 1 + 4e-16


def _signature(metric: Metric, n_references: int) -> str:
    metric.num_refs = n_references
    return str(metric.get_signature())


@dataclass(frozen=True)
class Bleu:
    """`bleu` in [0, 1]: n-grams up to 4, smoothed where an order has no match (exp), several references.

    tokenizer:    of both texts; see `tokenizer_of`.
    n_references: of every row, for the signature alone; -1: they differ.
    """

    tokenizer: Tokenizer = "13a"
    n_references: int = 1
    width: ClassVar[int] = 10  # length written, length of the nearest reference, 4 times right, 4 times all

    @property
    def signature(self) -> str:
        return "BLEU|" + _signature(_metric("bleu", self.tokenizer), self.n_references)

    def outcomes(self, written: Written) -> Sequence[float]:
        return _statistics(_metric("bleu", self.tokenizer), written)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"bleu": _score(_metric("bleu", self.tokenizer), sums_C)}


@dataclass(frozen=True)
class Chrf:
    """`chrf` in [0, 1]: chrF2, n-grams of 1 to 6 characters without blanks; of several references, each row's best."""

    n_references: int = 1
    width: ClassVar[int] = 18  # for each order: written, of the reference, in both

    @property
    def signature(self) -> str:
        return "chrF2|" + _signature(_metric("chrf"), self.n_references)

    def outcomes(self, written: Written) -> Sequence[float]:
        return _statistics(_metric("chrf"), written)

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {"chrf": _score(_metric("chrf"), sums_C)}


def n_references_of(rows: Sequence[Sequence[str]]) -> int:
    """How many references each row has; -1 where rows differ."""
    numbers = {len(references) for references in rows}
    return numbers.pop() if len(numbers) == 1 else VARYING
