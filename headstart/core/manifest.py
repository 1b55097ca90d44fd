"""The seal of a folder: MANIFEST.json holds the sha256 of each of its files, and no other file may lie there.

It guards against damage, not against malice: who changes a file can write a manifest that fits.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import MAX_PROBLEMS_SHOWN, ArtifactError, shorten
from .untrusted import check_regular, read_json

MANIFEST = "MANIFEST.json"
FORMAT = 1  # of a run's folder; its task.json holds it
MAX_FILES = 10_000
HEX = re.compile(r"[0-9a-f]{64}")
# What people and their tools put at the top of a finished folder, and nothing here or in transformers ever reads. It
# may be written, edited and removed at any time; everything else is as it was sealed.
FREE = ("*.md", "LICENSE*", "NOTICE*", "report.html", ".git", ".gitattributes", ".gitignore", ".cache", ".DS_Store")


def seal(folder: Path) -> None:
    """Write the manifest of what lies in `folder`; files.write_folder makes it durable."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    names = {str(path.relative_to(folder)): path for path in files}
    hashes = {name: sha256(path) for name, path in names.items() if not is_free(name)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "sha256": hashes}, indent=1) + "\n", "utf-8")


def is_free(name: str) -> bool:
    """Whether a sealed folder's file of this name may be there or not, and hold anything."""
    return any(fnmatchcase(name.partition("/")[0], pattern) for pattern in FREE) and (name[0] == "." or "/" not in name)


def is_sealed(folder: Path) -> bool:
    """Whether no file was written after the manifest."""
    manifest = folder / MANIFEST
    return manifest.exists() and all(path.stat().st_mtime_ns <= manifest.stat().st_mtime_ns
                                     for path in folder.rglob("*"))


def read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 (hex) of each file of a sealed folder, by its path in it. Raises ArtifactError."""
    path, fix = folder / MANIFEST, "Copy the folder again, or make it again."
    if not path.exists():
        raise ArtifactError(str(path), "is missing.", fix)
    values = read_json(path, ArtifactError)
    if values.get("format") != 1:
        raise ArtifactError(str(path), f"has format {shorten(values.get('format'))}; this version reads 1.", fix)
    hashes = values.get("sha256")
    if not isinstance(hashes, dict) or len(hashes) > MAX_FILES:
        raise ArtifactError(str(path), f"does not name files with their sha256, at most {MAX_FILES:,} of them.", fix)
    flaws = (flaw for name, digest in hashes.items() if (flaw := _flaw(name, digest)))
    if flaw := next(flaws, None):
        raise ArtifactError(str(path), f"{flaw}.", fix)
    return hashes


def _flaw(name: str, digest: Any) -> str | None:
    """What is wrong with one entry of a manifest."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return f"names a path outside the folder: {shorten(name)}"
    if not name.isprintable() or str(path) != name or name in (".", MANIFEST):
        return f"names {shorten(name)}, which is no plain path of a file"
    if not isinstance(digest, str) or not HEX.fullmatch(digest):
        return f"has {shorten(digest)} for {shorten(name)}; a sha256 has 64 hexadecimal digits"
    return None


def verify(folder: Path) -> list[str]:
    """What is wrong with a sealed folder: "model.safetensors is missing" and so on; empty when it is whole.

    A sealed file may be a link, as a hub's cache has them: what it leads to must be a regular file with that content.

    Cost  reads every byte.
    """
    try:
        hashes = {name: digest for name, digest in read_manifest(folder).items() if not is_free(name)}
    except ArtifactError as error:
        return [f"{MANIFEST} {error.what.rstrip('.')}"]
    damaged = (flaw for name, digest in hashes.items() if (flaw := _damage(folder, name, digest)))
    planted = (f"{shorten(name)[1:-1]} lies there and is not in {MANIFEST}" for name in _planted(folder, hashes))
    return [*damaged, *islice(planted, MAX_PROBLEMS_SHOWN)]


def _damage(folder: Path, name: str, digest: str) -> str | None:
    path = folder / name
    if not os.path.lexists(path):
        return f"{name} is missing"
    try:
        check_regular(path, ArtifactError)
        is_same = sha256(path) == digest
    except ArtifactError as error:
        return f"{name} {error.what.rstrip('.')}"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if is_same else f"{name} is damaged (its sha256 is not the manifest's)"


def _planted(folder: Path, sealed: Mapping[str, str]) -> Iterator[str]:
    """The files, links and folders that no manifest's name needs; what lies in such a folder is not looked at."""
    folders = {str(parent) for name in sealed for parent in PurePosixPath(name).parents}
    ahead = ["."]
    while ahead:
        within = ahead.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                name = str(PurePosixPath(within) / entry.name)
                if entry.is_dir(follow_symlinks=False) and name in folders:
                    ahead.append(name)
                elif name not in sealed and name != MANIFEST and not is_free(name):
                    yield name


def identity(folder: str | Path) -> str:
    """sha256 (hex) of a sealed folder's manifest: equal for equal folders. "" where there is none."""
    manifest = Path(folder) / MANIFEST
    return sha256(manifest) if manifest.is_file() else ""


def sha256_of(paths: Sequence[Path]) -> str:
    """sha256 (hex) of a file; of several files, that of their names and hashes."""
    if len(paths) == 1:
        return sha256(paths[0])
    return hashlib.sha256("".join(f"{sha256(path)} {path.name}\n" for path in paths).encode()).hexdigest()


def sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
