"""What the model answers to a part's rows as it is now, from their stored windows: the one decode of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import statistics, writing
from ..core.likelihood import LikelihoodScoring
from ..core.predict import ROWS_AT_ONCE, by_batches, decode
from ..core.statistics import Difference, Scoring
from ..core.task import Task
from ..core.values import IGNORE, Prediction, Row
from ..core.windows import WindowStore, by_length, store
from ..models.device import by_halves, to_device
from ..models.stepping import stepper_of
from .job import Job

LOGIT_TOKENS = 1024  # of a batch whose targets' logits are held at once: 200 MB of a usual vocabulary, were all asked


@dataclass(frozen=True)
class Evaluator:
    """Predictions and scores of a job's model. Gold is hidden from the model; windows are read, not made again."""

    job: Job

    def predictions(self, part: str, after_batch: Callable[[], None] = lambda: None) -> list[Prediction]:
        """The answers to the rows of `part`, in order. after_batch: called after each forward pass; it may raise.

        Of a task that writes: texts for the test rows, with how likely their own targets are; for others that alone.
        """
        if self.job.task.generation is not None:
            likelihoods = self.likelihoods(self.job.windows[part], after_batch)
            texts = self._texts(self.job.rows(part), part) if part == "test" else [{} for _ in likelihoods]
            return [{**text, **likelihood} for text, likelihood in zip(texts, likelihoods, strict=True)]
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

    def ablated(self, part: str) -> dict[str, list[Prediction]]:
        """The same model's answers to the rows of `part` without what the task can leave out, by a baseline's name."""
        job, named = self.job, {}
        for name, rows in job.task.ablated(job.rows(part)).items():
            windows = store((w for i, row in enumerate(rows) for w in job.task.encode(i, row, job.backbone.reader)),
                            job.work / "windows" / name, job.backbone.reader.pad_id)
            answers = [{**text, **likelihood} for text, likelihood in zip(
                self._texts(rows, f"{part} ({name})"), self.likelihoods(windows), strict=True)]
            named[name] = writing.judged(job.task, job.rows(part), answers, job.judge)
        return named

    @torch.inference_mode()
    def likelihoods(self, windows: WindowStore, after_batch: Callable[[], None] = lambda: None) -> list[Prediction]:
        """The negative log-likelihood of each window's target in nats, and its number of tokens."""
        job = self.job
        job.model.eval()
        nats_N, n_tokens_N = np.zeros(len(windows)), np.zeros(len(windows), np.int64)
        budget = min(job.spec.evaluate.tokens_per_batch, LOGIT_TOKENS)  # logits of targets are what takes memory here
        for chosen in by_length(windows.sizes_N, np.arange(len(windows)), budget):
            batch = windows.batch(chosen)
            scores_MV, gold_M = job.task.aligned(job.forward(batch.inputs).logits, to_device(batch.target, job.device))
            nats_M = torch.nn.functional.cross_entropy(scores_MV.float(), gold_M, reduction="none").cpu().numpy()
            n_tokens_N[chosen] = n_of_window = (batch.target["labels"] != IGNORE).sum(1)
            nats_N[chosen] = [part_M.sum(dtype=np.float64) for part_M in np.split(nats_M, np.cumsum(n_of_window)[:-1])]
            after_batch()
        return [{"negative_log_likelihood": nats, "n_tokens": n_tokens}
                for nats, n_tokens in zip(nats_N.tolist(), n_tokens_N.tolist(), strict=True)]

    def _texts(self, labeled: Sequence[Row], what: str) -> list[Prediction]:
        """What the model writes for each row, which it sees without its target. what: the rows' name, for the bar."""
        job, reader = self.job, self.job.backbone.reader
        rows = list(map(job.task.without_gold, labeled))
        windows = [window for i, row in enumerate(rows) for window in job.task.encode(i, row, reader)]
        job.progress.begin(f"texts for {what} rows", len(rows), "rows")
        return writing.predictions(job.task, rows, windows, reader, stepper_of(job.model, job.device),
                                   job.spec.evaluate.tokens_per_batch, job.progress.advance, job.judge)

    @property
    def scoring(self) -> Scoring:
        """What checkpoints are chosen by: the task, or how likely its targets are where it writes texts."""
        return self.job.task if self.job.task.generation is None else LikelihoodScoring()

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
        """Of answers to the validation rows, after calibration on them; what `scoring` reads."""
        if self.job.task.generation is not None:
            return np.array([(answer["negative_log_likelihood"], answer["n_tokens"]) for answer in validation])
        return self.job.task.outcomes(self.calibrated_predictions(validation, validation), self.job.rows("validation"))

    def scores(self, validation: Sequence[Prediction]) -> dict[str, float]:
        """All scores of answers to the validation rows."""
        return self.scoring.score(self.outcomes(validation))

    def difference(self, outcomes: np.ndarray, others: np.ndarray) -> Difference:
        """In the metric of `scoring`, paired. Both: outcomes of the validation rows."""
        evaluate, seed = self.job.spec.evaluate, self.job.spec.seed
        return statistics.paired(self.scoring, [outcomes, others], evaluate.n_resamples, seed).difference(0, 1)
