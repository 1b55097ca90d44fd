"""Ship a finished run: a folder with its graphs as ONNX files that answers without torch, or nothing at all.

    write the graphs -> compare with the run -> (8 bits, and compare again) -> write the folder -> read it back

    export("runs/reviews")                  runs/reviews-onnx
    export("runs/reviews", int8=True)       runs/reviews-int8, a quarter of the size
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import tasks
from ..core import files, machine, manifest
from ..core.errors import ArtifactError, DataError, HeadstartError, ParityError, SpecError
from ..core.model import Model
from ..core.outputs import check_output
from ..core.predict import predict
from ..core.progress import Progress
from ..core.spec import Spec
from ..core.values import Row, Runtime
from ..data import splits
from ..data.table import read_splits, read_table
from ..runs import artifact, runtime, weights
from ..runs.artifact import ENSEMBLE, EXPORT, GOLDEN_TOLERANCE, Artifact
from ..runs.folder import sources_of
from ..runs.runtime import OnnxRuntime
from ..use.answers import data_spec
from . import graph, parity
from .parity import Gate, Rows

MAX_LOSS = 0.5  # points
MAX_ROWS = 2_000
INT8_TOLERANCE = artifact.MAX_TOLERANCE  # of a golden score: sums of rounded numbers differ more between machines
COPIED = ("tokenizer.json", "task.json")


def export(run: str | Path, *, int8: bool = False, out: str | Path | None = None, rows: str | None = None,
           max_loss: float = MAX_LOSS, overwrite: bool = False, settings: Mapping[str, Any] | None = None,
           progress: Progress | None = None, texts: bool = True) -> Artifact:
    """Export a finished run to a folder that answers without torch, proven to answer as the run does.

    int8:     weights in 8 bits; what the gate needs stays in 32.
    out:      absent: the run's folder with "-onnx" or "-int8" behind it.
    rows:     a source of rows to compare on; absent: the run's validation rows, read again, or its golden inputs.
    max_loss: points of the task's metric that 8 bits may cost; see parity.
    settings: how `rows` is read, where it is not read as the run's own data.
    texts:    False: golden inputs are made up and mistakes are left out, so that no row's text goes along.

    Returns  the exported artifact, read back with its golden inputs answered.
    Raises   ParityError when the gate is not passed; `out` is then as it was.
    """
    run, progress = Path(run), progress or Progress(quiet=True)
    named = run if run.name not in ("", "..") else run.resolve()
    final = Path(out) if out is not None else named.with_name(named.name + ("-int8" if int8 else "-onnx"))
    if (run / EXPORT).exists():
        raise ArtifactError(str(run), "is exported already.", "Export the run that it came from.")
    if not max_loss >= 0:
        raise SpecError("--max-loss", f"is {max_loss}; it must be 0 at least.", "It is in points: 0.5 is 0.005.")
    check_output(final, overwrite, [run, *([rows] if rows else [])], folder=True)
    loaded = artifact.load(run, "cpu", precision="fp32")
    if loaded.task.generation is not None:
        raise SpecError(f"export {run}", f'task "{loaded.task.name}" writes texts, token by token; only models that '
                        "answer a text at once can be exported so far.",
                        f"Use the run as it is: headstart predict {run} ROWS")
    check_output(final, overwrite, sources_of(loaded.spec), folder=True)
    order = Order(int8, rows, max_loss, settings, texts, progress)
    with files.write_folder(final, overwrite) as folder:
        if (run / ENSEMBLE).exists():
            from . import ensemble

            ensemble.write(folder, loaded, order)
        else:
            write(folder, loaded, order)
        manifest.seal(folder)
        read = artifact.read_back(folder)  # its golden inputs are answered before anyone sees it
    return dataclasses.replace(read, folder=final)


@dataclasses.dataclass(frozen=True)
class Order:
    """What `export` was asked to do, by its arguments' names."""

    int8: bool
    rows: str | None
    max_loss: float
    settings: Mapping[str, Any] | None
    texts: bool
    progress: Progress


