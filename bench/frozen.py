"""what is gained by never computing frozen layers twice

SST-2's first train rows (a seeded permutation of the first 10,000) and its 872 validation rows as test; `minilm-l6`,
fp32. Every measurement is a process of its own with an empty cache, except where "again" says that the cache of the
measurement before it is there. Imports are not timed; loading the model, tokenizing and solving are.

- blocks: the last two of six blocks and the head, three epochs. headstart: `fit` with `last_blocks: 2`, from the file
  to the trained weights: reading, splitting, loading, the one pass of the frozen part, the solved head, three
  evaluations, the choice of weights; a tenth of the rows is held back and not counted as trained on. Trainer: the same
  weights frozen, else its defaults; nothing but `train()` is timed.
- probe: a logistic regression on frozen features, fitted and tested. headstart: TextFeatures and LogisticRegression in
  a Pipeline. Peer: sentence-transformers' encode and the same LogisticRegression.
- cached: `headstart compare` of five methods that leave four blocks frozen, three seeds, with the cache and without, on
  trec's first rows.
- arithmetic: useful multiplications and additions a second, over the largest rate that a product of two square fp32
  matrices reached in the same process. A real token costs 2 for every weight of the blocks' linear layers and 4 T D in
  attention a block, T being its own text's length; the backward pass costs twice that for blocks that move. Padding,
  the softmax, norms, the embedding and the optimizer count as nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl, write_jsonl
from bench.speed import learner, sst2_rows

NEEDS_PEERS = True
N_ROUNDS = 3
N_EPOCHS, N_MOVING = 3, 2
METHODS = ("linear-probe", "fine-tuning:last_blocks=1", "fine-tuning:last_blocks=2", "lora:last_blocks=2",
           "adapter:last_blocks=2")
DEMANDED = {"blocks": 2.5, "probe": 1.0, "again": 20.0, "cached": 2.0, "training": 0.70, "extraction": 0.80}


def cells(quick: bool) -> list[Cell]:
    n_rows = {"blocks": 200, "probe": 200, "cached": 120, "arithmetic": 200} if quick else {
        "blocks": 3000, "probe": 10_000, "cached": 1500, "arithmetic": 2000}
    plan: list[Cell] = []
    for i in range(1 if quick else N_ROUNDS):
        plan += [{"name": "blocks", "system": s, "repeat": i, "n_rows": n_rows["blocks"]}
                 for s in ("headstart", "trainer")]
        plan += [{"name": "probe", "repeat": i, "n_rows": n_rows["probe"]},
                 {"name": "arithmetic", "repeat": i, "n_rows": n_rows["arithmetic"]}]
    return [*plan, {"name": "cached", "seeds": 1 if quick else 3, "n_rows": n_rows["cached"]}]


def measure(name: str, **cell: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = str(Path(folder) / "cache")
        measures: dict[str, Callable[..., dict[str, Any]]] = {
            "blocks": blocks, "probe": probe, "cached": cached, "arithmetic": arithmetic}
        return measures[name](Path(folder), **cell)


def test_rows() -> list[dict[str, str]]:
    return list(read_jsonl(DATA / "sst2" / "validation.jsonl"))


# ---- blocks ----------------------------------------------------------------------------------------------------------


def blocks(folder: Path, system: str, repeat: int, n_rows: int) -> dict[str, Any]:
    rows = sst2_rows(n_rows)
    seconds, answer = (our_blocks if system == "headstart" else their_blocks)(rows, folder)
    test = test_rows()
    right = [a == row["label"] for a, row in zip(answer([row["text"] for row in test]), test, strict=True)]
    n_trained = n_rows * 9 // 10 if system == "headstart" else n_rows
    return {"seconds": seconds, "rows_per_s": N_EPOCHS * n_trained / seconds, "score": sum(right) / len(right)}


def our_blocks(rows: list[dict[str, str]], folder: Path) -> tuple[float, Any]:
    import headstart
    from headstart.runs import fit as workbench  # noqa: F401

    method = {"name": "fine-tuning", "last_blocks": N_MOVING}
    spec = {"data": write_jsonl(folder, train=rows, test=test_rows()), "method": method,
            "train": {"epochs": N_EPOCHS, "patience": N_EPOCHS}, "evaluate": {"baselines": False}}
    artifact = headstart.fit(spec, out=folder / "run")
    return artifact.scores["cost"]["model_seconds"], lambda texts: [one["label"] for one in artifact.predict(texts)]


def their_blocks(rows: list[dict[str, str]], folder: Path) -> tuple[float, Any]:
    from bench import peers

    def freeze(model: Any) -> Any:
        model.bert.embeddings.requires_grad_(False)
        for layer in model.bert.encoder.layer[: 6 - N_MOVING]:
            layer.requires_grad_(False)
        return model

    began: list[float] = []
    answer, _ = peers.trainer(rows, folder, n_warm_up=1, epochs=N_EPOCHS, change=freeze, began=began)
    return began[1] - began[0], answer


# ---- probe -----------------------------------------------------------------------------------------------------------


def probe(folder: Path, repeat: int, n_rows: int) -> dict[str, Any]:
    """Peer, headstart cold, headstart again; the order of the first two alternates."""
    rows = sst2_rows(n_rows)
    systems = [("peer", their_probe), ("headstart", our_probe)][:: -1 if repeat % 2 else 1]
    return {name: timed(run, rows) for name, run in [*systems, ("again", our_probe)]}


def timed(run: Any, rows: list[dict[str, str]]) -> dict[str, float]:
    test = test_rows()
    began = time.perf_counter()
    found = run(rows, test)
    return {"seconds": time.perf_counter() - began,
            "score": float(sum(a == row["label"] for a, row in zip(found, test, strict=True)) / len(test))}


def our_probe(rows: list[dict[str, str]], test: list[dict[str, str]]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from headstart.sklearn import TextFeatures

    pipeline = make_pipeline(TextFeatures(), LogisticRegression(max_iter=1000))
    pipeline.fit([row["text"] for row in rows], [row["label"] for row in rows])
    return pipeline.predict([row["text"] for row in test])


def their_probe(rows: list[dict[str, str]], test: list[dict[str, str]]) -> Any:
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    from headstart.models import backbone

    model = SentenceTransformer(str(backbone.locate("minilm-l6")), local_files_only=True)
    regression = LogisticRegression(max_iter=1000)
    regression.fit(model.encode([row["text"] for row in rows]), [row["label"] for row in rows])
    return regression.predict(model.encode([row["text"] for row in test]))


# ---- cached ----------------------------------------------------------------------------------------------------------


def cached(folder: Path, seeds: int, n_rows: int) -> dict[str, Any]:
    from headstart.studies.compare import compare

    files = {"train": str(DATA / "trec" / "train.jsonl"), "test": str(DATA / "trec" / "test.jsonl")}
    found = {}
    for cache in ("fp16", "off"):
        data = {**files, "limit": n_rows, "validation_limit": 200, "test_limit": 500 if seeds > 1 else 50}
        spec = {"data": data, "train": {"epochs": N_EPOCHS}, "cache": cache}
        began = time.perf_counter()
        table = compare(spec, METHODS, seeds=seeds, out=folder / cache)
        found[cache] = {"seconds": time.perf_counter() - began,
                        "scores": {one["method"]: one["score"] for one in table["sizes"][0]["systems"]}}
    return found


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def arithmetic(folder: Path, repeat: int, n_rows: int) -> dict[str, Any]:
    import numpy as np
    import torch

    peak = peak_flops()
    ours = learner(sst2_rows(n_rows), folder, cache="off", epochs=1)
    job, windows = ours.job, ours.job.windows["train"]
    lengths_N = windows.lengths_N.astype(float)
    forward = forward_flops(job.model.encoder, lengths_N)
    began = time.perf_counter()
    with torch.inference_mode():
        for chosen in np.array_split(np.argsort(lengths_N), max(1, int(lengths_N.sum() // 1024))):
            job.forward.features(windows.batch(chosen).inputs)
    extraction = forward / (time.perf_counter() - began) / peak
    began = time.perf_counter()
    ours.learn(resume=False)
    return {"peak_gflops": peak / 1e9, "extraction": extraction,
            "training": 3 * forward / ours.state.seconds / peak}


def forward_flops(encoder: Any, lengths_N: Any) -> float:
    """Of the products that a BERT computes for windows of these lengths, padding not counted."""
    linear = sum(m.weight.numel() for m in encoder.encoder.modules() if type(m).__name__ == "Linear")
    of_attention = 4 * encoder.config.num_hidden_layers * encoder.config.hidden_size
    return float((lengths_N * (2 * linear + of_attention * lengths_N)).sum())


def peak_flops(size: int = 2048, device: str = "cpu", dtype: str = "float32") -> float:
    """The best of ten products of two square matrices."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


