"""Where a command may write: checked before its first step of work, so that nothing is lost and no work is in vain.

Nothing that headstart did not write is replaced or removed: no input of the command, no folder with anything foreign in
it, no link, no device; and nothing is planted in a finished run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from .errors import RunFolderError, SpecError, shorten
from .files import (
    TEMPORARY,
    check_replaceable,
    disk_errors,
    exchange,
    listed,
    make_folders,
    sealed_files,
    sync,
    temporary_name,
)
from .untrusted import check_utf8

LOCK = "lock"
OWNER = re.compile(r"process \d+ on ")  # what a lock begins with
FORMER_MARK = "asked.json", re.compile(r'\{"(spec|data)": ')  # of studies begun before their folders were locked


def check_output(out: Path, overwrite: bool, inputs: Iterable[str | Path] = (), *, folder: bool = False) -> None:
    """Raise HeadstartError unless `out` may be written: nothing is there, or what `overwrite` may replace.

    inputs: the files and folders that the command reads; names that are no paths, such as "hub:NAME", are none.
    folder: whether `out` will be a folder; a file otherwise.
    """
    check_place(out, inputs)
    if os.path.lexists(out):
        with disk_errors(out):
            check_replaceable(out, overwrite, folder=folder)
            if folder:
                _check_exchange(out.parent)


def check_place(out: Path, inputs: Iterable[str | Path] = ()) -> None:
    """The part of `check_output` that holds whatever is at `out` already."""
    if out.name in ("", ".."):
        raise RunFolderError(str(out), "is no name of a new file or folder.", "Name one: --out runs/NAME")
    with disk_errors(out):
        check_utf8(str(out), "--out", "it could not be written down", SpecError)
        for source in map(str, inputs):
            check_utf8(str(source), "input", "it could not be written down", SpecError)
            _check_input(out, Path(os.path.expanduser(source)))
        place = _real(out.absolute().parent)
        for parent in (place, *place.parents):
            if sealed_files(parent) is not None:
                raise RunFolderError(str(out), f"would lie in {shorten(str(parent))}, which is finished and sealed.",
                                     "Choose an --out outside of it.")
        _check_above(out)
        _check_writable(out)


def _real(path: Path) -> Path:
    """As Path.resolve, which raises RuntimeError where links lead in a circle."""
    return Path(os.path.realpath(path))


def _check_input(out: Path, source: Path) -> None:
    """Raise RunFolderError where writing `out` would replace `source`, or something in it."""
    if not source.exists() or not out.exists():
        return
    if out.samefile(source):
        raise RunFolderError(str(out), f"is an input of this command, {shorten(str(source))}; an output never replaces "
                             "one.", "Choose another --out.")
    inner, outer = _real(source), _real(out)
    if inner.is_relative_to(outer):
        raise RunFolderError(str(out), f"holds an input of this command, {shorten(str(source))}; an output never "
                             "replaces one.", "Choose another --out.")
    if outer.is_relative_to(inner) and out.is_file():
        raise RunFolderError(str(out), f"lies in an input of this command, {shorten(str(source))}; an output never "
                             "replaces one.", "Choose another --out.")


def _check_above(out: Path) -> None:
    """Raise RunFolderError for the root, the home, the working directory, and what lies above them."""
    for name, place in (("the working directory", Path.cwd()), ("the home", Path(os.path.expanduser("~")))):
        if _real(place).is_relative_to(_real(out)):
            raise RunFolderError(str(out), f"is, or holds, {name}; it is never replaced.",
                                 "Name a file or folder of its own: --out runs/NAME")


def _check_writable(out: Path) -> None:
    """Raise OSError unless something can be made in the folder of `out`, or in the nearest above it that is there."""
    with suppress(FileNotFoundError):
        out.lstat()
    folder = next(path for path in out.absolute().parents if path.exists())
    number = (errno.ENOTDIR if not folder.is_dir() else errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY
              else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES)
    if number:
        raise OSError(number, os.strerror(number))


def _check_exchange(parent: Path) -> None:
    """Raise RunFolderError where two folders in `parent` cannot be exchanged."""
    probes = [temporary_name(parent) for _ in range(2)]
    try:
        for probe in probes:
            probe.mkdir()
        exchange(*probes)
    finally:
        for probe in probes:
            if probe.exists():
                probe.rmdir()


@contextmanager
def work_folder(work: Path, names: Sequence[str], what: str, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the folder `work` by a lock; it is new, or headstart made it.

    names: patterns of what lies in it; with anything else in it, it is neither continued nor cleared.
    what:  "a run that was not finished": what a folder holds that is there already.
    resume, overwrite: continue it, or clear it; without either it must not be there.

    Raises RunFolderError when another process holds it, or when it is not ours.
    """
    with disk_errors(work):
        if os.path.lexists(work):
            check_work(work, names)
            if not (resume or overwrite):
                raise RunFolderError(str(work), f"exists already; it holds {what}.",
                                     "Continue it: --resume. Start anew: --overwrite")
        else:
            make_folders(work)
        descriptor = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, work)
            if not resume:
                clear_work(work, names, keep=(LOCK,))
            yield
        finally:
            os.close(descriptor)


def check_work(work: Path, names: Sequence[str]) -> None:
    """Raise RunFolderError unless headstart made the folder `work` and nothing else lies in it."""
    fix = "Choose another --out, or move it away yourself."
    if work.is_symlink() or not work.is_dir():
        raise RunFolderError(str(work), "is where the work of this command would lie; it is no folder.", fix)
    entries = list(os.scandir(work))
    foreign = [entry.name for entry in entries if not _is_own(entry, names)]
    if foreign or not (_is_marked(work) or all(entry.name == LOCK and not entry.stat().st_size for entry in entries)):
        shown = listed(sorted(foreign or [entry.name for entry in entries]))
        raise RunFolderError(str(work), f"is where the work of this command would lie; it holds what headstart did not "
                             f"write: {shown}.", fix)


def _is_own(entry: os.DirEntry[str], names: Sequence[str]) -> bool:
    known = any(fnmatch(entry.name, name) for name in (*names, LOCK)) or TEMPORARY.fullmatch(entry.name)
    return bool(known) and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))


def _is_marked(work: Path) -> bool:
    for name, beginning in ((LOCK, OWNER), FORMER_MARK):
        path = work / name
        if path.is_file() and not path.is_symlink():
            with path.open(encoding="utf-8", errors="replace") as file:
                if beginning.match(file.read(100)):
                    return True
    return False


def _lock(descriptor: int, work: Path) -> None:
    """Take the lock and write its owner down: durable before anything else is written."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        raise RunFolderError(str(work), f"is in use by {shorten(owner)}.",
                             "Wait for it, stop it, or choose another --out.") from None
    mark = f"process {os.getpid()} on {socket.gethostname()}".encode()
    os.pwrite(descriptor, mark, 0)  # over the former: it is a lock of ours at any moment
    os.ftruncate(descriptor, len(mark))
    os.fsync(descriptor)
    sync(work)


def clear_work(work: Path, names: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Remove what is ours in `work`. Returns what is not, by name: it stays."""
    foreign = []
    for entry in os.scandir(work):
        if not _is_own(entry, names):
            foreign.append(entry.name)
        elif entry.name not in keep:
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    return sorted(foreign)
