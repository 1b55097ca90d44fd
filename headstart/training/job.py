"""What one run is given, all in one value that does not change: the loop, the evaluator and the certificate read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.method import Method
from ..core.model import Model
from ..core.progress import Progress
from ..core.scores import UnknownTokens
from ..core.spec import DEFAULT, Origins, Spec
from ..core.task import Task
from ..core.values import Judge, Row
from ..core.windows import WindowStore
from ..data.splits import Splits
from ..features.forward import CachedForward
from ..models.backbone import Backbone
from ..models.device import tokens_at_once
from .lessons import Lessons
from .signals import Stop

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Job:
    """The frozen inputs of a run. What moves is in the model's weights and in TrainState.

    task:    learned from the train rows.  model: the backbone with its head, prepared by the method, on its device.
    forward: the model as training and evaluation call it.
    windows: of each of PARTS; those of validation and test hold what `decode` reads.
    work:    the run's folder while it runs.
    request: identity of what the run was asked to do; a checkpoint of another one is not used.
    unknown_tokens: of the rows of all PARTS, by their script.
    judge:   tells whether texts are what their rows ask for; None: no row asks.
    lessons: what a teacher said, where the method has one.
    """

    spec: Spec
    origins: Origins
    task: Task
    method: Method
    backbone: Backbone
    model: Model
    forward: CachedForward
    splits: Splits
    windows: dict[str, WindowStore]
    accelerator: Any
    work: Path
    request: str
    stop: Stop
    progress: Progress
    unknown_tokens: Sequence[UnknownTokens] = ()
    judge: Judge | None = None
    lessons: Lessons | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def tokens_at_once(self) -> int:
        """Padded tokens in one forward pass without gradients; on a GPU as many as it likes, unless the user chose."""
        is_default = self.origins.get("evaluate.tokens_per_batch", DEFAULT) == DEFAULT
        return tokens_at_once(self.spec.evaluate.tokens_per_batch, is_default, self.device)

    @property
    def trains(self) -> bool:
        """Whether gradient steps are taken."""
        return trains(self.method, self.task, len(self.rows("validation")))

    @property
    def learned(self) -> WindowStore:
        """What gradient steps read: the train rows or, under a teacher, what that said of them and of others."""
        return self.lessons.windows if self.lessons else self.windows["train"]

    def rows(self, part: str) -> Sequence[Row]:
        """The labeled rows of one of PARTS."""
        rows: list[Row] = getattr(self.splits, part).rows
        return rows


def trains(method: Method, task: Task, n_validation: int) -> bool:
    """Whether gradient steps are taken: by every method where the head cannot be solved; and not by one that ships
    trained weights only where n_validation rows speak for them, when these are too few to."""
    can_ship = method.plan.keeps != "likely" or n_validation >= method.plan.min_choosing_rows
    return (method.plan.trains and can_ship) or not task.is_solvable


def accelerator(precision: str) -> Any:
    """accelerate's view of this machine: device and, for "fp16", loss scaling. The model knows its precision itself."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision="fp16" if precision == "fp16" else "no")
