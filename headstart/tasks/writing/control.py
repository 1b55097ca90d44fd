"""What a text must keep to, as data, and whether it does: label, beginning, length, keywords, pattern, JSON schema.

    control = Control.of({"max_words": 12, "include": ["rain"]})      # or a complaint in words
    control.unmet("Rain again.")                                      # ["..."], [] where the text meets everything

Nothing in it is run. Patterns and schemas come from files: matching ends after a time limit, a schema may point into
itself alone, and what is not decided in time is not met.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Self

from ...core.errors import DataError, MissingExtraError, nearest, shorten
from ...core.generation import flaw_of_prefix
from ...core.untrusted import parse_json
from .sentences import words

MATCHING_S = 0.5  # for a pattern or a schema and one text
MAX_PATTERN_CHARS = 1_000
MAX_SCHEMA_CHARS = 20_000
MAX_SCHEMA_DEPTH = 50
MAX_KEYWORDS = 100
MAX_LABEL_CHARS = 1_000
MAX_SHOWN_CHARS = 300  # of a pattern or a schema that a prompt shows
_REPEAT = re.compile(r"([)}]\s*)?\{\s*([0-9]+\s*,?\s*[0-9]*|,\s*[0-9]+)\s*\}")
MAX_REPEATS = 10_000  # of a part of a pattern by {m,n}, groups in groups multiplied: matching them takes memory


@dataclass(frozen=True)
class Control:
    """Constraints on a text; each that is None or () holds always.

    min_words, max_words: counted as `words` counts: a Chinese character is a word.
    include, exclude:     keywords that must, or must not, stand in the text, any case, as whole words.
    pattern:              a regular expression of which the text must hold a match; anchor it with ^ and $.
    json_schema:          the text must be JSON that this schema (draft 2020-12) accepts, as JSON text itself.
    prefix:               what the text must begin with, letter by letter.
    label:                what a fitted classifier must say that the text is.
    """

    min_words: int | None = None
    max_words: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pattern: str | None = None
    json_schema: str | None = None
    prefix: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, value: Any) -> Self | str:
        """The constraints that a row's value, or its JSON text, holds; or what is wrong with it, in words."""
        if isinstance(value, str):
            if not value.strip():
                return cls()
            try:
                value = parse_json(value, "control", DataError)
            except DataError as error:
                return f"is {shorten(value)}: {error.what.rstrip('.')}; it must be a JSON object"
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            return f"is {shorten(value)}; it must be an object such as {{\"max_words\": 12}}"
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in value if name not in names]:
            return f"has the key {shorten(unknown[0])}; {nearest(str(unknown[0]), names)}"
        known = {name: part for name, part in value.items() if part is not None}
        flaw = next((flaw for name, part in known.items() if (flaw := _flaw(name, part))), None)
        if flaw is None and known.get("min_words", 0) > known.get("max_words", float("inf")):
            flaw = f"has min_words {known['min_words']} above max_words {known['max_words']}"
        if flaw:
            return flaw
        control = cls(**{name: _frozen(name, part) for name, part in known.items()})
        return control._flaw_of_beginning() or control

    def _flaw_of_beginning(self) -> str | None:
        """Why no text that begins with the prefix meets the rest."""
        unmet = replace(self, min_words=None, include=(), pattern=None, json_schema=None, label=None).unmet(
            self.prefix or "")
        return f"has prefix {shorten(self.prefix)}, which itself {unmet[0]}" if self.prefix and unmet else None

    @property
    def is_empty(self) -> bool:
        """Whether every text meets it."""
        return self == type(self)()

    def to_json(self) -> dict[str, Any]:
        """What `of` takes back: only what constrains."""
        parts = {name: list(part) if isinstance(part, tuple) else part for name, part in asdict(self).items()
                 if part not in (None, ())}
        return parts if self.json_schema is None else {**parts, "json_schema": json.loads(self.json_schema)}

    def in_words(self) -> str:
        """What a prompt says of it, a sentence for each constraint; "" where there is none."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        if self.label is not None:
            yield f"Label: {self.label}."
        if self.prefix:
            yield f'Begin with "{self.prefix}".'
        least, most = self.min_words or 0, self.max_words
        if most is None and least:
            yield f"Write at least {least} words."
        elif most is not None:
            yield f"Write {f'at most {most}' if not least else most if least == most else f'{least} to {most}'} words."
        for keywords, verb in ((self.include, "Use"), (self.exclude, "Do not use")):
            if keywords:
                yield f"{verb} the words: {', '.join(keywords)}."
        for form, what in ((self.pattern, "Match a regular expression"), (self.json_schema, "Write JSON of a schema")):
            if form is not None:
                yield f"{what}: {form}" if len(form) <= MAX_SHOWN_CHARS else f"{what}."

    def unmet(self, text: str, label: str = "") -> list[str]:
        """The constraints that a text does not meet, each in words; [] where it meets all. label: as it was judged."""
        return list(self._unmet(text, label))

    def _unmet(self, text: str, label: str) -> Iterator[str]:
        if self.label is not None and label != self.label:
            yield f"is {shorten(label)}, not {shorten(self.label)}"
        if self.prefix is not None and not text.startswith(self.prefix):
            yield f"does not begin with {shorten(self.prefix)}"
        tokens = words(text)
        if self.min_words is not None and len(tokens) < self.min_words:
            yield f"has {len(tokens)} words, fewer than {self.min_words}"
        if self.max_words is not None and len(tokens) > self.max_words:
            yield f"has {len(tokens)} words, more than {self.max_words}"
        for keywords, wanted, complaint in ((self.include, True, "lacks"), (self.exclude, False, "has")):
            for keyword in keywords:
                if _holds(text, tokens, keyword) is not wanted:
                    yield f"{complaint} {shorten(keyword)}"
        if self.pattern is not None and not _matches(self.pattern, text):
            yield f"has no match of {shorten(self.pattern)}"
        if self.json_schema is not None and (flaw := _flaw_of_json(self.json_schema, text)):
            yield flaw


def _flaw(name: str, value: Any) -> str | None:
    """What is wrong with one constraint, in words; None when nothing is."""
    if name in ("min_words", "max_words"):
        is_sound = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if is_sound else f"has {name} {shorten(value)}; it must be a whole number from 0"
    if name in ("include", "exclude"):
        is_list = isinstance(value, list | tuple) and len(value) <= MAX_KEYWORDS
        if not is_list or not all(isinstance(word, str) and word.strip() for word in value):
            return f"has {name} {shorten(value)}; it must be a list of at most {MAX_KEYWORDS} strings, none empty"
        return None
    if name in ("prefix", "label"):
        if not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_LABEL_CHARS:
            return f"has {name} {shorten(value)}; it must be a string of at most {MAX_LABEL_CHARS:,} characters"
        flaw = flaw_of_prefix(value) if name == "prefix" else None
        return f"has a prefix that {flaw}" if flaw else None
    return _flaw_of_pattern(value) if name == "pattern" else _flaw_of_schema(value)


def _frozen(name: str, value: Any) -> Any:
    if name == "json_schema":
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return tuple(value) if isinstance(value, list | tuple) else value


def _holds(text: str, tokens: list[str], keyword: str) -> bool:
    """Whether the keyword's words stand in the text one after another; a keyword of signs alone, anywhere in it."""
    wanted = words(keyword)
    if not wanted:
        return keyword.casefold() in text.casefold()
    first, n = wanted[0], len(wanted)
    return any(token == first and tokens[i : i + n] == wanted for i, token in enumerate(tokens))


