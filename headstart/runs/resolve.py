"""From what the caller wrote to a whole Spec: the defaults of its task and method, and the task that columns mean.

    layers = stack([first_layer("reviews.csv"), ("call", {"train": {"epochs": 2}})])
    spec, origins = layers.resolve()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import methods, tasks
from ..core.errors import DataError, SpecError, shorten
from ..core.method import Method
from ..core.spec import DEFAULT, DataSpec, Origins, Spec, read_spec, resolve_layers
from ..core.task import Task
from ..data import columns
from ..data.table import read_table
from ..tasks.inference import infer

CALL = "call"  # origin of what the caller of `fit` passed
Layer = tuple[str, Mapping[str, Any]]  # (origin, values)


@dataclass(frozen=True)
class Layers:
    """What a Spec is made of.

    task, method: before they saw rows; their defaults are the weakest layers.
    caller:       what was written, from the weakest to the strongest; before it the task, where columns told it.
    """

    task: Task
    method: Method
    caller: Sequence[Layer]

    def resolve(self, *from_rows: Layer) -> tuple[Spec, Origins]:
        """The Spec, and where each value comes from. This is the one order of layers; a later one wins.

        from_rows: what only the train rows tell, such as the number of epochs.
        """
        options = {"method": methods.options_of(self.method), "task": tasks.options_of(self.task)}
        return resolve_layers((DEFAULT, options), (f"task {self.task.name}", self.task.defaults),
                             (f"method {self.method.name}", self.method.defaults),
                             (f"task {self.task.name}", self.task.overrides), *from_rows, *self.caller)


def stack(caller: Sequence[Layer]) -> Layers:
    """The layers of a Spec. The task is the one that the columns mean, where none is named.

    Raises SpecError with all that is wrong in what the caller wrote.
    """
    defaults = (DEFAULT, {name: Spec.model_fields[name].default for name in ("task", "method")})
    spec, origins = resolve_layers(defaults, *caller)
    task_name = spec.task["name"]
    if origins["task.name"] == DEFAULT and (inferred := _inferred_task(spec)) not in (None, task_name):
        task_name, caller = inferred, [(f"inferred from {spec.data.train}", {"task": inferred}), *caller]
    layers = Layers(tasks.build({**spec.task, "name": task_name}), methods.build(spec.method), caller)
    layers.method.check(layers.task)
    return layers


def resolve(caller: Sequence[Layer]) -> tuple[Spec, Origins, Method]:
    """The Spec as far as it is known before any row is read, where each value comes from, and its method."""
    layers = stack(caller)
    return *layers.resolve(), layers.method


def _inferred_task(spec: Spec) -> str | None:
    """The task that the columns of the train rows mean; None where they mean no particular one."""
    if not spec.data.columns and spec.data.train != "-":
        with suppress(DataError):  # whoever reads the rows reports it with its lines
            return infer(*columns.sample(spec.data), spec.data.train)
    return None


def first_layer(source: str | Path | Mapping[str, Any]) -> Layer:
    """What the caller named, a Spec or a data file, as the first (origin, values)."""
    if isinstance(source, Mapping):
        return CALL, source
    if not isinstance(source, str | Path):
        raise SpecError("fit", f"got {shorten(type(source).__name__)}; it reads a file, a folder or another source, so "
                        "that a run can be continued and repeated.", "Write the rows first, such as with "
                        'frame.to_json("train.jsonl", orient="records", lines=True), and fit "train.jsonl".')
    if Path(source).suffix in (".yaml", ".yml"):
        return str(source), read_spec(source)
    return CALL, {"data": {"train": str(source)}}


def learned(spec: Spec, train: Path) -> Task:
    """The Spec's task as it is after these train rows."""
    task = tasks.build(spec.task)
    return task.learn(read_table(str(train), DataSpec(train=str(train)), task).rows)
