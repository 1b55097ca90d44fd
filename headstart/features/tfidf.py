"""TF-IDF features, and a logistic regression on them: the baseline without any pretrained knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .solve import MAX_ITERATIONS, TOLERANCE

N_HASHED = 2**18  # columns of TF-IDF: bounded memory whatever the vocabulary


def tf_idf(train: Sequence[str], *others: Sequence[str]) -> list[Any]:
    """Sparse TF-IDF features of train texts and of others, weighted by the train texts alone.

    Word and word-pair counts for texts with spaces; characters (1 to 3) where most texts have none, as in Chinese.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    spaced = sum(" " in text.strip() for text in train) * 2 >= len(train)
    words = HashingVectorizer(n_features=N_HASHED, alternate_sign=False, norm=None, lowercase=True,
                              analyzer="word" if spaced else "char", ngram_range=(1, 2) if spaced else (1, 3),
                              token_pattern=r"(?u)\b\w+\b|[^\w\s]" if spaced else None)
    counts = words.transform(train)
    seen = np.flatnonzero(counts.getnnz(axis=0))  # weights for columns that no train text has would only take memory
    tfidf = TfidfTransformer(sublinear_tf=True)
    return [tfidf.fit_transform(counts[:, seen]), *(tfidf.transform(words.transform(t)[:, seen]) for t in others)]


def tf_idf_logistic_regression(train: Sequence[str], gold_N: np.ndarray, test: Sequence[str],
                               n_labels: int) -> np.ndarray:
    """Probabilities_MK of the test texts: the classic baseline without any pretrained knowledge."""
    from sklearn.linear_model import LogisticRegression

    train_features, test_features = tf_idf(train, test)
    regression = LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS, tol=TOLERANCE).fit(train_features, gold_N)
    shares_MK = np.zeros((len(test), n_labels))
    shares_MK[:, regression.classes_] = regression.predict_proba(test_features)
    return shares_MK
