"""TF-IDF features and linear models on them: the baseline without any pretrained knowledge.

Words or characters or both, and how strongly the model is regularized, are chosen by cross-validation on train rows.

Shape suffixes: N train rows, M other rows, K labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

N_HASHED = 2**18  # columns of TF-IDF: bounded memory whatever the vocabulary
WORDS = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b|[^\w\s]"}
CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 5)}
UNSPACED = {"analyzer": "char", "ngram_range": (1, 3)}
MAX_CHARACTERS = 20_000_000  # of all train texts: with more, n-grams of characters would take minutes and gigabytes
MAX_CHOOSING_ROWS = 3_000  # that cross-validation sees
MAX_LABELED_ROWS = 100_000  # those rows times labels
MANY_ROWS = 1_000  # more than these are cut into three folds, fewer into five
MIN_CHOOSING_ROWS = 12  # with fewer the first of each is taken
MAX_WORK = 10**9  # values of features times labels: with more, each label is the mean of its rows
STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # inverse of L2 regularization
FIRST_STRENGTH = 1.0
OVERLAP_LENGTH = 0.3  # of the overlap features, on average, beside TF-IDF vectors of length 1
NEVER = -30.0  # the margin of a label that no train row has

Texts = Sequence[Sequence[str]]  # a row's text, or the two of a pair
Model = Callable[[Any, np.ndarray, float, list[Any]], list[np.ndarray]]  # (train, gold_N, strength, others) -> outputs


def spaced(texts: Sequence[str]) -> bool:
    """Whether most of the texts have blanks between words, unlike Chinese."""
    return sum(" " in text.strip() for text in texts) * 2 >= len(texts)


def tf_idf(train: Sequence[str], *others: Sequence[str], kind: Mapping[str, Any] | None = None) -> list[Any]:
    """Sparse TF-IDF features of train texts and of others, weighted by the train texts alone.

    kind: WORDS, CHARACTERS or UNSPACED; None: words, or characters where most texts have no blanks.
    """
    from sklearn.feature_extraction.text import TfidfTransformer

    counts, *of_others = _counts(kind or (WORDS if spaced(train) else UNSPACED), train, *others)
    seen = np.flatnonzero(counts.getnnz(axis=0))  # weights for columns that no train text has would only take memory
    tfidf = TfidfTransformer(sublinear_tf=True)
    return [tfidf.fit_transform(counts[:, seen]), *(tfidf.transform(some[:, seen]) for some in of_others)]


def _counts(kind: Mapping[str, Any], *parts: Sequence[str]) -> list[Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=N_HASHED, alternate_sign=False, norm=None, **kind)
    return [hashing.transform(texts) for texts in parts]


def kinds(texts: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What TF-IDF may count in such texts."""
    if not spaced(texts):
        return {"characters": UNSPACED}
    return {"words": WORDS} if sum(map(len, texts)) > MAX_CHARACTERS else {"words": WORDS, "characters": CHARACTERS}


def views(train: Texts, *others: Texts) -> dict[str, list[Any]]:
    """What a linear model may read, by name: sparse features of the train rows and of the others.

    Of a pair: TF-IDF of what both texts hold and of what one alone does, and dense features of how far they overlap.
    """
    from scipy.sparse import csr_matrix, hstack

    parts = (train, *others)
    single = kinds([text for row in train for text in row])
    if len(train[0]) == 1:
        sparse = {name: tf_idf(*([row[0] for row in part] for part in parts), kind=kind)
                  for name, kind in single.items()}
        dense = None
    else:
        pairs = {name: _pairs(kind, parts) for name, kind in single.items()}
        sparse = {name: features for name, (features, _) in pairs.items()}
        dense = _alike([np.hstack(some) for some in zip(*(overlaps for _, overlaps in pairs.values()), strict=True)])
    if len(sparse) > 1:
        sparse[" and ".join(sparse)] = [hstack(some).tocsr() for some in zip(*sparse.values(), strict=True)]
    if dense is None:
        return sparse
    together = {f"{name} and overlap": [hstack([a, b]).tocsr() for a, b in zip(features, dense, strict=True)]
                for name, features in sparse.items()}
    return {**together, "overlap": [csr_matrix(some) for some in dense]}


