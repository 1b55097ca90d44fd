"""What a run ran on: the part of a result that a Spec does not hold."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("headstart", "torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of what computes; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(device: Any) -> dict[str, Any]:
    """The processor, its threads, and the device that computed."""
    import torch

    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"cpu": _cpu(), "n_threads": torch.get_num_threads(), "device": named, "platform": platform.platform()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
