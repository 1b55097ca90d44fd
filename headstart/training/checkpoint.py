"""How a training survives being stopped: all that moves, written whole or not at all, and read back.

    checkpoint-00000120/   weights, best, mean, optimizer (.safetensors): tensors by name or place
                           state.json     the numbers of TrainState
                           steps.jsonl    the log up to this step; the work folder's own is only for who watches
                           MANIFEST.json  sha256 of each of the above

A checkpoint needs nothing that lies beside it. One that is damaged is named, set aside, and the one before it is used.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import RunFolderError, shorten
from ..core.files import write_folder
from ..core.manifest import read_manifest, verify
from ..core.untrusted import parse_json, read_json, read_text

if TYPE_CHECKING:
    import torch

N_CHECKPOINTS_KEPT = 2
NAME = re.compile(r"checkpoint-(\d{8,})")
MAX_LOG_BYTES = 20_000_000_000
LARGEST = sys.float_info.max
ANEW = "Begin anew: --overwrite"
Tensors = dict[str, "torch.Tensor"]  # by name


@dataclass
class TrainState:
    """What moves while a run trains, beside the model's own weights: all that a resumed process must know.

    request: identity of what the run was asked to do; a checkpoint of another request is not used.
    curve: one entry an evaluation.  n_worse: evaluations since the best one.  n_mean: weights that the mean is of.
    began, epochs_before: steps and epochs of earlier trainings from the same first weights.
    micro_tokens: the largest micro-batch that memory is known to hold, in padded tokens; 0: it held all there were.
    best, mean: the moving weights by name, at the best evaluation and averaged as the method wants.
    """

    request: str = ""
    step: int = 0
    seconds: float = 0.0
    evaluate_seconds: float = 0.0
    n_tokens: int = 0
    best_step: int = 0
    best_score: float = -1.0
    n_worse: int = 0
    n_mean: int = 0
    began: int = 0
    epochs_before: int = 0
    micro_tokens: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    mean: Tensors = field(default_factory=dict)

    def begin_again(self) -> None:
        """What follows is another training from the first weights."""
        self.began, self.epochs_before = self.step, math.ceil(self.curve[-1]["epoch"])
        self.best_score, self.n_worse, self.scaler = -1.0, 0, {}


@dataclass(frozen=True)
class Checkpoint:
    """What `save` was given, read back. steps: the lines of steps.jsonl."""

    state: TrainState
    weights: Tensors
    optimizer: Tensors
    steps: str


TENSORS = ("weights", "best", "mean", "optimizer")
FILES = {*(f"{name}.safetensors" for name in TENSORS), "state.json", "steps.jsonl"}
LATER = {"micro_tokens"}  # numbers that checkpoints of earlier versions do not have
NUMBERS = {f.name: f.type for f in fields(TrainState) if f.name not in TENSORS}  # name -> type as it is written above


def save(work: Path, state: TrainState, weights: Tensors, optimizer: Tensors, log: Path) -> None:
    """Write a checkpoint whole or not at all, then drop all but the newest two.

    weights: the moving weights by name.  optimizer: its tensors by place.  log: steps.jsonl up to this step.
    """
    from safetensors.torch import save_file

    tensors = {"weights": weights, "best": state.best, "mean": state.mean, "optimizer": optimizer}
    final = work / f"checkpoint-{state.step:08d}"
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of this step
    with write_folder(final) as folder:
        for name, of_name in tensors.items():
            save_file({k: t.detach().cpu().contiguous() for k, t in of_name.items()}, folder / f"{name}.safetensors")
        (folder / "state.json").write_text(json.dumps({name: getattr(state, name) for name in NUMBERS}), "utf-8")
        shutil.copyfile(log, folder / "steps.jsonl")
    for stale in checkpoints(work)[:-N_CHECKPOINTS_KEPT]:
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)


def checkpoints(work: Path) -> list[Path]:
    """What is called as a checkpoint is, oldest first, in order of their step (clocks can jump)."""
    return sorted((p for p in work.glob("checkpoint-*") if NAME.fullmatch(p.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def set_aside(path: Path, why: str) -> None:
    """Rename what is damaged, so that it is neither used nor lost, and name it on stderr."""
    names = (path.with_name(f"damaged-{n}-{path.name}") for n in count(1))
    aside = next(name for name in names if not name.exists() and not name.is_symlink())
    path.rename(aside)
    warn(f"{path}: {why.rstrip('.')}. It is kept as {aside.name} until the run is finished.")


def warn(line: str) -> None:
    """One line on stderr, also where progress is not shown."""
    print(line, file=sys.stderr)


def identity(folder: Path) -> str:
    """The request that a checkpoint is of. Raises RunFolderError for one that is damaged."""
    return _state(folder, _verified(folder)).request


def read(folder: Path, request: str) -> Checkpoint:
    """A checkpoint that is whole, sound in itself and of this request. Raises RunFolderError with what is wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _state(folder, _verified(folder))
    if state.request != request:
        raise RunFolderError(str(folder), "is of another run.", ANEW)
    steps = _steps(folder / "steps.jsonl", state.step)
    try:
        weights, state.best, state.mean, optimizer = (load_file(folder / f"{name}.safetensors") for name in TENSORS)
    except SafetensorError as error:
        raise RunFolderError(str(folder), f"holds tensors that cannot be read: {shorten(str(error))}.", ANEW) from None
    return Checkpoint(state, weights, optimizer, steps)


