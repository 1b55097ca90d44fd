"""translation: a text in another language, measured by chrF and BLEU."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import ClassVar, Literal, Self

from ..core.errors import SpecError, nearest, shorten
from ..core.reader import ChatFormat, Reader
from ..core.task import Columns
from ..core.values import Row
from .writing import columns, overlap
from .writing.languages import language_name
from .writing.measures import Length, Likelihood, Measure
from .writing.overlap import Bleu, Chrf
from .writing.pairs import Pair
from .writing.task import N_TEXTS, WritingTask
from .writing.template import Kind, Template, default_template

LANGUAGE_TOKEN = re.compile(r"[a-z]{2,3}_[A-Z]{2,4}")  # as mBART calls its languages


@dataclass(frozen=True)
class Translation(WritingTask):
    """A source text in another language.

    source_language, target_language: by code or name; they find columns that are called so, and stand in the prompt.
    metric:         what the verdict is of.
    bleu_tokenizer: how BLEU cuts the targets into words.
    """

    name: ClassVar = "translation"
    source: ClassVar = "source"
    target: ClassVar = "target"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "source_language", "target_language", "metric")
    examples: ClassVar = (
        {"source": "The dog sleeps.", "target": "Der Hund schläft."},
        {"source": "A child eats bread.", "target": "Ein Kind isst Brot."},
        {"source": "The house is old.", "target": "Das Haus ist alt."},
    )

    source_language: str = ""
    target_language: str = ""
    metric: Literal["chrf", "bleu"] = "chrf"
    bleu_tokenizer: Literal["13a", "zh", "char"] = "13a"

    @cached_property
    def columns(self) -> Columns:
        return columns.translation(self.source_language, self.target_language)

    def normalized(self, row: Row) -> tuple[Row, str]:
        return columns.normal_translation(row, self.source_language, self.target_language), ""

    def check(self, row: Row) -> str | None:
        return columns.flaw_of_translation(row) or self.flaw_of_beginning(row)

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "source", "target")

    def fitted_to(self, reader: Reader, chat_format: Callable[[], ChatFormat | None]) -> Self:
        """Also with the target's language, where the model is told it by a token that texts begin with (mBART)."""
        fitted = super().fitted_to(reader, chat_format)
        begins = self._in_language(fitted.begins_with, self.target_language, reader.target, "target_language")
        return replace(fitted, begins_with=tuple(begins))

    def _before(self, reader: Reader) -> list[int]:
        return self._in_language(super()._before(reader), self.source_language, reader, "source_language")

    def _behind(self, reader: Reader) -> list[int]:
        return self._in_language(super()._behind(reader), self.source_language, reader, "source_language")

    @staticmethod
    def _in_language(ids: Sequence[int], language: str, reader: Reader, option: str) -> list[int]:
        """`ids` with the token of `language` in the place of any language's. Raises SpecError where there is none."""
        known = _languages(reader.special_tokens)
        if known.keys().isdisjoint(ids):
            return list(ids)
        named = next((i for i, name in known.items() if name == language_name(language)), None)
        if named is None:
            raise SpecError(f"task.{option}", f"is {shorten(language)}; a token tells this model the language, and "
                            f"{nearest(language, sorted(set(known.values())))}.", f"--set task.{option}=de")
        return [named if i in known else i for i in ids]

    def own_template(self, kind: Kind) -> Template:
        return default_template(self.name, self.source_language, self.target_language, kind=kind)

    def learn(self, rows: Sequence[Row]) -> Self:
        learned = super().learn(rows)
        texts = [target for row in rows[:N_TEXTS] for target in self.pair(row).targets]
        return replace(learned, bleu_tokenizer=overlap.tokenizer_of(texts))

    @property
    def measures(self) -> tuple[Measure, ...]:
        bleu = Bleu(self.bleu_tokenizer)
        return (*((bleu, Chrf()) if self.metric == "bleu" else (Chrf(), bleu)), Length(), Likelihood())


@cache
def _languages(special_tokens: tuple[tuple[str, int], ...]) -> Mapping[int, str]:
    """The language that each of a tokenizer's special tokens stands for, of those that stand for one."""
    return {i: language_name(name) for name, i in special_tokens if LANGUAGE_TOKEN.fullmatch(name)}
