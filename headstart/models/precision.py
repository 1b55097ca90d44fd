"""In which numbers a backbone computes: 32 bits everywhere, or 16 in its blocks where the processor is faster so.

    put_in(model, "auto", torch.device("cpu"), cache=folder())

Heads, losses, norms, weights, gradients and the optimizer stay in 32 bits.

Many processors have instructions for bfloat16; some of them are slower with these. So "auto" asks first and then
measures, once for each machine. One that lacks them would emulate: it is never asked to, not even to measure.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import machine
from ..core.errors import ArtifactError, HeadstartError, SpecError, nearest, shorten
from ..core.files import write_file
from ..core.model import Model, Precision
from ..core.untrusted import instance, read_json
from . import blocks, families

FASTER = 1.15  # times as fast as fp32 at least: less is not worth other numbers
MIN_WIDTH = 128  # of hidden states: products of narrower ones take less time than what surrounds them
TIMING_S, TIMING_TOKENS = 0.5, 1024
NAMES = ("auto", "fp32", "bf16", "fp16")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


FP32 = Precision("fp32", "")


def autocast(precision: Precision, device_type: str) -> torch.autocast:
    """The context in which products are computed in `precision`."""
    return torch.autocast(device_type, DTYPES.get(precision.name), enabled=precision.name in DTYPES)


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work in both, the shortest of several tries."""

    fp32_s: float
    bf16_s: float

    @property
    def is_worth_it(self) -> bool:
        """Whether bf16 is so much faster that it is taken."""
        return self.fp32_s >= FASTER * self.bf16_s


def bf16_instructions(device: torch.device) -> str:
    """What computes bfloat16 on `device`; "" where it would be emulated."""
    if device.type == "cuda":
        return _capability(device) if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    probes = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    for flag, probe in probes.items():
        if machine.has(flag) and getattr(torch.cpu, probe, bool)():
            return flag
    return "arm_bf16" if machine.has("asimd") and machine.has("bf16") else ""


def choose(wanted: str, device: torch.device, width: int, cache: Path | None = None,
           measure: Callable[[torch.device, int], Timing] | None = None) -> Precision:
    """What `wanted` ("auto", "fp32", "bf16" or "fp16") is on this machine.

    width:   D, of hidden states: what is slow when narrow may be fast when wide.
    cache:   folder where a measurement is kept; absent: it is made again each time.
    measure: how both are timed; absent: `timing`. Not called where there is nothing to choose.

    Raises  SpecError for a precision that this machine would only emulate.
    Cost    half a second the first time that a machine has something to choose.
    """
    bf16 = bf16_instructions(device)
    if wanted == "bf16" and not bf16:
        raise SpecError("train.precision", f'"bf16" is not for this machine ({machine.cpu()}): it has no instructions '
                        "for it and would emulate them, many times slower.", "Use auto or fp32.")
    if wanted == "fp16" and device.type != "cuda":
        raise SpecError("train.precision", f'"fp16" is for a GPU; this run computes on {device.type}.',
                        "Use auto, bf16 or fp32.")
    if wanted == "auto":
        is_faster = bool(bf16) and (device.type == "cuda" or (
            width >= MIN_WIDTH and _known(device, width, bf16, cache, measure or timing).is_worth_it))
        wanted = "bf16" if is_faster else "fp32"
    return Precision(wanted, bf16 if wanted == "bf16" else plain_instructions(device))


def put_in(model: Model, wanted: str, device: torch.device, cache: Path | None, *, or_fp32: bool = False) -> None:
    """Let `model`, which computes on `device`, compute in what `choose` says of `wanted`.

    or_fp32: in 32 bits where machine or model have not got what is wanted, for what was fitted elsewhere; else that is
             a SpecError.
    """
    config: Any = blocks.base(model.encoder).config
    family = families.of(config)
    if wanted not in NAMES:
        raise SpecError("precision", f"{shorten(wanted)} is none; {nearest(wanted, NAMES)}", "Leave it out for auto.")
    if wanted in DTYPES and not family.has_16_bits and not or_fp32:
        raise SpecError("train.precision", f'"{wanted}" is not for {family.name}: it cannot compute in 16 bits.',
                        "Use auto or fp32.")
    try:
        chosen = choose(wanted if family.has_16_bits else "fp32", device, config.hidden_size, cache)
    except SpecError:
        if not or_fp32:
            raise
        chosen = choose("fp32", device, config.hidden_size)
    model.set_precision(chosen)


def plain_instructions(device: torch.device) -> str:
    """What computes 32-bit floats on `device`."""
    if device.type == "cuda":
        return _capability(device)
    return str(torch.backends.cpu.get_cpu_capability()).lower() if device.type == "cpu" else device.type


def _capability(device: torch.device) -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _known(device: torch.device, width: int, bf16: str, cache: Path | None,
           measure: Callable[[torch.device, int], Timing]) -> Timing:
    """The timing that was kept for this machine, or one made now and kept where that is possible."""
    key = {"processor": machine.cpu(), "n_threads": torch.get_num_threads(), "instructions": bf16, "width": width,
           "torch": torch.__version__}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"precision-{name}.json" if cache is not None else None
    if path is not None and path.is_file():
        with suppress(HeadstartError):  # a damaged one is measured again
            return instance(Timing, read_json(path, ArtifactError), str(path), ArtifactError)
    measured = measure(device, width)
    if path is not None:
        with suppress(HeadstartError):  # no room, no right: it is measured again the next time
            write_file(path, [json.dumps({**asdict(measured), **key}, indent=1)])
    return measured


def timing(device: torch.device, width: int, seconds: float = TIMING_S) -> Timing:
    """Time what a block mostly does, two products and their gradients, in fp32 and bf16 by turns."""
    n_tokens = max(32, min(TIMING_TOKENS, TIMING_TOKENS * 384 * 384 // (width * width)))
    hidden_TD = torch.randn(n_tokens, width, device=device)
    layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to(device)
    best, began = {"fp32": float("inf"), "bf16": float("inf")}, time.perf_counter()
    for n in range(1_000):
        if n >= 3 and time.perf_counter() - began > seconds:  # the first of each warms up
            break
        for name in best:
            at = time.perf_counter()
            with autocast(Precision(name, ""), device.type):
                out_TD = layers(hidden_TD)
            out_TD.float().sum().backward()
            best[name] = min(best[name], time.perf_counter() - at)
    return Timing(best["fp32"], best["bf16"])


class Autocast:
    """Lets a module compute in `precision` whoever calls it, and hand out 32 bits. A copy of it that shares its hooks
    (blocks.Span) does likewise."""

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        self.precision, self.contexts = precision, _PerThread()
        self.handles = [module.register_forward_pre_hook(self._enter),
                        module.register_forward_hook(self._leave, always_call=True)]

    def remove(self) -> None:
        """Let the module compute as it did before."""
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        context = autocast(self.precision, next(module.parameters()).device.type)
        context.__enter__()  # type: ignore[no-untyped-call]
        self.contexts.entered.append(context)

    def _leave(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self.contexts.entered.pop().__exit__(None, None, None)
        for name in output or ():  # None: it raised
            output[name] = _in_32_bits(output[name])
        return output


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.entered: list[torch.autocast] = []


def _in_32_bits(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_in_32_bits, value))
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
