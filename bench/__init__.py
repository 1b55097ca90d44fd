"""headstart beside its peers on the same work: one file a bench, one command a table.

    python -m bench speed         bench/results/speed.md, and every raw run as a line of speed.jsonl
    python -m bench --quick       every bench at a tiny size, to a temporary folder: does it still run?
    python -m bench --stale       say, here and in each table, what is older than the code and what was never run

A bench is a module with a docstring (the table's title and what it shows) and three functions:

    cells(quick)     what is to be measured, in that order: JSON mappings whose "name" `--only` chooses by
    measure(**cell)  measure one of them, in a process of its own: fresh threads, fresh memory, no other's caches
    table(runs)      Markdown of what was measured so far

NEEDS_PEERS = True in a module lets its cells run in .venv-peers, which holds headstart and what bench/peers.txt names;
it is made when it is first needed.

A cell is its own key: finished ones are skipped, so an interrupted bench goes on where it was. `--fresh` starts over.
This file is imported before every measurement, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DATA = Path(os.environ.get("HEADSTART_BENCH_DATA", ROOT.parent / "shared" / "data")).resolve()
NAMES = ("start", "coverage", "folds", "guard", "linear", "flips", "export", "padding", "speed", "speed_score",
         "memory", "precision", "frozen", "few", "reach", "defaults", "distillation", "quality", "understanding",
         "task_speed", "writing", "serve", "ensembles", "reading")  # the cheap ones first
PUBLISHED = {"trec": ("trec/train.jsonl", "trec/test.jsonl"), "sst2": ("sst2/train.jsonl", "sst2/validation.jsonl"),
             "banking77": ("banking77/train.jsonl", "banking77/test.jsonl")}  # train rows, rows to test on

AGE = "Beside the code"  # the line of a table that says whether it is older

Cell = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One measured cell, and on what.

    others_share: share of the processors' time that went to anyone but us while it ran: was the machine quiet?
    sources:      the first digits of the sha256 of all of headstart's source files.
    """

    cell: Cell
    result: dict[str, Any]
    seconds: float
    others_share: float
    finished: str
    machine: dict[str, Any]
    versions: dict[str, str]
    sources: str


def key(cell: Cell) -> str:
    """What makes two cells the same."""
    return json.dumps(cell, sort_keys=True)


