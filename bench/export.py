"""what is shipped: an exported run beside the run itself and the transformers pipeline

The same MiniLM-L6, fitted once to SST-2 with the family's own head (so that transformers reads it too), answers through
each system. One text: a validation text a call, in process, median of the calls; short ones have five to nine words,
as in the bench serve. Bulk: SST-2's train texts that were not fitted to, of one to fifty words, the pipeline at the
best of its batch sizes; "bare onnxruntime" is a loop without headstart: tokenizers, sorted batches of 32, the exported
file. Start: a fresh process until its first answer is there, and its peak memory. Score: accuracy on SST-2's
validation rows. Medians of the rounds, each in a fresh process. The machine's speed drifts from round to round, so
systems are compared within a round.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, PUBLISHED, ROOT, Cell, Run, markdown, met, of, read_jsonl, write_jsonl
from bench.memory import spawn
from bench.serve import N_WORDS

SYSTEMS = {"onnx-fp32": "headstart, exported", "onnx-int8": "headstart, exported in 8 bits",
           "torch": "headstart, the run itself", "transformers": "transformers pipeline on torch",
           "onnxruntime": "bare onnxruntime"}
FOLDERS = {"onnx-fp32": "run-onnx", "onnx-int8": "run-int8", "onnxruntime": "run-onnx"}
BATCH_SIZES = (1, 8, 32, 64)
FIT = """
import json, sys, headstart
folder, data, max_loss = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
run = headstart.fit({"backbone": "minilm-l6", "task": "text-classification", "method": "fine-tuning",
                     "head": {"pooling": "native"}, "data": {**data, "near_duplicate": 1},
                     "train": {"epochs": 1}, "evaluate": {"baselines": False}}, out=folder + "/run", overwrite=True)
