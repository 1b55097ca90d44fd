"""The command line: one function a verb, no logic. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import HeadstartError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Carry what a pretrained language model knows over to your own task, and prove that it helped.")

Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set any field of the Spec; repeatable.")]
Encoding = Annotated[str | None, typer.Option(help="Text encoding of the data, such as latin-1.")]
OutFile = Annotated[Path | None, typer.Option(help="Write the JSON to this file, whole or not at all.")]
SpecOrData = Annotated[str, typer.Argument(metavar="SPEC_OR_DATA", help="A Spec (.yaml), or labelled rows.")]
TaskName = Annotated[str | None, typer.Option(help="The kind of question, such as text-classification.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what is at --out.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options before any verb."""
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.command()
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
               "data": {"encoding": encoding} if encoding else None}
    given = {key: value for key, value in options.items() if value is not None}
    from ..core.progress import Show
    from ..runs import evidence
    from ..runs import fit as workbench

    artifact = workbench.fit(source, out=out, resume=resume, overwrite=overwrite, show=Show(),
                             layers=[("command line", given), ("--set", spec.parse_set(set_))])
    print(evidence.summary_text(artifact.certificate, artifact.folder))
    if as_json:
        print(json.dumps(evidence.summary(artifact.certificate, artifact.folder), ensure_ascii=False))


