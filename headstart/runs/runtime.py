"""An exported model as a Runtime, through onnxruntime. No torch, and nothing in the file leads out of it.

    runtime = open_runtime({"model": Path("runs/reviews-onnx/model.onnx")})
    logits = runtime.logits({"input_ids": ..., "attention_mask": ...})
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np

from ..core import machine
from ..core.errors import ArtifactError, MissingExtraError, shorten

MAX_BYTES = 2**31 - 1  # what one protobuf message may hold
SKIPS_PADDING = "headstart.skips_padding"  # what a graph says of itself that computes real tokens only
SLOWER = ["SkipLayerNormFusion"]  # of onnxruntime 1.32: two sums and a norm are faster than its one operation for them


@dataclass(frozen=True)
class Graph:
    """One ONNX file, opened: inputs [B, T] by name to its one output. Safe to call from threads."""

    session: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: Path
    n_threads: int | None
    status: tuple[int, int, int]  # of the file when it was opened: which it is, its size, when it was written
    pid: int = dataclass_field(default_factory=os.getpid)  # of the process that opened it

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if os.getpid() != self.pid:
            self._enter_child()
        output: np.ndarray = self.session.run(self.outputs[:1], {name: inputs[name] for name in self.inputs})[0]
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


@dataclass(frozen=True)
class OnnxRuntime:
    """The graphs of an exported model by name; "model" gives the logits."""

    graphs: Mapping[str, Graph]
    skips_padding: bool

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to logits [B, ...]; inputs that the graph does not read are left out."""
        return self.graphs["model"](inputs)


def open_runtime(files: Mapping[str, Path], n_threads: int | None = None) -> OnnxRuntime:
    """Open the ONNX file of each graph, by its name; "model" is always there.

    n_threads: that compute one answer; absent: as many as the process may use.
    Raises  ArtifactError for a file that is too large, keeps weights in other files, or cannot be run.
    """
    graphs = {name: open_graph(path, n_threads) for name, path in files.items()}
    return OnnxRuntime(graphs, SKIPS_PADDING in graphs["model"].session.get_modelmeta().custom_metadata_map)


def open_graph(path: Path, n_threads: int | None = None) -> Graph:
    """One ONNX file as a function: one session. Arguments and errors are those of `open_runtime`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("opening an exported model", error.name or "onnxruntime", "runtime") from None
    check(path)
    status = _status(path)
    try:
        session = onnxruntime.InferenceSession(
            path, _options(onnxruntime, n_threads or machine.usable_cpus()), providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOWER)
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises, the file is at fault
        raise ArtifactError(str(path), f"cannot be run: {shorten(str(error), 200)}.", "Export the run again.") from None
    inputs, outputs = (tuple(value.name for value in values)
                       for values in (session.get_inputs(), session.get_outputs()))
    return Graph(session, inputs, outputs, path, n_threads, status)


def _status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _options(onnxruntime: Any, n_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.enable_mem_pattern = False  # it keeps a plan for every shape that was ever seen: memory would grow
    options.log_severity_level = 3
    # Threads wait for work by spinning within one answer, and sleep between two: others want the processor too.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def check(path: Path) -> None:
    """Raise ArtifactError unless `path` is one ONNX file that holds all of its weights itself."""
    n_bytes = path.stat().st_size
    if n_bytes > MAX_BYTES:
        raise ArtifactError(str(path), f"has {n_bytes:,} bytes; an ONNX file has at most {MAX_BYTES:,}.")
    try:
        names_files = n_bytes and _names_files(memoryview(np.memmap(path, np.uint8, "r")))  # type: ignore[arg-type]
    except (IndexError, ValueError):
        raise ArtifactError(str(path), "is damaged: it is no ONNX file.", "Copy the folder again.") from None
    if not n_bytes or names_files:
        what = "keeps weights in other files, whose paths could lead anywhere" if n_bytes else "is empty"
        raise ArtifactError(str(path), f"{what}; headstart reads one file that holds everything.",
                            "Take it from headstart export.")


# Where tensors can be in ONNX's messages: message -> field -> the message that stands there (onnx.proto).
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def _names_files(data: memoryview) -> bool:
    """Whether a tensor anywhere in a serialized ModelProto says that its data lie in a file.

    The onnx package would tell too, but serving does without it. Without recursion: graphs may nest.
    """
    ahead = [("model", data)]
    while ahead:
        kind, part = ahead.pop()
        for field, value in _fields(part):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                return True
            inner = _INSIDE[kind].get(field)
            if inner is not None:
                if not isinstance(value, memoryview):
                    raise ValueError(field)
                ahead.append((inner, value))
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a protobuf message. Raises ValueError or IndexError when it is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
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
