"""The backbone where none is named: by the task and its rows' script. What is chosen, or would be better, is said.

    layer(spec, origins, task, rows)  ("chosen: the rows are mostly Chinese", {"backbone": "e5-small-zh-en"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.spec import DEFAULT, Origins, Spec
from ..core.task import Task
from ..core.values import Row
from ..models import shelf
from ..readers.vocabulary import is_chinese
from ..training.checkpoint import warn

CHINESE, WRITES = "e5-small-zh-en", "smollm2-135m"
MAX_ROWS = 1000  # looked at, evenly spread: more would take seconds
MIN_SHARE = 0.5


def layer(spec: Spec, origins: Origins, task: Task, rows: Sequence[Row]) -> tuple[str, Mapping[str, Any]]:
    """The layer of the Spec that the language of its rows makes: empty where a backbone is named, or the default fits.

    rows: of train.
    """
    if origins.get("backbone") != DEFAULT:  # where blocks are chosen, so is the backbone
        return "", {}
    if task.generation is not None:
        warn(f'backbone: {WRITES}, for none is named and "{task.name}" writes. To say otherwise: --backbone NAME')
        return f'chosen: "{task.name}" writes', {"backbone": WRITES}
    looked_at = rows[:: max(1, len(rows) // MAX_ROWS)]
    n_chinese = sum(is_chinese(task.text(row)) for row in looked_at)
    if n_chinese <= MIN_SHARE * len(looked_at):
        return "", {}
    words = f"{n_chinese:,} of {len(looked_at):,} rows looked at are Chinese"
    if shelf.find(CHINESE) is None:
        warn(f"backbone: {spec.backbone.name}, the default, knows few Chinese words, and {words}. A better one: "
             f"headstart models get {CHINESE}, then this command again, with --overwrite.")
        return "", {}
    warn(f"backbone: {CHINESE}, for none is named and {words}. To say otherwise: --backbone {spec.backbone.name}")
    return "chosen: the rows are mostly Chinese", {"backbone": CHINESE}
