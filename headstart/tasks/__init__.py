"""Every task there is: by name, by its options, by the columns of a file. A task is one file, or a folder, in here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..core import registry
from ..core.errors import ArtifactError, SpecError, nearest, shorten
from ..core.generation import Generation
from ..core.task import Task
from ..core.untrusted import instance
from ..data.columns import normal_name


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
    values = {option: getattr(task, option) for option in task.options}
    return {"name": task.name, **{option: _plain(asdict(value)) if isinstance(value, Generation) else value
                                  for option, value in values.items()}}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML and JSON have them: lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def restore(name: Any, values: Any, where: str = "task.json") -> Task:
    """A learned task from its fields as JSON keeps them, lists for tuples.

    Raises ArtifactError for values that its fields cannot have, or that do not fit each other.
    """
    if name not in names():
        raise ArtifactError(where, f"names the task {shorten(name)}, which is none; {nearest(str(name), names())}",
                            "Use the version of headstart that wrote it, or install the package that has this task.")
    task = instance(find(name, where), values, where, ArtifactError)
    if flaw := task.flaw_of_learned():
        raise ArtifactError(where, f"{flaw}.", "The file is damaged; copy the folder again, or fit again.")
    return task


def by_columns(header: Sequence[str]) -> list[str]:
    """The tasks that have a signature in a file's columns, those with the longest: one, none, or several."""
    columns = set(map(normal_name, header))
    sizes = {name: max((len(s) for s in kind().columns.signatures if s <= columns), default=0)
             for name, kind in registry.known(sys.modules[__name__], Task).items()}
    longest = max(sizes.values())
    return sorted(name for name, size in sizes.items() if size == longest and size)


def names() -> list[str]:
    """Every task there is."""
    return sorted(registry.known(sys.modules[__name__], Task))
