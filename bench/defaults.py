"""what the defaults were chosen by

Each setting is changed alone; everything else stays as it is by default. The published test rows are never looked at
here, so that `quality` stays a test: all rows come from the published train files.

- sst2: 3,000 test rows of at least 15 words; 10,000 train rows, the first that share no four words in a row with any of
  them. (SST-2's train rows are phrases of the same sentences: without this, settings that learn phrases by heart win.)
- banking77: 2,500 test rows drawn at random, the other 7,503 to train.

The differences are paired: both models answered the same test rows. What takes longest is measured only on request:
`python -m bench defaults --only lr,average,...`.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown, of, read_jsonl

ON_REQUEST = ("lr", "epochs", "batch", "dropout", "smoothing", "average", "layers", "share", "embeddings",
              "head", "thorough")
N_SHARED_WORDS, MIN_TEST_WORDS = 4, 15
SIZES = {"sst2": (10_000, 3000), "banking77": (7503, 2500)}  # train, test
MOVING = {"train.dropout": 0.1, "method.freeze_embeddings": False}
THOROUGH = MOVING | {"train.tokens_per_batch": 256}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "default": [{}],
    "pooling": [{"head.pooling": pooling} for pooling in ("first", "max", "native")],
    "lr": [{"train.lr": lr} for lr in (3e-4, 2e-4, 5e-5)],
    "epochs": [{"train.epochs": 5}],
    "batch": [{"train.tokens_per_batch": budget} for budget in (256, 1024)],
    "dropout": [{"train.dropout": 0.1}],
    "smoothing": [{"train.label_smoothing": 0}],
    "average": [{"method.average": average} for average in ("none", "ema", "swa", "soup")],
    "layers": [{"method.layer_decay": decay} for decay in (0.9, 0.8)],
    "share": [{"data.validation_share": 0.05}],
    "embeddings": [{"method.freeze_embeddings": False}],
    "head": [{"method.head_first": False}],
    "thorough": [MOVING, THOROUGH,  # the last: as the Trainer by default
                 THOROUGH | {"train.lr": 5e-5, "train.label_smoothing": 0, "method.head_first": False,
                             "method.average": "none"}],
}
ON_BANKING77 = ("default", "lr", "smoothing", "average")  # the other settings are compared on sst2 alone


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "change": change, "data": data, "seed": 0,
             "n_train": 200 if quick else SIZES[data][0], "n_test": 50 if quick else SIZES[data][1]}
            for name, changes in VARIANTS.items() for change in (changes[:1] if quick else changes)
            for data in SIZES if data == "sst2" or name in ON_BANKING77]


def measure(name: str, change: dict[str, Any], data: str, seed: int, n_train: int, n_test: int) -> dict[str, Any]:
    import headstart
    from headstart.core import spec as specs

    rows = list(read_jsonl(DATA / data / "train.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        train, test = (unseen_sentences if data == "sst2" else drawn)(rows, n_train, n_test)
        for part, chosen in (("train", train), ("test", test)):
            paths[f"data.{part}"] = str(Path(folder) / f"{part}.jsonl")
            Path(paths[f"data.{part}"]).write_text("".join(json.dumps(r) + "\n" for r in chosen), "utf-8")
        settings = {**paths, "method.name": "fine-tuning", "evaluate.baselines": False, **change}
        given = specs.parse_set([f"{k}={json.dumps(v)}" for k, v in settings.items()])
        artifact = headstart.fit({**given, "seed": seed}, out=Path(folder) / "run")
        answers = artifact.predict([row["text"] for row in test])
    scores = artifact.scores
    return {"score": scores["score"], "interval": scores["interval"], "train_seconds": scores["cost"]["train_seconds"],
            "n_train": scores["data"]["n_train"], "n_test": scores["n_test"],
            "right": "".join("01"[a["label"] == row["label"]] for a, row in zip(answers, test, strict=True)),
            "curve": [e["scores"][scores["metric"]] for e in scores["curve"]]}


def drawn(rows: list[dict[str, Any]], n_train: int, n_test: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = random.Random(1).sample(rows, n_train + n_test)
    return rows[n_test:], rows[:n_test]


def unseen_sentences(rows: list[dict[str, Any]], n_train: int, n_test: int) -> tuple[list[dict[str, Any]], ...]:
    """The first `n_train` rows that share no four words in a row with any of the `n_test` rows."""
    long = [i for i, row in enumerate(rows) if len(row["text"].split()) >= MIN_TEST_WORDS]
    test = random.Random(1).sample(long, n_test)
    taken = {words for i in test for words in runs_of_words(rows[i]["text"])}
    train = [row for row in rows if taken.isdisjoint(runs_of_words(row["text"]))]
    return train[:n_train], [rows[i] for i in test]


def runs_of_words(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[j : j + N_SHARED_WORDS]) for j in range(len(words) - N_SHARED_WORDS + 1))


def table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        cell, found = run.cell, run.result
        default = of(runs, change={}, data=cell["data"])
        changed = ", ".join(f"{k}={json.dumps(v)}" for k, v in cell["change"].items())
        low, high = found["interval"]
        rows.append([cell["data"], changed or "**default**", f"{found['score']:.4f} [{low:.3f}, {high:.3f}]",
                     difference(found["right"], default[0].result["right"]) if default and cell["change"] else "",
                     " ".join(f"{score:.3f}" for score in found["curve"]), f"{found['train_seconds']:.0f}"])
    sizes = "; ".join(f"{run.cell['data']}: {run.result['n_train']:,} train (less what validation took) and "
                      f"{run.result['n_test']:,} test rows" for run in of(runs, change={}))
    header = ["data", "changed", "accuracy [interval]", "over the default, points [interval]",
              "validation, before and after each epoch", "train s"]
    return f"{sizes}.\n\n" + markdown(header, sorted(rows, key=lambda row: str(row[0]), reverse=True))


def difference(right: str, default: str) -> str:
    """The paired difference in points, with its interval."""
    from headstart.core.statistics import share_difference

    both = list(zip(right, default, strict=True))
    gain = share_difference(both.count(("1", "0")), both.count(("0", "1")), len(both))
    low, high = (100 * end for end in gain.interval)
    return f"{100 * gain.value:+.1f} [{low:+.1f}, {high:+.1f}]"
