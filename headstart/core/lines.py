"""Lines that take long to make: kept while they are made, and continued where they were left.

    answers.jsonl                there only when it is whole
    answers.jsonl.partial        the lines so far
    answers.jsonl.partial.json   what makes them, how many are safe, and hashes of those and of the rows they answer

Lines are continued only behind rows that are the same, so that one file never comes of two inputs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from .errors import HeadstartError, ResourceError, RunFolderError, shorten
from .files import check_replaceable, disk_errors, make_folders, sync, write_file
from .outputs import check_place
from .untrusted import read_json

SAVE_EVERY_S = 1.0  # the most work that a kill or a power cut takes
FORMER_NOTE = {"runs", "source", "settings"}  # of files begun before rows were hashed
ANEW = "Resume with the command and the rows that began it, or start anew: --overwrite"

Rows = Iterable[Any]  # JSON values, such as a row, or the number of one that is skipped and what is wrong with it
Source = tuple[Rows, Callable[[Rows], Iterable[str]]]  # rows, and what makes a line of each


def write_lines(path: Path, open_source: Callable[[], Source], made_by: Mapping[str, Any], *, resume: bool = False,
                overwrite: bool = False) -> int:
    """Write a line a row: into PATH.partial, and in the place of `path` when all are there.

    open_source: gives the rows from the first on, and what makes one line of each, without its end, in their order.
    made_by:     what determines the lines, as JSON; only a file that was made by the same is continued.
    resume:      go on behind the lines of a file that was not finished; without one, begin.
    overwrite:   begin anew where there is one, and replace `path`.

    Returns the number of lines. Raises RunFolderError for an unfinished file that may not be touched, is in use, or
    answers other rows.
    """
    with disk_errors(path):
        make_folders(path.parent)
        with _held(path, resume, overwrite) as file:
            lines = _Lines(file, path, json.loads(json.dumps(made_by)))
            lines.begin(resume)
            lines.extend(open_source)
            if os.path.lexists(path):
                check_replaceable(path, overwrite, folder=False)
            lines.partial.replace(path)
            lines.note_path.unlink()
            sync(path.parent)
            return lines.note.n


def check_lines(path: Path, inputs: Iterable[str | Path], resume: bool, overwrite: bool) -> None:
    """Raise RunFolderError when an unfinished PATH.partial is there that may not be touched, or is an input."""
    partial, note_path = _beside(path)
    for part in (partial, note_path):
        check_place(part, inputs)
        if os.path.lexists(part):
            check_replaceable(part, True, folder=False)
    if not partial.exists():
        if note_path.exists():
            _read_note(note_path)
    elif partial.stat().st_size:
        _read_note(note_path)
        if not (resume or overwrite):
            raise RunFolderError(str(partial), "holds answers of a command that was not finished.",
                                 "Continue it: --resume. Start anew: --overwrite")


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.json")


@contextmanager
def _held(path: Path, resume: bool, overwrite: bool) -> Iterator[IO[bytes]]:
    """PATH.partial, open and locked, made where there is none."""
    partial, _ = _beside(path)
    check_lines(path, (), resume, overwrite)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderError(str(partial), "is in use by another process.", "Wait for it, or stop it.") from None
        check_lines(path, (), resume, overwrite)  # another process may have had it until now
        yield file


@dataclass
class _Note:
    """How far PATH.partial is sound: its first `n` lines. Hashes are sha256 in hex, of rows one after the other."""

    made_by: Any
    n: int = 0
    n_bytes: int = 0
    lines_sha256: str = hashlib.sha256().hexdigest()
    rows_sha256: str | None = ""  # None: begun before rows were hashed


def _read_note(path: Path) -> _Note:
    """Raises RunFolderError for what is damaged or not of headstart: it is neither continued nor cleared."""
    try:
        content = read_json(path, RunFolderError)
    except RunFolderError:
        content = {}
    if content.keys() == FORMER_NOTE:
        return _Note(content, rows_sha256=None)
    kinds = {"made_by": dict, "n": int, "n_bytes": int, "lines_sha256": str, "rows_sha256": str}
    if content.keys() != {field.name for field in fields(_Note)} or not all(
            type(content[name]) is kind for name, kind in kinds.items()) or min(content["n"], content["n_bytes"]) < 0:
        partial = path.with_suffix("")
        raise RunFolderError(str(partial), f"would hold the unfinished answers, and {path.name} would say of what; "
                             "they are damaged, or headstart did not write them.",
                             "Move them away, or remove them: " + shlex.join(["rm", "-f", str(partial), str(path)]))
    return _Note(**content)


class _Rows:
    """Rows as they pass, and for each the hash of all up to it: answers come later than rows are read."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.last = iter(rows), ""
        self.hashes: deque[str] = deque()

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            self._add(row)
            self.hashes.append(self.last)
            yield row

    def skip(self, n: int) -> bool:
        """Pass `n` rows over; whether there were so many."""
        for _ in range(n):
            row = next(self.rows, None)
            if row is None:
                return False
            self._add(row)
        return True

    def _add(self, row: Any) -> None:
        text = self.last + json.dumps(row, ensure_ascii=True, default=str)
        self.last = hashlib.sha256(text.encode()).hexdigest()


