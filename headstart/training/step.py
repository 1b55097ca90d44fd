"""One optimizer step from summed gradients: averaged, clipped, judged and taken; at once, or without waiting.

A GPU computes on its own: whoever asks it for a number waits until all that was handed to it is done. `at_once` asks
for each step's loss and norm, as is right on a CPU; `unread` lets them stay on the device and reads many together. Both
move the weights to the same bits, and neither moves them in a step that is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import DivergenceError, ResourceError

MAX_OVERFLOWS = 20  # fp16 only: steps in a row that the loss scaler may skip while it looks for its scale

Part = tuple[torch.Tensor, torch.Tensor]  # of a micro-batch: its summed loss and the count it is to be divided by


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured.

    n: steps done, from 1.  loss: mean over the step's gold labels.  grad_norm: before clipping.
    seconds: of a step whose numbers were read with others', the mean of theirs.
    """

    n: int
    loss: float
    lr: float
    grad_norm: float
    n_tokens: int
    seconds: float


@dataclass(frozen=True)
class Pending:
    """A step whose gradients are summed, and nothing more. began: by time.perf_counter."""

    n: int
    parts: list[Part]
    lr: float
    n_tokens: int
    began: float


@dataclass
class Mover:
    """Takes pending steps. overflows: steps in a row that were not finite, which the loss scaler skipped."""

    optimizer: torch.optim.Optimizer
    has_scaler: bool
    clip_norm: float

    def __post_init__(self) -> None:
        self.weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.peak = self.optimizer.param_groups[0]["lr"]
        self.overflows = 0

    def at_once(self, step: Pending) -> Iterator[list[Step]]:
        """Take a step and yield what it measured. Raises DivergenceError before the weights move."""
        summed, count = 0.0, 0.0
        for part, n_gold in step.parts:
            summed, count = summed + part.item(), count + float(n_gold)
        grad_norm = average_and_clip(self.weights, count, self.clip_norm)
        self._check(step.n, summed, count, grad_norm)
        self._move(step.n)
        yield [Step(step.n, summed / count, step.lr, grad_norm, step.n_tokens, time.perf_counter() - step.began)]

    @property
    def can_wait(self) -> bool:
        """Whether the optimizer can be told on the device to leave the weights alone, as its fused kernels can."""
        return bool(getattr(_unwrapped(self.optimizer), "_step_supports_amp_scaling", False))

    def unread(self, sync_every: int, is_due: Callable[[int], bool] | None = None,
               ) -> Callable[[Pending], Iterator[list[Step]]]:
        """The same without waiting for the device: [] is yielded until the numbers of all steps since are read.

        A step that is not finite stops those behind it, too, until that is read. (Under fp16 the scaler alone decides:
        weights may move on between the last overflow and the reading.)
        """
        taken: list[tuple[Pending, torch.Tensor]] = []
        has_stopped = torch.zeros((), device=self.weights[0].device)
        seconds = 0.0

        def take(step: Pending) -> Iterator[list[Step]]:
            nonlocal has_stopped, seconds
            numbers = on_device(self.weights, step.parts, self.clip_norm)
            if not self.has_scaler:
                has_stopped = torch.maximum(has_stopped, (~torch.isfinite(numbers[0] + numbers[2])).float())
            self._move(step.n, None if self.has_scaler else has_stopped)
            taken.append((step, numbers))
            is_read = step.n % sync_every == 0 or (is_due is not None and is_due(step.n))
            values = torch.stack([numbers for _, numbers in taken]).tolist() if is_read else []
            seconds += time.perf_counter() - step.began
            if not is_read:
                yield []
                return
            steps, each = [step for step, _ in taken], seconds / len(taken)
            seconds = 0.0
            taken.clear()
            yield from self._judged(steps, values, each)

        return take

    def _judged(self, steps: list[Pending], values: list[list[float]], seconds: float) -> Iterator[list[Step]]:
        """The steps in one list; where one was not finite those before it, then DivergenceError."""
        done: list[Step] = []
        for step, (summed, count, grad_norm) in zip(steps, values, strict=True):
            try:
                self._check(step.n, summed, count, grad_norm)
            except DivergenceError:
                if done:
                    yield done
                raise
            done.append(Step(step.n, summed / count, step.lr, grad_norm, step.n_tokens, seconds))
        yield done

    def _check(self, n: int, summed: float, count: float, grad_norm: float) -> None:
        """Raise DivergenceError unless a step was finite, or the scaler may still find its scale."""
        if math.isfinite(summed + grad_norm):
            self.overflows = 0
            return
        self.overflows += 1
        if not self.has_scaler or self.overflows > MAX_OVERFLOWS:
            raise DivergenceError(f"step {n}", f"loss {summed / count:.4g}, gradient norm {grad_norm:.4g}; "
                                  "the weights were not changed.",
                                  f"Lower train.lr ({self.peak:g}) or raise train.warmup_share.")

    def _move(self, n: int, has_stopped: torch.Tensor | None = None) -> None:
        """has_stopped: 1 on the device where no weight may move; the name is torch's own, of its loss scaler."""
        unwrapped: Any = _unwrapped(self.optimizer)
        if has_stopped is not None:
            unwrapped.found_inf = has_stopped
        try:
            self.optimizer.step()  # under fp16 the scaler skips it when a gradient overflowed
        except torch.OutOfMemoryError:
            raise ResourceError(f"step {n}", "has no room in the device's memory for what the optimizer keeps of each "
                                "weight.", "Train fewer weights (method=lora), or keep less: train.optimizer=sgd"
                                ) from None
        finally:
            unwrapped.__dict__.pop("found_inf", None)
        self.optimizer.zero_grad(set_to_none=True)


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """torch's own optimizer, of one that accelerate prepared."""
    unwrapped: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return unwrapped


def average_and_clip(weights: list[torch.Tensor], count: float, clip_norm: float) -> float:
    """Divide summed gradients by `count` and cut their norm to `clip_norm`, in one pass. Returns the norm before."""
    gradients = [w.grad for w in weights if w.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / count
    if math.isfinite(norm):
        torch._foreach_mul_(gradients, min(1.0, clip_norm / (norm + 1e-6)) / count)
    return norm


def on_device(weights: list[torch.Tensor], parts: list[Part], clip_norm: float) -> torch.Tensor:
    """The same without waiting for the device, and to the same bits: Python's numbers are float64, too.

    Returns  summed loss, count and the norm before, [3] float64.
    """
    gradients = [w.grad for w in weights if w.grad is not None]
    summed = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
    count = torch.zeros_like(summed)
    for part, n_gold in parts:
        summed += part
        count += n_gold
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).double() / count
    share = torch.clamp(clip_norm / (norm + 1e-6), max=1.0) / count
    torch._foreach_mul_(gradients, share.to(gradients[0].dtype))
    return torch.stack((summed, count, norm))
