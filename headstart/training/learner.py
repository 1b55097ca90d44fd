"""Training as a run sees it: the loop plus evaluation, early stopping, checkpoints, and what a signal asks for."""

from __future__ import annotations

import json
import resource
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from ..core import statistics
from ..core.errors import SpecError
from ..core.method import Method
from ..core.predict import predict
from ..core.progress import Show
from ..core.reader import Reader
from ..core.spec import Spec
from ..core.task import Task
from ..core.values import Batch, Prediction, Row
from ..core.windows import WindowStore
from ..features.forward import Forward
from ..models import blocks
from ..models.heads import Model
from . import batches
from . import checkpoint as runfolder
from . import loop as train
from .checkpoint import Checkpoint, Progress
from .signals import Stop

Weights = dict[str, torch.Tensor]  # by name
RESUME = "continue with the same command and --resume"
FIRST, TRAINED = "the first weights", "the best trained weights"
SOUP = "the mean of the best weights of each training"
SEEDS_APART = 1_000_003  # of trainings of one run, so that no two runs' seeds give them one order of rows
MIN_PROOF_ROWS = 30  # resamples of fewer rows look alike, and their interval is too narrow
SHARES = (0.25, 0.5, 0.75)  # of the way from the first weights to the best trained ones, where means are tried