def write(folder: Path, loaded: Artifact, order: Order) -> None:
    """Export one model into an empty folder. Raises ParityError when its gate is not passed."""
    spec, progress = loaded.spec, order.progress
    chosen = rows_for(loaded, order)
    gate = Gate.of(loaded.task, loaded.reader, loaded.runtime, chosen, spec.evaluate.tokens_per_batch)
    model, _ = weights.open_model(loaded.folder, loaded.task, spec)
    results: dict[str, Any] = {}
    exported, results["fp32"] = in_32_bits(gate, model, folder, progress=progress)
    del model
    progress.say(f"fp32: every answer agrees; numbers to {results['fp32']['largest_difference']:.1g}")
    if order.int8:
        exported, results["int8"] = _in_8_bits(gate, folder / graph.file("model"), order.max_loss, spec, progress)
    _fill(folder, loaded, exported, results, order.texts)


def rows_for(loaded: Artifact, order: Order) -> Rows:
    """What to compare on. Raises DataError where 8 bits cannot be proven on it."""
    chosen = _rows(loaded, order.rows, order.settings, order.progress)
    if order.int8 and not chosen.is_labelled:
        raise DataError("--int8", f"needs labelled rows to prove that the metric holds; there are {chosen.origin}.",
                        "Name a file with labelled rows: --rows FILE")
    order.progress.say(f"comparing on {len(chosen.rows):,} rows: {chosen.origin}")
    return chosen


def _rows(loaded: Artifact, source: str | None, settings: Mapping[str, Any] | None, progress: Progress) -> Rows:
    """What to compare on: the rows named, the run's validation rows, or its golden inputs alone, which is shown."""
    golden = [entry["row"] for entry in artifact.golden(loaded.folder)]
    if source is not None:
        table = read_table(source, data_spec(loaded, settings), loaded.task, gold="optional", lenient=True)
        return Rows(table.rows, f"the rows of {source}", _is_labelled(loaded, table.rows))
    try:
        if loaded.spec.data.train == "-":
            raise DataError("-", "standard input cannot be read twice.", "")
        question = tasks.build(loaded.spec.task)
        tables = read_splits(loaded.spec.data, question)
        table = splits.make(tables, loaded.spec.data, question, loaded.spec.seed).validation
        rows, sha256 = table.rows[:MAX_ROWS], loaded.certificate.data.validation_sha256
        if sha256 != table.digest() if sha256 else parity.blind(loaded.task, rows[: len(golden)]) != golden:
            raise DataError(loaded.spec.data.train, "no longer holds the rows that the run was fitted on.", "")
        return Rows(rows, "the run's validation rows", is_labelled=True)
    except HeadstartError as error:
        progress.say(f"the run's validation rows cannot be read again: {error.where}: {error.what} "
                     "Comparing on its golden inputs alone; name more rows with --rows FILE.")
        return Rows(golden, "the run's golden inputs", is_labelled=False)


def _is_labelled(loaded: Artifact, rows: Sequence[Row]) -> bool:
    """Whether all rows have their gold. Raises DataError when some of it means nothing to this artifact."""
    task, columns = loaded.task, loaded.task.columns
    if any(column not in row for row in rows for column in columns.gold if column in columns.required):
        return False
    if set(columns.gold) <= set(columns.optional) and task.check_gold(rows):
        return False
    loaded.check_gold(rows)
    return True


def in_32_bits(gate: Gate, model: Model, folder: Path, *, progress: Progress) -> tuple[OnnxRuntime, dict[str, Any]]:
    """Write each graph of `model` into `folder` and prove them. Raises ParityError or ModelError.

    Attention and the like are one operation each, if this model can be proven so.

    Returns  the graphs, opened, and the results of the gate.
    """
    try:
        return _in_32_bits(gate, model, folder, fuse=True)
    except HeadstartError as error:
        progress.say(f"onnxruntime's fused operations do not fit this model: {error.what} Exporting it without them.")
    return _in_32_bits(gate, model, folder, fuse=False)


