"""From raw text to (head, relation, tail): one artifact finds the entities, another says how each two of them relate.

    for answer in triples("runs/relations", "runs/entities", "news.txt"): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, islice, permutations
from pathlib import Path
from typing import Any

from ..core.errors import SpecError
from ..core.predict import beside_errors
from ..core.spec import check_data_spec
from ..core.values import Prediction, Row
from ..data.table import stream_rows
from ..runs import artifact
from ..runs.artifact import Artifact
from ..tasks.relation_extraction import DIRECTED, NONE
from .answers import Source

TEXTS_AT_ONCE = 256  # enough pairs to sort by length, few enough to hold


def triples(run: str | Path, entities: str | Path, source: str,
            settings: Mapping[str, Any] | None = None) -> Iterator[Prediction]:
    """The triples of each text of `source` (a file, or "-" for stdin), in order, in bounded memory.

    run, entities: artifacts of "relation-extraction" and of "token-classification".
    Returns  {"entities": [...], "triples": [{"head", "relation", "tail", "score"}]} a text; what the model finds
             unrelated is left out.
    Raises   SpecError for artifacts of other tasks.
    """
    rows, answer = open_rows(run, entities, source, settings)
    yield from answer(rows)


def open_rows(run: str | Path, entities: str | Path, source: str, settings: Mapping[str, Any] | None = None,
              ) -> Source:
    """The rows of `source`, read one by one, and what answers them, one by one and in order."""
    related, named = _opened(run, "relation-extraction"), _opened(entities, "token-classification")
    spec = check_data_spec(named.spec.data.model_dump(), settings)
    rows = stream_rows(source, spec, named.task, gold="ignored", lenient=True)
    return rows.numbered(), lambda some: beside_errors(some, lambda sound: of_rows(related, named, sound))


def _opened(folder: str | Path, wanted: str) -> Artifact:
    loaded = artifact.load(folder)
    if loaded.task.name != wanted:
        raise SpecError(str(folder), f'is a run of "{loaded.task.name}"; triples need one of "{wanted}" there.',
                        "headstart predict RELATIONS TEXTS --entities ENTITIES")
    return loaded


def of_rows(related: Artifact, named: Artifact, rows: Iterable[Row]) -> Iterator[Prediction]:
    """The same for rows that are read already; each has a "text" or what else the entities' task reads."""
    labels = getattr(related.task, "labels", ())
    either_way = any(DIRECTED.fullmatch(label) for label in labels)  # then a label says which way
    ahead = iter(rows)
    while some := list(islice(ahead, TEXTS_AT_ONCE)):
        entities_of = named.predict(some)
        pairs = [(i, *pair) for i, answer in enumerate(entities_of)
                 for pair in (combinations if either_way else permutations)(answer["entities"], 2)]
        texts = [named.task.text(row) for row in some]
        questions = [{"text": texts[i], "head_span": [a["start"], a["end"]], "tail_span": [b["start"], b["end"]]}
                 for i, a, b in pairs]
        triples_of = [list[dict[str, Any]]() for _ in entities_of]
        for (i, a, b), answer in zip(pairs, related.predict(questions), strict=True):
            if answer["relation"].casefold() not in NONE:
                head, tail = (b, a) if answer["direction"] == "tail-to-head" else (a, b)
                triples_of[i].append({"head": _named(head), "relation": answer["relation"], "tail": _named(tail),
                                "score": answer["score"]})
        yield from ({"entities": answer["entities"], "triples": triples_here}
                    for answer, triples_here in zip(entities_of, triples_of, strict=True))


def _named(entity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entity[key] for key in ("text", "label", "start", "end")}
