"""Several finished runs as one artifact, certified against the best of them alone.

    ensemble(["runs/a", "runs/b"], out="runs/both")                       the mean of their answers
    ensemble(["runs/a", "runs/b"], out="runs/both", how="greedy-soup")    one model: a mean of their weights

    read the runs and their rows -> each alone on validation and test -> join them by validation -> certify on the test
    rows -> write, read back, report
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from ..core import files, machine, manifest
from ..core.ensemble import Member, joined
from ..core.errors import SpecError, nearest, shorten
from ..core.outputs import check_output
from ..core.predict import predict
from ..core.progress import Progress
from ..core.scores import Cost, DataCounts, Details, Kept, MemberScore, Scores
from ..core.spec import Spec, to_yaml
from ..core.task import Task
from ..core.values import MemberLogits, Prediction, Row
from ..report.model_card import example_row, model_card
from ..report.page import write as write_report
from . import artifact, blending, ensemble_folder, evidence, members
from .artifact import N_GOLDEN, Artifact
from .folder import sources_of
from .members import Candidate

BLENDS = {"mean": blending.mean, "weighted": blending.weighted, "stacking": blending.stacking}
HOWS = {"mean": "the mean", "weighted": "the weighted mean", "stacking": "stacking", "soup": "the soup",
        "greedy-soup": "the greedy soup", "task-arithmetic": "task arithmetic", "ties": "TIES"}  # the others: soup.py
TOGETHER = ("better together", "worse together")  # what the verdict calls a proven gain, and a proven loss


@dataclass(frozen=True)
class Joined:
    """What several runs became, before it is written.

    what:      in words.   weights: of each candidate; None where no number says it.
    task:      calibrated on validation.  score: on validation.  answers: to the test rows.
    fill:      writes the model and its golden answers to these rows into a folder.
    spec:      of the artifact.
    is_one_model: whether it is, and not its members side by side.
    native:    the class of transformers that loads it; None where none does.
    """

    what: str
    weights: Sequence[float | None]
    task: Task
    score: float
    answers: Sequence[Prediction]
    fill: Callable[[Path, Sequence[Row]], None]
    spec: Spec
    is_one_model: bool = False
    native: str | None = None


@dataclass(frozen=True)
class Alone:
    """The candidates as they are, on the first one's rows: what each computed, answered and scored."""

    candidates: Sequence[Candidate]
    computed: Mapping[str, Sequence[Sequence[MemberLogits]]]
    answers: Mapping[str, Sequence[Sequence[Prediction]]]
    scores: Sequence[float]

    def rows(self, part: str) -> list[Row]:
        rows: list[Row] = getattr(self.candidates[0].splits, part).rows
        return rows

    @property
    def best(self) -> int:
        """Which scores best on validation; of equals the first."""
        return int(np.argmax(self.scores))


def ensemble(runs: Sequence[str | Path], *, out: str | Path, how: str = "mean", subtract: Sequence[str | Path] = (),
             overwrite: bool = False, progress: Progress | None = None) -> Artifact:
    """Make one artifact of finished runs that answer the same question, proven better than the best of them or not.

    runs:      two or more folders, exported or not (of weights: not).
    out:       folder of the artifact; it holds the members, or one model where weights were averaged.
    how:       "mean" of probabilities; "weighted", by weights that validation chose; "stacking", a linear head on their
               logits; "soup" and "greedy-soup", means of weights; "task-arithmetic" and "ties", sums of what each
               learned beyond the backbone they began from.
    subtract:  for task-arithmetic: runs whose learned change is taken away; of any task, on the same backbone.

    Returns  the artifact, read back with its golden inputs answered.
    Raises   HeadstartError that names the member which does not fit; nothing is written then.
    Cost     every member answers all validation and test rows once.
    """
    began, final, progress = time.perf_counter(), Path(out), progress or Progress(quiet=True)
    _check_how(how, subtract)
    check_output(final, overwrite, [*runs, *subtract], folder=True)
    candidates = members.read(runs)
    for candidate in candidates:
        check_output(final, overwrite, sources_of(candidate.loaded.spec), folder=True)
    alone = _alone(candidates, progress)
    if how in BLENDS:
        together = _blended(alone, how)
    else:
        from . import soup  # torch

        together = soup.make(alone, how, subtract, progress)
    progress.say(f"{together.what}: validation {together.task.metric} {together.score:.4f}; the best member alone: "
                 f"{alone.scores[alone.best]:.4f}")
    scores, outcomes = _certify(alone, together, how)
    made = _publish(alone, together, scores, outcomes, final, overwrite, began)
    progress.end()
    return made