def _in_32_bits(gate: Gate, model: Model, folder: Path, *, fuse: bool) -> tuple[OnnxRuntime, dict[str, Any]]:
    example = parity.batch(gate.windows(), 2, min(8, gate.reader.max_tokens), gate.reader.pad_id)
    modules = graph.graphs(model)
    for name, module in modules.items():
        graph.write(module, example, folder / graph.file(name), fuse=fuse)
    exported = runtime.open_runtime({name: folder / graph.file(name) for name in modules})
    return exported, gate.exact(exported) | {"fused": fuse}


def _in_8_bits(gate: Gate, path: Path, max_loss: float, spec: Spec,
               progress: Progress) -> tuple[OnnxRuntime, dict[str, Any]]:
    """Put the model at `path` into 8 bits in its place, by the first plan that passes. Raises ParityError."""
    plans = graph.plans(path)
    candidate = path.with_name("int8.onnx")
    reduce_range = _better_range(gate, path, candidate, plans[0])
    tried = []
    for plan in plans:
        graph.quantize(path, candidate, plan, reduce_range)
        exported = runtime.open_runtime({"model": candidate})
        result = gate.close(exported, max_loss, spec.evaluate.n_resamples, spec.seed)
        result |= {"plan": plan.name, "n_kept": len(plan.keep), "reduce_range": reduce_range}
        tried.append(result)
        progress.say(f"int8, {plan.name}: {result['metric']} {result['score_of_original']:.4f} -> "
                     f"{result['score']:.4f}, loss at most {result['loss_points_at_most']:.2f} points; "
                     f"{result['agreement']:.1%} of the answers agree")
        if result["passed"]:
            candidate.replace(path)
            return exported, {**result, "has_vnni": machine.has_vnni(), "tried": [other["plan"] for other in tried]}
        candidate.unlink()
    best = min(tried, key=lambda result: result["loss_points_at_most"])
    raise ParityError("export --int8", f"{best['metric']} went from {best['score_of_original']:.4f} to "
                      f"{best['score']:.4f} on {best['n_rows']:,} rows at best; the loss is at most "
                      f"{best['loss_points_at_most']:.2f} points (95 %), and {max_loss:g} are allowed "
                      f"({best['plan']}; {best['agreement']:.1%} of the answers agree).",
                      "More labelled rows narrow the interval: --rows FILE. Allow more: --max-loss POINTS. Or export "
                      "without --int8.")


def _better_range(gate: Gate, path: Path, candidate: Path, plan: graph.Plan) -> bool:
    """Whether 7 of 8 bits come nearer to 32 on this CPU. Without VNNI they should: products of 8 bits are cut off."""
    distances = {}
    for reduce_range in (False, True) if machine.has_vnni() else (True, False):
        graph.quantize(path, candidate, plan, reduce_range)
        distances[reduce_range] = gate.distance(runtime.open_runtime({"model": candidate}))
        candidate.unlink()
    return min(distances, key=distances.__getitem__)  # of equals the first


