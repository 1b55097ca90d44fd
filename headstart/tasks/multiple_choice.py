"""Which of several answers fits a question: commonsense, reading comprehension, what happens next.

The answer to a row is {"choice": index, "text": the choice, "scores": [probability of each choice]}. Rows may have
different numbers of choices: each choice is a window of its own, read beside the question, and the softmax is taken
over the windows of one row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..core import metrics
from ..core.cells import listed
from ..core.errors import shorten
from ..core.reader import Reader
from ..core.task import N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_text
from ..core.values import LinearMap, MemberLogits, Prediction, Row, Window
from ..features import solve, tfidf
from .text_classification import MAJORITY_AND_TF_IDF

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MultipleChoice(Task):
    """One of several choices. separator: parts the choices where the file cannot hold a list, such as a CSV file."""

    name: ClassVar = "multiple-choice"
    columns: ClassVar = Columns(
        {"question": "a string that is not empty", "choices": "a list of two strings or more",
         "label": "the number of the right choice, from 0, or its text"},
        {"context": "what the question is about, a string"}, ("label",),
        {"question": ("question", "premise", "prompt", "问题"), "context": ("context", "passage", "article"),
         "choices": ("choices", "options", "endings", "candidates", "选项"),
         "label": ("label", "answer", "gold", "correct", "答案")},
        (frozenset(("question", "choices", "label")),))
    options: ClassVar = ("separator",)
    metric: ClassVar = "accuracy"
    keeps_rows_whole: ClassVar = True
    needs_windows: ClassVar = False
    baseline_titles: ClassVar = MAJORITY_AND_TF_IDF
    examples: ClassVar = (
        {"question": "The phone fell. What is it now?", "choices": ["It is broken.", "It is kind."], "label": 0},
        {"question": "What is bread from last week?", "choices": ["fresh", "stale", "clever"], "label": 1},
        {"question": "How was the room?", "context": "It snowed in.", "choices": ["warm", "cold"], "label": "cold"},
        {"question": "房间怎么样？", "choices": ["很吵", "很干净", "差"], "label": 2},
    )

    separator: str = "|"

    def check(self, row: Row) -> str | None:
        if flaw := flaw_of_text("question", row.get("question", "-")):
            return flaw
        context = row.get("context")  # this question may have none while others of the file do
        if context is not None and not isinstance(context, str):
            return f'"context" is {shorten(context)}, not a string'
        choices = listed(row.get("choices"), self.separator)
        if choices is None or not all(isinstance(choice, str) and choice.strip() for choice in choices):
            return f'"choices" is {shorten(row.get("choices"))}; it must be a list of strings that are not empty'
        if len(choices) < 2:
            return f'"choices" has {len(choices)}; it must have two or more'
        if "label" not in row:
            return None
        right = _index(row["label"], choices)
        if right is None:
            return (f'"label" is {shorten(row["label"])}; it must be the number of a choice, 0 to {len(choices) - 1}, '
                    "or its text")
        if choices.count(choices[right]) > 1:  # a wrong one may stand twice: CommonsenseQA has such rows
            return f'"choices" is {shorten(choices)}, which holds the right choice, {shorten(choices[right])}, twice'
        return None

    def learn(self, rows: Sequence[Row]) -> Self:
        return self

    def text(self, row: Row) -> str:
        return "\n".join([*(str(row[c]) for c in ("context", "question") if row.get(c)), *self._choices(row)])

    def _choices(self, row: Row) -> list[str]:
        return listed(row["choices"], self.separator) or []

    def _gold(self, row: Row) -> int:
        at = _index(row["label"], self._choices(row))
        assert at is not None, "check lets no other label pass"
        return at

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        prompt = " ".join(str(row[column]) for column in ("context", "question") if row.get(column))
        gold = self._gold(row) if "label" in row else None
        windows = []
        for k, choice in enumerate(self._choices(row)):
            inputs, n_cut_tokens = reader.read(prompt, choice)
            target = {} if gold is None else {"row": i, "is_right": int(k == gold)}
            windows.append(Window(i, inputs, target, {"n_cut_tokens": n_cut_tokens}))
        return windows

    @property
    def head(self) -> Head:
        return Head("pooled", 1)

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows [B, 1] to rows [R, C]: shorter rows have choices that cannot be."""
        import torch

        _, row_B, n_R = torch.unique_consecutive(target["row"], return_inverse=True, return_counts=True)
        place_B = torch.arange(len(row_B), device=row_B.device) - (n_R.cumsum(0) - n_R)[row_B]
        scores_RC = logits.new_full((len(n_R), int(n_R.max())), torch.finfo(logits.dtype).min)
        scores_RC = scores_RC.index_put((row_B, place_B), logits[:, 0])
        return scores_RC, place_B[target["is_right"] == 1]

    def placeholder(self, row: Row) -> Row:
        return {**row, "label": 0}

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy over the choices of each row. No smoothing: a choice that cannot be would get a share of it."""
        return super().loss(logits, target)

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        """Logistic regression on "is this choice right?"; what rows share falls out when choices are compared."""
        return solve.solve_yes_or_no(features_MD, target["is_right"][:, None], score, class_weights)

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        return self.answer(row, metrics.softmax(np.concatenate(logits)))

    def answer(self, row: Row, shares_C: np.ndarray) -> Prediction:
        """Shares of one, in the order of the row's choices, as the user sees them."""
        at = int(shares_C.argmax())
        return {"choice": at, "text": self._choices(row)[at], "scores": [round(float(p), 6) for p in shares_C]}

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        answers = [member.answer(row) for member in members]
        return self.answer(row, weights_M @ np.array([answer["scores"] for answer in answers]))

    def confidence(self, prediction: Prediction) -> float:
        return float(max(prediction["scores"]))

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 3]: the right choice, the chosen one, and how many there were."""
        lines = [(self._gold(r), p["choice"], len(p["scores"])) for p, r in zip(predictions, rows, strict=True)]
        return np.array(lines, np.int64).reshape(-1, 3)

    def correct(self, outcomes: np.ndarray) -> np.ndarray | None:
        return np.asarray(outcomes[:, 0] == outcomes[:, 1])

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((outcomes[:, 0] == outcomes[:, 1]).mean()),
                "chance": float((1 / outcomes[:, 2]).mean())}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:

        usual = Counter(self._gold(row) for row in train)
        yield "majority", [self.answer(row, np.array([usual[k] + 1.0 for k, _ in enumerate(self._choices(row))]))
                           for row in test]
        texts = [[(" ".join(str(row[column]) for column in ("context", "question") if row.get(column)), choice)
                  for row in rows for choice in self._choices(row)] for rows in (train, test)]
        row_N = np.repeat(np.arange(len(train)), [len(self._choices(row)) for row in train])
        gold_N = np.array([k == self._gold(row) for row in train for k, _ in enumerate(self._choices(row))])

        def score(chosen_N: np.ndarray, margins_N1: np.ndarray) -> float:
            ends = np.flatnonzero(np.diff(row_N[chosen_N])) + 1
            return float(np.mean([gold_C[margins_C.argmax()] for margins_C, gold_C in zip(
                np.split(margins_N1[:, 0], ends), np.split(gold_N[chosen_N], ends), strict=True)]))

        margins_M1, = tfidf.predict(tfidf.margins, gold_N[:, None], score, seed, *texts, groups_N=row_N)
        ends = np.cumsum([len(self._choices(row)) for row in test])
        yield "tf-idf", [self.answer(row, metrics.softmax(margins_C)) for row, margins_C in zip(
            test, np.split(margins_M1[:, 0], ends[:-1]), strict=True)]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        outcomes_N3 = self.outcomes(predictions, rows)
        wrong = sorted(map(int, np.flatnonzero(outcomes_N3[:, 0] != outcomes_N3[:, 1])),
                       key=lambda i: -self.confidence(predictions[i]))[:N_MISTAKES_SHOWN]
        return {"mistakes": [{"text": self.text(rows[i]), "label": self._choices(rows[i])[outcomes_N3[i, 0]],
                              "predicted": predictions[i]["text"],
                              "confidence": self.confidence(predictions[i])} for i in wrong]}


def _index(label: Any, choices: Sequence[str]) -> int | None:
    """The number of the choice that `label` names by number or by text."""
    if isinstance(label, str) and label.strip() in choices:
        return choices.index(label.strip())
    if isinstance(label, str) and label.strip().isdecimal() and len(label.strip()) < 6:
        label = int(label)
    return label if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices) else None
