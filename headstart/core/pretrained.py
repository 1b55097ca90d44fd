"""The part of a Spec that says where training begins: a pretrained model, or some of its blocks."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field


def named(value: Any) -> Any:
    """`backbone: minilm-l6` is short for `backbone: {name: minilm-l6}`."""
    return {"name": value} if isinstance(value, str) else value


def _tuple(value: Any) -> Any:
    """A list as JSON and YAML have it; also where values are taken strictly."""
    return tuple(value) if isinstance(value, list) else value


class BackboneSpec(pydantic.BaseModel):
    """Where training begins; a name alone stands for all of its blocks, and is written so."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("minilm-l6", description="a name, a folder or a hub id of a pretrained model")
    keep_blocks: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None,
                           pydantic.BeforeValidator(_tuple)] = Field(
        None, description="numbers of the blocks that stay, from 0, ascending; absent: all")

    @pydantic.field_validator("keep_blocks")
    @classmethod
    def _ascending(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is not None and (not blocks or list(blocks) != sorted(set(blocks))):
            raise ValueError("must name one block or more, each once, in ascending order, such as [0, 2, 4]")
        return blocks

    @pydantic.model_serializer
    def _shortest(self) -> Any:
        return self.name if self.keep_blocks is None else {"name": self.name, "keep_blocks": list(self.keep_blocks)}

    def __str__(self) -> str:
        return self.name if self.keep_blocks is None else (
            f"{self.name} (of its blocks {', '.join(map(str, self.keep_blocks))})")
