"""Several models that answer one question together: each reads a row in its own way, and their answers become one.

    task, runtime = joined(task, members, blend)      both stand where those of one model do

A window says which member it is for; the runtime hands it to that one. So whoever answers rows, the server too, needs
not know that there are several.

Shape suffixes: B windows in a batch, T tokens, M members, F logits of all members side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .errors import ArtifactError
from .reader import Reader
from .task import Task
from .values import LinearMap, MemberLogits, Prediction, Row, Runtime, Stepper, Window

MEMBER = "member"  # the input of a window that says whose it is
ABSENT = -1  # in the first place of an input that another member reads and this one does not


@dataclass(frozen=True)
class Member:
    """One model of an ensemble, with the task as it learned it."""

    task: Task
    reader: Reader
    runtime: Runtime


@dataclass(frozen=True)
class Blend:
    """How answers become one: by a weighted mean, or by a linear head on the members' logits (stacking).

    weights_M: sum to one.  head: reads the logits of all members side by side, F numbers; None: the mean is taken.
    """

    weights_M: np.ndarray
    head: LinearMap | None = None

    def answer(self, task: Task, row: Row, members: Sequence[MemberLogits]) -> Prediction:
        """The answer to one row. members: what each of them computed of it, in their order."""
        if self.head is None:
            return task.blend(row, members, self.weights_M)
        return task.decode(row, members[0].windows, list(self.head(side_by_side(members))))


def side_by_side(members: Sequence[MemberLogits]) -> np.ndarray:
    """logits_BF of a row's windows, of which every member has as many."""
    return np.concatenate([np.stack(member.logits) for member in members], axis=1)


def parted(members: Sequence[Member], windows: Sequence[Window], logits: Sequence[np.ndarray]) -> list[MemberLogits]:
    """A row's windows and their logits by member, in the order of the members."""
    whose = [int(window.inputs[MEMBER]) for window in windows]
    return [MemberLogits(member.task, [w for w, of in zip(windows, whose, strict=True) if of == m],
                         [z for z, of in zip(logits, whose, strict=True) if of == m])
            for m, member in enumerate(members)]


def windows_of(members: Sequence[Member], i: int, row: Row) -> list[Window]:
    """A row's windows for each member, all with the same inputs: what only others read has ABSENT in front."""
    of_member = [(m, window) for m, member in enumerate(members)
                 for window in member.task.encode(i, row, member.reader)]
    names = dict.fromkeys(name for _, window in of_member for name in window.inputs)
    return [replace(window, inputs={**{name: [ABSENT] + [0] * (len(window) - 1) for name in names}, **window.inputs,
                                    MEMBER: m}) for m, window in of_member]


def joined(task: Task, members: Sequence[Member], blend: Blend) -> tuple[Task, JoinedRuntime]:
    """The task as all members answer it together, and what computes it.

    task: what the answers are of; scores, labels and thresholds are its own. Its reader is not used any more.
    """

    class JoinedTask(type(task)):  # type: ignore[misc]
        """The same question, asked of several models."""

        def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
            return windows_of(members, i, row)

        def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
            return blend.answer(task, row, parted(members, windows, logits))

    asked_of_all: Task = object.__new__(JoinedTask)
    vars(asked_of_all).update(vars(task))
    return asked_of_all, JoinedRuntime(tuple(members))


@dataclass(frozen=True)
class JoinedRuntime:
    """The members' runtimes as one. Logits of windows need not have one shape: members may differ in width."""

    members: tuple[Member, ...]

    @property
    def skips_padding(self) -> bool:
        """Where one member computes padding, shorter windows beside a longer one cost."""
        return all(member.runtime.skips_padding for member in self.members)

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to the logits of each window, an array of B arrays."""
        logits_B = np.empty(len(inputs[MEMBER]), object)
        for m, chosen, of_member in self._by_member(inputs):
            for i, logits in zip(chosen, self.members[m].runtime.logits(of_member), strict=True):
                logits_B[i] = logits
        return logits_B

    def _by_member(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[int, list[int], dict[str, np.ndarray]]]:
        """(member, its windows, their inputs as it reads them, without the padding that only others needed)."""
        n_tokens = inputs["attention_mask"].shape[1]
        for m in np.unique(inputs[MEMBER]).tolist():
            chosen = np.flatnonzero(inputs[MEMBER] == m)
            mask_BT = inputs["attention_mask"][chosen]
            longest = int(mask_BT.sum(1).max())
            parts = {name: array[chosen] for name, array in inputs.items() if name != MEMBER}
            parts = {name: array[:, :longest] if array.ndim > 1 and array.shape[1] == n_tokens else array
                     for name, array in parts.items() if array.ndim == 1 or array[0, 0] != ABSENT}
            parts["input_ids"] = np.where(mask_BT[:, :longest] == 1, parts["input_ids"], self.members[m].reader.pad_id)
            yield m, chosen.tolist(), parts

    def stepper(self) -> Stepper:
        """Raises ArtifactError: texts of several models have no mean."""
        raise ArtifactError("predict", "an ensemble writes no texts.", "Name one of its members.")
