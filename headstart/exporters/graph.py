"""A torch model as ONNX files, and such a file in 8 bits.

    write(model, inputs, Path("model.onnx"), fuse=True)          the very module that predicts, head and adapter in it
    quantize(Path("model.onnx"), Path("int8.onnx"), plan, True)  its weights in 8 bits, but for what the plan keeps

Shape suffixes: B windows in a batch, T tokens.
"""

from __future__ import annotations

import ast
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import MissingExtraError, ModelError, shorten
from ..core.model import Model

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper
    import onnxruntime  # noqa: F401 - fusions needs it
    import onnxscript  # noqa: F401 - torch.onnx needs it, and would say so less clearly
    import torch
    from torch import nn
    from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime
except ImportError as error:
    raise MissingExtraError("export", error.name or "onnx", "train,export") from None

from ..models import adapters
from ..runs import runtime
from . import fusions

QUANTIZED = ("MatMul", "Gemm", "Gather")
SCOPES = "name_scopes"  # of what torch notes of a node: the modules that it came from


class _Positional(nn.Module):
    """A model that takes its inputs in an order: a graph's inputs have one."""

    def __init__(self, model: Model, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(dict(zip(self.names, inputs, strict=True))).logits


def graphs(model: Model) -> dict[str, Model]:
    """What is exported of a model, by the name of its graph; each takes its inputs by name and gives logits."""
    if adapters.is_mergeable(model):
        model = adapters.merged(model)  # fewer operations; parity proves that the answers are the same
    return {"model": model}


def file(name: str) -> str:
    """The name of the file that holds this graph."""
    return f"{name}.onnx"


def write(model: Model, inputs: dict[str, np.ndarray], path: Path, *, fuse: bool) -> None:
    """Write one graph to `path`, for any number of windows of any length.

    inputs: an example, [B, T] with B and T of 2 at least: what is 1 there would be taken for a constant.
    fuse:   put operations together that onnxruntime has one for (attention above all): a graph that only it can run.
    Raises  ModelError when the model does something that a graph cannot hold, or is too large for one file.
    """
    model.eval()
    axes = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Positional(model, list(inputs)), tuple(map(torch.from_numpy, inputs.values())), dynamo=True,
                dynamic_shapes=(axes,), input_names=list(inputs), output_names=["logits"], verbose=False)
            assert program is not None
            if fuse:
                fuse_for_onnxruntime(program.model, "cpu")
            for node in program.model.graph.all_nodes():  # what is left tells of this machine's files
                for key in [key for key in node.metadata_props if not key.endswith(SCOPES)]:
                    del node.metadata_props[key]
            graph = program.model_proto
            if fuse:
                fusions.tuned(graph)
            onnx.save(graph, path)
    except OSError:  # of the disk: who gave the folder knows what to say
        raise
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ModelError("export", f"the model cannot be written as a graph: {shorten(reason[0], 200)}.",
                         "Fit with another method or backbone, and tell us which one this was.") from error
    runtime.check(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's talk to itself while it traces."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Plan:
    """What stays in 32 bits, in words and as names of nodes."""

    name: str
    keep: tuple[str, ...]


def plans(path: Path) -> list[Plan]:
    """Ways to put the model at `path` into 8 bits, the smallest file first; each keeps more than the one before.

    The head reads everything, and tables of positions and of token types are added to every token: all of them are
    small. In the blocks the feed-forward layer that reads the activation's outliers suffers most, in the first and
    the last block above all.
    """
    model = onnx.load(path)
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    users = {node.name: node for node in model.graph.node
             if node.op_type in QUANTIZED and any(name in sizes for name in node.input)}
    owners = {name: _module(node) for name, node in users.items()}
    outside = {name for name, module in owners.items() if not _block(module)}
    tables = [name for name in owners if name in outside and users[name].op_type == "Gather"]
    words = max(tables, key=lambda name: max(sizes.get(tensor, 0) for tensor in users[name].input), default="")
    small = outside - {words}
    blocks = list(dict.fromkeys(block for module in owners.values() if (block := _block(module))))
    outer = [[name for name, module in owners.items() if _block(module) == block]
             for block in dict.fromkeys((*blocks[:1], *blocks[-1:]))]
    feed_forward = [[name for name in names if "att" not in owners[name].lower()] for names in outer]
    ways = {"the head and small tables": small,
            "the head, small tables and the outer blocks' last layers": small.union(*(n[-1:] for n in feed_forward)),
            "the head, small tables and the outer blocks' feed-forward parts": small.union(*feed_forward),
            "the head, small tables and the outer blocks": small.union(*outer),
            "all but the inner blocks": outside.union(*outer)}
    kept = {frozenset(keep): name for name, keep in reversed(ways.items()) if len(keep) < len(owners)}
    return [Plan(f"{name} in 32 bits", tuple(sorted(keep))) for keep, name in reversed(kept.items())]


def _block(module: str) -> str:
    """The part of a module's name up to its first number: which block of the backbone it stands in; "" for none."""
    match = re.match(r".*?\.\d+(?=\.|$)", module)
    return match[0] if match else ""


def _module(node: onnx.NodeProto) -> str:
    scopes = next((p.value for p in node.metadata_props if p.key.endswith(SCOPES)), "[]")
    names: list[str] = ast.literal_eval(scopes)
    return names[-2] if len(names) > 1 else ""


def quantize(source: Path, out: Path, plan: Plan, reduce_range: bool) -> None:
    """Write the model at `source` with weights in 8 bits; what flows between them is put into 8 bits as it comes.

    reduce_range: use 7 of the 8 bits, so that sums of products fit into 16 bits: without VNNI they are cut off there.
    Source  onnxruntime's docs, "Quantize ONNX models": per channel goes with reduced range on CPUs without VNNI.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # Its shapes are known and its constants folded already; without this mark onnxruntime advises to do so, loudly.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with _quiet():
        quantize_dynamic(model, out, per_channel=True, reduce_range=reduce_range, weight_type=QuantType.QInt8,
                         op_types_to_quantize=list(QUANTIZED), nodes_to_exclude=list(plan.keep),
                         extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})  # of what onnxruntime's own give
    runtime.check(out)
