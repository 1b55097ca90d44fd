"""A finished run where it is used: export, serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Encoding, Json, NoTexts, Overwrite, RunArgument, Set, data_settings, started


def export(
    run: RunArgument,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits, if the metric is proven to hold.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the export; RUN-onnx or RUN-int8 when absent.")] = None,
    rows: Annotated[str | None, typer.Option(
        help="Rows to compare on; the run's own validation rows when absent.")] = None,
    max_loss: Annotated[float, typer.Option(help="Points of the metric that 8 bits may cost.")] = 0.5,
    overwrite: Overwrite = False,
    no_texts: NoTexts = False,
    encoding: Encoding = None,
    set_: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Ship a finished run: a folder that answers without torch, proven to answer as the run does."""
    progress = started("export", run)
    from ..exporters import export
    from ..runs.artifact import export_facts

    artifact = export.export(run, int8=int8, out=out, rows=rows, max_loss=max_loss, overwrite=overwrite,
                             settings=data_settings(encoding, set_), progress=progress, texts=not no_texts)
    facts = export_facts(artifact.folder)
    print(f"{artifact.folder}: {facts['precision']}, {facts['model_bytes'] / 1e6:.1f} MB, passed its gate")
    if as_json:
        print(json.dumps({"out": str(artifact.folder), **{k: facts[k] for k in ("precision", "model_bytes", "gate")}}))


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished or exported runs.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and says which.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has its share of the CPUs' threads.")] = 1,
    api_key_file: Annotated[Path | None, typer.Option(
        help="API keys, one a line; else HEADSTART_API_KEY; neither: no key is asked.")] = None,
    allow_origin: Annotated[list[str], typer.Option(help="Web page that may call us; repeatable.")] = [],  # noqa: B006
    allowed_hosts: Annotated[list[str], typer.Option(
        help='Name in the Host header that is answered; repeatable; "*": all.')] = [],  # noqa: B006
    body_bytes: Annotated[int, typer.Option(min=1, help="Largest body; more is 413.")] = 1 << 20,
    request_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a request; more is 413.")] = 1 << 16,
    queue_tokens: Annotated[int, typer.Option(min=1, help="Tokens that may wait for a model; more is 429.")] = 1 << 17,
    queue_requests: Annotated[int, typer.Option(min=1, help="Requests that may wait; more is 429.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one batch.")] = 4096,
    answer_bytes: Annotated[int, typer.Option(min=1, help="Largest answer; more is 413.")] = 1 << 25,
    unread_bytes: Annotated[int, typer.Option(min=1, help="Of answers that wait to be read; more is 503.")] = 1 << 27,
    connections: Annotated[int, typer.Option(min=1, help="At once, in each process; more is 503.")] = 4096,
    write_s: Annotated[float, typer.Option(min=0.1, help="For a client to read its answer.")] = 30.0,
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
        allowed_hosts=tuple(allowed_hosts), answer_bytes=answer_bytes, unread_bytes=unread_bytes,
        connections=connections, write_s=write_s, body_bytes=body_bytes,
        request_tokens=request_tokens, queue_tokens=queue_tokens,
        queue_requests=queue_requests, batch_tokens=batch_tokens, deadline_s=deadline_s, body_s=body_s,
        drain_s=drain_s, grace_s=grace_s, watch_s=watch_s, cache_answers=cache_answers))
