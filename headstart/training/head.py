"""The linear head solved on frozen features: where training begins, and what it must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.values import LinearMap, Prediction
from ..features import solve
from ..features.extract import extract
from ..models.heads import put_on
from .evaluator import Evaluator
from .job import PARTS, Job


@dataclass(frozen=True)
class HeadSolver:
    """Solves the job's head on what flows into it now."""

    job: Job
    evaluator: Evaluator

    def solve(self) -> dict[str, list[Prediction]]:
        """Solve the head on features of the frozen backbone, and put it on if the method wants that.

        Returns  the answers to the test rows of the fresh head and of the solved one, for the certificate; {} when
                 neither head nor certificate asks for features.
        """
        job, with_baselines = self.job, self.job.spec.evaluate.baselines
        if not job.task.is_solvable:
            return {"before-training": self.evaluator.calibrated_predictions(
                *map(self.evaluator.predictions, ("validation", "test")))} if with_baselines else {}
        if not (job.method.plan.solves_head or with_baselines):
            return {}
        # Features of test rows serve the baselines, and a method that does not train: its answers follow from them.
        parts = PARTS if with_baselines or not job.trains else PARTS[:2]
        with job.model.as_pretrained():
            job.forward.remember_features([(job.windows[part], self._chosen[part]) for part in parts],
                                          job.spec.evaluate.tokens_per_batch)
            features = {part: self._features(part) for part in parts}
        output = job.model.output
        bias = output.bias.detach().cpu().numpy() if output.bias is not None else np.float32(0)
        heads = {"before-training": LinearMap(output.weight.detach().cpu().numpy(), bias, 0.0),
                 "frozen-backbone": self._solved_or_stored(features)}
        answered = dict(heads) if with_baselines else {}
        if not job.trains:
            answered.pop("frozen-backbone", None)  # the fitted model is this very one
        baselines = {name: self.evaluator.calibrated_predictions(
            *(self.evaluator.decode(part, head(features[part])) for part in ("validation", "test")))
            for name, head in answered.items()}
        if job.method.plan.solves_head:
            put_on(output, heads["frozen-backbone"])  # last: the fresh head's numbers are the layer's own
        return baselines

    def solve_again(self) -> None:
        """Solve the head on what the model computes by now, and put it on."""
        put_on(self.job.model.output, self._solved({part: self._features(part) for part in ("train", "validation")}))

    @cached_property
    def _chosen(self) -> dict[str, np.ndarray]:
        """The numbers of the windows whose features are read, by part: all but of very many train rows."""
        windows, seed = self.job.windows["train"], self.job.spec.seed
        train_N = (solve.enough(windows.lengths_N, None, seed) if self.job.model.per_token else
                   solve.enough(np.ones(len(windows), np.int64), self.job.task.classes(windows.targets()), seed))
        return {**{part: np.arange(len(self.job.windows[part])) for part in PARTS}, "train": train_N}

    @cached_property
    def _targets(self) -> dict[str, np.ndarray]:
        """Those of the chosen train windows."""
        return self.job.windows["train"].targets(self._chosen["train"])

    def _features(self, part: str) -> np.ndarray:
        """What flows into the last linear layer now, for the chosen windows of `part`."""
        job, chosen = self.job, self._chosen[part]
        job.progress.begin(f"features of {part} rows", len(chosen), "rows")
        return extract(job.forward.features, job.model.output.in_features, job.windows[part], chosen,
                       job.work / f"features-{part}.bin", each=job.progress.advance, per_token=job.model.per_token,
                       tokens_per_batch=job.spec.evaluate.tokens_per_batch)

    def _solved(self, features: Mapping[str, np.ndarray]) -> LinearMap:
        """The head that scores best on validation of those solved on train features."""
        job = self.job

        def score(head: LinearMap) -> float:
            return self.evaluator.scores(self.evaluator.decode("validation", head(features["validation"])))[
                job.task.metric]

        return job.task.solve(features["train"], self._targets, score, job.spec.train.class_weights)

    def _solved_or_stored(self, features: Mapping[str, np.ndarray]) -> LinearMap:
        """The same, or what an earlier run solved for the same numbers."""
        job = self.job
        if job.spec.cache == "off":
            return self._solved(features)
        words = [job.task, job.spec.train.class_weights, job.splits.validation.digest(), list(self._targets)]
        numbers = [features["train"], features["validation"], *self._targets.values()]
        return solve.solve_or_load(repr(words), numbers, job.model.output.in_features, lambda: self._solved(features),
                                   job.progress)
