"""The artifact's README.md, as the hub shows it."""

from __future__ import annotations

from typing import Any

from .page import _fenced, _inert, _markdown_table
from .run import (
    MAX_LABELS_SHOWN,
    Scores,
    certificate_table,
    data,
    headline,
    truncation,
)
from .wording import MISSING, clean, in_words, interval, n_rows


def model_card(scores: Scores, spec_yaml: str) -> str:
    """The artifact's README.md: the hub's front matter, use, data, certificate, limits, and the Spec."""
    import yaml

    scores = clean(scores)
    front = yaml.safe_dump(_front_matter(scores), sort_keys=False, allow_unicode=True, width=1000)
    top, info = headline(scores), scores.get("data", {})
    name = f"{scores.get('backbone', 'a model')}, fitted for {scores.get('task', 'text')}"
    made = ", ".join(f"{key} {scores.get(key, MISSING)}" for key in ("method", "backbone", "seed"))
    table = data(scores)
    parts = [f"---\n{front}---", f"# {_inert(name)}", _inert(f"{top.title}."), _inert(top.rest), _inert(top.plain),
             "## Use", _use(scores), "## Data", _inert(f"Source: {info.get('source', 'not recorded')}."),
             *(map(_markdown_table, table.tables) if table else ()), "## Certificate",
             _markdown_table(certificate_table(scores)), "## Limits", _limits(scores), "## How it was made",
             _inert(f"Fitted by headstart: {made}. The resolved Spec:"), _fenced(spec_yaml)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(scores: Scores) -> dict[str, Any]:
    source, info = scores.get("data", {}).get("source", "not recorded"), scores.get("data", {})
    score = {"type": scores["metric"], "value": scores["score"],
             "name": f"{in_words(scores['metric'])}, 95% interval {interval(scores.get('interval'))}, "
                     f"{n_rows(scores['n_test'])}, seed {scores.get('seed', MISSING)}",
             "args": {"interval": scores.get("interval"), "n_test": scores["n_test"], "seed": scores.get("seed")}}
    result = {"task": {"type": scores.get("task")}, "metrics": [score],
              "dataset": {"type": source.removeprefix("hub:"), "name": source, "split": "test"}}
    backbone = scores.get("backbone", "")
    front = {"language": info.get("languages"), "library_name": "headstart", "pipeline_tag": scores.get("task"),
             "base_model": scores.get("base_model"), "metrics": list(scores.get("scores", {scores["metric"]: 0})),
             "tags": ["headstart", "transfer-learning", scores.get("method")],
             "model-index": [{"name": f"{backbone} {scores.get('task', '')}".strip(), "results": [result]}]}
    return {key: value for key, value in front.items() if value}


def _use(scores: Scores) -> str:
    code = ["```sh\nheadstart predict . rows.csv\n```",
            '```python\nimport headstart\n\nartifact = headstart.load(".")\nartifact.predict(["a text"])\n```']
    if scores.get("head", {}).get("pooling") == "native":
        code += ["The head is the family's own, so transformers loads the folder too:",
                 "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
                 'model = AutoModelForSequenceClassification.from_pretrained(".")\n'
                 'tokenizer = AutoTokenizer.from_pretrained(".")\n```']
    return "\n\n".join(code)


def _limits(scores: Scores) -> str:
    labels, languages = scores.get("details", {}).get("labels", []), scores.get("data", {}).get("languages")
    shown = ", ".join(labels[:MAX_LABELS_SHOWN]) + (", …" if len(labels) > MAX_LABELS_SHOWN else "")
    cut = truncation(scores)
    limits = [*(cut.lead if cut else ()),
              *([f"It knows {len(labels)} labels and answers every text with one of them: {shown}."] if labels else ()),
              f"Languages of the train rows: {', '.join(languages)}." if languages else
              "The languages of the train rows were not recorded; it has seen no others.",
              "The scores hold for texts like the test rows; on other texts, evaluate it first."]
    return "\n".join(f"- {_inert(limit)}" for limit in limits)
