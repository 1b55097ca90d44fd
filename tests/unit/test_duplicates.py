"""Who is grouped with whom, and that the order of the rows has no say in it."""

import itertools
import random

import numpy as np
import pytest

from headstart.data import duplicates

SYLLABLES = ["ba", "ko", "tri", "slu"], ["men", "dor", "vix"], ["t", "sa", "ling"]
WORDS = ["".join(word) for word in itertools.product(*SYLLABLES)]


def texts_of(n, seed=0, share_of_twins=0.3):
    """Sentences of 15 words, some of them another one with a word changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(n):
        if texts and rng.random() < share_of_twins:
            words = rng.choice(texts).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(rng.choices(WORDS, k=15)))
    return texts


def jaccard(a, b):
    grams = [{t[i:i + 5] for i in range(len(t) - 4)} for t in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def partition(texts, group_N):
    pairs = list(zip(texts, group_N.tolist(), strict=True))
    return {frozenset(text for text, group in pairs if group == one) for one in set(group_N.tolist())}


@pytest.mark.parametrize(("a", "b"), [
    ("Hello there", "hello  THERE\n"), ("ﬁne", "FINE"), ("Ｆｕｌｌ width", "full width"), ("Straße", "STRASSE"),
    ("café", "cafe\u0301"), ("", " \t "), ("ab", "AB"),
])
def test_canonical_forms_are_exact_duplicates(a, b):
    assert duplicates.canonical(a) == duplicates.canonical(b)
    assert len(set(duplicates.groups([a, b, "something else"], 1.0).tolist())) == 2
    assert duplicates.groups([a, b], 0.8).tolist() == [0, 0]


@pytest.mark.parametrize(("texts", "n_groups"), [
    ([], 0), ([""], 1), (["abc", "abd"], 2), (["abcd", "abcde"], 2), (["abcde", "abcdf"], 2), (["x", "x", "y"], 2),
])
def test_small_and_short_texts(texts, n_groups):
    assert len(set(duplicates.groups(texts, 0.8).tolist())) == n_groups


def test_a_word_changed_is_near_and_another_sentence_is_not():
    text = "the quick brown fox jumps over the lazy dog while the farmer sleeps under a tree"
    texts = [text, text.replace("lazy", "busy"), "an entirely different remark about the price of train tickets"]
    assert duplicates.groups(texts, 0.8).tolist() in ([0, 0, 1], [1, 1, 0])
    assert len(set(duplicates.groups(texts, 1.0).tolist())) == 3


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_groups_agree_with_comparing_every_pair(threshold):
    texts = sorted(set(texts_of(250)))
    group_N = duplicates.groups(texts, threshold)
    near = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if jaccard(texts[i], texts[j]) >= threshold]
    assert len(near) > 10
    found = sum(group_N[i] == group_N[j] for i, j in near)
    assert found >= 0.97 * len(near)
    # Nothing is joined that no chain of near pairs joins.
    parent = list(range(len(texts)))
    for _ in range(len(texts)):
        for i, j in near:
            parent[i] = parent[j] = min(parent[i], parent[j])
    assert all(len({parent[i] for i in np.flatnonzero(group_N == g)}) == 1 for g in set(group_N.tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed):
    texts = texts_of(400, seed)
    shuffled = random.Random(seed).sample(texts, len(texts))
    assert partition(texts, duplicates.groups(texts, 0.7)) == partition(shuffled, duplicates.groups(shuffled, 0.7))


def test_long_texts_cross_chunks():
    long = " ".join(texts_of(4000, 1, 0))
    assert len(long) > duplicates.CHUNK_CHARS
    assert duplicates.groups([long, "short one", long + " and a word"], 0.8).tolist() in ([0, 1, 0], [1, 0, 1])


def test_counts():
    texts = ["A text that is here twice", "a text that is  here twice", "one that stands alone in this",
             "a sentence with a word that changed in it, long enough",
             "a sentence with a word that moved in it, long enough"]
    exact_N, group_N = duplicates.groups(texts, 1.0), duplicates.groups(texts, 0.6)
    counts = duplicates.count_duplicates(exact_N, group_N, np.array([0, 1, 0, 0, 0]))
    assert counts == {"n_rows_with_exact_twin": 2, "n_rows_with_near_twin": 2, "n_rows_with_conflicting_label": 2}
    none = duplicates.groups([], 1.0)
    assert set(duplicates.count_duplicates(none, none, none).values()) == {0}
