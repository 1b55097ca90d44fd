"""THE loop. It knows nothing of tasks, methods, files, logs or screens: it yields, the caller decides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ..core.values import Batch
from .memory import Memory
from .step import Mover, Part, Pending, Step

STLR_RATIO = 32  # slanted-triangular: the peak rate over the lowest (Howard & Ruder 2018, section 3.2)

Loss = Callable[[Batch], Part]  # of a micro-batch


def train(loss: Loss, steps: Iterable[list[Batch]], optimizer: torch.optim.Optimizer, rate: Callable[[int], float], *,
          accelerator: Any, clip_norm: float, seed: int, first: int = 1, sync_every: int = 1,
          is_due: Callable[[int], bool] | None = None, memory: Memory | None = None) -> Iterator[list[Step]]:
    """Move the optimizer's weights, one step for each list of micro-batches.

    rate: step number -> multiple of each group's own rate.
    first: number of the first step; a resumed run enters here. Dropout of a step is drawn from (seed, step), so the
           run that was never stopped and the one that was resumed take the same step.
    sync_every: the device is waited for, and what steps measured is read, after every so many. Optimizers without fused
           kernels are waited for at each step.
    is_due: step number -> whether to read after this step already; absent: never.
    memory: cuts what the device cannot hold; absent: torch.OutOfMemoryError ends the run.
    Yields  after each step those whose numbers were read since: itself, or [] and many together later.
    Raises  DivergenceError at the first loss or gradient that is not finite; the weights are those from before it.
            ResourceError where a step does not fit into the device's memory in any pieces.
    """
    mover = Mover(optimizer, accelerator.scaler is not None, clip_norm)
    move = mover.unread(sync_every, is_due) if sync_every > 1 and mover.can_wait else mover.at_once
    peaks = [group["lr"] for group in optimizer.param_groups]
    for n, micro_batches in enumerate(steps, first):
        began = time.perf_counter()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(n)
        parts = None
        while parts is None:
            pieces = memory.cut(micro_batches) if memory else micro_batches
            torch.manual_seed((seed * 1_000_003 + n) % 2**63)
            parts = _gradients(loss, pieces, accelerator, can_cut=memory is not None)
            if parts is None and memory:
                optimizer.zero_grad(set_to_none=True)  # some are there; the step begins again
                memory.ran_out(pieces, n)
        accelerator.unscale_gradients(optimizer)
        yield from move(Pending(n, parts, peaks[0] * rate(n), sum(b.n_tokens for b in micro_batches), began))


def _gradients(loss: Loss, batches: list[Batch], accelerator: Any, can_cut: bool) -> list[Part] | None:
    """Add up the gradients of a step; of each micro-batch the summed loss and its count. None: memory ran out."""
    parts = []
    for batch in batches:
        try:
            parts.append(_backward(loss, batch, accelerator))
        except torch.OutOfMemoryError:
            if not can_cut:
                raise
            return None
    return parts


def _backward(loss: Loss, batch: Batch, accelerator: Any) -> Part:
    """Nothing of what was computed is left when it returns or raises."""
    part, n_gold = loss(batch)
    accelerator.backward(part)
    return part.detach(), n_gold


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