def _fill(folder: Path, loaded: Artifact, exported: OnnxRuntime, results: Mapping[str, Any],
          texts: bool) -> None:
    """The files beside the graphs: all that serving reads, as JSON, and a page for people."""
    for name in COPIED:
        (folder / name).write_bytes((loaded.folder / name).read_bytes())
    is_int8 = "int8" in results
    write_scores(folder, loaded, texts)
    graphs = {name: {"file": graph.file(name), "inputs": opened.inputs, "outputs": opened.outputs}
              for name, opened in exported.graphs.items()}
    facts = {"format": manifest.FORMAT, "precision": "int8" if is_int8 else "fp32",
             **({"instructions": machine.int8_instructions() or "none for 8 bits"} if is_int8 else {}),
             "tolerance": INT8_TOLERANCE if is_int8 else GOLDEN_TOLERANCE,
             "reader": loaded.reader.facts,
             "spec": loaded.spec.model_dump(), "graphs": graphs, "gate": results,
             "run_manifest_sha256": manifest.identity(loaded.folder),
             "model_bytes": sum((folder / graph.file(name)).stat().st_size for name in graphs),
             "versions": machine.versions(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_golden(folder, loaded, exported if is_int8 else loaded.runtime, texts, is_anew=is_int8)
    (folder / EXPORT).write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")
    (folder / "README.md").write_text(page(loaded, facts), "utf-8")


def write_scores(folder: Path, loaded: Artifact, texts: bool) -> None:
    """scores.json of the run; texts: with the rows that it shows."""
    if texts:
        (folder / "scores.json").write_bytes((loaded.folder / "scores.json").read_bytes())
        return
    details = {**loaded.scores.get("details", {}), "mistakes": []}
    scores = json.dumps({**loaded.scores, "details": details}, ensure_ascii=False, indent=1)
    (folder / "scores.json").write_text(scores, "utf-8")


def write_golden(folder: Path, loaded: Artifact, exported: Runtime, texts: bool, *, is_anew: bool) -> None:
    """The run's golden inputs with its answers; `exported` answers anew where those are others, or no texts may be."""
    golden = artifact.golden(loaded.folder)
    if is_anew or not texts:  # in 32 bits the answers must stay those of the run itself
        rows = [entry["row"] for entry in golden] if texts else loaded.task.made_up(golden[0]["row"])
        answers = predict(loaded.task, rows, loaded.reader, exported,
                          tokens_per_batch=loaded.spec.evaluate.tokens_per_batch)
        golden = [{"row": row, "prediction": answer} for row, answer in zip(rows, answers, strict=True)]
    artifact.write_golden(folder, golden)


def page(loaded: Artifact, facts: Mapping[str, Any]) -> str:
    """README.md of an exported run: what it is, how it was proven, how to use it. Holds no text of the user's rows."""
    scores, gate = loaded.scores, facts["gate"]
    fp32, int8 = gate["fp32"], gate.get("int8")
    proof = [f"In 32 bits every answer to {fp32['n_rows']:,} rows ({_plain(fp32['rows'])}) is the run's own, numbers "
             f"to {fp32['largest_difference']:.1g}; {sum(graph['n'] for graph in fp32['shapes'].values())} shapes of "
             "batches were tried."]
    if int8:
        proof.append(f"In 8 bits ({int8['plan']}) {int8['metric']} went from {int8['score_of_original']:.4f} to "
                     f"{int8['score']:.4f} on {int8['n_rows']:,} rows: a loss of at most "
                     f"{max(0.0, int8['loss_points_at_most']):.2f} points (95 %). {int8['agreement']:.1%} of the "
                     "answers agree. What is rounded depends on the batch as a whole, so numbers can differ a little.")
    return "\n\n".join([
        f"# {_plain(str(scores.get('backbone', 'a model')))}, fitted for {loaded.task.name}, exported in "
        f"{facts['precision']}", f"{_plain(scores['metric'])} {scores['score']:.4f} on {loaded.certificate.test_rows}.",
        *proof, "From outside of this folder, called FOLDER here: Python imports what lies where it is "
        "started.", "```sh\npip install 'headstart[runtime]'\nheadstart predict FOLDER rows.csv\n```",
        '```python\nimport headstart\n\nartifact = headstart.load("FOLDER")\nartifact.predict(rows)\n```',
        "It answers without torch. Its golden inputs are answered again at every load."]) + "\n"


def _plain(text: str) -> str:
    """A name or a path without what Markdown or HTML would act on."""
    return re.sub(r"[^\w\s.,:/()'-]", "", text)