# ------------------------------------------------------------------------------------------- regular expressions


@cache
def _regex() -> Any:
    try:
        import regex
    except ImportError:
        raise MissingExtraError("a pattern in a control", "regex", "write") from None
    return regex


def _flaw_of_pattern(pattern: Any) -> str | None:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        return f"has pattern {shorten(pattern)}; it must be a string of at most {MAX_PATTERN_CHARS:,} characters"
    regex = _regex()
    if re.search(r"\(\?[a-zA-Z01]*x", pattern):
        return f"has pattern {shorten(pattern)}; it may not be spread out and commented by (?x)"
    if _repeats(pattern) > MAX_REPEATS:
        return f"has pattern {shorten(pattern)}; it may repeat a part at most {MAX_REPEATS:,} times"
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        return f"has pattern {shorten(pattern)}, which is no regular expression: {shorten(str(error))[1:-1]}"
    return None


def _repeats(pattern: str) -> float:
    """How often {m,n} may repeat a part at most, were each repeated group to stand in the next."""
    times, largest = 1.0, 1.0
    for group, numbers in _REPEAT.findall(pattern):
        most = max(float(number[:10]) for number in re.findall("[0-9]+", numbers))
        times, largest = (times * max(1.0, most), largest) if group else (times, max(largest, most))
    return times * largest


