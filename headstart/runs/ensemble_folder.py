"""The folder of an ensemble: one sealed artifact that holds its members whole. No torch, unless a member needs it.

    ensemble.json            how answers become one, each member's weight and where it came from, the best one's Spec
    members/1, members/2 ... the members' folders as they were, exported or not; each is an artifact by itself
    task.json, scores.json, golden.jsonl, outcomes.npy, README.md     as in any run
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..core import manifest
from ..core.ensemble import Blend, Member, joined
from ..core.errors import ArtifactError
from ..core.spec import Spec
from ..core.task import Task
from ..core.untrusted import instance, read_json
from ..core.values import LinearMap
from .artifact import ENSEMBLE, EXPORT, GOLDEN_TOLERANCE, MAX_TOLERANCE, Artifact, read_back

FORMAT = 1
MAX_MEMBERS = 64
FIX = "Copy the folder again, or make it again."


@dataclass(frozen=True)
class _Entry:
    weight: Annotated[float, Field(ge=0, le=1)]
    run: str
    manifest_sha256: str


@dataclass(frozen=True)
class _Head:
    weight: Sequence[Sequence[float]]
    bias: Sequence[float]
    strength: float


@dataclass(frozen=True)
class _Facts:
    """What ensemble.json says; tolerance: of golden answers, as an export in 8 bits needs it."""

    format: Literal[1]
    how: str
    members: Annotated[Sequence[_Entry], Field(min_length=1, max_length=MAX_MEMBERS)]
    spec: Spec
    head: _Head | None = None
    tolerance: Annotated[float, Field(ge=0, le=MAX_TOLERANCE)] = GOLDEN_TOLERANCE


@dataclass(frozen=True)
class Opened:
    """An ensemble that was opened. tolerance: how far its golden answers may be from those it was written with."""

    artifact: Artifact
    tolerance: float


def member_folder(folder: Path, m: int) -> Path:
    """Where the folder of member `m`, from 0, lies."""
    return folder / "members" / str(m + 1)


def opened(folder: Path, task: Task, scores: dict[str, Any], device: str | None, n_threads: int | None,
           precision: str | None) -> Opened:
    """The ensemble in `folder`, whose hashes were checked. Its artifact has the first member's reader.

    Raises ArtifactError where its members are not there, do not answer, or do not fit together.
    """
    where = str(folder / ENSEMBLE)
    facts = instance(_Facts, read_json(folder / ENSEMBLE, ArtifactError), where, ArtifactError)
    members = []
    for m in range(len(facts.members)):
        path = member_folder(folder, m)
        if not path.is_dir() or (path / ENSEMBLE).exists():
            raise ArtifactError(where, f"has {len(facts.members)} members, and {path} is no run's folder.", FIX)
        on = None if (path / EXPORT).exists() else device
        loaded = read_back(path, on, n_threads, precision)
        if loaded.task.name != task.name or set(_labels(loaded.task)) != set(_labels(task)):
            raise ArtifactError(str(path), f'answers another question than the ensemble, of "{task.name}".', FIX)
        members.append(Member(loaded.task, loaded.reader, loaded.runtime))
    together, runtime = joined(task, members, _blend(facts, members, where))
    return Opened(Artifact(folder, together, facts.spec, members[0].reader, runtime, scores), facts.tolerance)


def _labels(task: Task) -> Sequence[str]:
    return getattr(task, "labels", ())


def _blend(facts: _Facts, members: Sequence[Member], where: str) -> Blend:
    """Raises ArtifactError for weights and heads that no ensemble has."""
    weights_M = np.array([entry.weight for entry in facts.members])
    if abs(weights_M.sum() - 1) > 1e-6:
        raise ArtifactError(where, f"has weights whose sum is {weights_M.sum():.6f}, not 1.", FIX)
    if facts.head is None:
        return Blend(weights_M)
    n_outputs, n_inputs = members[0].task.n_outputs, sum(member.task.n_outputs for member in members)
    lines = facts.head.weight
    if len(lines) != n_outputs or {len(line) for line in lines} != {n_inputs} or len(facts.head.bias) != n_outputs:
        raise ArtifactError(where, f"has a head of another shape than [{n_outputs}, {n_inputs}].", FIX)
    head = LinearMap(np.array(lines, np.float32), np.array(facts.head.bias, np.float32), facts.head.strength)
    if not all(np.isfinite(array).all() for array in (head.weight_KD, head.bias_K)):
        raise ArtifactError(where, "has a head with nan or inf.", FIX)
    return Blend(weights_M, head)


def fill(folder: Path, how: str, blend: Blend, sources: Sequence[Path], names: Sequence[str], spec: Spec) -> None:
    """Copy the members into `folder` and write ensemble.json. names: where each came from, in words."""
    for m, source in enumerate(sources):
        copy(source, member_folder(folder, m))
    head = None if blend.head is None else {"weight": blend.head.weight_KD.tolist(), "bias": blend.head.bias_K.tolist(),
                                            "strength": float(blend.head.strength)}
    entries = [{"weight": weight, "run": name, "manifest_sha256": manifest.identity(source)}
               for weight, name, source in zip(blend.weights_M.tolist(), names, sources, strict=True)]
    write_facts(folder, {"format": FORMAT, "how": how, "members": entries, "head": head, "spec": spec.model_dump()})


def read_facts(folder: Path) -> dict[str, Any]:
    """What ensemble.json holds, as it stands there."""
    return read_json(folder / ENSEMBLE, ArtifactError)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """ensemble.json."""
    (folder / ENSEMBLE).write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")


def copy(source: Path, folder: Path) -> None:
    """A finished run as it was sealed: its report and what else lies beside is left."""
    folder.mkdir(parents=True)
    for name in manifest.read_manifest(source):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    shutil.copyfile(source / manifest.MANIFEST, folder / manifest.MANIFEST)
