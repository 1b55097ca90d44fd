"""Folders and files that are whole or not there, also after a kill or a power cut.

What is written stands under a temporary name that nobody can guess until it is whole and on the disk, then takes its
place in one step, and the folder around it is synced. So the old is there or the new, never half of one, and never
nothing. Only what headstart wrote itself is replaced or removed: a regular file where a file was asked for, a folder
in which MANIFEST.json names every file.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from .errors import ArtifactError, HeadstartError, ResourceError, RunFolderError, shorten
from .manifest import MANIFEST, is_sealed, read_manifest, seal
from .untrusted import KINDS

REWRITTEN = ("README.md", "report.html", "report.md")  # in a sealed folder: may be written again at any time
TEMPORARY = re.compile(r"\.headstart-[0-9a-f]{16}")
ABANDONED_S = 60.0  # younger temporaries are left alone: their writer may be about to lock them
MAX_FOREIGN_SHOWN = 5
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, fs.h


@contextmanager
def write_folder(final: Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary folder to fill; on success seal it, make it durable and put it in the place of `final`.

    Who seals it to read it back leaves nothing to do: it is sealed again only if a file was written since.
    overwrite: replace a sealed folder that is there; never one with anything in it that headstart did not write.

    Raises ResourceError when the disk is full or read-only, RunFolderError for what may not be replaced; `final` is
    then as it was.
    """
    with disk_errors(final):
        make_folders(final.parent)
        with _temporary(final.parent, folder=True) as temporary:
            yield temporary
            if not is_sealed(temporary):
                seal(temporary)
            _share_and_sync(temporary)
            _publish(temporary, final, overwrite)


@contextmanager
def new_file(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary file to fill; on success it is durable in the place of `path`.

    overwrite: replace a regular file that is there; never anything else.

    Raises ResourceError when the disk is full or read-only, RunFolderError for what may not be replaced; `path` is
    then as it was.
    """
    with disk_errors(path):
        make_folders(path.parent)
        with _temporary(path.parent, folder=False) as temporary:
            yield temporary
            sync(temporary)
            if os.path.lexists(path):
                check_replaceable(path, overwrite, folder=False)
            temporary.replace(path)
            sync(path.parent)


def write_file(path: Path, pieces: Iterable[str], overwrite: bool = True) -> int:
    """Write text as `new_file` does. Returns the number of pieces."""
    n = 0
    with new_file(path, overwrite) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for piece in pieces:
            file.write(piece)
            n += 1
    return n


def append_line(path: Path, line: str) -> None:
    """Append `line` and its end to a file, made where there is none; it is on the disk then."""
    with disk_errors(path):
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(path.parent)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, each durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content durable, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _share_and_sync(folder: Path) -> None:
    """Make all in `folder` durable, and as readable as the umask lets new files be (libraries have their own modes)."""
    mode = folder.stat().st_mode & 0o777  # as it was made
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            os.chmod(Path(inner, name), mode & 0o666)
            sync(Path(inner, name))
        os.chmod(inner, mode)
        sync(Path(inner))


def temporary_name(parent: Path) -> Path:
    """A path in `parent` that nobody can guess; TEMPORARY knows it again."""
    return parent / f".headstart-{secrets.token_hex(8)}"


@contextmanager
def _temporary(parent: Path, *, folder: bool) -> Iterator[Path]:
    """A new file or folder in `parent`, locked while it is used and gone afterwards, unless it was renamed."""
    _remove_abandoned(parent)
    path = temporary_name(parent)
    if folder:
        path.mkdir()
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    lock = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what a kill leaves there stays
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove temporaries in `parent` whose writer was killed: they are called as ours are, old, and nobody locks them.

    Another user's stay: they cannot be opened or removed.
    """
    for entry in os.scandir(parent):
        if not TEMPORARY.fullmatch(entry.name) or entry.is_symlink():
            continue
        with suppress(OSError):
            lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(lock).st_mtime > ABANDONED_S:
                    _remove(Path(entry.path))
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that headstart made: it is gone at once, or, after a kill or a power cut, still whole."""
    aside = temporary_name(folder.parent)
    folder.rename(aside)
    sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _publish(source: Path, final: Path, overwrite: bool) -> None:
    """Put the folder `source` in the place of `final`; an old `final` then lies where `source` was."""
    if os.path.lexists(final):
        check_replaceable(final, overwrite, folder=True)
        exchange(source, final)
    else:
        source.rename(final)  # fails where something appeared since, unless that is an empty folder
    sync(final.parent)


def exchange(first: Path, second: Path) -> None:
    """Let two folders change names in one step. Raises RunFolderError where the file system cannot do that."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None or renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second),
                                      ctypes.c_uint(RENAME_EXCHANGE)):
        number = errno.ENOSYS if renameat2 is None else ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number), str(second))
        raise RunFolderError(str(second), "cannot be replaced safely: its file system cannot exchange two folders in "
                             "one step.", f"Remove it yourself, or choose another --out: rm -r {second}")


