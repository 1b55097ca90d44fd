"""python -m bench [NAME ...] [--quick] [--fresh] [--stale] [--only NAME,...] [--seeds 0,...]: see bench/__init__.py."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import bench


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure headstart beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(bench.NAMES)}; all when none")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, results to a temporary folder")
    parser.add_argument("--fresh", action="store_true", help="forget the finished cells that were chosen")
    parser.add_argument("--only", default="", metavar="NAME,...", help="only cells of these names")
    parser.add_argument("--seeds", default="", metavar="N,...", help="only cells of these seeds")
    parser.add_argument("--list", action="store_true", help="print the cells and whether they are finished")
    parser.add_argument("--stale", action="store_true", help="say what is older than the code, and measure nothing")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "CELL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        bench.measure_here(args.measure[0], json.loads(args.measure[1]))
        return 0
    if unknown := set(args.names) - set(bench.NAMES):
        parser.error(f"no bench is called {', '.join(sorted(unknown))}; there are: {', '.join(bench.NAMES)}")
    if args.stale:
        for name in args.names or bench.NAMES:
            if (bench.RESULTS / f"{name}.md").exists():
                print(f"{name}: {bench.write_age(bench.RESULTS, name, *known(name, bench.RESULTS))}")
        return 0
    folder = Path(tempfile.gettempdir()) / "headstart-bench-quick" if args.quick else bench.RESULTS
    failed = [name for name in args.names or bench.NAMES if not run(name, folder, args)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def known(name: str, folder: Path) -> tuple[list[bench.Run], int]:
    """The finished runs of a bench, and how many of its cells were never run."""
    module = importlib.import_module(f"bench.{name}")
    on_request, planned = getattr(module, "ON_REQUEST", ()), module.cells(False)
    done = bench.finished(folder / f"{name}.jsonl")
    missing = sum(bench.key(cell) not in done and cell["name"] not in on_request for cell in planned)
    return [done[bench.key(cell)] for cell in planned if bench.key(cell) in done], missing


def run(name: str, folder: Path, args: argparse.Namespace) -> bool:
    """Measure what is missing of one bench and write its table. False when a cell failed."""
    module = importlib.import_module(f"bench.{name}")
    raw = folder / f"{name}.jsonl"
    on_request = getattr(module, "ON_REQUEST", ())  # names of cells that are measured only when --only asks
    planned = module.cells(args.quick)
    chosen = [cell for cell in planned if is_chosen(cell, args, on_request)]
    done = bench.finished(raw)
    if args.list:
        for cell in chosen:
            print(name, "finished" if bench.key(cell) in done else "to do   ", json.dumps(cell, ensure_ascii=False))
        return True
    if args.fresh or args.quick:
        for cell in chosen:
            done.pop(bench.key(cell), None)
    folder.mkdir(parents=True, exist_ok=True)
    all_well = True
    to_do = [cell for cell in chosen if bench.key(cell) not in done]
    python = bench.peers_python() if to_do and getattr(module, "NEEDS_PEERS", False) else sys.executable
    for i, cell in enumerate(to_do, 1):
        print(f"{name} {i}/{len(to_do)} {json.dumps(cell, ensure_ascii=False)}", file=sys.stderr, flush=True)
        try:
            one = bench.measure_apart(name, cell, python)
        except subprocess.CalledProcessError as error:
            print(f"{name}: this cell failed (exit {error.returncode}) and is left out", file=sys.stderr)
            all_well = False
            continue
        done[bench.key(cell)] = one
        with raw.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
        print(f"  {one.seconds:.0f} s", json.dumps(one.result, ensure_ascii=False)[:200], file=sys.stderr, flush=True)
    runs = [done[bench.key(cell)] for cell in planned if bench.key(cell) in done]
    if runs:
        title, _, about = (module.__doc__ or "").partition("\n")
        command = f"python -m bench {name}" + (" --quick" if args.quick else "")
        missing = sum(bench.key(cell) not in done and cell["name"] not in on_request for cell in planned)
        print(bench.write(folder, name, title, f"{about.strip()}\n\n{module.table(runs)}", runs, command, missing))
    return all_well


def is_chosen(cell: bench.Cell, args: argparse.Namespace, on_request: tuple[str, ...]) -> bool:
    """Whether this call is to measure `cell`."""
    only, seeds = args.only.split(",") if args.only else [], args.seeds.split(",") if args.seeds else []
    return ((cell["name"] in only if only else cell["name"] not in on_request)
            and (not seeds or str(cell.get("seed")) in seeds))


if __name__ == "__main__":
    sys.exit(main())
