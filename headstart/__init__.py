"""headstart: carry what a pretrained language model knows over to your own task, and prove that it helped.

    import headstart

    artifact = headstart.fit("reviews.csv", out="runs/reviews")
    artifact.predict(["great film"])

Nothing heavy runs at import; torch is loaded when a model is.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.errors import HeadstartError
    from .core.spec import Spec
    from .exporters.export import export
    from .runs.artifact import Artifact, load
    from .runs.ensemble import ensemble
    from .runs.fit import fit
    from .runs.pretrain import pretrain

# Nobody is told what runs here. onnxruntime (since 1.29) and huggingface_hub look at these when first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Artifact", "HeadstartError", "Spec", "ensemble", "export", "fit", "load", "pretrain"]

_HOMES = {"Artifact": "runs.artifact", "HeadstartError": "core.errors", "Spec": "core.spec",
          "ensemble": "runs.ensemble", "export": "exporters.export", "fit": "runs.fit", "load": "runs.artifact",
          "pretrain": "runs.pretrain"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
