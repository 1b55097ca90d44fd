"""What a run was asked to do: what is resumed must be what was started.

    WORK/request.json   {"format": 2, "sha256": of the rest, "same": {path: value}, "noted": {path: value}}

`same` holds what decides the weights to the last bit: the Spec, the rows, the files of the backbone and its tokenizer,
the versions that compute, precision (of 16 bits also the instructions) and kind of device. A change refuses. `noted`
(processor, threads, other versions) may move a last bit at most; a change is told. Every checkpoint holds the identity
of `same`, so a damaged file is written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core import machine
from ..core.errors import RunFolderError, shorten
from ..core.files import write_file
from ..core.manifest import sha256
from ..core.model import Precision
from ..core.spec import Spec, leaves
from ..core.untrusted import read_json
from ..data.splits import Splits
from ..models.backbone import Backbone
from ..models.hub import TOKENIZER_FILES
from ..training import checkpoint
from ..training.job import PARTS
from ..training.lessons import Lessons

FILE, FORMER_FILE = "request.json", "asked.json"
FORMAT = 2  # raised when the same request no longer means the same weights
EXACT = ("headstart", "torch", "transformers", "accelerate", "peft")  # tokenizers: judged by what it reads its file as
FIX = "Resume with what began it, or start anew: --overwrite"
FP32 = "fp32"


@dataclass(frozen=True)
class Request:
    """same: values by dotted path that a resumed run must share.  noted: values whose change is told."""

    same: dict[str, Any]
    noted: dict[str, Any]

    @property
    def identity(self) -> str:
        """sha256 (hex) of `same`."""
        return digest(self.same)


def request(spec: Spec, parts: Splits, backbone: Backbone, precision: Precision, device: Any,
            judge: str = "", lessons: Lessons | None = None) -> Request:
    """What this process was asked to do, with what it computes on. judge: its sha256, where there is one."""
    versions, values = machine.versions(), spec.model_dump()
    del values["train"]["precision"]  # what it means on this machine counts
    same = {"spec": values, "rows": {name: getattr(parts, name).digest() for name in PARTS},
            "backbone": hashes(backbone), "precision": str(precision), "device": device.type,
            "version": {name: versions.pop(name, None) for name in EXACT}, **({"judge": judge} if judge else {})}
    if lessons:
        same["lessons"] = lessons.identity
    noted = {"machine": machine.describe(device), "version": versions}
    if precision.name == FP32:  # the last bits of 32 are no reason to refuse
        same["precision"], noted["machine"]["instructions"] = FP32, precision.instructions
    return Request(flat(same), flat(noted))


def hashes(backbone: Backbone) -> dict[str, str]:
    """sha256 (hex) of all that a backbone is: its weights, its other files, and its tokenizer as it was read."""
    names = ("config.json", *TOKENIZER_FILES)
    of_files = {name: sha256(backbone.folder / name) for name in names if (backbone.folder / name).is_file()}
    return {"weights": backbone.sha256, **of_files,
            "tokenizer": digest([backbone.reader.tokenizer.to_str(), backbone.reader.facts])}


def check_same(work: Path, now: Request) -> None:
    """Refuse to go on in `work` unless it was begun by the same request; then note this one there.

    Raises RunFolderError that names what changed.
    """
    path = work / FILE
    if (work / FORMER_FILE).exists() and not path.exists():
        raise RunFolderError(str(work), "was begun by an earlier headstart, which noted neither its backbone nor its "
                             "tokenizer.", "Finish it with that version, or start anew: --overwrite")
    if path.exists() or path.is_symlink() or checkpoint.checkpoints(work):
        try:
            before = _read(path)
        except RunFolderError as error:
            _check_checkpoints(work, now, error)
            if path.exists() or path.is_symlink():
                checkpoint.set_aside(path, f"{error.what.rstrip('.')}; it is written again")
        else:
            if changes := changed(before.same, now.same):
                raise RunFolderError(str(work), f"cannot be resumed: {changes}.", _fix(before.same, now.same))
            if changes := changed(before.noted, now.noted):
                checkpoint.warn(f"{work}: {changes}; the last bits of the weights may differ.")
    write_file(path, [json.dumps({"format": FORMAT, "sha256": digest(asdict(now)), **asdict(now)})])


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """"train.lr was 0.003 and is now 0.5; ...", the first five, the Spec's before others; "" where nothing changed."""
    paths = sorted((path for path in before.keys() | now.keys() if before.get(path) != now.get(path)),
                   key=lambda path: (not path.startswith("spec."), path))
    more = [f"and {len(paths) - 5} more"] if len(paths) > 5 else []
    return "; ".join([f"{shorten(path.removeprefix('spec.'))[1:-1]} was {_shown(before.get(path))} and is now "
                      f"{_shown(now.get(path))}" for path in paths[:5]] + more)


def _fix(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What to do about a change: every machine computes in 32 bits, where a run began so."""
    if set(dict(before.items() ^ now.items())) == {"precision"}:
        if before["precision"] == FP32:
            return "It began in 32 bits; go on so: --resume --set train.precision=fp32"
        return f"Resume it in {before['precision']}, on a machine that has it, or start anew: --overwrite"
    return FIX


def _shown(value: Any) -> str:
    is_hash = isinstance(value, str) and len(value) == 64 and value.isalnum()
    return f"sha256 {value[:12]}…" if is_hash else shorten(value)


def _check_checkpoints(work: Path, now: Request, error: RunFolderError) -> None:
    """Where the file cannot be read: whole checkpoints tell whether they are of this request, but not what changed."""
    identities = []
    for folder in checkpoint.checkpoints(work):
        try:
            identities.append(checkpoint.identity(folder))
        except RunFolderError:
            continue  # it is named and set aside when training would go on from it
    if identities and now.identity not in identities:
        raise RunFolderError(str(work / FILE), f"{error.what.rstrip('.')}; and the checkpoints beside it are of "
                             "another Spec, other rows, another backbone or other versions.", FIX)


def _read(path: Path) -> Request:
    values = read_json(path, RunFolderError)
    if values.get("format") != FORMAT:
        raise RunFolderError(str(path), f"has format {shorten(values.get('format'))}, not {FORMAT}.", FIX)
    request = Request(values.get("same", {}), values.get("noted", {}))
    is_whole = (values.keys() == {"format", "sha256", "same", "noted"} and values["sha256"] == digest(asdict(request))
                and all(isinstance(part, dict) for part in (request.same, request.noted)))
    if not is_whole:
        raise RunFolderError(str(path), "is damaged: its sha256 is not that of what it holds.", FIX)
    return request


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of `values` by dotted path, as JSON gives them back."""
    by_path: dict[str, Any] = json.loads(json.dumps(dict(leaves(values))))
    return by_path


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
