"""Any number of labels for a text: topics, tags, kinds of toxicity; none is an answer too.

The answer to a row is {"labels": [str], "scores": {label: probability}}: each label is a question of its own, answered
yes where its probability is above its threshold. Thresholds are tuned on the validation rows: the cut with the best F1
of each label that enough of them have, one common cut for the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..core import metrics
from ..core.cells import listed, normal_label, written_list
from ..core.errors import DataError, shorten
from ..core.reader import Reader
from ..core.task import N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_labels, flaw_of_text
from ..core.teaching import order_of
from ..core.values import LinearMap, MemberLogits, Prediction, Row, Window
from ..features import solve, tfidf
from .text_classification import MAJORITY_AND_TF_IDF, USUAL_TEXT

if TYPE_CHECKING:
    import torch

MIN_POSITIVES = 10  # validation rows with a label that its own threshold needs
YES, NO = ("1", "true", "yes", "y", "是"), ("0", "false", "no", "n", "", "否")


@dataclass(frozen=True)
class MultiLabelClassification(Task):
    """Any number of labels for a text. One that no train row has is scored as one that was missed.

    separator:     parts the labels of a row where the file cannot hold a list, such as a CSV file.
    label_columns: one column a label, each with yes or no, in place of a column of labels.
    labels:        all of them, sorted; logits_BK follow this order.
    thresholds:    the probability above which each label is given.
    metric:        what chooses the checkpoint and the head, and what the verdict is of; macro_f1: each label alike.
    """

    name: ClassVar = "multi-label-classification"
    options: ClassVar = ("separator", "label_columns", "metric")
    needs_windows: ClassVar = False
    baseline_titles: ClassVar = MAJORITY_AND_TF_IDF
    examples: ClassVar = (
        {"text": "The room was clean, and breakfast was a joy.", "labels": ["food", "room"]},
        {"text": "Cold soup, twice.", "labels": ["food"]},
        {"text": "房间很吵。", "labels": ["room"]},
        {"text": "We were there in May.", "labels": []},
    )

    separator: str = "|"
    label_columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    metric: Literal["micro_f1", "macro_f1"] = "micro_f1"

    @cached_property
    def columns(self) -> Columns:
        labels = (dict.fromkeys(self.label_columns, "yes or no (1 or 0, true or false)")
                  or {"labels": "a list of strings, empty where none holds"})
        return Columns({"text": "a string that is not empty", **labels}, gold=tuple(labels), usual_names={
            "text": USUAL_TEXT, "labels": ("labels", "tags", "topics", "categories", "标签", "类别", "label"),
        }, signatures=(frozenset(("text", "labels")),))

    def normalized(self, row: Row) -> tuple[Row, str]:
        """Lists that a file holds as text, and whole numbers, as lists of strings."""
        if self.label_columns or "labels" not in row:
            return row, ""
        labels = normal_label(written_list(row["labels"]))
        if type(labels) is int:
            labels = str(labels)
        if isinstance(labels, list) and any(type(label) is int for label in labels):
            labels = [str(label) if type(label) is int else label for label in labels]
        return (row, "") if labels is row["labels"] else ({**row, "labels": labels}, "n_normalized_labels")

    def check(self, row: Row) -> str | None:
        if flaw := flaw_of_text("text", row.get("text")):
            return flaw
        for column in self.label_columns:
            if column in row and str(row[column]).strip().casefold() not in YES + NO + ("1.0", "0.0"):
                return f'"{column}" is {shorten(row[column])}; it must be yes or no (1 or 0, true or false)'
        if not self.label_columns and "labels" in row:
            labels = listed(row["labels"], self.separator)
            if labels is None or not all(isinstance(label, str) and label.strip() for label in labels):
                return f'"labels" is {shorten(row["labels"])}; it must be a list of strings'
            if len(set(labels)) < len(labels):
                return f'"labels" is {shorten(row["labels"])}, which holds a label twice'
        return None

    def learn(self, rows: Sequence[Row]) -> Self:
        counts = Counter(label for row in rows for label in self._gold(row))
        if not counts:
            raise DataError("labels", "no row has any label; there is nothing to learn.", "Is this the right column?")
        always = [label for label, n in counts.items() if n == len(rows)]
        if len(always) == len(counts):
            raise DataError("labels", f"every row has all labels ({shorten(', '.join(sorted(counts)))}); there is "
                            "nothing to learn.", "Add rows without them.")
        self._check_separator(counts)
        return replace(self, labels=tuple(sorted(counts)))

    def _check_separator(self, counts: Counter[str]) -> None:
        """Raise DataError where labels hold a mark that parts them into fewer ones, and the separator is the usual."""
        for mark in ",;/" if self.separator == "|" and not self.label_columns else "":
            parts = {part.strip() for label in counts for part in label.split(mark)}
            if any(mark in label for label in counts) and len(parts) < len(counts):
                example = shorten(next(label for label in counts if mark in label))
                raise DataError("labels", f"such as {example} hold {shorten(mark)}: taken whole they are "
                                f"{len(counts):,} labels, parted there {len(parts):,}.",
                                f"Part them: --set 'task.separator={mark}'; or take them whole: "
                                "--set 'task.separator=||'")

    def flaw_of_learned(self) -> str | None:
        if flaw := flaw_of_labels(self.labels):
            return flaw
        is_whole = len(self.thresholds) in (0, len(self.labels)) and all(abs(cut) <= 1 for cut in self.thresholds)
        return None if is_whole else f"thresholds are {shorten(self.thresholds)}; each label has one, a probability"

    def labels_of(self, row: Row) -> list[str]:
        return self._gold(row)

    def _gold(self, row: Row) -> list[str]:
        if self.label_columns:
            return [c for c in self.label_columns if str(row[c]).strip().casefold().removesuffix(".0") in YES]
        return [label.strip() for label in listed(row["labels"], self.separator) or []]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: k for k, label in enumerate(self.labels)}

    def _gold_K(self, row: Row) -> np.ndarray:
        gold_K = np.zeros(len(self.labels), np.int64)
        gold_K[[self._index[label] for label in self._gold(row) if label in self._index]] = 1
        return gold_K

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        inputs, n_cut_tokens = reader.read(row["text"])
        target = {"labels": self._gold_K(row).tolist()} if self.columns.gold[0] in row else {}
        return [Window(i, inputs, target, {"n_cut_tokens": n_cut_tokens})]

    @property
    def head(self) -> Head:
        return Head("pooled", len(self.labels), "AutoModelForSequenceClassification")

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Every label of every row is a question of its own: scores_N2 of no and yes."""
        import torch

        yes_N = logits.flatten()
        return torch.stack([torch.zeros_like(yes_N), yes_N], -1), target["labels"].flatten()

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits[..., order_of(self.labels, teacher.labels)])

    def placeholder(self, row: Row) -> Row:
        return {**row, **(dict.fromkeys(self.label_columns, "0") or {"labels": []})}

    def similarity(self, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """Labels that two rows share, of those that either has (Jaccard)."""
        gold_BK = target["labels"].float()
        both_BB = gold_BK @ gold_BK.T
        n_B = gold_BK.sum(1)
        either_BB = n_B[:, None] + n_B[None, :] - both_BB
        return (both_BB / either_BB.clamp(min=1)).masked_fill(either_BB == 0, 1.0)

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        gold_NK = target["labels"].reshape(-1, len(self.labels))
        return solve.solve_yes_or_no(features_MD, gold_NK, score, class_weights)

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        return self.answer(1 / (1 + np.exp(-np.asarray(logits[0], np.float64))))

    def answer(self, shares_K: np.ndarray) -> Prediction:
        """Probabilities in the order of `labels`, as the user sees them."""
        scores = {label: round(float(p), 6) for label, p in zip(self.labels, shares_K, strict=True)}
        return self.apply_threshold({"labels": [], "scores": scores})

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        answers = [member.answer(row) for member in members]
        return self.answer(metrics.mean_scores(answers, weights_M, self.labels))

    def apply_threshold(self, prediction: Prediction) -> Prediction:
        cuts = self.thresholds or (0.5,) * len(self.labels)
        return {**prediction, "labels": [label for label, cut in zip(self.labels, cuts, strict=True)
                                         if prediction["scores"][label] > cut]}

    def calibrate(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        gold_NK = np.array([self._gold_K(row) for row in rows])
        scores_NK = np.array([[p["scores"][label] for label in self.labels] for p in predictions])
        common = metrics.best_cut(scores_NK.ravel(), gold_NK.ravel())
        return replace(self, thresholds=tuple(
            metrics.best_cut(scores_NK[:, k], gold_NK[:, k]) if gold_NK[:, k].sum() >= MIN_POSITIVES else common
            for k in range(len(self.labels))))

    def confidence(self, prediction: Prediction) -> float:
        """Of the label that is least certain to be given, or not to be given, rightly."""
        scores, labels = prediction["scores"], set(prediction["labels"])
        return float(min(score if label in labels else 1 - score for label, score in scores.items()))

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 2 K + 2]: gold and predicted labels as 0 or 1, gold labels never seen in train, ranking precision."""
        lines = []
        for p, row in zip(predictions, rows, strict=True):
            gold_K, predicted = self._gold_K(row), set(p["labels"])
            predicted_K = np.array([label in predicted for label in self.labels], np.float64)
            scores_K = np.array([p["scores"][label] for label in self.labels])
            n_unknown = len(self._gold(row)) - gold_K.sum()
            ranking = metrics.ranking_precision(scores_K, gold_K)
            lines.append(np.concatenate([gold_K, predicted_K, [n_unknown, ranking]]))
        return np.array(lines).reshape(-1, 2 * len(self.labels) + 2)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        n = len(self.labels)
        gold_NK, predicted_NK = outcomes[:, :n], outcomes[:, n : 2 * n]
        hits_K, gold_K, predicted_K = (gold_NK * predicted_NK).sum(0), gold_NK.sum(0), predicted_NK.sum(0)
        both_K = gold_K + predicted_K
        n_both = both_K.sum() + outcomes[:, -2].sum()
        exact_N = (gold_NK == predicted_NK).all(1) & (outcomes[:, -2] == 0)
        return {"micro_f1": float(2 * hits_K.sum() / n_both) if n_both else 1.0,
                "macro_f1": float((2 * hits_K[both_K > 0] / both_K[both_K > 0]).mean()) if (both_K > 0).any() else 1.0,
                "lrap": float(outcomes[:, -1].mean()), "exact_match": float(exact_N.mean())}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        from scipy.special import expit

        gold_NK = np.array([self._gold_K(row) for row in train])
        shares_K = gold_NK.mean(0)
        tuned = self.calibrate([self.answer(shares_K)] * len(validation), validation)
        yield "majority", [tuned.answer(shares_K)] * len(test)

        def score(chosen_N: np.ndarray, margins_NK: np.ndarray) -> float:
            answers = [self.answer(shares_K) for shares_K in expit(margins_NK)]
            return self.score(self.outcomes(answers, [train[i] for i in chosen_N]))[self.metric]

        of_validation, of_test = tfidf.predict(
            tfidf.margins, gold_NK, score, seed, *([(self.text(row),) for row in rows] for rows in (train, validation,
                                                                                                    test)))
        tuned = self.calibrate([self.answer(shares_K) for shares_K in expit(of_validation)], validation)
        yield "tf-idf", [tuned.answer(shares_K) for shares_K in expit(of_test)]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        n, outcomes = len(self.labels), self.outcomes(predictions, rows)
        gold_NK, predicted_NK = outcomes[:, :n], outcomes[:, n : 2 * n]
        wrong_NK = gold_NK != predicted_NK
        sure_NK = np.array([[abs(p["scores"][label] - 0.5) for label in self.labels] for p in predictions]) * wrong_NK
        worst = [int(i) for i in np.argsort(-sure_NK.max(1), kind="stable") if wrong_NK[i].any()][:N_MISTAKES_SHOWN]

        def names(line_K: np.ndarray) -> str:
            return ", ".join(label for label, is_given in zip(self.labels, line_K, strict=True) if is_given) or "none"

        counts = zip((gold_NK * predicted_NK).sum(0), gold_NK.sum(0), predicted_NK.sum(0), strict=True)
        return {
            "labels": list(self.labels),
            "per_label": [{"label": label, **metrics.of_counts(*map(float, triple))}
                          for label, triple in zip(self.labels, counts, strict=True)],
            "thresholds": dict(zip(self.labels, self.thresholds, strict=False)),
            "mistakes": [{"text": self.text(rows[i]), "label": names(gold_NK[i]), "predicted": names(predicted_NK[i]),
                          "confidence": 0.5 + float(sure_NK[i].max())} for i in worst],
        }

    def describe(self) -> dict[str, Any]:
        return {"id2label": {str(k): label for k, label in enumerate(self.labels)},
                "label2id": self._index, "problem_type": "multi_label_classification"}
