"""Bytes as lines: unpacked, decoded and counted, under limits, and nothing repaired in silence."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import os
import re
import select
import stat
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ...core.errors import DataError
from ...core.untrusted import check_regular

STDIN = "standard input"  # what messages call the source "-"
FREE_UNPACKED_BYTES = 10_000_000  # below this, no ratio of compression is suspicious
MAX_UNPACK_RATIO = 200  # text unpacks to 3 to 20 times its size; a gzip bomb to 1,000 times
PEEK_CHARS = 4_000_000  # lines are looked at before they are read until they hold so much
PIECE_CHARS = 1_000_000  # of a document that is no lines, in memory at once
PIPE_WAIT_S = 60.0  # for the first byte of a named pipe; nobody may ever write to it

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# The "surrogateescape" decoder turns an undecodable byte 0xNN into U+DCNN: nothing is lost, and it can be found again.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Rules:
    """How a file is to be read; the fields mean what they mean in DataSpec."""

    encoding: str | None = None
    delimiter: str | None = None
    errors: Literal["strict", "replace", "skip"] = "strict"
    max_chars: int = 1_000_000
    max_bytes: int = 4_000_000_000
    names: tuple[str, ...] = ()  # in lower case: columns that are meant, where a file's name tells no format
    usual_names: tuple[str, ...] = ()  # what files often call them


class _Metered(io.RawIOBase):
    """A stream that counts its bytes and stops one that grows too large or unpacks too well to be text."""

    def __init__(self, inner: Any, source: str, max_bytes: int, packed: BinaryIO | None) -> None:
        self._inner, self._source, self._max_bytes, self._packed = inner, source, max_bytes, packed
        self._n_bytes = 0
        self._began_as = self._state()

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._inner.fileno()) if self._source != STDIN else None
        return (state.st_size, state.st_mtime_ns) if state and stat.S_ISREG(state.st_mode) else (0, 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._inner.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            is_cut = isinstance(error, EOFError)
            what = "ends in the middle of its gzip stream" if is_cut else "is not a sound gzip file"
            raise DataError(self._source, f"{what}; {self._n_bytes:,} bytes could be unpacked.",
                            "Copy or download the file again; gzip -t FILE tests it.") from None
        except OSError as error:
            raise unreadable(self._source, error) from None
        self._n_bytes += len(chunk)
        if self._n_bytes > self._max_bytes:
            raise too_large(self._source, "more than ", self._max_bytes, self._max_bytes)
        if self._packed:
            check_ratio(self._source, self._n_bytes, self._packed.tell() if self._packed.seekable() else self._n_bytes)
        if not chunk and self._state() != self._began_as:
            raise DataError(self._source, "changed while it was read.", "Start again when nothing writes to it.")
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed and self._source != STDIN:
            self._inner.close()
            if self._packed:
                self._packed.close()
        super().close()


def unreadable(source: str, error: OSError) -> DataError:
    """The DataError for a file that the operating system will not give us."""
    return DataError(source, f"cannot be read: {(error.strerror or str(error)).lower()}.",
                     "Check the path and its permissions.")


def too_large(source: str, more_than: str, n_bytes: int, max_bytes: int) -> DataError:
    """The DataError for a file beyond data.max_bytes."""
    return DataError(source, f"has {more_than}{n_bytes:,} bytes; data.max_bytes allows {max_bytes:,}.",
                     f"If the file is meant to be so large: --set data.max_bytes={max(n_bytes, 2 * max_bytes)}")


def check_ratio(source: str, n_bytes: int, n_packed_bytes: int) -> None:
    """Raise DataError where `n_packed_bytes` of a file became more `n_bytes` than they do of any text."""
    if n_bytes > max(FREE_UNPACKED_BYTES, MAX_UNPACK_RATIO * n_packed_bytes):
        raise DataError(source, f"unpacks to more than {MAX_UNPACK_RATIO} times its size, which text never does; "
                        "reading stopped.", "If you trust the file, unpack it yourself, such as with gunzip FILE, or "
                        "write it as .jsonl.")


class Lines:
    """The physical lines of a stream, decoded; knows the current line's number and what could not be decoded."""

    def __init__(self, raw: io.RawIOBase, source: str, rules: Rules) -> None:
        buffered = io.BufferedReader(raw, 1 << 16)
        head = buffered.peek(1 << 16)
        self.source, self.rules = source, rules
        self.encoding = rules.encoding or next((name for bom, name in _BOMS if head.startswith(bom)), "utf-8")
        if head.startswith(codecs.BOM_UTF8) and codecs.lookup(self.encoding).name == "utf-8":
            self.encoding = "utf-8-sig"
        # Lines are counted as editors count them; a file of bare carriage returns comes from an old Macintosh.
        newline = "\r" if b"\r" in head and b"\n" not in head else "\n"
        self._text = io.TextIOWrapper(buffered, self.encoding, "surrogateescape", newline)
        self._max_line_chars = max(16 * rules.max_chars, 1_000_000)
        self._ahead: deque[str] = deque()
        self._n_ahead_chars = 0
        self._is_at_start = True  # of a line
        self.number = 0
        self.n_bad_bytes = self.n_bad_lines = self.n_blank_lines = self.n_open_quotes = self.n_long_records = 0
        self.first_bad = (0, 0, 0)  # line, position in it from 1, the byte
        self.record: list[str] = []  # the lines of the record being read
        self.record_n_bad_bytes = 0

    def begin_record(self) -> int:
        """Forget the last record's lines. Returns the number of the line that comes next."""
        self.record.clear()
        self.record_n_bad_bytes = 0
        return self.number + 1

    def peek(self, n: int) -> list[str]:
        """Up to `n` of the lines to come; fewer where they are long."""
        while len(self._ahead) < n and self._n_ahead_chars < PEEK_CHARS and (line := self._read()):
            self._ahead.append(line)
            self._n_ahead_chars += len(line)
        return list(itertools.islice(self._ahead, n))

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if not line.isascii() and (bad := _ESCAPED_BYTE.search(line)):
            line = self._undecodable(line, bad.start())
        self.record.append(line)
        return line

    def piece(self) -> str:
        """Some more of a document that is no lines, such as JSON; "" at its end. `number` is the line it begins on."""
        piece = self._decoded(PIECE_CHARS, self.number)
        if piece:
            self.number += self._is_at_start
            self._is_at_start = piece.endswith(("\n", "\r"))
        if not piece.isascii() and (bad := _ESCAPED_BYTE.search(piece)):
            piece = self._undecodable(piece, bad.start())
        return piece

    def _decoded(self, n_chars: int, at: int) -> str:
        try:
            return self._text.readline(n_chars)
        except UnicodeError as error:
            reason = getattr(error, "reason", str(error))
            raise DataError(self.source, f"is not {self.encoding} after line {at:,}: {reason}.",
                            "Say which encoding it is: --encoding NAME") from None

    def _read(self) -> str:
        at = self.number + len(self._ahead)
        line = self._decoded(self._max_line_chars, at)
        if len(line) == self._max_line_chars:
            raise DataError(f"{self.source}:{at + 1}", f"the line is longer than {self._max_line_chars:,} characters; "
                            "a data file has one record a line.", "Is this a text file at all?")
        return line

    def _undecodable(self, line: str, start: int) -> str:
        n_bad = len(_ESCAPED_BYTE.findall(line))
        if not self.n_bad_bytes:
            codec = self.encoding.removesuffix("-sig")
            position = len(line[:start].encode(codec, "replace")) + 1
            self.first_bad = (self.number, position, ord(line[start]) - 0xDC00)
        self.n_bad_bytes += n_bad
        self.record_n_bad_bytes += n_bad
        self.n_bad_lines += 1
        return _ESCAPED_BYTE.sub("\ufffd", line) if self.rules.errors == "replace" else line

    def close(self) -> None:
        self._text.close()


