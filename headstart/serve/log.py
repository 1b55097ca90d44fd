"""One line of JSON an event, on stderr. Never a text, a row, an answer, a query string or a key."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal


class _Lines(logging.Formatter):
    """The lines of asyncio in the shape of ours."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {"exception": where(record.exc_info[1])} if record.exc_info and record.exc_info[1] is not None else {}
        return _line(record.levelname.lower(), record.getMessage(), facts)  # an exception's words may hold a payload


def start() -> None:
    """Send asyncio's log to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("asyncio")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.CRITICAL)


def log_event(level: Literal["info", "warning", "error"], event: str, **facts: Any) -> None:
    """Write one line, if it can be: nobody waits in vain for an answer because a disk is full or a reader has gone.

    Not through logging, which took an eighth of all that HTTP costs in Python.
    """
    with suppress(OSError):
        sys.stderr.write(_line(level, event, facts) + "\n")


def _line(level: str, event: str, facts: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": event, **facts})


def where(error: BaseException) -> str:
    """The kind of an exception and the line it came from, without its words."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" at {at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}" if at is not None else ""
    return type(error).__name__ + place
