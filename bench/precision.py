"""bf16 beside fp32: training, extraction, scores

On one machine, with `train.precision` forced to either; "auto" takes what was measured to be faster (first line). Peers
get the same precision. The loop is `speed`'s: headstart and a bare PyTorch loop step by step in one process, SST-2.
Extraction: the first 10,000 train texts of SST-2 to vectors, nothing kept. Scores: 2,000 train rows of each set, two
epochs, three seeds; the difference of bf16 to fp32 is paired on the test rows. "A loss": the interval lies below zero.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl, speed

NEEDS_PEERS = True
BOTH = ("fp32", "bf16")
SETS = {"trec": ("trec/train.jsonl", "trec/test.jsonl"), "sst2": ("sst2/train.jsonl", "sst2/validation.jsonl"),
        "banking77": ("banking77/train.jsonl", "banking77/test.jsonl"),
        "conll2003": ("conll2003/train.jsonl", "conll2003/test.jsonl"), "stsb": ("stsb/train.jsonl", "stsb/test.jsonl")}
N_ROUNDS, N_SEEDS, N_TRAIN, N_TEXTS = 3, 3, 2_000, 10_000
DEMANDED = {"loop": 1.7, "trainer": 3.0, "bare": 1 / 1.05, "extraction": 2.2, "sentence-transformers": 2.0}


def cells(quick: bool) -> list[Cell]:
    rounds, n_rows, n_texts = (1, 96, 64) if quick else (N_ROUNDS, N_TRAIN, N_TEXTS)
    speeds: list[Cell] = [{"name": name, "precision": precision, "repeat": i, "n": n_texts if name in TEXTS else n_rows}
              for i in range(rounds) for name in ("loop", "trainer", *TEXTS) for precision in BOTH[:: 1 - 2 * (i % 2)]]
    return [{"name": "auto"}, *speeds] + [{"name": "scores", "data": data, "seed": seed, "n": n_rows}
                                          for data in (list(SETS)[:1] if quick else SETS)
                                          for seed in range(1 if quick else N_SEEDS)]


TEXTS = ("extraction", "sentence-transformers")


def measure(name: str, **cell: Any) -> dict[str, Any]:
    if name == "auto":
        return auto()
    if name == "scores":
        return scores(**cell)
    if name in TEXTS:
        return vectors(name, cell["precision"], cell["n"])
    rows = speed.sst2_rows(cell["n"])
    if name == "loop":
        return speed.loops(rows, precision=cell["precision"])
    from bench import peers

    settings: dict[str, Any] = {"bf16": True, "use_cpu": True} if cell["precision"] == "bf16" else {}  # else it refuses
    with tempfile.TemporaryDirectory() as folder:
        return peers.trainer(rows, Path(folder), n_warm_up=speed.N_WARM_UP, **settings)[1]


def auto() -> dict[str, Any]:
    """What "auto" takes here, and the timing behind it."""
    import torch

    from headstart.models import precision

    cpu = torch.device("cpu")
    instructions = precision.bf16_instructions(cpu)
    if not instructions:
        return {"chosen": "fp32", "instructions": "", "factor": None}
    timing = precision.timing(cpu, 384)
    chosen = precision.choose("auto", cpu, 384, measure=lambda device, width: timing)
    return {"chosen": chosen.name, "instructions": instructions, "factor": timing.fp32_s / timing.bf16_s}


def vectors(name: str, precision: str, n: int) -> dict[str, float]:
    texts = [row["text"] for row in itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), n)]
    if name == "extraction":
        from headstart.use.vectors import Extractor

        encode: Any = Extractor("minilm-l6", store="off", precision=precision)
    else:
        import torch
        from sentence_transformers import SentenceTransformer

        from headstart.models import backbone

        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        encode = SentenceTransformer(str(backbone.locate("minilm-l6")), local_files_only=True,
                                     model_kwargs={"torch_dtype": dtype}).encode
    encode(texts[:64])
    began = time.perf_counter()
    encode(texts)
    return {"texts_per_s": n / (time.perf_counter() - began)}


def scores(data: str, seed: int, n: int) -> dict[str, Any]:
    """Both precisions on the same rows, and their paired difference."""
    import numpy as np

    import headstart
    from headstart.core import statistics

    with tempfile.TemporaryDirectory() as name:
        folder, train = Path(name), DATA / SETS[data][0]
        runs = {precision: headstart.fit(
            str(train), out=folder / precision, seed=seed, method={"name": "fine-tuning"},
            data={"limit": n, "test": str(DATA / SETS[data][1])},
            train={"precision": precision, "epochs": 2}, evaluate={"baselines": False}) for precision in BOTH}
        outcomes = [np.load(run.folder / "outcomes.npy") for run in runs.values()]
        paired = statistics.paired(runs["fp32"].task, outcomes, 2_000, seed)
        difference = paired.difference(1, 0)
    fp32, bf16 = (run.scores for run in runs.values())
    return {"metric": fp32["metric"], "n_test": fp32["n_test"], "fp32": fp32["score"], "bf16": bf16["score"],
            "difference": difference.value, "interval": list(difference.interval)}


def table(runs: Sequence[Run]) -> str:
    lines = [f"{run.machine['cpu']}: instructions {run.result['instructions'] or 'none'}; the products of a block in "
             f"bf16 {run.result['factor']:.2f} times as fast as in fp32; auto takes {run.result['chosen']}."
             for run in of(runs, name="auto")[-1:] if run.result["factor"]]
    speeds = markdown(["work", "the first", "the second", "factor", "demanded", "met"], _speeds(runs))
    rows = [[run.cell["data"], run.cell["seed"], run.result["metric"], f"{run.result['n_test']:,}",
             f"{run.result['fp32']:.4f}", f"{run.result['bf16']:.4f}", f"{100 * run.result['difference']:+.1f} "
             "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in run.result["interval"])),
             met(run.result["interval"][1] >= 0)] for run in of(runs, name="scores")]
    header = ["data", "seed", "metric", "n test", "fp32", "bf16", "difference, points", "no proven loss"]
    return "\n\n".join([*lines, speeds] + ([markdown(header, rows)] if rows else []))


def _speeds(runs: Sequence[Run]) -> list[list[str]]:
    def middle(name: str, precision: str, system: str = "") -> float:
        results = [run.result for run in of(runs, name=name, precision=precision)]
        key = "texts_per_s" if name in TEXTS else "rows_per_s"
        return median((result[system] if system else result)[key] for result in results) if results else float("nan")

    def row(what: str, before: float, after: float, demand: float | None = None) -> list[str]:
        factor = after / before
        return [what, f"{before:,.0f}", f"{after:,.0f}", f"{factor:.2f}",
                *(("", "") if demand is None else (f">= {demand:.2f}", met(factor >= demand)))]

    ours = {precision: middle("loop", precision, "headstart") for precision in BOTH}
    texts = {precision: middle("extraction", precision) for precision in BOTH}
    rows = [row("training, rows/s: ours in fp32, ours in bf16", ours["fp32"], ours["bf16"], DEMANDED["loop"]),
            row("training, rows/s: bare loop in bf16, ours in bf16", middle("loop", "bf16", "bare"), ours["bf16"],
                DEMANDED["bare"]),
            row("training, rows/s: Trainer in bf16, ours in what auto takes", middle("trainer", "bf16"),
                max(ours.values()), DEMANDED["trainer"]),
            row("training, rows/s: Trainer in fp32, ours in fp32", middle("trainer", "fp32"), ours["fp32"]),
            row("extraction, texts/s: sentence-transformers in fp32, ours in fp32",
                middle("sentence-transformers", "fp32"), texts["fp32"]),
            row("extraction, texts/s: ours in fp32, ours in bf16", texts["fp32"], texts["bf16"],
                DEMANDED["extraction"]),
            row("extraction, texts/s: sentence-transformers in bf16, ours in what auto takes",
                middle("sentence-transformers", "bf16"), max(texts.values()), DEMANDED["sentence-transformers"])]
    return [line for line in rows if "nan" not in line]  # not measured yet
