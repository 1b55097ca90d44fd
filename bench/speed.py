"""rows a second of the training loop, side by side

SST-2, first 10,000 train rows in one seeded random order; each system trains `minilm-l6` on the first of them, as many
as it gets through in about a minute (an epoch of them for headstart and the bare loop: whole epochs hold short and long
rows alike). Only the loop is timed: no loading, no tokenization, no evaluation, and five warm-up steps before the clock
starts. headstart and the bare loop take turns step by step in one process, since this machine's speed drifts by more
than what is to be seen here. The ratio is the median of the rounds' own ratios for these two.

- headstart: Learner.learn, which is what `fit` runs, with its defaults.
- bare: a hand-written PyTorch loop over the very same batches, made to tensors before the clock starts; same fused
  AdamW, clipping, schedule.
- trainer: the `transformers` Trainer with its defaults (batch 8, dynamic padding), fp32.
- tutorial: the plain recipe: padding to 128, random order, batch 16, torch's AdamW, lr 5e-5, fp32.

On a GPU, when asked (`--only gpu`): three epochs in bf16 in steps of 4,096 tokens, beside the Trainer in bf16 with as
many rows a step; and which share of what the card does in a product of bf16 matrices goes into what is needed.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl

if TYPE_CHECKING:
    from headstart.training.learner import Learner

N_TRAIN = 10_000
N_WARM_UP = 5  # steps
N_ROUNDS = 3
N_ROWS = {"loops": 5000, "trainer": 2000, "tutorial": 512}  # loops: headstart's and the bare one
N_ROWS_QUICK = {"loops": 300, "trainer": 64, "tutorial": 96}
ON_REQUEST = ("gpu",)
GPU_TOKENS, GPU_ROWS, GPU_EPOCHS = 4096, 300, 3  # a step's tokens; as many of SST-2's rows for the Trainer
DEMANDED = {"bare": 1 / 1.05, "trainer": 1.6, "tutorial": 5.0}  # headstart's rows/s over theirs, at least


def cells(quick: bool) -> list[Cell]:
    n_rows = N_ROWS_QUICK if quick else N_ROWS
    rounds = [list(n_rows.items())[:: -1 if i % 2 else 1] for i in range(1 if quick else N_ROUNDS)]
    planned: list[Cell] = [{"name": name, "repeat": i, "n_rows": n}
                           for i, systems in enumerate(rounds) for name, n in systems]
    return planned + [{"name": "gpu", "repeat": i, "n_rows": N_TRAIN} for i in range(len(rounds))]


def measure(name: str, repeat: int, n_rows: int) -> dict[str, Any]:
    from bench import peers

    if name == "gpu":
        return on_gpu(n_rows)
    rows = sst2_rows(n_rows)
    if name == "loops":
        return loops(rows)
    with tempfile.TemporaryDirectory() as folder:
        fit = peers.trainer if name == "trainer" else peers.tutorial
        return fit(rows, Path(folder), n_warm_up=N_WARM_UP)[1]


def sst2_rows(n: int) -> list[dict[str, str]]:
    """The first `n` of a seeded permutation of the first 10,000 train rows."""
    import numpy as np

    rows = list(itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), N_TRAIN))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:n]]


def learner(rows: list[dict[str, str]], folder: Path, progress: Any = None, method: Any = "fine-tuning",
            cache: str = "fp16", **settings: Any) -> Learner:
    """The Learner that `fit` makes of train rows with its defaults, for one epoch; the last 8 of them validate."""
    from headstart.core.progress import Progress
    from headstart.runs import fit, resolve
    from headstart.training.evaluator import Evaluator
    from headstart.training.head import HeadSolver
    from headstart.training.learner import Learner
    from headstart.training.signals import Stop

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows[:-8], "validation": rows[-8:], "test": rows[-8:]}
    for name, of_part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_part), "utf-8")
    layers = resolve.stack([("bench", {
        "task": "text-classification", "method": method, "cache": cache,
        "data": {name: str(folder / f"{name}.jsonl") for name in parts},
        "train": {"epochs": 1, "checkpoint_every_s": 1e9, **settings}})])
    job = fit.prepare(*layers.resolve(), layers.method, folder, Stop(), progress or Progress(quiet=True), layers)
    evaluator = Evaluator(job)
    return Learner(job, evaluator, HeadSolver(job, evaluator))


def loops(rows: list[dict[str, str]], **settings: Any) -> dict[str, Any]:
    """One epoch of Learner.learn, and after each of its steps the bare loop's step over the same batch.

    This machine's speed drifts by several per cent in a minute: two loops one after the other measure that drift.
    """
    from headstart.core.progress import Progress

    class Turns(Progress):
        """Told of each step by the Learner; takes the bare step when it is."""

        def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
            self.ours, self.bare = [], []  # type: ignore[var-annotated]
            self.since = time.perf_counter()

        def advance(self, n: int, note: str = "") -> None:
            self.ours.append(time.perf_counter() - self.since)
            self.bare.append(bare_step(len(self.bare)))
            self.since = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        turns = Turns(quiet=True)
        ours = learner(rows, Path(folder) / "ours", turns, **settings)
        bare_step = bare_loop(rows, Path(folder) / "bare", **settings)
        ours.learn(resume=False)
        windows, order = ours.job.windows["train"], batches_of(ours.job)[N_WARM_UP:]
    n_rows, n_tokens = (sum(f(chosen) for chosen in order) for f in (len, lambda c: windows.lengths_N[c].sum()))
    return {name: result(n_rows, int(n_tokens), len(order), sum(seconds[N_WARM_UP:]))
            for name, seconds in (("headstart", turns.ours), ("bare", turns.bare))}


def on_gpu(n_rows: int) -> dict[str, Any]:
    """headstart's loop and the Trainer on the GPU. Ends with a sentence where there is none."""
    import torch

    from bench import frozen

    if not torch.cuda.is_available():
        raise SystemExit("speed, gpu: torch sees no GPU on this machine; run it where torch.cuda.is_available().")
    return beside_trainer(sst2_rows(n_rows), frozen.peak_flops(8192, "cuda", "bfloat16"))


