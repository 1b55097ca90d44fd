"""Values as the cells of files hold them, and what they mean: numbers, labels, and lists that are written as text."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from contextlib import suppress
from typing import Any


def finite_number(value: Any) -> float | None:
    """A finite number, also one that a CSV file holds as a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def normal_label(value: Any) -> Any:
    """A label without blanks around it, its letters composed (NFC); each of a list; anything else as it is.

    The same object where nothing changes.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        normal = unicodedata.normalize("NFC", value.strip())
        return value if normal == value else normal
    if isinstance(value, list | tuple):
        labels = [normal_label(label) for label in value]
        return value if all(label is before for label, before in zip(labels, value, strict=True)) else labels
    return value


_ITEM = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|-?\d++)"""
_WRITTEN_LIST = re.compile(rf"[\[(]\s*+(?:{_ITEM}\s*+,?\s*+)*+[\])]")


def written_list(value: Any) -> Any:
    """The list that a string is the text of, as JSON, Python or numpy write lists of strings or whole numbers.

    >>> written_list("['room', \"food\"]")
    ['room', 'food']
    """
    if not isinstance(value, str) or not _WRITTEN_LIST.fullmatch(value.strip()):
        return value
    with suppress(ValueError):
        return json.loads(value)
    return [re.sub(r"\\(.)", r"\1", item[1:-1]) if item[0] in "\"'" else int(item)
            for item in re.findall(_ITEM, value)]


def listed(value: Any, separator: str) -> list[Any] | None:
    """A list as it is, a string cut at `separator` (CSV files hold no lists), None for anything else.

    An empty separator takes every character for an item.
    """
    if isinstance(value, str):
        return [part.strip() for part in (value.split(separator) if separator else value) if part.strip()]
    return list(value) if isinstance(value, list | tuple) else None
