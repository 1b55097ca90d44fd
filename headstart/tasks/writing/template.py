"""A prompt as data: text with the names of columns in braces, and a row written into it.

    template = Template.parse("Summarize: {document}\\nSummary:")
    template.render({"document": "It rained."})            # "Summarize: It rained.\\nSummary:"

A name in braces is a column's name and nothing else: no attribute, no index, no format, so nothing of it is run, and
what stands in a row is never read as a template. A brace of the text itself is written twice: {{ and }}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from ...core.errors import DataError, SpecError, nearest, shorten
from .languages import language_name

MAX_CHARS = 20_000
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Kind = Literal["plain", "chat", "encoder-decoder"]  # of a model: how a prompt is put to it

# What a text must keep to, as the prompt says it where rows have such.
CONTROLLED, CONTROLLED_IN_CHAT = "{control}\n{prompt}", "{prompt}\n\n{control}"
# For a model that continues text.
DEFAULTS: Mapping[str, str] = {
    "translation": "Translate from {source_language} to {target_language}.\n{source_language}: {source}\n"
                   "{target_language}:",
    "summarization": "{document}\n\nSummary:", "dialogue": "{messages}\nassistant:", "text-generation": "{prompt}"}
WITHOUT_LANGUAGES = "Translate.\nSource: {source}\nTranslation:"
# For a model that was taught to hold chats: the user's message.
IN_CHAT: Mapping[str, str] = {
    "translation": "Translate from {source_language} to {target_language}:\n{source}",
    "summarization": "Summarize in one short sentence:\n\n{document}", "dialogue": "{messages}",
    "text-generation": "{prompt}"}
# For an encoder, which only reads: what its decoder makes of it is learned, not said.
READ: Mapping[str, str] = {"translation": "{source}", "summarization": "{document}", "dialogue": "{messages}",
                           "text-generation": "{prompt}"}


@dataclass(frozen=True)
class Template:
    """Parts in their order: (text, column), where one of both is ""."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str, where: str = "task.template") -> Self:
        """The template that a text means. Raises SpecError at `where`: no column, a brace alone, an empty name."""
        if len(text) > MAX_CHARS:
            raise SpecError(where, f"has {len(text):,} characters; at most {MAX_CHARS:,} are read.", "Shorten it.")
        parts: list[tuple[str, str]] = []
        literal, at = "", 0
        for match in _TOKEN.finditer(text):
            literal += text[at : match.start()]
            at = match.end()
            if match[0] in ("{{", "}}"):
                literal += match[0][0]
                continue
            if match[1] is None or not match[1].strip():
                raise _unbalanced(where, text, match)
            parts += [(literal, ""), ("", match[1].strip())]
            literal = ""
        parts.append((literal + text[at:], ""))
        parts = [part for part in parts if any(part)]
        if not any(column for _, column in parts):
            raise SpecError(where, f"{shorten(text)} names no column; every row would be the same.",
                            "Put a column's name in braces, such as {text}.")
        return cls(tuple(parts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, each once, in their order."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column))

    def __str__(self) -> str:
        """The text that `parse` reads to this template."""
        return "".join(f"{{{column}}}" if column else text.replace("{", "{{").replace("}", "}}")
                       for text, column in self.parts)

    def check(self, known: Iterable[str], gold: Sequence[str] = (), where: str = "task.template") -> None:
        """Raise SpecError for a column that is not `known`, or that holds the answer."""
        names = [name for name in dict.fromkeys(known) if name not in gold]
        for column in self.columns:
            if column in gold:
                raise SpecError(where, f'reads "{column}", which holds the answer.', f"Take {{{column}}} out.")
            if column not in names:
                raise SpecError(where, f"reads {shorten(column)}, which is no column; {nearest(column, names)}.",
                                "Correct the name; a brace of the text itself is written twice: {{ or }}.")

    def fill(self, values: Mapping[str, str]) -> Self:
        """The template with some columns' values as text: what holds for every row, such as a language's name."""
        parts = [(values[column], "") if column in values else (text, column) for text, column in self.parts]
        return type(self)(tuple(part for part in parts if any(part)))

    def without(self, column: str) -> Self:
        """The template without a column, and without its line's end: that before it, or behind it where it is first."""
        parts: list[tuple[str, str]] = []
        drops_end = False
        for text, name in self.parts:
            if name == column:
                drops_end = not parts or not parts[-1][0].endswith("\n")
                if parts and not drops_end:
                    parts[-1] = (parts[-1][0].rstrip("\n"), "")
                continue
            parts.append((text.lstrip("\n") if drops_end else text, name))
            drops_end = False
        return type(self)(tuple(part for part in parts if any(part)))

    def pieces(self, row: Mapping[str, Any], where: str = "") -> list[tuple[str, str]]:
        """(text, the column it is from or "") of a row's prompt, in their order. Raises DataError as `render` does."""
        return [(_written(row, column, where) if column else text, column) for text, column in self.parts]

    def render(self, row: Mapping[str, Any], where: str = "") -> str:
        """A row as a prompt. Raises DataError at `where` for a column that the row lacks."""
        return "".join(text for text, _ in self.pieces(row, where))


def _written(row: Mapping[str, Any], column: str, where: str) -> str:
    """A value as a prompt shows it: a chat as a line a turn, a list as a line an item, None as nothing."""
    if column not in row:
        raise DataError(where, f"has no {shorten(column)}, which the template reads; {nearest(column, row)}.",
                        "Give every row this column, or take it out of the template.")
    value = row[column]
    if isinstance(value, list | tuple):
        return "\n".join(map(_line, value))
    return _line(value)


def _line(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Mapping):
        if value.keys() == {"role", "content"}:
            return f"{value['role']}: {value['content']}"
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else str(value)


def _unbalanced(where: str, text: str, match: re.Match[str]) -> SpecError:
    excerpt = shorten(text[max(0, match.start() - 20) : match.end() + 20])
    if match[1] is not None:
        return SpecError(where, f"has braces without a name at character {match.start() + 1:,}: {excerpt}.",
                         "Put a column's name between them, or write each brace twice: {{ }}.")
    return SpecError(where, f"has a brace without its other at character {match.start() + 1:,}: {excerpt}.",
                     f"Close it, or write it twice where it is text: {match[0] * 2}")


def default_template(task: str, source_language: str = "", target_language: str = "", *,
                     kind: Kind = "plain") -> Template:
    """A task's template where none is set; a translation's names the languages that are known, by code or name.

    kind: of the model: a text that it continues, the message of a user, or what an encoder reads.
    """
    texts = {"plain": DEFAULTS, "chat": IN_CHAT, "encoder-decoder": READ}[kind]
    if task != "translation" or kind == "encoder-decoder":
        return Template.parse(texts[task])
    if not (source_language and target_language):
        return Template.parse("Translate:\n{source}" if kind == "chat" else WITHOUT_LANGUAGES)
    return Template.parse(texts[task]).fill({"source_language": language_name(source_language),
                                                "target_language": language_name(target_language)})
