"""Exact and near duplicates among a million texts: MinHash to find candidates, Jaccard to decide.

    texts --canonical--> --unique--> 5-grams --minima of hashes--> bands --same bucket--> candidates --Jaccard--> groups

Two texts are near duplicates when the sets of their character 5-grams overlap by the threshold. A bucket's members are
compared with its first and with their neighbor alone, so the work stays linear; all decisions rest on the texts'
content, so the order of the rows cannot change who is grouped with whom.

Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

GRAM_CHARS = 5
N_BANDS = 16
MAX_HASHES_PER_BAND = 6  # 96 hashes in all: what a minute pays for a million rows
MIN_RECALL = 0.99  # share of the pairs exactly at the threshold that must meet in some band
CHUNK_CHARS = 250_000  # a megabyte of hashes at a time stays in the processor's cache


def canonical(text: str) -> str:
    """`text` without what the eye hardly sees: compatibility forms (NFKC), case, and the kind and number of blanks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.lower().split())


def groups(texts: Sequence[str], threshold: float, seed: int = 0) -> np.ndarray:
    """The group of every text: duplicates, exact in canonical form or near, share one.

    threshold: the least Jaccard overlap of 5-gram sets that makes near duplicates; 1.0 finds exact ones alone.
    seed:      of the hash functions. It can matter only to pairs that are missed at the threshold (1 in 100).
    Returns    group_N int64, counted from 0 in an order that depends on the texts alone. Being near is made transitive.
    Cost       linear in characters; in memory, 128 bytes a different text beside the canonical forms.
    """
    if not texts:
        return np.zeros(0, np.int64)
    forms = [canonical(text) for text in texts]
    unique = sorted(set(forms))
    index = {form: i for i, form in enumerate(unique)}
    unique_N = np.fromiter((index[form] for form in forms), np.int64, len(forms))
    del forms, index
    if threshold >= 1:
        return unique_N
    return _join_near(unique, threshold, seed)[unique_N]


def count_duplicates(exact_N: np.ndarray, group_N: np.ndarray, label_N: np.ndarray) -> dict[str, int]:
    """How many rows have an exact twin, a near twin, or a twin of the same text that bears another label.

    exact_N, group_N: of `groups` with threshold 1.0 and with a lower one.  label_N: the label's number.
    """
    n_exact_N = np.bincount(exact_N, minlength=1)[exact_N]
    n_labels = np.bincount(np.unique(np.stack((exact_N, label_N), 1), axis=0)[:, 0], minlength=1)
    return {
        "n_rows_with_exact_twin": int((n_exact_N > 1).sum()),
        "n_rows_with_near_twin": int((np.bincount(group_N, minlength=1)[group_N] > n_exact_N).sum()),
        "n_rows_with_conflicting_label": int((n_labels[exact_N] > 1).sum()),
    }


