"""An exported model as a Runtime, through onnxruntime. No torch, and nothing in the file leads out of it.

    runtime = open_runtime({"model": Path("runs/reviews-onnx/model.onnx")})
    logits = runtime.logits({"input_ids": ..., "attention_mask": ...})
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core import machine
from ..core.errors import ArtifactError, MissingExtraError, shorten
from ..core.task import Head
from ..core.untrusted import check_regular, check_utf8
from ..core.values import Stepper

MAX_BYTES = 2**31 - 1  # what one protobuf message may hold
MAX_FIELDS = 500_000  # of all messages of a graph's file; each of a model's blocks has some two thousand
SKIPS_PADDING = "headstart.skips_padding"  # what a graph says of itself that computes real tokens only
SLOWER = ["SkipLayerNormFusion"]  # of onnxruntime 1.32: two sums and a norm are faster than its one operation for them
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "marks")
ROOM_BYTES, ROOM_PER_BYTE = 1 << 30, 8  # what opening a file may allocate: this, and so much for each of its bytes

# What exports are made of. No loops and branches, nothing random, no strings, nothing of other libraries.
_NAMES = {
    "": """
        Abs Add And ArgMax ArgMin BitwiseAnd BitwiseNot BitwiseOr Cast CastLike Ceil Clip Concat Constant Cos CumSum
        DequantizeLinear Div DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND
        Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu Less
        LessOrEqual Log LogSoftmax MatMul MatMulInteger Max Mean Min Mod Mul Neg NonZero Not Or Pow QuantizeLinear
        RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sign
        SimplifiedLayerNormalization Sin Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Swish Tanh Tile
        Transpose Trilu Unsqueeze Where""",
    "com.microsoft": """
        Attention BiasAdd BiasGelu DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedGemm FusedMatMul Gelu
        GroupQueryAttention MatMulIntegerToFloat MultiHeadAttention QuickGelu RotaryEmbedding
        SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization""",
}
OPERATORS = {domain: frozenset(names.split()) for domain, names in _NAMES.items()}


@dataclass(frozen=True)
class Graph:
    """One ONNX file, opened: inputs [B, T] by name to its one output. Safe to call from threads."""

    path: Path
    session: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    n_threads: int | None = None
    status: tuple[int, int, int] = (0, 0, 0)  # of the file when it was opened: which it is, its size, when written
    pid: int = field(default_factory=os.getpid)  # of the process that opened it
    options: Any = None  # onnxruntime's, of each call

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raises ArtifactError where it cannot be computed."""
        if os.getpid() != self.pid:
            self._enter_child()
        chosen = {name: inputs[name] for name in self.inputs if name in inputs}
        try:
            output: np.ndarray = self.session.run(self.outputs[:1], chosen, self.options)[0]
        except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises, the file is at fault
            raise ArtifactError(str(self.path), f"cannot answer: {_end(error)}.", "Export the run again.") from None
        return output

    def _enter_child(self) -> None:
        """Open the file again: a fork copies one thread only, and a session waits for ever for its others.

        Raises ArtifactError when the file is not the one that was opened.
        """
        if _status(self.path) != self.status:
            raise ArtifactError(str(self.path), "was opened before this process was forked, and has changed since.",
                                "Load the artifact in the child.")
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.session))  # never freed: that would wait for its threads too
        object.__setattr__(self, "session", open_graph(self.path, self.n_threads).session)
        object.__setattr__(self, "pid", os.getpid())


def _end(error: Exception) -> str:
    """The end of what onnxruntime says, which begins with where in its own source."""
    return shorten(str(error)[-160:], 160)


