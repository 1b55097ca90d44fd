"""Which of several methods a run is of, where validation is to choose: each is tried for a share of the steps.

The test rows are not looked at. What was chosen is noted in the work folder, so a resumed run does not try again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ..core.errors import RunFolderError
from ..core.files import write_file
from ..core.method import Method
from ..core.outputs import LOCK, clear_work
from ..core.progress import Progress
from ..core.untrusted import read_json
from ..training import batches
from ..training.evaluator import Evaluator
from ..training.head import HeadSolver
from ..training.job import Job
from ..training.learner import Learner

TRIALS, CHOICE = "choosing-*", "choice.json"
SHARE = 6  # each is tried for one step in so many
MIN_STEPS = 10


def chosen(method: Method, work: Path, prepare: Callable[[Method, Path], Job], store: Callable[[Job], None],
           progress: Progress) -> tuple[Method, str]:
    """(the method, why): `method` itself where there is nothing to choose; "" then.

    prepare: makes a job of a method in a folder.  store: computes what a job leaves frozen.
    """
    names = [*method.alternatives]
    if not names:
        return method, ""
    if (noted := _noted(work / CHOICE, names)) is None:
        scores = {name: _score(name, method.alternatives[name], work, prepare, store, progress) for name in names}
        clear_work(work, (TRIALS,), keep=(LOCK,))
        best = max(names, key=lambda name: scores[name][0])
        words = ", ".join(f"{name} {score:.4g}" for name, (score, _) in scores.items())
        why = f"{best} was chosen by validation: {words} ({scores[best][1]} steps each)"
        noted = {"name": best, "why": why}
        write_file(work / CHOICE, [json.dumps(noted)])
    progress.say(noted["why"])
    return method.alternatives[noted["name"]], noted["why"]


def _score(name: str, method: Method, work: Path, prepare: Callable[[Method, Path], Job],
           store: Callable[[Job], None], progress: Progress) -> tuple[float, str]:
    """(the best score on validation after a share of the steps, what it is and after how many)."""
    folder = work / TRIALS.replace("*", name)
    folder.mkdir(exist_ok=True)
    job = prepare(method, folder)
    settings = job.spec.train
    n_steps, _, _ = batches.plan(job.windows["train"], settings.tokens_per_batch, job.spec.seed, settings.epochs or 1,
                                 settings.max_steps, settings.evaluations_per_epoch)
    n = min(n_steps, max(MIN_STEPS, n_steps // SHARE))
    progress.say(f"trying {name} for {n} of {n_steps} steps")
    tried = job.spec.model_copy(update={"train": settings.model_copy(update={"max_steps": n})})
    job = dataclasses.replace(job, spec=tried)
    store(job)
    evaluator = Evaluator(job)
    learner = Learner(job, evaluator, HeadSolver(job, evaluator))
    learner.learn(resume=False)
    return learner.state.best_score, f"{evaluator.scoring.metric} after {n}"


def _noted(path: Path, names: list[str]) -> dict[str, str] | None:
    if not path.is_file():
        return None
    noted = read_json(path, RunFolderError)
    if noted.get("name") not in names or not isinstance(noted.get("why"), str):
        return None
    return {"name": noted["name"], "why": noted["why"]}
