"""What a person sees while they wait: a bar on stderr, and only when it is a terminal."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Lines and one bar at a time. quiet: nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def say(self, line: str) -> None:
        """One line that a log should keep, on stderr; "" is none."""
        if line and not self.quiet:
            self.end()
            print(line, file=sys.stderr, flush=True)

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """A new bar of `total` units."""
        self.end()
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def advance(self, n: int, note: str = "") -> None:
        """`n` more units are done."""
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(n)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