@dataclass(frozen=True)
class OnnxRuntime:
    """The graphs of an exported model by name; "model" gives the logits. head: what they must look like, if known."""

    graphs: Mapping[str, Graph]
    skips_padding: bool
    head: Head | None = None

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to logits [B, ...]; inputs that the graph does not read are left out.

        Raises ArtifactError for logits of another shape than the head's, and for nan and inf.
        """
        logits = self.graphs["model"](inputs)
        (n_windows, n_tokens), head = inputs["input_ids"].shape, self.head
        if head is not None:
            wanted: tuple[int, ...] = (n_windows, n_tokens) if head.kind == "tokens" else (n_windows,)
            wanted += (head.n_outputs or logits.shape[-1] if logits.ndim else 0,)
            if logits.dtype != np.float32 or logits.shape != wanted:
                raise ArtifactError(str(self.graphs["model"].path), f"answers with {logits.dtype} {logits.shape}; the "
                                    f"task reads float32 {wanted}.", "Export the run again.")
        if not np.isfinite(logits).all():
            raise ArtifactError(str(self.graphs["model"].path), "answers with nan or inf.", "Export the run again.")
        return logits

    def stepper(self) -> Stepper:
        """Raises ArtifactError: no graph writes texts yet."""
        raise ArtifactError(str(self.graphs["model"].path), "is a graph of whole windows, and cannot write texts.",
                            "Name the run that it was exported from.")


def open_runtime(files: Mapping[str, Path], n_threads: int | None = None, head: Head | None = None) -> OnnxRuntime:
    """Open the ONNX file of each graph, by its name; "model" is always there.

    n_threads: that compute one answer; absent: as many as the process may use.
    head:      of the task that reads the logits; absent: their shape is not checked.
    Raises  ArtifactError for a file that is too large, keeps weights in other files, has other operators than exports
            have, or cannot be run.
    """
    graphs = {name: open_graph(path, n_threads) for name, path in files.items()}
    return OnnxRuntime(graphs, SKIPS_PADDING in graphs["model"].session.get_modelmeta().custom_metadata_map, head)


@contextmanager
def limited(opened: OnnxRuntime, seconds: float, n_bytes: int) -> Iterator[OnnxRuntime]:
    """`opened`, whose calls fail after some seconds, or when they would allocate more than this process has and
    `n_bytes`: for answers to inputs that nobody has seen it answer.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        with bounded_memory(n_bytes):
            graphs = {name: replace(graph, options=options) for name, graph in opened.graphs.items()}
            yield replace(opened, graphs=graphs)
    finally:
        timer.cancel()


