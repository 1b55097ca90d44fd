"""The one way a request is turned down: a status, a code for programs and a sentence for people. Never the payload."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pydantic_core import to_json


@dataclass
class Refused(Exception):
    """An answer that is an error.

    param: the place in the request, such as "rows[3].text".
    """

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> bytes:
        """The JSON that every error has."""
        return to_json({"error": {"code": self.code, "message": self.message, "param": self.param,
                                  "request_id": request_id}})


def closing(refused: Refused) -> Refused:
    """What is left of the request is not read: the connection ends."""
    refused.headers["connection"] = "close"
    return refused


def is_end(error: BaseException) -> bool:
    """Whether it ends a task or the process. All else is a fault: a panic of Rust code is no Exception either."""
    return isinstance(error, asyncio.CancelledError | SystemExit | KeyboardInterrupt | GeneratorExit)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def internal() -> Refused:
    """What the client hears of a fault of ours."""
    return Refused(500, "internal", "something went wrong here; the log has it under the request's id.")
