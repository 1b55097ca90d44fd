"""Training as a run sees it: the loop plus evaluation, early stopping, checkpoints, and what a signal asks for."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from ..core.errors import RunFolderError, SpecError
from ..core.files import write_file
from ..core.scores import Kept
from ..core.statistics import LIKELY_ERRORS, Difference
from ..core.values import Batch, Prediction
from ..models import blocks
from ..models.device import to_device
from . import batches, checkpoint, loop, prefetch
from .averaging import FIRST, SOUP, TRAINED, Weights, candidates, include
from .checkpoint import Checkpoint, TrainState
from .evaluator import Evaluator
from .head import HeadSolver
from .job import Job
from .memory import Memory
from .step import Step

RESUME = "continue with the same command and --resume"
SYNC_EVERY = 20  # steps between two looks at what a GPU measured: a second's worth at most
SEEDS_APART = 1_000_003  # of trainings of one run, so that no two runs' seeds give them one order of rows


class Learner:
    """A job's weights being moved. `state` says how far they are; `learn` leaves the best ones in the model.

    moving: the weights that may move, by name.  kept: which of them `learn` kept, and their score.
    sync_every: steps after which a device that computes on its own is waited for; absent: every step on a CPU.
    """

    def __init__(self, job: Job, evaluator: Evaluator, head: HeadSolver, sync_every: int | None = None) -> None:
        self.job, self.evaluator, self.head = job, evaluator, head
        self.moving = {name: p for name, p in job.model.named_parameters() if p.requires_grad}
        self.optimizer = self._new_optimizer()
        self.state = TrainState(request=job.request)
        self.log_file = job.work / "steps.jsonl"
        self.kept: Kept | None = None
        self.can_choose = len(job.rows("validation")) >= job.method.plan.min_choosing_rows
        self.sync_every = sync_every or (1 if job.device.type == "cpu" else SYNC_EVERY)
        self.memory = Memory(can_cut=not (job.task.compares_rows or job.method.compares_rows))

    def learn(self, *, resume: bool, why: str = "") -> None:
        """Train from the first weights, once or as often as the method asks; checkpoint on the way; keep the best.

        why: what the certificate says of how the method was chosen.
        """
        job, plan = self.job, self.job.method.plan
        if plan.solves_again:
            self.head.solve_again()
        first = self.copy()
        write_file(self.log_file, [self._restore() if resume else ""])
        job.stop.deferred = True
        with self.log_file.open("a", encoding="utf-8", buffering=1) as log:
            self._learn_once(first, log)
            while plan.average == "soup":
                self._include(self.state.best)
                if self.state.n_mean == plan.n_members:
                    break
                self.put(first)
                self.optimizer = self._new_optimizer()
                self.state.begin_again()
                job.progress.say(f"training {self.state.n_mean + 1} of {plan.n_members}, from the first weights")
                self._learn_once(first, log)
        job.stop.deferred = False
        self._keep_best(first, why)

    def _learn_once(self, first: Weights, log: TextIO) -> None:
        """Train to the end of the plan or until patience runs out."""
        job, state, began = self.job, self.state, self.state.began
        settings = job.spec.train
        seed = job.spec.seed + (SEEDS_APART * state.n_mean if began else 0)
        n_steps, evaluate_at, epochs_at = self._plan(seed)
        rate = loop.schedule(settings.schedule, n_steps, settings.warmup_share)
        epoch, saved = -1, time.monotonic()

        def is_due(n: int) -> bool:
            return (n - began in evaluate_at or n - began == n_steps or job.stop.signum is not None
                    or time.monotonic() - saved > settings.checkpoint_every_s)

        self._evaluate_if_due(evaluate_at)
        job.progress.begin("training", n_steps, "steps", state.step - began)
        first_step = state.step + 1 - began
        with closing(prefetch.for_device(batches.corrupted(batches.steps(
                job.learned, settings.tokens_per_batch, settings.tokens_per_micro_batch, seed, first_step),
                job.task, seed, first_step), job.device)) as stream:
            steps = loop.train(self._loss(first), stream, self.optimizer, lambda n: rate(n - began), seed=seed,
                               accelerator=job.accelerator, clip_norm=settings.clip_norm, first=state.step + 1,
                               sync_every=self.sync_every, is_due=is_due, memory=self.memory)
            while state.step - began < n_steps and state.n_worse < settings.patience:
                if (now := bisect_right(epochs_at, state.step - began) - 1) != epoch:
                    epoch = now
                    job.method.at_epoch(job.model, epoch, list(self.moving.values()))
                    blocks.train_mode(job.model)
                elif not job.model.training:  # an evaluation came between
                    blocks.train_mode(job.model)
                is_read = self._step(steps, log)
                self._average(evaluate_at, n_steps)
                evaluated = self._evaluate_if_due(evaluate_at)
                if evaluated or (is_read and (job.stop.signum
                                              or time.monotonic() - saved > settings.checkpoint_every_s)):
                    self._save()
                    saved = time.monotonic()
                    if job.stop.signum:
                        job.stop.leave(RESUME)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings, job = self.job.spec.train, self.job
        optimizer: torch.optim.Optimizer = job.accelerator.prepare_optimizer(loop.optimizer(
            settings.optimizer, job.method.groups(job.model, settings.lr, settings.weight_decay)))
        return optimizer

    def _plan(self, seed: int) -> tuple[int, dict[int, float], list[int]]:
        """What `batches.plan` gives; only the ends are evaluated where validation cannot choose."""
        settings, task = self.job.spec.train, self.job.task
        names = [part.name for part in (task, self.job.method) if part.compares_rows]
        if names and settings.tokens_per_micro_batch is not None:
            raise SpecError("train.tokens_per_micro_batch", f'would change the loss of "{names[0]}", which '
                            "compares the rows of a batch.", "Leave it out.")
        n_steps, evaluate_at, epochs_at = batches.plan(
            self.job.learned, settings.tokens_per_batch, seed, settings.epochs or 1, settings.max_steps,
            settings.evaluations_per_epoch)
        if not self.can_choose:
            evaluate_at = {step: evaluate_at[step] for step in (0, n_steps)}
        return n_steps, evaluate_at, epochs_at

    def _loss(self, first: Weights) -> loop.Loss:
        job, settings, weights_K = self.job, self.job.spec.train, self._class_weights()

        def loss(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            outputs = job.method.projected(job.model, job.forward(batch.inputs, want=job.method.wants))
            summed, n = job.method.loss(job.task, outputs, to_device(batch.target, job.device), weights_K=weights_K,
                                        label_smoothing=settings.label_smoothing)
            penalty = job.method.penalty(job.model, first)
            return (summed if penalty is None else summed + n * penalty), n

        return loss

    def _class_weights(self) -> torch.Tensor | None:
        """weights_K of the classes, so that all weigh the same in sum; None where they weigh as they come."""
        job = self.job
        if job.spec.train.class_weights != "balanced":
            return None
        gold_N = job.task.classes(job.windows["train"].targets())
        if gold_N is None:
            raise SpecError("train.class_weights", f'is for tasks with classes; "{job.task.name}" has none.',
                            "Leave it out.")
        counts_K = np.bincount(gold_N, minlength=job.task.n_outputs)
        return torch.tensor(counts_K.sum() / (len(counts_K) * np.maximum(counts_K, 1)),
                            dtype=torch.float32).to(job.device)

    def _average(self, evaluate_at: dict[int, float], n_steps: int) -> None:
        """Bring a mean of steps' weights up to this step."""
        step, method = self.state.step, self.job.method
        if method.plan.average == "ema":
            self._include(self.moving, 1 - method.plan.ema_decay)
        elif method.plan.average == "swa" and step in evaluate_at and 2 * step >= n_steps:
            self._include(self.moving)

    def _include(self, weights: Weights | dict[str, torch.nn.Parameter], share: float | None = None) -> None:
        """Move the mean by `share` of the way towards `weights`; absent: it becomes the mean with one more."""
        self.state.n_mean += 1
        include(self.state.mean, weights, 1 / self.state.n_mean if share is None else share)

    def _step(self, steps: Iterator[list[Step]], log: TextIO) -> bool:
        """Take one step, and count those whose numbers were read by then. Returns whether that is all of them."""
        measured = next(steps)
        self.state.step += 1
        if self.memory.tokens != self.state.micro_tokens:
            self.state.micro_tokens = self.memory.tokens
            self.job.progress.say(f"step {self.state.step}: memory ran out; from now on micro-batches hold at most "
                                  f"{self.memory.tokens:,} padded tokens (gradients stay exact)")
        for step in measured:
            self._count(step, log)
        if measured and measured[-1].n < self.state.step:
            next(steps)  # raises: the step behind them diverged
        return bool(measured)

    def _count(self, step: Step, log: TextIO) -> None:
        state = self.state
        state.seconds += step.seconds
        state.n_tokens += step.n_tokens
        values = {name: value if math.isfinite(value) else None for name, value in asdict(step).items()}
        log.write(json.dumps({**values, "precision": self.job.model.precision.name}) + "\n")
        self.job.progress.advance(1, f"loss {step.loss:.3f}, {step.n_tokens / step.seconds:,.0f} tokens/s")

    def _evaluate_if_due(self, evaluate_at: dict[int, float]) -> bool:
        state, metric = self.state, self.evaluator.scoring.metric
        at = state.step - state.began
        if at not in evaluate_at or any(entry["step"] == state.step for entry in state.curve):
            return False
        epoch = state.epochs_before + evaluate_at[at]
        scores = self._scores(self._leave_if_asked)
        is_best = state.step > 0 and (scores[metric] > state.best_score or not self.can_choose)
        state.curve.append({"step": state.step, "epoch": epoch, "scores": scores})
        if is_best:
            state.best_score, state.best_step, state.n_worse = scores[metric], state.step, 0
            state.best = self.copy()
        elif state.step:
            state.n_worse += 1
        self.job.progress.say(f"epoch {epoch:g}: validation {metric} {scores[metric]:.4f}"
                              + (" (best so far)" if is_best else ""))
        return True

    def _scores(self, after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        """All scores on validation of the model as it is now."""
        began = time.perf_counter()
        if self.job.method.plan.solves_again:
            self.head.solve_again()
        scores = self.evaluator.scores(self._validation(after_batch))
        self.state.evaluate_seconds += time.perf_counter() - began
        return scores

    def _validation(self, after_batch: Callable[[], None] = lambda: None) -> list[Prediction]:
        return self.evaluator.predictions("validation", after_batch)

    def _leave_if_asked(self) -> None:
        """In the middle of an evaluation: save what there is, and leave, when a signal came."""
        if self.job.stop.signum:
            if self.state.step:
                self._save()
            self.job.stop.leave(RESUME)

    def _keep_best(self, first: Weights, why: str) -> None:
        """Leave in the model what scores best on validation: the first weights, the best trained ones or, where the
        method wants that, a mean. Ties go to what is nearer to the first.

        Source  Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT) and "Model soups".
        """
        state, metric, progress = self.state, self.evaluator.scoring.metric, self.job.progress
        choices = candidates(first, state.best, state.mean, self.job.method.plan.average)
        scores = {FIRST: state.curve[0]["scores"][metric], TRAINED: state.best_score}
        for name in [name for name in choices if name not in scores]:
            self.put(choices[name]())
            scores[name] = self._scores()[metric]
        kept = max(choices, key=lambda name: scores[name]) if self.can_choose else TRAINED
        if kept == TRAINED and SOUP in choices and not self._difference(state.best, state.mean).is_proven:
            kept = SOUP  # the best of several evaluations owes something to chance, their mean does not
        if self.job.method.plan.keeps == "likely" and self.can_choose:
            kept, likely = self._likely(kept, choices, scores)
            progress.say(f"shipped: {kept}: {likely}")
            why = "; ".join(filter(None, (why, likely)))
        self.put(choices[kept]())
        self.kept = Kept(kept, scores[kept], why)
        best = 0 if kept == FIRST else state.best_step
        if kept == SOUP:  # it is of several: mark the best of them
            best = max(state.curve[1:], key=lambda entry: entry["scores"][metric])["step"]
        for entry in state.curve:
            entry["is_best"] = entry["step"] == best
        if kept not in (FIRST, TRAINED):
            progress.say(f"kept: {kept}, validation {metric} {scores[kept]:.4f}")

    def _likely(self, kept: str, choices: Mapping[str, Callable[[], Weights]],
                scores: Mapping[str, float]) -> tuple[str, str]:
        """(what is shipped, why): `kept`, unless it is not likely that it is better than the first weights.

        This says nothing of proof: the certificate does, on the test rows.
        """
        metric, n = self.evaluator.scoring.metric, len(self.job.rows("validation"))
        if kept == FIRST:
            return FIRST, f"no trained weights score better; {metric} {scores[FIRST]:.4f} on {n:,} validation rows"
        gain = self._difference(choices[kept](), choices[FIRST]())
        words = (f"{metric} {scores[kept]:.4f} of {kept} against {scores[FIRST]:.4f} of {FIRST} on {n:,} validation "
                 f"rows is {100 * gain.value:+.1f} points, {'more' if gain.is_likely else 'not more'} than "
                 f"{LIKELY_ERRORS:g} standard errors ({100 * LIKELY_ERRORS * gain.error:.1f})")
        return (kept if gain.is_likely else FIRST), words

    def _difference(self, weights: Weights, others: Weights) -> Difference:
        """Of `weights` to `others` on the validation rows."""
        outcomes = []
        for candidate in (weights, others):
            self.put(candidate)
            outcomes.append(self.evaluator.outcomes(self._validation()))
        return self.evaluator.difference(*outcomes)

    def copy(self) -> Weights:
        """The weights that may move, as they are now."""
        return {name: p.detach().cpu().clone() for name, p in self.moving.items()}

    def put(self, weights: Weights) -> None:
        """Let the model have these weights."""
        with torch.no_grad():
            for name, p in self.moving.items():
                p.copy_(weights[name])

    def _save(self) -> None:
        entries = self.optimizer.state_dict()["state"]
        if self.job.accelerator.scaler is not None:
            self.state.scaler = self.job.accelerator.scaler.state_dict()
        tensors = {f"{i}.{key}": value for i, values in entries.items() for key, value in values.items()
                   if isinstance(value, torch.Tensor)}
        checkpoint.save(self.job.work, self.state, dict(self.moving), tensors, self.log_file)

    def _restore(self) -> str:
        """Go on from the newest checkpoint that is whole and fits, or begin. Returns the log up to there."""
        paths = checkpoint.checkpoints(self.job.work)
        for path in reversed(paths):
            try:
                saved = checkpoint.read(path, self.job.request)
                self._check_fits(saved, path)
            except RunFolderError as error:
                where = "" if error.where == str(path) else f"{Path(error.where).name} "
                checkpoint.set_aside(path, f"checkpoint is damaged and was not used: {where}{error.what}")
                continue
            self._set(saved)
            self.job.progress.say(f"resuming after step {self.state.step}")
            return saved.steps
        if paths:
            checkpoint.warn(f"{self.job.work}: no checkpoint can be used; training begins anew at step 1.")
        return ""

    def _check_fits(self, saved: Checkpoint, path: Path) -> None:
        """Raise RunFolderError unless this job's weights and optimizer can take what a checkpoint holds."""
        state, metric = saved.state, self.evaluator.scoring.metric
        checkpoint.check_tensors("weights", saved.weights, self.moving)
        for name, tensors, is_there in (("best", state.best, state.best_step), ("mean", state.mean, state.n_mean)):
            if tensors or is_there:
                checkpoint.check_tensors(name, tensors, self.moving)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {place.partition(".")[0] for place in saved.optimizer}
        name = self.job.spec.train.optimizer
        wanted = {f"{i}.{key}": tensor for i, weight in enumerate(weights) if str(i) in places
                  for key, tensor in loop.state_after_a_step(name, weight).items()}
        checkpoint.check_tensors("optimizer", saved.optimizer, wanted)
        scaler = self.job.accelerator.scaler
        if state.scaler and (scaler is None or scaler.state_dict().keys() != state.scaler.keys()):
            raise RunFolderError(str(path), "is of a loss scaler that this run has not.", checkpoint.ANEW)
        if not saved.optimizer or any(entry["scores"].get(metric) is None for entry in state.curve):
            raise RunFolderError(str(path), f"lacks the optimizer or a validation {metric}.", checkpoint.ANEW)

    def _set(self, saved: Checkpoint) -> None:
        self.state = saved.state
        self.memory.tokens = saved.state.micro_tokens
        self.state.mean = {name: p.to(self.job.device) for name, p in self.state.mean.items()}
        self.put(saved.weights)
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for place, tensor in saved.optimizer.items():
            i, _, key = place.partition(".")
            entries.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if self.job.accelerator.scaler is not None and self.state.scaler:
            self.job.accelerator.scaler.load_state_dict(self.state.scaler)
