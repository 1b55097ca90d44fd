"""causal: each next token of a text, from what stands before it. Texts are not packed: none is seen from another.

Source  Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import SpecError
from ...core.reader import Reader
from ...core.task import Architecture
from ...core.values import Row, Window
from .objective import PREDICTS, Objective


@dataclass(frozen=True)
class CausalLanguage(Objective):
    """A long text is cut into windows, none of which reads what another holds."""

    name: ClassVar = "causal"
    architectures: ClassVar[tuple[Architecture, ...]] = ("causal",)

    def check_backbone(self, architecture: Architecture, width: int) -> None:
        if architecture not in self.architectures:
            raise SpecError("--objective", f'"causal" needs a model that writes; this backbone is an {architecture}.',
                            "Use --objective masked, or a causal model: --backbone smollm2-135m")

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        start, ids = list(reader.start_ids), [*reader.ids(row["text"]), *reader.end_ids[:1]]
        room = max(2, reader.max_tokens + 1 - len(start))  # the last token is only ever predicted
        windows = []
        for at in range(0, len(ids), room):
            part = [*start, *ids[at : at + room]]
            if len(part) >= 2:
                windows.append(Window(i, {"input_ids": part[:-1], PREDICTS: [1] * (len(part) - 1)},
                                      {"labels": part[1:]}))
        return windows
