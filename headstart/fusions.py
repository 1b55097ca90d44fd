"""A graph as onnxruntime runs it fastest on a CPU: what it joins badly is parted, and padding is not computed.

    tuned(graph)    after transformers has put operations together

Shape suffixes: B windows in a batch, T tokens of the longest, N real tokens of all windows, D numbers a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from .runtime import SKIPS_PADDING

ONNXRUNTIME = "com.microsoft"  # the domain of its own operations
ATTENTION, MASK = "MultiHeadAttention", "attention_mask"
TOKEN_WISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "FastGelu",
              "QuickGelu", "BiasGelu", "Identity", "MatMul", "LayerNormalization", "Split"}
PLACES, OF_TOKENS = "real_places", "real_of_tokens"


def tuned(model: onnx.ModelProto) -> None:
    """Part norms and attention, then leave padding out, in place."""
    _part_norms(model.graph)
    _open_attention(model.graph)
    if _leave_padding_out(model.graph):
        model.metadata_props.add(key=SKIPS_PADDING, value="1")


def _part_norms(graph: onnx.GraphProto) -> None:
    """Put two sums and a norm in the place of each SkipLayerNormalization.

    onnxruntime's one operation for all three takes longer than they do on a CPU: an eighth of MiniLM's time in 32 bits
    and a quarter in 8. `runtime` keeps it from putting them together again.
    """
    wanted, nodes = _read(graph.node, graph), []
    for node in graph.node:
        out, *others = node.output
        if node.op_type != "SkipLayerNormalization" or not wanted.isdisjoint(others[:2]):  # its mean and deviation
            nodes.append(node)
            continue
        read, skip, weight, shift, bias = [*node.input, *[""] * 2][:5]
        if bias:
            nodes.append(onnx.helper.make_node("Add", [read, bias], [f"{out}_biased"], f"{out}_biased"))
            read = f"{out}_biased"
        total = others[2] if len(others) > 2 and others[2] else f"{out}_sum"
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-12)
        nodes += [onnx.helper.make_node("Add", [read, skip], [total], total),
                  onnx.helper.make_node("LayerNormalization", [total, weight, shift], [out], out, epsilon=epsilon)]
    _exchange(graph, nodes)


def _open_attention(graph: onnx.GraphProto) -> None:
    """Take the product with queries', keys' and values' weights out of each fused attention.

    This product needs no windows, and onnxruntime has it in 8 bits; the rest stays one operation. An attention that
    does anything else than that stays as it is.
    Source  onnxruntime's docs, "Contrib operators": com.microsoft.Attention and com.microsoft.MultiHeadAttention.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    joined = {node.output[0]: node for node in graph.node
              if node.op_type == "Concat" and all(name in constants for name in node.input)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        parts = _opened(node) if node.op_type == "Attention" and node.domain == ONNXRUNTIME else None
        weight = node.input[1] if parts else ""
        if parts and weight in joined:
            arrays = [onnx.numpy_helper.to_array(constants[name]) for name in joined[weight].input]
            constants[weight] = onnx.numpy_helper.from_array(np.concatenate(arrays, 1), weight)
        nodes += parts if parts and weight in constants else [node]
    nodes = [node for node in nodes if node.output[0] not in constants]
    wanted = _read(nodes, graph)
    nodes = [node for node in nodes if not wanted.isdisjoint(node.output)]
    wanted = _read(nodes, graph)
    _exchange(graph, nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in wanted)


