"""The torch side of a run's folder: write the model into it, and open it again to train, explain or export it.

What answers needs none of this: `artifact` opens an exported folder without torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..core.errors import ArtifactError, MissingExtraError, shorten

try:
    import torch
except ImportError as error:
    raise MissingExtraError("opening a run's own weights", error.name or "torch", "train") from None

from .. import methods
from ..core import manifest
from ..core.model import Model
from ..core.predict import predict
from ..core.reader import Reader
from ..core.spec import Spec
from ..core.task import Task
from ..core.values import Row, Runtime
from ..models import adapters, blocks, trust
from ..models.backbone import TOKENIZER_FILES, Backbone, build_model, load_backbone
from ..models.runtime import TorchRuntime
from .artifact import EXPORT

WEIGHTS, HEAD, ADAPTER = "model.safetensors", "head.safetensors", "adapter"


def runtime(folder: Path, task: Task, spec: Spec, device: str | None) -> tuple[Reader, Runtime]:
    """A finished run's reader, and its model as a runtime on `device`: the best there is when absent."""
    model, reader = open_model(folder, task, spec)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # they may lie in a mapped file: who writes over it would end this process
    model.to(where).eval()
    return reader, TorchRuntime(model, where)


def open_model(folder: Path, task: Task, spec: Spec) -> tuple[Model, Reader]:
    """The torch model of a finished run whose hashes were checked, on the CPU, and its reader."""
    from safetensors.torch import load_file

    if (folder / EXPORT).exists():
        raise ArtifactError(str(folder), "is exported and holds no weights to open.",
                            "Name the run that it was exported from.")
    n_extra_tokens = methods.build(spec.method).plan.n_extra_tokens
    sha256 = manifest.read_manifest(folder).get(WEIGHTS)  # None: the weights are those of the backbone itself
    backbone = load_backbone(str(folder.absolute()) if sha256 else spec.backbone, spec.data.max_tokens,
                              n_extra_tokens, sha256)
    if not sha256:
        _check_backbone(folder, backbone)
    model = build_model(backbone, task, spec.head.pooling, spec.seed)
    if (folder / ADAPTER).is_dir():
        adapters.restore(model, folder / ADAPTER)
    if (folder / HEAD).exists():
        model.own_head().load_state_dict(load_file(folder / HEAD))
    return model, backbone.reader


def _check_backbone(folder: Path, backbone: Backbone) -> None:
    """What was learned is only right on the very weights that it was learned on."""
    wanted = json.loads((folder / "scores.json").read_text("utf-8"))["backbone_sha256"]
    if backbone.sha256 != wanted:
        raise ArtifactError(str(folder), f"was learned on a backbone with sha256 {wanted[:12]}…; "
                            f"{shorten(backbone.name)} now has {backbone.sha256[:12]}….",
                            "Bring that backbone back, or fit again with --set method.alone=false.")


def save(folder: Path, model: Model, task: Task, backbone: Backbone, golden: Sequence[Row],
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
        save_file(model.own_head().state_dict(), folder / HEAD)
    else:
        model.save_pretrained(folder, task.describe())
        if model.head is not None:
            save_file(model.head.state_dict(), folder / HEAD)
            task.extra_files(folder, model.output, model.head.pooling, backbone.reader)
    for name in TOKENIZER_FILES:
        if (backbone.folder / name).is_file():
            shutil.copyfile(backbone.folder / name, folder / name)
    backbone.reader.tokenizer.save(str(folder / "tokenizer.json"))
    described = {"format": manifest.FORMAT, "name": task.name, "fields": asdict(task)}  # type: ignore[call-overload]
    (folder / "task.json").write_text(json.dumps(described, ensure_ascii=False, indent=1), "utf-8")
    blind = [task.without_gold(row) for row in golden]
    answers = predict(task, blind, backbone.reader, TorchRuntime(model, torch.device("cpu")))
    with (folder / "golden.jsonl").open("w", encoding="utf-8") as file:
        for row, answer in zip(blind, answers, strict=True):
            file.write(json.dumps({"row": row, "prediction": answer}, ensure_ascii=False) + "\n")