def beside_trainer(rows: list[dict[str, str]], peak: float) -> dict[str, Any]:
    """headstart's loop and the Trainer in bf16, one after the other. peak: flops a second."""
    from bench import frozen, peers
    from headstart.training import batches
    from headstart.training.learner import SYNC_EVERY

    with tempfile.TemporaryDirectory() as folder:
        ours = learner(rows, Path(folder) / "ours", tokens_per_batch=GPU_TOKENS, epochs=GPU_EPOCHS, precision="bf16")
        ours.learn(resume=False)
        lines = list(read_jsonl(ours.log_file))[SYNC_EVERY:]  # the first that are read together hold the warm-up
        _, trainer = peers.trainer(rows, Path(folder) / "trainer", n_warm_up=SYNC_EVERY, epochs=GPU_EPOCHS, bf16=True,
                                   per_device_train_batch_size=GPU_ROWS)
    job, settings = ours.job, ours.job.spec.train
    windows = job.windows["train"]
    order = [chosen for number in range(GPU_EPOCHS)
             for chosen in batches.epoch(windows, settings.tokens_per_batch, job.spec.seed, number)][SYNC_EVERY:]
    seconds, lengths = sum(line["seconds"] for line in lines), [windows.lengths_N[chosen] for chosen in order]
    flops = sum(3 * frozen.forward_flops(job.model.encoder, lengths_N.astype(float)) for lengths_N in lengths)
    return {"headstart": result(sum(map(len, order)), int(sum(map(sum, lengths))), len(order), seconds),
            "trainer": trainer, "peak_tflops": peak / 1e12, "share_of_peak": flops / seconds / peak}


