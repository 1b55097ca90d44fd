"""The artifact's README.md, as the hub shows it."""

from __future__ import annotations

import json
from typing import Any

from ..core.scores import Scores
from ..core.task import Task
from ..core.values import Row
from .knowledge import members
from .page import _fenced, _inert, _markdown_table
from .run import MAX_LABELS_SHOWN, certificate_table, data, headline, shown, truncation, unknown_table
from .wording import MISSING, in_words, interval, n_rows


def model_card(scores: Scores, spec_yaml: str, example: Row | None = None, has_texts: bool = True,
               native: str | None = None) -> str:
    """The artifact's README.md: the hub's front matter, use, data, certificate, limits, and the Spec.

    example: a row as the task reads it; absent: one text. has_texts: whether texts of its data lie beside it.
    native:  the class of transformers that loads model and head; None: the head is ours, or an adapter is on.
    """
    import yaml

    scores = shown(scores)
    front = yaml.safe_dump(_front_matter(scores), sort_keys=False, allow_unicode=True, width=1000)
    top, counts, of_members = headline(scores), data(scores.data, scores.n_folds), members(scores)
    name = f"{scores.backbone or 'a model'}, fitted for {scores.task or 'text'}"
    made = ", ".join(f"{key} {MISSING if value is None else value}" for key, value in (
        ("method", scores.method), ("backbone", scores.backbone), ("seed", scores.fitted.seed)))
    parts = [f"---\n{front}---", f"# {_inert(name)}", _inert(f"{top.title}."), _inert(top.rest), _inert(top.plain),
             "## Use", _use(example, native, scores), "## Data",
             _inert(f"Source: {scores.data.source or 'not recorded'}."),
             *(map(_markdown_table, counts.tables) if counts else ()),
             *([_markdown_table(unknown_table(scores.unknown_tokens))] if scores.unknown_tokens else ()),
             "## Certificate",
             _markdown_table(certificate_table(scores)),
             *(_markdown_table(table) for table in (of_members.tables if of_members else ())), "## Limits",
             _limits(scores, has_texts), "## How it was made",
             _inert(f"{'Joined' if scores.members else 'Fitted'} by headstart: {made}. The resolved Spec"
                    f"{' of the best member' if scores.members else ''}:"), _fenced(spec_yaml)]
    return "\n\n".join(part for part in parts if part) + "\n"


def example_row(task: Task) -> Row:
    """A row of the task's own examples with no more than what it must read."""
    row = next((row for row in task.examples if row.keys() >= set(task.columns.required_inputs)), task.examples[0])
    columns = task.columns.required_inputs or [column for column in task.columns.inputs if column in row]
    return {column: row.get(column, "another text") for column in columns}


def _front_matter(scores: Scores) -> dict[str, Any]:
    fitted, source = scores.fitted, scores.data.source or "not recorded"
    ends = list(fitted.interval) if fitted.interval else None
    score = {"type": scores.metric, "value": fitted.value,
             "name": f"{in_words(scores.metric)}, 95% interval {interval(ends)}, {n_rows(fitted.n)}, "
                     f"seed {MISSING if fitted.seed is None else fitted.seed}",
             "args": {"interval": ends, "n_test": fitted.n, "seed": fitted.seed,
                      **({"n_folds": scores.n_folds} if scores.n_folds else {})}}
    result = {"task": {"type": scores.task}, "metrics": [score],
              "dataset": {"type": source.removeprefix("hub:"), "name": source,
                          "split": "train" if scores.n_folds else "test"}}
    front = {"language": list(scores.data.languages), "library_name": "headstart", "pipeline_tag": scores.task,
             "base_model": scores.base_model, "metrics": list(fitted.metrics) or [scores.metric],
             "tags": ["headstart", "transfer-learning", scores.method],
             "model-index": [{"name": f"{scores.backbone or ''} {scores.task or ''}".strip(), "results": [result]}]}
    return {key: value for key, value in front.items() if value}


def _use(example: Row | None, native: str | None, scores: Scores) -> str:
    row = "a text" if set(example or ()) <= {"text"} else example
    code = ["From outside of this folder, called FOLDER here: Python imports what lies where it is started.",
            "```sh\nheadstart predict FOLDER rows.csv\n```",
            '```python\nimport headstart\n\nartifact = headstart.load("FOLDER")\n'
            f"artifact.predict([{json.dumps(row, ensure_ascii=False)}])\n```"]
    if scores.members and not scores.is_one_model:
        return "\n\n".join([*code, "Each folder in `members` is an artifact by itself: `headstart predict "
                            "FOLDER/members/1 rows.csv`."])
    if native is None:
        return "\n\n".join([*code, "transformers loads the encoder alone (`AutoModel`). Its classes that have a head "
                            "know nothing of this one: they make a new one, of no labels."])
    code += ["The head is the family's own, so transformers loads the folder too:",
             f"```python\nfrom transformers import {native}, AutoTokenizer\n\n"
             f'model = {native}.from_pretrained("FOLDER")\n'
             'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```']
    return "\n\n".join(code)


def _limits(scores: Scores, has_texts: bool) -> str:
    labels, languages, cuts = scores.details.labels, scores.data.languages, truncation(scores)
    names = ", ".join(labels[:MAX_LABELS_SHOWN]) + (", …" if len(labels) > MAX_LABELS_SHOWN else "")
    scripts = ", ".join(f"{count.script} ({n_rows(count.n_rows)})" for count in scores.unknown_tokens)
    limits = [*(cuts.lead if cuts else ()),
              *([f"It knows {len(labels):,} labels and no others: {names}."] if labels else ()),
              f"Languages of the train rows: {', '.join(languages)}." if languages else
              f"Scripts of its rows: {scripts}; others were not tried." if scripts else
              "The languages of the train rows were not recorded.",
              "The scores hold for texts like the test rows; on other texts, evaluate it first.",
              *(["golden.jsonl, scores.json and the report hold some texts of its data; whoever gets this folder gets "
                 "them. Without them: headstart fit or export with --no-texts."] if has_texts else ())]
    return "\n".join(f"- {_inert(limit)}" for limit in limits)
