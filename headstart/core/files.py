"""Folders and files that are whole or not there.

A folder is written under a temporary name, every file in it fsynced, a MANIFEST.json with the sha256 of each written
last, and then renamed. A kill at any point leaves the old folder or the new one, never half of one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import HeadstartError, ResourceError, RunFolderError
from .manifest import fsync, is_sealed, seal


@contextmanager
def write_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success seal it and put it in the place of `final`.

    Who seals it to read it back leaves nothing to do: it is sealed again only if a file was written since.

    Raises ResourceError when the disk is full or read-only; `final` is then as it was.
    """
    temporary = final.with_name(final.name + ".tmp")
    with disk_errors(final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if not is_sealed(temporary):
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
        match = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
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


def write_lines(path: Path, lines_from: Callable[[int], Iterable[str]], made_by: Mapping[str, Any], *,
                resume: bool = False, overwrite: bool = False) -> int:
    """Write lines that take long to make: into PATH.partial, and in the place of `path` when all are there.

    lines_from: the lines behind the first n, each without its end; n of them are there already.
    made_by:    what determines the lines, as JSON; only a file that was made by the same is continued.
    resume:     go on behind the whole lines of a file that was not finished; without one, begin.
    overwrite:  begin anew where there is one.

    Returns the number of lines. Raises RunFolderError for an unfinished file that may not be touched, or is in use.
    """
    partial, note = (path.with_name(path.name + end) for end in (".partial", ".partial.json"))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists() and not (resume or overwrite):
            raise RunFolderError(str(partial), "holds answers of a command that was not finished.",
                                 "Continue it: --resume. Start anew: --overwrite")
        with partial.open("r+b" if partial.exists() else "w+b", buffering=0) as file:
            n = _begin(file, partial, note, json.loads(json.dumps(made_by)), resume)
            n = _append(file, lines_from, n, partial, note)
            partial.replace(path)
            note.unlink()
    return n


def _begin(file: IO[bytes], partial: Path, note: Path, made_by: Any, resume: bool) -> int:
    """Lock `file`, which is `partial`, and leave it behind the whole lines that are kept; returns how many."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunFolderError(str(partial), "is in use by another process.", "Wait for it, or stop it.") from None
    n = _whole_lines(file) if resume else 0
    if n and (not note.exists() or json.loads(note.read_text("utf-8")) != made_by):
        raise RunFolderError(str(partial), "was begun by another run, for other rows or with other settings.",
                             "Resume with the command that began it, or start anew: --overwrite")
    file.truncate(file.tell() if n else file.seek(0))
    note.write_text(json.dumps(made_by), "utf-8")
    return n


def _append(file: IO[bytes], lines_from: Callable[[int], Iterable[str]], n: int, partial: Path, note: Path) -> int:
    """Write the lines behind the first `n`; returns how many there are now. On an error whole lines are kept."""
    try:
        for line in lines_from(n):
            file.write(line.encode() + b"\n")  # a line a write: what was answered survives a kill
            n += 1
        os.fsync(file.fileno())
    except BaseException as error:
        if not n:
            partial.unlink()
            note.unlink()
        elif isinstance(error, HeadstartError):
            error.fix += f"\n  {n:,} answers are kept in {partial}; go on behind them: --resume"
        raise
    return n


def _whole_lines(file: IO[bytes]) -> int:
    """How many lines have an end; the file is left behind the last of them."""
    n = end = at = 0
    while piece := file.read(1 << 20):
        n += piece.count(b"\n")
        if b"\n" in piece:
            end = at + piece.rindex(b"\n") + 1
        at += len(piece)
    file.seek(end)
    return n


def replace(source: Path, final: Path) -> None:
    """Put `source` in the place of `final`; an old `final` is moved aside first and removed last."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    source.rename(final)
    fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse_existing(out: Path, allowed: bool) -> None:
    """Raise RunFolderError where `out` exists, unless it may be replaced."""
    if out.exists() and not allowed:
        raise RunFolderError(str(out), "exists already.", "Choose another --out, or replace it: --overwrite")
