"""What is wrong with the tokens, tags and entities of a row, as given (in words; None: nothing) and as answered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...core.cells import normal_label
from ...core.errors import shorten
from ...readers.words import places, splits_character
from .tags import Span

N_MISSED_SHOWN = 4  # of mistakes, entities that the model did not see at all: it has no confidence to order them by
CONTEXT_CHARS = 60  # on either side of a mistake


def flaw_of_tokens(tokens: Any, text: str | None) -> str | None:
    if tokens is None:
        return None
    if not isinstance(tokens, list | tuple):
        return f'"tokens" is {shorten(tokens)}, not a list'
    if not tokens:
        return '"tokens" is empty'
    for i, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            return f'"tokens" has {shorten(token)} at place {i + 1}; each must be a string that is not empty'
    if text is not None and (n_found := places(tokens, text)[1]) < len(tokens):
        return (f'"tokens" has {shorten(tokens[n_found])} at place {n_found + 1}, which "text" does not have there; '
                "it must hold all tokens in their order")
    return None


def flaw_of_tags(tags: Any, tokens: Any) -> str | None:
    if not isinstance(tags, list | tuple):
        return f'"tags" is {shorten(tags)}, not a list'
    if tokens is None:
        return '"tags" stands without "tokens"; it must have one tag for each token'
    if len(tags) != len(tokens):
        return f'"tags" has {len(tags):,} values for {len(tokens):,} tokens; it must have one for each'
    for i, tag in enumerate(tags):
        if not isinstance(tag, str) or not tag or tag != tag.strip():
            return f'"tags" has {shorten(tag)} at place {i + 1}; each must be a string without blanks around it'
    return None


def normal_entities(entities: Any, text: Any) -> tuple[Any, int]:
    """Entities as {start, end, label} without blanks at their ends, and how many had some; the same object if all are.

    entities: also as [start, end, label] (spaCy, doccano), or with start_offset and end_offset; anything else is left
              for `flaw_of_entities` to complain of.
    """
    if not isinstance(entities, list | tuple) or not isinstance(text, str):
        return entities, 0
    normal, n_trimmed, is_changed = [], 0, False
    for given in entities:
        entity = given
        if isinstance(entity, list | tuple) and len(entity) == 3:
            entity = dict(zip(("start", "end", "label"), entity, strict=True))
        elif isinstance(entity, dict) and "start_offset" in entity and "start" not in entity:
            entity = {**entity, "start": entity["start_offset"], "end": entity.get("end_offset")}
        if isinstance(entity, dict):
            entity = _trimmed(entity, text)
            if entity.get("start") != _end(given, 0) or entity.get("end") != _end(given, 1):
                n_trimmed += 1
        is_changed |= entity is not given
        normal.append(entity)
    return (normal, n_trimmed) if is_changed else (entities, 0)


def _end(entity: Any, at: int) -> Any:
    """Where an entity starts (0) or ends (1), in any of the forms."""
    if not isinstance(entity, dict):
        return entity[at]
    name = ("start", "end")[at]
    return entity[name] if name in entity else entity.get(f"{name}_offset")


def _trimmed(entity: dict[str, Any], text: str) -> dict[str, Any]:
    """An entity without blanks at its ends or around its label, the same object where it has none."""
    start, end, label = entity.get("start"), entity.get("end"), normal_label(entity.get("label"))
    if type(start) is int and type(end) is int and 0 <= start < end <= len(text) and not text[start:end].isspace():
        inside = text[start:end]
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
        if isinstance(entity.get("text"), str) and entity["text"] == inside != text[start:end]:
            entity = {**entity, "text": text[start:end]}
    changed = {name: value for name, value in (("start", start), ("end", end), ("label", label))
               if name in entity and value is not entity[name] and value != entity[name]}
    return {**entity, **changed} if changed else entity


def flaw_of_entities(entities: Any, text: str) -> str | None:
    if not isinstance(entities, list | tuple):
        return f'"entities" is {shorten(entities)}, not a list'
    for i, entity in enumerate(entities):
        if flaw := _flaw_of_entity(entity, text):
            return f'"entities" {flaw} (number {i + 1})'
    for entity, after in itertools.pairwise(sorted(entities, key=lambda entity: (entity["start"], entity["end"]))):
        if after["start"] < entity["end"]:
            return (f'"entities" has {entity["start"]}-{entity["end"]} and {after["start"]}-{after["end"]}, '
                    "which overlap; each character must be in one at most")
    return None


def _flaw_of_entity(entity: Any, text: str) -> str | None:
    if not isinstance(entity, dict):
        return f"has {shorten(entity)}; each must be {{start, end, label}}"
    start, end, label = entity.get("start"), entity.get("end"), entity.get("label")
    for name, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            return f"has {shorten(value)} as {name}; it must be a whole number"
    if not isinstance(label, str) or not label or label != label.strip():
        return f"has {shorten(label)} as label; it must be a string without blanks around it"
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(text):
        return (f"has {shorten(start)}-{shorten(end)} in a text of {len(text):,} characters; "
                f"it must be 0 <= start < end <= {len(text):,}")
    for at in (start, end):
        if splits_character(text, at):
            return (f"has {start}-{end}, and {at} is inside {shorten(text[at - 1:at + 1])}, a letter with its mark "
                    f"(U+{ord(text[at]):04X}); an entity must hold both or neither")
    if isinstance(entity.get("text"), str) and entity["text"] != text[start:end]:
        return (f"has {shorten(entity['text'])} at {start}-{end}, where the text has {shorten(text[start:end])}; "
                "offsets must count code points, not bytes or UTF-16 units")
    return None


def mistakes(text_of: Callable[[int], str], both: Sequence[tuple[set[Span], set[Span]]],
             answers: Sequence[Sequence[Mapping[str, Any]]], n_shown: int) -> list[dict[str, Any]]:
    """Wrong spans, most confident first, then some that were missed; each with what it stands in, marked.

    text_of: the text of a row, by its number; called for what is shown. both: (gold, predicted) spans of each row.
    answers: the entities of each, with "start", "end", "label" and "score".
    """
    wrong: list[tuple[float, int, list[Span], list[Span]]] = []
    for i, (gold, predicted) in enumerate(both):
        shares = {(e["start"], e["end"], e["label"]): e["score"] for e in answers[i]}
        for group in _touching(gold - predicted, predicted - gold):
            wrong.append((max((shares[span] for span in group[1]), default=-1.0), i, *group))
    wrong.sort(key=lambda group: -group[0])
    missed = [group for group in wrong if group[0] < 0][:N_MISSED_SHOWN]
    shown = [group for group in wrong if group[0] >= 0][: n_shown - len(missed)] + missed
    entries = []
    for share, i, gold_spans, predicted_spans in shown:
        text = text_of(i)
        entries.append({"text": _marked(text, [*gold_spans, *predicted_spans]), "label": _in_words(text, gold_spans),
                        "predicted": _in_words(text, predicted_spans), "confidence": share if share >= 0 else None})
    return entries


def _touching(gold: set[Span], predicted: set[Span]) -> list[tuple[list[Span], list[Span]]]:
    """Gold and predicted spans that overlap, directly or through others, together."""
    groups: list[tuple[list[Span], list[Span]]] = []
    reach = -1
    for (start, end, label), side in sorted([(span, 0) for span in gold] + [(span, 1) for span in predicted]):
        if start >= reach:
            groups.append(([], []))
        groups[-1][side].append((start, end, label))
        reach = max(reach, end)
    return groups


def _marked(text: str, spans: Sequence[Span]) -> str:
    """The part of the text around the spans, with what they cover in ⟦ ⟧."""
    start, end = min(s for s, _, _ in spans), max(e for _, e, _ in spans)
    before, after = max(0, start - CONTEXT_CHARS), min(len(text), end + CONTEXT_CHARS)
    return ("…" * (before > 0) + text[before:start] + "⟦" + text[start:end] + "⟧" + text[end:after]
            + "…" * (after < len(text)))


def _in_words(text: str, spans: Sequence[Span]) -> str:
    return ", ".join(f"{label}: {shorten(text[start:end])[1:-1]}" for start, end, label in spans) or "none"
