"""Translation word for word by a table that train pairs alone teach: IBM model 1, for a baseline.

Shape suffixes: E (source word, target word) places in train pairs, P pairs of words that occur, W source words.

Source  Brown et al. 1993, "The Mathematics of Statistical Machine Translation".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...readers.words import split_words
from .pairs import Pair
from .sentences import join_words

MAX_PLACES = 6_000_000  # E: memory is about 100 bytes for each
MAX_WORDS = 80  # of each side of a pair: longer pairs teach nothing here
MAX_VOCABULARY = 50_000  # of each side, the most frequent words
N_ROUNDS = 5
SPURIOUS = "\0"  # the source word that target words without any come from
MIN_SHARE = 0.05  # of a source word's best target word: below, nothing is written


def word_for_word(train: Sequence[Pair], rows: Sequence[Pair], seed: int) -> list[str]:
    """Each source word's likeliest target word, in the order of the source; a word never seen as it is.

    Cost: seconds and at most 600 MB; of more pairs than MAX_PLACES hold, as many are drawn.
    """
    table = word_table(train, seed)
    return [join_words([_target_of(word, table) for word in _words(row.source)]) for row in rows]


def _target_of(word: str, table: Mapping[str, str]) -> str:
    return table.get(word, table.get(word.casefold(), word))


def word_table(train: Sequence[Pair], seed: int) -> dict[str, str]:
    """The likeliest target word of each source word, "" for one that is best left out; empty without train pairs."""
    pairs = list(_cut(train, seed))
    sources, targets = (_vocabulary(pair[side] for pair in pairs) for side in (0, 1))
    source_E, target_E, place_E = _places(pairs, sources, targets)
    if not len(source_E):
        return {}
    pair_P, pair_E = np.unique(source_E * np.int64(len(targets)) + target_E, return_inverse=True)
    source_P, target_P = np.divmod(pair_P, len(targets))
    share_P: np.ndarray = np.ones(len(pair_P))
    for _ in range(N_ROUNDS):  # each target word comes from one source word: its shares sum to 1
        share_E = share_P[pair_E] / np.bincount(place_E, share_P[pair_E])[place_E]
        share_P = np.bincount(pair_E, share_E, len(pair_P))
        share_P = share_P / np.bincount(source_P, share_P, len(sources))[source_P]
    order_P = np.lexsort((target_P, -share_P, source_P))
    first_W = order_P[np.unique(source_P[order_P], return_index=True)[1]]
    names = list(sources), list(targets)
    return {names[0][source_P[p]]: names[1][target_P[p]] if share_P[p] >= MIN_SHARE else ""
            for p in first_W.tolist() if names[0][source_P[p]] != SPURIOUS}


def _words(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


def _cut(train: Sequence[Pair], seed: int) -> Iterator[tuple[list[str], list[str]]]:
    """Pairs of word lists in a drawn order, until MAX_PLACES are full."""
    n_places = 0
    for i in np.random.default_rng(seed).permutation(len(train)).tolist():
        if not train[i].targets:
            continue
        source, target = list(dict.fromkeys(_words(train[i].source))), _words(train[i].targets[0])
        if max(len(source), len(target)) > MAX_WORDS:
            continue
        n_places += (len(source) + 1) * len(target)
        if n_places > MAX_PLACES:
            return
        yield [SPURIOUS, *source], target


def _vocabulary(lists: Iterator[list[str]]) -> dict[str, int]:
    counts = Counter(word for words in lists for word in words)
    return {word: i for i, (word, _) in enumerate(counts.most_common(MAX_VOCABULARY))}


def _places(pairs: Sequence[tuple[list[str], list[str]]], sources: Mapping[str, int],
            targets: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source_E, target_E, place_E): each target word of each pair beside each of its source words."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_before = 0
    for source, target in pairs:
        ids_W = np.array([sources[word] for word in source if word in sources], np.int32)
        ids_T = np.array([targets[word] for word in target if word in targets], np.int32)
        places_T = np.arange(n_before, n_before + len(ids_T), dtype=np.int32)
        n_before += len(ids_T)
        parts.append((np.tile(ids_W, len(ids_T)), np.repeat(ids_T, len(ids_W)), np.repeat(places_T, len(ids_W))))
    if not parts:
        return (np.empty(0, np.int32),) * 3
    source_E, target_E, place_E = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return source_E, target_E, place_E
