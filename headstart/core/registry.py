"""Names to classes: every file in a folder registers by being there, and third parties by an entry point."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from .errors import SpecError, nearest, shorten


def known(package: ModuleType, kind: type) -> dict[str, type]:
    """Every named subclass of `kind` that stands in `package` or comes by the entry point group of its name;
    none that says `is_internal`."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=package.__name__):
        entry.load()
    return {c.name: c for c in _subclasses(kind) if "name" in vars(c) and not getattr(c, "is_internal", False)}


def _subclasses(kind: type) -> Iterator[Any]:
    subclasses: list[Any] = kind.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


def find(package: ModuleType, kind: type, name: str, where: str) -> type:
    """The class called `name`. Raises SpecError at `where` that names the nearest one."""
    classes = known(package, kind)
    if name not in classes:
        raise SpecError(where, f"{shorten(name)} is not a {kind.__name__.lower()}; {nearest(str(name), classes)}.",
                        "Correct the name.")
    return classes[name]


def options_of(kind: type) -> list[str]:
    """The names of a dataclass's fields: its own, then those of its bases, the nearest first."""
    names = {f.name for f in fields(kind)}
    return list(dict.fromkeys(name for c in kind.__mro__ for name in inspect.get_annotations(c) if name in names))


def build(kind: type, options: dict[str, Any], where: str, allowed: Sequence[str] | None = None) -> Any:
    """`kind(**options)`, each option checked against the dataclass's own annotations. allowed: all fields if absent."""
    import pydantic

    allowed = options_of(kind) if allowed is None else allowed
    for key in options:
        if key not in allowed:
            raise SpecError(f"{where}.{key}", f"is not an option of {where} \"{vars(kind)['name']}\"; "
                            + (nearest(key, allowed) if allowed else "it has none") + ".",
                            "Correct the name, or leave it out.")
    try:
        return pydantic.TypeAdapter(kind).validate_python(options)
    except pydantic.ValidationError as error:
        lines = [f"{where}.{'.'.join(map(str, problem['loc']))}: {shorten(problem['input'])} is not allowed; "
                 f"it {problem['msg'].removeprefix('Input ')}" for problem in error.errors()]
        texts = [problem for problem in error.errors() if problem["type"] == "string_type"]
        fix = f"Known: {', '.join(allowed)}"
        if texts and isinstance(texts[0]["input"], Mapping):  # {column}: braces and colons mean something in YAML
            path = ".".join((where, *map(str, texts[0]["loc"])))
            fix = f"In YAML a text with braces or a colon stands in quotes: --set '{path}=\"...\"'"
        raise SpecError("", "\n".join(lines), fix) from None
