"""rows a second of the training loop, side by side

SST-2, first 10,000 train rows in one seeded random order; each system trains `minilm-l6` on the first of them, as many
as it gets through in about a minute (an epoch of them for headstart and the bare loop: whole epochs hold short and long
rows alike). Only the loop is timed: no loading, no tokenization, no evaluation, and five warm-up steps before the clock
starts. The order within a round alternates.

- headstart: the loop of `fit` with its defaults (train.train over batches.steps, the Learner's loss, log lines written).
- bare: a hand-written PyTorch loop over the very same batches, made to tensors before the clock starts; same fused
  AdamW, clipping, schedule.
- trainer: the `transformers` Trainer with its defaults (batch 8, dynamic padding), fp32.
- tutorial: the plain recipe: padding to 128, random order, batch 16, torch's AdamW, lr 5e-5, fp32.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl

N_TRAIN = 10_000
N_WARM_UP = 5  # steps
N_ROUNDS = 3
N_ROWS = {"headstart": 5000, "bare": 5000, "trainer": 2000, "tutorial": 512}
N_ROWS_QUICK = {"headstart": 300, "bare": 300, "trainer": 120, "tutorial": 128}
DEMANDED = {"bare": 1 / 1.05, "trainer": 1.6, "tutorial": 5.0}  # headstart's rows/s over theirs, at least


def cells(quick: bool) -> list[Cell]:
    n_rows = N_ROWS_QUICK if quick else N_ROWS
    rounds = [list(n_rows.items())[:: -1 if i % 2 else 1] for i in range(1 if quick else N_ROUNDS)]
    return [{"name": name, "repeat": i, "n_rows": n} for i, systems in enumerate(rounds) for name, n in systems]


def measure(name: str, repeat: int, n_rows: int) -> dict[str, Any]:
    from bench import peers

    rows = sst2_rows(n_rows)
    if name in ("headstart", "bare"):
        return (headstart_loop if name == "headstart" else bare_loop)(rows)
    with tempfile.TemporaryDirectory() as folder:
        fit = peers.trainer if name == "trainer" else peers.tutorial
        return fit(rows, Path(folder), n_warm_up=N_WARM_UP)[1]


def sst2_rows(n: int) -> list[dict[str, str]]:
    """The first `n` of a seeded permutation of the first 10,000 train rows."""
    import numpy as np

    rows = list(itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), N_TRAIN))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:n]]


def _learner(rows: list[dict[str, str]], folder: Path) -> tuple[Any, Any]:
    """A Learner as `fit` makes it with its defaults, and the windows of `rows`."""
    from headstart import backbone as backbones
    from headstart import batches, workbench
    from headstart.learning import Learner
    from headstart.progress import Show
    from headstart.runfolder import Stop
    from headstart.tasks.text_classification import TextClassification

    spec, _, method = workbench.resolve([("bench", {"data": {"train": "sst2"}})])
    task = TextClassification().learn(rows)
    backbone = backbones.load(spec.backbone, spec.data.max_tokens)
    model = backbones.build(backbone, task, spec.head.pooling, spec.seed)
    method.prepare(model)
    encoded = (w for i, row in enumerate(rows) for w in task.encode(i, row, backbone.reader))
    windows = batches.store(encoded, folder / "windows", backbone.reader.pad_id)
    return Learner(spec, task, method, model, backbone.reader, folder, Stop(), Show(quiet=True)), windows


def headstart_loop(rows: list[dict[str, str]]) -> dict[str, Any]:
    """One epoch as Learner.learn runs it, without evaluation and checkpoints."""
    from headstart import batches, train

    with tempfile.TemporaryDirectory() as name:
        learner, windows = _learner(rows, Path(name))
        settings, seed = learner.spec.train, learner.spec.seed
        n_steps = len(batches.epoch(windows.lengths_N, settings.tokens_per_batch, seed, 0))
        optimizer = learner.accelerator.prepare_optimizer(train.optimizer(
            settings.optimizer, learner.method.groups(learner.model, settings.lr, settings.weight_decay)))
        rate = train.schedule(settings.schedule, n_steps, settings.warmup_share)

        def run(n: int, log: Any) -> float:
            stream = batches.steps(windows, settings.tokens_per_batch, settings.tokens_per_micro_batch, seed)
            steps = train.train(learner._loss(windows), stream, optimizer, rate, accelerator=learner.accelerator,
                                clip_norm=settings.clip_norm, seed=seed)
            began = time.perf_counter()
            for _ in range(n):
                learner.model.train()
                learner._count(next(steps), log, n_steps)
            return time.perf_counter() - began

        with (Path(name) / "steps.jsonl").open("w") as log:
            run(N_WARM_UP, log)
            seconds = run(n_steps, log)
        losses = [json.loads(line)["loss"] for line in (Path(name) / "steps.jsonl").read_text().splitlines()]
        return _result(len(rows), n_steps, windows, seconds, losses[-1])


def bare_loop(rows: list[dict[str, str]]) -> dict[str, Any]:
    """What a hand would write for these batches and nothing else."""
    import torch
    from torch.nn.functional import cross_entropy

    from headstart import batches, train

    with tempfile.TemporaryDirectory() as name:
        learner, windows = _learner(rows, Path(name))
        settings, seed, model = learner.spec.train, learner.spec.seed, learner.model
        order = batches.epoch(windows.lengths_N, settings.tokens_per_batch, seed, 0)
        as_tensors = []
        for chosen in order:
            batch = windows.batch(chosen)
            as_tensors.append(({k: torch.from_numpy(a).to(learner.device) for k, a in batch.inputs.items()},
                               torch.from_numpy(batch.target["label"]).to(learner.device)))
        groups = learner.method.groups(model, settings.lr, settings.weight_decay)
        weights = [p for group in groups for p in group["params"]]
        optimizer = torch.optim.AdamW(groups, fused=True)
        rate = train.schedule(settings.schedule, len(order), settings.warmup_share)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rate(n + 1))

        def run(some: list[Any]) -> tuple[float, float]:
            model.train()
            torch.manual_seed(seed)
            began = time.perf_counter()
            for inputs, gold_B in some:
                loss = cross_entropy(model(inputs), gold_B)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            last = loss.item()  # waits for the device
            return time.perf_counter() - began, last

        run(as_tensors[:N_WARM_UP])
        seconds, last = run(as_tensors)
        return _result(len(rows), len(order), windows, seconds, last)


def _result(n_rows: int, n_steps: int, windows: Any, seconds: float, loss: float) -> dict[str, Any]:
    return {"rows_per_s": n_rows / seconds, "tokens_per_s": float(windows.lengths_N.sum()) / seconds, "n_rows": n_rows,
            "n_steps": n_steps, "seconds": seconds, "last_loss": loss}


def table(runs: Sequence[Run]) -> str:
    systems = {name: [run.result for run in some] for name in N_ROWS if (some := of(runs, name=name))}
    medians = {name: median(found["rows_per_s"] for found in results) for name, results in systems.items()}
    rows = []
    for name, results in systems.items():
        times = medians.get("headstart", float("nan")) / medians[name]
        demanded = DEMANDED.get(name)
        rows.append([name, f"**{medians[name]:.1f}**", ", ".join(f"{found['rows_per_s']:.1f}" for found in results),
                     f"{times:.3f}", f">= {demanded:.3g}" if demanded else "", met(times >= demanded) if demanded else "",
                     f"{results[0]['n_rows']:,}", results[0]["n_steps"],
                     f"{median(found['tokens_per_s'] for found in results):,.0f}",
                     f"{median(found['seconds'] for found in results):.1f}"])
    return markdown(["loop", "rows/s, median", "each round", "headstart's rows/s over its", "demanded", "met",
                     "rows timed", "steps", "real tokens/s", "seconds"], rows)
