"""A pretrained model with some of its blocks alone: names and configuration as if the others had never been.

    config = config_of(config, (0, 2, 4))                    num_hidden_layers 3
    tensors = by_name(tensors, config, (0, 2, 4))            "encoder.layer.2.x" is now "encoder.layer.1.x"

What every second block of a trained model computes is a better beginning than nothing: Sanh et al. 2019, "DistilBERT".
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..core.errors import SpecError
from . import families

T = TypeVar("T")
WHERE = "backbone.keep_blocks"


def config_of(config: Any, keep: Sequence[int]) -> Any:
    """`config` with as many blocks as are kept. Raises SpecError for a block that is not there, or cannot be told."""
    family = families.of(config)
    if family.blocks is None:
        raise SpecError(WHERE, f"needs blocks that can be told apart, and {family.name}'s cannot.",
                        f"Leave it out, or use one of: {families.names(lambda f: f.blocks)}")
    n = int(config.num_hidden_layers)
    if beyond := [block for block in keep if block >= n]:
        raise SpecError(WHERE, f"names block {beyond[0]}, and the backbone has {n}, from 0 to {n - 1}.",
                        f"Choose among them: --set 'backbone.keep_blocks={[*range(0, n, 2)]}'")
    if family.name == "t5" and keep[0]:
        raise SpecError(WHERE, "leaves out block 0, which computes the positions that all others read.",
                        "Keep it, too.")
    smaller = copy.deepcopy(config)
    smaller.num_hidden_layers = len(keep)
    if getattr(config, "layer_types", None):
        smaller.layer_types = [config.layer_types[block] for block in keep]
    return smaller


def by_name(values: Mapping[str, T], config: Any, keep: Sequence[int]) -> dict[str, T]:
    """What stands under the names of kept blocks, renumbered, and of all that is no block."""
    pattern = re.compile(rf"((?:.*\.)?{re.escape(str(families.of(config).blocks))}\.)(\d+)(\..*)")
    place = {str(block): i for i, block in enumerate(keep)}
    out = {}
    for name, value in values.items():
        match = pattern.fullmatch(name)
        if match is None:
            out[name] = value
        elif match[2] in place:
            out[f"{match[1]}{place[match[2]]}{match[3]}"] = value
    return out
