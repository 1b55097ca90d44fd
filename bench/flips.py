"""what `audit` says of wrong labels, beside labels that were made wrong on purpose

A thousand train rows of a set, and a share of their labels, drawn anew, turned into another label. `audit` lists the
labels that are wrong with a probability of a third or more and says how many of them it expects to be wrong; beside
that stands how many were turned. The sets have wrong labels of their own, which count as right here: what is listed
where none was turned shows how many. "First 20": how many of the twenty most suspected labels were turned.

"Close": the stated share of wrong labels among those listed and the true one, over all sets, are at most 15 points
apart. Where a set has no line at a share of turned labels, the run is missing; a set whose labels the classifier cannot
learn (RTE) has nothing listed.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown, met, read_jsonl, write_jsonl

SETS = ("uci_sentiment_sentences", "trec", "sst2", "twitter_financial_news", "financial_phrasebank_50agree",
        "amazon_multidomain_sentiment", "rte")
TURNED = (0.0, 0.02, 0.05, 0.1, 0.2)
N_ROWS = 1_000
APART = 0.15
COLUMNS = {"text": "text", "text_a": "text", "text_b": "text_pair", "label": "label"}


def cells(quick: bool) -> list[Cell]:
    every = [{"name": name, "n": 200 if quick else N_ROWS, "seed": 0} for name in SETS]
    return every[:1] if quick else every


def measure(name: str, n: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    rows = [{COLUMNS[column]: value for column, value in row.items() if column in COLUMNS}
            for row in draw.sample(list(read_jsonl(DATA / name / "train.jsonl")), n)]
    return {"turned": [audited(rows, share, random.Random(f"{seed} {share}")) for share in TURNED]}


def audited(rows: Sequence[dict[str, Any]], share: float, draw: random.Random) -> dict[str, Any]:
    from headstart.studies.audit import audit

    labels = sorted({row["label"] for row in rows})
    turned = set(draw.sample(range(len(rows)), int(share * len(rows))))
    given = [{**row, "label": draw.choice([label for label in labels if label != row["label"]])} if i in turned else row
             for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        suspects = audit({"data": write_jsonl(Path(folder), train=given)})["suspects"]
    hits = [int(row["where"].rpartition(":")[2]) - 1 in turned for row in suspects["rows"]]
    return {"share": share, "n_turned": len(turned), "rate": suspects["rate"], "n_listed": len(hits),
            "n_expected": suspects["n_expected"], "n_right": sum(hits), "n_first_20": sum(hits[:20])}


def table(runs: Sequence[Run]) -> str:
    lines, sums = [], {share: [0.0, 0.0, 0.0] for share in TURNED}
    for run in runs:
        for result in run.result["turned"]:
            n, expected, right = result["n_listed"], result["n_expected"], result["n_right"]
            sums[result["share"]] = [a + b for a, b in zip(sums[result["share"]], (n, expected, right), strict=True)]
            lines.append([run.cell["name"], f"{result['share']:.0%}", result["n_turned"], n, of_listed(expected, n),
                          of_listed(right, n), f"{result['n_first_20']} of {min(20, n)}"])
    together = [[f"{share:.0%}", f"{n:.0f}", of_listed(expected, n), of_listed(right, n),
                 met(abs(expected - right) <= APART * n) if share else ""]
                for share, (n, expected, right) in sums.items()]
    header = ["labels turned", "listed", "stated share wrong", "true share turned"]
    return "\n\n".join([markdown(["data", header[0], "turned", *header[1:], "first 20"], lines),
                        markdown([*header, "close"], together)])


def of_listed(part: float, n: float) -> str:
    return f"{part / n:.2f}" if n else "–"