# ---- table -----------------------------------------------------------------------------------------------------------


def table(runs: Sequence[Run]) -> str:
    rows = [*_blocks_rows(runs), *_probe_rows(runs), *_cached_rows(runs), *_arithmetic_rows(runs)]
    return markdown(["what", "headstart", "beside it", "factor or share", "demanded", "met", "scores"], rows)


def _row(what: str, ours: str, theirs: str, factor: float, demand: float, scores: str) -> list[str]:
    return [what, ours, theirs, f"**{factor:.2f}**", f">= {demand:g}", met(factor >= demand), scores]


def _blocks_rows(runs: Sequence[Run]) -> list[list[str]]:
    found = {s: [run.result for run in of(runs, name="blocks", system=s)] for s in ("headstart", "trainer")}
    if not all(found.values()):
        return []
    rate = {s: median(one["rows_per_s"] for one in results) for s, results in found.items()}
    score = {s: median(one["score"] for one in results) for s, results in found.items()}
    return [_row("last two of six blocks, three epochs, rows/s", f"{rate['headstart']:.0f}",
                 f"Trainer {rate['trainer']:.0f}", rate["headstart"] / rate["trainer"], DEMANDED["blocks"],
                 f"{score['headstart']:.4f} against {score['trainer']:.4f}")]


