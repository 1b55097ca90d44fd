"""The columns of tasks that write, rows in their normal form, what is wrong with a row, and which task a file means.

    task             a normal row
    translation      {"source": str, "target": str}
    summarization    {"document": str, "summary": str}, and where a file has them "summaries": [str, ...], "title": str
    dialogue         {"messages": [{"role": str, "content": str}, ...], "reply": str}
    text-generation  {"prompt": str, "completion": str}, and where a file has it "control": {...}

`normal_...` and `flaw_of_...` are what a task's `normalized` and `check` call. A target may be a list of texts: all are
references, the first is what is learned. Nothing is dropped: a value without a normal form stays, and `flaw_of_...`
says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...core.errors import DataError, SpecError, shorten
from ...core.task import Columns, flaw_of_text
from ...core.untrusted import parse_json
from ...core.values import Row
from ...data.columns import NUMBERS, normal_name
from . import chats
from .control import Control
from .languages import is_language, language_columns, language_name, names_of
from .pairs import Pair, references

TEXT = "a string that is not empty"
TEXTS = "a string that is not empty, or a list of them"
USUAL_SOURCE = ("source", "src", "source_text", "source_sentence", "input_text", "原文", "源文")
USUAL_TARGET = ("target", "tgt", "target_text", "target_sentence", "translation", "translated_text", "译文", "目标")
USUAL_DOCUMENT = ("document", "article", "text", "dialogue", "content", "body", "passage", "report", "transcript",
                  "source", "maintext", "文章", "正文", "原文", "内容")
USUAL_SUMMARY = ("summary", "highlights", "abstract", "tldr", "target", "摘要", "概要", "总结")
USUAL_SUMMARIES = ("summaries", "references")
USUAL_MESSAGES = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue", "chat", "对话")
USUAL_CONTEXT = ("context", "history")
USUAL_REPLY = ("reply", "response", "answer", "回复", "回答")
USUAL_PROMPT = ("prompt", "instruction", "query", "提示", "指令")
USUAL_COMPLETION = ("completion", "response", "output", "continuation", "answer", "回答", "输出")
MAX_LANGUAGES_SHOWN = 6


def translation(source_language: str = "", target_language: str = "") -> Columns:
    """A translation's columns; with its languages, those that are called by them, and the hub's `translation`."""
    columns = {"source": TEXT, "target": TEXTS, "translation": 'an object such as {"en": "...", "de": "..."}'}
    return Columns({}, columns, ("target",), {
        "source": (*USUAL_SOURCE, *names_of(source_language)), "target": (*USUAL_TARGET, *names_of(target_language)),
        "translation": ("translation", "translations")}, (
        *_pairs(USUAL_SOURCE, USUAL_TARGET), frozenset(("translation",))))


def summarization() -> Columns:
    """A summary's columns: one reference in `summary`, or several in `summaries`."""
    return Columns({"document": TEXT}, {"summary": TEXTS, "summaries": "a list of strings", "title": "a string"},
                   ("summary", "summaries"), {
        "document": USUAL_DOCUMENT, "summary": USUAL_SUMMARY, "summaries": USUAL_SUMMARIES, "title": ("title", "标题"),
    }, _pairs(USUAL_DOCUMENT, [name for name in USUAL_SUMMARY if name != "target"]))  # a target may be a class, too


def dialogue() -> Columns:
    """A chat's columns: whole chats, or what was said before, and the reply."""
    return Columns({}, {"messages": "a list of turns", "context": "a string, or a list of turns", "reply": TEXTS},
                   ("reply",), {
        "messages": USUAL_MESSAGES, "context": USUAL_CONTEXT, "reply": USUAL_REPLY},
        (*(frozenset((name,)) for name in ("messages", "conversations", "turns", "dialog")),
         *_pairs(USUAL_CONTEXT, ("reply", "response"))))


