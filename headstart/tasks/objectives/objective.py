"""What objectives share: a text is its own answer, and how likely it is to the model is the score.

Shape suffixes: B windows, T tokens, M tokens that are asked for, V vocabulary, N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from ...core.generation import Generation
from ...core.likelihood import likelihood
from ...core.task import Columns, Head, Task, flaw_of_text
from ...core.values import IGNORE, Prediction, Row, Window
from ..text_classification import USUAL_TEXT

if TYPE_CHECKING:
    import torch

PREDICTS = "predicts"  # the input that is 1 where a token is asked for


@dataclass(frozen=True)
class Objective(Task):
    """Abstract: texts alone. Its windows ask for tokens where `predicts` is 1; `labels` of the target are these."""

    is_internal: ClassVar[bool] = True
    needs_windows: ClassVar[bool] = False
    gives_parts: ClassVar[bool] = True
    columns: ClassVar[Columns] = Columns({"text": "a string that is not empty"}, usual_names={"text": USUAL_TEXT})  # type: ignore[misc]
    metric: ClassVar[str] = "likelihood"  # type: ignore[misc]
    examples: ClassVar[tuple[Row, ...]] = ({"text": "The film was a delight from start to end."},)

    @property
    def generation(self) -> Generation:
        """Its scores are of likelihoods; no text is written."""
        return Generation()

    @property
    def head(self) -> Head:
        return Head("language-model", 0)

    def check(self, row: Row) -> str | None:
        return flaw_of_text("text", row.get("text", ""))

    def learn(self, rows: Sequence[Row]) -> Self:
        return self

    def for_test(self, window: Window, pad_id: int, seed: tuple[int, ...]) -> Window:
        """A window as it is tested: always the same question."""
        return window

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """logits_MV and the tokens that are asked for, row by row."""
        return logits, target["labels"][target["labels"] != IGNORE]

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        raise NotImplementedError

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 2]: the negative log-likelihood of each text's tokens in nats, and how many they are."""
        return np.array([(p["negative_log_likelihood"], p["n_tokens"]) for p in predictions]).reshape(-1, 2)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        return likelihood(*map(float, outcomes.sum(0)))
