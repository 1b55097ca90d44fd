"""The seal of a folder: MANIFEST.json holds the sha256 of each of its files.

It guards against damage, not against malice: who changes a file can write a manifest that fits.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "MANIFEST.json"
FORMAT = 1  # of a run's folder; its task.json holds it


def seal(folder: Path) -> None:
    """Make all files in `folder` durable, and write the manifest of what lies there then."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    for path in files:
        fsync(path)
    hashes = {str(p.relative_to(folder)): sha256(p) for p in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "sha256": hashes}, indent=1) + "\n", "utf-8")
    fsync(manifest)
    fsync(folder)


def is_sealed(folder: Path) -> bool:
    """Whether no file was written after the manifest."""
    manifest = folder / MANIFEST
    return manifest.exists() and all(path.stat().st_mtime_ns <= manifest.stat().st_mtime_ns
                                     for path in folder.rglob("*"))


def read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 (hex) of each file of a sealed folder, by its path in it."""
    hashes = json.loads((folder / MANIFEST).read_text("utf-8"))["sha256"]
    return {str(name): str(value) for name, value in hashes.items()}


def verify(folder: Path) -> list[str]:
    """What is wrong with a sealed folder: "model.safetensors is missing" and so on; empty when it is whole.

    Cost  reads every byte.
    """
    try:
        hashes = read_manifest(folder)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{MANIFEST} is damaged"]
    problems = []
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(f"{MANIFEST} names a path outside the folder")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256(path) != expected:
            problems.append(f"{name} is damaged (its sha256 is not the manifest's)")
    return problems


def identity(folder: str | Path) -> str:
    """sha256 (hex) of a sealed folder's manifest: equal for equal folders. "" where there is none."""
    manifest = Path(folder) / MANIFEST
    return sha256(manifest) if manifest.is_file() else ""


def fsync(path: Path) -> None:
    """Make a file, or the names that a folder holds, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
