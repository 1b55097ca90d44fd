"""What a run ran on: the part of a result that a Spec does not hold."""

from __future__ import annotations

import functools
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("headstart", "torch", "transformers", "tokenizers", "accelerate", "peft", "scikit-learn", "numpy",
            "onnxruntime")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def versions() -> dict[str, str]:
    """Versions of what computes; a package that is not installed is left out."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def describe(device: Any) -> dict[str, Any]:
    """The processor, its threads, and the device that computed."""
    import torch

    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"cpu": cpu(), "n_threads": torch.get_num_threads(), "device": named, "platform": platform.platform()}


def cpu() -> str:
    """The processor's name."""
    return next((value for key, value in _cpuinfo() if key == "model name"), platform.processor() or
                platform.machine())


def has(flag: str) -> bool:
    """Whether the processor has an instruction set, by the name that Linux has for it; False where nobody says."""
    return any(flag in value.split() for key, value in _cpuinfo() if key in ("flags", "Features"))


def has_vnni() -> bool:
    """Whether the processor multiplies 8-bit numbers without saturating at 16 bits."""
    return bool(int8_instructions())


def int8_instructions() -> str:
    """What multiplies 8-bit numbers, the best there is; "" where they are multiplied as 16-bit ones."""
    return next(filter(has, ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")), "")


@functools.cache
def _cpuinfo() -> list[tuple[str, str]]:
    """What Linux says of the first processor; [] elsewhere."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")
    except OSError:
        return []
    pairs = (line.partition(":") for line in first.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def usable_cpus() -> int:
    """How many threads compute best: the CPUs that this process may use, by affinity and by its cgroup's quota.

    OMP_NUM_THREADS, where it is set, has the last word, as it has for torch.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if limit.isdigit() and int(limit):
        return int(limit)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.floor(cpu_quota())))  # a part of a CPU more would only be throttled


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """CPUs that the cgroup of this process and those above it grant (versions 1 and 2); 1e6 where none does."""
    try:
        lines = [line.split(":", 2) for line in own.read_text("utf-8").splitlines()]
    except OSError:
        lines = []
    quotas = [1e6]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        # A container sees its own cgroup at the root, whatever its name outside: "/" is always among the parents.
        quotas += [_quota(top / str(folder).lstrip("/")) for folder in (Path(path), *Path(path).parents)]
    return min(quotas)


def _quota(folder: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text("utf-8") for name in names).split()
            if quota not in ("max", "-1"):
                return max(1.0, int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return 1e6
