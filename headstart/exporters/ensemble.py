"""An ensemble as one exported folder: every member exported and proven by itself, then all of them together."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import machine, manifest
from ..core.errors import ParityError
from ..core.values import Runtime
from ..runs import artifact, ensemble_folder
from ..runs.artifact import ENSEMBLE, EXPORT, GOLDEN_TOLERANCE, MAX_TOLERANCE, Artifact
from .export import Order, rows_for, write_golden, write_scores
from .export import write as write_member
from .parity import Gate


def write(folder: Path, loaded: Artifact, order: Order) -> None:
    """Export an ensemble into an empty folder. Members that are exported already are copied.

    Raises ParityError when a member, or all of them together, do not pass the gate.
    """
    facts = ensemble_folder.read_facts(loaded.folder)
    for m, entry in enumerate(facts["members"]):
        source, final = (ensemble_folder.member_folder(place, m) for place in (loaded.folder, folder))
        order.progress.say(f"member {m + 1} of {len(facts['members'])}")
        if (source / EXPORT).exists():
            ensemble_folder.copy(source, final)
        else:
            final.mkdir(parents=True)
            write_member(final, artifact.load(source, "cpu", precision="fp32"), order)
            manifest.seal(final)
        entry["manifest_sha256"] = manifest.identity(final)
    ensemble_folder.write_facts(folder, {**facts, "tolerance": MAX_TOLERANCE if order.int8 else GOLDEN_TOLERANCE})
    shutil.copyfile(loaded.folder / "task.json", folder / "task.json")
    write_scores(folder, loaded, order.texts)
    task = artifact.read_task(folder)
    runtime = ensemble_folder.opened(folder, task, loaded.scores, "cpu", None, None).artifact.runtime
    gate = _prove(loaded, runtime, order)
    write_golden(folder, loaded, runtime if order.int8 else loaded.runtime, order.texts, is_anew=order.int8)
    _write_facts(folder, loaded, gate, order)


def _prove(loaded: Artifact, runtime: Runtime, order: Order) -> dict[str, Any]:
    """The results of comparing the answers of all members together."""
    chosen, spec = rows_for(loaded, order), loaded.spec
    gate = Gate.of(loaded.task, loaded.reader, loaded.runtime, chosen, spec.evaluate.tokens_per_batch)
    if not order.int8:
        return {"fp32": gate.same_answers(runtime)}
    result = gate.close_answers(runtime, order.max_loss, spec.evaluate.n_resamples, spec.seed)
    if not result["passed"]:
        raise ParityError("export --int8", f"together the members lose up to {result['loss_points_at_most']:.2f} "
                          f"points of {result['metric']} (95 %) on {result['n_rows']:,} rows, and {order.max_loss:g} "
                          "are allowed.", "More labelled rows narrow the interval: --rows FILE. Allow more: --max-loss "
                          "POINTS. Or export without --int8.")
    return {"int8": result}


def _write_facts(folder: Path, loaded: Artifact, gate: dict[str, Any], order: Order) -> None:
    """export.json, for people and for those who ask whether it is exported; and README.md."""
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*.onnx"))
    precision = "int8" if order.int8 else "fp32"
    facts = {"format": manifest.FORMAT, "precision": precision, "model_bytes": n_bytes, "gate": gate,
             "run_manifest_sha256": manifest.identity(loaded.folder), "versions": machine.versions(),
             "created": datetime.now(UTC).isoformat(timespec="seconds")}
    (folder / EXPORT).write_text(json.dumps(facts, ensure_ascii=False, indent=1), "utf-8")
    result = gate[precision]
    n_members = len(ensemble_folder.read_facts(folder)["members"])
    (folder / "README.md").write_text("\n\n".join([
        f"# An ensemble of {n_members} models for {loaded.task.name}, exported in {precision}",
        f"{loaded.task.metric} {loaded.scores['score']:.4f} on {loaded.certificate.test_rows}.",
        f"Each member passed its own gate (`members/1/export.json`); together {result['agreement']:.1%} of the "
        f"answers to {result['n_rows']:,} rows agree with the ensemble's own. How answers become one stands in "
        f"`{ENSEMBLE}`.",
        "```sh\npip install 'headstart[runtime]'\nheadstart predict FOLDER rows.csv\n```",
        "It answers without torch. Its golden inputs are answered again at every load."]) + "\n", "utf-8")