def text_generation() -> Columns:
    """The columns of a text that goes on from another, and may have to keep to something."""
    return Columns({"prompt": TEXT, "completion": TEXTS}, {"control": 'an object such as {"max_words": 12}'},
                   ("completion",), {
        "prompt": USUAL_PROMPT, "completion": USUAL_COMPLETION, "control": ("control", "constraints")},
        _pairs(("prompt", "instruction"), ("completion", "response", "output")), sparse=("control",))


def _pairs(first: Sequence[str], second: Sequence[str]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset((a, b)) for a in first for b in second if a != b)


# ------------------------------------------------------------------------------------------------------ normal rows


def normal_translation(row: Row, source_language: str = "", target_language: str = "") -> Row:
    """The hub's `translation` as source and target. Where the languages are not known, it stays as it is."""
    value = _object(row.get("translation"))
    if isinstance(value, str) and "target" not in row and "source" in row:
        return {"source": row["source"], "target": value}
    if not isinstance(value, Mapping):
        return row
    texts = {column: text for column, language in (("source", source_language), ("target", target_language))
             if (text := _of_language(value, language)) is not None}
    rest = {column: part for column, part in row.items() if column != "translation"}
    return {**texts, **rest} if "source" in texts else row


def _of_language(texts: Mapping[str, Any], language: str) -> Any:
    """The text whose key is the language, or the only one whose key means it in another form or region."""
    if language in texts:
        return texts[language]
    keys = [key for key in texts if language and is_language(str(key))
            and language_name(str(key)) == language_name(language)]
    return texts[keys[0]] if len(keys) == 1 else None