def _opened(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes that do what this attention does; None when it does more than attend, under a mask that is added."""
    options = _options(node)
    sizes = options.pop("qkv_hidden_sizes", [0])
    text, weight, bias, mask, past, added = [*node.input, *[""] * 3][:6]
    if (len(set(sizes)) > 1 or len(node.output) > 1 or mask or past
            or options.keys() - {"num_heads", "scale", "unidirectional"}):
        return None
    product, *each = (f"{node.output[0]}_{name}" for name in ("qkv", "q", "k", "v"))
    multiplied = onnx.helper.make_node("MatMul", [text, weight], [product], product)
    multiplied.metadata_props.extend(node.metadata_props)
    return [multiplied,
            onnx.helper.make_node("Split", [product], each, f"{product}_split", axis=-1, num_outputs=3),
            onnx.helper.make_node(ATTENTION, [*each, bias, "", added], node.output, node.name,
                                  domain=ONNXRUNTIME, **options)]


def _leave_padding_out(graph: onnx.GraphProto) -> bool:
    """Between the first attention and the head, let real tokens stand in one line, [N, D] for [B, T, D].

    Only attention, and what is not known to treat each token alone, sees windows, with copies of real tokens where
    padding was: whoever reads windows masks those anyway, and parity proves it. A graph where an attention cannot be
    reached in this way stays as it is: False.
    Source  the idea is that of Zhai et al. 2023, "ByteTransformer", and of onnxruntime's PackedAttention (GPUs only).
    """
    first = next((node for node in graph.node if node.op_type == ATTENTION), None)
    text = _text_of(first, graph) if first is not None else None
    if text is None or not _has_shape_of_inputs(text, graph):
        return False
    tokens = _Line(graph, text)
    if not all(map(tokens.take, graph.node)):
        return False
    for out in graph.output:
        tokens.into_windows(out.name)
    _exchange(graph, tokens.nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value, np.int64), name)
                             for name, value in (("real_0", 0), ("real_1", 1), ("real_flat", [-1])))
    return True


class _Line:
    """The nodes of a graph as `take` has changed them. From `text` on, what is of one token each stands in a line."""

    def __init__(self, graph: onnx.GraphProto, text: str) -> None:
        self.text = text
        self.nodes = _places()
        self.n_axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        self.asked = {name for node in graph.node if node.op_type == ATTENTION for name in node.input[:3]}
        self.lines: dict[str, str] = {}  # windows -> the same in one line
        self.reached: set[str] = set()  # windows that are, or come of, a line

    def take(self, given: onnx.NodeProto) -> bool:
        """Add a node, in the order of the graph; False when it is an attention that no line leads to."""
        node = onnx.NodeProto()
        node.CopyFrom(given)
        is_part_of_attention = node.op_type == "Split" and self.asked.issuperset(node.output)
        if self._is_token_wise(node) and not is_part_of_attention:
            self.lines.update({name: f"{name}_line" for name in node.output})
            node.input[:], node.output[:] = ([self.lines.get(name, name) for name in names]
                                             for names in (node.input, node.output))
            self.nodes.append(node)
            return True
        for name in node.input:
            self.into_windows(name)
        self.nodes.append(node)
        if is_part_of_attention and node.input[0] in self.lines:
            self.reached.update(node.output)
        for name in node.output:
            if name == self.text or node.op_type == ATTENTION:
                self._into_line(name)
        return node.op_type != ATTENTION or self.reached.issuperset(node.input[:3])

    def into_windows(self, name: str) -> None:
        """Give what stands in a line as the windows that it was, if nobody has yet."""
        if name in self.lines and name not in self.reached:
            self.reached.add(name)
            self.nodes.append(onnx.helper.make_node("Gather", [self.lines[name], OF_TOKENS], [name], f"{name}_windows",
                                                    axis=0))

    def _into_line(self, name: str) -> None:
        self.lines[name], flat = f"{name}_line", f"{name}_flat"
        self.reached.add(name)
        self.nodes += [onnx.helper.make_node("Flatten", [name], [flat], flat, axis=2),
                       onnx.helper.make_node("Gather", [flat, PLACES], [self.lines[name]], self.lines[name], axis=0)]

    def _is_token_wise(self, node: onnx.NodeProto) -> bool:
        """Whether a node that reads tokens of a line gives each what it would give it in a window."""
        if node.op_type not in TOKEN_WISE or not any(name in self.lines for name in node.input):
            return False
        if node.op_type == "MatMul":
            return node.input[0] in self.lines and self.n_axes.get(node.input[1]) == 2
        if node.op_type in ("LayerNormalization", "Split") and _options(node).get("axis", -1) != -1:
            return False
        return all(not name or name in self.lines or self.n_axes.get(name, 2) <= 1 for name in node.input)


def _places() -> list[onnx.NodeProto]:
    """PLACES [N]: where each real token stands, of B * T. OF_TOKENS [B, T]: which real token, or the one before."""
    def make(kind: str, inputs: list[str], out: str) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, inputs, [out], out)

    return [make("Reshape", [MASK, "real_flat"], "real_mask"),
            make("NonZero", ["real_mask"], "real_nonzero"), make("Reshape", ["real_nonzero", "real_flat"], PLACES),
            make("CumSum", ["real_mask", "real_0"], "real_counted"),
            make("Sub", ["real_counted", "real_1"], "real_before"),
            make("Max", ["real_before", "real_0"], "real_number"),
            make("Shape", [MASK], "real_shape"), make("Reshape", ["real_number", "real_shape"], OF_TOKENS)]


def _text_of(attention: onnx.NodeProto, graph: onnx.GraphProto) -> str | None:
    """What an attention's queries are a product of."""
    made = {name: node for node in graph.node for name in node.output}
    node = made.get(attention.input[0])
    while node is not None and node.op_type in ("Split", "Add"):
        node = made.get(node.input[0])
    return node.input[0] if node is not None and node.op_type == "MatMul" else None


def _has_shape_of_inputs(text: str, graph: onnx.GraphProto) -> bool:
    """Whether `text` [B, T, D] has a place for each token that comes in, and no more (a prompt would be more)."""
    shapes = {value.name: [(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
              for value in (*graph.input, *graph.value_info)}
    inputs = [shapes[one.name] for one in graph.input]  # all of them [B, T] of one batch, if by other names
    return len(shapes.get(text, ())) == 3 and shapes[text][:2] in inputs


def _options(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _read(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto) -> set[str]:
    """What these nodes read, and who runs the graph."""
    return {name for node in nodes for name in node.input if name}.union(out.name for out in graph.output)


def _exchange(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
