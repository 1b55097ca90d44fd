"""The backbone where none is named, by the task and its rows' script, and what one does not know of them. It is said.

    layer(spec, origins, task, rows)  ("chosen: the rows are mostly Chinese", {"backbone": "e5-small-zh-en"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.scores import UnknownTokens
from ..core.spec import DEFAULT, Origins, Spec
from ..core.task import Task
from ..core.values import Row
from ..core.windows import WindowStore
from ..data.splits import Splits
from ..models import shelf
from ..models.backbone import Backbone
from ..readers.vocabulary import by_script, is_chinese
from ..report.wording import unknown_warnings
from ..training.checkpoint import warn
from ..training.job import PARTS

CHINESE, WRITES = "e5-small-zh-en", "smollm2-135m"
MAX_ROWS = 1000  # looked at, evenly spread: more would take seconds
MIN_SHARE = 0.5


def layer(spec: Spec, origins: Origins, task: Task, rows: Sequence[Row]) -> tuple[str, Mapping[str, Any]]:
    """The layer of the Spec that the language of its rows makes: empty where a backbone is named, or the default fits.

    rows: of train.
    """
    if spec.encoder_decoder is not None:
        return "encoder_decoder", {"backbone": spec.encoder_decoder.encoder}
    if origins.get("backbone") != DEFAULT:  # where blocks are chosen, so is the backbone
        return "", {}
    if task.generation is not None:
        warn(f'backbone: {WRITES}, for none is named and "{task.name}" writes. To say otherwise: --backbone NAME')
        return f'chosen: "{task.name}" writes', {"backbone": WRITES}
    default = spec.backbone.name
    chosen = for_texts([task.text(row) for row in evenly(rows)], default, f"--backbone {default}",
                       "this command again, with --overwrite")
    return ("", {}) if chosen == default else ("chosen: the rows are mostly Chinese", {"backbone": chosen})


def for_texts(texts: Sequence[str], default: str, otherwise: str, again: str) -> str:
    """The backbone of these texts where none is named: `default`, or the one that reads them where it is here. What is
    chosen, or would be better, is said.

    texts: a sample of all, see `evenly`. otherwise: what names the default. again: what to do when a better one is
    here.
    """
    if not (words := mostly_chinese(texts)):
        return default
    if shelf.find(CHINESE) is None:
        warn_of(default, words, again)
        return default
    warn(f"backbone: {CHINESE}, for none is named and {words}. To say otherwise: {otherwise}")
    return CHINESE


def warn_of(default: str, words: str, again: str) -> None:
    """Say that the default does not read these texts, and what would."""
    warn(f"backbone: {default}, the default, knows few Chinese words, and {words}. A better one: headstart models get "
         f"{CHINESE}, then {again}.")


def mostly_chinese(texts: Sequence[str]) -> str:
    """How many of the texts are Chinese, in words, where most are; "" where they are not."""
    n_chinese = sum(map(is_chinese, texts))
    return f"{n_chinese:,} of {len(texts):,} rows looked at are Chinese" if n_chinese > MIN_SHARE * len(texts) else ""


def evenly(rows: Sequence[Any]) -> Sequence[Any]:
    """Some of many, spread over all."""
    return rows[:: max(1, len(rows) // MAX_ROWS)]


def unknown_tokens(task: Task, parts: Splits, windows: Mapping[str, WindowStore],
                   backbone: Backbone) -> list[UnknownTokens]:
    """Tokens of all splits by script, and how many of them are unknown, counted on their windows; many are warned of.

    Cost  that of `by_script`.
    """
    names = ("train",) if parts.is_pooled else PARTS
    texts = (task.text(row) for name in names for row in getattr(parts, name).rows)
    n_tokens_N, n_unknown_N = (np.concatenate([windows[name].n_tokens_of_rows(len(getattr(parts, name)), is_counted_V)
                                               for name in names]) for is_counted_V in backbone.reader.which_tokens())
    counts = by_script(texts, n_tokens_N, n_unknown_N)
    for line in unknown_warnings(counts, backbone.name):
        warn(line)
    return counts
