"""`bench writing`: training beside peft and the transformers Trainer, on the same rows and the same tokens.

Two works, each done by both systems in a process of its own, three epochs, fp32:

- lora: ours, `method lora` of rank 8 in all linear layers of the last 8 of 30 blocks, with its defaults; theirs, peft's
  LoraConfig with its defaults (rank 8, query and value of all 30 blocks: the cheapest that is usual), the Trainer's
  defaults (batches of 8 rows, linear schedule, fp32) but for the rate, which is ours (1e-3; with the Trainer's 5e-5
  LoRA learns next to nothing).
- last-4: all weights of the last 4 blocks and of the norm behind them, by both at the same rate.

The clock runs over the whole run: in ours with the frozen pass over the train and validation rows and with choosing a
checkpoint, in theirs over Trainer.train(), which chooses none. Loading and tokenizing are outside in both. Peak memory
is the process's up to the end of training. Both end with the same evaluation, by our decoder.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import Cell, Run, markdown, met, of, writing_fits

NAMES = ("speed",)
N_EPOCHS, N_VALIDATION = 3, 8
SIZES, QUICK_SIZES = {"n_rows": 64, "n_test": 48}, {"n_rows": 12, "n_test": 4}
SYSTEMS = ("headstart", "trainer")
METHODS: dict[str, dict[str, Any]] = {"lora": {"name": "lora", "last_blocks": 8},
                                      "last-4": {"name": "fine-tuning", "last_blocks": 4, "average": "none"}}
DEMANDED, LIMIT_MB = {"lora": 3.0, "last-4": 2.2}, 3000
SETTINGS: dict[str, Any] = {"precision": "fp32", "epochs": N_EPOCHS, "checkpoint_every_s": 1e9}


def cells(quick: bool) -> list[Cell]:
    return [{"name": "speed", "work": work, "system": system, **(QUICK_SIZES if quick else SIZES)}
            for work in METHODS for system in SYSTEMS]


def measure(name: str, work: str, system: str, n_rows: int, n_test: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = str(Path(folder) / "cache")
        train = ours if system == "headstart" else theirs
        return train(work, Path(folder), n_rows, n_test)


def prepared(folder: Path, method: Mapping[str, Any], n_rows: int, n_test: int, **other: Any) -> Any:
    """The Job that `fit` makes of specs/scitldr.yaml."""
    from headstart.core.progress import Progress
    from headstart.runs import fit, resolve
    from headstart.training.signals import Stop

    folder.mkdir(parents=True)
    sizes = {"data": {"limit": n_rows, "validation_limit": N_VALIDATION, "test_limit": n_test}}
    layers = resolve.stack([("shipped", writing_fits.shipped("scitldr", folder)), ("bench", {
        **sizes, "method": method, "train": SETTINGS, "evaluate": {"tokens_per_batch": 8192}, **other})])
    return fit.prepare(*layers.resolve(), layers.method, folder, Stop(), Progress(quiet=True), layers)


class Clock:
    """Wall and processor seconds since it was made, and the process's peak memory so far."""

    def __init__(self) -> None:
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def read(self, n_tokens: int) -> dict[str, float]:
        seconds = {"train_s": time.perf_counter() - self.began, "train_cpu_s": time.process_time() - self.cpu}
        return {**seconds, "n_tokens": n_tokens, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(work: str, folder: Path, n_rows: int, n_test: int) -> dict[str, Any]:
    import numpy as np

    from headstart.runs import fit
    from headstart.training.evaluator import Evaluator
    from headstart.training.head import HeadSolver
    from headstart.training.learner import Learner

    job = prepared(folder / "ours", METHODS[work], n_rows, n_test)
    evaluator = Evaluator(job)
    clock = Clock()
    parts = [(job.windows[part], np.arange(len(job.windows[part]))) for part in ("train", "validation")]
    job.forward.remember(parts, job.method.depths(job.model, N_EPOCHS), job.tokens_at_once)
    frozen = clock.read(0)
    learner = Learner(job, evaluator, HeadSolver(job, evaluator))
    learner.learn(resume=False)
    timing = clock.read(N_EPOCHS * int(job.windows["train"].lengths_N.sum()))
    loop = {"loop_s": learner.state.seconds, "frozen_cpu_s": frozen["train_cpu_s"]}
    return {**timing, **loop, **scored(fit.finished(job, []))}


def theirs(work: str, folder: Path, n_rows: int, n_test: int) -> dict[str, Any]:
    import gc

    import torch
    import transformers

    job = prepared(folder / "rows", METHODS[work], n_rows, n_test)
    rows, source, lr = encoded(job), job.backbone.folder, job.spec.train.lr
    n_tokens = N_EPOCHS * int(job.windows["train"].lengths_N.sum())
    del job
    gc.collect()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = CHANGES[work](transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
    arguments = transformers.TrainingArguments(
        str(folder / "trainer"), num_train_epochs=N_EPOCHS, learning_rate=lr, seed=42, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True)
    peer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, data_collator=padded)
    clock = Clock()
    peer.train()
    timing = clock.read(n_tokens)
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    model.save_pretrained(folder / "fitted")
    for path in (*source.glob("token*"), *source.glob("chat_template*")):
        shutil.copy(path, folder / "fitted")
    del peer, model
    gc.collect()
    return {**timing, **scored(prepared(folder / "test", {"name": "lora"}, n_rows, n_test,
                                        backbone=str(folder / "fitted")))}


def encoded(job: Any) -> list[dict[str, list[int]]]:
    """The train rows as transformers wants them: prompt and target, labels of the target alone."""
    from headstart.core.values import IGNORE

    rows = []
    for i, row in enumerate(job.rows("train")):
        window, = job.task.encode(i, row, job.backbone.reader)
        ids, labels = window.inputs["input_ids"], window.target["labels"]
        rows.append({"input_ids": [*ids, labels[-1]], "attention_mask": [1] * (len(ids) + 1),
                     "labels": [IGNORE, *labels]})
    return rows


def padded(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """A batch as DataCollatorForSeq2Seq makes it: padded on the right to its longest row."""
    import torch

    from headstart.core.values import IGNORE

    n = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORE}
    return {key: torch.tensor([[*row[key], *[value] * (n - len(row[key]))] for row in rows])
            for key, value in fill.items()}


def with_lora(model: Any) -> Any:
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))