def _join_near(texts: list[str], threshold: float, seed: int) -> np.ndarray:
    """The group of each of `texts`, which are different, canonical and sorted."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    long_M = np.flatnonzero(np.fromiter((len(text) >= GRAM_CHARS for text in texts), bool, len(texts)))
    group_N = np.arange(len(texts))
    if len(long_M) < 2:
        return group_N
    keys_BM = _band_keys([texts[i] for i in long_M], threshold, seed)
    for key_M in keys_BM:  # after each band, what is joined already need not be compared again
        left, right = _candidates(key_M)
        left, right = long_M[left], long_M[right]
        is_open = group_N[left] != group_N[right]
        left, right = left[is_open], right[is_open]
        is_near = np.fromiter(_are_near(texts, left, right, threshold), bool, len(left))
        if is_near.any():
            left, right = group_N[left[is_near]], group_N[right[is_near]]
            graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(texts), len(texts)))
            group_N = connected_components(graph, directed=False)[1][group_N]
    return np.unique(group_N, return_inverse=True)[1].astype(np.int64)


def _candidates(key_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (first of a bucket, member) and (neighbor before, member), each pair once, sorted by the left one."""
    order = np.argsort(key_M, kind="stable")
    is_first = np.concatenate(([True], key_M[order][1:] != key_M[order][:-1]))
    first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    member = np.flatnonzero(~is_first)
    pairs = np.unique(np.concatenate((np.stack((order[first[member]], order[member]), 1),
                                      np.stack((order[member - 1], order[member]), 1))), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _are_near(texts: list[str], left: np.ndarray, right: np.ndarray, threshold: float) -> Iterator[bool]:
    at, grams = -1, set[str]()
    for i, j in zip(left.tolist(), right.tolist(), strict=True):
        if i != at:
            at, grams = i, _grams(texts[i])
        others = _grams(texts[j])
        n_common = len(grams & others)
        yield n_common >= threshold * (len(grams) + len(others) - n_common)


def _grams(text: str) -> set[str]:
    return {text[i : i + GRAM_CHARS] for i in range(len(text) - GRAM_CHARS + 1)}


def _n_hashes_per_band(threshold: float) -> int:
    """The most hashes a band may join and still bring pairs at the threshold together: 1 - (1 - t^r)^b >= recall."""
    fitting = [r for r in range(1, MAX_HASHES_PER_BAND + 1) if (1 - threshold**r) ** N_BANDS <= 1 - MIN_RECALL]
    return max(fitting, default=1)


def _band_keys(texts: list[str], threshold: float, seed: int) -> np.ndarray:
    """keys_BM uint64 [N_BANDS, texts]: equal where all hashes of a band are."""
    n_hashes = _n_hashes_per_band(threshold)
    random = np.random.default_rng(seed)
    # x -> a x + b modulo 2^32, a odd, permutes the hashes of the grams; the minimum's high bits mix well.
    a = random.integers(0, 2**31, (N_BANDS, n_hashes), np.uint32) * np.uint32(2) + np.uint32(1)
    b = random.integers(0, 2**32, (N_BANDS, n_hashes), np.uint32)
    mix = random.integers(0, 2**63, n_hashes, np.uint64) * np.uint64(2) + np.uint64(1)
    keys_BM = np.zeros((N_BANDS, len(texts)), np.uint64)
    for start, end in _chunks(texts):
        hash_G, first_M = _hashed_grams(texts[start:end])
        moved_G = np.empty_like(hash_G)
        for band in range(N_BANDS):
            for j in range(n_hashes):
                np.multiply(hash_G, a[band, j], out=moved_G)
                np.add(moved_G, b[band, j], out=moved_G)
                least_M = np.minimum.reduceat(moved_G, first_M).astype(np.uint64)
                keys_BM[band, start:end] = (keys_BM[band, start:end] ^ least_M) * mix[j]
    return keys_BM


def _chunks(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Ranges of texts with about CHUNK_CHARS characters each."""
    start = n_chars = 0
    for i, text in enumerate(texts):
        n_chars += len(text)
        if n_chars >= CHUNK_CHARS or i == len(texts) - 1:
            yield start, i + 1
            start, n_chars = i + 1, 0


def _hashed_grams(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hash_G uint32 of all 5-grams of all texts, first_M where each text's begin). No text is shorter than 5."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths_M = np.fromiter(map(len, texts), np.int64, len(texts))
    rolling = np.zeros(len(points) - GRAM_CHARS + 1, np.uint32)
    for k in range(GRAM_CHARS):
        rolling *= np.uint32(0x01000193)
        rolling += points[k : k + len(rolling)] * np.uint32(0x9E3779B1)
    ends_M = np.cumsum(lengths_M)
    is_inside = np.ones(len(points), bool)
    for k in range(1, GRAM_CHARS):  # grams that reach over the end of a text are none
        is_inside[ends_M - k] = False
    hash_G = rolling[is_inside[: len(rolling)]]
    hash_G ^= hash_G >> np.uint32(16)  # a finalizer (murmur3's), so that every bit depends on every character
    hash_G *= np.uint32(0x85EBCA6B)
    hash_G ^= hash_G >> np.uint32(13)
    hash_G *= np.uint32(0xC2B2AE35)
    hash_G ^= hash_G >> np.uint32(16)
    counts_M = lengths_M - GRAM_CHARS + 1
    return hash_G, np.cumsum(counts_M) - counts_M