def _probe_rows(runs: Sequence[Run]) -> list[list[str]]:
    found = [run.result for run in of(runs, name="probe")]
    if not found:
        return []
    seconds = {s: median(one[s]["seconds"] for one in found) for s in ("headstart", "peer", "again")}
    scores = f"{found[0]['headstart']['score']:.4f} against {found[0]['peer']['score']:.4f}"
    return [_row("linear probe, end to end, s", f"{seconds['headstart']:.1f}",
                 f"sentence-transformers {seconds['peer']:.1f}", seconds["peer"] / seconds["headstart"],
                 DEMANDED["probe"], scores),
            _row("the same again, s", f"{seconds['again']:.2f}", f"the first time {seconds['headstart']:.1f}",
                 seconds["headstart"] / seconds["again"], DEMANDED["again"], f"{found[0]['again']['score']:.4f}")]


def _cached_rows(runs: Sequence[Run]) -> list[list[str]]:
    return [_row(f"compare, five methods, {run.cell['seeds']} seeds, s", f"{run.result['fp16']['seconds']:.0f}",
                 f"without the cache {run.result['off']['seconds']:.0f}",
                 run.result["off"]["seconds"] / run.result["fp16"]["seconds"], DEMANDED["cached"],
                 "; ".join(f"{m} {run.result['fp16']['scores'][m]:.3f} against {run.result['off']['scores'][m]:.3f}"
                           for m in METHODS)) for run in of(runs, name="cached")]


def _arithmetic_rows(runs: Sequence[Run]) -> list[list[str]]:
    found = [run.result for run in of(runs, name="arithmetic")]
    if not found:
        return []
    peak = median(one["peak_gflops"] for one in found)
    return [_row(f"useful arithmetic in {what}, share of the peak", f"{share * peak:.0f} GFLOP/s",
                 f"peak {peak:.0f} GFLOP/s", share, DEMANDED[what], "")
            for what in ("training", "extraction") for share in [median(one[what] for one in found)]]
