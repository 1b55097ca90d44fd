"""What was asked: a Spec with the defaults of its task and method written out, and the task that a file's columns mean.

    spec, origins, method = resolve([first_layer("reviews.csv"), ("call", {"train": {"epochs": 2}})])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import methods, tasks
from ..core import spec as specs
from ..core.errors import DataError, SpecError
from ..core.method import Method
from ..core.spec import Origins, Spec
from ..core.task import Task
from ..data import columns
from ..data import table as data

CALL = "call"  # origin of what the caller of `fit` said


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Spec, Origins, Method]:
    """The Spec with its task's and its method's defaults written out, and the task inferred where none is named."""
    defaults = (specs.DEFAULT, {name: Spec.model_fields[name].default for name in specs.NAMED})
    spec, origins = specs.resolve(defaults, *layers)
    if origins["task.name"] == specs.DEFAULT:
        layers = [*_inferred_task(spec), *layers]
        spec, _ = specs.resolve(defaults, *layers)
    method, task = methods.build(spec.method), tasks.build(spec.task)
    method.check(task)
    options = {"method": {"name": method.name, **dataclasses.asdict(method)},  # type: ignore[call-overload]
               "task": tasks.options_of(task)}
    spec, origins = specs.resolve((specs.DEFAULT, options), (f"task {task.name}", task.defaults),
                                  (f"method {method.name}", method.defaults), *layers)
    return spec, origins, method


def _inferred_task(spec: Spec) -> list[tuple[str, Mapping[str, Any]]]:
    """The task that the columns of the train rows mean, as a layer; none where they mean no particular one."""
    found: list[str] = []
    if not spec.data.columns and spec.data.train != "-":
        with suppress(DataError):  # whoever reads the rows says it better
            found = tasks.by_columns(columns.header(spec.data))
    if len(found) > 1:
        raise SpecError(f"Spec: task ({spec.data.train})", f"the columns could mean {' or '.join(found)}.",
                        f"Say which: --task {found[0]}")
    return [(f"inferred from {spec.data.train}", {"task": name}) for name in found if name != spec.task["name"]]


def first_layer(given: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What the caller named, a Spec or a data file, as the first (origin, values)."""
    if isinstance(given, Mapping):
        return CALL, given
    if Path(given).suffix in (".yaml", ".yml"):
        return str(given), specs.read(given)
    return CALL, {"data": {"train": str(given)}}


def learned(spec: Spec, train: Path) -> Task:
    """The Spec's task as it is after these train rows."""
    task = tasks.build(spec.task)
    return task.learn(data.read(str(train), specs.DataSpec(train=str(train)), task).rows)
