"""A tag for every word: named entities, chunks; parts of speech.

    tokens + tags  or  text + entities  ->  text, words_W, spans  ->  a tag for each word's first token

The answer to a row is {"entities": [{"start", "end", "label", "text", "score"}]}; offsets count code points of the
row's text (tokens are joined to one). Rows given as tokens get "tags" too, in the scheme that the train rows use. Where
the tags have no scheme, as with parts of speech, every word is an entity of its own.

Shape suffixes: W words, U units (words that have a token of their own), G tokens of the text, T tokens of a window,
D width, K tags, L labels, N rows.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from .. import metrics
from ..errors import DataError, shorten
from ..types import IGNORE, Piece, Prediction, Reader, Row, Window
from . import Task

if TYPE_CHECKING:
    import torch

    from ..features import LinearMap
    from ..heads import Head

Span = tuple[int, int, str]  # [start, end) and a label

PLAIN = "plain"  # tags without a scheme
LETTERS = {"IOB": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}  # what tags of a family may begin with
SINGLE = {"BIOES": "S", "BILOU": "U", "BMES": "S"}
INSIDE = {"BIOES": "I", "BILOU": "I", "BMES": "M"}
LAST = {"BIOES": "E", "BILOU": "L", "BMES": "E"}
N_MISTAKES_SHOWN = 12
N_MISSED_SHOWN = 4  # of them, entities that the model did not see at all: it has no confidence to order them by
CONTEXT_CHARS = 60  # on either side of a mistake


@dataclass(frozen=True)
class TokenClassification(Task):
    """Spans of words with a label, or a tag for every word.

    stride:      tokens that neighboring windows of a long text share.
    constrained: whether the best sequence that the scheme allows is the answer (Viterbi), or each word's best tag.
    labels:      of entities, or the plain tags, sorted.
    scheme:      of the train rows: IOB1, IOB2, BIOES, BILOU, BMES or plain. Inside, all but plain are IOB2: the other
                 schemes have up to twice as many tags to learn, half of them rare in a small data set.
    """

    name: ClassVar = "token-classification"
    columns: ClassVar = {"tokens": "a list of strings that are not empty",
                         "text": "a string that is not empty",
                         "tags": "a list of strings, one a token",
                         "entities": "a list of {start, end, label}, in characters of the text, without overlap"}
    gold: ClassVar = ("tags", "entities")
    optional: ClassVar = ("tokens", "text", "tags", "entities")
    usual_names: ClassVar = {
        "tokens": ("tokens", "words", "token"),
        "text": ("text", "sentence", "content", "文本", "内容"),
        "tags": ("tags", "ner_tags", "pos_tags", "chunk_tags", "ner", "pos", "upos", "labels", "tag", "标签"),
        "entities": ("entities", "spans", "entity", "实体"),
    }
    options: ClassVar = ("stride", "constrained")
    native: ClassVar = "AutoModelForTokenClassification"
    examples: ClassVar = (
        {"tokens": ["Mira", "Holt", "moved", "to", "Lisbon", "."], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]},
        {"text": "The film was found in Quito today.", "entities": [{"start": 22, "end": 27, "label": "LOC"}]},
        {"text": "房间在北京很干净。", "entities": [{"start": 3, "end": 5, "label": "LOC"}]},
        {"tokens": ["nobody", "answered", "the", "phone"], "tags": ["O", "O", "O", "O"]},
    )

    stride: Annotated[int, Field(ge=0)] = 64
    constrained: bool = True
    labels: tuple[str, ...] = ()
    scheme: str = "IOB2"

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Entity F1, or with plain tags the accuracy of words, which is the same sum."""
        return "accuracy" if self.scheme == PLAIN else "f1"

    # ------------------------------------------------------------------------------------------------------- rows

    def check(self, row: Row) -> str | None:
        tokens, text = row.get("tokens"), row.get("text")
        if tokens is None and text is None:
            return '"tokens" is missing, and so is "text"; a row must have one of them'
        if text is not None and not isinstance(text, str):
            return f'"text" is {shorten(text)}, not a string'
        if text is not None and not text.strip():
            return '"text" is empty'
        return _flaw_of_tokens(tokens, text) or self._flaw_of_gold(row)

    def _flaw_of_gold(self, row: Row) -> str | None:
        tags, entities = row.get("tags"), row.get("entities")
        if tags is not None and entities is not None:
            return '"entities" stands beside "tags"; a row must have one kind of gold: leave one column out'
        if tags is not None:
            return _flaw_of_tags(tags, row.get("tokens"))
        return None if entities is None else _flaw_of_entities(entities, self.text(row))

    def learn(self, rows: Sequence[Row]) -> Self:
        n_without = sum(row.get("tags") is None and row.get("entities") is None for row in rows)
        if n_without:
            raise DataError("", f'{n_without:,} of {len(rows):,} train rows have neither "tags" nor "entities".',
                            "Say which column holds them: --set data.columns.tags=NAME (or entities)")
        tagged = [row["tags"] for row in rows if row.get("tags") is not None]
        has_entities = len(tagged) < len(rows)
        scheme = scheme_of(tagged) or "IOB2"
        if scheme == PLAIN and has_entities:
            raise DataError("tags", "are without a scheme (no B-, I-) in some rows, and other rows have \"entities\".",
                            "Write the tags as IOB2: B-X begins an entity X, I-X goes on, O is none.")
        task = replace(self, scheme=scheme)
        labels = {label for row in rows for _, _, label in task.spans(row, *task.read(row))}
        if not labels:
            raise DataError("tags", "hold no entity at all; all words are \"O\".", "Is this the right column? "
                            "--set data.columns.tags=NAME")
        return replace(task, labels=tuple(sorted(labels)))

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        """A label that no train row has is no complaint: it counts as missed."""
        said = []
        for i, row in enumerate(rows):
            tags = row.get("tags")
            if tags is None and row.get("entities") is None:
                said.append((i, 'has neither "tags" nor "entities"'))
            elif tags is None and self.scheme == PLAIN:
                said.append((i, '"entities" cannot be compared with the plain tags of the train rows'))
            elif tags is not None and (flaw := _flaw_of_sequence(tags, self.scheme)):
                said.append((i, f'"tags" {flaw}'))
        return said

    def stratum(self, row: Row) -> str:
        """The same for every row: a sentence has many labels, and the rare ones would stop every split."""
        return "any"

    def text(self, row: Row) -> str:
        return self.read(row)[0]

    def read(self, row: Row) -> tuple[str, list[tuple[int, int]]]:
        """The text of a row and [start, end) of its words: the tokens as given, or what `split_words` finds."""
        text, tokens = row.get("text"), row.get("tokens")
        if tokens is None:
            assert text is not None
            return text, split_words(text)
        if text is None:
            return join_tokens(tokens)
        words, n_found = _places(tokens, text)
        assert n_found == len(tokens)
        return text, words

    def spans(self, row: Row, text: str, words_W: Sequence[tuple[int, int]]) -> list[Span]:
        """The row's own gold in characters, in order; all of it, whether a model could answer so or not."""
        entities = row.get("entities")
        if entities is not None:
            return sorted((one["start"], one["end"], one["label"]) for one in entities)
        return [(words_W[first][0], words_W[end - 1][1], label)
                for first, end, label in tags_to_spans(row["tags"], self.scheme)]

    # ---------------------------------------------------------------------------------------------------- windows

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        text, words_W = self.read(row)
        stride = min(self.stride, reader.max_tokens // 3)  # more would read every token many times
        pieces = reader.read_windows(text, overlap=stride)
        units, asked = _units(words_W, pieces, stride)
        has_gold = row.get("tags") is not None or row.get("entities") is not None
        tags_U = self._targets(self.spans(row, text, words_W), units, words_W) if has_gold else []
        windows = []
        for piece, chosen in zip(pieces, asked, strict=True):
            if not chosen:
                continue  # no word is asked here, such as in a text of nothing but invisible characters
            target = {}
            if has_gold:
                target["tags"] = [IGNORE] * len(piece.words_T)
                for u, at in chosen:
                    target["tags"][at] = tags_U[u]
            windows.append(Window(i, piece.inputs, target, {
                "n_cut_tokens": piece.n_cut_tokens, "units": [units[u] for u, _ in chosen],
                "at": [at for _, at in chosen]}))
        return windows

    def _targets(self, spans: Sequence[Span], units: Sequence[tuple[int, int]],
                 words_W: Sequence[tuple[int, int]]) -> list[int]:
        """The tag of each unit. A span that ends inside a word takes the whole word; a label never seen is IGNORE."""
        tags_U = [IGNORE if self.scheme == PLAIN else 0] * len(units)
        ends_U = [words_W[stop - 1][1] for _, stop in units]
        u = 0
        for start, end, label in spans:
            while u < len(units) and ends_U[u] <= start:
                u += 1
            prefix = "" if self.scheme == PLAIN else "B-"
            while u < len(units) and words_W[units[u][0]][0] < end:
                tags_U[u] = self._index.get(prefix + label, IGNORE)
                prefix = "I-" if prefix else ""
                u += 1
        return tags_U

    # ------------------------------------------------------------------------------------------------------ model

    @cached_property
    def tags_K(self) -> tuple[str, ...]:
        """What the logits mean, in their order."""
        if self.scheme == PLAIN:
            return self.labels
        return ("O", *(f"{prefix}-{label}" for label in self.labels for prefix in "BI"))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {tag: k for k, tag in enumerate(self.tags_K)}

    @cached_property
    def _barred_KK(self) -> np.ndarray:
        """-inf where the second tag may not follow the first; the last line is for the beginning of a text."""
        barred = np.zeros((self.n_outputs + 1, self.n_outputs))
        for k, tag in enumerate(self.tags_K):
            if self.scheme != PLAIN and tag[:2] == "I-":
                barred[:, k] = -np.inf
                barred[[k - 1, k], k] = 0  # its own B- and I-
        return barred

    @property
    def n_outputs(self) -> int:
        return len(self.tags_K)

    def head(self, width: int, pooling: str) -> Head:
        from ..heads import TokenHead

        return TokenHead(width, self.n_outputs)

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        is_asked_BT = target["tags"] != IGNORE
        return logits[is_asked_BT], target["tags"][is_asked_BT]

    def classes(self, target: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(target["tags"][target["tags"] != IGNORE])

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        from .. import features

        is_asked_M = target["tags"] != IGNORE
        return features.solve_head(features_MD[is_asked_M], target["tags"][is_asked_M], self.n_outputs, score,
                                   class_weights)

    # ---------------------------------------------------------------------------------------------------- answers

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        units, lines = [], []
        for window, said_TK in zip(windows, logits, strict=True):
            units += window.notes["units"]
            lines.append(said_TK[window.notes["at"]])
        if not units:
            return self._answer(row, [], [], [])
        order = sorted(range(len(units)), key=units.__getitem__)
        logits_UK = np.concatenate(lines)[order]
        tags_U = viterbi(logits_UK, self._barred_KK) if self.constrained else logits_UK.argmax(1)
        shares_U = np.take_along_axis(metrics.softmax(logits_UK), tags_U[:, None], 1)[:, 0]
        return self._answer(row, [units[u] for u in order], tags_U.tolist(), shares_U.tolist())

    def _answer(self, row: Row, units: Sequence[tuple[int, int]], tags_U: Sequence[int],
                shares_U: Sequence[float]) -> Prediction:
        """The tags of units and their shares of one, as the user sees them."""
        text, words_W = self.read(row)
        said = [self.tags_K[k] for k in tags_U]
        if self.scheme == PLAIN:
            spans, shares = self._every_word(len(words_W), units, said, shares_U)
        else:
            found = tags_to_spans(said, "IOB2")
            shares = [sum(shares_U[first:end]) / (end - first) for first, end, _ in found]
            spans = [(units[first][0], units[end - 1][1], label) for first, end, label in found]
        entities = []
        for (first, stop, label), share in zip(spans, shares, strict=True):
            start, end = words_W[first][0], words_W[stop - 1][1]
            entities.append({"start": start, "end": end, "label": label, "text": text[start:end],
                             "score": round(share, 6)})
        answer: Prediction = {"entities": entities}
        if row.get("tokens") is not None:
            answer["tags"] = spans_to_tags(spans, len(words_W), self.scheme)
        return answer

    def _every_word(self, n_words: int, units: Sequence[tuple[int, int]], said: Sequence[str],
                    shares_U: Sequence[float]) -> tuple[list[Span], list[float]]:
        """A plain tag for each word; one that no token stands for has the tag of the word before."""
        tag, share, u = said[0] if said else self.labels[0], 0.0, 0
        spans, shares = [], []
        for w in range(n_words):
            while u < len(units) and units[u][1] <= w:
                u += 1
            is_asked = u < len(units) and units[u][0] <= w
            tag, share = (said[u], shares_U[u]) if is_asked else (tag, 0.0)
            spans.append((w, w + 1, tag))
            shares.append(share)
        return spans, shares

    # ----------------------------------------------------------------------------------------------------- scores

    def _both(self, prediction: Prediction, row: Row) -> tuple[set[Span], set[Span]]:
        """(gold, predicted) spans of a row."""
        gold = set(self.spans(row, *self.read(row)))
        return gold, {(one["start"], one["end"], one["label"]) for one in prediction["entities"]}

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 3]: how many spans are right, how many were predicted and how many there are."""
        pairs = (self._both(p, r) for p, r in zip(predictions, rows, strict=True))
        return np.array([(len(gold & said), len(said), len(gold)) for gold, said in pairs], np.int64).reshape(-1, 3)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        n_right, n_said, n_gold = (int(n) for n in outcomes.sum(0))
        if self.scheme == PLAIN:
            return {"accuracy": n_right / n_gold if n_gold else 0.0}
        found = metrics.of_counts(n_right, n_gold, n_said)
        return {name: found[name] for name in ("f1", "precision", "recall")}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for row in train:
            text, words_W = self.read(row)
            tags_W = self._targets(self.spans(row, text, words_W), _each(words_W), words_W)
            for (start, end), k in zip(words_W, tags_W, strict=True):
                counts[text[start:end]][k] += 1
        total = sum(counts.values(), Counter())
        usual = total if self.scheme == PLAIN else Counter({0: 1})
        best = {word: _most_frequent(found) for word, found in counts.items()}
        fallback = _most_frequent(usual)
        answers = []
        for row in test:
            text, words_W = self.read(row)
            said = [best.get(text[start:end], fallback) for start, end in words_W]
            answers.append(self._answer(row, _each(words_W), [k for k, _ in said], [share for _, share in said]))
        yield "majority-tag", answers

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        both = [self._both(p, r) for p, r in zip(predictions, rows, strict=True)]
        counts = {label: [0, 0, 0] for label in self.labels}
        for gold, said in both:
            for at, spans in enumerate((gold & said, said, gold)):
                for _, _, label in spans:
                    counts.setdefault(label, [0, 0, 0])[at] += 1
        found: dict[str, Any] = {
            "labels": sorted(counts), "counted": "words" if self.scheme == PLAIN else "entities",
            "per_label": [{"label": label, **metrics.of_counts(n_right, n_gold, n_said)}
                          for label, (n_right, n_said, n_gold) in sorted(counts.items())],
            "mistakes": self._mistakes(both, predictions, rows),
        }
        if self.scheme == PLAIN:
            found["confusion"] = self._confusion(both, found["labels"])
        n_out_of_reach = sum(self._n_out_of_reach(gold, row) for (gold, _), row in zip(both, rows, strict=True))
        if n_out_of_reach:
            found["n_out_of_reach"] = n_out_of_reach
        return found

    @staticmethod
    def _confusion(both: Sequence[tuple[set[Span], set[Span]]], labels: Sequence[str]) -> list[list[int]]:
        index = {label: k for k, label in enumerate(labels)}
        pairs = [(index[g[2]], index[p[2]]) for gold, said in both
                 for g, p in zip(sorted(gold), sorted(said), strict=True)]
        gold_N, said_N = np.array(pairs, np.int64).reshape(-1, 2).T
        confusion_KK: list[list[int]] = metrics.confusion(gold_N, said_N, len(labels)).tolist()
        return confusion_KK

    def _n_out_of_reach(self, gold: set[Span], row: Row) -> int:
        """How many gold spans no answer can be: they end inside a word, or no train row has their label."""
        words_W = self.read(row)[1]
        starts, ends = {start for start, _ in words_W}, {end for _, end in words_W}
        return sum(s not in starts or e not in ends or label not in self.labels for s, e, label in gold)

    def _mistakes(self, both: Sequence[tuple[set[Span], set[Span]]], predictions: Sequence[Prediction],
                  rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Wrong spans, most confident first, then some that were missed; each with what it stands in, marked."""
        wrong: list[tuple[float, int, list[Span], list[Span]]] = []
        for i, (gold, said) in enumerate(both):
            shares = {(e["start"], e["end"], e["label"]): e["score"] for e in predictions[i]["entities"]}
            for group in _touching(gold - said, said - gold):
                wrong.append((max((shares[span] for span in group[1]), default=-1.0), i, *group))
        wrong.sort(key=lambda one: -one[0])
        missed = [one for one in wrong if one[0] < 0][:N_MISSED_SHOWN]
        shown = [one for one in wrong if one[0] >= 0][: N_MISTAKES_SHOWN - len(missed)] + missed
        found = []
        for share, i, gold_spans, said_spans in shown:
            text = self.text(rows[i])
            found.append({"text": _marked(text, [*gold_spans, *said_spans]), "label": _in_words(text, gold_spans),
                          "predicted": _in_words(text, said_spans), "confidence": share if share >= 0 else None})
        return found

    def describe(self) -> dict[str, Any]:
        return {"id2label": {str(k): tag for k, tag in enumerate(self.tags_K)}, "label2id": self._index}


# ---------------------------------------------------------------------------------------------------------- complaints


def _flaw_of_tokens(tokens: Any, text: str | None) -> str | None:
    if tokens is None:
        return None
    if not isinstance(tokens, list | tuple):
        return f'"tokens" is {shorten(tokens)}, not a list'
    if not tokens:
        return '"tokens" is empty'
    for i, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            return f'"tokens" has {shorten(token)} at place {i + 1}; each must be a string that is not empty'
    if text is not None and (n_found := _places(tokens, text)[1]) < len(tokens):
        return (f'"tokens" has {shorten(tokens[n_found])} at place {n_found + 1}, which "text" does not have there; '
                "it must hold all tokens in their order")
    return None


def _flaw_of_tags(tags: Any, tokens: Any) -> str | None:
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


def _flaw_of_entities(entities: Any, text: str) -> str | None:
    if not isinstance(entities, list | tuple):
        return f'"entities" is {shorten(entities)}, not a list'
    for i, one in enumerate(entities):
        if flaw := _flaw_of_entity(one, text):
            return f'"entities" {flaw} (number {i + 1})'
    for one, after in itertools.pairwise(sorted(entities, key=lambda one: (one["start"], one["end"]))):
        if after["start"] < one["end"]:
            return (f'"entities" has {one["start"]}-{one["end"]} and {after["start"]}-{after["end"]}, '
                    "which overlap; each character must be in one at most")
    return None


def _flaw_of_entity(one: Any, text: str) -> str | None:
    if not isinstance(one, dict):
        return f"has {shorten(one)}; each must be {{start, end, label}}"
    start, end, label = one.get("start"), one.get("end"), one.get("label")
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
        if at < len(text) and unicodedata.combining(text[at]):
            return (f"has {start}-{end}, and {at} is inside {shorten(text[at - 1:at + 1])}, a letter with its mark "
                    f"(U+{ord(text[at]):04X}); an entity must hold both or neither")
    if isinstance(one.get("text"), str) and one["text"] != text[start:end]:
        return (f"has {shorten(one['text'])} at {start}-{end}, where the text has {shorten(text[start:end])}; "
                "offsets must count code points, not bytes or UTF-16 units")
    return None


# ------------------------------------------------------------------------------------------------------------- schemes


def split_tag(tag: str) -> tuple[str, str] | None:
    """(letter, label) of a tag such as B-PER, I or O; None for a tag without a scheme."""
    letter, dash, label = tag.partition("-")
    if len(letter) != 1 or letter not in "BIESLUMO" or (letter == "O" and dash) or bool(dash) != bool(label):
        return None
    return letter, label


def scheme_of(tagged: Sequence[Sequence[str]]) -> str | None:
    """The scheme that all these rows' tags are valid in; None when there are none. Raises DataError."""
    tags = sorted({tag for row in tagged for tag in row})
    if not tags:
        return None
    letters = {parsed[0] for tag in tags if (parsed := split_tag(tag))} - {"O"}
    families = [name for name, known in LETTERS.items() if letters <= set(known)]
    odd = [tag for tag in tags if split_tag(tag) is None]
    if not any(tag[1:2] == "-" and split_tag(tag) for tag in tags) and (odd or "B" not in tags or not families):
        strange = [tag for tag in odd if re.fullmatch(r"[A-Z]-.+", tag)]
        if not strange or "O" not in tags or len(strange) < len(tags) - 1:
            if tags == ["O"]:
                return "IOB2"  # no entity in any row
            return PLAIN
        odd = strange
    fix = "Write IOB2: B-X begins an entity X, I-X goes on, O is none; or BIOES, or plain tags."
    if odd:
        other = next(tag for tag in tags if tag not in odd)
        raise DataError("tags", f"hold {shorten(odd[0])} beside {shorten(other)}, which is no scheme that is known "
                        f"(IOB1, IOB2, {', '.join(list(LETTERS)[1:])}).", fix)
    if not families:
        raise DataError("tags", f"begin with {', '.join(sorted(letters))}, which no scheme does (IOB: B I; "
                        "BIOES: B I E S; BILOU: B I L U; BMES: B M E S).", fix)
    return _iob_of(tagged) if families[0] == "IOB" else _checked(tagged, families[0])


def _iob_of(tagged: Sequence[Sequence[str]]) -> str:
    """IOB2, where B- begins every entity, or IOB1, where it only parts two neighbors of one label."""
    not_iob1 = [row for row in tagged if any(
        tag[0] == "B" and before[1:] != tag[1:] for before, tag in itertools.pairwise(("O-", *row)))]
    if not not_iob1:
        return "IOB1" if any(tag != "O" for row in tagged for tag in row) else "IOB2"
    flaws = [flaw for row in tagged if (flaw := _flaw_of_sequence(row, "IOB2"))]
    if flaws:
        raise DataError("tags", f"are of two schemes: in {len(flaws):,} rows an entity begins with I- as in IOB1 (the "
                        f"first one {flaws[0]}), and in {len(not_iob1):,} rows one begins with B- as in IOB2.",
                        "Mend those rows: in IOB2 every entity begins with B-.")
    return "IOB2"


def _checked(tagged: Sequence[Sequence[str]], scheme: str) -> str:
    flaws = [flaw for row in tagged if (flaw := _flaw_of_sequence(row, scheme))]
    if flaws:
        raise DataError("tags", f"look like {scheme}, but {len(flaws):,} rows are not valid; the first one {flaws[0]}.",
                        "Mend those rows, or write IOB2: B-X begins an entity X, I-X goes on, O is none.")
    return scheme


def _flaw_of_sequence(tags: Sequence[str], scheme: str) -> str | None:
    """What the scheme does not allow in these tags, in words that follow "tags"."""
    if scheme == PLAIN:
        return None
    family = scheme if scheme in SINGLE else "IOB"
    going_on = {"I", LAST.get(family, "I"), INSIDE.get(family, "I")}
    is_open, before = False, ("O", "")
    for i, tag in enumerate((*tags, None)):
        parsed = ("O", "") if tag is None else split_tag(tag)
        if parsed is None or parsed[0] not in LETTERS[family] + "O":
            return f"has {shorten(tag)} at place {i + 1}, which is not {scheme} as in the train rows"
        letter, label = parsed
        goes_on = letter in going_on and before[0] in {"B", *going_on - {LAST.get(family)}} and before[1] == label
        if scheme != "IOB1" and letter in going_on and not goes_on:
            return f"has {shorten(tag)} at place {i + 1} without a beginning before it, which is not {scheme}"
        if is_open and not goes_on:
            return f"leaves the entity before place {i + 1} without its {LAST[family]}-, which is not {scheme}"
        is_open = family in LAST and letter in ("B", INSIDE[family])
        before = parsed
    return None


def tags_to_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """(first word, end, label) of each entity. What no scheme allows is read as conlleval does: I- may begin one.

    >>> tags_to_spans(["B-PER", "I-PER", "O", "S-LOC"], "BIOES")
    [(0, 2, 'PER'), (3, 4, 'LOC')]
    """
    if scheme == PLAIN:
        return [(w, w + 1, tag) for w, tag in enumerate(tags)]
    spans: list[Span] = []
    is_open = False
    for w, tag in enumerate(tags):
        letter, label = split_tag(tag) or ("O", "")
        if letter != "O":
            if is_open and letter not in "BSU" and spans[-1][2] == label:
                spans[-1] = (spans[-1][0], w + 1, label)
            else:
                spans.append((w, w + 1, label))
        is_open = letter not in "OESUL"
    return spans


def spans_to_tags(spans: Sequence[Span], n_words: int, scheme: str) -> list[str]:
    """The other way; spans are in order."""
    tags = ["O"] * n_words
    before: Span = (0, -1, "")
    for span in spans:
        first, end, label = span
        if scheme == PLAIN:
            letters = [""]
        elif scheme in SINGLE:
            inner = [INSIDE[scheme]] * (end - first - 2)
            letters = [SINGLE[scheme]] if end - first == 1 else ["B", *inner, LAST[scheme]]
        else:
            needs_b = scheme == "IOB2" or (before[1] == first and before[2] == label)
            letters = ["B" if needs_b else "I", *"I" * (end - first - 1)]
        tags[first:end] = ["-".join(filter(None, (letter, label))) for letter in letters]
        before = span
    return tags


def viterbi(scores_UK: np.ndarray, barred_KK: np.ndarray) -> np.ndarray:
    """tags_U: the sequence with the largest sum of scores that takes no barred step.

    barred_KK: 0 or -inf for a step from one tag to the next; one more line, the last, for the first step.
    Source  Viterbi 1967; Forney 1973, "The Viterbi algorithm".
    """
    scores_UK = np.asarray(scores_UK, np.float64)
    n, steps_KK = len(scores_UK), barred_KK[:-1]
    if np.isfinite(steps_KK).all() and np.isfinite(barred_KK[-1]).all():
        return np.asarray(scores_UK.argmax(1))
    from_UK = np.zeros(scores_UK.shape, np.int64)
    best_K = scores_UK[0] + barred_KK[-1]
    for u in range(1, n):
        all_KK = best_K[:, None] + steps_KK
        from_UK[u] = all_KK.argmax(0)
        best_K = all_KK.max(0) + scores_UK[u]
    tags_U = np.empty(n, np.int64)
    tags_U[-1] = best_K.argmax()
    for u in range(n - 1, 0, -1):
        tags_U[u - 1] = from_UK[u, tags_U[u]]
    return tags_U


# --------------------------------------------------------------------------------------------------------------- words

_ASCII_WORDS = re.compile(r"\w+|[^\w\s\x00-\x1f\x7f]")
_IDEOGRAPHS = ((0x2E80, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
               (0x20000, 0x3FFFF))
_CJK = (*_IDEOGRAPHS, (0xFF01, 0xFFEF))
# Scripts that put no blanks between words: each character is one, as no rule here could part them better.
_UNSPACED = (*_IDEOGRAPHS, (0xFF66, 0xFF9D), (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))
_JOINER, _SKIN_TONES, _FLAG_LETTERS = "\u200d", range(0x1F3FB, 0x1F400), range(0x1F1E6, 0x1F200)


def _is_in(ranges: Sequence[tuple[int, int]], character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in ranges)


def split_words(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word: a run of letters and digits, or one other character; with its combining marks.

    The same whatever the backbone, so that gold does not depend on it. Invisible characters are in no word unless they
    join its letters (Persian, emoji).
    """
    if text.isascii():
        return [match.span() for match in _ASCII_WORDS.finditer(text)]
    words: list[tuple[int, int]] = []
    reach = -1  # where the last word may go on: its end, or behind invisible characters that follow it
    is_open = False  # whether letters may go on
    for i, character in enumerate(text):
        kind = unicodedata.category(character)
        if character.isspace() or kind in ("Cc", "Cf", "Zl", "Zp"):
            reach = i + 1 if kind == "Cf" and i == reach else reach
            continue
        is_letter = (character.isalnum() or character == "_") and not _is_in(_UNSPACED, character)
        if i == reach and (kind[0] == "M" or (is_letter and is_open) or _goes_on(text, words[-1], i)):
            words[-1] = (words[-1][0], i + 1)
        else:
            words.append((i, i + 1))
            is_open = is_letter
        reach = i + 1
    return words


def _goes_on(text: str, word: tuple[int, int], i: int) -> bool:
    """Whether the symbol at `i` is one sign with the emoji before it."""
    is_flag = word[1] - word[0] == 1 and ord(text[word[0]]) in _FLAG_LETTERS and ord(text[i]) in _FLAG_LETTERS
    is_symbol = unicodedata.category(text[i])[0] == "S"
    return is_flag or (is_symbol and (text[i - 1] == _JOINER or ord(text[i]) in _SKIN_TONES))


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens as one text, and where each stands: a space between them, none between Chinese or Japanese characters."""
    parts: list[str] = []
    words: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        if parts and not (_is_in(_CJK, parts[-1][-1]) and _is_in(_CJK, token[0])):
            parts.append(" ")
            at += 1
        parts.append(token)
        words.append((at, at + len(token)))
        at += len(token)
    return "".join(parts), words


def _places(tokens: Sequence[str], text: str) -> tuple[list[tuple[int, int]], int]:
    """Where each token stands in the text, one after another, and how many were found before one was not."""
    words: list[tuple[int, int]] = []
    at = 0
    for n, token in enumerate(tokens):
        start = text.find(token, at)
        if start < 0:
            return words, n
        at = start + len(token)
        words.append((start, at))
    return words, len(words)


def _each(words_W: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Units of one word."""
    return [(w, w + 1) for w in range(len(words_W))]


def _units(words_W: Sequence[tuple[int, int]], pieces: Sequence[Piece],
           stride: int) -> tuple[list[tuple[int, int]], list[list[tuple[int, int]]]]:
    """Which words can get an answer of their own, and where it is asked for.

    Returns  units: [first word, end) of words that share their first token, mostly one word; words that the tokenizer
             drops are in none. asked: for each piece (unit, place in the window), each unit once, where its first
             token has the most context.
    """
    inside = [[t for t, at in enumerate(piece.offsets_T) if at is not None] for piece in pieces]
    step = max(1, len(inside[0]) - stride)
    tokens = [(piece.offsets_T[t] or (0, 0)) for k, piece in enumerate(pieces)
              for t in (inside[k] if k == 0 else inside[k][stride:])]
    units: list[tuple[int, int]] = []
    asked: list[list[tuple[int, int]]] = [[] for _ in pieces]
    w = free = 0  # the first word that does not end before the token; the first one without a token
    for g, (start, end) in enumerate(tokens):
        while w < len(words_W) and words_W[w][1] <= start:
            w += 1
        first = stop = max(w, free)
        while stop < len(words_W) and words_W[stop][0] < end:
            stop += 1
        if stop > first:
            free = stop
            k = _best_window(g, [len(one) for one in inside], step) if len(pieces) > 1 else 0
            asked[k].append((len(units), inside[k][g - k * step]))
            units.append((first, stop))
    return units, asked


def _best_window(g: int, lengths: Sequence[int], step: int) -> int:
    """The window in which token `g` of the text is farthest from an edge that is not the text's own."""
    best, most = 0, -1
    for k in range(max(0, g // step - 2), min(len(lengths), g // step + 1)):
        left = g - k * step if k else len(lengths) * step
        right = k * step + lengths[k] - 1 - g
        if k == len(lengths) - 1 and right >= 0:
            right = len(lengths) * step
        if min(left, right) > most:
            best, most = k, min(left, right)
    return best


# -------------------------------------------------------------------------------------------------------------- report


def _most_frequent(counts: Counter[int]) -> tuple[int, float]:
    """(the most frequent, of equals the smallest; its share)."""
    best = min(counts, key=lambda k: (-counts[k], k))
    return best, counts[best] / counts.total()


def _touching(gold: set[Span], said: set[Span]) -> list[tuple[list[Span], list[Span]]]:
    """Gold and predicted spans that overlap, directly or through others, together."""
    groups: list[tuple[list[Span], list[Span]]] = []
    reach = -1
    for (start, end, label), side in sorted([(one, 0) for one in gold] + [(one, 1) for one in said]):
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