def _object(value: Any) -> Any:
    """The object that a CSV file's cell is the JSON text of."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(DataError):
            return parse_json(value, "", DataError)
    return value


def normal_summary(row: Row) -> Row:
    """A list of summaries in either column as `summaries`, with the first of them as `summary`."""
    texts = references(row["summary"]) if "summary" in row else ""
    if isinstance(texts, tuple) and texts != (row["summary"],):
        row = {"summaries": list(texts), **row, "summary": texts[0]}
    several = references(row["summaries"]) if "summaries" in row else ""
    if isinstance(several, tuple) and (list(several) != row["summaries"] or "summary" not in row):
        row = {"summary": several[0], **row, "summaries": list(several)}
    return row


def normal_completion(row: Row) -> Row:
    """`control` as an object, where it is the JSON text of one or empty."""
    if "control" not in row:
        return row
    control = Control.of(row["control"])
    return {**row, "control": control.to_json()} if isinstance(control, Control) else row


# ------------------------------------------------------------------------------------------------- what is wrong


def flaw_of_translation(row: Row) -> str | None:
    """What is wrong with a normal row, in words that begin with its column; None when nothing is."""
    if "source" not in row and "translation" in row:
        value = _object(row["translation"])
        if not isinstance(value, Mapping):
            return f'"translation" is {shorten(value)}; it must be an object such as {{"en": "...", "de": "..."}}'
        codes = ", ".join(map(str, list(value)[:MAX_LANGUAGES_SHOWN]))
        return (f'"translation" holds {shorten(codes)}; task.source_language and task.target_language must be two of '
                "them")
    if "source" not in row:
        return 'has no "source"; name its column: --set data.columns.source=NAME'
    return flaw_of_text("source", row["source"]) or _flaw_of_target("target", row)


def flaw_of_summary(row: Row) -> str | None:
    """As `flaw_of_translation`."""
    if flaw := flaw_of_text("document", row.get("document", "")):
        return flaw
    if "title" in row and not isinstance(row["title"], str | None):
        return f'"title" is {shorten(row["title"])}, not a string'
    return _flaw_of_target("summaries", row) or _flaw_of_target("summary", row)


def flaw_of_dialogue(row: Row) -> str | None:
    """As `flaw_of_translation`."""
    if "messages" not in row and "context" not in row:
        return 'has neither "messages" nor "context"; name its column: --set data.columns.messages=NAME'
    if "messages" not in row:
        return f'"context" is {shorten(row["context"])}; it must be a string or a list of strings, none empty'
    messages = chats.read_chat(row["messages"])
    if isinstance(messages, str):
        return f'"messages" {messages}'
    if flaw := _flaw_of_target("reply", row):
        return flaw
    reply = references(row["reply"])[0] if "reply" in row else None
    flaw = chats.flaw_of_chat(messages, reply)
    return f'"messages" {flaw}' if flaw else None


def flaw_of_completion(row: Row) -> str | None:
    """As `flaw_of_translation`."""
    if flaw := flaw_of_text("prompt", row.get("prompt", "")) or _flaw_of_target("completion", row):
        return flaw
    control = Control.of(row.get("control"))
    return f'"control" {control}' if isinstance(control, str) else None


def _flaw_of_target(column: str, row: Row) -> str | None:
    """An absent target is none: whoever trains or evaluates asks for it."""
    texts = references(row[column]) if column in row else ()
    return f'"{column}" {texts}' if isinstance(texts, str) else None


# ---------------------------------------------------------------------------------------- pairs, and which task


def pair_of(row: Row, source: str, target: str, several: str = "", title: str = "") -> Pair:
    """A sound row as a pair. source, target: columns; several: one with more references; title: of the source."""
    chosen = several if several in row else target
    texts = references(row[chosen]) if chosen in row else ()
    value = row[source]
    text = value if isinstance(value, str) else "\n".join(turn["content"] for turn in value)
    return Pair(text, texts if isinstance(texts, tuple) else (), str(row.get(title) or ""))


def infer_writing(header: Sequence[str], rows: Sequence[Row], source: str) -> str | None:
    """The task that writes which a file's columns and values mean; None where they mean none, or no particular one.

    rows: the first ones, the file's own columns. Raises SpecError, with a command for each direction, for a file of
    two languages: which of both is the source, nothing in it says.
    """
    by_name = {normal_name(name): name for name in header}
    for name in USUAL_MESSAGES:
        values = _values(rows, by_name.get(name))
        if values and all(_is_chat(value) for value in values):
            return "dialogue"
    values = list(map(_object, _values(rows, by_name.get("translation"))))
    languages = [str(key) for key in values[0]] if values and all(isinstance(v, Mapping) for v in values) else []
    if not languages and len(names := _text_columns_of_languages(header, rows)) == 2:
        languages = names
    if len(languages) > 1:
        raise _no_direction(languages, source)
    kinds: dict[str, Callable[[], Columns]] = {
        "translation": translation, "summarization": summarization, "dialogue": dialogue,
        "text-generation": text_generation}
    meant = [name for name, columns in kinds.items()
             if any(len(signature) > 1 and signature <= by_name.keys() for signature in columns().signatures)]
    return meant[0] if len(meant) == 1 else None


def _values(rows: Sequence[Row], column: str | None) -> list[Any]:
    return [row[column] for row in rows if row.get(column) is not None] if column else []


def _is_chat(value: Any) -> bool:
    """Whether a value is a list of turns, or its JSON text; whatever else may be wrong with it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(DataError):
            value = parse_json(value, "", DataError)
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _text_columns_of_languages(header: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Columns that are called by a language and hold texts; "id" and "no" are numbers of rows more often."""
    others = [name for name in header if normal_name(name) not in NUMBERS]
    columns = language_columns(others)
    return [name for name in columns
            if (values := _values(rows, name)) and all(isinstance(value, str) and value for value in values)]


def _no_direction(languages: Sequence[str], source: str) -> SpecError:
    first, second = languages[:2]
    shown = ", ".join(map(shorten, languages[:MAX_LANGUAGES_SHOWN]))
    commands = [f"--task translation --set task.source_language={a} --set task.target_language={b}"
                for a, b in ((first, second), (second, first))]
    return SpecError(f"Spec: task ({source})", f"texts in {shown}: nothing says which is translated into which.",
                     "Say which: " + "\n  or: ".join(commands))