class _Lines:
    """PATH.partial being written, with its note."""

    def __init__(self, file: IO[bytes], path: Path, made_by: Any) -> None:
        self.file = file
        self.partial, self.note_path = _beside(path)
        self.note = _Note(made_by)
        self.sha256 = hashlib.sha256()
        self.n_saved = 0

    def begin(self, resume: bool) -> None:
        """Leave the file behind the lines that are kept, and the note saying so."""
        if resume and os.fstat(self.file.fileno()).st_size:
            note = _read_note(self.note_path)
            if note.made_by != self.note.made_by:
                raise RunFolderError(str(self.partial), "was begun by another run, for other rows or with other "
                                     "settings.", ANEW)
            if note.rows_sha256 is None:
                note.n, note.n_bytes = _whole_lines(self.file)
            self._read(note)
            self.note = note
        self._save()
        self.file.truncate(self.file.seek(self.note.n_bytes))

    def _read(self, note: _Note) -> None:
        """Hash the lines that are there. Raises RunFolderError where they are not those that were written."""
        self.file.seek(0)
        left = note.n_bytes
        while left and (piece := self.file.read(min(left, 1 << 20))):
            self.sha256.update(piece)
            left -= len(piece)
        if left or (note.rows_sha256 is not None and self.sha256.hexdigest() != note.lines_sha256):
            raise RunFolderError(str(self.partial), "is damaged: its lines are not those that were written.",
                                 "Start anew: --overwrite")

    def extend(self, open_source: Callable[[], Source]) -> None:
        """Write the lines behind those that are there. On an error they are kept."""
        try:
            rows, answer = open_source()
            self._extend(_Rows(rows), answer)
        except BaseException as error:
            with suppress(OSError, ResourceError):  # the disk may be full: what was saved last is kept then
                self._save()
            if not self.n_saved:
                self.partial.unlink()
                self.note_path.unlink(missing_ok=True)
            elif isinstance(error, HeadstartError):
                error.fix += f"\n  {self.n_saved:,} answers are kept in {self.partial}; go on behind them: --resume"
            raise

    def _extend(self, rows: _Rows, answer: Callable[[Rows], Iterable[str]]) -> None:
        note = self.note
        if not rows.skip(note.n) or note.rows_sha256 not in (None, rows.last):
            raise RunFolderError(str(self.partial), f"answers other rows: the first {note.n:,} of "
                                 f"{shorten(str(note.made_by.get('source', 'the source')))} have changed since.", ANEW)
        note.rows_sha256, saved = rows.last, time.monotonic()
        for line in answer(rows):
            self._write(line.encode() + b"\n")
            note.n, note.rows_sha256 = note.n + 1, rows.hashes.popleft()
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()
        self._save()

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:  # a nearly full disk takes a part
            left = left[self.file.write(left) :]
        self.sha256.update(content)
        self.note.n_bytes += len(content)

    def _save(self) -> None:
        """Make the lines durable, then the note that counts them."""
        os.fsync(self.file.fileno())
        self.note.lines_sha256 = self.sha256.hexdigest()
        write_file(self.note_path, [json.dumps(asdict(self.note))])
        self.n_saved = self.note.n


def _whole_lines(file: IO[bytes]) -> tuple[int, int]:
    """How many lines have an end, and how many bytes they are."""
    n = end = at = 0
    file.seek(0)
    while piece := file.read(1 << 20):
        n += piece.count(b"\n")
        if b"\n" in piece:
            end = at + piece.rindex(b"\n") + 1
        at += len(piece)
    return n, end