def _matches(pattern: str, text: str, limit_s: float = MATCHING_S) -> bool:
    try:
        return _regex().search(pattern, text, timeout=limit_s) is not None
    except TimeoutError:
        return False


# -------------------------------------------------------------------------------------------------- JSON schemas


def _flaw_of_schema(schema: Any) -> str | None:
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_SCHEMA_CHARS:
        return f"has a json_schema of {len(text):,} characters; at most {MAX_SCHEMA_CHARS:,} are read"
    try:
        schema = parse_json(text, "json_schema", DataError, MAX_SCHEMA_DEPTH)
    except DataError as error:
        return f"has a json_schema that {error.what.rstrip('.')}"
    for key, value in _pairs(schema):
        if key in ("$ref", "$dynamicRef") and not (isinstance(value, str) and value.startswith("#")):
            return f"has a json_schema with {key} {shorten(value)}; it must begin with #: nothing else is fetched"
        if key == "patternProperties" and isinstance(value, dict):
            return "has a json_schema with patternProperties; name the properties instead"
        if key == "pattern" and isinstance(value, str) and (flaw := _flaw_of_pattern(value)):
            return flaw
    kind, schema_error = _validator()
    try:
        kind.check_schema(schema)
    except schema_error as error:
        return f"has a json_schema that is none: {shorten(error.message, 120)[1:-1]}"
    except RecursionError:
        return "has a json_schema that is nested too deeply"
    return None


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    ahead = [value]
    while ahead:
        part = ahead.pop()
        if isinstance(part, dict):
            yield from part.items()
        ahead += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


class _TooLongError(Exception):
    """Checking a text against a schema took too long."""


@cache
def _validator() -> tuple[Any, Any]:
    """A validator whose patterns and references end at the deadline that its `format_checker` slot carries."""
    try:
        from jsonschema import Draft202012Validator, validators
        from jsonschema.exceptions import SchemaError, ValidationError
    except ImportError:
        raise MissingExtraError("a json_schema in a control", "jsonschema", "write") from None
    follow = Draft202012Validator.VALIDATORS["$ref"]

    def left_s(validator: Any) -> float:
        left = float(validator.format_checker.deadline) - time.monotonic()
        if left <= 0:
            raise _TooLongError
        return left

    def pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
        if isinstance(value, str) and not _matches(pattern, value, left_s(validator)):
            yield ValidationError(f"{shorten(value)} does not match {shorten(pattern)}")

    def reference(validator: Any, target: str, value: Any, schema: Any) -> Iterator[Any]:
        left_s(validator)
        yield from follow(validator, target, value, schema)

    return validators.extend(Draft202012Validator, {"pattern": pattern, "$ref": reference}), SchemaError


@dataclass(frozen=True)
class _Deadline:
    """Stands where jsonschema keeps what checks formats, which hands it on to every part; no format is checked."""

    deadline: float

    def check(self, value: Any, name: str) -> None:
        """Every format is right."""


def _flaw_of_json(schema: str, text: str) -> str | None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        value = parse_json(text, "", DataError)
    except DataError as error:
        return error.what.rstrip(".")
    kind, _ = _validator()
    checker = kind(json.loads(schema), format_checker=_Deadline(time.monotonic() + MATCHING_S), registry=Registry())
    with suppress(_TooLongError, RecursionError, Unresolvable):
        flaw = next(checker.iter_errors(value), None)
        return f"does not fit the schema: {shorten(flaw.message, 120)[1:-1]}" if flaw else None
    return "could not be checked against the schema: it has no end, takes too long, or points nowhere"
