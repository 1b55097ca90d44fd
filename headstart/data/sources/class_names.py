"""Names of class numbers, as `datasets` writes them into the schema of a Parquet file (feature type ClassLabel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import DataError
from ...core.untrusted import parse_json


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


def named(value: Any, names: list[str]) -> Any:
    """A class number as its name, in lists too; None below zero, which is how the hub writes that gold is withheld."""
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if isinstance(value, int) and value < len(names):
        return names[value] if value >= 0 else None
    return value