class Learner:
    """One model being moved. `progress` says how far it is; `learn` leaves the best weights in the model."""

    def __init__(self, spec: Spec, task: Task, method: Method, model: Model, reader: Reader, work: Path, stop: Stop,
                 show: Show) -> None:
        from accelerate import Accelerator

        self.spec, self.task, self.method, self.model, self.reader = spec, task, method, model, reader
        self.work, self.stop, self.show = work, stop, show
        self.accelerator = Accelerator(mixed_precision=_precision(spec.train.precision))
        self.device: torch.device = self.accelerator.device
        self.model.to(self.device)
        self.forward = Forward(model, self.device, spec.cache, show)
        self.progress = Progress()
        self.moving: dict[str, torch.nn.Parameter] = {}
        self.best: Weights = {}
        self.mean: Weights = {}
        self.solve_head_again: Callable[[], None] = lambda: None
        self.kept: dict[str, Any] = {}
        self.evaluate_seconds = 0.0

    def learn(self, windows: WindowStore, validation: Sequence[Row], *, resume: bool) -> None:
        """Train from the first weights, once or as often as the method asks; checkpoint on the way; keep the best."""
        self.moving = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.forward.forget_features()
        self._make_optimizer()
        self.solve_head_again()
        start = self._copy()
        if resume:
            self._restore()
        self.stop.deferred = True
        with self._log() as log:
            self._learn_once(windows, start, validation, log)
            while self.method.averages == "soup":
                self._take_in(self.best)
                if self.progress.n_mean == self.method.n_members:
                    break
                self._put(start)
                self._make_optimizer()
                self.progress.begin_again()
                self.show.say(f"training {self.progress.n_mean + 1} of {self.method.n_members}, from the first weights")
                self._learn_once(windows, start, validation, log)
        self.stop.deferred = False
        self._keep_best(start, validation)

    def _learn_once(self, windows: WindowStore, start: Weights, validation: Sequence[Row], log: TextIO) -> None:
        """Train to the end of the plan or until patience runs out."""
        settings, progress, began = self.spec.train, self.progress, self.progress.began
        seed = self.spec.seed + (SEEDS_APART * progress.n_mean if began else 0)
        n_steps, evaluate_at, epochs_at = self._plan(windows, validation, seed)
        rate = train.schedule(settings.schedule, n_steps, settings.warmup_share)
        first, epoch = progress.step + 1, -1
        stream = batches.steps(windows, settings.tokens_per_batch, settings.tokens_per_micro_batch, seed, first - began)
        saved = time.monotonic()
        self._evaluate_if_due(evaluate_at, validation)
        self.show.begin("training", n_steps, "steps", progress.step - began)
        steps = train.train(self._loss(windows, start), stream, self.optimizer, lambda n: rate(n - began),
                            accelerator=self.accelerator, clip_norm=settings.clip_norm, seed=seed, first=first)
        while progress.step - began < n_steps and progress.n_worse < settings.patience:
            if (now := bisect_right(epochs_at, progress.step - began) - 1) != epoch:
                epoch = now
                self.method.at_epoch(self.model, epoch, list(self.moving.values()))
                self.forward.settle()
                blocks.train_mode(self.model)
            elif not self.model.training:  # an evaluation came between
                blocks.train_mode(self.model)
            self._count(next(steps), log)
            self._average(evaluate_at, n_steps)
            evaluated = self._evaluate_if_due(evaluate_at, validation)
            if evaluated or time.monotonic() - saved > settings.checkpoint_every_s or self.stop.signum:
                log.flush()
                self._save()
                saved = time.monotonic()
            if self.stop.signum:
                self.stop.leave(RESUME)

    def _make_optimizer(self) -> None:
        settings = self.spec.train
        self.optimizer = self.accelerator.prepare_optimizer(train.optimizer(
            settings.optimizer, self.method.groups(self.model, settings.lr, settings.weight_decay)))

    def _plan(self, windows: WindowStore, validation: Sequence[Row],
              seed: int) -> tuple[int, dict[int, float], list[int]]:
        """What `batches.plan` gives; only the ends are evaluated where validation cannot choose."""
        settings = self.spec.train
        if self.task.compares_rows and settings.tokens_per_micro_batch is not None:
            raise SpecError("train.tokens_per_micro_batch", f'would change the loss of "{self.task.name}", which '
                            "compares the rows of a batch.", "Leave it out.")
        n_steps, evaluate_at, epochs_at = batches.plan(
            windows, settings.tokens_per_batch, seed, settings.epochs or 1, settings.max_steps,
            settings.evaluations_per_epoch)
        if not self._can_choose(validation):
            evaluate_at = {step: evaluate_at[step] for step in (0, n_steps)}
        return n_steps, evaluate_at, epochs_at

    def _loss(self, windows: WindowStore, start: Weights) -> train.Loss:
        settings, weights_K = self.spec.train, None
        if settings.class_weights == "balanced":
            gold_N = self.task.classes(windows.targets())
            if gold_N is None:
                raise SpecError("train.class_weights", f'is for tasks with classes; "{self.task.name}" has none.',
                                "Leave it out.")
            counts_K = np.bincount(gold_N, minlength=self.task.n_outputs)
            weights_K = torch.tensor(counts_K.sum() / (len(counts_K) * np.maximum(counts_K, 1)),
                                     dtype=torch.float32).to(self.device)
        reads = self.forward if self.method.reads == "logits" else self.forward.into_output

        def loss(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            said = reads(batch.inputs)
            target = {name: torch.from_numpy(a).to(self.device) for name, a in batch.target.items()}
            summed, n = self.method.loss(self.task, said, target, weights_K=weights_K,
                                         label_smoothing=settings.label_smoothing)
            extra = self.method.penalty(self.model, start)
            return (summed if extra is None else summed + n * extra), n

        return loss

    def _average(self, evaluate_at: dict[int, float], n_steps: int) -> None:
        """Bring a mean of steps' weights up to this step."""
        step = self.progress.step
        if self.method.averages == "ema":
            self._take_in(self.moving, 1 - self.method.ema_decay)
        elif self.method.averages == "swa" and step in evaluate_at and 2 * step >= n_steps:
            self._take_in(self.moving)

    def _take_in(self, weights: Mapping[str, torch.Tensor], share: float | None = None) -> None:
        """Move the mean by `share` of the way towards `weights`; absent: it becomes the mean with one more."""
        self.progress.n_mean += 1
        if not self.mean:
            self.mean = {name: p.detach().clone() for name, p in weights.items()}
        torch._foreach_lerp_(
            list(self.mean.values()), [weights[name].detach().to(p.device) for name, p in self.mean.items()],
            1 / self.progress.n_mean if share is None else share)

    def _count(self, step: train.Step, log: TextIO) -> None:
        progress = self.progress
        progress.step = step.n
        progress.seconds += step.seconds
        progress.n_tokens += step.n_tokens
        log.write(json.dumps(asdict(step)) + "\n")
        self.show.advance(1, f"loss {step.loss:.3f}, {step.n_tokens / step.seconds:,.0f} tokens/s")

    def _evaluate_if_due(self, evaluate_at: dict[int, float], validation: Sequence[Row]) -> bool:
        progress = self.progress
        at = progress.step - progress.began
        if at not in evaluate_at or any(e["step"] == progress.step for e in progress.curve):
            return False
        epoch = progress.epochs_before + evaluate_at[at]
        score, scores = self._score(validation, checkpoint_on_stop=True)
        is_best = progress.step > 0 and (score > progress.best_score or not self._can_choose(validation))
        progress.curve.append({"step": progress.step, "epoch": epoch, "scores": scores})
        if is_best:
            progress.best_score, progress.best_step, progress.n_worse = score, progress.step, 0
            self.best = self._copy()
        elif progress.step:
            progress.n_worse += 1
        self.show.say(f"epoch {epoch:g}: validation {self.task.metric} {score:.4f}"
                      + (" (best so far)" if is_best else ""))
        return True

    def _keep_best(self, start: Weights, validation: Sequence[Row]) -> None:
        """Leave in the model what scores best on validation: the first weights, the best trained ones or, where the
        method wants that, a mean. Ties go to what is nearer to the first.

        Source  Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT) and "Model soups".
        """
        progress, choices = self.progress, self._choices(start)
        found = {FIRST: progress.curve[0]["scores"][self.task.metric], TRAINED: progress.best_score}
        for name in [name for name in choices if name not in found]:
            self._put(choices[name]())
            found[name], _ = self._score(validation)
        kept = max(choices, key=lambda name: found[name]) if self._can_choose(validation) else TRAINED
        if kept == TRAINED and SOUP in choices and not self._is_proven(self.best, self.mean, validation):
            kept = SOUP  # the best of several evaluations owes something to chance, their mean does not
        if kept != FIRST and self.method.keeps_proven and not self._is_proven(choices[kept](), start, validation):
            self.show.say(f"not kept: {kept}, validation {self.task.metric} {found[kept]:.4f} against "
                          f"{found[FIRST]:.4f}, is not proven better")
            kept = FIRST
        self._put(choices[kept]())
        self.kept = {"what": kept, "score": found[kept]}
        best = 0 if kept == FIRST else progress.best_step
        if kept == SOUP:  # it is of several: mark the best of them
            best = max(progress.curve[1:], key=lambda entry: entry["scores"][self.task.metric])["step"]
        for entry in progress.curve:
            entry["is_best"] = entry["step"] == best
        if kept not in (FIRST, TRAINED):
            self.show.say(f"kept: {kept}, validation {self.task.metric} {found[kept]:.4f}")

    def _can_choose(self, validation: Sequence[Row]) -> bool:
        return len(validation) >= self.method.min_choosing_rows

    def _choices(self, start: Weights) -> dict[str, Callable[[], Weights]]:
        """What may be kept, from the first weights on, each made when asked for: several would fill the memory."""
        trained = self.best

        def between(share: float) -> Weights:
            return {name: torch.lerp(start[name], trained[name], share) for name in trained}

        means: dict[str, Callable[[], Weights]] = {}
        if self.method.averages == "wise-ft":
            means = {f"{share:.0%} of the way from the first weights to the best trained ones": partial(between, share)
                     for share in SHARES}
        elif self.mean:
            means[SOUP if self.method.averages == "soup" else "the mean of the steps' weights"] = lambda: self.mean
        return {FIRST: lambda: start, **means, TRAINED: lambda: trained}

    def _is_proven(self, weights: Weights, against: Weights, validation: Sequence[Row]) -> bool:
        """Whether the interval of the paired difference on the validation rows lies above zero."""
        if len(validation) < MIN_PROOF_ROWS:
            return False
        outcomes = []
        for one in (weights, against):
            self._put(one)
            outcomes.append(self._outcomes(self.answer(validation), validation))
        resampled_SR = statistics.bootstrap(lambda o: self.task.score(o)[self.task.metric], outcomes,
                                         self.spec.evaluate.n_resamples, self.spec.seed)
        return statistics.interval(resampled_SR[0] - resampled_SR[1])[0] > 0

    def _score(self, rows: Sequence[Row], checkpoint_on_stop: bool = False) -> tuple[float, dict[str, float]]:
        """The task's own metric, and all of its scores, of the model as it is now."""
        began = time.perf_counter()
        self.solve_head_again()
        answers = self.answer(rows, checkpoint_on_stop)
        scores = self.task.score(self._outcomes(answers, rows))
        self.evaluate_seconds += time.perf_counter() - began
        return scores[self.task.metric], scores

    def _outcomes(self, answers: Sequence[Prediction], validation: Sequence[Row]) -> np.ndarray:
        """Of answers to validation rows, with what can be tuned on them tuned."""
        tuned = self.task.calibrate(answers, validation)
        return tuned.outcomes([tuned.apply_threshold(answer) for answer in answers], validation)

    def answer(self, rows: Sequence[Row], checkpoint_on_stop: bool = False) -> list[Prediction]:
        """What the model answers to `rows` as it is now; their gold is hidden from it."""
        blind = map(self.task.without_gold, rows)
        answers: list[Prediction] = []
        for answer in predict(self.task, blind, self.reader, self._runtime,
                              tokens_per_batch=self.spec.evaluate.tokens_per_batch):
            answers.append(answer)
            if checkpoint_on_stop and self.stop.signum:
                if self.progress.step:
                    self._save()
                self.stop.leave(RESUME)
        return answers

    @torch.inference_mode()
    def _runtime(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.model.eval()
        return self.forward(inputs).float().cpu().numpy()

    def finish(self, validation: Sequence[Row]) -> tuple[Model, Task]:
        """Let the method merge or drop what only training needed, and tune the task on validation; answer with that
        model and that task from now on."""
        self.model = self.method.finish(self.model)
        self.forward.exchange(self.model)
        if type(self.task).calibrate is not Task.calibrate:
            self.task = self.task.calibrate(self.answer(validation), validation)
        return self.model, self.task

    def cost(self, windows: WindowStore) -> dict[str, Any]:
        """What the run took, measured."""
        progress, settings = self.progress, self.spec.train
        order = batches.epoch(windows, settings.tokens_per_batch, self.spec.seed, 0)
        return {
            "train_seconds": progress.seconds, "evaluate_seconds": self.evaluate_seconds, "n_steps": progress.step,
            "train_tokens_per_s": progress.n_tokens / progress.seconds if progress.seconds else None,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "n_weights": sum(p.numel() for p in self.model.parameters()),
            "n_trainable": sum(p.numel() for p in self.moving.values()),
            "padding_share": batches.padding_share(windows.lengths_N, order),
        }

    def _copy(self) -> Weights:
        return {name: p.detach().cpu().clone() for name, p in self.moving.items()}

    def _put(self, weights: Weights) -> None:
        with torch.no_grad():
            for name, p in self.moving.items():
                p.copy_(weights[name])

    def _save(self) -> None:
        state = self.optimizer.state_dict()["state"]
        if self.accelerator.scaler is not None:
            self.progress.scaler = self.accelerator.scaler.state_dict()
        tensors = {f"{i}.{key}": value.detach().cpu() for i, values in state.items() for key, value in values.items()
                   if isinstance(value, torch.Tensor)}
        runfolder.save(self.work, Checkpoint(
            self.progress, {name: p.detach().cpu() for name, p in self.moving.items()}, self.best,
            {name: p.cpu() for name, p in self.mean.items()}, tensors))

    def _restore(self) -> None:
        found = runfolder.latest(self.work)
        if found is None:
            return
        self.progress, self.best = found.progress, found.best
        self.mean = {name: p.to(self.device) for name, p in found.mean.items()}
        self._put(found.weights)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for place, tensor in found.optimizer.items():
            i, _, key = place.partition(".")
            state.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.accelerator.scaler is not None and self.progress.scaler:
            self.accelerator.scaler.load_state_dict(self.progress.scaler)
        self.show.say(f"resuming after step {self.progress.step}")

    def _log(self) -> TextIO:
        """steps.jsonl, cut back to the steps that the checkpoint holds."""
        path = self.work / "steps.jsonl"
        kept = path.read_text("utf-8").splitlines(keepends=True)[: self.progress.step] if path.exists() else []
        path.write_text("".join(kept), "utf-8")
        return path.open("a", encoding="utf-8")


def _precision(wanted: str) -> str:
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return "no" if wanted == "fp32" else wanted
