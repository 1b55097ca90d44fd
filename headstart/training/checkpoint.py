"""Where a run lives while it runs, and how it survives being stopped.

    runs/reviews           the artifact; there only when it is whole
    runs/reviews.partial   the run's work: lock, spec.yaml, steps.jsonl, arrays, checkpoints

A lock is the kernel's (flock), so it ends with the process that held it, however that ended.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files as sealed

if TYPE_CHECKING:
    import torch

N_CHECKPOINTS_KEPT = 2


@dataclass
class Progress:
    """How far a run is: all that a resumed process must know beside the tensors.

    curve: one entry an evaluation.  n_worse: evaluations since the best one.  n_mean: weights that the mean is of.
    began, epochs_before: steps and epochs of earlier trainings from the same first weights.
    """

    step: int = 0
    seconds: float = 0.0
    n_tokens: int = 0
    best_step: int = 0
    best_score: float = -1.0
    n_worse: int = 0
    n_mean: int = 0
    began: int = 0
    epochs_before: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)

    def begin_again(self) -> None:
        """What follows is another training from the first weights."""
        self.began, self.epochs_before = self.step, math.ceil(self.curve[-1]["epoch"])
        self.best_score, self.n_worse, self.scaler = -1.0, 0, {}


TENSORS = ("weights", "best", "mean", "optimizer")


@dataclass
class Checkpoint:
    """One moment of training. weights, best and mean: the moving weights by name; optimizer: its tensors by place."""

    progress: Progress
    weights: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def save(work: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all, then drop all but the newest two."""
    from safetensors.torch import save_file

    with sealed.write_folder(work / f"checkpoint-{checkpoint.progress.step:08d}") as folder:
        for name in TENSORS:
            save_file({k: t.contiguous() for k, t in getattr(checkpoint, name).items()}, folder / f"{name}.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress)), "utf-8")
    for stale in checkpoints(work)[:-N_CHECKPOINTS_KEPT]:
        shutil.rmtree(stale)


def checkpoints(work: Path) -> list[Path]:
    """Checkpoint folders, oldest first, in order of their step (clocks can jump)."""
    return sorted(p for p in work.glob("checkpoint-*") if p.suffix not in (".tmp", ".old"))


def latest(work: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole. A damaged one is named on stderr, and the one before it is used."""
    from safetensors.torch import load_file

    for folder in reversed(checkpoints(work)):
        faults = sealed.verify(folder)
        if not faults:
            tensors = {name: load_file(folder / f"{name}.safetensors") for name in TENSORS}
            progress = Progress(**json.loads((folder / "progress.json").read_text("utf-8")))
            return Checkpoint(progress, **tensors)
        print(f"{folder}: checkpoint is damaged and was not used: {'; '.join(faults)}. "
              "Falling back to the one before it.", file=sys.stderr)
    return None
