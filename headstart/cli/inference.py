"""What models answer: predict, evaluate, extract, search, mine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Encoding, Json, OutFile, Overwrite, RunArgument, Set, data_settings, started


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
    """Answer new rows: one JSON object a line, in the order of the rows. Standard input is JSON lines, CSV under a
    header that names a column of the task, or a text a line. A row that is skipped has {"row": 3, "error": ...}."""
    from ..core.lines import Source, check_lines, write_lines
    from ..core.manifest import identity
    from ..core.outputs import check_output
    from ..use import answers, triples

    runs = [run] if entities is None else [run, Path(entities)]
    if out is not None:
        inputs = [source, *map(str, runs)]
        check_output(out, overwrite, inputs)
        check_lines(out, inputs, resume, overwrite)
    elif resume:
        raise typer.BadParameter("name the file that is to be finished with --out", param_hint="--resume")
    settings = data_settings(encoding, set_)

    def open_source() -> Source:
        rows, answer = (answers.open_rows(run, source, settings) if entities is None
                        else triples.open_rows(run, entities, source, settings))
        return rows, lambda some: (json.dumps(result, ensure_ascii=False) for result in answer(some))

    if out is None:
        rows, lines = open_source()
        for line in lines(rows):
            print(line)
    else:
        made_by = {"runs": [identity(folder) for folder in runs], "source": source, "settings": settings}
        n_rows = write_lines(out, open_source, made_by, resume=resume, overwrite=overwrite)
        if as_json:
            print(json.dumps({"out": str(out), "n_rows": n_rows}))


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
    from ..core.files import write_file
    from ..core.outputs import check_output
    from ..use import answers

    if out is not None:
        check_output(out, overwrite, [source, run])
    scores = answers.evaluate(run, source, data_settings(encoding, set_), seed=seed)
    line = json.dumps(scores, ensure_ascii=False)
    if out is not None:
        write_file(out, [line + "\n"], overwrite)
    low, high = scores["interval"]
    skipped = f"; skipped: {scores['n_skipped']:,}" if "n_skipped" in scores else ""
    print(f"{scores['metric']} {scores['score']:.4f} [{low:.4f}, {high:.4f}] on {scores['n']:,} rows{skipped}")
    if as_json:
        print(line)


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
    progress = started("extract", rows)
    from ..use import vectors

    facts = vectors.write(source, rows, out, overwrite=overwrite, settings=data_settings(encoding, set_),
                          progress=progress, pooling=pooling, last_layers=last_layers, max_tokens=max_tokens,
                          store="fp16" if cache else "off")
    progress.end()
    if facts["n_cut"]:
        progress.say(f"{facts['n_cut']:,} of {facts['n_rows']:,} texts were cut to {max_tokens} tokens")
    if "n_skipped" in facts:
        progress.say(f"{facts['n_skipped']:,} of {facts['n_rows']:,} rows were skipped; their vectors are NaN")
    print(json.dumps(facts) if as_json else f"{facts['out']}: {facts['n_rows']:,} rows of {facts['width']} numbers")


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
    from ..core.progress import Progress
    from ..use import retrieval

    settings = data_settings(encoding, set_)
    if not query and queries is None:
        raise typer.BadParameter("name a query or a file of queries", param_hint="--query")
    texts = [*query, *(retrieval.texts_of(queries, settings) if queries else [])]
    progress = Progress()
    numbers, corpus_texts = zip(*retrieval.numbered_texts_of(corpus, settings), strict=True)
    hits_by_text = retrieval.search(source, corpus_texts, texts, top=top, dimensions=dimensions, progress=progress)
    progress.end()
    hits_by_text = [[{**hit, "row": numbers[hit["row"]]} for hit in hits] for hits in hits_by_text]
    for text, hits in zip(texts, hits_by_text, strict=True):
        if as_json:
            print(json.dumps({"query": text, "hits": hits}, ensure_ascii=False))
        else:
            print(text, *(f"  {hit['similarity']:.4f}  {' '.join(hit['text'].split())}" for hit in hits), sep="\n")


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
    from ..core.files import write_file
    from ..core.outputs import check_output
    from ..core.progress import Progress
    from ..use import retrieval

    check_output(out, overwrite, [source, rows, *([corpus] if corpus else [])])
    settings, progress = data_settings(encoding, set_), Progress()
    mined = retrieval.mine(source, retrieval.pairs_of(rows, settings), n=negatives, margin=margin, progress=progress,
                           corpus=retrieval.texts_of(corpus, settings) if corpus else ())
    progress.end()
    write_file(out, (json.dumps(row, ensure_ascii=False) + "\n" for row in mined), overwrite)
    n, n_without = sum(len(row["negatives"]) for row in mined), sum(not row["negatives"] for row in mined)
    numbers = {"out": str(out), "n_rows": len(mined), "n_negatives": n, "n_rows_without": n_without}
    print(json.dumps(numbers) if as_json else f"{out}: {len(mined):,} rows with {n:,} negatives; {n_without:,} rows "
          "have none")
