"""a million rows: how much memory, and does time grow in line?

Made-up rows of 15 words, two labels, in a temporary CSV; the backbone is a random BERT of 2 layers, 32 wide, so that
what headstart itself does shows. Peak memory is the kernel's count (ru_maxrss) of the one process that ran the command.
Time of `predict` at growing sizes is the wall time of the whole command less that of one row (interpreter, imports,
loading, checking the artifact), medians over the rounds; sizes take turns within a round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import ROOT, Cell, Run, markdown, met, of

LIMIT_MB = 3000
LIMIT_SPREAD = 0.10
N_WORDS, N_CUES = 15, 20
CHUNK = 10_000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]  # 3,600 of them; the first 2 * N_CUES tell the label


def cells(quick: bool) -> list[Cell]:
    n, sizes, rounds = (5000, [500, 1000, 2000], 1) if quick else (1_000_000, [10_000, 20_000, 50_000, 100_000], 5)
    return [{"name": "growth", "sizes": sizes, "rounds": rounds, "seed": 0},
            {"name": "predict", "n_rows": n, "seed": 0}, {"name": "fit", "n_rows": n, "seed": 0}]


def measure(name: str, seed: int, n_rows: int = 0, sizes: Sequence[int] = (), rounds: int = 0) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # In a process of its own: Linux counts the memory of the process that forked into its child's peak.
        spawn([sys.executable, "-c", f"import bench.memory as m; m.write_model({str(work / 'model')!r})"])
        if name == "fit":
            return fit(work, write_rows(work / "rows.csv", n_rows, seed)) | {"rows_mb": _mb(work / "rows.csv")}
        fit(work, write_rows(work / "few.csv", 2000, seed))
        if name == "predict":
            found = predict(work, write_rows(work / "rows.csv", n_rows, seed + 1))
            with (work / "answers.jsonl").open() as file:
                assert sum(1 for _ in file) == n_rows, "every row was answered"
            return found | {"rows_mb": _mb(work / "rows.csv")}
        paths = {n: write_rows(work / f"{n}.csv", n, seed + 1) for n in (1, *sizes)}
        return {"runs": [{"n_rows": n, **predict(work, path)} for _ in range(rounds) for n, path in paths.items()]}


def fit(work: Path, rows: Path) -> dict[str, Any]:
    return spawn([sys.executable, "-m", "headstart", "fit", str(rows), "--out", str(work / "run"), "--overwrite",
                  "--backbone", str(work / "model"), "--set", "train.epochs=1"])


def predict(work: Path, rows: Path) -> dict[str, Any]:
    return spawn([sys.executable, "-m", "headstart", "predict", str(work / "run"), str(rows),
                  "--out", str(work / "answers.jsonl")])


def spawn(command: list[str]) -> dict[str, Any]:
    """Wall seconds, processor seconds and peak memory of one command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"wall_s": time.perf_counter() - began, "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_rss_mb": usage.ru_maxrss / 1024}


def write_rows(path: Path, n: int, seed: int) -> Path:
    """`n` rows of random words, one of which tells the label."""
    import numpy as np

    rng = np.random.default_rng(seed)
    words, labels = np.array(WORDS), ("negative", "positive")
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for at in range(0, n, CHUNK):
            some = min(CHUNK, n - at)
            text_NT = rng.integers(2 * N_CUES, len(words), (some, N_WORDS))
            label_N = np.arange(some) % 2
            text_NT[np.arange(some), rng.integers(0, N_WORDS, some)] = label_N * N_CUES + rng.integers(0, N_CUES, some)
            file.writelines(f"{' '.join(words[line])},{labels[k]}\n" for line, k in zip(text_NT, label_N, strict=True))
    return path


def write_model(folder: str) -> None:
    """A tiny random BERT that knows these words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64)).save_pretrained(folder)
    tokenizer.save(f"{folder}/tokenizer.json")


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


def table(runs: Sequence[Run]) -> str:
    rows = [[f"`headstart {run.cell['name']}`", f"{run.cell['n_rows']:,}", f"{run.result['rows_mb']:.0f}",
             f"**{run.result['peak_rss_mb']:,.0f}**", f"< {LIMIT_MB:,}", met(run.result["peak_rss_mb"] < LIMIT_MB),
             f"{run.result['wall_s']:.0f}", f"{run.cell['n_rows'] / run.result['wall_s']:,.0f}"]
            for run in runs if run.cell["name"] != "growth"]
    parts = [markdown(["command", "rows", "CSV, MB", "peak memory, MiB", "demanded", "met", "wall s", "rows/s"], rows)]
    return "\n\n".join((parts if rows else []) + [_growth(run.result["runs"]) for run in of(runs, name="growth")])


def _growth(runs: list[dict[str, Any]]) -> str:
    walls = {n: median(r["wall_s"] for r in runs if r["n_rows"] == n) for n in dict.fromkeys(r["n_rows"] for r in runs)}
    start_s = walls.pop(1)
    per_row = {n: (wall - start_s) / n for n, wall in walls.items()}
    spread = max(per_row.values()) / min(per_row.values()) - 1
    peaks = {n: max(r["peak_rss_mb"] for r in runs if r["n_rows"] == n) for n in walls}
    rows = [[f"{n:,}", f"{wall:.2f}", f"{wall - start_s:.2f}", f"{1e6 * per_row[n]:.1f}",
             f"{per_row[n] / per_row[max(per_row)] - 1:+.1%}", f"{peaks[n]:,.0f}"] for n, wall in walls.items()]
    n_rounds = len(runs) // (len(walls) + 1)
    about = (f"`headstart predict` of growing files, medians of {n_rounds}; one row takes {start_s:.2f} s, which is "
             f"subtracted. Time a row: slowest over fastest size {spread:+.1%}; demanded: at most {LIMIT_SPREAD:.0%}; "
             f"met: {met(spread <= LIMIT_SPREAD)}.")
    header = ["rows", "wall s", "less start-up", "µs a row", "against the largest", "peak memory, MiB"]
    return about + "\n\n" + markdown(header, rows)
