"""Where a run lives while it runs.

    runs/reviews           the artifact; there only when it is whole
    runs/reviews.partial   the run's work: lock, spec.yaml, steps.jsonl, arrays, checkpoints

A lock is the kernel's (flock), so it ends with the process that held it, however that ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import HeadstartError, Interrupted
from ..core.files import remove_folder
from ..core.outputs import check_output, check_work, clear_work, work_folder
from ..core.spec import Spec
from ..training.checkpoint import checkpoints

BACKBONE = "backbone"  # a model that was put together for the run
WORK = ("request.json", "asked.json", "spec.yaml", "steps.jsonl", "windows", BACKBONE, "choosing-*",
        "choice.json", "features-*.bin", "checkpoint-*", "damaged-*",
        "ablation-*")  # what lies in it; asked.json: of an older version


def work_of(final: Path) -> Path:
    """The folder in which run `final` lives while it is not finished."""
    return final.parent / f"{final.name}.partial"


def sources_of(spec: Spec, caller: str | Path | Mapping[str, Any] = "") -> list[str]:
    """What a run reads: an output must not replace any of it. caller: what named it, a file of a Spec or a mapping."""
    named = "" if isinstance(caller, Mapping) else str(caller)
    return [name for name in (spec.data.train, spec.data.validation, spec.data.test, spec.backbone.name,
                              spec.task.get("judge"), named) if name]


@contextlib.contextmanager
def opened(final: Path, inputs: Iterable[str | Path] = (), *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Lock the work folder of run `final` and give it; it is new unless `resume`.

    inputs: what the run reads.

    Raises RunFolderError when another process holds it, or when something is there that may not be replaced.
    """
    check_output(final, overwrite or resume, inputs, folder=True)
    work = work_of(final)
    with work_folder(work, WORK, "a run that was not finished", resume=resume, overwrite=overwrite):
        work.chmod(0o700)  # token ids and activations of the user's rows
        try:
            yield work
        except (HeadstartError, OSError) as error:
            if not isinstance(error, Interrupted) and not checkpoints(work):
                remove(work)  # nothing in it to go on from, so it is not in the way of the next try
            raise


def remove(work: Path) -> None:
    """Remove a work folder that is not needed any more; with anything foreign in it, all but that."""
    try:
        check_work(work, WORK)
    except HeadstartError:
        clear_work(work, WORK)
    else:
        remove_folder(work)
