"""how long until headstart is there

`headstart --help` from the start of the process to its end; `import headstart` inside a running Python. A fresh process
each time, after one that is not counted (it fills the page cache). Few rows: all of `headstart fit` on 300 rows of
TREC to the certificate, cache empty, and its first sign of life.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, Cell, Run, markdown, met, read_jsonl

LIMITS_S = {"--help": 0.4, "import": 0.3}
FEW_S = {"auto": 12.0, "linear-probe": 6.0}  # a whole fit; its first line within FIRST_S
FIRST_S, N_FEW = 1.0, 300
IMPORT = "import time; began = time.perf_counter(); import headstart; print(time.perf_counter() - began)"
LOADED = """
import sys
from headstart.cli import main
sys.argv = ["headstart", "--help"]
try:
    main()
finally:
    print(*sorted({"torch", "transformers", "sklearn"} & sys.modules.keys()), file=sys.stderr)
"""


def cells(quick: bool) -> list[Cell]:
    few = [] if quick else [{"name": "few-rows", "method": method, "n": 3} for method in FEW_S]
    return [{"name": name, "n": 3 if quick else 10} for name in LIMITS_S] + few


def measure(name: str, n: int, method: str = "") -> dict[str, Any]:
    if name == "few-rows":
        return _few_rows(method, n)
    once = _help_s if name == "--help" else _import_s
    once()
    seconds = [once() for _ in range(n)]
    heavy = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stderr.split()
    return {"seconds": seconds, "heavy_modules": heavy}


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


def _few_rows(method: str, n: int) -> dict[str, Any]:
    """Seconds to the first line on stderr and to the end of `headstart fit`, each time anew."""
    first_s, seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = itertools.islice(read_jsonl(DATA / "trec" / "train.jsonl"), N_FEW)
        (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        for i in range(n + 1):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "headstart", "fit", str(folder / "few.jsonl"), "--method", method, "--out",
                 str(folder / f"run{i}")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "HEADSTART_CACHE": str(folder / f"cache{i}")})
            assert process.stderr is not None
            process.stderr.readline()
            first_s.append(time.perf_counter() - began)
            _, stderr = process.communicate()
            assert process.returncode == 0, stderr
            seconds.append(time.perf_counter() - began)
        scores = json.loads((folder / "run1" / "scores.json").read_text("utf-8"))
    return {"first_s": first_s[1:], "seconds": seconds[1:], "train_s": scores["cost"]["train_seconds"]}


def _import_s() -> float:
    return float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)


def table(runs: Sequence[Run]) -> str:
    what = {"--help": "`headstart --help`, whole process", "import": "`import headstart`"}
    rows, few = [], []
    for run in runs:
        if run.cell["name"] == "few-rows":
            limit, result = FEW_S[run.cell["method"]], run.result
            few.append([f"`headstart fit`, {N_FEW} rows, {run.cell['method']}", f"{median(result['first_s']):.2f}",
                        f"{median(result['seconds']):.1f}", f"{result['train_s']:.1f}", f"< {FIRST_S:g}, < {limit:g}",
                        met(median(result["seconds"]) < limit and median(result["first_s"]) < FIRST_S)])
            continue
        name, seconds = run.cell["name"], run.result["seconds"]
        heavy = run.result["heavy_modules"]
        rows.append([what[name], f"{median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}", len(seconds),
                     f"< {LIMITS_S[name]}", ", ".join(heavy) or "none of torch, transformers, sklearn",
                     met(median(seconds) < LIMITS_S[name] and not heavy)])
    parts = [markdown(["what", "median, s", "range, s", "n", "demanded, s",
                       "heavy modules in sys.modules after --help", "met"], rows)]
    if few:
        parts.append(markdown(["what", "first line, s", "whole command, s", "of which training, s", "demanded, s",
                               "met"], few))
    return "\n\n".join(parts)