headstart.export(run.folder, overwrite=True)
headstart.export(run.folder, int8=True, rows=data["validation"], max_loss=max_loss, overwrite=True)
"""
START = {
    "headstart": "import sys, headstart; print(headstart.load(sys.argv[1]).predict(['a good film']))",
    "transformers": "import sys; from transformers import pipeline\n"
                    "print(pipeline('text-classification', sys.argv[1], device='cpu')('a good film'))",
}
Answer = Callable[[Sequence[str]], list[str]]


def cells(quick: bool) -> list[Cell]:
    rounds, n_train, n_single, n_bulk = (1, 200, 20, 100) if quick else (3, 8000, 500, 10_000)
    return [{"name": name, "round": i, "n_train": n_train, "n_single": n_single, "n_bulk": n_bulk}
            for i in range(rounds) for name in SYSTEMS]


def measure(name: str, round: int, n_train: int, n_single: int, n_bulk: int) -> dict[str, Any]:
    folder = prepared(n_train) / FOLDERS.get(name, "run")
    kind = "transformers" if name == "transformers" else "headstart"
    start = None if name == "onnxruntime" else [spawn([sys.executable, "-c", START[kind], str(folder)])
                                                for _ in range(2)][-1]  # the first fills the page cache
    rows = list(read_jsonl(DATA / PUBLISHED["sst2"][1]))
    texts = [row["text"] for row in rows]
    answer = OPENED[name](folder)
    short = [text for text in texts if len(text.split()) in N_WORDS]
    mixed = mixed_lengths(n_train, n_bulk)
    speeds = {size: n_bulk / timed(lambda size=size: OPENED[name](folder, size)(mixed))  # type: ignore[misc]
              for size in (best_size(folder, mixed), )} if name == "transformers" else {
                  0: n_bulk / timed(lambda: answer(mixed))}
    said = answer(texts)
    return {"short_p50_ms": p50_ms(answer, short, n_single), "any_p50_ms": p50_ms(answer, texts, n_single),
            "texts_per_s": max(speeds.values()), "batch_size": max(speeds),
            "accuracy": sum(a == row["label"] for a, row in zip(said, rows, strict=True)) / len(rows),
            "start": start, "bytes": shipped_bytes(name, folder)}


def prepared(n_train: int) -> Path:
    """The folder with the run and its exports; made once, in a process of its own."""
    folder = ROOT / "runs" / f"bench-export-{n_train}"
    if not (folder / "run-int8").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, test = (list(read_jsonl(DATA / path)) for path in PUBLISHED["sst2"])
        random.Random(0).shuffle(train)
        n_validation = max(100, n_train // 2)  # many: they are what 8 bits are proven on
        data = write_jsonl(folder, train=train[:n_train], validation=train[n_train : n_train + n_validation],
                           test=test if n_train > 1000 else test[:100])
        subprocess.run([sys.executable, "-c", FIT, str(folder), json.dumps(data), "0.5" if n_train > 1000 else "100"],
                       check=True, stdout=sys.stderr)
    return folder


def p50_ms(answer: Answer, texts: Sequence[str], n: int) -> float:
    """Milliseconds of one text a call, the median of `n` calls; those that warm up are not counted."""
    seconds = [timed(lambda one=one: answer([one])) for one in itertools.islice(  # type: ignore[misc]
        itertools.cycle(texts), n + 5)]
    return 1000 * median(seconds[5:])


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def mixed_lengths(n_train: int, n: int) -> list[str]:
    """Texts that `prepared` neither trained nor validated on, as they come."""
    rows = list(read_jsonl(DATA / PUBLISHED["sst2"][0]))
    random.Random(0).shuffle(rows)
    return [row["text"] for row in rows[2 * n_train :][:n]]


def best_size(folder: Path, mixed: Sequence[str]) -> int:
    """The pipeline's best batch size on a tenth of the texts."""
    some = mixed[: max(32, len(mixed) // 10)]
    return min(BATCH_SIZES, key=lambda size: timed(lambda: pipeline(folder, size)(some)))


def ours(folder: Path, size: int = 0) -> Answer:
    import headstart

    loaded = headstart.load(folder)
    return lambda texts: [one["label"] for one in loaded.predict(texts)]


def pipeline(folder: Path, size: int = 1) -> Answer:
    import transformers

    pipe = transformers.pipeline("text-classification", str(folder), device="cpu")
    return lambda texts: [one["label"] for one in pipe(list(texts), batch_size=size, truncation=True, max_length=256)]


def bare(folder: Path, size: int = 32) -> Answer:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    from headstart.core import machine

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.usable_cpus()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    labels = json.loads((folder / "task.json").read_text("utf-8"))["fields"]["labels"]

    def answer(texts: Sequence[str]) -> list[str]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        said = [""] * len(texts)
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            read = tokenizer.encode_batch([texts[i] for i in chosen])
            inputs = {"input_ids": np.array([one.ids for one in read]),
                      "attention_mask": np.array([one.attention_mask for one in read])}
            for i, k in zip(chosen, session.run(None, inputs)[0].argmax(1), strict=True):
                said[i] = labels[k]
        return said

    return answer


OPENED: dict[str, Callable[..., Answer]] = {"onnx-fp32": ours, "onnx-int8": ours, "torch": ours,
                                            "transformers": pipeline, "onnxruntime": bare}


def shipped_bytes(name: str, folder: Path) -> int:
    kept = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if name != "transformers" or path.name in kept)


def table(runs: Sequence[Run]) -> str:
    def middle(name: str, key: str) -> float:
        return median([float(run.result[key]) for run in of(runs, name=name)] or [float("nan")])

    rows = []
    for name, title in SYSTEMS.items():
        found = of(runs, name=name)
        if not found:
            continue
        starts = [run.result["start"] for run in found if run.result["start"]]
        rows.append([title, f"{middle(name, 'short_p50_ms'):.1f}", f"{middle(name, 'any_p50_ms'):.1f}",
                     f"{middle(name, 'texts_per_s'):,.0f}",
                     f"{middle(name, 'accuracy'):.4f}", f"{middle(name, 'bytes') / 1e6:.1f}",
                     f"{median(s['wall_s'] for s in starts):.2f}" if starts else "",
                     f"{median(s['peak_rss_mb'] for s in starts):.0f}" if starts else "", len(found)])
    first = markdown(["system", "short text, p50, ms", "any text, p50, ms", "bulk, texts/s", "accuracy", "shipped, MB",
                      "start to first answer, s", "peak memory then, MB", "rounds"], rows)
    speed, waits = "texts_per_s", {"short_p50_ms": "one short text", "any_p50_ms": "one text"}
    demanded = {("short_p50_ms", "onnx-fp32"): 3.0}
    checks = [*((f"{what}{words} beside the pipeline", key, "transformers", ours, demanded.get((key, ours)))
                for key, what in waits.items() for ours, words in (("onnx-fp32", ""), ("onnx-int8", " in 8 bits"))),
              ("bulk beside the pipeline", speed, "onnx-fp32", "transformers", 3.0),
              ("bulk in 8 bits beside the pipeline", speed, "onnx-int8", "transformers", None),
              ("bulk beside bare onnxruntime", speed, "onnx-fp32", "onnxruntime", 1.0),
              ("bulk, 8 bits beside 32", speed, "onnx-int8", "onnx-fp32", 1.4)]
    lines = []
    for what, key, over, under, wanted in checks:
        both = [{run.cell["round"]: float(run.result[key]) for run in of(runs, name=name)} for name in (over, under)]
        ratios = [both[0][i] / both[1][i] for i in sorted(both[0].keys() & both[1].keys())]
        if ratios:
            lines.append([what, f"{median(ratios):.2f}", ", ".join(f"{one:.2f}" for one in ratios),
                          *((f"{wanted:.1f}", met(median(ratios) >= wanted)) if wanted else ("", ""))])
    second = markdown(["what", "times as fast", "by round", "demanded", "met"], lines)
    return f"{first}\n\n{second}"
