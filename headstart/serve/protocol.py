"""HTTP/1.1 (RFC 9112) between a socket and an ASGI application, every part of it bounded in bytes and seconds.

httptools parses; what is malformed, too large, too slow or one connection too many becomes a request whose scope has
"refused", so that it is answered, counted and logged where all errors are. One request of a connection is answered at
a time; what a client sends ahead stays in the socket.
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import httptools
from starlette.types import ASGIApp, Scope

from .errors import Refused, closing
from .exchange import CONTINUE, Exchange
from .heads import HEAD_BYTES, MAX_HEADERS, URL_BYTES, check_head, head_too_large, without_offer
from .settings import Settings

PIECE = 1 << 13  # bytes that are parsed at once: what is counted by pieces is exact to one of them
HELD_BYTES = 1 << 16  # of a body, or of what comes behind a request, that wait before the socket is read no further
WRITTEN_BYTES = 1 << 14  # of answers that wait for their client before they count as unread
IDLE_S, LAST_IDLE_S = 5.0, 1.0  # between two requests of a connection; when the process is about to end
LINGER_S = 1.0  # after the last answer, what a client still sends is read and forgotten: else its answer may be lost
LINGERING = 256  # connections over the limit that are told so; further ones are closed
PROBE_S = 1.0  # between looks whether a client that sends no more still listens


@dataclass(eq=False)
class Connections:
    """What the connections of a process share."""

    app: ASGIApp
    settings: Settings
    limit: int
    open: set[Protocol] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    unread_bytes: int = 0
    is_draining: bool = False
    _date: tuple[int, bytes] = (0, b"")

    def date(self) -> bytes:
        """The Date header's line, made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = now, b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
        return self._date[1]

    def end(self) -> None:
        """Close each connection after its next answer, or soon when it asks nothing."""
        self.is_draining = True
        for protocol in self.open:
            protocol.end()


