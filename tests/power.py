"""A file system that forgets what was not synced: what would be on the disk if the power went off."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import context, run


class Disk:
    """What of `root` is durable, and after each fsync a copy of it: `cuts`/0001, 0002, ..., and the last at the end.

    As pessimistic as a file system may be: a file holds what it held at its own last fsync, a folder lists what it
    listed at its own; what was never synced is empty.
    """

    def __init__(self, root: Path, cuts: Path) -> None:
        self.root, self.cuts, self.n = root, cuts, 0
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, tuple[int, bool]]] = {}
        for path in (root, *root.rglob("*")):
            self._sync(os.open(path, os.O_RDONLY))

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_relative_to(self.root):
            self._sync(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY))
            self.cut()

    def _sync(self, descriptor: int) -> None:
        """The descriptor stays open, so that no other file gets the number of this one."""
        number = os.fstat(descriptor).st_ino
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.folders[number] = {e.name: (e.inode(), e.is_dir(follow_symlinks=False)) for e in os.scandir(path)}
        else:
            self.files[number] = os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def cut(self) -> None:
        self.n += 1
        self._copy(self.root.stat().st_ino, self.cuts / f"{self.n:04}")

    def _copy(self, number: int, to: Path) -> None:
        to.mkdir()
        for name, (inner, is_folder) in self.folders.get(number, {}).items():
            if is_folder:
                self._copy(inner, to / name)
            else:
                (to / name).write_bytes(self.files.get(inner, b""))


def _in_child(root: Path, cuts: Path, log: str, arguments: list[str], function: Callable[..., Any] | None) -> None:
    disk = Disk(root, cuts)
    os.fsync = disk.fsync  # type: ignore[assignment]  # the operating system of this process
    try:
        if function is None:
            run(tuple(arguments), (os.devnull, log), None, os.getcwd(), dict(os.environ))
        else:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
            function(*arguments)
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)
    finally:
        disk.cut()


def cuts_of(root: Path, *arguments: str, function: Callable[..., Any] | None = None, code: int = 0) -> list[Path]:
    """What would be on the disk in the place of `root` after each moment of a command, the last after its end.

    function: called with the arguments in the place of the command line; of a module that the child can import.
    """
    cuts, log = root.with_name(f"{root.name}-cuts"), root.with_name(f"{root.name}-log")
    cuts.mkdir()
    process = context.Process(target=_in_child, args=(root, cuts, str(log), list(arguments), function))
    process.start()
    process.join(120)
    assert process.exitcode == code, log.read_text("utf-8")
    return sorted(cuts.iterdir())
