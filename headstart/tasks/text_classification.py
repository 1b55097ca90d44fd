"""One label for a text, or for a pair of texts: sentiment, topic, intent; paraphrase, entailment.

The answer to a row is {"label": str, "scores": {label: probability}}; scores sum to one, labels in sorted order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..core import metrics
from ..core.cells import normal_label
from ..core.errors import DataError, Problem, shorten
from ..core.reader import Reader
from ..core.task import N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_labels, flaw_of_text
from ..core.teaching import order_of
from ..core.values import LinearMap, MemberLogits, Prediction, Row, Window
from ..features import solve, tfidf

if TYPE_CHECKING:
    import torch

IN_SCOPE_KEPT = 0.95
MAJORITY_AND_TF_IDF = {"majority": "the majority class", "tf-idf": "TF-IDF + a linear classifier"}
USUAL_TEXT = ("text", "sentence", "review", "content", "tweet", "comment", "message", "body", "utterance", "query",
              "text_a", "sentence1", "question1", "premise", "文本", "评论", "内容", "sentence_a", "sentence_1",
              "text1", "text_1", "comment_text")
USUAL_PAIR = ("text_b", "sentence2", "question2", "hypothesis", "sentence_b", "sentence_2", "text2", "text_2")
USUAL_LABEL = ("label", "class", "category", "sentiment", "intent", "topic", "标签", "类别", "labels", "target", "tag")


@dataclass(frozen=True)
class TextClassification(Task):
    """One label for a text or a pair.

    labels:   all of them, sorted; logits_BK follow this order.
    has_pair: whether the rows are pairs.
    outside:  the label that means "none of the others" (out of scope); it is scored apart, too.
    metric:   what chooses the checkpoint and the head, and what the verdict is of; macro_f1 counts each label alike.
    """

    name: ClassVar = "text-classification"
    needs_windows: ClassVar = False
    baseline_titles: ClassVar = MAJORITY_AND_TF_IDF
    options: ClassVar[tuple[str, ...]] = ("outside", "metric")
    examples: ClassVar = (
        {"text": "The film was a delight from start to end.", "label": "positive"},
        {"text": "Two hours that I will never get back.", "label": "negative"},
        {"text": "房间很干净，服务也好。", "label": "positive"},
        {"text": "It arrived broken, and nobody answered.", "label": "negative"},
    )

    labels: tuple[str, ...] = ()
    has_pair: bool = False
    outside: str = ""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"

    @cached_property
    def columns(self) -> Columns:
        return columns_of_texts("label", "a string or a whole number", USUAL_LABEL, self.has_pair)

    def normalized(self, row: Row) -> tuple[Row, str]:
        column = self.columns.gold[0]
        label = normal_label(row.get(column))
        if label is row.get(column) or row[column] in self.labels:  # an older model may have learned blanks
            return row, ""
        return {**row, column: label}, "n_normalized_labels"

    def check(self, row: Row) -> str | None:
        label = row.get("label", "-")
        for column in ("text", "text_pair"):
            if flaw := flaw_of_text(column, row.get(column, "-")):
                return flaw
        if isinstance(label, bool | float | list | dict) or label is None:
            return f'"label" is {shorten(label)}; it must be a string or a whole number'
        if isinstance(label, str) and not label.strip():
            return '"label" is empty'
        return None

    def learn(self, rows: Sequence[Row]) -> Self:
        kinds = Counter(type(row[self.columns.gold[0]]).__name__ for row in rows)
        if len(kinds) > 1:
            raise DataError("", f"labels have mixed types ({_counts(kinds)}), so 1 and \"1\" would be two classes.",
                            "Write all labels as strings.")
        counts = Counter(self._gold(row) for row in rows)
        variants: dict[str, list[str]] = {}
        for label in sorted(counts):
            variants.setdefault(label.strip().casefold(), []).append(label)
        problems = [Problem("labels", f"{_counts({v: counts[v] for v in same})} differ only in case or blanks")
                    for same in variants.values() if len(same) > 1]
        if problems:
            raise DataError.of(problems, "Mend them, or let headstart do it: --set data.normalize_labels=true")
        if len(counts) < 2:
            what = f"all rows have the label {shorten(min(counts))}; a classifier needs at least two."
            raise DataError("labels", what, f"Is this the right column? --set data.columns.{self.columns.gold[0]}=NAME")
        if self.outside and self.outside not in counts:
            raise DataError("task.outside", f"is {shorten(self.outside)}; no train row has this label.",
                            f"Labels: {shorten(', '.join(sorted(counts)))}. Leave it out where no row is out of scope.")
        return replace(self, labels=tuple(sorted(counts)), has_pair=any("text_pair" in row for row in rows))

    def flaw_of_learned(self) -> str | None:
        if flaw := flaw_of_labels(self.labels):
            return flaw
        return f"outside is {shorten(self.outside)}, which is none of the labels" if (
            self.outside and self.outside not in self.labels) else None

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        flaws = []
        for i, row in enumerate(rows):
            if self._gold(row) not in self._index:
                flaws.append((i, f'"{self.columns.gold[0]}" is {shorten(self._gold(row))}, which no train row has'))
            elif self.has_pair and "text_pair" not in row:
                flaws.append((i, 'has no "text_pair", and the train rows are pairs'))
        return flaws

    def stratum(self, row: Row) -> str:
        return self._gold(row)

    def _gold(self, row: Row) -> str:
        return str(row[self.columns.gold[0]])

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: k for k, label in enumerate(self.labels)}

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        inputs, n_cut_tokens = reader.read(row["text"], row["text_pair"] if self.has_pair else None)
        target = {"label": self._index[self._gold(row)]} if self.columns.gold[0] in row else {}
        return [Window(i, inputs, target, {"n_cut_tokens": n_cut_tokens})]

    @property
    def head(self) -> Head:
        return Head("pooled", len(self.labels), "AutoModelForSequenceClassification")

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, target["label"]

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits[..., order_of(self.labels, teacher.labels)])

    def placeholder(self, row: Row) -> Row:
        return {**row, self.columns.gold[0]: self.labels[0]}

    def classes(self, target: Mapping[str, np.ndarray]) -> np.ndarray:
        return target["label"]

    def similarity(self, target: dict[str, torch.Tensor]) -> torch.Tensor:
        return (target["label"][:, None] == target["label"][None, :]).float()

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        return solve.solve_head(features_MD, target["label"], self.n_outputs, score, class_weights)

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        return self.answer(metrics.softmax(logits[0]))

    def answer(self, shares_K: np.ndarray) -> Prediction:
        """Shares of one, in the order of `labels`, as the user sees them."""
        return {"label": self.labels[int(shares_K.argmax())],
                "scores": {label: round(float(p), 6) for label, p in zip(self.labels, shares_K, strict=True)}}

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        answers = [member.answer(row) for member in members]
        return self.answer(metrics.mean_scores(answers, weights_M, self.labels))

    def confidence(self, prediction: Prediction) -> float:
        return float(max(prediction["scores"].values()))

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 2]: the index of the gold label and of the predicted one; `outside`: [N, 3], the largest other score."""
        pairs_N2 = self._pairs(predictions, rows)
        if not self.outside:
            return pairs_N2
        inside_N = [max(score for label, score in p["scores"].items() if label != self.outside) for p in predictions]
        return np.column_stack([pairs_N2, inside_N])

    def _pairs(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        return np.array([(self._index[self._gold(r)], self._index[p["label"]])
                         for p, r in zip(predictions, rows, strict=True)], np.int64).reshape(-1, 2)

    def correct(self, outcomes: np.ndarray) -> np.ndarray | None:
        return outcomes[:, 0] == outcomes[:, 1] if self.metric == "accuracy" else None

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        """accuracy and macro F1; where `outside` is set, also its two scores if there are rows to tell.

        in_scope_accuracy: of the rows whose gold is not `outside`. out_of_scope_recall: of the rows whose gold it is,
        the share whose largest other score is below that of 95 % of the rest (Larson et al. 2019; the baseline of
        Hendrycks and Gimpel 2017).
        """
        gold_N, predicted_N = outcomes[:, :2].astype(np.int64, copy=False).T
        counts = metrics.label_counts(gold_N, predicted_N, len(self.labels))
        scores = {"accuracy": metrics.accuracy(counts), "macro_f1": metrics.macro_f1(counts)}
        if self.outside and 0 < (is_in_N := gold_N != self._index[self.outside]).sum() < len(gold_N):
            cut = np.quantile(outcomes[is_in_N, 2], 1 - IN_SCOPE_KEPT)
            scores |= {"in_scope_accuracy": float((gold_N == predicted_N)[is_in_N].mean()),
                      "out_of_scope_recall": float((outcomes[~is_in_N, 2] < cut).mean())}
        return scores

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:

        gold_N = np.array([self._index[self._gold(row)] for row in train])
        shares_K = np.bincount(gold_N, minlength=len(self.labels)) / len(gold_N)
        yield "majority", [self.answer(shares_K)] * len(test)
        gold_NK = np.arange(len(self.labels)) == gold_N[:, None]

        def score(chosen_N: np.ndarray, margins_NK: np.ndarray) -> float:
            answers = [self.answer(shares_K) for shares_K in metrics.softmax(margins_NK)]
            return self.score(self.outcomes(answers, [train[i] for i in chosen_N]))[self.metric]

        margins_MK, = tfidf.predict(tfidf.margins, gold_NK, score, seed, *(
            [self.texts(row) for row in rows] for rows in (train, test)))
        yield "tf-idf", [self.answer(shares_K) for shares_K in metrics.softmax(margins_MK)]

    def texts(self, row: Row) -> tuple[str, ...]:
        """What the linear baseline reads of a row: its text, or the two of a pair."""
        return (row["text"], row["text_pair"]) if self.has_pair else (row["text"],)

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        pairs_N2 = self._pairs(predictions, rows)
        gold_N, predicted_N = pairs_N2.T
        scores_K = metrics.per_label(metrics.label_counts(gold_N, predicted_N, len(self.labels)))
        wrong = sorted(map(int, np.flatnonzero(pairs_N2[:, 0] != pairs_N2[:, 1])),
                       key=lambda i: -self.confidence(predictions[i]))[:N_MISTAKES_SHOWN]
        return {
            "labels": list(self.labels),
            "confused_pairs": metrics.confused_pairs(gold_N, predicted_N, len(self.labels)),
            "per_label": [{"label": label, **scores} for label, scores in zip(self.labels, scores_K, strict=True)],
            "mistakes": [{"text": self.text(rows[i]), "label": self._gold(rows[i]),
                          "predicted": predictions[i]["label"],
                          "confidence": self.confidence(predictions[i])} for i in wrong],
        }

    def describe(self) -> dict[str, Any]:
        return {"id2label": {str(k): label for k, label in enumerate(self.labels)},
                "label2id": self._index, "problem_type": "single_label_classification"}


def columns_of_texts(gold: str, rule: str, gold_names: tuple[str, ...], has_pair: bool) -> Columns:
    """The columns of a text or a pair of texts with one column of gold; `has_pair`: then each row must be a pair."""
    pair = {"text_pair": "the second text, a string that is not empty"}
    return Columns(
        {"text": "a string that is not empty", **(pair if has_pair else {}), gold: rule}, {} if has_pair else pair,
        (gold,),
        {"text": USUAL_TEXT, "text_pair": USUAL_PAIR, gold: gold_names},
        (frozenset(("text", gold)), frozenset(("text", "text_pair", gold))))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{shorten(str(k))} ({n:,} rows)" for k, n in counts.items())
