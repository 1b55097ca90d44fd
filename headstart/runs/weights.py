"""The torch side of a run's folder: write the model into it, and open it again to train, explain or export it.

What answers needs none of this: `artifact` opens an exported folder without torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..core.errors import ArtifactError, MissingExtraError, ModelError, shorten

try:
    import torch
except ImportError as error:
    raise MissingExtraError("opening a run's own weights", error.name or "torch", "train") from None

from .. import methods
from ..core import manifest, writing
from ..core.decoding import written_ids
from ..core.model import Model
from ..core.predict import predict
from ..core.reader import Reader
from ..core.spec import Spec
from ..core.task import Task
from ..core.untrusted import parse_json, read_json, read_text
from ..core.values import Row
from ..features.store import folder_if_kept
from ..models import adapters, blocks, tensors
from ..models.backbone import TARGET_TOKENIZER, Backbone, build_model, load_backbone
from ..models.hub import TOKENIZER_FILES
from ..models.precision import FP32, put_in
from ..models.runtime import TorchRuntime
from .artifact import ENSEMBLE, EXPORT, write_golden, write_task

# Where the head is ours, transformers would make one of its own, with random weights: one of no labels cannot answer.
NO_LABELS: dict[str, Any] = {"id2label": {}, "label2id": {}, "problem_type": None}
GOLDEN_TOKENS = 4096  # padded tokens of texts that are written together
WEIGHTS, HEAD, ADAPTER = "model.safetensors", "head.safetensors", "adapter"


def runtime(folder: Path, task: Task, spec: Spec, device: str | None) -> tuple[Reader, TorchRuntime]:
    """A finished run's reader, and its model as a runtime on `device`: the best there is when absent."""
    model, reader = open_model(folder, task, spec)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # they may lie in a mapped file: who writes over it would end this process
    model.to(where).eval()
    return reader, TorchRuntime(model, where)


def in_precision(runtime: TorchRuntime, wanted: str, cache: str) -> TorchRuntime:
    """`runtime`, computing in the precision wanted, or in 32 bits where this machine has not got it. Both: as in the
    Spec."""
    put_in(runtime.model, wanted, runtime.device, folder_if_kept(cache), or_fp32=True)
    return runtime


def open_model(folder: Path, task: Task, spec: Spec) -> tuple[Model, Reader]:
    """The torch model of a finished run whose hashes were checked, on the CPU, and its reader."""
    if (folder / ENSEMBLE).exists():
        raise ArtifactError(str(folder), "is an ensemble: it has no weights of its own.",
                            f"Name one of its members: {folder / 'members' / '1'}")
    if (folder / EXPORT).exists():
        raise ArtifactError(str(folder), "is exported and holds no weights to open.",
                            "Name the run that it was exported from.")
    n_extra_tokens = methods.build(spec.method).plan.n_extra_tokens
    sha256 = manifest.read_manifest(folder).get(WEIGHTS)  # None: the weights are those of the backbone itself
    writes = task.head.kind == "language-model"
    if pooling_is_ours := spec.head.pooling != "native" and not writes:
        _check_head(folder, task)  # before anything of its size is made
    backbone = load_backbone(str(folder.absolute()) if sha256 else spec.backbone.name, spec.data.max_tokens,
                             n_extra_tokens, sha256, None if sha256 else spec.backbone.keep_blocks)
    if not sha256:
        _check_backbone(folder, backbone)
    if not pooling_is_ours and not writes and task.n_outputs * backbone.config.hidden_size > MAX_NATIVE_HEAD:
        raise ArtifactError(str(folder / "task.json"), f"has {task.n_outputs:,} labels; a native head of "
                            f"{backbone.config.hidden_size:,} numbers wide has at most "
                            f"{MAX_NATIVE_HEAD // backbone.config.hidden_size:,}.", "Copy the folder again.")
    model = build_model(backbone, task, spec.head.pooling, spec.seed)
    if (folder / ADAPTER).is_dir():
        adapters.restore(model, folder / ADAPTER)
    if (folder / HEAD).exists():
        _load_head(model.own_head(), folder / HEAD)
    return model, backbone.reader


DAMAGED = "Copy the folder again, or fit it again."
MAX_NATIVE_HEAD = 1 << 28  # weights of a head of transformers' own: a gigabyte


def _check_head(folder: Path, task: Task) -> None:
    """The head's file has as many outputs as the task has. Reads its list of tensors and nothing else."""
    entry = tensors.read_header(folder / HEAD, ArtifactError).get("out.weight")
    n_outputs = entry.shape[0] if entry and entry.shape else 0
    if task.n_outputs and n_outputs != task.n_outputs:
        raise ArtifactError(str(folder / HEAD), f"has {n_outputs:,} outputs, and the task in task.json has "
                            f"{task.n_outputs:,}.", DAMAGED)


