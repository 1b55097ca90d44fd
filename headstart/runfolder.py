"""Where a run lives while it runs, and how it survives being stopped.

    runs/reviews           the artifact; there only when it is whole
    runs/reviews.partial   the run's work: lock, spec.yaml, steps.jsonl, arrays, checkpoints

A lock is the kernel's (flock), so it ends with the process that held it, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import sealed
from .errors import HeadstartError, Interrupted, RunFolderError, shorten

if TYPE_CHECKING:
    import torch

N_CHECKPOINTS_KEPT = 2


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


def refuse_existing(out: Path, allowed: bool) -> None:
    """Nothing that a user has is replaced unless it was said."""
    if out.exists() and not allowed:
        raise RunFolderError(str(out), "exists already.", "Choose another --out, or replace it: --overwrite")


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


@dataclass
class Progress:
    """How far a run is: all that a resumed process must know beside the tensors.

    curve: one entry an evaluation.  n_worse: evaluations since the best one.  n_mean: weights that the mean is of.
    began, epochs_before: steps and epochs of earlier trainings from the same first weights.
    """

    step: int = 0
    seconds: float = 0.0
    n_tokens: int = 0
    best_step: int = 0
    best_score: float = -1.0
    n_worse: int = 0
    n_mean: int = 0
    began: int = 0
    epochs_before: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)

    def begin_again(self) -> None:
        """What follows is another training from the first weights."""
        self.began, self.epochs_before = self.step, math.ceil(self.curve[-1]["epoch"])
        self.best_score, self.n_worse, self.scaler = -1.0, 0, {}


TENSORS = ("weights", "best", "mean", "optimizer")


@dataclass
class Checkpoint:
    """One moment of training. weights, best and mean: the moving weights by name; optimizer: its tensors by place."""

    progress: Progress
    weights: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def save(work: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all, then drop all but the newest two."""
    from safetensors.torch import save_file

    with sealed.writing(work / f"checkpoint-{checkpoint.progress.step:08d}") as folder:
        for name in TENSORS:
            save_file({k: t.contiguous() for k, t in getattr(checkpoint, name).items()}, folder / f"{name}.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress)), "utf-8")
    for stale in checkpoints(work)[:-N_CHECKPOINTS_KEPT]:
        shutil.rmtree(stale)


def checkpoints(work: Path) -> list[Path]:
    """Checkpoint folders, oldest first, in order of their step (clocks can jump)."""
    return sorted(p for p in work.glob("checkpoint-*") if p.suffix not in (".tmp", ".old"))


def latest(work: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole. A damaged one is named on stderr, and the one before it is used."""
    from safetensors.torch import load_file

    for folder in reversed(checkpoints(work)):
        faults = sealed.faults(folder)
        if not faults:
            tensors = {name: load_file(folder / f"{name}.safetensors") for name in TENSORS}
            progress = Progress(**json.loads((folder / "progress.json").read_text("utf-8")))
            return Checkpoint(progress, **tensors)
        print(f"{folder}: checkpoint is damaged and was not used: {'; '.join(faults)}. "
              "Falling back to the one before it.", file=sys.stderr)
    return None


class Stop:
    """What a signal asks for. At once: leave now. Deferred (inside training): finish the step, save, leave."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deferred = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler; a second signal ends the process on the spot."""
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        if not self.deferred:
            self.leave("nothing was lost; start again with the same command")

    def leave(self, fix: str) -> None:
        """Raise what ends the run with exit code 130 or 143."""
        assert self.signum is not None
        raise Interrupted(self.signum, f"interrupted by {signal.Signals(self.signum).name}", fix)


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM while a run goes on. Outside the main thread signals are left alone."""
    stop = Stop()
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, stop.handle) for kind in kinds]
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def remove(work: Path) -> None:
    """Remove a work folder whose artifact is published."""
    shutil.rmtree(work)
