"""whether every task trains as fast as text classification does on the same windows

The first train rows of each shipped Spec, cut to windows and batches by their own task. Two models take turns batch by
batch, on the same token ids: one with the task's head and loss, one with text classification's (two labels, which say
nothing). A ratio of 1 is the same speed; the aim is 0.9.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import Cell, Run, markdown, met, of
from bench.understanding import NAMES, VARIANTS, shipped
from headstart.core.windows import store

N_ROWS, N_STEPS, N_WARM_UP = 400, 24, 4
AIM = 0.9


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "n_steps": 6 if quick else N_STEPS} for name in NAMES[: 1 if quick else None]
            if name not in VARIANTS]


def measure(name: str, n_steps: int) -> dict[str, Any]:
    from headstart import tasks
    from headstart.data import table as data
    from headstart.models import backbone as backbones
    from headstart.runs import resolve as resolving
    from headstart.training import batches

    spec, _, method = resolving.resolve([("bench", shipped(name))])
    task = tasks.build(spec.task)
    rows = data.read_splits(spec.data.model_copy(update={"test": None}), task)["train"].rows[:N_ROWS]
    task = task.learn(rows)
    loaded = backbones.load_backbone(spec.backbone.name, spec.data.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        encoded = (w for i, row in enumerate(rows) for w in task.encode(i, row, loaded.reader))
        windows = store(encoded, Path(folder), loaded.reader.pad_id, task.keeps_rows_whole)
        order = batches.epoch(windows, spec.train.tokens_per_batch, spec.seed, 0)
        chosen = [windows.batch(order[n % len(order)]) for n in range(n_steps)]
    plain = tasks.build({"name": "text-classification"}).learn([{"label": "a"}, {"label": "b"}])
    steps = [_steps(one, loaded, spec, method) for one in (task, plain)]
    seconds: list[list[float]] = [[], []]
    for batch in chosen:
        for which, target in ((0, batch.target), (1, None)):
            seconds[which].append(steps[which](batch.inputs, target))
    ratios = [b / a for a, b in list(zip(*seconds, strict=True))[N_WARM_UP:]]
    n_tokens = sum(batch.n_tokens for batch in chosen[N_WARM_UP:])
    return {"task": task.name, "ratio": median(ratios), "n_steps": n_steps - N_WARM_UP,
            "mean_tokens": float(windows.lengths_N.mean()),
            "tokens_per_s": n_tokens / sum(seconds[0][N_WARM_UP:]),
            "classification_tokens_per_s": n_tokens / sum(seconds[1][N_WARM_UP:])}


def _steps(task: Any, loaded: Any, spec: Any, method: Any) -> Callable[[Any, Any], float]:
    """One optimizer step of a model of `task` on a batch, in seconds."""
    import numpy as np
    import torch

    from headstart.models import backbone as backbones
    from headstart.models import blocks
    from headstart.training import loop as train

    model = backbones.build_model(loaded, task, spec.head.pooling, spec.seed, spec.train.dropout)
    method.prepare(model)
    optimizer = train.optimizer("adamw", method.groups(model, spec.train.lr, spec.train.weight_decay))
    blocks.train_mode(model)

    def step(inputs: dict[str, Any], target: dict[str, Any] | None) -> float:
        began = time.perf_counter()
        if target is None:
            inputs = {name: a for name, a in inputs.items() if name != "marks"}
            target = {"label": np.arange(len(inputs["input_ids"])) % 2}
        logits = model({name: torch.from_numpy(a) for name, a in inputs.items()}).logits
        summed, count = task.loss(logits, {name: torch.from_numpy(a) for name, a in target.items()})
        (summed / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    return step


def table(runs: Sequence[Run]) -> str:
    rows = [[run.cell["name"], run.result["task"], f"{run.result['mean_tokens']:.0f}",
             f"{run.result['tokens_per_s']:,.0f}", f"{run.result['classification_tokens_per_s']:,.0f}",
             f"**{run.result['ratio']:.2f}**", met(run.result["ratio"] >= AIM)]
            for name in dict.fromkeys(run.cell["name"] for run in runs) for run in of(runs, name=name)]
    return markdown(["Spec", "task", "tokens a window, mean", "tokens/s", "text classification, same windows",
                     "ratio, median of steps", f">= {AIM}"], rows)
