"""The classifier that tells whether texts are what their rows ask for: a finished run that a Spec names.

    judge = judge_of(task)                 # None where the task names none
    judge(["a lovely film"])               # ["positive"]

It is opened when it is first asked, without torch where it is an exported run, and must be the one that was there when
the task was fitted: another one would measure something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..core import manifest
from ..core.errors import ArtifactError, DataError, Problem, SpecError, shorten
from ..core.task import Task
from ..core.values import Judge
from ..data.splits import Splits
from ..tasks.text_classification import TextClassification
from . import artifact
from .artifact import Artifact

WHERE = "task.judge"
FIX = "Name the folder of a fitted text-classification: --set task.judge=FOLDER"


@dataclass(frozen=True)
class RunJudge:
    """folder: of the run. sha256: of its manifest as it must be; "": any."""

    folder: str
    sha256: str = ""

    @cached_property
    def artifact(self) -> Artifact:
        """Raises SpecError where it is no run that can judge, ArtifactError where it is another than it was."""
        folder = Path(self.folder)
        if not folder.is_dir():
            raise SpecError(WHERE, f"{shorten(self.folder)} is not there, and rows ask for labels that it tells.",
                            f"Bring this folder back. {FIX}" if self.sha256 else FIX)
        if self.sha256 and (came := manifest.identity(folder)) != self.sha256:
            raise ArtifactError(self.folder, f"is not the judge that this run was fitted with: the sha256 of its "
                                f"manifest is {shorten(came[:12])[1:-1]}…, not {self.sha256[:12]}….",
                                "Bring that one back, or fit again with this one.")
        opened = artifact.load(folder)
        if not isinstance(opened.task, TextClassification):
            raise SpecError(WHERE, f'{shorten(self.folder)} is a run of "{opened.task.name}"; labels of texts are told '
                            f'by one of "{TextClassification.name}".', FIX)
        if opened.task.has_pair:
            raise SpecError(WHERE, f"{shorten(self.folder)} was fitted to pairs of texts, and a text that is written "
                            "stands alone.", FIX)
        return opened

    @property
    def labels(self) -> Sequence[str]:
        task = self.artifact.task
        assert isinstance(task, TextClassification)
        return task.labels

    def __call__(self, texts: Sequence[str]) -> list[str]:
        places = [i for i, text in enumerate(texts) if text.strip()]  # a classifier reads no empty text
        labels = [""] * len(texts)
        for i, answer in zip(places, self.artifact.predict([texts[i] for i in places]) if places else (), strict=True):
            labels[i] = str(answer["label"])
        return labels


def judge_of(task: Task) -> Judge | None:
    """The judge that a task names; None where it names none."""
    folder, sha256 = task.judged_by
    return RunJudge(folder, sha256) if folder else None


def with_judge(task: Task, parts: Splits) -> tuple[Task, Judge | None]:
    """The task with what its judge can tell, and the judge; (task, None) where it names none.

    Raises  SpecError for what is no judge, DataError for rows that ask for a label that it does not know.
    """
    judge = judge_of(task)
    if judge is None:
        return task, None
    task = task.judged(judge.labels, manifest.identity(task.judged_by[0]))
    problems = [Problem(table.where(i), f"{flaw}.") for table in (parts.train, parts.validation, parts.test)
                for i, row in enumerate(table.rows) if task.label_asked(row) and (flaw := task.check(row))]
    if problems:
        raise DataError.of(problems, f"Ask for labels that the judge knows, or name another. {FIX}")
    return task, judge