def _check_how(how: str, subtract: Sequence[str | Path]) -> None:
    if how not in HOWS:
        raise SpecError("--how", f"{shorten(how)} is no way to join models; {nearest(how, HOWS)}.", "Correct the name.")
    if subtract and how != "task-arithmetic":
        raise SpecError("--subtract", f'goes with --how task-arithmetic, and not with "{how}".',
                        "Leave it out, or add: --how task-arithmetic")


def _alone(candidates: Sequence[Candidate], progress: Progress) -> Alone:
    """Each candidate's answers to validation and test, in the first one's order of rows."""
    computed: dict[str, list[list[MemberLogits]]] = {"validation": [], "test": []}
    answers: dict[str, list[list[Prediction]]] = {"validation": [], "test": []}
    scores = []
    for candidate in candidates:
        for part in computed:
            rows = getattr(candidates[0].splits, part).rows
            computed[part].append(candidate.compute(rows))
            answers[part].append(candidate.answers(rows, computed[part][-1]))
        task, rows = candidate.task, candidates[0].splits.validation.rows
        scores.append(task.score(task.outcomes(answers["validation"][-1], rows))[task.metric])
        progress.say(f"{candidate.name}: validation {task.metric} {scores[-1]:.4f}")
    return Alone(candidates, computed, answers, scores)


def _blended(alone: Alone, how: str) -> Joined:
    """The members' answers made one; members without weight are left out."""
    best, rows = alone.candidates[alone.best], alone.rows("validation")
    chosen = BLENDS[how](best.task, alone.candidates, rows, alone.computed["validation"])
    task = best.task.calibrate(chosen.answers, rows)
    kept = np.flatnonzero(chosen.blend.weights_M).tolist()
    blend = dataclasses.replace(chosen.blend, weights_M=chosen.blend.weights_M[kept])
    some = [alone.candidates[m] for m in kept]
    answers = blending.answers(task, blend, alone.rows("test"), [alone.computed["test"][m] for m in kept])

    def fill(folder: Path, golden: Sequence[Row]) -> None:
        parts = [Member(c.task, c.loaded.reader, c.loaded.runtime) for c in some]
        asked, runtime = joined(task, parts, blend)
        of_golden = predict(asked, golden, some[0].loaded.reader, runtime)
        artifact.write_golden(folder, [{"row": row, "prediction": answer}
                                       for row, answer in zip(golden, of_golden, strict=True)])
        artifact.write_task(folder, task)
        ensemble_folder.fill(folder, how, blend, [c.loaded.folder for c in some], [c.name for c in some],
                             best.loaded.spec)

    what = {"mean": f"the mean of {len(some)} members", "stacking": f"a head on the logits of {len(some)} members",
            "weighted": f"{len(some)} of {len(alone.candidates)} members, by weights that validation chose"}[how]
    weights = [None] * len(some) if blend.head is not None else chosen.blend.weights_M.tolist()
    return Joined(what, weights, task, chosen.score, answers, fill, best.loaded.spec)


