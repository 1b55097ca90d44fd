"""What the model answers to a part's rows as it is now, from their stored windows: the one decode of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import statistics
from ..core.predict import ROWS_AT_ONCE, by_batches, decode
from ..core.statistics import Difference
from ..core.task import Task
from ..core.values import Prediction
from ..models.device import by_halves
from .job import Job


@dataclass(frozen=True)
class Evaluator:
    """Predictions and scores of a job's model. Gold is hidden from the model; windows are read, not made again."""

    job: Job

    def predictions(self, part: str, after_batch: Callable[[], None] = lambda: None) -> list[Prediction]:
        """The answers to the rows of `part`, in order. after_batch: called after each forward pass; it may raise."""
        n_rows, windows, answers = len(self.job.rows(part)), self.job.windows[part], list[Prediction]()
        for start in range(0, n_rows, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, n_rows)
            first, end = windows.of_rows(start, stop)

            def logits(chosen: np.ndarray, first: int = first) -> np.ndarray:
                of_batch = self._logits(windows.batch(first + chosen).inputs)
                after_batch()
                return of_batch

            answers += self._decoded(part, by_batches(windows.sizes_N[first:end], self.job.tokens_at_once, logits),
                                     start, stop)
        return answers

    @torch.inference_mode()
    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.job.model.eval()

        def logits(inputs: dict[str, np.ndarray]) -> np.ndarray:
            of_windows: np.ndarray = self.job.forward(inputs).logits.float().cpu().numpy()
            return of_windows

        return by_halves(logits, inputs)

    def decode(self, part: str, logits: np.ndarray) -> list[Prediction]:
        """The answers that logits of all windows of `part` mean: a line a window or, from heads that read tokens, a
        token."""
        windows = self.job.windows[part]
        of_window = np.split(logits, np.cumsum(windows.lengths_N)[:-1]) if self.job.model.per_token else list(logits)
        return self._decoded(part, of_window, 0, len(self.job.rows(part)))

    def _decoded(self, part: str, logits: Sequence[np.ndarray], start: int, stop: int) -> list[Prediction]:
        first, end = self.job.windows[part].of_rows(start, stop)
        rows = [self.job.task.without_gold(row) for row in self.job.rows(part)[start:stop]]
        return list(decode(self.job.task, rows, self.job.windows[part][first:end], logits, start))

    def calibrated(self, validation: Sequence[Prediction]) -> Task:
        """The task with what can be chosen on answers to the validation rows chosen."""
        return self.job.task.calibrate(validation, self.job.rows("validation"))

    def calibrated_predictions(self, validation: Sequence[Prediction],
                               predictions: Sequence[Prediction]) -> list[Prediction]:
        """`predictions` after calibration on the same model's answers to the validation rows."""
        task = self.calibrated(validation)
        return [task.apply_threshold(prediction) for prediction in predictions]

    def outcomes(self, validation: Sequence[Prediction]) -> np.ndarray:
        """Of answers to the validation rows, after calibration on them."""
        return self.job.task.outcomes(self.calibrated_predictions(validation, validation), self.job.rows("validation"))

    def scores(self, validation: Sequence[Prediction]) -> dict[str, float]:
        """All scores of answers to the validation rows."""
        return self.job.task.score(self.outcomes(validation))

    def difference(self, outcomes: np.ndarray, others: np.ndarray) -> Difference:
        """In the task's metric, paired. Both: outcomes of the validation rows."""
        evaluate, seed = self.job.spec.evaluate, self.job.spec.seed
        return statistics.paired(self.job.task, [outcomes, others], evaluate.n_resamples, seed).difference(0, 1)
