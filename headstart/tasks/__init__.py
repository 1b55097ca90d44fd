"""Every task there is: by name, by its options, by the columns of a file. A task is one file, or a folder, in here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..core import registry
from ..core.errors import SpecError
from ..core.task import Task


def find(name: str, where: str = "task.name") -> type[Task]:
    """The task called `name`."""
    return registry.find(sys.modules[__name__], Task, name, where)


def build(options: Mapping[str, Any], where: str = "task") -> Task:
    """The task that `{"name": ..., option: value}` asks for, before it learned anything. Raises SpecError."""
    if "name" not in options:
        raise SpecError(where, "has no name.", f"Known: {', '.join(names())}")
    kind = find(options["name"], f"{where}.name")
    task: Task = registry.build(kind, {k: v for k, v in options.items() if k != "name"}, where, kind.options)
    return task


def options_of(task: Task) -> dict[str, Any]:
    """The mapping that `build` takes back."""
    return {"name": task.name, **{option: getattr(task, option) for option in task.options}}


def restore(name: str, values: Mapping[str, Any]) -> Task:
    """A learned task from its fields as JSON keeps them: lists for tuples."""
    kind = find(name)
    return kind(**{f.name: _tuples(values[f.name]) for f in fields(kind) if f.name in values})  # type: ignore[arg-type]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def by_columns(header: Sequence[str]) -> list[str]:
    """The tasks that have a signature in a file's columns, those with the longest: one, none, or several."""
    sizes = {name: max((len(s) for s in kind().columns.signatures if s <= set(header)), default=0)
             for name, kind in registry.known(sys.modules[__name__], Task).items()}
    longest = max(sizes.values())
    return sorted(name for name, size in sizes.items() if size == longest and size)


def names() -> list[str]:
    """Every task there is."""
    return sorted(registry.known(sys.modules[__name__], Task))
