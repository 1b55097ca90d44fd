"""Every limit of the server, with its default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SpecError

MAX_KEY_BYTES = 1_000_000
MIN_KEY_CHARS = 16
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # with several workers: where each writes what all of them show


@dataclass(frozen=True)
class Settings:
    """The options of `headstart serve`.

    runs:          folders of artifacts; each is served under its folder's name.
    key_file:      API keys, one a line; without it HEADSTART_API_KEY holds one. Neither: no key is needed.
    origins:       web pages (scheme://host) that browsers may let call us; none when empty.
    allowed_hosts: names in the Host header that are answered; "*": all. When empty, all, but on a loopback address only
                   that and localhost.
    body_bytes, request_tokens: the largest request; more is 413. Tokens that do not fit a window are counted too.
    queue_tokens, queue_requests: what may wait for one model; more is 429.
    batch_tokens:  of one run of a model, padding not counted.
    answer_bytes:  of one answer; more is 413.
    unread_bytes:  of all answers that wait for their clients to read them; more is 503.
    connections:   at once, in each process; further ones get 503. Fewer where the system gives fewer open files.
    write_s:       for a client to read its answer; then the connection is cut.
    deadline_s:    from the whole body to the answer; later is 504.
    body_s:        for the head of a request to arrive, and as long for its body; later is 408.
    drain_s:       after SIGTERM, how long new requests are still answered while /health/ready says no.
    grace_s:       after that, how long what is in flight may take.
    watch_s:       between looks at the folders for a new artifact; 0: only SIGHUP.
    cache_answers: how many recent answers each model keeps; 0: none.
    """

    runs: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    key_file: Path | None = None
    origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    body_bytes: int = 1 << 20
    request_tokens: int = 1 << 16
    queue_tokens: int = 1 << 17
    queue_requests: int = 256
    batch_tokens: int = 4096
    answer_bytes: int = 1 << 25
    unread_bytes: int = 1 << 27
    connections: int = 4096
    write_s: float = 30.0
    deadline_s: float = 10.0
    body_s: float = 10.0
    drain_s: float = 0.0
    grace_s: float = 25.0
    watch_s: float = 2.0
    cache_answers: int = 0

    def names(self) -> dict[str, Path]:
        """The folders by the names that requests use. Raises SpecError when two are alike."""
        runs: dict[str, Path] = {}
        for run in self.runs:
            name = os.path.basename(os.path.realpath(run))  # Path.resolve raises where links lead in a circle
            if name in runs:
                raise SpecError(f"serve {run}", f'is called "{name}", as {runs[name]} is; names are folders\' names.',
                                "Rename one of the folders, or link it under another name.")
            runs[name] = run
        return runs

    def hosts(self) -> tuple[str, ...]:
        """The names in the Host header that are answered; empty: all."""
        if "*" in self.allowed_hosts or (not self.allowed_hosts and self.host not in LOOPBACK):
            return ()
        own = f"[{self.host}]" if ":" in self.host else self.host
        return (*self.allowed_hosts, *((*LOOPBACK, "[::1]", own) if not self.allowed_hosts else ()))

    def keys(self) -> tuple[str, ...]:
        """The API keys that are let in; empty when none is needed. Raises SpecError when there should be one."""
        if self.key_file is None:
            text, where = os.environ.get("HEADSTART_API_KEY"), "HEADSTART_API_KEY"
            if text is None:
                return ()
        else:
            where = str(self.key_file)
            try:
                with self.key_file.open("rb") as file:  # a pipe, too; a device does not end
                    content = file.read(MAX_KEY_BYTES + 1)
                text = content.decode()
            except (OSError, UnicodeDecodeError):
                raise SpecError(where, "cannot be read as a file of API keys.", "Check --api-key-file.") from None
            if len(content) > MAX_KEY_BYTES:
                raise SpecError(where, f"is longer than {MAX_KEY_BYTES:,} bytes; it holds API keys, one a line.",
                                "Check --api-key-file.")
        keys = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not keys or any(len(key) < MIN_KEY_CHARS or not key.isascii() for key in keys):
            raise SpecError(where, f"must hold keys of {MIN_KEY_CHARS} or more ASCII characters, one a line.",
                            "Make one: openssl rand -hex 32")
        return keys
