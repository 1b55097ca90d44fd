"""One request of a connection and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import http
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from .errors import Refused

if TYPE_CHECKING:
    from .protocol import Protocol

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINE = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


class Exchange:
    """One request and its answer."""

    def __init__(self, protocol: Protocol, scope: Scope) -> None:
        self.protocol, self.scope = protocol, scope
        self.method = scope["method"]
        self.body, self.is_whole, self.is_over, self.keeps_alive = bytearray(), False, False, False
        self.wants_continue = False
        self.refused: Refused | None = None  # what came to light while the body was read
        self.event = asyncio.Event()
        self.start: Message | None = None
        self.is_written = False  # whether the head of the answer is

    async def receive(self) -> Message:
        """ASGI's. Raises Refused when the body breaks a rule."""
        protocol = self.protocol
        if self.wants_continue and not self.body and not self.is_whole and not protocol.is_lost:
            protocol.transport.write(CONTINUE)
        self.wants_continue = False
        if not (self.body or self.refused or protocol.is_lost or self.is_over):
            protocol.set_reading()
            await self.event.wait()
        self.event.clear()
        if self.refused is not None:
            raise self.refused
        if protocol.is_lost or self.is_over:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        protocol.set_reading()
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    async def send(self, message: Message) -> None:
        """ASGI's. Raises Refused, before anything is written, when too much waits for clients that do not read."""
        protocol = self.protocol
        await protocol.writable.wait()
        if protocol.is_lost or self.is_over:
            return
        if message["type"] == "http.response.start":
            self.start = message
            return
        assert self.start is not None
        body, pieces = message.get("body", b""), []
        if not self.is_written:
            protocol.check_unread(len(body))
            pieces.append(self._head(self.start))
            self.is_written = True
        if body and self.method != "HEAD":
            pieces.append(body)
        protocol.transport.write(b"".join(pieces))
        if not message.get("more_body"):
            self.is_over = True
            self.event.set()
            protocol.answered(self)

    def _head(self, start: Message) -> bytes:
        headers = start["headers"]
        names = dict(headers)
        has_length = b"content-length" in names or start["status"] in (204, 304)
        self.keeps_alive = (self.keeps_alive and self.is_whole and has_length and not self.protocol.shared.is_draining
                            and names.get(b"connection") != b"close")
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"connection"]
        return b"".join([STATUS_LINE[start["status"]], self.protocol.shared.date(), *lines,
                         b"" if self.keeps_alive else b"connection: close\r\n", b"\r\n"])
