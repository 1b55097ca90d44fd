"""What each part of what a student learns from is worth: the same student, trained as often without it.

    learner, beside = learned(job, evaluator, head, resume=False)      certify(..., beside)

Everything begins at the same weights and takes as many steps as the fitted student did; checkpoints are chosen on the
same validation rows. A stopped run goes on inside of the training that it was stopped in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ..core import statistics
from ..core.errors import HeadstartError
from ..core.method import Method
from ..core.predict import predict
from ..core.reader import Reader
from ..core.scores import Gain, Score, Teaching
from ..core.task import Task
from ..core.values import Prediction, Row, Runtime
from ..models.runtime import TorchRuntime
from ..training.evaluator import Evaluator
from ..training.head import HeadSolver
from ..training.job import Job
from ..training.learner import Learner
from . import artifact

N_TIMED, N_TIMES = 200, 5  # test rows by which speeds are compared, and how often
MUST_BEAT = ("student-from-labels",)
TAKES_ALL = 1_000_000  # evaluations that an ablation waits for a better score: it takes all its steps


def learned(job: Job, evaluator: Evaluator, head: HeadSolver, *, resume: bool,
            why: str = "") -> tuple[Learner, dict[str, Sequence[Prediction]]]:
    """Train the job's model; then the same without parts of what it learned from, each from where it began.

    why: what the certificate says of how the method was chosen.

    Returns  (the learner, whose weights are in the model; answers to the test rows, by system: the teacher's and those
             of each ablation, or {} of a method without a teacher).
    """
    learner = Learner(job, evaluator, head)
    if job.lessons is None:
        learner.learn(resume=resume, why=why)
        return learner, {}
    first = learner.copy()
    learner.learn(resume=resume)
    answers = job.lessons.predictions
    systems: dict[str, Sequence[Prediction]] = {
        "teacher": evaluator.calibrated_predictions(answers["validation"], answers["test"])}
    arms = job.method.ablations() if job.spec.evaluate.baselines else {}
    if arms:
        best = learner.copy()
        for name, (method, reads_unlabeled) in arms.items():
            learner.put(first)
            systems[name] = _arm(job, head, name, method, reads_unlabeled, learner.state.step, resume)
        learner.put(best)
    elif job.spec.evaluate.baselines:
        job.progress.say("method.ablation is false: nothing shows what the teacher was worth")
    return learner, systems


def _arm(job: Job, head: HeadSolver, name: str, method: Method, reads_unlabeled: bool, n_steps: int,
         resume: bool) -> Sequence[Prediction]:
    """The test answers of the student as `method` trains it in `n_steps` steps."""
    assert job.lessons is not None, "a method with ablations has a teacher"
    work = job.work / f"ablation-{name}"
    work.mkdir(exist_ok=True)
    train = job.spec.train.model_copy(update={"max_steps": n_steps, "patience": TAKES_ALL})
    other = replace(job, method=method, spec=job.spec.model_copy(update={"train": train}), work=work,
                    request=f"{job.request}-{name}",
                    lessons=job.lessons if reads_unlabeled else job.lessons.labeled())
    evaluator = Evaluator(other)
    job.progress.say(f"ablation: {name.replace('-', ' ')}, {n_steps:,} steps")
    Learner(other, evaluator, head).learn(resume=resume)
    return evaluator.calibrated_predictions(evaluator.predictions("validation"), evaluator.predictions("test"))


def certified(job: Job, fitted: np.ndarray, beside: Mapping[str, Sequence[Prediction]]) -> Teaching:
    """Teacher and ablations beside the fitted student, paired. fitted: its outcomes on the test rows."""
    assert job.lessons is not None, "only a teacher has answers beside"
    task, rows, spec, lessons = job.task, job.rows("test"), job.spec, job.lessons
    outcomes = {name: task.outcomes(answers, rows) for name, answers in beside.items()}
    paired = statistics.paired(task, [fitted, *outcomes.values()], spec.evaluate.n_resamples, spec.seed)
    systems, gains = {}, {}
    for s, (name, of_system) in enumerate(outcomes.items(), 1):
        systems[name] = Score(paired.values_S[s].item(), paired.interval(s), len(rows), spec.seed,
                              task.score(of_system))
        gain = paired.difference(0, s)
        gains[name] = Gain(gain.value, gain.interval, len(rows), spec.seed, gain.p)
    teacher = systems["teacher"].value
    theirs, ours = rows_per_s(job)
    n_bytes = sum(p.numel() * p.element_size() for p in job.model.parameters())
    return Teaching(lessons.teachers, systems, gains, paired.values_S[0].item() / teacher if teacher else 0.0,
                    lessons.n_unlabeled, theirs, ours, lessons.n_bytes, n_bytes)


def rows_per_s(job: Job) -> tuple[float | None, float]:
    """How many test rows a second the teachers answer (one after the other), and the student: from text to answer, in
    turns, the fastest of each. None for teachers that cannot be opened any more."""
    assert job.lessons is not None, "only a teacher has a speed"
    rows = [job.task.without_gold(row) for row in job.rows("test")[:N_TIMED]]
    student = job.task, job.backbone.reader, TorchRuntime(job.model, job.device)
    teachers: list[tuple[Task, Reader, Runtime]] = []
    with suppress(HeadstartError):
        loaded = [artifact.load(folder) for folder in job.lessons.teachers]
        teachers = [(teacher.task, teacher.reader, teacher.runtime) for teacher in loaded]
    systems = [student, *teachers]
    seconds_SR = [[_seconds(rows, *system) for system in systems] for _ in range(N_TIMES)]
    fastest = [min(seconds) for seconds in zip(*seconds_SR, strict=True)]
    return len(rows) / sum(fastest[1:]) if teachers else None, len(rows) / fastest[0]


def _seconds(rows: Sequence[Row], task: Task, reader: Reader, runtime: Runtime) -> float:
    began = time.perf_counter()
    for _ in predict(task, rows, reader, runtime):
        pass
    return time.perf_counter() - began