class Protocol(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, shared: Connections) -> None:
        self.shared = shared
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.writable = asyncio.Event()
        self.writable.set()
        self.is_lost = False
        self._exchanges: deque[Exchange] = deque()  # the first one is being answered
        self._read: Exchange | None = None  # the one whose body comes in
        self._held = bytearray()
        self._is_reading, self._is_closing, self._is_broken, self._has_eof = True, False, False, False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._n_unread = self._n_lingered = self._n_body = 0
        self._reset()

    # ------------------------------------------------------------------------------------------- the socket's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; it has so long for its first head."""
        self.transport = transport
        transport.set_write_buffer_limits(WRITTEN_BYTES)
        self.shared.open.add(self)
        n_over = len(self.shared.open) - self.shared.limit
        if n_over > LINGERING:
            self._abort()
        elif n_over > 0:
            self._refuse(closing(Refused(503, "too_many_connections", "as many clients are connected as may; try again "
                                         "later.", headers={"retry-after": "1"})))
        else:
            self._set_timer(self.shared.settings.body_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; whoever works for it hears so."""
        self.is_lost = True
        self.shared.open.discard(self)
        self.resume_writing()
        self._set_timer(0, None)
        for exchange in self._exchanges:
            exchange.event.set()
        self._held.clear()

    def eof_received(self) -> bool:
        """The client sends no more, and may still listen: what it asked is answered."""
        self._has_eof = True
        if self._is_closing or not self._exchanges or not self._exchanges[-1].is_whole:
            self._abort() if self._exchanges and not self._is_closing else self._close()
        else:
            self._set_timer(PROBE_S, self._probe)
        return True

    def data_received(self, data: bytes) -> None:
        """Bytes for the parser, unless a whole request waits for its answer: then they wait too."""
        if self._is_broken or self._is_closing:
            self._n_lingered += len(data)
            if self._n_lingered > 4 * self.shared.settings.body_bytes:
                self._close()
            return
        if self._held or self._is_busy() or len(data) > PIECE:
            self._held += data
            self._parse()
        else:
            self._feed(data)
        self.set_reading()

    def pause_writing(self) -> None:
        """An answer waits for its client to read it."""
        self.writable.clear()
        self._n_unread = self.transport.get_write_buffer_size()
        self.shared.unread_bytes += self._n_unread
        self._write_timer = self.loop.call_later(self.shared.settings.write_s, self._abort)

    def resume_writing(self) -> None:
        """It was read, or the client is gone."""
        self.writable.set()
        self.shared.unread_bytes -= self._n_unread
        self._n_unread = 0
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # ---------------------------------------------------------------------------------------------------- the parser

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._reset()
        self._has_begun = True

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._url += url
        if len(self._url) > URL_BYTES:
            raise Refused(414, "path_too_long", f"a path has at most {URL_BYTES:,} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those behind the body are read and forgotten."""
        if self._read is not None:
            return
        self._n_head += len(name) + len(value) + 4
        if self._n_head > HEAD_BYTES or len(self._headers) >= MAX_HEADERS:
            raise head_too_large()
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: the application may start."""
        if self.parser.get_method() == b"CONNECT":
            raise Refused(501, "method_not_known", "this server is no proxy.")
        if self.parser.should_upgrade():
            return  # `_without_offer` begins this request anew
        scope = self._scope(self.parser.get_method().decode())
        exchange = Exchange(self, scope)
        values: dict[bytes, list[bytes]] = {}
        for name, value in self._headers:
            values.setdefault(name, []).append(value)
        version = scope["http_version"] = self.parser.get_http_version()
        check_head(version, values)
        exchange.keeps_alive = version == "1.1" and self.parser.should_keep_alive()
        exchange.wants_continue = version == "1.1" and b"expect" in values
        self._read = exchange
        self._set_timer(0, None)
        self._add(exchange)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        assert self._read is not None
        self._n_body += len(body)
        self._n_framing = 0
        if not self._read.is_over:
            self._read.body += body
            self._read.event.set()

    def on_message_complete(self) -> None:
        """The last byte of the body."""
        exchange, self._read = self._read, None
        if exchange is not None:
            exchange.is_whole = True
            exchange.event.set()
            self._reset()

    def _reset(self) -> None:
        """Before a request."""
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._n_head = self._n_raw = self._n_framing = 0
        self._n_body = 0
        self._has_begun = False

    def _parse(self) -> None:
        while self._held and not self._is_busy() and not self._is_broken and not self._is_closing:
            piece = bytes(self._held[:PIECE])
            del self._held[:PIECE]
            self._feed(piece)

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
            self._check_size(len(piece))
        except httptools.HttpParserUpgrade as upgrade:
            self._feed(self._without_offer() + piece[upgrade.args[0]:])
        except httptools.HttpParserError as error:
            reason = error.__context__
            self._refuse(reason if isinstance(reason, Refused) else
                         Refused(400, "http_not_valid", "this is not a valid HTTP/1.1 request."))
        except Refused as refused:
            self._refuse(refused)
        if self._has_begun and self._read is None and self._timer is None and not self._is_broken:
            self._set_timer(self.shared.settings.body_s, self._late)

    def _without_offer(self) -> bytes:
        """Begin a request anew that offers another protocol, as if it did not: httptools would not read its body."""
        head = without_offer(self.parser.get_method(), self._url, self.parser.get_http_version(), self._headers)
        self.parser = httptools.HttpRequestParser(self)
        return head

    def _check_size(self, n: int) -> None:
        """Count raw bytes of a head, and of what frames a body: chunk sizes, extensions, trailers."""
        self._n_raw += n
        if self._read is None:
            if self._n_raw > HEAD_BYTES + PIECE:
                raise head_too_large()
            return
        self._n_framing += n
        if self._n_framing > HEAD_BYTES + PIECE or self._n_raw > 2 * (self._n_body + HEAD_BYTES + PIECE):
            raise Refused(413, "too_many_bytes", "chunk sizes, extensions and trailers take more bytes than the body.")

    def _scope(self, method: str, has_path: bool = True) -> Scope:
        url = httptools.parse_url(self._url) if has_path else None
        if url is not None and url.host:  # the absolute form: its host is the one that counts
            host = url.host if url.port is None else b"%b:%d" % (url.host, url.port)
            self._headers = [(k, host if k == b"host" else v) for k, v in self._headers]
        raw_path = (url.path if url is not None else b"") or b"/"
        peer, name = (self.transport.get_extra_info(what) for what in ("peername", "sockname"))
        return {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                "server": name[:2] if name else None, "client": peer[:2] if peer else None, "scheme": "http",
                "method": method, "root_path": "", "path": urllib.parse.unquote(raw_path.decode("latin-1")),
                "raw_path": raw_path, "query_string": (url.query if url is not None else b"") or b"",
                "headers": self._headers}

    # --------------------------------------------------------------------------------------------------- the requests

    def check_unread(self, n_bytes: int) -> None:
        """Raise Refused when an answer of so many bytes may not wait for its client."""
        if n_bytes > WRITTEN_BYTES and self.shared.unread_bytes + n_bytes > self.shared.settings.unread_bytes:
            raise Refused(503, "too_much_unread", "too many bytes of answers wait for clients to read them; try again "
                          "later.", headers={"retry-after": "1"})

    def answered(self, exchange: Exchange) -> None:
        """The whole answer is written, or waits to be."""
        self._exchanges.popleft()
        if not exchange.keeps_alive:
            self._linger()
            return
        if self._exchanges:
            self._start(self._exchanges[0])
            return
        self._parse()
        self.set_reading()
        if self._has_eof and not self._exchanges:
            self._close()
        elif not self._exchanges and not self._has_begun:
            self._set_timer(LAST_IDLE_S if self.shared.is_draining else IDLE_S, self._close)

    def end(self) -> None:
        """The process is about to end: a connection that asks nothing is closed, but not under a request on its way."""
        if not self._exchanges and not self._has_begun:
            self._set_timer(LAST_IDLE_S, self._close)

    def set_reading(self) -> None:
        """Read from the socket as long as little waits."""
        n_held = len(self._held) + (len(self._read.body) if self._read is not None else 0)
        wanted = n_held <= HELD_BYTES or self._is_closing
        if wanted != self._is_reading and not self.is_lost and not self._has_eof:
            self._is_reading = wanted
            (self.transport.resume_reading if wanted else self.transport.pause_reading)()

    def _is_busy(self) -> bool:
        return bool(self._exchanges) and self._read is None

    def _refuse(self, refused: Refused) -> None:
        """Answer an error and read no further requests."""
        self._is_broken = True
        self._held.clear()
        refused.headers["connection"] = "close"
        if self._read is not None:
            self._read.refused = refused
            self._read.event.set()
            return
        scope = self._scope("GET", has_path=False)
        scope["refused"] = refused
        self._add(Exchange(self, scope))

    def _add(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        task = self.loop.create_task(self._run(exchange))
        self.shared.tasks.add(task)
        task.add_done_callback(self.shared.tasks.discard)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self.shared.app(exchange.scope, exchange.receive, exchange.send)
        finally:
            if not exchange.is_over:
                self._abort()  # an answer that was begun cannot be taken back

    # --------------------------------------------------------------------------------------------------------- the end

    def _set_timer(self, seconds: float, callback: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, callback) if callback is not None else None

    def _late(self) -> None:
        self._timer = None
        if self._has_begun:
            self._refuse(Refused(408, "head_too_slow", f"the head of a request must arrive within "
                                 f"{self.shared.settings.body_s:g} s."))
        else:
            self._close()

    def _probe(self) -> None:
        """A client that is gone answers the second of these with a reset; one that listens skips them."""
        self._timer = None
        if self._exchanges and not self._exchanges[0].is_written and not self.is_lost:
            if self._exchanges[0].scope["http_version"] == "1.1":
                self.transport.write(CONTINUE)
            self._set_timer(PROBE_S / 10, self._probe)

    def _linger(self) -> None:
        self._is_closing = True
        self._held.clear()
        if self._has_eof or self.is_lost:
            self._close()
            return
        self.set_reading()
        self.transport.write_eof()
        self._set_timer(LINGER_S, self._close)

    def _close(self) -> None:
        """Close once all is written; what nobody reads is given up after a while."""
        self._set_timer(0, None)
        self._is_closing = True
        if not self.is_lost:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._set_timer(self.shared.settings.write_s, self._abort)

    def _abort(self) -> None:
        if not self.is_lost:
            self._is_closing = True
            self.transport.abort()
