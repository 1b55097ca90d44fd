"""`bench writing`: two keywords in at most twelve words, of the model as it is, before any training.

The prompts of specs/multi30k_keywords.yaml. By prompting: the text that greedy decoding writes. Best of eight: eight
texts drawn at temperature 1 (top_p .95), the likeliest of those that meet what is asked. In the decoder: greedy, held
to it. The cost is the mean log-probability, in nats a token, that the model itself gives to what was written; the
interval is of the paired difference to prompting, over the rows.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import Cell, Run, markdown, met, of, writing_fits

NAMES = ("control",)
N_ROWS, N_DRAWN = 100, 8
SYSTEMS = ("prompting", "best of eight", "in the decoder")


def cells(quick: bool) -> list[Cell]:
    return [{"name": "control", "n_rows": 4 if quick else N_ROWS, "n_drawn": 2 if quick else N_DRAWN, "seed": 0}]


def measure(name: str, n_rows: int, n_drawn: int, seed: int) -> dict[str, Any]:
    from headstart.core.generation import Generation
    from headstart.tasks.writing.control import Control

    with tempfile.TemporaryDirectory() as folder:
        job = prepared(Path(folder), n_rows, seed)
        rows = job.rows("test")
        free, drawn = Generation(max_new_tokens=48), [Generation(max_new_tokens=48, temperature=1.0, top_p=0.95, seed=i)
                                                      for i in range(n_drawn)]
        began = time.process_time()
        plain, after_plain = texts(job, False, free), time.process_time()
        held, after_held = texts(job, True, free), time.process_time()
        several = [texts(job, False, how) for how in drawn]
        seconds = dict(zip(SYSTEMS, (after_plain - began, time.process_time() - after_held, after_held - after_plain),
                           strict=True))
    controls = [control for row in rows if isinstance(control := Control.of(row["control"]), Control)]
    best = [max(of_row, key=lambda text: (not control.unmet(text[0]), text[1]))
            for of_row, control in zip(zip(*several, strict=True), controls, strict=True)]
    return {"systems": {system: {"is_met": [not control.unmet(text) for (text, _), control in
                                            zip(written, controls, strict=True)],
                                 "nats": [round(nats, 5) for _, nats in written], "cpu_s": seconds[system]}
                        for system, written in zip(SYSTEMS, (plain, best, held), strict=True)}}


def prepared(folder: Path, n_rows: int, seed: int) -> Any:
    """The Job of specs/multi30k_keywords.yaml, of which the test rows alone are read."""
    from headstart.core.progress import Progress
    from headstart.runs import fit, resolve
    from headstart.training.signals import Stop

    layers = resolve.stack([("shipped", writing_fits.shipped("multi30k_keywords", folder)), ("bench", {
        "data": {"limit": 20, "validation_limit": 8, "test_limit": n_rows}, "train": {"precision": "fp32", "epochs": 1},
        "seed": seed})])
    return fit.prepare(*layers.resolve(), layers.method, folder, Stop(), Progress(quiet=True), layers)


def texts(job: Any, is_held: bool, how: Any) -> list[tuple[str, float]]:
    """(text, its mean log-probability a token) for each test row."""
    from headstart.core import writing
    from headstart.models.stepping import TorchStepper

    task, reader = dataclasses.replace(job.task, constrained=is_held, decoding=how), job.backbone.reader
    rows = [task.without_gold(row) for row in job.rows("test")]
    windows = [window for i, row in enumerate(rows) for window in task.encode(i, row, reader)]
    written = writing.continuations(task, rows, windows, reader, TorchStepper(job.model, job.device), 8192)
    return [(writing.prediction(task, row, reader, text)["text"],
             sum(text.log_probabilities) / max(1, len(text.log_probabilities)))
            for row, text in zip(rows, written, strict=True)]


def table(runs: Sequence[Run]) -> str:
    parts = [section(run.result["systems"]) for run in of(runs, name="control")]
    if not parts:
        return ""
    about = "**Control**; `python -m bench writing --only control`. " + (__doc__ or "").partition("\n\n")[2].strip()
    return "\n\n".join([about, *parts])


def section(systems: Mapping[str, Any]) -> str:
    from headstart.core import statistics

    rows, plain = [], systems[SYSTEMS[0]]
    for system, values in systems.items():
        n_met, n = sum(values["is_met"]), len(values["is_met"])
        low, high = statistics.share_interval(n_met, n)
        ends = difference(values["nats"], plain["nats"])
        cost = "" if values is plain else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*ends)
        is_held = system == SYSTEMS[-1]
        rows.append([system, f"**{n_met / n:.2f}** [{low:.2f}, {high:.2f}]", n, f"{sum(values['nats']) / n:.2f}", cost,
                     f"{values['cpu_s']:.0f}", "1" if is_held else "", met(n_met == n) if is_held else ""])
    return markdown(["system", "control success", "rows", "nats a token", "cost to prompting, nats a token",
                     "s of a processor", "demanded", "met"], rows)


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """(mean difference, low, high): a bootstrap over the rows."""
    import numpy as np

    gaps_N = np.array(first) - np.array(second)
    means_R = np.random.default_rng(0).choice(gaps_N, (2_000, len(gaps_N))).mean(1)
    low, high = np.quantile(means_R, [0.025, 0.975]).tolist()
    return float(gaps_N.mean()), low, high