def is_stream(path: Path) -> bool:
    """Whether a path is read once, as standard input is: a pipe, or what a shell writes for <(COMMAND)."""
    return path.is_fifo() or str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/"))


def _opened(path: Path, source: str, wait_s: float) -> BinaryIO:
    """A regular file or a pipe, open for reading. A pipe to which nobody writes is given up after `wait_s`."""
    if not path.is_fifo():
        check_regular(path, DataError)
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without it, opening waits for a writer
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not path.resolve().name.startswith("pipe:") and not waiting.poll(wait_s * 1000):
        os.close(descriptor)
        raise DataError(source, f"is a named pipe to which nobody has written for {wait_s:g} s.",
                        "Start its writer first, or use standard input: COMMAND | headstart VERB ... -")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def open_lines(stream: Path | BinaryIO, source: str, rules: Rules, wait_s: float = PIPE_WAIT_S) -> Lines:
    """The lines of a file, unpacked when its name ends in .gz, or of a binary stream."""
    if not isinstance(stream, Path):
        return Lines(_Metered(stream, source, rules.max_bytes, None), source, rules)
    packed = None
    try:
        inner: Any = _opened(stream, source, wait_s)
        if stream.suffix.lower() == ".gz":
            packed, inner = inner, gzip.GzipFile(fileobj=inner)
        elif (n_bytes := stream.stat().st_size) > rules.max_bytes:
            raise too_large(source, "", n_bytes, rules.max_bytes)
    except OSError as error:
        raise unreadable(source, error) from None
    return Lines(_Metered(inner, source, rules.max_bytes, packed), source, rules)
