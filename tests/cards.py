"""Rows of a task's own examples, and a model card whose code is run as a reader would."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from headstart.core.task import Task
from headstart.core.values import Row


def rows_of(kind: type[Task]) -> list[Row]:
    """The task's examples, a dozen times with other texts."""
    columns = {column for row in kind.examples for column in row}
    rows: list[Row] = []
    for i in range(12):
        for row in kind.examples:
            changed: dict[str, Any] = {c: f"{v} {i}" if c in ("text", "question") and isinstance(v, str) else v
                                       for c, v in row.items()}
            rows.append({**dict.fromkeys(columns), **changed})
    return rows


def run_the_card(folder: Path) -> None:
    """Run the Python of the model card as a reader would: beside the folder, line by line. Its last line answers."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    before = os.getcwd()
    os.chdir(folder.parent)
    try:
        for block in blocks:
            *lines, last = block.replace("FOLDER", folder.name).strip().splitlines()
            names: dict[str, object] = {}
            exec("\n".join(lines), names)
            if last.startswith("artifact.predict"):
                assert len(eval(last, names)) == 1
            else:
                exec(last, names)
    finally:
        os.chdir(before)
