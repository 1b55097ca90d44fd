"""Every method there is, by name and options. A method is one file in here."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import yaml

from ..core import registry
from ..core.errors import SpecError
from ..core.method import Method


def build(options: dict[str, Any], where: str = "method") -> Method:
    """The method that `{"name": ..., option: value}` asks for. Raises SpecError that names the nearest one."""
    if "name" not in options:
        raise SpecError(where, "has no name.", "For example: method: {name: fine-tuning}")
    kind = registry.find(sys.modules[__name__], Method, options["name"], f"{where}.name")
    method: Method = registry.build(kind, {k: v for k, v in options.items() if k != "name"}, where)
    return method


def options_of(method: Method) -> dict[str, Any]:
    """The mapping that `build` takes back."""
    return {"name": method.name, **{option: getattr(method, option) for option in registry.options_of(type(method))}}


def names() -> list[str]:
    """Every method there is."""
    return sorted(registry.known(sys.modules[__name__], Method))


def reference() -> str:
    """Every method's card with its options, as Markdown: docs/methods.md."""
    cards = ["# Methods", "", "Every way to carry knowledge over, from the card at the top of its file "
             "(`make docs` writes this page). Choose one with `--method NAME`, or in a Spec with options: "
             "`method: {name: lora, rank: 4}`."]
    for name, kind in sorted(registry.known(sys.modules[__name__], Method).items()):
        card = inspect.getdoc(inspect.getmodule(kind)) or ""
        first, _, rest = card.partition("\n")
        cards += ["", f"## {name}", "", first.partition(": ")[2][:1].upper() + first.partition(": ")[2][1:], "",
                  "```text", rest.strip("\n"), "```"]
        meanings = (inspect.getdoc(kind) or "").partition("\n")[2].strip("\n")
        method = kind()
        options = ", ".join(f"`{option}: {yaml.safe_dump(getattr(method, option), default_flow_style=True).split()[0]}`"
                            for option in registry.options_of(kind))
        if options:
            cards += ["", f"Options and their defaults: {options}"]
        if meanings:
            cards += ["", "```text", meanings, "```"]
        preset = method.defaults.get("train")
        if preset:
            cards += ["", "It presets " + ", ".join(f"`train.{key}: {value}`" for key, value in preset.items()) + "."]
    return "\n".join(cards) + "\n"
