"""From labelled rows to models: fit, shrink, pretrain, ensemble, compare, audit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import SpecError, shorten
from .options import Encoding, Json, NoTexts, Overwrite, RunArgument, Set, SpecOrData, TaskName, started


def fit(
    source: Annotated[str | None, typer.Argument(
        metavar="SPEC_OR_DATA", help="A Spec (.yaml), or labelled rows: a file, a folder, hub:NAME, pip:PACKAGE/PATH.",
    )] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the artifact; runs/NAME when absent.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Pretrained model: a name, a folder or a hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="How knowledge is carried over; auto when absent.")] = None,
    task: TaskName = None,
    seed: Annotated[int | None, typer.Option(help="Drives splits, order, new weights and dropout.")] = None,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006 - typer copies it
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
    no_texts: NoTexts = False,
    as_json: Json = False,
    help_spec: Annotated[bool, typer.Option("--help-spec", help="Print every field of a Spec, and exit.")] = False,
) -> None:
    """Turn labelled rows into a model, with the proof that transfer helped."""
    from ..core import spec

    if help_spec:
        print(spec.reference())
        return
    if source is None:
        raise typer.BadParameter("name a Spec or a data file", param_hint="SPEC_OR_DATA")
    options = {"backbone": backbone, "method": method, "task": task, "seed": seed,
               "data": {**({"encoding": encoding} if encoding else {}), **({"keep_texts": False} if no_texts else {})}}
    overrides = {key: value for key, value in options.items() if value not in (None, {})}
    progress = started("fit", source)
    from ..runs import evidence, fit

    artifact = fit.fit(source, out=out, resume=resume, overwrite=overwrite, progress=progress,
                       layers=[("command line", overrides), ("--set", spec.parse_set(set_))])
    print(evidence.summary_text(artifact.certificate, artifact.folder))
    if as_json:
        print(json.dumps(evidence.summary(artifact.certificate, artifact.folder), ensure_ascii=False))


def shrink(
    run: RunArgument,
    to: Annotated[str, typer.Option(metavar="SHARE", help="Most blocks that a student may have: 0.5x.")] = "0.5x",
    max_loss: Annotated[float, typer.Option(min=0, help="Points of the metric that it may lose.")] = 1.0,
    unlabelled: Annotated[str | None, typer.Option(help="Rows without labels, which the run answers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the students; RUN-small when absent.")] = None,
    set_: Set = [],  # noqa: B006
    resume: Annotated[bool, typer.Option(help="Keep what is finished and run the rest.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the smallest student of a finished run that is proven to lose little, and export it; or say none."""
    from ..core import spec

    try:
        share = float(to.removesuffix("x"))
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise SpecError("--to", f"is {shorten(to)}; it must be a share of the blocks between 0 and 1.", "--to 0.5x")
    progress = started("shrink", run)
    from ..studies import shrink

    result = shrink.shrink(run, to=share, max_loss=max_loss, unlabeled=unlabelled, out=out, resume=resume,
                           overwrite=overwrite, progress=progress, layers=[("--set", spec.parse_set(set_))])
    folder = out or run.with_name(run.name + "-small")
    print((folder / "shrink.md").read_text("utf-8"))
    if as_json:
        print(json.dumps({"out": str(folder), "page": str(folder / "shrink.html"), **result}, ensure_ascii=False))


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished or exported runs.")],
    out: Annotated[Path, typer.Option(help="Folder of the artifact.")],
    how: Annotated[str, typer.Option(help="mean, weighted, stacking (of answers); soup, greedy-soup, task-arithmetic, "
                                     "ties (of weights).")] = "mean",
    subtract: Annotated[list[Path], typer.Option(
        metavar="RUN", help="For task-arithmetic: take away what it learned; repeatable.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make one artifact of several runs that answer one question, certified against the best of them alone."""
    progress = started("ensemble", ", ".join(map(str, runs)))
    from ..runs import ensemble, evidence

    artifact = ensemble.ensemble(runs, out=out, how=how, subtract=subtract, overwrite=overwrite, progress=progress)
    print(evidence.summary_text(artifact.certificate, artifact.folder))
    if as_json:
        print(json.dumps(evidence.summary(artifact.certificate, artifact.folder), ensure_ascii=False))


def pretrain(
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="Texts without labels: a file or another source.")],
    backbone: Annotated[str, typer.Option(help="What reads on: a name, a folder or a hub id.")],
    objective: Annotated[str, typer.Option(help="masked, causal or contrastive.")],
    out: Annotated[Path, typer.Option(help="Folder of the new backbone.")],
    probe: Annotated[str | None, typer.Option(
        metavar="SPEC_OR_DATA", help="What a linear probe loses or gains: what was forgotten.")] = None,
    proof: Annotated[str | None, typer.Option(
        metavar="SPEC_OR_DATA", help="What labelled rows gain from the new backbone: the verdict is of this.")] = None,
    pairs: Annotated[str, typer.Option(help="Of contrastive: same, crops or neighbors.")] = "same",
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Let a backbone read texts without labels, and prove what that changed: a folder that --backbone takes."""
    from ..core import spec

    progress = started("pretrain", texts)
    from ..runs import evidence, pretrain

    layers = [("command line", {"data": {"encoding": encoding}} if encoding else {}), ("--set", spec.parse_set(set_))]
    made = pretrain.pretrain(texts, backbone=backbone, objective=objective, out=out, probe=probe, proof=proof,
                             pairs=pairs, resume=resume, overwrite=overwrite, progress=progress, layers=layers)
    print(evidence.summary_text(made.scores, made.folder))
    if as_json:
        print(json.dumps(evidence.summary(made.scores, made.folder), ensure_ascii=False))


def compare(
    source: SpecOrData,
    methods: Annotated[str, typer.Option(help="Names with commas between; options behind colons: lora:rank=4.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("runs/compare"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each method gets.")] = 3,
    rows: Annotated[str, typer.Option(help="Numbers of train rows with commas between; all when absent.")] = "",
    set_: Set = [],  # noqa: B006
    resume: Annotated[bool, typer.Option(help="Keep what is finished and run the rest.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same rows: score against time, bytes and latency, every pair tested."""
    from ..core import spec

    if not all(n.strip().isdigit() for n in rows.split(",") if rows):
        raise SpecError("--rows", f"is {rows}; it must be whole numbers with commas between.", "--rows 100,300,1000")
    progress = started("compare", source)
    from ..studies import compare

    result = compare.compare(source, [m.strip() for m in methods.split(",")], seeds=seeds, out=out, resume=resume,
                             rows=[int(n) for n in rows.split(",") if rows], overwrite=overwrite, progress=progress,
                             layers=[("--set", spec.parse_set(set_))])
    print((out / "compare.md").read_text("utf-8"))
    if as_json:
        print(json.dumps({"out": str(out), "page": str(out / "compare.html"), **result}, ensure_ascii=False))


def audit(
    source: SpecOrData,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.html, audit.md and audit.json.")] = None,
    suspects: Annotated[bool, typer.Option(help="Also look for labels that are probably wrong.")] = True,
    task: TaskName = None,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Say what is wrong with labelled rows: leaks, twins, contradictions, probably wrong labels, lengths, odd rows."""
    from ..core import spec

    progress = started("audit", source)
    from ..report.audit import markdown
    from ..studies import audit

    overrides = {"task": task, "data": {"encoding": encoding} if encoding else None}
    findings = audit.audit(source, suspects=suspects, out=out, overwrite=overwrite, progress=progress, layers=[
        ("command line", {key: value for key, value in overrides.items() if value}), ("--set", spec.parse_set(set_))])
    print(markdown(findings))
    if as_json:
        print(json.dumps(findings, ensure_ascii=False))
