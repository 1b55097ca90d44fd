"""what a teacher is worth

A teacher (`minilm-l6`) and a student (`minilm-l3`, half of its blocks) learn from the same few labeled rows; the
student also from the teacher's answers to them and to rows of the same source whose labels nobody reads. "Alone" is the
same student from the labels, in as many steps. All are tested on the same rows, which neither has seen; the gain is
that of the first seed, paired, with its 95 % interval. Asked for: a proven gain, and at least 97 % of the teacher's
score at 1.8 times its speed. Speeds are rows a second from text to answer, of the two models as they were fitted.
`HEADSTART_MODELS` must have `minilm-l3` (`headstart models get minilm-l3`).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, shown, sources

# data -> the folder's labeled rows, its test file, what a task is called, and how many labeled rows there are
SOURCES = {"sst2": ("test", "text-classification", 2000), "trec": ("test", "text-classification", 1000),
           "banking77": ("test", "text-classification", 3000), "conll2003": ("test", "token-classification", 2000)}
UNLABELED = {"sst2": (0, 3000, 12_000, 60_000), "trec": (0, 4452), "banking77": (0, 7003), "conll2003": (0, 12_041)}
TEACHER, STUDENT = "minilm-l6", "minilm-l3"
KEPT, FASTER = 0.97, 1.8
QUICK = {"train": {"max_steps": 3}, "data": {"limit": 60, "validation_limit": 20, "test_limit": 20}}


def cells(quick: bool) -> list[Cell]:
    """One student each; those of one data set and seed share a teacher."""
    plan = [{"name": f"{data}_{n}", "data": data, "seed": seed, "labeled": SOURCES[data][2], "unlabeled": n}
            for data, counts in UNLABELED.items() for n in counts for seed in (0, 1, 2)]
    if not quick:
        return plan
    return [{**cell, "labeled": 100, "unlabeled": min(cell["unlabeled"], 50), "quick": True} for cell in plan
            if cell["seed"] == 0 and cell["unlabeled"] in (0, 4452)]


def measure(name: str, data: str, seed: int, labeled: int, unlabeled: int, quick: bool = False) -> dict[str, Any]:
    """A teacher, if this machine has not fitted it before, and a student of it."""
    import headstart

    test, task, _ = SOURCES[data]
    shared = Path(tempfile.gettempdir()) / "headstart-bench-distillation" / f"{data}-{labeled}-{seed}-{sources()}"
    shared.mkdir(parents=True, exist_ok=True)
    train, more = shared / "train.jsonl", shared / f"unlabeled-{unlabeled}.jsonl"
    source = list(_lines(DATA / data / "train.jsonl", labeled + unlabeled))
    train.write_text("".join(source[:labeled]), "utf-8")
    more.write_text("".join(source[labeled:]), "utf-8")
    spec: dict[str, Any] = {"task": task, "data": {"train": str(train), "test": str(DATA / data / f"{test}.jsonl")},
                            "seed": seed}
    if quick:
        spec |= {"train": QUICK["train"], "data": {**spec["data"], **QUICK["data"]}}
    if not (shared / "teacher").exists():
        headstart.fit({**spec, "backbone": TEACHER, "method": "fine-tuning"}, out=shared / "teacher", overwrite=True)
    method = {"name": "distillation", "teacher": str(shared / "teacher"),
              **({"unlabelled": str(more)} if unlabeled else {})}
    with tempfile.TemporaryDirectory() as folder:
        scores = headstart.fit({**spec, "backbone": STUDENT, "method": method}, out=Path(folder) / "run").scores
    taught = scores["teaching"]
    gain = taught["gains"]["student-from-labels"]
    return {"metric": scores["metric"], "score": scores["score"], "teacher": taught["systems"]["teacher"]["score"],
            "alone": taught["systems"]["student-from-labels"]["score"], "gain": gain["difference"],
            "interval": gain["interval"], "p": gain["p"], "kept_share": taught["kept_share"],
            "n_test": scores["n_test"], "n_steps": scores["cost"]["n_steps"],
            "n_unlabeled": taught["n_unlabeled"], "times_faster": taught["student_rows_per_s"]
            / taught["teacher_rows_per_s"], "times_smaller": taught["teacher_bytes"] / taught["student_bytes"],
            "train_seconds": scores["cost"]["train_seconds"], "data": shown(DATA / data)}


def _lines(path: Path, n: int) -> Sequence[str]:
    with path.open(encoding="utf-8") as file:
        return list(itertools.islice(file, n))


def table(runs: Sequence[Run]) -> str:
    rows = []
    for data, n in dict.fromkeys((run.cell["data"], run.cell["unlabeled"]) for run in runs):
        of_cell = sorted(of(runs, data=data, unlabeled=n), key=lambda run: int(run.cell["seed"]))
        results = [run.result for run in of_cell]
        first = results[0]
        low, high = first["interval"]
        kept, faster = (mean(result[name] for result in results) for name in ("kept_share", "times_faster"))
        rows.append([data, of_cell[0].cell["labeled"], first["n_unlabeled"], len(results), first["metric"],
                     *(f"{mean(result[name] for result in results):.4f}" for name in ("teacher", "alone")),
                     f"**{mean(result['score'] for result in results):.4f}**",
                     ", ".join(f"{100 * result['gain']:+.1f}" for result in results),
                     f"[{100 * low:+.1f}, {100 * high:+.1f}]", met(low > 0 and first["p"] <= 0.05), f"{kept:.1%}",
                     f"{faster:.1f}", met(kept >= KEPT and faster >= FASTER), first["n_test"], first["n_steps"]])
    return markdown(["data", "labeled", "unlabeled", "seeds", "metric", "teacher", "student alone", "student",
                     "gain of each seed", "interval, first seed", "proven", "kept", "times faster",
                     f"{KEPT:.0%} at {FASTER}x", "n test", "steps"], rows)
