"""One line of JSON an event, on stderr. Never a text, a row, an answer, a query string or a key."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("headstart.serve")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        line = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(), "event": record.getMessage(), **facts}
        if record.exc_info and record.exc_info[1] is not None:  # an exception's words may hold a payload
            line["exception"] = where(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def start() -> None:
    """Send what we and uvicorn say to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for logger, level in ((_LOGGER, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING),
                          (logging.getLogger("asyncio"), logging.CRITICAL)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def say(level: str, event: str, **facts: Any) -> None:
    """Write one line."""
    _LOGGER.log(LEVELS[level], event, extra={"facts": facts})


def where(error: BaseException) -> str:
    """The kind of an exception and the line it came from, without its words."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" at {at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}" if at is not None else ""
    return type(error).__name__ + place