def batches_of(job: Any) -> list[Any]:
    from headstart.training import batches

    return batches.epoch(job.windows["train"], job.spec.train.tokens_per_batch, job.spec.seed, 0)


def bare_loop(rows: list[dict[str, str]], folder: Path, **options: Any) -> Callable[[int], float]:
    """What a hand would write for these batches and nothing else: takes step `n`, returns its seconds."""
    import torch
    from torch.nn.functional import cross_entropy

    from headstart.training import loop as train

    job = learner(rows, folder, **options).job
    settings, model = job.spec.train, job.model
    as_tensors = []
    for chosen in batches_of(job):
        batch = job.windows["train"].batch(chosen)
        as_tensors.append(({name: torch.from_numpy(array).to(job.device) for name, array in batch.inputs.items()},
                           torch.from_numpy(batch.target["label"]).to(job.device)))
    rate = train.schedule(settings.schedule, len(as_tensors), settings.warmup_share)
    groups = job.method.groups(model, settings.lr, settings.weight_decay)
    weights = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rate(n + 1))
    model.train()

    def step(n: int) -> float:
        began = time.perf_counter()
        inputs, gold_B = as_tensors[n]
        loss = cross_entropy(model(inputs).logits, gold_B)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        return time.perf_counter() - began

    return step


def result(n_rows: int, n_tokens: int, n_steps: int, seconds: float) -> dict[str, Any]:
    return {"rows_per_s": n_rows / seconds, "tokens_per_s": n_tokens / seconds, "n_rows": n_rows, "n_steps": n_steps,
            "seconds": seconds}


def gpu_table(runs: Sequence[Run]) -> str:
    """One line a run on a GPU; "" where there is none."""
    rows = [[run.machine["device"], f"**{ours['rows_per_s']:,.0f}**", f"{theirs['rows_per_s']:,.0f}",
             f"{ours['rows_per_s'] / theirs['rows_per_s']:.2f}", f"{run.result['share_of_peak']:.1%}",
             f"{run.result['peak_tflops']:.0f}", f"{ours['tokens_per_s']:,.0f}"]
            for run in of(runs, name="gpu") for ours, theirs in [(run.result["headstart"], run.result["trainer"])]]
    return "\n\n" + markdown(["GPU, bf16", "headstart's rows/s", "the Trainer's", "ratio", "share of the card's peak",
                              "peak, TFLOP/s", "real tokens/s"], rows) if rows else ""


def table(runs: Sequence[Run]) -> str:
    systems = {name: [run.result[name] for run in of(runs, name="loops")] for name in ("headstart", "bare")}
    systems |= {name: [run.result for run in of(runs, name=name)] for name in ("trainer", "tutorial")}
    medians = {name: median(found["rows_per_s"] for found in results) for name, results in systems.items() if results}
    paired = [ours["rows_per_s"] / bare["rows_per_s"]
              for ours, bare in zip(systems["headstart"], systems["bare"], strict=True)]
    rows = []
    for name, results in systems.items():
        if not results:
            continue
        times = median(paired) if name == "bare" else medians.get("headstart", float("nan")) / medians[name]
        demand = DEMANDED.get(name)
        rows.append([name, f"**{medians[name]:.1f}**", ", ".join(f"{found['rows_per_s']:.1f}" for found in results),
                     f"{times:.3f}", f">= {demand:.3g}" if demand else "", met(times >= demand) if demand else "",
                     f"{results[0]['n_rows']:,}", results[0]["n_steps"],
                     f"{median(found['tokens_per_s'] for found in results):,.0f}",
                     f"{median(found['seconds'] for found in results):.1f}"])
    return markdown(["loop", "rows/s, median", "each round", "headstart's rows/s over its", "demanded", "met",
                     "rows timed", "steps", "real tokens/s", "seconds"], rows) + gpu_table(runs)