def _verified(folder: Path) -> int:
    """The step of a checkpoint whose files are those that were written."""
    if folder.is_symlink() or not folder.is_dir():
        raise RunFolderError(str(folder), "is no folder.", ANEW)
    problems = verify(folder)
    if not problems and read_manifest(folder).keys() != FILES:
        problems = [f"its manifest holds other files than {', '.join(sorted(FILES))}"]
    if problems:
        raise RunFolderError(str(folder), "; ".join(problems[:5]) + ".", ANEW)
    return _step(folder)


def _state(folder: Path, step: int) -> TrainState:
    """What state.json holds, once every value is of its kind and they fit each other."""
    numbers = read_json(folder / "state.json", RunFolderError)
    wrong = [f"{shorten(name)} should not be there" for name in sorted(numbers.keys() - NUMBERS.keys())]
    wrong += [f"{name} is missing" for name in NUMBERS if name not in numbers and name not in LATER]
    wrong += [f"{name} is {shorten(numbers[name])}" for name, kind in NUMBERS.items()
              if name in numbers and not _is(kind, numbers[name])]
    if not wrong:
        state = TrainState(**numbers)
        evaluated = [entry["step"] for entry in state.curve]
        if state.step != step:
            wrong.append(f"step is {state.step:,} in a checkpoint of step {step:,}")
        if max(state.best_step, state.began, *evaluated) > step:
            wrong.append(f"it knows more than its {step:,} steps")
        if evaluated != sorted(set(evaluated)) or evaluated[0] != 0:
            wrong.append(f"evaluations are at steps {shorten(evaluated)}; they begin at 0 and ascend")
    if wrong:
        raise RunFolderError(str(folder / "state.json"), "; ".join(wrong[:5]) + ".", ANEW)
    return state


def _is(kind: Any, value: Any) -> bool:
    """Whether a value of state.json is what `kind`, the type of its field, wants."""
    match kind:
        case "int":
            return type(value) is int and 0 <= value < 2**63
        case "float":
            return type(value) in (int, float) and abs(value) <= LARGEST
        case "str":
            return isinstance(value, str)
        case "dict[str, float]":
            return isinstance(value, dict) and all(_is("float", number) for number in value.values())
    return isinstance(value, list) and bool(value) and all(_is_evaluation(entry) for entry in value)


def _is_evaluation(entry: Any) -> bool:
    return (isinstance(entry, dict) and entry.keys() == {"step", "epoch", "scores"} and _is("int", entry["step"])
            and _is("float", entry["epoch"]) and entry["epoch"] >= 0 and isinstance(entry["scores"], dict)
            and all(score is None or _is("float", score) for score in entry["scores"].values()))


def _steps(path: Path, n: int) -> str:
    """The text of a log that holds the steps 1 to `n`, a JSON object each."""
    text = read_text(path, RunFolderError, MAX_LOG_BYTES)
    lines = text.splitlines()
    values = [parse_json(line, f"{path}:{i}", RunFolderError) for i, line in enumerate(lines, 1)]
    if [value.get("n") if isinstance(value, dict) else None for value in values] != list(range(1, n + 1)):
        raise RunFolderError(str(path), f"does not hold the steps 1 to {n:,}, one a line.", ANEW)
    return text


def check_tensors(what: str, tensors: Tensors, wanted: Mapping[str, Any]) -> None:
    """Raise RunFolderError unless `tensors` have the names, shapes and dtypes of `wanted`, and are finite."""
    import torch

    if names := sorted(tensors.keys() ^ wanted.keys()):
        raise RunFolderError(what, f"holds tensors of other names: {', '.join(map(shorten, names[:5]))}.", ANEW)
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (wanted[name].shape, wanted[name].dtype):
            raise RunFolderError(what, f"tensor {shorten(name)} is {tensor.dtype} {list(tensor.shape)}, not "
                                 f"{wanted[name].dtype} {list(wanted[name].shape)}.", ANEW)
        if not bool(torch.isfinite(tensor).all()):
            raise RunFolderError(what, f"tensor {shorten(name)} holds nan or inf.", ANEW)
