"""The folder of a finished run: it answers, it can be checked, and it never changes.

    model.safetensors, config.json, tokenizer.json ...   what a Hugging Face user expects; loads with AutoModel
    head.safetensors                                     the head's weights, when it is ours (pooling is not native)
    adapter/                                             what was learned beside unchanged weights of the backbone; then
                                                         model.safetensors is the backbone's own, or left out
    task.json, spec.yaml                                 what is asked of the model, and the run's every setting
    scores.json, steps.jsonl, README.md                  the certificate, the training log, the model card
    outcomes.npy                                         gold and answer of each test row as numbers, in the source's
                                                         order: what paired tests between runs read
    golden.jsonl                                         ten inputs with their answers, re-answered at every load
    MANIFEST.json                                        sha256 of each of the above
    report.html, report.md                               may be written again at any time
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import adapters, blocks, methods, metrics, sealed, tasks, trust
from . import backbone as backbones
from .errors import ArtifactError, DataError, Problem, shorten
from .heads import Model, PooledModel
from .predict import predict, torch_runtime
from .spec import Spec
from .spec import read as read_yaml
from .tasks import Task
from .types import Prediction, Reader, Row, Runtime

FORMAT = 1
WEIGHTS, HEAD, ADAPTER = "model.safetensors", "head.safetensors", "adapter"
N_GOLDEN = 10
GOLDEN_TOLERANCE = 1e-3  # of a score, between machines; on one machine answers are equal to the last bit


@dataclass(frozen=True)
class Artifact:
    """A loaded run: `predict` and `evaluate` are all that most users need."""

    folder: Path
    task: Task
    spec: Spec
    reader: Reader
    runtime: Runtime
    scores: dict[str, Any]

    def predict(self, texts_or_rows: Sequence[str | Row]) -> list[Prediction]:
        """One answer a row, in order. Rows are mappings with the task's columns; a string is short for one text."""
        return list(self.stream(texts_or_rows))

    def stream(self, texts_or_rows: Iterable[str | Row]) -> Iterator[Prediction]:
        """`predict` for more rows than memory holds: answers come while rows are read."""
        rows = (self._checked(i, row) for i, row in enumerate(texts_or_rows))
        yield from predict(self.task, rows, self.reader, self.runtime,
                           tokens_per_batch=self.spec.evaluate.tokens_per_batch)

    def evaluate(self, rows: Sequence[Row], seed: int | None = None) -> dict[str, Any]:
        """All scores on labelled `rows`, with a bootstrap interval of the task's own metric.

        seed: of the bootstrap; the run's own when absent.
        """
        if not rows:
            raise DataError("evaluate", "got no rows; a score needs at least one.")
        problems = [Problem(f"row {i + 1}", what) for i, what in self.task.check_gold(rows)]
        if problems:
            raise DataError.of(problems, f"This artifact knows: {', '.join(getattr(self.task, 'labels', ()))[:300]}")
        blind = [{k: v for k, v in row.items() if k not in self.task.gold} for row in rows]
        outcomes = self.task.outcomes(self.predict(blind), rows)
        metric = self.task.metric
        resampled = metrics.bootstrap(lambda o: self.task.score(o)[metric], [outcomes],
                                      self.spec.evaluate.n_resamples, self.spec.seed if seed is None else seed)[0]
        scores = self.task.score(outcomes)
        return {"metric": metric, "score": scores[metric], "interval": metrics.interval(resampled), "n": len(rows),
                "scores": scores}

    def _checked(self, i: int, row: str | Row) -> Row:
        if isinstance(row, str):
            row = {"text": row}
        missing = [c for c in self.task.needed if c not in row]
        what = f"has no {', '.join(map(shorten, missing))}" if missing else self.task.check(row)
        if what:
            raise DataError(f"row {i + 1}", f"{what}; task \"{self.task.name}\" reads: "
                            + ", ".join(f"{c} ({self.task.columns[c]})" for c in self.task.needed or
                                        [c for c in self.task.columns if c not in self.task.gold]))
        return {k: v for k, v in row.items() if k not in self.task.gold}

    def _repr_html_(self) -> str:
        from .report import html_summary  # a notebook asks for a picture; nothing else here knows the report

        return html_summary(self.scores)


def load(folder: str | Path, device: str | None = None) -> Artifact:
    """Open a finished run. Its hashes are checked and its golden inputs answered again before it is given.

    device: "cpu", "cuda", ...; the best there is when absent.
    Raises  ArtifactError when anything is missing, damaged, or does not answer as it did.
    """
    folder = Path(folder)
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".partial").exists()
        what = "is not a run's folder" + ("; its run was not finished." if unfinished else ".")
        raise ArtifactError(str(folder), what,
                            "Finish it with the same headstart fit command and --resume." if unfinished
                            else "Make one: headstart fit DATA --out FOLDER")
    faults = sealed.faults(folder)
    if faults:
        raise ArtifactError(str(folder), "; ".join(faults[:10]) + ".", "Copy the folder again, or fit it again.")
    described = json.loads((folder / "task.json").read_text("utf-8"))
    if described.get("format") != FORMAT:
        raise ArtifactError(str(folder), f"has format {shorten(described.get('format'))}; this version reads {FORMAT}.",
                            "Use the version of headstart that wrote it (versions in scores.json).")
    spec = Spec.model_validate(read_yaml(folder / "spec.yaml"))
    task = tasks.restore(described["name"], described["fields"])
    artifact = Artifact(folder, task, spec, *_model(folder, task, spec, device),
                        json.loads((folder / "scores.json").read_text("utf-8")))
    _answer_golden(artifact)
    return artifact