def finished(path: Path) -> dict[str, Run]:
    """The runs that a .jsonl file holds, by their key; of two with one key the later."""
    if not path.exists():
        return {}
    runs = [Run(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return {key(run.cell): run for run in runs}


def peers_python() -> str:
    """The interpreter of the environment that has the peers beside headstart."""
    python = ROOT / ".venv-peers" / "bin" / "python"
    ready = ROOT / ".venv-peers" / "ready"
    if not ready.exists():
        print("making .venv-peers", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv-peers")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt",
                        "--editable", ".[train,demo]", "--requirement", "bench/peers.txt"], cwd=ROOT, check=True)
        ready.touch()
    return str(python)


def measure_apart(bench: str, cell: Cell, python: str = sys.executable) -> Run:
    """Measure one cell in a fresh process; what it prints goes to our stderr.

    Raises CalledProcessError when it fails.
    """
    began, busy = time.perf_counter(), _busy_s()
    command = [python, "-m", "bench", "--measure", bench, json.dumps(cell)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    out = process.communicate()[0]
    seconds = time.perf_counter() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    *noise, last = out.splitlines()
    print(*noise, sep="\n", end="\n" if noise else "", file=sys.stderr)
    answer = json.loads(last)
    others_s = max(0.0, _busy_s() - busy - answer.pop("own_s"))
    return Run(cell=cell, seconds=round(seconds, 1), sources=sources(),
               others_share=round(others_s / (seconds * (os.cpu_count() or 1)), 3),
               finished=datetime.now(UTC).isoformat(timespec="seconds"), **answer)


def measure_here(bench: str, cell: Cell) -> None:
    """The other end of `measure_apart`: the last line of stdout is the result and what it was measured on."""
    import importlib

    result = importlib.import_module(f"bench.{bench}").measure(**cell)
    import torch

    from headstart.core import machine

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = os.times()
    print(json.dumps({"result": result, "machine": machine.describe(device) | {"n_cores": os.cpu_count()},
                      "versions": machine.versions(), "own_s": sum(times[:4])}))


def age(runs: Sequence[Run], missing: int) -> str:
    """How many of `runs` measured other sources than today's, and how many cells were never run."""
    now = sources()
    n = sum(run.sources != now for run in runs)
    return (f"{n} of {len(runs)} runs are older than the code" if n else "no run is older than the code"
            ) + (f"; cells never run: {missing}" if missing else "")


def write_age(folder: Path, bench: str, runs: Sequence[Run], missing: int) -> str:
    """Bring the line of NAME.md that says how old it is up to date. Returns what it says."""
    path, line = folder / f"{bench}.md", f"- {AGE}: {age(runs, missing)}"
    lines = [old for old in path.read_text("utf-8").splitlines() if not old.startswith(f"- {AGE}: ")]
    path.write_text("\n".join([*lines, line]) + "\n", "utf-8")
    return line.removeprefix(f"- {AGE}: ")


def write(folder: Path, bench: str, title: str, body: str, runs: Sequence[Run], command: str, missing: int) -> str:
    """NAME.md: what was measured, how and on what. Returns its text."""
    machines = _distinct(f"{r.machine['cpu']}, {r.machine['n_cores']} cores, {r.machine['n_threads']} threads, "
                         f"device {r.machine['device']}, {r.machine['platform']}" for r in runs)
    versions = _distinct(", ".join(f"{name} {version}" for name, version in r.versions.items()) for r in runs)
    seeds = sorted({r.cell["seed"] for r in runs if "seed" in r.cell})
    busiest = max(runs, key=lambda r: r.others_share)
    facts = {
        "Command": f"`{command}`", "Machine": machines, "Versions": versions,
        "Sources of headstart": _distinct(r.sources for r in runs),
        "Date": " to ".join(dict.fromkeys(f([r.finished for r in runs])[:16].replace("T", " ") for f in (min, max)))
                + " UTC",
        "Runs": f"{len(runs)}, each in a fresh process, {sum(r.seconds for r in runs) / 60:.1f} minutes together"
                + (f"; seeds {seeds}" if seeds else ""),
        "Other processes": f"took {median(r.others_share for r in runs):.1%} of the processors' time (median "
                           f"of the runs), at most {busiest.others_share:.1%} (in `{json.dumps(busiest.cell)[:120]}`)",
        AGE: age(runs, missing),
    }
    text = f"# {bench}: {title}\n\n{body.strip()}\n\n" + "\n".join(f"- {k}: {v}" for k, v in facts.items()) + "\n"
    (folder / f"{bench}.md").write_text(text, "utf-8")
    return text


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers come formatted."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(value).replace("|", "\\|") for value in line) + " |" for line in lines)


def of(runs: Iterable[Run], **fields: Any) -> list[Run]:
    """The runs whose cells have these values."""
    return [run for run in runs if all(run.cell.get(k) == v for k, v in fields.items())]


def met(condition: bool) -> str:
    """How every table says whether a demand was met."""
    return "yes" if condition else "**NO**"


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of the shared data."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_jsonl(folder: Path, **parts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Write the rows of each part to a file in `folder`; returns the files, as a Spec's data names them."""
    paths = {part: folder / f"{part}.jsonl" for part in parts}
    for part, rows in parts.items():
        paths[part].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return {part: str(path) for part, path in paths.items()}


def shown(path: Path) -> str:
    """A path as a table names it: beside the repository, not on this machine."""
    return os.path.relpath(path, ROOT)


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _busy_s() -> float:
    """Seconds that all processors together were not idle since boot (0 where the kernel does not say)."""
    try:
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    return float(sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def sources() -> str:
    """The first digits of the sha256 of all of headstart's source files, as they are now."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "headstart").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
