"""What no head reads is not computed: padding, and, where the head reads a window's first token alone, what the last
attention and all behind it would compute for the others.

    skip(graph)    a graph whose attentions are one operation each, and open (fusions)

Shape suffixes: B windows in a batch, T tokens of the longest, N real tokens of all windows, D numbers a token.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

ATTENTION, MASK = "MultiHeadAttention", "attention_mask"
TOKEN_WISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "FastGelu",
              "QuickGelu", "BiasGelu", "Identity", "MatMul", "LayerNormalization", "Split"}
PLACES, OF_TOKENS, FIRST = "real_places", "real_of_tokens", "real_first"


def skip(graph: onnx.GraphProto) -> bool:
    """Leave padding out, and all but first tokens where that is all that is read, in place; False: as it was."""
    tokens = _padding(graph)
    if tokens is None:
        return False
    of_first = _of_first(graph, tokens)
    if of_first:
        _all_but_first(graph, tokens, of_first)
    return True


def _padding(graph: onnx.GraphProto) -> _Line | None:
    """Between the first attention and the head, let real tokens stand in one line, [N, D] for [B, T, D].

    Only attention, and what is not known to treat each token alone, sees windows, with copies of real tokens where
    padding was: whoever reads windows masks those anyway, and parity proves it. A graph where an attention cannot be
    reached in this way stays as it is: None.
    Source  the idea is that of Zhai et al. 2023, "ByteTransformer", and of onnxruntime's PackedAttention (GPUs only).
    """
    first = next((node for node in graph.node if node.op_type == ATTENTION), None)
    text = _text_of(first, graph) if first is not None else None
    if text is None or not _has_shape_of_inputs(text, graph):
        return None
    tokens = _Line(graph, text)
    if not all(map(tokens.take, graph.node)):
        return None
    for out in graph.output:
        tokens.into_windows(out.name)
    exchange(graph, tokens.nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in
                             (("real_0", 0), ("real_1", 1), ("real_flat", [-1]), ("real_begin", [0])))
    return tokens


class _Line:
    """The nodes of a graph as `take` has changed them. From `text` on, what is of one token each stands in a line."""

    def __init__(self, graph: onnx.GraphProto, text: str) -> None:
        self.text = text
        self.nodes = _places()
        self.n_axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        self.into_attention = {name for node in graph.node if node.op_type == ATTENTION for name in node.input[:3]}
        self.lines: dict[str, str] = {}  # windows -> the same in one line
        self.reached: set[str] = set()  # windows that are, or come of, a line
        self.between: set[str] = set()  # what was made on the way from windows to a line or back

    @property
    def made(self) -> set[str]:
        """Lines, and what is between them and windows."""
        return self.between.union(self.lines.values())

    def take(self, original: onnx.NodeProto) -> bool:
        """Add a node, in the order of the graph; False when it is an attention that no line leads to."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        is_part_of_attention = node.op_type == "Split" and self.into_attention.issuperset(node.output)
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
            self.between.add(name)
            self.nodes.append(onnx.helper.make_node("Gather", [self.lines[name], OF_TOKENS], [name], f"{name}_windows",
                                                    axis=0))

    def _into_line(self, name: str) -> None:
        self.lines[name], flat = f"{name}_line", f"{name}_flat"
        self.reached.add(name)
        self.between.update((flat, self.lines[name]))
        self.nodes += [onnx.helper.make_node("Flatten", [name], [flat], flat, axis=2),
                       onnx.helper.make_node("Gather", [flat, PLACES], [self.lines[name]], self.lines[name], axis=0)]

    def _is_token_wise(self, node: onnx.NodeProto) -> bool:
        """Whether a node that reads tokens of a line gives each what it would give it in a window."""
        if node.op_type not in TOKEN_WISE or not any(name in self.lines for name in node.input):
            return False
        if node.op_type == "MatMul":
            return node.input[0] in self.lines and self.n_axes.get(node.input[1]) == 2
        if node.op_type in ("LayerNormalization", "Split") and options(node).get("axis", -1) != -1:
            return False
        return all(not name or name in self.lines or self.n_axes.get(name, 2) <= 1 for name in node.input)


