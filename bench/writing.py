"""text that writes: what training is worth, and how fast it is, on one core

SmolLM2-135M, fp32 (what `precision: auto` takes on this machine). Every cell is a process of its own that computes on
ONE thread (OMP_NUM_THREADS=1), whatever the machine has: seconds "of a processor" are those of that thread and of what
little is done beside it. Caches are empty, so that what lies below the blocks that move is computed in the run. Test
rows choose nothing: checkpoints are chosen by the likelihood of the validation rows. Intervals are 95 % bootstrap
intervals over the test rows, differences are paired on them.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from typing import Any

from bench import Cell, Run, writing_control, writing_decoding, writing_fits, writing_speed, writing_translation

# Each has NAMES, cells, measure and table.
PARTS = (writing_fits, writing_translation, writing_speed, writing_decoding, writing_control)


def cells(quick: bool) -> list[Cell]:
    return [cell for part in PARTS for cell in part.cells(quick)]


def measure(name: str, **cell: Any) -> dict[str, Any]:
    """Measure a cell on one thread; with the seconds and the memory of the whole process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before torch is imported
    part = next(part for part in PARTS if name in part.NAMES)
    began, cpu = time.perf_counter(), time.process_time()
    result = part.measure(name, **cell)
    return {**result, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu,
            "peak_mb": result.get("peak_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def table(runs: Sequence[Run]) -> str:
    return "\n\n".join(text for part in PARTS if (text := part.table(runs)))
