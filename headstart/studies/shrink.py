"""The smallest student of a finished run whose loss is proven to stay below what was asked.

    shrink("runs/big", to=0.5, max_loss=1.0, out="runs/small")

A student is the run's own model with some of its blocks alone, evenly chosen, and learns from the run's answers on the
run's own rows. Students are tried from the largest that is asked for to the smallest, and the first whose loss is not
proven ends the search: so no number of trials makes a proof more likely by luck (a fixed sequence of tests). What lies
in OUT:

    blocks-3/        a student that was fitted, with its certificate; it is not fitted again
    blocks-3-onnx/   the smallest that is proven, exported
    shrink.html, shrink.md, shrink.json

Source  Sanh et al. 2019, "DistilBERT" (a student begins with blocks of its teacher); Wiens 2003, "A fixed sequence
        Bonferroni procedure for testing multiple endpoints" (tests in a fixed order need no correction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.comparison import Shrinking, Student
from ..core.errors import SpecError
from ..core.outputs import check_place, work_folder
from ..core.progress import Progress
from ..core.scores import Scores
from ..core.spec import Spec
from ..exporters.export import export
from ..models.backbone import load_backbone
from ..report.shrink import write
from ..runs import artifact
from ..runs.artifact import EXPORT, Artifact
from ..runs.fit import fit

FILES = ("blocks-*", "shrink.*")  # what lies in OUT
Layers = Sequence[tuple[str, Mapping[str, Any]]]


def shrink(run: str | Path, *, to: float = 0.5, max_loss: float = 1.0, unlabeled: str | None = None,
           out: str | Path | None = None, resume: bool = False, overwrite: bool = False,
           progress: Progress | None = None, layers: Layers = ()) -> dict[str, Any]:
    """Fit students of `run` and export the smallest whose loss is proven to stay below `max_loss`.

    to:        the share of its blocks that a student may have at most.
    max_loss:  points of the task's metric, on the run's test rows.
    unlabeled: a source of rows that only the run answers.
    out:       a folder; absent: the run's with "-small" behind it.
    layers:    more (origin, values) over the students' Spec.

    Returns  the table as JSON values; it lies in OUT/shrink.json too. "chosen" is None where no loss is proven.
    Raises   SpecError for a run that is exported, or that has no blocks to leave out.
    """
    progress, run = progress or Progress(quiet=True), Path(run)
    loaded = artifact.load(run)
    n_blocks = _n_blocks(loaded)
    sizes = sizes_of(n_blocks, to)
    out = run.with_name(run.name + "-small") if out is None else Path(out)
    check_place(out, [run, *([unlabeled] if unlabeled else [])])
    with work_folder(out, FILES, "students of a run", resume=resume, overwrite=overwrite):
        students: list[Student] = []
        for n in sizes:
            students.append(_student(loaded, n, n_blocks, unlabeled, max_loss, out, progress, layers))
            if not students[-1].is_proven:
                break
        proven = [student for student in students if student.is_proven]
        exported = ""
        if proven:
            source = out / f"blocks-{len(proven[-1].keep_blocks)}"
            exported = str(export(source, out=out / f"{source.name}-onnx", overwrite=True, progress=progress).folder)
        shrinking = Shrinking(str(run), loaded.task.name, loaded.certificate.metric, n_blocks, max_loss, students,
                              students[0].n_test, loaded.spec.seed, exported or None)
        write(shrinking, out)
    return shrinking.to_json()


def sizes_of(n_blocks: int, to: float) -> list[int]:
    """How many blocks the students have that are tried: the most that are asked for, and half as many, down to one.

    >>> sizes_of(12, 0.5)
    [6, 3, 1]
    """
    n = int(n_blocks * to + 1e-9)
    if not 1 <= n < n_blocks:
        raise SpecError("--to", f"is {to:g}x of {n_blocks} blocks; a student must have one at least, and fewer than "
                        "its teacher.", f"Name a share from {1 / n_blocks:.2f}x to {(n_blocks - 1) / n_blocks:.2f}x.")
    sizes = [n]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def evenly(n: int, n_blocks: int) -> list[int]:
    """`n` of the blocks, evenly chosen from the lowest one on.

    >>> evenly(3, 6)
    [0, 2, 4]
    """
    return [i * n_blocks // n for i in range(n)]


def _n_blocks(loaded: Artifact) -> int:
    """How many blocks the run's model has. Raises SpecError where none can be left out."""
    if (loaded.folder / EXPORT).exists():
        raise SpecError(str(loaded.folder), "is exported: its blocks cannot be taken apart.",
                        "Name the run that it was exported from.")
    if not (loaded.folder / "model.safetensors").exists() or (loaded.folder / "adapter").exists():
        raise SpecError(str(loaded.folder), "is an adapter beside a backbone: a student would begin without what it "
                        "learned.", "Shrink a run whose method moves the backbone's own weights, such as fine-tuning "
                        "or lora.")
    return int(load_backbone(str(loaded.folder.absolute()), loaded.spec.data.max_tokens).config.num_hidden_layers)


def _student(loaded: Artifact, n: int, n_blocks: int, unlabeled: str | None, max_loss: float, out: Path,
             progress: Progress, layers: Layers) -> Student:
    """Fit a student of `n` blocks, or go on with the one that is there, and judge its loss."""
    keep, folder = evenly(n, n_blocks), out / f"blocks-{n}"
    progress.say(f"shrink: a student of {n} of {n_blocks} blocks ({', '.join(map(str, keep))})")
    is_begun = folder.exists() or folder.with_name(folder.name + ".partial").exists()
    fitted = fit(_spec(loaded.spec, str(loaded.folder), keep, unlabeled), out=folder, resume=is_begun,
                 progress=progress, layers=layers)
    return judged(fitted.certificate, keep, max_loss)


def judged(scores: Scores, keep_blocks: Sequence[int], max_loss: float) -> Student:
    """A student by its certificate: proven where the whole 95 % interval of its loss lies below `max_loss`."""
    taught = scores.teaching
    assert taught is not None, "a student has a teacher"
    gain = taught.gains["teacher"]
    times = taught.student_rows_per_s / taught.teacher_rows_per_s if taught.teacher_rows_per_s else None
    return Student(tuple(keep_blocks), scores.fitted.value, scores.fitted.interval or (0.0, 1.0),
                   taught.systems["teacher"].value, gain.difference, gain.interval, scores.fitted.n, times,
                   taught.student_bytes / taught.teacher_bytes, gain.interval[0] >= -max_loss / 100)


def _spec(spec: Spec, run: str, keep: Sequence[int], unlabeled: str | None) -> dict[str, Any]:
    """The student's: the run's own rows, task and seed, so that its test rows are those of the run."""
    values = spec.model_dump()
    method = {"name": "distillation", "teacher": run, "ablation": False,
              **({"unlabelled": unlabeled} if unlabeled else {})}
    return {**{name: values[name] for name in ("task", "data", "head", "cache", "seed")}, "method": method,
            "backbone": {"name": run, "keep_blocks": list(keep)},
            "evaluate": {**values["evaluate"], "baselines": False}}