def _load_head(head: torch.nn.Module, path: Path) -> None:
    """The head's weights, each of the name and the shape that it must have, and finite."""
    from safetensors.torch import load_file

    entries, wanted = tensors.read_header(path, ArtifactError), head.state_dict()
    for name in sorted(entries.keys() | wanted.keys()):
        came, rule = entries.get(name), wanted.get(name)
        if came is None or rule is None or came.shape != tuple(rule.shape) or came.dtype not in tensors.WEIGHT_DTYPES:
            raise ArtifactError(str(path), f"has {f'{came.dtype} {came.shape}' if came else 'nothing'} for "
                                f"{shorten(name)}; the model reads "
                                f"{'nothing' if rule is None else f'numbers {tuple(rule.shape)}'} there.", DAMAGED)
    tensors.check_finite(path, entries, ArtifactError)
    head.load_state_dict(load_file(path))


def _check_backbone(folder: Path, backbone: Backbone) -> None:
    """What was learned is only right on the very weights that it was learned on."""
    wanted = str(read_json(folder / "scores.json", ArtifactError).get("backbone_sha256"))
    if backbone.sha256 != wanted:
        raise ArtifactError(str(folder), f"was learned on a backbone with sha256 {shorten(wanted[:12])[1:-1]}…; "
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
        _save_config(cast(Any, model).model if model.writes else blocks.base(model.encoder), folder)
        if with_backbone:
            if len(backbone.weights) == 1 and backbone.keep_blocks is None:
                shutil.copyfile(backbone.weights[0], folder / WEIGHTS)
            else:
                save_file(backbone.tensors(), folder / WEIGHTS)
        if own := model.own_head().state_dict():
            save_file(own, folder / HEAD)
    else:
        model.save_pretrained(folder, task.describe() if model.head is None else NO_LABELS)
        if model.head is not None:
            save_file(model.head.state_dict(), folder / HEAD)
            task.extra_files(folder, model.output, model.head.pooling, backbone.reader)
    save_reader(backbone, folder)
    write_task(folder, task)
    blind = [task.without_gold(row) for row in golden]
    computed_in = model.precision
    model.set_precision(FP32)  # every machine can answer so
    write_golden(folder, _golden(task, blind, backbone.reader, TorchRuntime(model, torch.device("cpu"))))
    model.set_precision(computed_in)


def save_reader(backbone: Backbone, folder: Path) -> None:
    """Write the backbone's tokenizer, and those of its files that say no more than that."""
    for name in TOKENIZER_FILES:
        if (text := _text_to_copy(backbone, name)) is not None:
            (folder / name).write_text(text, "utf-8")
    backbone.reader.tokenizer.save(str(folder / "tokenizer.json"))
    if backbone.reader.of_target is not None:
        backbone.reader.of_target.tokenizer.save(str(folder / TARGET_TOKENIZER))


def _golden(task: Task, rows: Sequence[Row], reader: Reader, runtime: TorchRuntime) -> list[dict[str, Any]]:
    """Rows with their answers; of a text also its tokens and how likely each was, for machines that round otherwise."""
    if task.generation is None:
        answers = predict(task, rows, reader, runtime)
        return [{"row": row, "prediction": answer} for row, answer in zip(rows, answers, strict=True)]
    windows = [window for i, row in enumerate(rows) for window in task.encode(i, row, reader)]
    texts = writing.continuations(task, rows, windows, reader, runtime.stepper(), GOLDEN_TOKENS)
    return [{"row": row, "prediction": writing.prediction(task, row, reader, text), "ids": written_ids(text),
             "log_probabilities": text.log_probabilities} for row, text in zip(rows, texts, strict=True)]


def _save_config(encoder: Any, folder: Path) -> None:
    """config.json of a plain encoder, whatever its own said."""
    config = type(encoder.config).from_dict({**encoder.config.to_dict(), **NO_LABELS,
                                             "architectures": [type(encoder).__name__]})
    config.save_pretrained(folder)


def _text_to_copy(backbone: Backbone, name: str) -> str | None:
    """What a file of the tokenizer holds, if it is one; headstart itself reads tokenizer.json alone.

    A model folder is somebody else's: a link in it may lead to any file of ours, and an artifact is for publishing. A
    hub's cache has links, too, to its blobs.
    """
    path, root = backbone.folder / name, backbone.folder.resolve()
    if name == "tokenizer.json" or not path.is_file():
        return None
    is_inside = any(path.resolve().is_relative_to(folder) for folder in (root, root.parent.parent / "blobs"))
    try:
        text = read_text(path, ModelError) if is_inside else ""
        if name.endswith(".json"):
            return text if isinstance(parse_json(text, str(path), ModelError), dict) else None
    except ModelError:
        return None
    vocabulary = backbone.reader.tokenizer.get_vocab(True)
    return text if text and all(line in vocabulary for line in text.rstrip("\n").split("\n")) else None
