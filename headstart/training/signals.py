"""SIGINT and SIGTERM while a run goes on: finish the step, save, leave."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from ..core.errors import Interrupted


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
