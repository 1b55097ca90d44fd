"""Names of class numbers, as `datasets` writes them into a Parquet file's schema and a data set's card (ClassLabel)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.errors import DataError, SpecError
from ...core.spec import parse_yaml
from ...core.untrusted import parse_json, read_text

MAX_CARD_BYTES = 1_000_000


def class_names(metadata: Mapping[bytes, bytes] | None, source: str) -> dict[str, list[str]]:
    """Column -> the name of each of its class numbers, of the columns that have such. Raises DataError for no JSON."""
    written = (metadata or {}).get(b"huggingface")
    values = parse_json(written.decode("utf-8", "replace"), f"{source}: schema", DataError) if written else {}
    names = {}
    for part in ("info", "features"):
        values = values.get(part) if isinstance(values, dict) else None
    for column, feature in values.items() if isinstance(values, dict) else ():
        while isinstance(feature, dict | list) and "names" not in feature:  # a list of classes wraps the feature
            feature = feature[0] if isinstance(feature, list) and feature else (
                feature.get("feature") if isinstance(feature, dict) else None)
        if isinstance(feature, dict) and isinstance(feature["names"], list) and all(
                isinstance(name, str) for name in feature["names"]):
            names[column] = feature["names"]
    return names


def names_of_card(folder: Path) -> dict[str, list[str]]:
    """Column -> class names by the README.md in `folder` or above it; {} where it says none, or several that differ."""
    for path in (folder / "README.md", folder.parent / "README.md"):
        with suppress(DataError, SpecError):  # no card, or one that somebody wrote by hand: it decides nothing
            head = re.match(r"---\n(.*?)\n---\n", read_text(path, DataError, MAX_CARD_BYTES), re.DOTALL)
            card = parse_yaml(head[1], str(path)) if head else None
            return dict(_agreed(card.get("dataset_info") if isinstance(card, dict) else None))
    return {}


def _agreed(info: Any) -> Iterator[tuple[str, list[str]]]:
    """Of each column the names that all configurations of a card's dataset_info give it."""
    by_column: dict[str, list[list[str]]] = {}
    for part in info if isinstance(info, list) else [info]:
        features = part.get("features") if isinstance(part, dict) else None
        for feature in features if isinstance(features, list) else ():
            names = _names_in(feature)
            if isinstance(names, list) and all(isinstance(name, str) for name in (feature.get("name"), *names)):
                by_column.setdefault(feature["name"], []).append(names)
    yield from ((column, names[0]) for column, names in by_column.items() if all(n == names[0] for n in names))


def _names_in(feature: Any) -> Any:
    """What a card calls the classes of a feature, {"dtype": {"class_label": {"names": ...}}}, or of a list of them."""
    for key in ("list", "sequence", "dtype"):
        feature = feature.get(key, feature) if isinstance(feature, dict) else None
    for key in ("class_label", "names"):
        feature = feature.get(key) if isinstance(feature, dict) else None
    return list(feature.values()) if isinstance(feature, dict) else feature


def named(value: Any, names: list[str]) -> Any:
    """A class number as its name, in lists too; None below zero, which is how the hub writes that gold is withheld."""
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if isinstance(value, int) and value < len(names):
        return names[value] if value >= 0 else None
    return value
