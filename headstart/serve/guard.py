"""The outermost layer, plain ASGI: request id, API key, headers, errors in one shape, one line of log, counts."""

from __future__ import annotations

import hashlib
import hmac
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ClientGone, Refused, closing, internal, is_end
from .log import log_event, where
from .measures import Measures

OPEN = ("/", "/docs", "/pages/", "/health/")  # paths that need no key; "/x/": all below it
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
CLIENT_GONE = 499  # what logs and counts call a request whose client went away (nginx's number)
HEADERS = [(name.encode(), value.encode()) for name, value in {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()", "cache-control": "no-store",
}.items()]


@dataclass
class Facts:
    """What the log has of a request when it is over; routes fill it in through `scope["facts"]`."""

    request_id: str
    model: str = ""
    n_rows: int = 0
    n_tokens: int = 0
    route: str = "none"  # the route's pattern, never the path: paths are anybody's to invent
    status: int = 0
    began: float = field(default_factory=time.perf_counter)


class Keys:
    """API keys that are let in. Only their hashes are compared, all of them and in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise Refused unless exactly one key came, and a right one."""
        if not self._hashes:
            return
        bearer = [v[7:].strip() for k, v in headers if k == b"authorization" and v[:7].lower() == b"bearer "]
        keys = bearer + [v.strip() for k, v in headers if k == b"x-api-key"]
        n_sent = sum(k in (b"authorization", b"x-api-key") for k, _ in headers)
        sent = hashlib.sha256(keys[0] if keys else b"").digest()
        is_known = max([hmac.compare_digest(sent, known) for known in self._hashes])
        if n_sent != 1 or len(keys) != 1 or not is_known:
            raise Refused(401, "key_not_valid", 'send one valid API key as "Authorization: Bearer KEY" or "X-API-Key".',
                          headers={"www-authenticate": "Bearer"})


class Guard:
    """Everything that is the same for all routes.

    keys:     may be replaced while serving.
    hosts:   names in the Host header that are answered; all when empty. A page of anybody may give its own name the
             address 127.0.0.1, and its visitors' browsers would then let it read what is answered here.
    origins: web pages (scheme://host) that browsers may let call us.
    """

    def __init__(self, app: ASGIApp, keys: Keys, measures: Measures, hosts: Sequence[str] = (),
                 origins: Sequence[str] = ()) -> None:
        self.app, self.keys, self.measures = app, keys, measures
        self.hosts, self.origins = {host.lower().encode() for host in hosts}, {o.encode() for o in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts = scope["facts"] = Facts(_request_id(scope))
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"  # the same answer; its body is left out when it is written
        origin = next((v for k, v in scope["headers"] if k == b"origin" and v in self.origins), None)
        shared = _shared_with(origin)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS, *shared,
                                      (b"x-request-id", facts.request_id.encode())]
            await send(message)

        try:
            self._check(scope)
            if origin is not None and method == "OPTIONS":
                await answer_preflight(send_with_headers)
            else:
                await self._let_in(scope, receive, send_with_headers)
        except Refused as refused:
            await answer(refused, facts, send_with_headers)
        except ClientGone:
            facts.status = CLIENT_GONE
        except BaseException as error:  # the last place; what happened goes to the log, without its words
            if is_end(error):
                raise
            log_event("error", "internal error", id=facts.request_id, exception=where(error))
            if not facts.status:
                await answer(internal(), facts, send_with_headers)
        finally:
            self._close(scope, facts, method)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_open(scope["path"]):
            self.keys.check(scope["headers"])
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Refused for what the protocol refuses, and for a Host that is not ours."""
        if "refused" in scope:
            raise scope["refused"]
        host = next((v for k, v in scope["headers"] if k == b"host"), b"")
        if self.hosts and re.sub(rb":[0-9]*$", b"", host).lower() not in self.hosts:
            raise closing(Refused(421, "host_not_allowed", "this name in the Host header is not answered; headstart "
                                  "serve --allowed-hosts NAME lets it in."))

    def _close(self, scope: Scope, facts: Facts, method: str) -> None:
        route = scope.get("route")
        facts.route = getattr(route, "path", facts.route)
        seconds = time.perf_counter() - facts.began
        method = method if method in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self.measures.requests.labels(facts.route, method, facts.status, facts.model).inc()
        self.measures.seconds.labels(facts.route, facts.model).observe(seconds)
        log_event("info", "request", id=facts.request_id, method=method, route=facts.route, status=facts.status,
                  ms=round(1000 * seconds, 1), model=facts.model, n_rows=facts.n_rows, n_tokens=facts.n_tokens)


async def answer(refused: Refused, facts: Facts, send: Send) -> None:
    """Send an error in the one shape that errors have."""
    body = refused.body(facts.request_id)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    await send({"type": "http.response.start", "status": refused.status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
    await send({"type": "http.response.body", "body": body})


def _shared_with(origin: bytes | None) -> list[tuple[bytes, bytes]]:
    return [] if origin is None else [(b"access-control-allow-origin", origin), (b"vary", b"Origin"),
                                      (b"access-control-expose-headers", b"retry-after, x-request-id")]


async def answer_preflight(send: Send) -> None:
    """Tell a browser what a page may send that is let in."""
    await send({"type": "http.response.start", "status": 204, "headers": [
        (b"access-control-allow-methods", b"GET, POST"), (b"access-control-max-age", b"600"),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id")]})
    await send({"type": "http.response.body", "body": b""})


def _is_open(path: str) -> bool:
    return any(path == name or (len(name) > 1 and name.endswith("/") and path.startswith(name)) for name in OPEN)


def _request_id(scope: Scope) -> str:
    value: Any = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
    return value.decode() if REQUEST_ID.fullmatch(value) else f"{random.getrandbits(128):032x}"
