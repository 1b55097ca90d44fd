"""THE loop. It knows nothing of tasks, methods, files, logs or screens: it yields, the caller decides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import DivergenceError
from ..core.values import Batch

MAX_OVERFLOWS = 20  # fp16 only: steps in a row that the loss scaler may skip while it looks for its scale
STLR_RATIO = 32  # slanted-triangular: the peak rate over the lowest (Howard & Ruder 2018, section 3.2)

# Of a micro-batch: its summed loss and the count it is to be divided by.
Loss = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured.

    n: steps done, from 1.  loss: mean over the step's gold labels.  grad_norm: before clipping.
    """

    n: int
    loss: float
    lr: float
    grad_norm: float
    n_tokens: int
    seconds: float


def train(loss: Loss, steps: Iterable[list[Batch]], optimizer: torch.optim.Optimizer, rate: Callable[[int], float], *,
          accelerator: Any, clip_norm: float, seed: int, first: int = 1) -> Iterator[Step]:
    """Move the optimizer's weights, one step for each list of micro-batches, and yield what each step measured.

    rate: step number -> multiple of each group's own rate.
    first: number of the first step; a resumed run enters here. Dropout of a step is drawn from (seed, step), so the
           run that was never stopped and the one that was resumed take the same step.
    Raises  DivergenceError at the first loss or gradient that is not finite, before the weights move.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    overflows = 0
    for n, micro_batches in enumerate(steps, first):
        began = time.perf_counter()
        torch.manual_seed((seed * 1_000_003 + n) % 2**63)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(n)
        summed, count = 0.0, 0.0
        for batch in micro_batches:
            part, n_gold = loss(batch)
            accelerator.backward(part)
            summed, count = summed + part.item(), count + float(n_gold)
        accelerator.unscale_gradients(optimizer)
        grad_norm = _average_and_clip(weights, count, clip_norm)
        if not math.isfinite(summed + grad_norm):
            overflows += 1
            if accelerator.scaler is None or overflows > MAX_OVERFLOWS:
                raise DivergenceError(f"step {n}", f"loss {summed / count:.4g}, gradient norm {grad_norm:.4g}; "
                                      "the weights were not changed.",
                                      f"Lower train.lr ({peaks[0]:g}) or raise train.warmup_share.")
        else:
            overflows = 0
        optimizer.step()  # under fp16 the scaler skips it when a gradient overflowed
        optimizer.zero_grad(set_to_none=True)
        yield Step(n, summed / count, peaks[0] * rate(n), grad_norm, sum(b.n_tokens for b in micro_batches),
                   time.perf_counter() - began)


def _average_and_clip(weights: list[torch.Tensor], count: float, clip_norm: float) -> float:
    """Divide summed gradients by `count` and cut their norm to `clip_norm`, in one pass. Returns the norm before."""
    gradients = [w.grad for w in weights if w.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / count
    if math.isfinite(norm):
        torch._foreach_mul_(gradients, min(1.0, clip_norm / (norm + 1e-6)) / count)
    return norm


def optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer by name. Fused where torch has it: on a CPU five times faster than its loop over tensors."""
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, momentum=0.9, fused=fused)
        case "rmsprop":
            return torch.optim.RMSprop(groups)
        case "adafactor":
            return torch.optim.Adafactor(groups)
    raise ValueError(name)


def state_after_a_step(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors that an optimizer by name keeps of a weight of this shape, on the CPU: what a checkpoint must hold.

    Cost  a few copies of the weight, for a moment.
    """
    like = torch.zeros_like(weight, device="cpu", requires_grad=True)
    like.grad = torch.zeros_like(like)
    of_like = optimizer(name, [{"params": [like], "lr": 0.0}])
    of_like.step()
    return {key: value for key, value in of_like.state[like].items() if isinstance(value, torch.Tensor)}


def schedule(name: str, n_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Step number (from 1) to a multiple of the peak rate: up over the warmup, then down to 0 (or not, "constant").

    Source  slanted-triangular: Howard & Ruder 2018, "Universal Language Model Fine-tuning", section 3.2.
    """
    n_warmup = max(1, round(n_steps * warmup_share))

    def rate(n: int) -> float:
        if name == "slanted-triangular":
            share = n / n_warmup if n <= n_warmup else (n_steps - n) / max(1, n_steps - n_warmup)
            return (1 + max(0.0, share) * (STLR_RATIO - 1)) / STLR_RATIO
        if n < n_warmup:
            return n / n_warmup
        left = max(0.0, (n_steps - n + 1) / (n_steps - n_warmup + 1))
        return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[name]

    return rate
