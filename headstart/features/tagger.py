"""A linear tagger that reads a word and its neighbors by hand-made features: the baseline for entities and tags.

Source  Ratinov and Roth 2009, "Design Challenges and Misconceptions in Named Entity Recognition" (the features).

Shape suffixes: W words of a text, N words of all texts, K tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from ..core.values import IGNORE
from .tfidf import margins

N_HASHED = 2**20  # columns: bounded memory whatever the vocabulary
MAX_WORK = 2_000_000  # train words times tags: texts are drawn until they hold that many
STRENGTH = 0.1  # on CoNLL-2003 the best of .03, .1 and .3, with 1,000 and with 14,041 train rows
TRANSITIONS = 0.1  # how much the order of tags counts beside a margin, chosen there


def tag_margins(train: Sequence[Sequence[str]], tags: Sequence[Sequence[int]], n_tags: int,
                others: Sequence[Sequence[str]], seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """margins_WK of the words of each of the other texts, and follows_KK: how well the second tag follows the first.

    train: the words of each train text.  tags: theirs, numbers from 0 or IGNORE.
    follows_KK has a line more than tags: for the first word of a text.
    """
    from sklearn.feature_extraction import FeatureHasher

    order = np.random.default_rng(seed).permutation(len(train))
    n_words = np.cumsum([len(train[i]) for i in order])
    drawn = order[: max(1, int((n_words * n_tags <= MAX_WORK).sum()))]
    gold_N = np.array([k for i in drawn for k in tags[i]], np.int64)
    hasher = FeatureHasher(N_HASHED, input_type="string", alternate_sign=False)
    features = hasher.transform(words for i in drawn for words in _features(train[i]))[gold_N != IGNORE]
    seen = np.flatnonzero(features.getnnz(axis=0))
    of_others = hasher.transform(words for text in others for words in _features(text))[:, seen]
    margins_NK, = margins(features[:, seen], np.arange(n_tags) == gold_N[gold_N != IGNORE, None], STRENGTH, [of_others])
    ends = np.cumsum([len(text) for text in others])[:-1]
    return np.split(margins_NK, ends), TRANSITIONS * _follows([tags[i] for i in drawn], n_tags)


def _follows(tags: Sequence[Sequence[int]], n_tags: int) -> np.ndarray:
    """The logarithm of how much more often the second tag stands behind the first than it stands anywhere."""
    counts_KK = np.full((n_tags + 1, n_tags), 0.1)
    for text in tags:
        for before, after in zip([n_tags, *text], text, strict=False):
            if before != IGNORE and after != IGNORE:
                counts_KK[before, after] += 1
    shares_KK = counts_KK / counts_KK.sum(1, keepdims=True)
    return np.asarray(np.log(shares_KK) - np.log(counts_KK.sum(0) / counts_KK.sum()))


@lru_cache(maxsize=1 << 16)
def _shape(word: str) -> str:
    """"McDonald-42" as "XxXx-d"."""
    kinds = ("X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(kinds))


@lru_cache(maxsize=1 << 16)
def _of_word(word: str) -> tuple[str, ...]:
    lower = word.lower()
    return (f"word {word}", f"lower {lower}", f"shape {_shape(word)}",
            *(f"begins {lower[:n]}" for n in (1, 2, 3, 4)), *(f"ends {lower[-n:]}" for n in (1, 2, 3, 4)))


def _features(words_W: Sequence[str]) -> Iterator[list[str]]:
    """Of each word: itself, two neighbors on each side, and pairs of these."""
    words = ["<<", "<", *words_W, ">", ">>"]
    lower, shape = [word.lower() for word in words], [_shape(word) for word in words]
    case = "upper" if not any(c.islower() for word in words_W for c in word) else "mixed"
    for i in range(2, len(words) - 2):
        near = [f"{at:+} {lower[i + at]}" for at in (-2, -1, 1, 2)]
        near += [f"shape {at:+} {shape[i + at]}" for at in (-1, 1)]
        near += [f"end {at:+} {words[i + at][-3:]}" for at in (-1, 1)]
        pairs = (lower[i - 1 : i + 1], lower[i : i + 2], shape[i - 1 : i + 1], shape[i : i + 2], shape[i - 1 : i + 2],
                 (lower[i - 1], shape[i]), (shape[i], lower[i + 1]), (*lower[i - 2 : i], shape[i]),
                 (shape[i], *lower[i + 1 : i + 3]), (case, shape[i]), (str(i == 2), shape[i]))
        yield [*_of_word(words[i]), *near, *(f"{n} {' '.join(pair)}" for n, pair in enumerate(pairs))]
