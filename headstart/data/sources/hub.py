"""Data sets of the Hugging Face hub: `hub:NAME`, `hub:NAME:CONFIG`, `hub:NAME:CONFIG@SPLIT`.

No code of a data set is run: `datasets` 4 and later load data files only. When the hub cannot be reached, that is said
within seconds instead of after a row of retries.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from ...core.errors import DataError, MissingExtraError, nearest, shorten
from .lines import Rules, too_large
from .records import Opened, Record

PREFIX = "hub:"
PATIENCE_S = 3.0
_NAME = re.compile(r"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@:/]+))?(?:@(?P<split>[\w.-]+))?")


def splits(source: str) -> dict[str, str]:
    """The splits of a data set: the hub's name for each, and the source that reads it alone."""
    _, _, split = _parse(source)
    return {split: source} if split else {name: f"{source}@{name}" for name in _load(source)}


def open_hub(source: str, rules: Rules) -> Opened:
    """One split of a data set; class numbers become the names that the data set gives them."""
    _, _, split = _parse(source)
    by_split = _load(source)
    if split is None and len(by_split) == 1:
        split = next(iter(by_split))
    if split not in by_split:
        what = f"has no split {shorten(split)}; {nearest(split, by_split)}" if split else "has several splits"
        raise DataError(source, what + ".", f"Name one of them: {' '.join(splits(source.partition('@')[0]).values())}")
    rows = by_split[split]
    if rows.data.nbytes > rules.max_bytes:
        raise too_large(source, "", rows.data.nbytes, rules.max_bytes)

    def records(columns: list[str]) -> Iterator[Record]:
        for n, values in enumerate(rows.select_columns(columns) if rows.column_names else (), 1):
            yield Record(n, {name: named(values[name], rows.features[name]) for name in columns})

    return Opened(list(rows.column_names), records, "row")


def _parse(source: str) -> tuple[str, str | None, str | None]:
    match = _NAME.fullmatch(source)
    if not match:
        raise DataError(source, "is not hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG@SPLIT.",
                        "For example: hub:stanfordnlp/sst2, hub:nyu-mll/glue:sst2@validation")
    return match["name"], match["config"], match["split"]


def named(value: Any, feature: Any) -> Any:
    """Class numbers as names, in lists too. A number below zero is how the hub writes that gold is withheld."""
    if isinstance(value, list) and hasattr(feature, "feature"):
        return [named(item, feature.feature) for item in value]
    if isinstance(value, int) and hasattr(feature, "int2str"):
        return feature.int2str(value) if value >= 0 else None
    return value


def _load(source: str) -> Any:
    """Split name -> rows, from the cache or the hub."""
    name, config, _ = _parse(source)
    if os.path.exists(name):  # the library would read that, and say nothing
        raise DataError(source, f"a file or folder called {shorten(name)} is here and would be read instead.",
                        f"Give it without hub: if it is meant ({name}), or run headstart from another folder.")
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not is_offline and not _answers(endpoint):
        raise DataError(source, f"{endpoint} does not answer within {PATIENCE_S:g} s.",
                        "If the data set is in the cache: HF_HUB_OFFLINE=1 headstart ...; if not, give a file.")
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("reading hub: sources", "datasets", "train") from None
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:  # noqa: BLE001 - the library lets through what four other libraries raise
        state = "is not in the cache, and HF_HUB_OFFLINE is set" if is_offline else "cannot be loaded"
        raise DataError(source, f"{state}: {shorten(str(error), 200)}.",
                        "Check the name, or give a file instead: headstart fit FILE.csv") from None


def _answers(endpoint: str) -> bool:
    """Whether anything at all answers in time. A thread, because looking up a name ignores time-outs."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE_S).close()
        except urllib.error.HTTPError:
            pass  # an answer all the same
        except (OSError, ValueError):
            return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return bool(answers)