def with_last_4(model: Any) -> Any:
    model.requires_grad_(False)
    for part in (*model.model.layers[-4:], model.model.norm):
        part.requires_grad_(True)
    return model


CHANGES: Mapping[str, Callable[[Any], Any]] = {"lora": with_lora, "last-4": with_last_4}


def scored(job: Any) -> dict[str, Any]:
    """Scores of what the job's model writes for the test rows, and the rows' outcomes, which pair two systems."""
    from headstart.training.evaluator import Evaluator

    rows = job.rows("test")
    outcomes = job.task.outcomes(Evaluator(job).predictions("test"), rows)
    return {"scores": job.task.score(outcomes), "outcomes": outcomes.round(6).tolist()}


def gaps(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """(difference, low, high) of ROUGE-L, as a certificate has it, and of the likelihood, by a plain bootstrap over the
    rows: the certificate's interval is that of shares, far too wide for it."""
    import numpy as np

    from headstart import tasks
    from headstart.core import statistics

    task, both = tasks.build({"name": "summarization"}), [np.array(first), np.array(second)]
    rouge = statistics.paired(task, both, 2_000, 0).difference(0, 1)
    n = len(first)
    chosen_RN = np.random.default_rng(0).integers(0, n, (2_000, n))
    nats, n_tokens = -2, -1  # the last numbers of a row
    value, of_resamples = (np.exp(-a[..., nats].sum(-1) / a[..., n_tokens].sum(-1))
                           - np.exp(-b[..., nats].sum(-1) / b[..., n_tokens].sum(-1))
                           for a, b in (both, [of_system[chosen_RN] for of_system in both]))
    low, high = np.quantile(of_resamples, [0.025, 0.975]).tolist()
    return [(rouge.value, *rouge.interval), (float(value), low, high)]


def table(runs: Sequence[Run]) -> str:
    rows = []
    for work in METHODS:
        results = {run.cell["system"]: run.result for run in of(runs, name="speed", work=work)}
        if len(results) < len(SYSTEMS):
            continue
        rows += [line(work, system, result) for system, result in results.items()]
        rows.append(ratio(work, results["headstart"], results["trainer"]))
    if not rows:
        return ""
    sizes = next(run.cell for run in runs if run.cell["name"] == "speed")
    about = (f"**Training speed**: {sizes['n_rows']} rows of SciTLDR, three epochs, {sizes['n_test']} test rows; "
             "`python -m bench writing --only speed`.\n\n" + (__doc__ or "").partition("\n\n")[2].strip())
    header = ["work", "system", "tokens", "wall s", "s of a processor", "tokens/s", "tokens/s of a processor",
              "peak memory, MB", "rouge_l", "likelihood", "demanded", "met"]
    return f"{about}\n\n{markdown(header, rows)}"


def line(work: str, system: str, result: Mapping[str, Any]) -> list[str]:
    n, wall, cpu, mb = (result[key] for key in ("n_tokens", "train_s", "train_cpu_s", "peak_mb"))
    is_limited = system == "headstart" and work == "lora"
    return [work, system, f"{n:,}", f"{wall:,.0f}", f"{cpu:,.0f}", f"{n / wall:,.0f}", f"{n / cpu:,.0f}", f"{mb:,.0f}",
            f"{result['scores']['rouge_l']:.4f}", f"{result['scores']['likelihood']:.4f}",
            f"< {LIMIT_MB:,} MB" if is_limited else "", met(mb < LIMIT_MB) if is_limited else ""]


def ratio(work: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Ours beside theirs: how many times as fast, and the differences in score with their intervals."""
    times = {clock: second[clock] / first[clock] for clock in ("train_s", "train_cpu_s")}
    rouge, likelihood = gaps(first["outcomes"], second["outcomes"])
    shown = ["{:+.2f} [{:+.2f}, {:+.2f}] points".format(*(100 * end for end in ends)) for ends in (rouge, likelihood)]
    no_worse = rouge[2] >= 0
    return [work, "headstart : trainer", "", "", "", f"{times['train_s']:.2f}", f"**{times['train_cpu_s']:.2f}**",
            f"{first['peak_mb'] / second['peak_mb']:.2f}", *shown,
            f">= {DEMANDED[work]}, rouge_l not proven worse", met(times["train_cpu_s"] >= DEMANDED[work] and no_worse)]
