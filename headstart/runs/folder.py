"""Where a run lives while it runs.

    runs/reviews           the artifact; there only when it is whole
    runs/reviews.partial   the run's work: lock, spec.yaml, steps.jsonl, arrays, checkpoints

A lock is the kernel's (flock), so it ends with the process that held it, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import HeadstartError, Interrupted, RunFolderError, shorten
from ..core.files import refuse_existing
from ..training.checkpoint import checkpoints


@contextlib.contextmanager
def opened(final: Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Lock the work folder of run `final` and give it; it is new unless `resume`.

    Raises RunFolderError when another process holds it, or when something is there that nobody said to replace.
    """
    work = final.with_name(final.name + ".partial")
    old = final.with_name(final.name + ".old")
    if old.exists() and not final.exists():
        old.rename(final)  # a kill between the two renames of an --overwrite
    refuse_existing(final, overwrite or resume)
    if work.exists() and not (overwrite or resume):
        raise RunFolderError(str(work), "holds a run that was not finished.",
                             "Continue it: --resume. Start anew: --overwrite")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as lock:
        _lock(lock, work)
        if not resume:
            for path in work.iterdir():
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield work
        except (HeadstartError, OSError) as error:
            if not isinstance(error, Interrupted) and not checkpoints(work):
                shutil.rmtree(work)  # nothing in it to go on from, so it is not in the way of the next try
            raise


def _lock(lock: Any, work: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        raise RunFolderError(str(work), f"is in use by {shorten(lock.read().strip() or 'another process')}.",
                             "Wait for it, stop it, or choose another --out.") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()


def remove(work: Path) -> None:
    """Remove a work folder whose artifact is published."""
    shutil.rmtree(work)
