"""dora: lora with the length of each changed weight's columns learned apart from their direction.

What moves  what lora moves, and one number for every output of each linear layer.
When        lora is not quite good enough at a low rank.
Cost        lora's, and a norm of every changed weight in each step: slower on a CPU. Nothing at prediction.
Goes wrong  as lora.
Source      Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation"; through the peft library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .lora import LowRank


@dataclass(frozen=True)
class Dora(LowRank):
    """Low-rank changes of direction move, and lengths. Options as lora's."""

    name: ClassVar = "dora"
    use_dora: ClassVar = True
