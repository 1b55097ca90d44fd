"""A tag for every word: named entities, chunks; parts of speech.

    tokens + tags  or  text + entities  ->  text, words_W, spans  ->  a tag for each word's first token

The answer to a row is {"entities": [{"start", "end", "label", "text", "score"}]}; offsets count code points of the
row's text (tokens are joined to one). Rows given as tokens get "tags" too, in the scheme that the train rows use. Where
the tags have no scheme, as with parts of speech, every word is an entity of its own.

Shape suffixes: W words, U units (words that have a token of their own), G tokens of the text, T tokens of a window,
D width, K tags, L labels, N rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from ...core import metrics
from ...core.cells import normal_label, written_list
from ...core.errors import DataError, shorten
from ...core.reader import Reader
from ...core.task import N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_labels, flaw_of_text
from ...core.teaching import order_of
from ...core.values import IGNORE, LinearMap, MemberLogits, Prediction, Row, Window
from ...features import solve, tagger
from ...readers.words import join_tokens, places, split_words
from .entities import flaw_of_entities, flaw_of_tags, flaw_of_tokens, mistakes, normal_entities
from .tags import (
    PLAIN,
    SCHEMES,
    Span,
    flaw_of_sequence,
    mean_of_units,
    scheme_of,
    spans_to_tags,
    tags_to_spans,
    units_of,
    viterbi,
)

if TYPE_CHECKING:
    import torch


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
    columns: ClassVar = Columns(
        {},
        {"tokens": "a list of strings that are not empty", "text": "a string that is not empty",
         "tags": "a list of strings, one a token",
         "entities": "a list of {start, end, label}, in characters of the text, without overlap"},
        ("tags", "entities"),
        {"tokens": ("tokens", "words", "token"),
         "text": ("text", "sentence", "content", "文本", "内容"),
         "tags": ("tags", "ner_tags", "pos_tags", "chunk_tags", "ner", "pos", "upos", "labels", "tag", "标签"),
         "entities": ("entities", "spans", "entity", "实体")},
        (frozenset(("tokens", "tags")), frozenset(("text", "entities"))))
    options: ClassVar = ("stride", "constrained")
    baseline_titles: ClassVar = {"majority-tag": "the most frequent tag of each word",
                                 "linear-tagger": "a linear tagger of words and their neighbors"}
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
    def metric(self) -> str:
        """Entity F1, or with plain tags the accuracy of words, which is the same sum."""
        return "accuracy" if self.scheme == PLAIN else "f1"

    # ------------------------------------------------------------------------------------------------------- rows

    def normalized(self, row: Row) -> tuple[Row, str]:
        """Lists that a file holds as text; entities as triples; no blanks around an entity, a tag or a label."""
        changed: Row = {column: value for column in ("tokens", "tags") if column in row
                        and (value := written_list(row[column])) is not row[column]}
        if "tags" in row and (tags := normal_label(changed.get("tags", row["tags"]))) is not row["tags"]:
            changed["tags"] = tags
        entities, n_trimmed = normal_entities(row.get("entities"), row.get("text"))
        if entities is not row.get("entities"):
            changed["entities"] = entities
        count = "n_rows_with_trimmed_entities" if n_trimmed else "n_normalized_labels" if "tags" in changed else ""
        return ({**row, **changed}, count) if changed else (row, "")

    def check(self, row: Row) -> str | None:
        tokens, text = row.get("tokens"), row.get("text")
        if tokens is None and text is None:
            return '"tokens" is missing, and so is "text"; a row must have one of them'
        if text is not None and (flaw := flaw_of_text("text", text)):
            return flaw
        return flaw_of_tokens(tokens, text) or self._flaw_of_gold(row)

    def _flaw_of_gold(self, row: Row) -> str | None:
        tags, entities = row.get("tags"), row.get("entities")
        if tags is not None and entities is not None:
            return '"entities" stands beside "tags"; a row must have one kind of gold: leave one column out'
        if tags is not None:
            return flaw_of_tags(tags, row.get("tokens"))
        return None if entities is None else flaw_of_entities(entities, self.text(row))

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

    def flaw_of_learned(self) -> str | None:
        if self.scheme not in SCHEMES:
            return f"scheme is {shorten(self.scheme)}; known: {', '.join(SCHEMES)}"
        return flaw_of_labels(self.labels)

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        """A label that no train row has is no complaint: it counts as missed."""
        flaws = []
        for i, row in enumerate(rows):
            tags = row.get("tags")
            if tags is None and row.get("entities") is None:
                flaws.append((i, 'has neither "tags" nor "entities"'))
            elif tags is None and self.scheme == PLAIN:
                flaws.append((i, '"entities" cannot be compared with the plain tags of the train rows'))
            elif tags is not None and (flaw := flaw_of_sequence(tags, self.scheme)):
                flaws.append((i, f'"tags" {flaw}'))
        return flaws

    def stratum(self, row: Row) -> str:
        """The same for every row: a sentence has many labels, and the rare ones would stop every split."""
        return "any"

    def labels_of(self, row: Row) -> list[str]:
        return [label for _, _, label in self.spans(row, *self.read(row))]

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
        words, n_found = places(tokens, text)
        assert n_found == len(tokens)
        return text, words

    def spans(self, row: Row, text: str, words_W: Sequence[tuple[int, int]]) -> list[Span]:
        """The row's own gold in characters, in order; all of it, whether a model could answer so or not."""
        entities = row.get("entities")
        if entities is not None:
            return sorted((entity["start"], entity["end"], entity["label"]) for entity in entities)
        return [(words_W[first][0], words_W[end - 1][1], label)
                for first, end, label in tags_to_spans(row["tags"], self.scheme)]

    # ---------------------------------------------------------------------------------------------------- windows

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        text, words_W = self.read(row)
        stride = min(self.stride, reader.max_tokens // 3)  # more would read every token many times
        pieces = reader.read_windows(text, overlap=stride)
        units, chosen_of_piece = units_of(words_W, pieces, stride)
        has_gold = row.get("tags") is not None or row.get("entities") is not None
        tags_U = self._targets(self.spans(row, text, words_W), units, words_W) if has_gold else []
        windows = []
        for piece, chosen in zip(pieces, chosen_of_piece, strict=True):
            if not chosen:
                continue  # no word has its place here, such as in a text of nothing but invisible characters
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
    def head(self) -> Head:
        return Head("tokens", len(self.tags_K), "AutoModelForTokenClassification")

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        has_gold_BT = target["tags"] != IGNORE
        return logits[has_gold_BT], target["tags"][has_gold_BT]

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits[..., order_of(self.tags_K, teacher.tags_K)])

    def placeholder(self, row: Row) -> Row:
        words_W = self.read(row)[1] if self.scheme == PLAIN else ()
        return {**row, "entities": [{"start": start, "end": end, "label": self.labels[0]} for start, end in words_W]}

    def classes(self, target: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(target["tags"][target["tags"] != IGNORE])

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        has_gold_M = target["tags"] != IGNORE
        return solve.solve_head(features_MD[has_gold_M], target["tags"][has_gold_M], self.n_outputs, score,
                                class_weights)

    # ---------------------------------------------------------------------------------------------------- answers

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        of_units = self._of_units(windows, logits)
        if not of_units:
            return self._answer(row, [], [], [])
        return self._best(row, list(of_units), np.stack(list(of_units.values())),
                          self._barred_KK if self.constrained else None)

    def _of_units(self, windows: Sequence[Window],
                  logits: Sequence[np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
        """Unit -> its logits_K, in the order of the text."""
        of_units: dict[tuple[int, int], np.ndarray] = {}
        for window, logits_TK in zip(windows, logits, strict=True):
            units = np.asarray(window.notes["units"]).tolist()  # pairs, or a store's array of them
            of_units |= zip(map(tuple, units), logits_TK[window.notes["at"]], strict=True)
        return dict(sorted(of_units.items()))

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        """The best sequence by the weighted mean of each unit's probabilities, over the members that read it."""
        of_members = []
        for member in members:
            assert isinstance(member.task, TokenClassification), "members answer one question"
            order = [member.task.tags_K.index(tag) for tag in self.tags_K]
            of_units = member.task._of_units(member.windows, member.logits)
            of_members.append({unit: metrics.softmax(logits_K)[order] for unit, logits_K in of_units.items()})
        units, logits_UK = mean_of_units(of_members, weights_M)
        if not units:
            return self._answer(row, [], [], [])
        return self._best(row, units, logits_UK, self._barred_KK if self.constrained else None)

    def _best(self, row: Row, units: Sequence[tuple[int, int]], logits_UK: np.ndarray,
              follows_KK: np.ndarray | None) -> Prediction:
        """The best sequence of tags, where follows_KK is added for each two in a row; None: each unit's best tag."""
        tags_U = viterbi(logits_UK, follows_KK) if follows_KK is not None else logits_UK.argmax(1)
        shares_U = np.take_along_axis(metrics.softmax(logits_UK), tags_U[:, None], 1)[:, 0]
        return self._answer(row, units, tags_U.tolist(), shares_U.tolist())

    def _answer(self, row: Row, units: Sequence[tuple[int, int]], tags_U: Sequence[int],
                shares_U: Sequence[float]) -> Prediction:
        """The tags of units and their shares of one, as the user sees them."""
        text, words_W = self.read(row)
        tags = [self.tags_K[k] for k in tags_U]
        if self.scheme == PLAIN:
            spans, shares = self._every_word(len(words_W), units, tags, shares_U)
        else:
            tagged = tags_to_spans(tags, "IOB2")
            shares = [sum(shares_U[first:end]) / (end - first) for first, end, _ in tagged]
            spans = [(units[first][0], units[end - 1][1], label) for first, end, label in tagged]
        entities = []
        for (first, stop, label), share in zip(spans, shares, strict=True):
            start, end = words_W[first][0], words_W[stop - 1][1]
            entities.append({"start": start, "end": end, "label": label, "text": text[start:end],
                             "score": round(share, 6)})
        answer: Prediction = {"entities": entities}
        if row.get("tokens") is not None:
            answer["tags"] = spans_to_tags(spans, len(words_W), self.scheme)
        return answer

    def _every_word(self, n_words: int, units: Sequence[tuple[int, int]], tags: Sequence[str],
                    shares_U: Sequence[float]) -> tuple[list[Span], list[float]]:
        """A plain tag for each word; one that no token stands for has the tag of the word before."""
        tag, share, u = tags[0] if tags else self.labels[0], 0.0, 0
        spans, shares = [], []
        for w in range(n_words):
            while u < len(units) and units[u][1] <= w:
                u += 1
            has_tag = u < len(units) and units[u][0] <= w
            tag, share = (tags[u], shares_U[u]) if has_tag else (tag, 0.0)
            spans.append((w, w + 1, tag))
            shares.append(share)
        return spans, shares

    # ----------------------------------------------------------------------------------------------------- scores

    def _both(self, prediction: Prediction, row: Row) -> tuple[set[Span], set[Span]]:
        """(gold, predicted) spans of a row."""
        gold = set(self.spans(row, *self.read(row)))
        return gold, {(entity["start"], entity["end"], entity["label"]) for entity in prediction["entities"]}

    def confidence(self, prediction: Prediction) -> float | None:
        """Of its least certain span; None for an answer without any."""
        return min((float(entity["score"]) for entity in prediction["entities"]), default=None)

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 3]: how many spans are right, how many were predicted and how many there are."""
        pairs = (self._both(p, r) for p, r in zip(predictions, rows, strict=True))
        counts = [(len(gold & predicted), len(predicted), len(gold)) for gold, predicted in pairs]
        return np.array(counts, np.int64).reshape(-1, 3)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        n_right, n_predicted, n_gold = (int(n) for n in outcomes.sum(0))
        if self.scheme == PLAIN:
            return {"accuracy": n_right / n_gold if n_gold else 0.0}
        scores = metrics.of_counts(n_right, n_gold, n_predicted)
        return {name: scores[name] for name in ("f1", "precision", "recall")}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        words = {name: [_words(*self.read(row)) for row in rows] for name, rows in (("train", train), ("test", test))}
        tags = [self._targets(self.spans(row, *self.read(row)), _each(self.read(row)[1]), self.read(row)[1])
                for row in train]
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for words_W, tags_W in zip(words["train"], tags, strict=True):
            for word, k in zip(words_W, tags_W, strict=True):
                counts[word][k] += 1
        total = sum(counts.values(), Counter())
        usual = total if self.scheme == PLAIN else Counter({0: 1})
        best = {word: _most_frequent(tags) for word, tags in counts.items()}
        fallback = _most_frequent(usual)
        answers = []
        for row, words_W in zip(test, words["test"], strict=True):
            best_W = [best.get(word, fallback) for word in words_W]
            answers.append(self._answer(row, _each(words_W), [k for k, _ in best_W], [share for _, share in best_W]))
        yield "majority-tag", answers
        margins, follows_KK = tagger.tag_margins(words["train"], tags, self.n_outputs, words["test"], seed)
        yield "linear-tagger", [self._best(row, _each(words_W), margins_WK, self._barred_KK + follows_KK)
                                for row, words_W, margins_WK in zip(test, words["test"], margins, strict=True)]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        both = [self._both(p, r) for p, r in zip(predictions, rows, strict=True)]
        counts = {label: [0, 0, 0] for label in self.labels}
        for gold, predicted in both:
            for at, spans in enumerate((gold & predicted, predicted, gold)):
                for _, _, label in spans:
                    counts.setdefault(label, [0, 0, 0])[at] += 1
        details: dict[str, Any] = {
            "labels": sorted(counts), "counted": "words" if self.scheme == PLAIN else "entities",
            "per_label": [{"label": label, **metrics.of_counts(n_right, n_gold, n_predicted)}
                          for label, (n_right, n_predicted, n_gold) in sorted(counts.items())],
            "mistakes": mistakes(lambda i: self.text(rows[i]), both, [p["entities"] for p in predictions],
                                 N_MISTAKES_SHOWN),
        }
        if self.scheme == PLAIN:
            details["confused_pairs"] = self._confused_pairs(both, details["labels"])
        n_out_of_reach = sum(self._n_out_of_reach(gold, row) for (gold, _), row in zip(both, rows, strict=True))
        if n_out_of_reach:
            details["n_out_of_reach"] = n_out_of_reach
        return details

    @staticmethod
    def _confused_pairs(both: Sequence[tuple[set[Span], set[Span]]], labels: Sequence[str]) -> list[list[int]]:
        index = {label: k for k, label in enumerate(labels)}
        pairs = [(index[g[2]], index[p[2]]) for gold, predicted in both
                 for g, p in zip(sorted(gold), sorted(predicted), strict=True)]
        gold_N, predicted_N = np.array(pairs, np.int64).reshape(-1, 2).T
        return metrics.confused_pairs(gold_N, predicted_N, len(labels))

    def _n_out_of_reach(self, gold: set[Span], row: Row) -> int:
        """How many gold spans no answer can be: they end inside a word, or no train row has their label."""
        words_W = self.read(row)[1]
        starts, ends = {start for start, _ in words_W}, {end for _, end in words_W}
        return sum(s not in starts or e not in ends or label not in self.labels for s, e, label in gold)

    def describe(self) -> dict[str, Any]:
        return {"id2label": {str(k): tag for k, tag in enumerate(self.tags_K)}, "label2id": self._index}


def _words(text: str, words_W: Sequence[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in words_W]


def _each(words_W: Sequence[Any]) -> list[tuple[int, int]]:
    """Units of one word."""
    return [(w, w + 1) for w in range(len(words_W))]


def _most_frequent(counts: Counter[int]) -> tuple[int, float]:
    """(the most frequent, of equals the smallest; its share)."""
    best = min(counts, key=lambda k: (-counts[k], k))
    return best, counts[best] / counts.total()
