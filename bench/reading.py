"""reading on: what texts without labels do for a backbone before it sees a label

Perplexity of held-out texts before and after (of masked words for encoders, by a head that is solved on frozen states
both times), and what labelled rows of another source gain, fitted from both on the same rows. A gain below zero is
shown as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown

TWEETS, PHRASES = "twitter_financial_news/train.jsonl", "financial_phrasebank_50agree"
PHRASEBANK = {part: f"{PHRASES}/{part}.jsonl" for part in ("train", "validation", "test")}


def cells(quick: bool) -> list[Cell]:
    few = {"limit": 300} if quick else {"limit": None}
    financial = {"backbone": "minilm-l6", "texts": TWEETS, "proof": "phrasebank", **few}
    encoders = [{"name": "masked", **financial}, {"name": "contrastive", **financial}]
    return encoders if quick else [*encoders, {"name": "causal", "backbone": "smollm2-135m", "proof": None,
                                               "texts": "wikitext2/train.jsonl", "limit": None}]


def measure(name: str, backbone: str, texts: str, proof: str | None, limit: int | None) -> dict[str, Any]:
    import yaml

    import headstart

    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "proof.yaml"
        data = {part: str(DATA / path) for part, path in PHRASEBANK.items()}
        spec.write_text(yaml.safe_dump({"data": {**data, "limit": 500}, "backbone": backbone}), "utf-8")
        read = headstart.pretrain(str(DATA / texts), backbone=backbone, objective=name, out=Path(folder) / "out",
                                  proof=str(spec) if proof else None, layers=[("bench", {"data": {"limit": limit}})])
    scores = read.scores
    before, held_out = scores.baselines["before-reading"], scores.gains["before-reading"]
    result: dict[str, Any] = {
        "metric": scores.metric, "before": before.value, "after": scores.fitted.value, "n": scores.fitted.n,
        "perplexity": [before.metrics.get("perplexity"), scores.fitted.metrics.get("perplexity")],
        "held_out_interval": list(held_out.interval), "train_seconds": scores.cost.train_seconds,
        "tokens_per_s": scores.cost.train_tokens_per_s, "verdict": scores.verdict}
    for one in scores.downstream:
        result |= {"proof": [one.before.value, one.after.value], "gain": one.gain.difference,
                   "interval": list(one.gain.interval), "n_test": one.gain.n, "proof_metric": one.metric}
    return result


def table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        cell, found = run.cell, run.result
        pair = "{:.2f}, {:.2f}".format(*found["perplexity"]) if found["perplexity"][0] else "–"
        gain = (f"{100 * found['gain']:+.1f} [{100 * found['interval'][0]:+.1f}, {100 * found['interval'][1]:+.1f}] of "
                f"{found['n_test']:,} rows" if "gain" in found else "–")
        rows.append([cell["name"], cell["backbone"], cell["texts"].partition("/")[0], found["n"], found["metric"],
                     f"{found['before']:.4f}, {found['after']:.4f}",
                     "[{:+.4f}, {:+.4f}]".format(*found["held_out_interval"]), pair, cell["proof"] or "–", gain,
                     f"{found['train_seconds']:.0f}"])
    return markdown(["objective", "backbone", "texts", "held-out texts", "metric", "before, after",
                     "interval of the difference", "perplexity before, after", "labelled rows", "gain in points",
                     "seconds of training"], rows)