@app.command()
def predict(
    run: RunArgument,
    source: Annotated[str, typer.Argument(metavar="DATA", help='Rows to answer: a file, or "-" for stdin.')] = "-",
    out: OutFile = None,
    entities: Annotated[str | None, typer.Option(
        metavar="RUN", help="For relations: the run that finds the entities; the answers are then triples.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on behind the answers of an interrupted command.")] = False,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Answer new rows: one JSON object a line, in the order of the rows."""
    from ..core import files as sealed
    from ..use import answers as answering
    from ..use import triples

    if out is not None:
        sealed.refuse_existing(out, overwrite)
    elif resume:
        raise typer.BadParameter("name the file that is to be finished with --out", param_hint="--resume")
    settings = _data_settings(encoding, set_)

    def lines(skip: int = 0) -> Iterator[str]:
        answers = (answering.answers(run, source, settings, skip) if entities is None
                   else triples.triples(run, entities, source, settings, skip))
        return (json.dumps(answer, ensure_ascii=False) for answer in answers)

    if out is None:
        for line in lines():
            print(line)
    else:
        runs = [sealed.identity(folder) for folder in (run, entities) if folder]
        n_rows = sealed.write_on(out, lines, {"runs": runs, "source": source, "settings": settings}, resume=resume,
                                 overwrite=overwrite)
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
    from ..core import files as sealed
    from ..use import answers

    if out is not None:
        sealed.refuse_existing(out, overwrite)
    found = answers.evaluate(run, source, _data_settings(encoding, set_), seed=seed)
    line = json.dumps(found, ensure_ascii=False)
    if out is not None:
        sealed.write_file(out, [line + "\n"])
    low, high = found["interval"]
    print(f"{found['metric']} {found['score']:.4f} [{low:.4f}, {high:.4f}] on {found['n']:,} rows")
    if as_json:
        print(line)


@app.command()
def export(
    run: RunArgument,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits, if the metric is proven to hold.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the export; RUN-onnx or RUN-int8 when absent.")] = None,
    rows: Annotated[str | None, typer.Option(
        help="Rows to compare on; the run's own validation rows when absent.")] = None,
    max_loss: Annotated[float, typer.Option(help="Points of the metric that 8 bits may cost.")] = 0.5,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Ship a finished run: a folder that answers without torch, proven to answer as the run does."""
    from ..core.progress import Show
    from ..exporters import export as exporting

    found = exporting.export(run, int8=int8, out=out, rows=rows, max_loss=max_loss, overwrite=overwrite,
                             settings=_data_settings(encoding, set_), show=Show())
    facts = exporting.facts(found.folder)
    print(f"{found.folder}: {facts['precision']}, {facts['model_bytes'] / 1e6:.1f} MB, passed its gate")
    if as_json:
        print(json.dumps({"out": str(found.folder), **{k: facts[k] for k in ("precision", "model_bytes", "gate")}}))


@app.command()
def extract(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_BACKBONE", help="A finished run, or a pretrained model.")],
    rows: Annotated[str, typer.Argument(metavar="DATA", help='Texts: a file, or "-" for stdin.')],
    out: Annotated[Path, typer.Option(help="FILE.npy or FILE.parquet (with ids).")],
    pooling: Annotated[str | None, typer.Option(help="mean, first or max.")] = None,
    last_layers: Annotated[int, typer.Option(help="Average so many of the last layers.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest text; what does not fit is cut and counted.")] = 256,
    cache: Annotated[bool, typer.Option(help="Keep what was computed for the next time.")] = True,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Turn texts into vectors: one a row, in the order of the rows."""
    from ..core import files
    from ..core.progress import Show
    from ..use import vectors as extracts

    files.refuse_existing(out, overwrite)
    show = Show()
    found = extracts.write(source, rows, out, settings=_data_settings(encoding, set_), show=show, pooling=pooling,
                           last_layers=last_layers, max_tokens=max_tokens, store="fp16" if cache else "off")
    show.end()
    if found["n_cut"]:
        show.say(f"{found['n_cut']:,} of {found['n_rows']:,} texts were cut to {max_tokens} tokens")
    print(json.dumps(found) if as_json else f"{found['out']}: {found['n_rows']:,} rows of {found['width']} numbers")


@app.command()
def search(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_BACKBONE", help="A run with embeddings, or a model.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Texts to find: a file.")],
    query: Annotated[list[str], typer.Option(help="What to look for; repeatable.")] = [],  # noqa: B006
    queries: Annotated[str | None, typer.Option(help='More queries: a file, or "-" for stdin.')] = None,
    top: Annotated[int, typer.Option(min=1, help="How many texts a query gets.")] = 5,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Compare only the first numbers of vectors.")] = None,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a query.")] = False,
) -> None:
    """Find the texts of a corpus that are nearest to a query by what they mean."""
    from ..core.progress import Show
    from ..use import retrieval as searching

    settings = _data_settings(encoding, set_)
    if not query and queries is None:
        raise typer.BadParameter("name a query or a file of queries", param_hint="--query")
    texts = [*query, *(searching.texts_of(queries, settings) if queries else [])]
    show = Show()
    found = searching.search(source, searching.texts_of(corpus, settings), texts, top=top, dimensions=dimensions,
                             show=show)
    show.end()
    for text, hits in zip(texts, found, strict=True):
        if as_json:
            print(json.dumps({"query": text, "hits": hits}, ensure_ascii=False))
        else:
            print(text, *(f"  {hit['similarity']:.4f}  {' '.join(hit['text'].split())}" for hit in hits), sep="\n")


@app.command()
def mine(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_BACKBONE", help="A run with embeddings, or a model.")],
    rows: Annotated[str, typer.Argument(metavar="PAIRS", help="Queries with their right texts: a file.")],
    out: Annotated[Path, typer.Option(help="Rows with negatives, as JSON lines: what to fit next.")],
    corpus: Annotated[str | None, typer.Option(help="More texts to choose from: a file.")] = None,
    negatives: Annotated[int, typer.Option(min=1, help="How many wrong texts a row gets at most.")] = 3,
    margin: Annotated[float, typer.Option(help="How far below the right text they must score.")] = 0.05,
    overwrite: Overwrite = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Give pairs hard negatives: texts that look right to a model and are not."""
    from ..core import files as sealed
    from ..core.progress import Show
    from ..use import retrieval as searching

    sealed.refuse_existing(out, overwrite)
    settings, show = _data_settings(encoding, set_), Show()
    found = searching.mine(source, searching.pairs_of(rows, settings), n=negatives, margin=margin, show=show,
                           corpus=searching.texts_of(corpus, settings) if corpus else ())
    show.end()
    sealed.write_file(out, (json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    n, n_without = sum(len(row["negatives"]) for row in found), sum(not row["negatives"] for row in found)
    numbers = {"out": str(out), "n_rows": len(found), "n_negatives": n, "n_rows_without": n_without}
    print(json.dumps(numbers) if as_json else f"{out}: {len(found):,} rows with {n:,} negatives; {n_without:,} rows "
          "have none")


@app.command()
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
    from ..core.errors import SpecError
    from ..core.progress import Show
    from ..studies import compare as comparing

    if not all(n.strip().isdigit() for n in rows.split(",") if rows):
        raise SpecError("--rows", f"is {rows}; it must be whole numbers with commas between.", "--rows 100,300,1000")
    found = comparing.compare(source, [m.strip() for m in methods.split(",")], seeds=seeds, out=out, resume=resume,
                              rows=[int(n) for n in rows.split(",") if rows], overwrite=overwrite, show=Show(),
                              layers=[("--set", spec.parse_set(set_))])
    print((out / "compare.md").read_text("utf-8"))
    if as_json:
        print(json.dumps({"out": str(out), "page": str(out / "compare.html"), **found}, ensure_ascii=False))


@app.command()
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
    from ..core import files, spec
    from ..core.progress import Show
    from ..report import audit as page
    from ..studies import audit as auditing

    if out is not None:
        files.refuse_existing(out, overwrite)
    given = {"task": task, "data": {"encoding": encoding} if encoding else None}
    found = auditing.audit(source, suspects=suspects, show=Show(), layers=[
        ("command line", {key: value for key, value in given.items() if value}), ("--set", spec.parse_set(set_))])
    if out is not None:
        page.write(found, out)
    print(page.markdown(found))
    if as_json:
        print(json.dumps(found, ensure_ascii=False))


@app.command()
def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished or exported runs.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and says which.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has its share of the CPUs' threads.")] = 1,
    api_key_file: Annotated[Path | None, typer.Option(
        help="API keys, one a line; else HEADSTART_API_KEY; neither: no key is asked.")] = None,
    allow_origin: Annotated[list[str], typer.Option(help="Web page that may call us; repeatable.")] = [],  # noqa: B006
    body_bytes: Annotated[int, typer.Option(min=1, help="Largest body; more is 413.")] = 1 << 20,
    request_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a request; more is 413.")] = 1 << 16,
    queue_tokens: Annotated[int, typer.Option(min=1, help="Tokens that may wait for a model; more is 429.")] = 1 << 17,
    queue_requests: Annotated[int, typer.Option(min=1, help="Requests that may wait; more is 429.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one batch.")] = 4096,
    deadline_s: Annotated[float, typer.Option(min=0.001, help="Longest way to an answer; later is 504.")] = 10.0,
    body_s: Annotated[float, typer.Option(min=0.1, help="Longest arrival of a head, and of a body.")] = 10.0,
    drain_s: Annotated[float, typer.Option(min=0, help="After SIGTERM, how long new requests are answered.")] = 0.0,
    grace_s: Annotated[float, typer.Option(min=1, help="After that, how long what is in flight may take.")] = 25.0,
    watch_s: Annotated[float, typer.Option(min=0, help="Between looks at the folders; 0: only SIGHUP.")] = 2.0,
    cache_answers: Annotated[int, typer.Option(min=0, help="Recent answers that a model keeps.")] = 0,
) -> None:
    """Answer over HTTP: predictions, embeddings, metrics and a page to try a model."""
    from ..serve import Settings, process

    process.serve(Settings(
        tuple(runs), host=host, port=port, workers=workers, key_file=api_key_file, origins=tuple(allow_origin),
        body_bytes=body_bytes, request_tokens=request_tokens, queue_tokens=queue_tokens,
        queue_requests=queue_requests, batch_tokens=batch_tokens, deadline_s=deadline_s, body_s=body_s,
        drain_s=drain_s, grace_s=grace_s, watch_s=watch_s, cache_answers=cache_answers))


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    keep: Annotated[str | None, typer.Option(metavar="SIZE", help="Clean up to this size, such as 2GB.")] = None,
    as_json: Json = False,
) -> None:
    """Show what frozen layers said and was kept for later runs, and clean it up: the longest unused goes first."""
    from ..features import store as memo

    freed = memo.prune(0 if clear else memo.parse_size(keep)) if clear or keep else 0
    n_bytes, limit = sum(size for _, size, _ in memo.used()), memo.limit_bytes()
    if as_json:
        print(json.dumps({"folder": str(memo.folder()), "bytes": n_bytes, "limit_bytes": limit,
                          "freed_bytes": freed}))
    else:
        print(f"{memo.folder()}: {n_bytes / 1e6:,.1f} MB of at most {limit / 1e6:,.0f} MB"
              + (f"; {freed / 1e6:,.1f} MB freed" if freed else ""))


@app.command()
def report(run: RunArgument, as_json: Json = False) -> None:
    """Write the report of a finished run again, and name it."""
    from ..report import page as reports

    path = reports.write(run)
    print(json.dumps({"report": str(path)}) if as_json else path)


def _data_settings(encoding: str | None, assignments: list[str]) -> dict[str, Any]:
    """`--encoding` and `--set data.KEY=VALUE` for verbs that only read data."""
    from ..core import spec
    from ..core.errors import SpecError

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