def _model(folder: Path, task: Task, spec: Spec, device: str | None) -> tuple[Reader, Runtime]:
    model, reader = open_model(folder, task, spec)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(where).eval()
    return reader, torch_runtime(model, where)


def open_model(folder: Path, task: Task, spec: Spec) -> tuple[Model, Reader]:
    """The torch model of a finished run, on the CPU, and its reader."""
    from safetensors.torch import load_file

    n_extra_tokens = methods.build(spec.method).n_extra_tokens
    is_whole = (folder / WEIGHTS).exists()
    backbone = backbones.load(str(folder) if is_whole else spec.backbone, spec.data.max_tokens, n_extra_tokens)
    if not is_whole:
        _check_backbone(folder, backbone)
    model = backbones.build(backbone, task, spec.head.pooling, spec.seed)
    if (folder / ADAPTER).is_dir():
        adapters.restore(model, folder / ADAPTER)
    if (folder / HEAD).exists():
        own_head(model).load_state_dict(load_file(folder / HEAD))
    return model, backbone.reader


def _check_backbone(folder: Path, backbone: backbones.Backbone) -> None:
    """What was learned is only right on the very weights that it was learned on."""
    wanted = json.loads((folder / "scores.json").read_text("utf-8"))["backbone_sha256"]
    if backbone.sha256 != wanted:
        raise ArtifactError(str(folder), f"was learned on a backbone with sha256 {wanted[:12]}…; "
                            f"{shorten(backbone.name)} now has {backbone.sha256[:12]}….",
                            "Bring that backbone back, or fit again with --set method.alone=false.")


def own_head(model: Model) -> nn.Module:
    """The weights that are not the encoder's, as a module whose names do not depend on it."""
    if isinstance(model, PooledModel):
        return model.head
    children = model.model.named_children()
    return nn.ModuleDict({name: m for name, m in children if name != model.model.base_model_prefix})


def save(folder: Path, model: Model, task: Task, backbone: backbones.Backbone, golden: Sequence[Row],
         with_backbone: bool = True) -> None:
    """Fill `folder` (it exists and is empty) with the model, its reader, its task and its golden answers.

    with_backbone: also where an adapter stands beside the backbone's own, unchanged weights.
    The caller adds spec.yaml and scores.json, which `load` reads too, and seals the folder.
    """
    from safetensors.torch import save_file

    model = model.to("cpu")
    if adapters.is_on(model):
        adapters.save(model, folder / ADAPTER)
        blocks.base(model.encoder).config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        if with_backbone:
            shutil.copyfile(trust.weights_file(backbone.folder), folder / WEIGHTS)
        save_file(own_head(model).state_dict(), folder / HEAD)
    else:
        inner = model.encoder if isinstance(model, PooledModel) else model.model
        for key, value in task.describe().items():
            setattr(inner.config, key, {int(k): v for k, v in value.items()} if key == "id2label" else value)
        inner.save_pretrained(folder)  # type: ignore[operator]
        if isinstance(model, PooledModel):
            save_file(model.head.state_dict(), folder / HEAD)
            task.extra_files(folder, model.head, backbone.reader)
    for name in backbones.TOKENIZER_FILES:
        if (backbone.folder / name).is_file():
            shutil.copyfile(backbone.folder / name, folder / name)
    backbone.reader.tokenizer.save(str(folder / "tokenizer.json"))
    described = {"format": FORMAT, "name": task.name, "fields": asdict(task)}  # type: ignore[call-overload]
    (folder / "task.json").write_text(json.dumps(described, ensure_ascii=False, indent=1), "utf-8")
    blind = [{k: v for k, v in row.items() if k not in task.gold} for row in golden]
    answers = predict(task, blind, backbone.reader, torch_runtime(model, torch.device("cpu")))
    with (folder / "golden.jsonl").open("w", encoding="utf-8") as file:
        for row, answer in zip(blind, answers, strict=True):
            file.write(json.dumps({"row": row, "prediction": answer}, ensure_ascii=False) + "\n")


def _answer_golden(artifact: Artifact) -> None:
    """Raise ArtifactError when a golden input is not answered as it was when the artifact was made."""
    with (artifact.folder / "golden.jsonl").open(encoding="utf-8") as file:
        golden = [json.loads(line) for line in file]
    answers = artifact.predict([one["row"] for one in golden])
    for i, (one, answer) in enumerate(zip(golden, answers, strict=True)):
        if not _alike(one["prediction"], answer):
            raise ArtifactError(str(artifact.folder), f"golden input {i + 1} was answered {shorten(one['prediction'])} "
                                f"and is now answered {shorten(answer)}.",
                                "Versions differ from those in scores.json, or the machine computes wrongly.")


def _alike(a: Any, b: Any) -> bool:
    """Equal, numbers up to GOLDEN_TOLERANCE."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=0, atol=GOLDEN_TOLERANCE))
    return bool(a == b)
