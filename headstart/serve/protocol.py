"""uvicorn's HTTP protocol with two limits that it lacks: how long, and how many bytes, the head of a request may be."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 1 << 15


class Protocol(HttpToolsProtocol):
    """Closes a connection whose request's head does not end. Bodies are the routes' to limit."""

    head_s: float
    _timer: asyncio.TimerHandle | None = None
    _n_head_bytes = 0
    _is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._n_head_bytes += len(data) if self._is_in_head else 0
        if self._is_in_head and self._n_head_bytes > HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def _start(self) -> None:
        self._stop()
        self._is_in_head, self._n_head_bytes = True, 0
        self._timer = self.loop.call_later(self.head_s, self._late)

    def _stop(self) -> None:
        self._is_in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, *_: Any) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def limited_protocol(head_s: float) -> type[Protocol]:
    """The protocol with its limit of time."""
    return type("Protocol", (Protocol,), {"head_s": head_s})
