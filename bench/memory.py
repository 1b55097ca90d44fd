"""a million rows: how much memory, and does time grow in line?

Made-up rows of 15 words, two labels, in a temporary CSV; the backbone is a random BERT of 2 layers, 32 wide, so that
what headstart itself does shows. Peak memory is the kernel's count (ru_maxrss) of the one process that ran the command.
Time of `predict` at growing sizes is taken inside one process, after a warm-up, from the first row read to the last
answer written (use.answers, which is what the command writes out): what a run of any size needs to start is not
in it. Medians over the rounds; sizes take turns within a round.
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
        start = [predict(work, write_rows(work / "1.csv", 1, seed))["wall_s"] for _ in range(rounds)]
        return {"start_s": start, "runs": grow(work, sizes, rounds, seed + 1)}


def fit(work: Path, rows: Path) -> dict[str, Any]:
    return spawn([sys.executable, "-m", "headstart", "fit", str(rows), "--out", str(work / "run"), "--overwrite",
                  "--backbone", str(work / "model"), "--set", "train.epochs=1"])


def predict(work: Path, rows: Path) -> dict[str, Any]:
    return spawn([sys.executable, "-m", "headstart", "predict", str(work / "run"), str(rows),
                  "--out", str(work / "answers.jsonl"), "--overwrite"])


def grow(work: Path, sizes: Sequence[int], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Seconds to answer a file of each size, each `rounds` times."""
    import json

    from headstart.use.answers import answers as answers_of

    def seconds(path: Path) -> dict[str, float]:
        answers = answers_of(work / "run", str(path))
        began, cpu = time.perf_counter(), time.process_time()
        with (work / "answers.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}

    paths = {n: write_rows(work / f"{n}.csv", n, seed) for n in sizes}
    seconds(paths[sizes[0]])
    return [{"n_rows": n, **seconds(path)} for _ in range(rounds) for n, path in paths.items()]


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
    return "\n\n".join((parts if rows else []) + [_growth(run.result) for run in of(runs, name="growth")])


def _growth(found: dict[str, Any]) -> str:
    """Wall and processor time a row at every size."""
    sizes = dict.fromkeys(run["n_rows"] for run in found["runs"])
    per_row = {clock: {n: median(run[clock] for run in found["runs"] if run["n_rows"] == n) / n for n in sizes}
               for clock in ("wall_s", "cpu_s")}
    wall, cpu = per_row["wall_s"], per_row["cpu_s"]
    spread = max(abs(one / wall[max(sizes)] - 1) for one in wall.values())
    rows = [[f"{n:,}", f"{n * wall[n]:.2f}", f"{1e6 * wall[n]:.1f}", f"{wall[n] / wall[max(sizes)] - 1:+.1%}",
             f"{1e6 * cpu[n]:.1f}"] for n in sizes]
    about = (f"`predict` of growing files, medians of {len(found['runs']) // len(sizes)}. Farthest from "
             f"the straight line through the largest: {spread:.1%}; demanded: at most {LIMIT_SPREAD:.0%}; met: "
             f"{met(spread <= LIMIT_SPREAD)}. "
             f"(The whole command with one row: {median(found['start_s']):.1f} s.)")
    header = ["rows", "seconds", "µs a row", "against the largest", "processor µs a row"]
    return about + "\n\n" + markdown(header, rows)
