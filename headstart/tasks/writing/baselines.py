"""Texts that need no model: what a model that writes must beat.

Each is a function (train pairs, pairs to answer, seed) -> a text for each of those. None reads the targets of the
pairs to answer but `oracle_sentence`, which is no baseline: it marks how far one sentence of the source can go.

Shape suffixes: N train pairs, M pairs to answer, S sentences of one source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...features.tfidf import tf_idf
from .measures import Written
from .pairs import Pair
from .rouge import Rouge, tokenizer_of
from .sentences import is_unspaced, sentences
from .word_table import word_for_word

Baseline = Callable[[Sequence[Pair], Sequence[Pair], int], list[str]]

MAX_TRAIN_PAIRS = 100_000  # that the nearest neighbor looks at: of more, as many are drawn
MAX_CHARACTERS = 20_000  # of a source that the nearest neighbor and sentences are taken from
MAX_SENTENCES = 200  # of one source, the first ones
MAX_VALUES = 4_000_000  # of similarities that are held at once
MAX_TARGET_SENTENCES = 10
DAMPING, N_ROUNDS = 0.85, 50  # of TextRank, as its authors took them; rounds enough for 1e-3


def copied_source(_train: Sequence[Pair], rows: Sequence[Pair], _seed: int) -> list[str]:
    """The source as it is."""
    return [row.source for row in rows]


def lead(_train: Sequence[Pair], rows: Sequence[Pair], _seed: int, *, n: int) -> list[str]:
    """The first `n` sentences of the source, or the first turns of a transcript."""
    return [_joined(_sentences(row.source)[:n]) for row in rows]


def title(_train: Sequence[Pair], rows: Sequence[Pair], _seed: int) -> list[str]:
    """The title of the source; its first sentence where it has none."""
    return [row.title if row.title.strip() else _joined(_sentences(row.source)[:1]) for row in rows]


def most_frequent_target(train: Sequence[Pair], rows: Sequence[Pair], _seed: int) -> list[str]:
    """The target that most train pairs have, the same for every row; of equals, the first."""
    counts = Counter(pair.targets[0] for pair in train if pair.targets)
    return [max(counts, key=counts.__getitem__) if counts else ""] * len(rows)


def nearest_target(train: Sequence[Pair], rows: Sequence[Pair], seed: int) -> list[str]:
    """The target of the train pair whose source is most like the row's, by TF-IDF; of equals, the first.

    Cost: N * M products of sparse vectors, N at most MAX_TRAIN_PAIRS; MAX_VALUES similarities in memory.
    """
    pairs = [pair for pair in _drawn(train, MAX_TRAIN_PAIRS, seed) if pair.targets]
    if not pairs or not rows:
        return [""] * len(rows)
    vectors_NF, queries_MF = tf_idf([pair.source[:MAX_CHARACTERS] for pair in pairs],
                                    [row.source[:MAX_CHARACTERS] for row in rows])
    n_block = max(1, MAX_VALUES // len(pairs))
    nearest: list[int] = []
    for start in range(0, len(rows), n_block):
        similarities_BN = (queries_MF[start : start + n_block] @ vectors_NF.T).toarray()
        nearest += similarities_BN.argmax(1).tolist()
    return [pairs[i].targets[0] for i in nearest]


def text_rank(train: Sequence[Pair], rows: Sequence[Pair], _seed: int, *, n: int = 0) -> list[str]:
    """The `n` sentences of the source that are most like its others, in their order.

    n: 0 takes as many as train targets have on average.
    Cost: S * S similarities for a row, S at most MAX_SENTENCES.
    Source: Mihalcea & Tarau 2004, "TextRank", with TF-IDF for the likeness of sentences.
    """
    n = n or usual_number_of_sentences(train)
    parts = [_sentences(row.source) or [""] for row in rows]
    flat = [sentence for part in parts for sentence in part]
    if not any(sentence.strip() for sentence in flat):
        return [""] * len(rows)
    vectors, = tf_idf(flat)
    texts, at = [], 0
    for part in parts:
        ranks_S = _ranks(vectors[at : at + len(part)])
        best = sorted(np.argsort(-ranks_S, kind="stable")[:n].tolist())
        texts.append(_joined([part[i] for i in best]))
        at += len(part)
    return texts


def oracle_sentence(_train: Sequence[Pair], rows: Sequence[Pair], _seed: int) -> list[str]:
    """An upper mark, no baseline: the sentence of the source with the best mean of the three ROUGE scores."""
    rouge = Rouge(tokenizer_of([target for row in rows for target in row.targets]))

    def value(sentence: str, row: Pair) -> float:
        return sum(rouge.outcomes(Written(sentence, row.targets)))

    return [max(_sentences(row.source) or [""], key=partial(value, row=row)) for row in rows]


def usual_number_of_sentences(train: Sequence[Pair]) -> int:
    """How many sentences a train target has on average, from 1 to MAX_TARGET_SENTENCES."""
    numbers = [len(sentences(pair.targets[0])) for pair in train if pair.targets]
    return min(max(1, round(sum(numbers) / len(numbers))), MAX_TARGET_SENTENCES) if numbers else 1


# By name, as a task yields them; and their words in a verdict and a report.
BASELINES: Mapping[str, Baseline] = {
    "copy": copied_source, "lead-1": partial(lead, n=1), "lead-3": partial(lead, n=3), "title": title,
    "text-rank": text_rank, "most-frequent": most_frequent_target, "nearest": nearest_target,
    "word-table": word_for_word}
TITLES: Mapping[str, str] = {
    "copy": "copying the source", "lead-1": "the first sentence", "lead-3": "the first three sentences",
    "title": "the title", "text-rank": "TextRank", "most-frequent": "the most frequent target",
    "nearest": "the target of the most similar train row", "word-table": "a word table of the train rows"}
OF_TASK: Mapping[str, tuple[str, ...]] = {
    "translation": ("copy", "nearest", "word-table"), "summarization": ("lead-1", "lead-3", "text-rank", "nearest"),
    "dialogue": ("most-frequent", "nearest"), "text-generation": ("copy", "most-frequent", "nearest")}
OF_ANY = ("copy", "most-frequent", "nearest")  # of a task that nobody here knows


def names_for(task: str, rows: Sequence[Pair]) -> tuple[str, ...]:
    """The baselines of a task; with `title` where every row has one."""
    has_titles = bool(rows) and all(row.title.strip() for row in rows)
    return (*OF_TASK.get(task, OF_ANY), *(("title",) if has_titles and task == "summarization" else ()))


def _sentences(text: str) -> list[str]:
    return sentences(text[:MAX_CHARACTERS])[:MAX_SENTENCES]


def _joined(parts: Sequence[str]) -> str:
    return ("" if is_unspaced(parts) else " ").join(parts)


def _drawn(pairs: Sequence[Pair], n: int, seed: int) -> Sequence[Pair]:
    """At most `n` of the pairs, in their order."""
    if len(pairs) <= n:
        return pairs
    chosen = np.sort(np.random.default_rng(seed).choice(len(pairs), n, replace=False))
    return [pairs[i] for i in chosen]


def _ranks(vectors_SF: Any) -> np.ndarray:
    """Ranks of sentences by power iteration: each hands its rank on to the others, by how alike they are."""
    weights_SS = np.asarray((vectors_SF @ vectors_SF.T).toarray(), np.float64)
    np.fill_diagonal(weights_SS, 0.0)
    n = len(weights_SS)
    sums_S = weights_SS.sum(1, keepdims=True)
    shares_SS = np.where(sums_S > 0, weights_SS / np.where(sums_S > 0, sums_S, 1.0), 1 / n)
    ranks_S = np.full(n, 1 / n)
    for _ in range(N_ROUNDS):
        ranks_S = (1 - DAMPING) / n + DAMPING * ranks_S @ shares_SS
    return ranks_S.round(9)  # equal sentences have equal ranks, whatever the order of sums
