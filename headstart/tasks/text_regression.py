"""One number for a text or a pair of texts: a rating, a price, how alike two sentences are.

The answer to a row is {"score": float}, within the range of the train rows. The model's one output is the number of
standard deviations from the train rows' mean: the scale stays outside the weights, in the task's own fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..core import metrics
from ..core.cells import finite_number
from ..core.errors import DataError, shorten
from ..core.reader import Reader
from ..core.task import LARGEST, N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_text
from ..core.values import LinearMap, MemberLogits, Prediction, Row, Window
from ..features import solve, tfidf
from .text_classification import columns_of_texts

if TYPE_CHECKING:
    import torch


USUAL_SCORE = ("score", "rating", "stars", "similarity", "similarity_score", "评分", "分数")


@dataclass(frozen=True)
class TextRegression(Task):
    """One number for a text or a pair.

    mean, spread: of the train rows' scores (spread: their standard deviation).
    low, high:    the least and the greatest of them; answers stay between.
    has_pair:     whether the rows are pairs.
    """

    name: ClassVar = "text-regression"
    metric: ClassVar = "spearman"
    needs_windows: ClassVar = False
    baseline_titles: ClassVar = {
        "mean": "the mean of the train rows", "tf-idf-ridge": "TF-IDF + ridge regression"}
    examples: ClassVar = (
        {"text": "The film was a delight from start to end.", "score": 5.0},
        {"text": "It was fine, I suppose.", "score": 3},
        {"text": "房间一般，服务差。", "score": 2.0},
        {"text": "Broken, and nobody answered.", "score": "1.5"},
    )

    mean: float = 0.0
    spread: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    has_pair: bool = False

    @cached_property
    def columns(self) -> Columns:
        return columns_of_texts("score", "a number", (*USUAL_SCORE, "target", "value", "price"), self.has_pair)

    def check(self, row: Row) -> str | None:
        for column in ("text", "text_pair"):
            if flaw := flaw_of_text(column, row.get(column, "-")):
                return flaw
        score = finite_number(row.get("score", 0))
        if score is None:
            return f'"score" is {shorten(row["score"])}; it must be a number'
        if not abs(score) <= LARGEST:
            return f'"score" is {shorten(row["score"])}; it must lie between -{LARGEST:,.0f} and {LARGEST:,.0f}'
        return None

    def learn(self, rows: Sequence[Row]) -> Self:
        scores_N = np.array([finite_number(row["score"]) for row in rows])
        if scores_N.min() == scores_N.max():
            raise DataError("score", f"all rows have the score {scores_N[0]:g}; there is nothing to learn.",
                            "Is this the right column? --set data.columns.score=NAME")
        return replace(self, mean=float(scores_N.mean()), spread=float(scores_N.std()), low=float(scores_N.min()),
                       high=float(scores_N.max()), has_pair=any("text_pair" in row for row in rows))

    def flaw_of_learned(self) -> str | None:
        is_sound = self.low < self.high and self.spread > 0
        return None if is_sound else f"low, high and spread are {self.low}, {self.high} and {self.spread}"

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        return [(i, 'has no "text_pair", and the train rows are pairs') for i, row in enumerate(rows)
                if self.has_pair and "text_pair" not in row]

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        inputs, n_cut_tokens = reader.read(row["text"], row["text_pair"] if self.has_pair else None)
        target = {"score": (_gold(row) - self.mean) / self.spread} if "score" in row else {}
        return [Window(i, inputs, target, {"n_cut_tokens": n_cut_tokens})]

    @property
    def head(self) -> Head:
        return Head("pooled", 1, "AutoModelForSequenceClassification")

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, target["score"]

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        return np.asarray((logits * teacher.spread + teacher.mean - self.mean) / self.spread, np.float32)

    def placeholder(self, row: Row) -> Row:
        return {**row, "score": self.mean}

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error in standard deviations, as (sum, count)."""
        from torch.nn.functional import mse_loss

        score_N1, gold_N = self.aligned(logits, target)
        return mse_loss(score_N1[:, 0].float(), gold_N.float(), reduction="sum"), gold_N.new_full((), len(gold_N))

    def similarity(self, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """1 for equal scores, 0 for two that lie the whole range apart."""
        gold_B = target["score"].float()
        return 1 - (gold_B[:, None] - gold_B[None, :]).abs() * (self.spread / (self.high - self.low))

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        return solve.solve_ridge(features_MD, target["score"], score)

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        return self.answer(float(logits[0][0]) * self.spread + self.mean)

    def answer(self, score: float) -> Prediction:
        """A number as the user sees it: within the range of the train rows."""
        return {"score": round(min(max(float(score), self.low), self.high), 6)}

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        answers = [member.answer(row) for member in members]
        return self.answer(float(weights_M @ [answer["score"] for answer in answers]))

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 2]: the gold score and the predicted one."""
        return np.array([(_gold(r), p["score"]) for p, r in zip(predictions, rows, strict=True)]).reshape(-1, 2)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        gold_N, predicted_N = outcomes[:, 0], outcomes[:, 1]
        return {"spearman": metrics.rank_correlation(gold_N, predicted_N),
                "pearson": metrics.correlation(gold_N, predicted_N),
                "rmse": float(np.sqrt(np.square(gold_N - predicted_N).mean()))}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        yield "mean", [self.answer(self.mean)] * len(test)
        gold_N = np.array([_gold(row) for row in train])
        texts = ([(row["text"], row["text_pair"]) if self.has_pair else (row["text"],) for row in rows]
                 for rows in (train, test))
        score_M, = tfidf.predict(
            tfidf.ridge, gold_N, lambda chosen_N, score_N: -float(np.square(score_N - gold_N[chosen_N]).mean()), seed,
            *texts)
        yield "tf-idf-ridge", [self.answer(score) for score in score_M]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        pairs_N2 = self.outcomes(predictions, rows)
        worst = np.argsort(-np.abs(pairs_N2[:, 0] - pairs_N2[:, 1]), kind="stable")[:N_MISTAKES_SHOWN]
        shown = np.linspace(0, len(rows) - 1, min(len(rows), 500)).astype(int)
        return {"scatter": {"gold": pairs_N2[shown, 0].tolist(), "predicted": pairs_N2[shown, 1].tolist()},
                "mistakes": [{"text": self.text(rows[i]), "label": f"{pairs_N2[i, 0]:g}",
                              "predicted": f"{pairs_N2[i, 1]:.3g}"} for i in map(int, worst)]}

    def describe(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}


def _gold(row: Row) -> float:
    number = finite_number(row["score"])
    assert number is not None, "check lets no other value pass"
    return number
