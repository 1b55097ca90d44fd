"""ROUGE-1, ROUGE-2 and ROUGE-L: tokens and stems of rouge-score, F-measures equal to its own (tests compare).

The longest common subsequence is ours: rouge-score fills a table of Python integers, a second for two texts of 2,000
words and gigabytes for two of 20,000; bits of one integer take 1 ms and 40 ms.

Source  Lin 2004, "ROUGE"; Hyyrö 2004, "Bit-Parallel LCS-length Computation Revisited".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import ClassVar, Literal

import numpy as np

from ...core.errors import MissingExtraError
from .measures import Written, n_grams, share
from .sentences import words

Tokenizer = Literal["rouge-score", "words"]
MOSTLY = 0.98  # of a text's words that rouge-score's tokenizer keeps whole; with fewer it is no measure of that text
MAX_STEMS = 100_000  # that are kept
# Frequent words of English, and of other languages that mostly do without marks; none is a word of both.
_ENGLISH = frozenset(re.findall(r"\S+", """
    the of and to is are were with for that this it its he she his her they their we our you your by from at be has have
    had not which about there when what who can will
"""))
_OTHERS = frozenset(re.findall(r"\S+", """
    der das und ein eine einen einem einer ist sind nicht mit auf von den dem im sich ich sie wird auch als nach bei
    le la les des une du et est dans pour qui que sur pas avec il elle sont el los las una con por para del se su lo
    gli della che di per non sono un nel alla het een van niet op met voor zijn naar aan ook os um uma com na em ao
    och att det som ett inte av og til ikke jeg ve bir bu da yang dan dengan untuk tidak
"""))
NAMES = ("rouge_1", "rouge_2", "rouge_l")


def tokenizer_of(texts: Sequence[str]) -> Tokenizer:
    """`rouge-score` for English, as papers have it: its tokenizer knows a-z and 0-9 alone, its stems are English; else
    `words`.

    Of "weiß" it keeps "wei", of a Chinese text nothing. A text without marks is taken for English unless frequent words
    of other languages are more in it than English ones.
    """
    tokens = [word for text in texts for word in words(text)]
    n_whole, n_english, n_other = (sum(map(holds, tokens)) for holds in (
        str.isascii, _ENGLISH.__contains__, _OTHERS.__contains__))
    return "rouge-score" if n_whole >= MOSTLY * len(tokens) and n_english >= n_other else "words"


@cache
def _english(stems: bool) -> Callable[[str], list[str]]:
    """rouge-score's tokenizer, which keeps the stems of words it has met: they are most of its time."""
    try:
        from nltk.stem.porter import PorterStemmer
        from rouge_score.tokenize import tokenize
    except ImportError:
        raise MissingExtraError("the metric rouge", "rouge-score", "write") from None
    stemmer = SimpleNamespace(stem=lru_cache(MAX_STEMS)(PorterStemmer().stem)) if stems else None
    return partial(tokenize, stemmer=stemmer)


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence. Cost: |b| operations on integers of |a| bits."""
    places: dict[Hashable, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    all_bits = (1 << len(a)) - 1
    open_bits = all_bits  # a zero at i: a[i] ends a step of the subsequence
    for item in b:
        matches = open_bits & places.get(item, 0)
        open_bits = ((open_bits + matches) | (open_bits - matches)) & all_bits
    return len(a) - open_bits.bit_count()


def f_measure(n_both: float, n_a: int, n_b: int) -> float:
    """The harmonic mean of n_both / n_a and n_both / n_b; 0 where nothing is common."""
    return share(2 * n_both, n_a + n_b)


@dataclass(frozen=True)
class Rouge:
    """`rouge_1`, `rouge_2`, `rouge_l`: mean F-measures of rows, of several references each row's best for each score.

    tokenizer: rouge-score: its own, a-z and 0-9. words: any script's, each Chinese character a word, never stemmed.
    stems:     whether rouge-score's tokenizer cuts English words of over 3 letters to Porter stems, as papers do.
    """

    tokenizer: Tokenizer = "rouge-score"
    stems: bool = True
    width: ClassVar[int] = 3

    @property
    def signature(self) -> str:
        if self.tokenizer == "words":
            return "ROUGE|refs:best|tok:words|stems:no"
        stems = "yes" if self.stems else "no"
        return f"ROUGE|refs:best|tok:rouge-score|stems:{stems}|version:{version('rouge-score')}"

    def tokens(self, text: str) -> list[str]:
        """What is compared of a text."""
        if self.tokenizer == "words":
            return words(text)
        return _english(self.stems)(text)

    def outcomes(self, written: Written) -> Sequence[float]:
        tokens = self.tokens(written.text)
        each = [self._compare(tokens, self.tokens(reference)) for reference in written.references]
        return [max(values) for values in zip(*each, strict=True)] or (0.0, 0.0, 0.0)

    def _compare(self, tokens: list[str], reference: list[str]) -> tuple[float, float, float]:
        unigram, bigram = (_n_gram_f(n_grams(tokens, n), n_grams(reference, n)) for n in (1, 2))
        return unigram, bigram, f_measure(lcs_length(reference, tokens), len(tokens), len(reference))

    def scores(self, sums_C: np.ndarray, n: int) -> dict[str, float]:
        return {name: share(value, n) for name, value in zip(NAMES, sums_C, strict=True)}


def _n_gram_f(a: list[tuple[str, ...]], b: list[tuple[str, ...]]) -> float:
    return f_measure((Counter(a) & Counter(b)).total(), len(a), len(b))
