"""Which text of many is the right one for a query: what stands to choose from, and the ranks of the right ones.

Shape suffixes: N rows, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.values import Row
from ...data.duplicates import canonical

QUERIES_AT_ONCE = 512  # rows of the table of cosines that are in memory together


class Candidates:
    """The different second texts and negatives of some rows, and for each row which is right and which do not count.

    texts: C of them, as they stand where they come first; places: there, (row, number of the text in it).
    Other texts that are right for the same query are neither right nor wrong for a row, nor is the query itself.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        index: dict[str, int] = {}
        self.texts: list[str] = []
        self.places: list[tuple[int, int]] = []
        for i, row in enumerate(rows):
            for place, text in enumerate((row["text_pair"], *negatives_of(row)), 1):
                if index.setdefault(canonical(text), len(self.texts)) == len(self.texts):
                    self.texts.append(text)
                    self.places.append((i, place))
        queries = [canonical(row["text"]) for row in rows]
        self.right = [index[canonical(row["text_pair"])] for row in rows]
        right_for: dict[str, set[int]] = {}
        for query, right in zip(queries, self.right, strict=True):
            right_for.setdefault(query, {index[query]} if query in index else set()).add(right)
        self.spared = [sorted(right_for[query] - {right}) for query, right in zip(queries, self.right, strict=True)]

    def ranks(self, cosines: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """ranks_N of the right texts, from 1, and the number of the text that came first; ties share the mean rank.

        cosines: numbers of rows -> their queries' cosines with all texts, [n, C].
        """
        ranks, best = [], []
        for start in range(0, len(self.right), QUERIES_AT_ONCE):
            chosen = np.arange(start, min(start + QUERIES_AT_ONCE, len(self.right)))
            cosines_NC = np.round(cosines(chosen), 6)  # so that one text gives one number, whatever BLAS adds up first
            for i, cosines_C in zip(chosen, cosines_NC, strict=True):
                cosines_C[self.spared[i]] = -np.inf
                own = cosines_C[self.right[i]]
                ranks.append(1 + (cosines_C > own).sum() + ((cosines_C == own).sum() - 1) / 2)
                best.append(int(cosines_C.argmax()))
        return np.array(ranks), best


def negatives_of(row: Row) -> Sequence[Any]:
    """The texts that are wrong for a row; one stands there as a string."""
    negatives = row.get("negatives", ())
    if isinstance(negatives, str):
        return [negatives] if negatives else []
    return negatives if isinstance(negatives, list | tuple) else ()