def _pairs(kind: Mapping[str, Any], parts: Sequence[Texts]) -> tuple[list[Any], list[np.ndarray]]:
    """For each part: what the texts of its pairs share, and what only one of them has; how far they overlap."""
    from scipy.sparse import hstack, vstack
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = [_counts(kind, [row[0] for row in part], [row[1] for row in part]) for part in parts]
    together = vstack(counts[0])
    seen = np.flatnonzero(together.getnnz(axis=0) > 1)
    tfidf = TfidfTransformer(sublinear_tf=True)
    tfidf.fit(together[:, seen])
    weight = np.log((1 + together.shape[0]) / (1 + together.getnnz(axis=0))) + 1
    sparse = []
    for first, second in counts:
        a, b = tfidf.transform(first[:, seen]), tfidf.transform(second[:, seen])
        sparse.append(hstack([a.multiply(b), abs(a - b)]).tocsr())
    return sparse, [_overlap(first, second, weight) for first, second in counts]


def _overlap(first: Any, second: Any, weight: np.ndarray) -> np.ndarray:
    """How much of each text of a pair the other has, in n-grams and weighted by how rare they are; the cosine; lengths.

    Source  Zhang and Patrick 2005, "Paraphrase Identification by Text Canonicalization" (overlap of n-grams).
    """
    from scipy.sparse import diags
    from sklearn.preprocessing import normalize

    has_first, has_second = (first > 0).astype(np.float64), (second > 0).astype(np.float64)
    shared = has_first.multiply(has_second).tocsr()
    columns = []
    for weights in (np.ones(len(weight)), weight):
        n_shared, n_first, n_second = (some @ weights for some in (shared, has_first, has_second))
        columns += [n_shared / np.maximum(n, 1e-9) for n in (n_first, n_second, n_first + n_second - n_shared)]
    n_first, n_second = (np.log1p(np.asarray(some.sum(1)).ravel()) for some in (has_first, has_second))
    cosine = np.asarray(normalize(first @ diags(weight)).multiply(normalize(second @ diags(weight))).sum(1)).ravel()
    return np.stack([*columns, cosine, n_first - n_second, abs(n_first - n_second), n_first + n_second], 1)


