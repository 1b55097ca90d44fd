"""The command line: one function a verb, no logic. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import HeadstartError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Carry what a pretrained language model knows over to your own task, and prove that it helped.")

Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set any field of the Spec; repeatable.")]
Encoding = Annotated[str | None, typer.Option(help="Text encoding of the data, such as latin-1.")]
OutFile = Annotated[Path | None, typer.Option(help="Write the JSON to this file, whole or not at all.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what is at --out.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options before any verb."""
    if version:
        from . import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def fit(
    source: Annotated[str | None, typer.Argument(
        metavar="SPEC_OR_DATA", help="A Spec (.yaml), or labelled rows: a file, a folder, hub:NAME, pip:PACKAGE/PATH.",
    )] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the artifact; runs/NAME when absent.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Pretrained model: a name, a folder or a hub id.")] = None,
    method: Annotated[str | None, typer.Option(help="How knowledge is carried over, such as fine-tuning.")] = None,
    task: Annotated[str | None, typer.Option(help="The kind of question, such as text-classification.")] = None,
    seed: Annotated[int | None, typer.Option(help="Drives splits, order, new weights and dropout.")] = None,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006 - typer copies it
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    help_spec: Annotated[bool, typer.Option("--help-spec", help="Print every field of a Spec, and exit.")] = False,
) -> None:
    """Turn labelled rows into a model, with the proof that transfer helped."""
    from . import spec

    if help_spec:
        print(spec.reference())
        return
    if source is None:
        raise typer.BadParameter("name a Spec or a data file", param_hint="SPEC_OR_DATA")
    options = {"backbone": backbone, "method": method, "task": task, "seed": seed,
               "data": {"encoding": encoding} if encoding else None}
    given = {key: value for key, value in options.items() if value is not None}
    from . import evidence, workbench
    from .progress import Show

    artifact = workbench.fit(source, out=out, resume=resume, overwrite=overwrite, show=Show(),
                             layers=[("command line", given), ("--set", spec.parse_set(set_))])
    print(evidence.summary_text(artifact.scores, artifact.folder))
    if as_json:
        print(json.dumps(evidence.summary(artifact.scores, artifact.folder), ensure_ascii=False))


@app.command()
def predict(
    run: RunArgument,
    source: Annotated[str, typer.Argument(metavar="DATA", help='Rows to answer: a file, or "-" for stdin.')] = "-",
    out: OutFile = None,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Answer new rows: one JSON object a line, in the order of the rows."""
    from . import runfolder, sealed, workbench

    if out is not None:
        runfolder.refuse_existing(out, overwrite)
    answers = workbench.answers(run, source, _data_settings(encoding, set_))
    lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
    if out is None:
        for line in lines:
            print(line)
    else:
        n_rows = sealed.write_file(out, (line + "\n" for line in lines))
        if as_json:
            print(json.dumps({"out": str(out), "n_rows": n_rows}))


@app.command()
def evaluate(
    run: RunArgument,
    source: Annotated[str, typer.Argument(metavar="DATA", help="Labelled rows.")],
    out: OutFile = None,
    overwrite: Overwrite = False,
    seed: Annotated[int | None, typer.Option(help="Drives the interval's resamples; default: the run's.")] = None,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Score a finished run on labelled rows, with a 95 % interval."""
    from . import runfolder, sealed, workbench

    if out is not None:
        runfolder.refuse_existing(out, overwrite)
    found = workbench.evaluate(run, source, _data_settings(encoding, set_), seed=seed)
    line = json.dumps(found, ensure_ascii=False)
    if out is not None:
        sealed.write_file(out, [line + "\n"])
    low, high = found["interval"]
    print(f"{found['metric']} {found['score']:.4f} [{low:.4f}, {high:.4f}] on {found['n']:,} rows")
    if as_json:
        print(line)


@app.command()
def report(run: RunArgument, as_json: Json = False) -> None:
    """Write the report of a finished run again, and name it."""
    from . import report as reports

    path = reports.write(run)
    print(json.dumps({"report": str(path)}) if as_json else path)


def _data_settings(encoding: str | None, assignments: list[str]) -> dict[str, Any]:
    """`--encoding` and `--set data.KEY=VALUE` for verbs that only read data."""
    from . import spec
    from .errors import SpecError

    settings = spec.parse_set(assignments)
    for key in settings.keys() - {"data"}:
        raise SpecError(f"--set {key}", "is not a field of data; a finished run's other settings are fixed.",
                        "For example: --set data.errors=skip")
    return {**settings.get("data", {}), **({"encoding": encoding} if encoding else {})}


def main(run: Callable[[], Any] = app) -> None:
    """Run the command line; a HeadstartError is printed without a traceback and becomes the exit code."""
    try:
        run()
    except HeadstartError as error:
        print(f"headstart: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our answers went away, as `head` does
        raise SystemExit(141) from None
