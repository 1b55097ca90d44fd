"""What the head of an HTTP/1.1 request may say (RFC 9112), once httptools has parsed it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .errors import Refused

HEAD_BYTES, URL_BYTES, MAX_HEADERS = 1 << 15, 1 << 13, 200  # of one request; more is 431, or 414
HOST = re.compile(rb"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])?(:[0-9]{0,5})?")


def check_head(version: str, values: Mapping[bytes, Sequence[bytes]]) -> None:
    """Raise Refused for a head that breaks a rule. values: of each header, by its lower-case name."""
    hosts = values.get(b"host", [])
    if version not in ("1.0", "1.1"):
        raise Refused(505, "http_version", "HTTP/1.1 is spoken here.")
    if len(hosts) > 1 or (version == "1.1" and not hosts) or not all(map(HOST.fullmatch, hosts)):
        raise Refused(400, "host_not_valid", "a request has exactly one Host header, and a valid one.")
    if b"transfer-encoding" in values and (version == "1.0" or [
            value.lower() for value in values[b"transfer-encoding"]] != [b"chunked"]):
        raise Refused(501, "transfer_encoding", 'of Transfer-Encodings only "chunked" is read, in HTTP/1.1.')
    if version == "1.1" and [v.lower() for v in values.get(b"expect", [b"100-continue"])] != [b"100-continue"]:
        raise Refused(417, "expectation", 'of Expect only "100-continue" is known.')


def without_offer(method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a head, less its offer of another protocol. headers: with lower-case names."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            value = b", ".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
        if name != b"upgrade":
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def head_too_large() -> Refused:
    """The error of a head over one of the limits."""
    return Refused(431, "head_too_large", f"a head has at most {HEAD_BYTES:,} bytes and {MAX_HEADERS} headers.")
