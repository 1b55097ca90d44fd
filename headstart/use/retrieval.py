"""Find texts by what they mean: those of a corpus that are nearest to a query, and near misses to learn from.

    search("runs/faq", answers, ["How long is the warranty?"], top=3)     the nearest answers, with their similarity
    mine("runs/faq", pairs)                                                the pairs with wrong texts that look right

The search is exact: every query is compared with every text. Shape suffixes: Q queries, C texts of the corpus, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.errors import DataError, SpecError
from ..core.progress import Progress
from ..core.spec import check_data_spec
from ..core.task import Columns, Task
from ..core.values import Row
from ..data import frames
from ..data.table import read_table, stream_rows
from ..runs import artifact
from ..tasks.sentence_similarity.ranking import QUERIES_AT_ONCE, Candidates
from ..tasks.sentence_similarity.task import SentenceSimilarity
from .vectors import Extractor

Hit = dict[str, Any]  # {"row": number in the corpus, from 0; "text": str; "similarity": float}


def search(source: str | Path, corpus: Sequence[str], queries: Sequence[str], *, top: int = 5,
           dimensions: int | None = None, progress: Progress | None = None) -> list[list[Hit]]:
    """For each query the `top` texts of `corpus` that are nearest to it, nearest first; of equals the earlier.

    source:     the folder of a run whose answer to a text is its embedding, or a pretrained model.
    dimensions: compare only so many of the vectors' first numbers; for runs with `matryoshka`.
    Cost        one forward pass over all texts; Q * C * D multiplications; 4 * D bytes of memory a text.
    """
    if top < 1:
        raise SpecError("top", f"is {top}; it must be 1 at least.", "Ask for 1 or more: --top 5")
    if not corpus:
        raise DataError("corpus", "has no texts; there is nothing to search.", "Name a file with one row at least.")
    corpus, queries = frames.texts_of(corpus, "corpus"), frames.texts_of(queries, "queries")
    vectors_ND = embed(source, [*corpus, *queries], dimensions=dimensions, progress=progress)
    vectors_CD, queries_QD = vectors_ND[: len(corpus)], vectors_ND[len(corpus) :]
    hits = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        for similarity_C in queries_QD[start : start + QUERIES_AT_ONCE] @ vectors_CD.T:
            hits.append([{"row": i, "text": corpus[i], "similarity": round(float(similarity_C[i]), 6)}
                          for i in _largest(similarity_C, top)])
    return hits


def embed(source: str | Path, texts: Sequence[str], *, dimensions: int | None = None,
          progress: Progress | None = None) -> np.ndarray:
    """Vectors of norm one, [N, D] float32: what a run answers, or the mean that a pretrained model gives."""
    texts = frames.texts_of(texts)
    vectors_ND = _embedded_by_run(Path(source), texts) if (Path(source) / "task.json").exists() else (
        Extractor(source, progress=progress)(texts))
    width = vectors_ND.shape[1]
    if dimensions is not None and not 1 <= dimensions <= width:
        raise SpecError("dimensions", f"is {dimensions}; these vectors have {width} numbers.", f"Choose 1 to {width}.")
    vectors_ND = vectors_ND[:, :dimensions]
    return np.asarray(vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12), np.float32)


def _embedded_by_run(folder: Path, texts: Sequence[str]) -> np.ndarray:
    loaded = artifact.load(folder)
    vectors: list[np.ndarray] = []
    for answer in loaded.stream(texts):
        if "embedding" not in answer:
            raise SpecError(str(folder), f'answers to a text with {", ".join(answer)}, not with an embedding.',
                            "Fit one that does: headstart fit DATA --task sentence-similarity")
        vectors.append(np.array(answer["embedding"], np.float32))
    return np.stack(vectors) if vectors else np.empty((0, 1), np.float32)


def _largest(similarity_C: np.ndarray, n: int) -> list[int]:
    """The places of the `n` largest numbers, the largest first; of equals the first. -inf is none."""
    n = min(n, len(similarity_C))
    least = np.partition(similarity_C, len(similarity_C) - n)[len(similarity_C) - n]
    places = np.flatnonzero((similarity_C >= least) & np.isfinite(similarity_C))
    return [int(i) for i in places[np.argsort(-similarity_C[places], kind="stable")][:n]]


def mine(source: str | Path, rows: Sequence[Row], *, corpus: Sequence[str] = (), n: int = 3, margin: float = 0.05,
         progress: Progress | None = None) -> list[Row]:
    """`rows` (text, text_pair) with "negatives": up to `n` texts that score high, but below the right one by `margin`.

    corpus: more texts to choose from, beside the second texts and the negatives of `rows`.
    What is right for the same query in any row, and the query itself, is never a negative. A text that scores nearly as
    high as the right one may be right too: the margin keeps such texts out. Rows for which nothing is left have [].
    Source  Xiong et al. 2021, "Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval"
            (hard negatives); Moreira et al. 2024, "NV-Retriever" (the margin).
    """
    if n < 1:
        raise SpecError("n", f"is {n}; it must be 1 at least.", "Ask for 1 or more a row.")
    corpus = frames.texts_of(corpus, "corpus")
    if not rows or any("text_pair" not in row for row in rows):
        raise DataError("rows", "have no right texts; mining needs pairs of a query and its right text.",
                        "Say which column it is: --set data.columns.text_pair=NAME")
    pairs: list[Row] = [{key: row[key] for key in ("text", "text_pair", "negatives") if key in row} for row in rows]
    candidates = Candidates([*pairs, *({"text": text, "text_pair": text} for text in corpus)])
    n_candidates = len(candidates.texts)
    vectors_ND = embed(source, [*candidates.texts, *(row["text"] for row in pairs)], progress=progress)
    vectors_CD, queries_QD = vectors_ND[:n_candidates], vectors_ND[n_candidates:]
    for start in range(0, len(pairs), QUERIES_AT_ONCE):
        for i, similarity_C in enumerate(queries_QD[start : start + QUERIES_AT_ONCE] @ vectors_CD.T, start):
            right = candidates.right[i]
            similarity_C[similarity_C > similarity_C[right] - margin] = -np.inf
            similarity_C[[right, *candidates.spared[i]]] = -np.inf
            pairs[i]["negatives"] = [candidates.texts[c] for c in _largest(similarity_C, n)]
    return pairs


@dataclass(frozen=True)
class Texts:
    """How `data` finds the texts of a corpus, or queries, in a file."""

    name: ClassVar[str] = "search"
    columns: ClassVar = Columns({"text": "a string that is not empty"}, usual_names={
        "text": ("sentence", "answer", "passage", "document", "positive", "content", "body", "query", "text_pair",
                 "文本", "内容", "答案")})

    def normalized(self, row: Row) -> tuple[Row, str]:
        return row, ""

    def check(self, row: Row) -> str | None:
        if not isinstance(row["text"], str) or not row["text"].strip():
            return '"text" is empty or not a string'
        return None


def texts_of(source: str, settings: Mapping[str, Any] | None = None) -> list[str]:
    """The texts of a file, one a row. Raises DataError for a file without any."""
    return [text for _, text in numbered_texts_of(source, settings)]


def numbered_texts_of(source: str, settings: Mapping[str, Any] | None = None) -> list[tuple[int, str]]:
    """(number of the row, counted from 0, text): where `settings` skip rows, the numbers tell which."""
    rows = stream_rows(source, check_data_spec({"train": source}, settings), Texts(), lenient=True).numbered()
    return [(i, row["text"]) for i, row in enumerate(rows) if isinstance(row, dict)]


def pairs_of(source: str, settings: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a file as `mine` takes them."""
    task: Task = SentenceSimilarity()
    table = read_table(source, check_data_spec({"train": source}, settings),
                      task, gold="ignored", lenient=True)
    return table.rows
