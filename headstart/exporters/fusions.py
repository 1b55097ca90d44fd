"""A graph as onnxruntime runs it fastest on a CPU: what it joins badly is parted, what nobody reads is not computed.

    tuned(model)    after transformers has put operations together

Shape suffixes: B windows in a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime

from ..runs.runtime import SKIPS_PADDING
from .skipping import ATTENTION, MASK, exchange, options, skip

ONNXRUNTIME = "com.microsoft"  # the domain of its own operations
KEYS = "real_keys"  # the mask as attentions read it
FAR = float(np.finfo(np.float32).min)  # what a mask adds to the scores of padding, in transformers, too
NEAR = -60.0  # enough where padding is a copy of a real token: e^-60 of that one's share is nothing in 32 bits


def tuned(model: onnx.ModelProto) -> None:
    """Part norms and attention, give attention the mask itself, leave out what nobody reads, in place."""
    _part_norms(model.graph)
    _open_attention(model.graph)
    _mask_keys(model)
    if skip(model.graph):
        model.metadata_props.add(key=SKIPS_PADDING, value="1")
        _mask_nearer(model.graph)
    _drop_unread(model.graph)


def _part_norms(graph: onnx.GraphProto) -> None:
    """Put two sums and a norm in the place of each SkipLayerNormalization.

    onnxruntime's one operation for all three takes longer than they do on a CPU: an eighth of MiniLM's time in 32 bits
    and a quarter in 8. `runtime` keeps it from putting them together again.
    """
    wanted, nodes = {name for node in graph.node for name in node.input}, []
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
    exchange(graph, nodes)


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
    exchange(graph, [node for node in nodes if node.output[0] not in constants])
    del graph.initializer[:]
    graph.initializer.extend(constants.values())


def _opened(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes that do what this attention does; None when it does more than attend, under a mask that is added."""
    settings = options(node)
    sizes = settings.pop("qkv_hidden_sizes", [0])
    text, weight, bias, mask, past, added = [*node.input, *[""] * 3][:6]
    if (len(set(sizes)) > 1 or len(node.output) > 1 or mask or past
            or settings.keys() - {"num_heads", "scale", "unidirectional"}):
        return None
    product, *each = (f"{node.output[0]}_{name}" for name in ("qkv", "q", "k", "v"))
    multiplied = onnx.helper.make_node("MatMul", [text, weight], [product], product)
    multiplied.metadata_props.extend(node.metadata_props)
    return [multiplied,
            onnx.helper.make_node("Split", [product], each, f"{product}_split", axis=-1, num_outputs=3),
            onnx.helper.make_node(ATTENTION, [*each, bias, "", added], node.output, node.name,
                                  domain=ONNXRUNTIME, **settings)]


def _mask_keys(model: onnx.ModelProto) -> None:
    """Where what an attention adds to its scores is the mask of padding, let it read that mask itself.

    Some twenty small operations make the one out of the other, which a short text waits for.
    """
    masked = [node for node in model.graph.node if node.op_type == ATTENTION and any(node.input[5:])]
    is_plain = {name: _masks_padding(model, name) for name in {node.input[5] for node in masked}}
    for node in masked:
        if is_plain[node.input[5]]:
            node.input[:] = [*node.input[:4], KEYS]
            node.attribute.append(onnx.helper.make_attribute("mask_filter_value", FAR))
    if any(is_plain.values()):
        cast = onnx.helper.make_node("Cast", [MASK], [KEYS], KEYS, to=onnx.TensorProto.INT32)
        exchange(model.graph, [cast, *model.graph.node])


def _mask_nearer(graph: onnx.GraphProto) -> None:
    """Let masks add NEAR: what FAR leaves of a share is a denormal number, which is slow to multiply.

    Whatever the weights, padding that is a copy of a real token scores what that one scores, and NEAR less.
    """
    for attribute in (a for node in graph.node for a in node.attribute if a.name == "mask_filter_value"):
        attribute.f = NEAR


def _masks_padding(model: onnx.ModelProto, name: str) -> bool:
    """Whether the tensor `name`, added to scores [B, heads, T, T], keeps all from padding and nothing else.

    Found out by running the part of the graph that makes it, with masks of any kind: also a causal one shows then.
    """
    nodes, constants = _makers(model.graph, [name])
    part = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, name, model.graph.input, [onnx.helper.make_empty_tensor_value_info(name)],
                               constants),
        opset_imports=model.opset_import, ir_version=model.ir_version)
    session, rng = onnxruntime.InferenceSession(part.SerializeToString()), np.random.default_rng(0)
    for shape in ((1, 1), (1, 6), (5, 9)):
        inputs = {value.name: rng.integers(0, 2, shape) for value in model.graph.input}
        inputs[MASK][:, 0] = 1  # a window without a token is nobody's
        added = session.run([name], inputs)[0]
        if added.dtype != np.float32:
            return False
        added, is_real = np.broadcast_arrays(added, inputs[MASK][:, None, None, :] == 1)
        if added[is_real].any() or not (added[~is_real] < FAR / 2).all():
            return False
    return True


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Leave out nodes and constants that nobody reads."""
    nodes, constants = _makers(graph, [out.name for out in graph.output])
    exchange(graph, nodes)
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _makers(graph: onnx.GraphProto, names: Iterable[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes, in order, and the constants that it takes to make `names`."""
    wanted, nodes = set(names), list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            nodes.insert(0, node)
    return nodes, [tensor for tensor in graph.initializer if tensor.name in wanted]