def _of_first(graph: onnx.GraphProto, tokens: _Line) -> set[str]:
    """What is read for the first token of a window alone, from the last attention on; nothing when that is not."""
    zeros = {tensor.name for tensor in graph.initializer
             if len(tensor.dims) < 2 and not onnx.numpy_helper.to_array(tensor).any()}
    of_first: set[str] = set()

    def is_for_first(node: onnx.NodeProto) -> bool:
        is_choice = node.op_type == "Gather" and node.input[1] in zeros and options(node).get("axis") == 1
        return is_choice or of_first.issuperset(node.output)

    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in reversed(graph.node):
        if all(readers[name] and all(map(is_for_first, readers[name])) for name in node.output) and (
                node.op_type == ATTENTION or not tokens.made.isdisjoint(node.output)):
            of_first.update(node.output)
        if node.op_type == ATTENTION:  # what it adds to its scores, and a causal mask, would be those of all tokens
            is_free = not any(node.input[5:]) and not options(node).get("unidirectional")
            return of_first if is_free and of_first.issuperset(node.output) else set()
        for name in node.input:
            readers[name].append(node)
    return set()


def _all_but_first(graph: onnx.GraphProto, tokens: _Line, of_first: set[str]) -> None:
    """Let the last attention ask for first tokens only, and what is `of_first` be [B, 1, D]."""
    nodes: list[onnx.NodeProto] = []
    firsts: dict[str, str] = {}  # of what others read whole
    stands_for: dict[str, str] = {}

    def first_of(name: str, places: str, axis: int) -> str:
        if name not in firsts:
            firsts[name] = f"{name}_first"
            nodes.append(onnx.helper.make_node("Gather", [name, places], [firsts[name]], firsts[name], axis=axis))
        return firsts[name]

    for node in graph.node:
        if of_first.issuperset(node.output):
            if node.op_type == ATTENTION:
                node.input[0] = first_of(node.input[0], "real_begin", 1)
            elif not tokens.between.isdisjoint(node.output):  # from windows to a line or back: there is one token
                stands_for[node.output[0]] = stands_for.get(node.input[0], node.input[0])
                continue
            else:
                node.input[:] = [first_of(name, FIRST, 0) if name in tokens.made - of_first else name
                                 for name in node.input]
        node.input[:] = [stands_for.get(name, name) for name in node.input]
        nodes.append(node)
    exchange(graph, nodes)


def _places() -> list[onnx.NodeProto]:
    """PLACES [N]: where each real token stands, of B * T. OF_TOKENS [B, T]: which real token, or the one before.

    FIRST [B, 1]: the same of each window's first.
    """
    def make(kind: str, inputs: list[str], out: str, **options: int) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, inputs, [out], out, **options)

    return [make("Reshape", [MASK, "real_flat"], "real_mask"),
            make("NonZero", ["real_mask"], "real_nonzero"), make("Reshape", ["real_nonzero", "real_flat"], PLACES),
            make("CumSum", ["real_mask", "real_0"], "real_counted"),
            make("Sub", ["real_counted", "real_1"], "real_before"),
            make("Max", ["real_before", "real_0"], "real_number"),
            make("Shape", [MASK], "real_shape"), make("Reshape", ["real_number", "real_shape"], OF_TOKENS),
            make("Gather", [OF_TOKENS, "real_begin"], FIRST, axis=1)]


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
    inputs = [shapes[value.name] for value in graph.input]  # all of them [B, T] of one batch, if by other names
    return len(shapes.get(text, ())) == 3 and shapes[text][:2] in inputs


def options(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def exchange(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put `nodes` in the place of all that the graph has."""
    del graph.node[:]
    graph.node.extend(nodes)
