"""Folders and files that are whole or not there.

A folder is written under a temporary name, every file in it fsynced, a MANIFEST.json with the sha256 of each written
last, and then renamed. A kill at any point leaves the old folder or the new one, never half of one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import HeadstartError, ResourceError
from .trust import sha256

MANIFEST = "MANIFEST.json"
FORMAT = 1  # of a run's folder; its task.json holds it


@contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success seal it and put it in the place of `final`.

    Raises ResourceError when the disk is full or read-only; `final` is then as it was.
    """
    temporary = final.with_name(final.name + ".tmp")
    with disk_errors(final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            seal(temporary)
            replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


REASONS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
           errno.EROFS: "the disk is read-only", errno.EACCES: "permission is denied",
           errno.EPERM: "permission is denied", errno.EFBIG: "the file would be larger than this process may write",
           errno.ENOTDIR: "a part of its path is a file, not a folder", errno.EISDIR: "it is a folder",
           errno.ENAMETOOLONG: "its name is too long", errno.EIO: "the disk failed"}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk can do to us into a clear error."""
    try:
        yield
    except HeadstartError:
        raise
    except Exception as error:
        # safetensors and tokenizers write from Rust, which puts the number into the words: "... (os error 28)".
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number not in REASONS:
            raise
        raise ResourceError(str(path), f"cannot be written: {REASONS[number]}.",
                            "What was there before is unchanged. Make room, or choose another --out.") from None


def write_file(path: Path, pieces: Iterable[str]) -> int:
    """Write text beside `path`, then rename: a reader sees the old file or the new one, never half of one.

    Returns the number of pieces. Raises ResourceError when the disk is full or read-only; `path` is then as it was.
    """
    temporary, n = path.with_name(f".{path.name}.{os.getpid()}"), 0
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                for piece in pieces:
                    file.write(piece)
                    n += 1
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return n


def seal(folder: Path) -> None:
    """Write the manifest of all files in `folder`, and make everything durable."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    hashes = {str(p.relative_to(folder)): sha256(p) for p in files}
    for path in files:
        _fsync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "sha256": hashes}, indent=1) + "\n", "utf-8")
    _fsync(manifest)
    _fsync(folder)


def replace(source: Path, final: Path) -> None:
    """Put `source` in the place of `final`; an old `final` is moved aside first and removed last."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    source.rename(final)
    _fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def faults(folder: Path) -> list[str]:
    """What is wrong with a sealed folder: "model.safetensors is missing" and so on; empty when it is whole."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text("utf-8"))["sha256"]
        names = {str(name): str(value) for name, value in hashes.items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{MANIFEST} is damaged"]
    found = []
    for name, wanted in names.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            found.append(f"{MANIFEST} names a path outside the folder")
        elif not path.is_file():
            found.append(f"{name} is missing")
        elif sha256(path) != wanted:
            found.append(f"{name} is damaged (its sha256 is not the manifest's)")
    return found


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
