"""How a training survives being stopped: what moves, written whole or not at all, and read back."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import verify, write_folder

if TYPE_CHECKING:
    import torch

N_CHECKPOINTS_KEPT = 2
Tensors = dict[str, "torch.Tensor"]  # by name


@dataclass
class TrainState:
    """What moves while a run trains, beside the model's own weights: all that a resumed process must know.

    curve: one entry an evaluation.  n_worse: evaluations since the best one.  n_mean: weights that the mean is of.
    began, epochs_before: steps and epochs of earlier trainings from the same first weights.
    best, mean: the moving weights by name, at the best evaluation and averaged as the method wants.
    """

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
    curve: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    mean: Tensors = field(default_factory=dict)

    def begin_again(self) -> None:
        """What follows is another training from the first weights."""
        self.began, self.epochs_before = self.step, math.ceil(self.curve[-1]["epoch"])
        self.best_score, self.n_worse, self.scaler = -1.0, 0, {}


def save(work: Path, state: TrainState, weights: Tensors, optimizer: Tensors) -> None:
    """Write a checkpoint whole or not at all, then drop all but the newest two.

    weights: the moving weights by name.  optimizer: its tensors by place.
    """
    from safetensors.torch import save_file

    tensors = {"weights": weights, "best": state.best, "mean": state.mean, "optimizer": optimizer}
    final = work / f"checkpoint-{state.step:08d}"
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of this step
    with write_folder(final) as folder:
        for name, of_name in tensors.items():
            save_file({k: t.detach().cpu().contiguous() for k, t in of_name.items()}, folder / f"{name}.safetensors")
        numbers = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in tensors}
        (folder / "state.json").write_text(json.dumps(numbers), "utf-8")
    for stale in checkpoints(work)[:-N_CHECKPOINTS_KEPT]:
        shutil.rmtree(stale)


def checkpoints(work: Path) -> list[Path]:
    """Checkpoint folders, oldest first, in order of their step (clocks can jump)."""
    return sorted(p for p in work.glob("checkpoint-*") if p.suffix not in (".tmp", ".old"))


def latest(work: Path) -> tuple[TrainState, Tensors, Tensors] | None:
    """The newest checkpoint that is whole, as `save` was given it: state, weights, optimizer.

    A damaged one is named on stderr, and the one before it is used.
    """
    from safetensors.torch import load_file

    for folder in reversed(checkpoints(work)):
        faults = verify(folder)
        if not faults:
            weights, best, mean, optimizer = (load_file(folder / f"{name}.safetensors")
                                              for name in ("weights", "best", "mean", "optimizer"))
            numbers = json.loads((folder / "state.json").read_text("utf-8"))
            return TrainState(**numbers, best=best, mean=mean), weights, optimizer
        print(f"{folder}: checkpoint is damaged and was not used: {'; '.join(faults)}. "
              "Falling back to the one before it.", file=sys.stderr)
    return None
