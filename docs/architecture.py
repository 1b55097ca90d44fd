"""Draw docs/architecture.md from the code: the folders, what is in each, and which imports which. `make docs` runs it.

Imports that only a type checker reads count, too: a floor is a floor for its types.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "headstart"
PAGE = Path(__file__).with_name("architecture.md")

# From the ground up. An import goes from a later line to an earlier one, or stays on its own.
FLOORS = ("core", "readers", "data", "report", "models", "features", "tasks", "methods", "training", "runs", "use",
          "exporters", "studies", "serve", "sklearn", "cli")
PUBLIC = {"__init__", "__main__", "errors"}  # the package's own doors: they hold no code


def folder_of(path: Path) -> str:
    """The folder of the first level that a file belongs to, or the file itself where it lies there."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports() -> Iterator[tuple[Path, int, str]]:
    """(file, line, folder) of every import of our own that leaves its folder, also inside functions."""
    for path in sorted(ROOT.rglob("*.py")):
        package = path.relative_to(ROOT.parent).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            target = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            names = [target[1]] if len(target) > 1 and target[1] else [alias.name for alias in node.names]
            for name in names:
                if name in FLOORS and name != folder_of(path):
                    yield path, node.lineno, name


def first_sentence(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def page() -> str:
    """The page as it should be."""
    arrows = sorted({(folder_of(path), name) for path, _, name in imports() if folder_of(path) not in PUBLIC})
    lines = ["# The folders, and what imports what", "",
             "Drawn from the code by `make docs`; a test compares. What stands lower in the list knows what stands "
             "higher, never the other way round.", "", "```mermaid", "flowchart BT"]
    lines += [f"  {a} --> {b}" for a, b in arrows if b != "core"]
    lines += ["```", "", "Every folder imports `core`. Read first: `runs/fit.py`, then `core/task.py`, "
              "`core/method.py`, `training/loop.py`.", ""]
    for name in FLOORS:
        folder = ROOT / name
        if not folder.is_dir():
            lines += [f"## {name}.py", "", first_sentence(folder.with_suffix(".py")), ""]
            continue
        lines += [f"## {name}/", ""]
        if about := first_sentence(folder / "__init__.py"):
            lines += [about, ""]
        lines += [f"- `{path.relative_to(folder)}`: {first_sentence(path)}"
                  for path in sorted(folder.rglob("*.py")) if path.name != "__init__.py"]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