def _alike(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Dense features, scaled alike as they vary in the first part, and short beside a TF-IDF vector."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(parts[0])
    return [scaler.transform(part) * OVERLAP_LENGTH / np.sqrt(part.shape[1]) for part in parts]


def margins(train: Any, gold_NK: np.ndarray, strength: float, others: Sequence[Any]) -> list[np.ndarray]:
    """margins_MK of `others`: a linear support vector machine for each label says yes above 0.

    gold_NK: whether each train row has each label.  With very many labels, how near each label's mean row is instead.
    """
    if train.nnz * gold_NK.shape[1] > MAX_WORK:
        return _nearness(train, gold_NK, others)
    if gold_NK.shape[1] == 2 and (gold_NK.sum(1) == 1).all():  # the second label is where the first is not
        return [np.hstack([-some, some]) for some in margins(train, gold_NK[:, 1:], strength, others)]
    if (gold_NK.sum(1) == 1).all() and gold_NK.any(0).sum() > 2:  # liblinear does the same for all labels in one go
        columns_K = np.flatnonzero(gold_NK.any(0))
        margins_MK = [np.full((some.shape[0], gold_NK.shape[1]), NEVER) for some in others]
        of_labels = _machine(train, gold_NK.argmax(1), strength, others)
        for all_of, some_of in zip(margins_MK, of_labels, strict=True):
            all_of[:, columns_K] = some_of
        return margins_MK
    columns = [[np.full(some.shape[0], -NEVER if gold_N[0] else NEVER) for some in others]
               if gold_N.all() or not gold_N.any() else _machine(train, gold_N, strength, others)
               for gold_N in gold_NK.T]
    return [np.stack(column, 1) for column in zip(*columns, strict=True)]


def _machine(train: Any, gold_N: np.ndarray, strength: float, others: Sequence[Any]) -> list[np.ndarray]:
    """A linear support vector machine for each class (for the second, where there are two) and what it says."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=strength, tol=1e-2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of no account: another strength is tried beside it
        machine.fit(train, gold_N)
    return [machine.decision_function(some) for some in others]


def _nearness(train: Any, gold_NK: np.ndarray, others: Sequence[Any]) -> list[np.ndarray]:
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize

    means_KD = normalize(csr_matrix(gold_NK.T.astype(np.float64)) @ train)
    return [(some @ means_KD.T).toarray() - 0.5 for some in others]


def ridge(train: Any, gold_N: np.ndarray, strength: float, others: Sequence[Any]) -> list[np.ndarray]:
    """Numbers for `others` by ridge regression."""
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=1 / strength).fit(train, gold_N)
    return [fitted.predict(some) for some in others]


def predict(model: Model, gold: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float], seed: int, train: Texts,
            *others: Texts, groups_N: np.ndarray | None = None) -> list[np.ndarray]:
    """What `model`, fitted on the train rows with the view and the strength that do best there, says of the others.

    gold:     of the train rows: gold_N or gold_NK.
    score:    (numbers of train rows, outputs for them) -> how good they are, larger is better.
    groups_N: rows of one group are held out together; None: each alone.
    Cost      some seconds for a thousand rows; cross-validation sees at most MAX_CHOOSING_ROWS.
    """
    seen = views(train, *others)
    folds_N = _folds(gold, seed, np.arange(len(gold)) if groups_N is None else groups_N)
    chosen_N = np.flatnonzero(folds_N >= 0)

    def tried(name: str, strength: float) -> float:
        outputs: np.ndarray | None = None
        for fold in range(folds_N.max() + 1):
            others_N, held_N = (np.flatnonzero(mask) for mask in ((folds_N >= 0) & (folds_N != fold), folds_N == fold))
            features = seen[name][0]
            output, = model(features[others_N], gold[others_N], strength, [features[held_N]])
            outputs = np.zeros((len(gold), *output.shape[1:])) if outputs is None else outputs
            outputs[held_N] = output
        assert outputs is not None
        return score(chosen_N, outputs[chosen_N])

    name, strength = next(iter(seen)), FIRST_STRENGTH
    if len(chosen_N):
        of_view = {name: tried(name, FIRST_STRENGTH) for name in seen}
        name = max(of_view, key=of_view.__getitem__)
        of_strength = {strength: of_view[name] if strength == FIRST_STRENGTH else tried(name, strength)
                       for strength in STRENGTHS}
        strength = max(of_strength, key=of_strength.__getitem__)
    return model(seen[name][0], gold, strength, seen[name][1:])


def _folds(gold: np.ndarray, seed: int, groups_N: np.ndarray) -> np.ndarray:
    """The fold of each row, with like gold spread over the folds; -1: cross-validation does not see it."""
    draws = np.random.default_rng(seed)
    groups, first_G, group_N = np.unique(groups_N, return_index=True, return_inverse=True)
    key_G = (gold.argmax(1) if gold.ndim == 2 else gold)[first_G]
    n_labels = gold.shape[1] if gold.ndim == 2 else 1
    most = min(MAX_CHOOSING_ROWS, max(MAX_CHOOSING_ROWS // 3, MAX_LABELED_ROWS // n_labels)) * len(groups) // len(gold)
    fold_G = np.full(len(groups), -1)
    if len(groups) >= MIN_CHOOSING_ROWS:
        drawn_G = draws.permutation(len(groups))[:most]
        drawn_G = drawn_G[np.argsort(key_G[drawn_G], kind="stable")]
        fold_G[drawn_G] = np.arange(len(drawn_G)) % (5 if len(drawn_G) <= MANY_ROWS else 3)
    return np.asarray(fold_G[group_N])
