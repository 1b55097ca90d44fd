"""how long until headstart is there

`headstart --help` from the start of the process to its end; `import headstart` inside a running Python. A fresh process
each time, after one that is not counted (it fills the page cache).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench import Cell, Run, markdown, met

LIMITS_S = {"--help": 0.4, "import": 0.3}
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
    return [{"name": name, "n": 3 if quick else 10} for name in LIMITS_S]


def measure(name: str, n: int) -> dict[str, Any]:
    once = _help_s if name == "--help" else _import_s
    once()
    seconds = [once() for _ in range(n)]
    heavy = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stderr.split()
    return {"seconds": seconds, "heavy_modules": heavy}


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


def _import_s() -> float:
    return float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)


def table(runs: Sequence[Run]) -> str:
    what = {"--help": "`headstart --help`, whole process", "import": "`import headstart`"}
    rows = []
    for run in runs:
        name, seconds = run.cell["name"], run.result["seconds"]
        heavy = run.result["heavy_modules"]
        rows.append([what[name], f"{median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}", len(seconds),
                     f"< {LIMITS_S[name]}", ", ".join(heavy) or "none of torch, transformers, sklearn",
                     met(median(seconds) < LIMITS_S[name] and not heavy)])
    return markdown(["what", "median, s", "range, s", "n", "demanded, s", "heavy modules in sys.modules after --help",
                     "met"], rows)