def check_replaceable(path: Path, overwrite: bool, *, folder: bool) -> None:
    """Raise RunFolderError unless what lies at `path` may be replaced: a regular file, or a folder that is sealed."""
    mode = path.lstat().st_mode
    another = "Choose another --out, or move it away yourself."
    if stat.S_ISLNK(mode):
        raise RunFolderError(str(path), f"is a symbolic link, to {shorten(os.readlink(path))}; an output never "
                             "replaces or follows one.", "Name the place itself with --out, or remove the link.")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        kind = next((name for test, name in KINDS if test(mode)), "a file")
        raise RunFolderError(str(path), f"is {kind}; the output is a {'folder' if folder else 'file'}, and only such a "
                             "one is replaced.", another)
    if folder and (foreign := foreign_files(path)):
        raise RunFolderError(str(path), f"exists already and holds what headstart did not write: "
                             f"{listed(foreign)}. It is never replaced.", another)
    if not overwrite:
        raise RunFolderError(str(path), "exists already.", "Choose another --out, or replace it: --overwrite")


def listed(names: list[str]) -> str:
    """The first names and a count of the others."""
    shown = ", ".join(map(shorten, names[:MAX_FOREIGN_SHOWN]))
    rest = len(names) - MAX_FOREIGN_SHOWN
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def sealed_files(folder: Path) -> set[str] | None:
    """The files that a folder's manifest names, by their path in it; None where there is no sound manifest."""
    try:
        return {MANIFEST, *read_manifest(folder)}
    except ArtifactError:
        return None


def foreign_files(folder: Path) -> list[str]:
    """What lies in `folder` beside what its manifest names: all of it where there is no sound manifest."""
    named = sealed_files(folder)
    sealed = named | set(REWRITTEN) if named else set[str]()
    around = {str(parent) for name in sealed for parent in Path(name).parents}
    foreign = []
    for inner, folders, names in os.walk(folder):
        at = Path(inner).relative_to(folder)
        own = [name for name in folders if str(at / name) in around and not Path(inner, name).is_symlink()]
        foreign += [f"{at / name}/" for name in folders if name not in own]
        foreign += [str(at / name) for name in names if str(at / name) not in sealed]
        folders[:] = own
    return sorted(foreign)


REASONS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
           errno.EROFS: "the disk is read-only", errno.EACCES: "permission is denied",
           errno.EPERM: "permission is denied", errno.EFBIG: "the file would be larger than this process may write",
           errno.ENOTDIR: "a part of its path is a file, not a folder", errno.EISDIR: "it is a folder",
           errno.ENAMETOOLONG: "its name is too long", errno.EIO: "the disk failed",
           errno.ELOOP: "its symbolic links lead in a circle", errno.EMFILE: "this process may open no more files",
           errno.EEXIST: "something else was put there meanwhile",
           errno.ENOTEMPTY: "something else was put there meanwhile"}


@contextmanager
def disk_errors(path: Path, fix: str = "What was there before is unchanged. Make room, or choose another --out.",
                ) -> Iterator[None]:
    """Turn what a disk can do to us while we write `path` into a clear error."""
    try:
        yield
    except HeadstartError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        name = error.filename if isinstance(error, OSError) else None
        if isinstance(name, str) and not _belongs_to(Path(name), path):
            raise ResourceError(name, f"cannot be used: {reason}.", "Check the path and its permissions.") from None
        raise ResourceError(str(path), f"cannot be written: {reason}.", fix) from None


def scratch_errors() -> AbstractContextManager[None]:
    """`disk_errors` for work that lies in the system's folder for temporary files, ours or a library's."""
    return disk_errors(Path(tempfile.gettempdir()), "Make room there, or name another folder: TMPDIR=FOLDER")


def _belongs_to(path: Path, output: Path) -> bool:
    """Whether `path` is `output`, lies in it or above it, or is what is written beside it before it is whole."""
    try:
        first = path.absolute().relative_to(output.absolute().parent).parts[:1]
    except ValueError:
        return output.absolute().is_relative_to(path.absolute())
    return not first or first[0].startswith(output.name) or bool(TEMPORARY.fullmatch(first[0]))


def _reason(error: Exception) -> str | None:
    """Why a disk did not do what was asked of it; None for another kind of error."""
    # safetensors and tokenizers write from Rust, which puts the number into the words: "... (os error 28)".
    match = re.search(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]", str(error))
    number = error.errno if isinstance(error, OSError) else None
    if number is None and match:
        number = int(match[1] or match[2])
    if number is None and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy
        return "the disk is full, or the file would be larger than this process may write"
    return REASONS.get(number) if number is not None else None