def open_graph(path: Path, n_threads: int | None = None) -> Graph:
    """One ONNX file as a function: one session. Arguments and errors are those of `open_runtime`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("opening an exported model", error.name or "onnxruntime", "runtime") from None
    check_utf8(str(path), "artifact", "onnxruntime cannot open it", ArtifactError)
    n_bytes, status = check(path), _status(path)
    try:
        with bounded_memory(ROOM_BYTES + ROOM_PER_BYTE * n_bytes):
            session = onnxruntime.InferenceSession(
                path, _options(onnxruntime, n_threads or machine.usable_cpus()), providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOWER)
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises, the file is at fault
        raise ArtifactError(str(path), f"cannot be run: {_end(error)}.", "Export the run again.") from None
    inputs, outputs = (tuple(value.name for value in values)
                       for values in (session.get_inputs(), session.get_outputs()))
    if not set(inputs) <= set(INPUTS) or len(outputs) != 1:
        raise ArtifactError(str(path), f"reads {shorten(list(inputs))} and gives {len(outputs)} outputs; a graph reads "
                            f"some of {', '.join(INPUTS)} and gives one.", "Export the run again.")
    return Graph(path, session, inputs, outputs, n_threads, status)


_ONE_AT_A_TIME = threading.Lock()  # of two that set the limit, the later one would put the earlier one's back for good


@contextmanager
def bounded_memory(n_bytes: int) -> Iterator[None]:
    """While it is open, this process can allocate so much more than it has: what asks for more fails, and says so.

    A few hundred bytes of a graph can ask for any amount. Where the system does not tell sizes, there is no limit.
    """
    try:
        n_pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        yield
        return
    with _ONE_AT_A_TIME:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = n_pages * resource.getpagesize() + n_bytes
        is_lower = all(limit == resource.RLIM_INFINITY or wanted < limit for limit in (soft, hard))
        if is_lower:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        try:
            yield
        finally:
            if is_lower:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _options(onnxruntime: Any, n_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.enable_mem_pattern = False  # it keeps a plan for every shape that was ever seen: memory would grow
    options.log_severity_level = 4  # what is wrong comes as an exception, too
    # Threads wait for work by spinning within one answer, and sleep between two: others want the processor too.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def check(path: Path) -> int:
    """Raise ArtifactError unless `path` is one ONNX file that holds all of its weights and no operator but ours.

    It is walked here, byte by byte where it is not weights, before onnxruntime sees it. Returns its size in bytes.
    Cost  a millisecond for each thousand fields; weights are not read.
    """
    n_bytes = check_regular(path, ArtifactError, MAX_BYTES).st_size
    try:
        flaws = _flaws(memoryview(np.memmap(path, np.uint8, "r"))) if n_bytes else ["is empty"]  # type: ignore[arg-type]
    except (IndexError, ValueError):
        raise ArtifactError(str(path), "is damaged: it is no ONNX file.", "Copy the folder again.") from None
    if flaws:
        raise ArtifactError(str(path), f"{flaws[0]}; headstart reads one file that holds everything, with the "
                            "operators of its own exports.", "Take it from headstart export.")
    return n_bytes


# What can stand in ONNX's messages: message -> field -> the message or the value that stands there (onnx.proto).
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "branch", 10: "tensor", 11: "branch", 22: "sparse", 23: "sparse"},
    "branch": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _DIMS = 13, 14, 1  # fields of a tensor
_OPERATOR, _DOMAIN = 4, 7  # of a node
_REFUSED = {"training": "holds a training graph", "function": "holds functions", "branch": "holds graphs in graphs",
            "sparse": "holds sparse tensors"}


def _flaws(data: memoryview) -> list[str]:
    """What a serialized ModelProto must not have, the worst first.

    The onnx package would tell too, but serving does without it. Without recursion: graphs may nest.
    """
    flaws, ahead, n_fields = set(), [("model", data)], 0
    while ahead:
        kind, part = ahead.pop()
        values: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(part):
            values.setdefault(number, []).append(value)
            n_fields += 1
            if n_fields > MAX_FIELDS:
                return [f"has more than {MAX_FIELDS:,} fields"]
            if inner := _INSIDE[kind].get(number):
                ahead.append((inner, _message(value)))
        flaws.add(_flaw(kind, values, len(part)))
    return [text for _, text in sorted(flaw for flaw in flaws if flaw)]


def _flaw(kind: str, values: Mapping[int, list[int | memoryview]], n_bytes: int) -> tuple[int, str] | None:
    """(how bad, what) of one message that must not be."""
    if kind in _REFUSED:
        return 1, _REFUSED[kind]
    if kind == "tensor":
        if _EXTERNAL_DATA in values or any(values.get(_DATA_LOCATION, [])):
            return 0, "keeps weights in other files, whose paths could lead anywhere"
        if math.prod(number for value in values.get(_DIMS, []) for number in _varints(value)) > 8 * n_bytes:
            return 3, "has a tensor whose shape says more numbers than it has bits"
    if kind == "node":
        names, domains = values.get(_OPERATOR, []), values.get(_DOMAIN, [])
        domain, name = (_text(given[-1]) if given else "" for given in (domains, names))
        if max(len(names), len(domains)) > 1 or name not in OPERATORS.get("" if domain == "ai.onnx" else domain, ()):
            return 2, f"has the operator {shorten(f'{domain}:{name}'.lstrip(':'))}"
    return None


def _message(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError(value)
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)[:200]).decode("utf-8", "replace")


def _varints(value: int | memoryview) -> Iterator[int]:
    """The numbers of a repeated field: one, or several that are packed."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a protobuf message. Raises ValueError or IndexError when it is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if not 8 <= key < 1 << 32:
            raise ValueError(key)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(wire)
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(shift)