def _certify(alone: Alone, together: Joined, how: str) -> tuple[Scores, dict[str, np.ndarray]]:
    """The certificate against the best member alone, the others beside it; and the outcomes of all by name."""
    rows, best = alone.rows("test"), alone.best
    fitted = together.task.outcomes(together.answers, rows)
    of_members = {"best-member" if m == best else f"member-{m + 1}": together.task.outcomes(answers, rows)
                  for m, answers in enumerate(alone.answers["test"])}
    spec = together.spec
    certify = partial(evidence.certify, together.task, fitted, method=HOWS[how], words=TOGETHER,
                      n_resamples=spec.evaluate.n_resamples, seed=spec.seed,
                      is_seen_N=members.is_seen(alone.candidates))
    verdict = certify({"best-member": of_members["best-member"]})
    scores = dataclasses.replace(certify(of_members), verdict=verdict.verdict, verdict_kind=verdict.verdict_kind)
    details = Details.from_json(together.task.details(together.answers, rows))
    if not _keeps_texts(alone):
        details = dataclasses.replace(details, mistakes=(), examples=())
    alone_on_test = [scores.baselines[name].value for name in of_members]
    listed = [MemberScore(c.name, str(c.loaded.spec.backbone), c.loaded.spec.method["name"], weight, value, test,
                          m == best)
              for m, (c, weight, value, test) in enumerate(zip(alone.candidates, together.weights, alone.scores,
                                                               alone_on_test, strict=True))]
    return dataclasses.replace(scores, details=details, members=listed), {"fitted": fitted, **of_members}


def _keeps_texts(alone: Alone) -> bool:
    return all(candidate.loaded.spec.data.keep_texts for candidate in alone.candidates)


def _publish(alone: Alone, together: Joined, scores: Scores, outcomes: Mapping[str, np.ndarray], final: Path,
             overwrite: bool, began: float) -> Artifact:
    """Write the artifact whole or not at all, and read it back."""
    best, spec = alone.candidates[alone.best], together.spec
    parts, recorded = alone.candidates[0].splits, best.loaded.certificate
    how = f"ensemble ({together.what})"
    scores = dataclasses.replace(
        scores, task=together.task.name, method=how, base_model=recorded.base_model, head=recorded.head,
        backbone=" + ".join(dict.fromkeys(member.backbone for member in scores.members)),
        kept=Kept(together.what, together.score), is_one_model=together.is_one_model,
        outcomes_of=list(outcomes),
        data=DataCounts(spec.data.train, recorded.data.notes, recorded.data.n_train, len(parts.validation),
                        len(parts.test), validation_sha256=recorded.data.validation_sha256,
                        test_sha256=recorded.data.test_sha256),
        machine={"cpu": machine.cpu(), "n_threads": machine.usable_cpus()}, versions=machine.versions(),
        spec_sha256=spec.identity(), backbone_sha256=recorded.backbone_sha256,
        created=datetime.now(UTC).isoformat(timespec="seconds"))
    golden = alone.rows("validation")[:N_GOLDEN]
    blind = ([together.task.without_gold(row) for row in golden] if _keeps_texts(alone)
             else together.task.made_up(golden[0])[: len(golden)])
    spec_yaml = to_yaml(spec, {})
    with files.write_folder(final, overwrite) as folder:
        together.fill(folder, blind)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        cost = Cost(peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, artifact_bytes=n_bytes,
                    total_seconds=time.perf_counter() - began)
        scores = dataclasses.replace(scores, cost=cost)
        card = model_card(scores, spec_yaml, example_row(together.task), _keeps_texts(alone), together.native)
        (folder / "scores.json").write_text(json.dumps(scores.to_json(), ensure_ascii=False, indent=1), "utf-8")
        (folder / "README.md").write_text(card, "utf-8")
        in_source_order = np.argsort(parts.test.lines_N, kind="stable")
        np.save(folder / "outcomes.npy", np.column_stack(list(outcomes.values()))[in_source_order], allow_pickle=False)
        manifest.seal(folder)
        made = artifact.read_back(folder)  # its golden inputs are answered before anyone sees it
    write_report(final)
    return dataclasses.replace(made, folder=final)
