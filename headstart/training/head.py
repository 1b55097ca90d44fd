"""The linear head solved on frozen features: where training begins, and what it must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..core.values import LinearMap, Prediction
from ..features import solve
from ..features.extract import extract
from ..models.heads import put_on
from .evaluator import Evaluator
from .job import PARTS, Job

Answers = dict[float, list[Prediction]]  # strength -> answers to the rows of the parts in folds, one after the other


@dataclass(frozen=True)
class Solved:
    """What came out of solving the head.

    baselines:   name -> answers to the test rows, for the certificate.
    out_of_fold: answers to the rows of `HeadSolver.in_folds`, each by a head that was solved without its fold; [] where
                 validation rows are enough to choose by, or weights move after this.
    tested:      the same where they are the test rows (`Splits.pooled`), and so that no choice knew a row's own fold.
    """

    baselines: dict[str, list[Prediction]] = field(default_factory=dict)
    out_of_fold: list[Prediction] = field(default_factory=list)
    tested: list[Prediction] = field(default_factory=list)


@dataclass(frozen=True)
class HeadSolver:
    """Solves the job's head on what flows into it now."""

    job: Job
    evaluator: Evaluator

    def solve(self) -> Solved:
        """Solve the head on features of the frozen backbone, and put it on if the method wants that.

        Its strength is what scores best on the validation rows or, where they are few, out of fold.
        Cost  few validation rows: that of a head for each fold, too.
        """
        job, with_baselines = self.job, self.job.spec.evaluate.baselines
        if job.task.generation is not None:
            with job.model.as_pretrained():
                return Solved({"before-training": self.evaluator.predictions("test")} if with_baselines else {})
        if not job.task.is_solvable:
            return Solved({"before-training": self.evaluator.calibrated_predictions(
                *map(self.evaluator.predictions, ("validation", "test")))} if with_baselines else {})
        if not (job.method.plan.solves_head or with_baselines):
            return Solved()
        # Features of test rows serve the baselines, and a method that does not train: its answers follow from them.
        parts = PARTS if with_baselines or not job.trains else PARTS[:2]
        with job.model.as_pretrained():
            job.forward.remember_features([(job.windows[part], self._chosen[part]) for part in parts],
                                          job.tokens_at_once)
            features = {part: self._features(part) for part in parts}
        output = job.model.output
        bias = output.bias.detach().cpu().numpy() if output.bias is not None else np.float32(0)
        answers = self._out_of_fold(features)
        heads = {"before-training": LinearMap(output.weight.detach().cpu().numpy(), bias, 0.0),
                 "frozen-backbone": self._best(features, answers) if answers else self._solved_or_stored(features)}
        answered = dict(heads) if with_baselines else {}
        if not job.trains:
            answered.pop("frozen-backbone", None)  # the fitted model is this very one
        baselines = {name: self.evaluator.calibrated_predictions(
            *(self.evaluator.decode(part, head(features[part])) for part in ("validation", "test")))
            for name, head in answered.items()}
        if job.method.plan.solves_head:
            put_on(output, heads["frozen-backbone"])  # last: the fresh head's numbers are the layer's own
        return Solved(baselines, *([], []) if job.trains or not answers else (
            answers[heads["frozen-backbone"].strength], self._tested(answers) if job.splits.is_pooled else []))

    def solve_again(self) -> None:
        """Solve the head on what the model computes by now, and put it on.

        Validation chooses, however few its rows: features that the train rows moved say nothing of new rows.
        """
        put_on(self.job.model.output, self._solved({part: self._features(part) for part in PARTS[:2]}))

    @cached_property
    def in_folds(self) -> tuple[str, ...]:
        """The parts whose rows are dealt into folds, train first; () where validation chooses."""
        return tuple(part for part in PARTS[:2] if part in self.job.splits.fold_N)

    @cached_property
    def _chosen(self) -> dict[str, np.ndarray]:
        """The numbers of the windows whose features are read, by part: all but of very many train rows."""
        windows, seed = self.job.windows["train"], self.job.spec.seed
        train_N = (solve.enough(windows.lengths_N, None, seed) if self.job.model.per_token else
                   solve.enough(np.ones(len(windows), np.int64), self.job.task.classes(windows.targets()), seed))
        all_of = {part: np.arange(len(self.job.windows[part])) for part in PARTS}
        return all_of if self.job.splits.fold_N else {**all_of, "train": train_N}

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
                       tokens_per_batch=job.tokens_at_once)

    def _solved(self, features: Mapping[str, np.ndarray],
                score: Callable[[LinearMap], float] | None = None) -> LinearMap:
        """The head that scores best of those solved on train features: on validation, or by `score`."""
        job = self.job

        def on_validation(head: LinearMap) -> float:
            return self.evaluator.scores(self.evaluator.decode("validation", head(features["validation"])))[
                job.task.metric]

        return job.task.solve(features["train"], self._targets, score or on_validation, job.spec.train.class_weights)

    def _out_of_fold(self, features: Mapping[str, np.ndarray]) -> Answers:
        """The answers of heads that were solved without a row's fold; {} without folds."""
        job, parts = self.job, self.in_folds
        if not parts:
            return {}
        fold_W = {part: job.splits.fold_N[part][job.windows[part].rows_N] for part in parts}
        fold_M = {part: np.repeat(fold_W[part], job.windows[part].lengths_N if job.model.per_token else 1)
                  for part in parts}
        logits: dict[float, dict[str, np.ndarray]] = {}
        for fold in np.unique(np.concatenate(list(fold_W.values()))):
            def answer(head: LinearMap, fold: int = fold) -> float:
                of_head = logits.setdefault(head.strength, {
                    part: np.empty((len(fold_M[part]), len(head.bias_K)), np.float32) for part in parts})
                for part in parts:
                    of_head[part][fold_M[part] == fold] = head(features[part][fold_M[part] == fold])
                return 0.0  # it is chosen when all folds have answered

            targets = [job.windows[part].targets(np.flatnonzero(fold_W[part] != fold)) for part in parts]
            job.task.solve(np.concatenate([features[part][fold_M[part] != fold] for part in parts]),
                           {name: np.concatenate([target[name] for target in targets]) for name in targets[0]},
                           answer, job.spec.train.class_weights)
        return {strength: [answer for part in parts for answer in self.evaluator.decode(part, of_head[part])]
                for strength, of_head in logits.items()}

    def _scores(self, answers: Answers, chosen: np.ndarray) -> dict[float, float]:
        """Strength -> score on those of the rows that `chosen` numbers."""
        task, scores = self.job.task, {}
        rows = [row for part in self.in_folds for row in self.job.rows(part)]
        for strength, of_rows in answers.items():
            some, gold = [of_rows[i] for i in chosen], [rows[i] for i in chosen]
            calibrated = task.calibrate(some, gold)
            scores[strength] = task.score(task.outcomes(list(map(calibrated.apply_threshold, some)), gold))[task.metric]
        return scores

    def _best(self, features: Mapping[str, np.ndarray], answers: Answers) -> LinearMap:
        """The head solved on train features that is as strong as scores best out of fold."""
        scores = self._scores(answers, np.arange(sum(len(self.job.rows(part)) for part in self.in_folds)))
        return self._solved(features, lambda head: scores[head.strength])

    def _tested(self, answers: Answers) -> list[Prediction]:
        """The answers of each fold, as strong as scores best on the others."""
        fold_N, tested = self.job.splits.fold_N["test"], dict[int, Prediction]()
        for fold in np.unique(fold_N):
            scores = self._scores(answers, np.flatnonzero(fold_N != fold))
            of_fold = answers[max(scores, key=scores.__getitem__)]  # of equals the most regularized
            tested |= {i: of_fold[i] for i in np.flatnonzero(fold_N == fold).tolist()}
        return [tested[i] for i in range(len(fold_N))]

    def _solved_or_stored(self, features: Mapping[str, np.ndarray]) -> LinearMap:
        """The same, or what an earlier run solved for the same numbers."""
        job = self.job
        if job.spec.cache == "off":
            return self._solved(features)
        words = [job.task, job.spec.train.class_weights, job.splits.validation.digest(), list(self._targets)]
        numbers = [features["train"], features["validation"], *self._targets.values()]
        return solve.solve_or_load(repr(words), numbers, job.model.output.in_features, lambda: self._solved(features),
                                   job.progress)
