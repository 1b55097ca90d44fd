"""The words of a text that answer a question, or that nothing in it does: SQuAD v1 and v2, CMRC.

The answer to a row is {"answer": str, "start": int, "end": int, "score": float}: `answer` is context[start:end], and
`score` is the probability that the model gives to this start times that of this end, among the tokens of the window
where the answer stands. A task learned on rows of which some have no answer adds "no_answer_score", the probability of
no answer against that of the best span, "score_difference", the same as the difference of their logits, and
"best_span"; where nothing answers, `answer` is "", `start` and `end` are null and `score` is "no_answer_score".

A long context is read as windows that overlap. Position 0 of a window stands for "not in this window": spans of
several windows are compared by how far each lies above its own.

Source  Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions"; Rajpurkar et al. 2018, "Know What You Don't Know"; Devlin et
        al. 2019, "BERT", section 4.3 (the null span and its threshold); Cui et al. 2019, "A Span-Extraction Dataset for
        Chinese Machine Reading Comprehension" (scores by character).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from ...core.errors import DataError
from ...core.reader import Reader
from ...core.task import N_MISTAKES_SHOWN, Columns, Head, Task, flaw_of_text
from ...core.untrusted import parse_json
from ...core.values import MemberLogits, Prediction, Row, Window
from .squad import compare, gold_spans, gold_texts, n_answers, tokens, whole

if TYPE_CHECKING:
    import torch

CLOSED = -1e4  # the score of a position where no answer may begin or end
MISTAKE_F1 = 0.5  # an answer that shares less with every gold one is shown as a mistake
CONTEXT_CHARS = 90  # of a mistake, shown on either side of the answer

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_QUESTION_WORD = re.compile(r"\b(how (?:many|much|long|old)|what|which|whom|whose|who|when|where|why|how)\b|"
                            r"(为什么|为何|什么时候|何时|哪|谁|多少|几|怎么|如何|什么)")


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """A span of the context that answers the question.

    stride:            tokens that neighboring windows of a long context share, at most a third of a window.
    max_answer_tokens: longest answer that is given.
    has_unanswerable:  whether a train row had no answer; otherwise every question is answered.
    null_threshold:    no answer is given where its logit lies further than this above that of the best span.
    """

    name: ClassVar = "question-answering"
    columns: ClassVar = Columns(
        {"question": "a string that is not empty", "context": "the text to answer from, a string that is not empty"},
        {"answers": '{"text": [...], "answer_start": [...]}, empty lists where nothing in the context answers',
         "answer": "the answer as the context has it, empty where nothing answers",
         "answer_start": "the number of characters before the answer, from 0", "is_impossible": "true or false"},
        ("answers", "answer", "answer_start", "is_impossible"),
        {"question": ("question", "query", "问题"),
         "context": ("context", "passage", "paragraph", "article", "document", "text", "上下文", "段落", "文章"),
         "answers": ("answers",), "answer": ("answer", "answer_text", "答案"), "answer_start": ("answer_start",),
         "is_impossible": ("is_impossible",)},
        (frozenset(("question", "context", "answers")), frozenset(("question", "context", "answer", "answer_start"))))
    options: ClassVar = ("stride", "max_answer_tokens")
    metric: ClassVar = "f1"
    baseline_titles: ClassVar = {"no-answer": "never answering", "first-sentence": "the first sentence",
                                 "best-sentence": "the sentence most like the question"}
    examples: ClassVar = (
        {"question": "What was broken?", "context": "We found the phone broken. It was cold.",
         "answers": {"text": ["phone", "the phone"], "answer_start": [13, 9]}},
        {"question": "Who was rude?", "context": "The room was lovely, and the staff was rude.",
         "answers": {"text": ["the staff"], "answer_start": [25]}},
        {"question": "Who was kind?", "context": "It was a very dull story.",
         "answers": {"text": [], "answer_start": []}},
        {"question": "房间怎么样？", "context": "服务也好，房间很干净。",
         "answers": {"text": ["很干净"], "answer_start": [7]}},
    )

    stride: Annotated[int, Field(ge=0)] = 128
    max_answer_tokens: Annotated[int, Field(ge=1)] = 30
    has_unanswerable: bool = False
    null_threshold: float = 0.0

    @property
    def defaults(self) -> dict[str, Any]:
        # Question and paragraph together: few of SQuAD's are longer, and batches are as long as their own rows alone.
        return {"data": {"max_tokens": 384}}

    def normalized(self, row: Row) -> tuple[Row, str]:
        """Answers that the cell of a CSV file holds as JSON."""
        answers = row.get("answers")
        if isinstance(answers, str) and answers.lstrip().startswith(("{", "[")):
            with suppress(DataError):  # `check` says what the column must hold
                return {**row, "answers": parse_json(answers, "answers", DataError)}, "n_normalized_labels"
        return row, ""

    def check(self, row: Row) -> str | None:
        for column in ("question", "context"):
            if flaw := flaw_of_text(column, row.get(column, "-")):
                return flaw
        spans = gold_spans(row)
        return spans if isinstance(spans, str) else None

    def learn(self, rows: Sequence[Row]) -> Self:
        counts = [n_answers(row) for row in rows]
        if None in counts:
            raise DataError("", 'the rows have neither "answers" nor "answer".',
                            "Say which column it is: --set data.columns.answers=NAME (or data.columns.answer=NAME)")
        if not any(counts):
            raise DataError("answers", f"none of {len(rows):,} rows has an answer; there is nothing to learn from.",
                            "Is this the right column? --set data.columns.answers=NAME")
        return replace(self, has_unanswerable=not all(counts))

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        flaws = []
        for i, row in enumerate(rows):
            n = n_answers(row)
            if n is None:
                flaws.append((i, 'has neither "answers" nor "answer"'))
            elif n == 0 and not self.has_unanswerable:
                flaws.append((i, "has no answer, and every train row has one"))
        return flaws

    def stratum(self, row: Row) -> str:
        return "answer" if n_answers(row) else "no answer"

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        # A question takes half of a window at most; with more shared than a third, windows would hardly move on.
        pieces = reader.read_windows(row["context"], row["question"], min(self.stride, reader.max_tokens // 3))
        places = [_places(piece.offsets_T) for piece in pieces]
        spans = gold_spans(row)
        targets: list[dict[str, Any]] = [{}] * len(pieces)
        if isinstance(spans, list):
            targets = [{"start": start, "end": end, "open": _open(first, len(offsets_C2), len(piece.offsets_T))}
                       for piece, (first, offsets_C2), (start, end) in
                       zip(pieces, places, _positions(places, spans), strict=True)]
        return [Window(i, piece.inputs, target, {"n_cut_tokens": piece.n_cut_tokens, "first": first,
                                                 "offsets_C2": offsets_C2})
                for piece, target, (first, offsets_C2) in zip(pieces, targets, places, strict=True)]

    @property
    def head(self) -> Head:
        return Head("tokens", 2)

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Two lines a window: where the answer starts, and where it ends, over the open positions."""
        import torch

        scores_B2T = logits.transpose(1, 2).masked_fill(target["open"].ne(1)[:, None, :], CLOSED)
        return scores_B2T.flatten(0, 1), torch.stack((target["start"], target["end"]), 1).flatten()

    def placeholder(self, row: Row) -> Row:
        return {**row, "answers": {"text": [], "answer_start": []}}

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy as (sum, count). Label smoothing spreads its share over the open positions alone."""
        from torch.nn.functional import log_softmax

        scores_NT, gold_N = self.aligned(logits, target)
        log_shares_NT = log_softmax(scores_NT.float(), -1)
        summed = -log_shares_NT.gather(1, gold_N[:, None]).sum()
        if label_smoothing:
            open_NT = target["open"].eq(1).repeat_interleave(2, 0)
            even = (log_shares_NT.masked_fill(~open_NT, 0.0).sum(-1) / open_NT.sum(-1)).sum()
            summed = (1 - label_smoothing) * summed - label_smoothing * even
        return summed, gold_N.new_full((), len(gold_N))

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        spans = [span for window, logits_T2 in zip(windows, logits, strict=True)
                 if (span := self._best_span(row["context"], window, logits_T2))]
        if not spans:  # the tokenizer sees nothing in this context
            return self._answer(None, -CLOSED)
        above, start, end, share = max(spans, key=lambda span: span[0])
        best = {"answer": row["context"][start:end], "start": start, "end": end, "score": round(share, 6)}
        return self._answer(best, round(-above, 6))

    def _answer(self, best: dict[str, Any] | None, difference: float) -> Prediction:
        if not self.has_unanswerable:
            return best or {"answer": "", "start": None, "end": None, "score": 0.0}
        no_answer = 1 / (1 + math.exp(min(-difference, 700.0)))
        return self.apply_threshold({"answer": "", "start": None, "end": None, "score": 0.0,
                            "no_answer_score": round(no_answer, 6), "score_difference": difference, "best_span": best})

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        """The span with the largest sum of weighted probabilities; of "no answer" the weighted mean."""
        answers = [member.answer(row) for member in members]
        spans = [answer.get("best_span", answer) for answer in answers]
        sums: dict[tuple[int, int], float] = {}
        for span, weight in zip(spans, weights_M.tolist(), strict=True):
            if span is not None and span["start"] is not None:
                place = (span["start"], span["end"])
                sums[place] = sums.get(place, 0.0) + weight * span["score"]
        best: dict[str, Any] | None = None
        if sums:
            (start, end), share = max(sums.items(), key=lambda item: item[1])
            best = {"answer": row["context"][start:end], "start": start, "end": end, "score": round(share, 6)}
        differences = [answer.get("score_difference", 0.0) for answer in answers]
        return self._answer(best, round(float(weights_M @ differences), 6))

    def _best_span(self, context: str, window: Window, logits_T2: np.ndarray) -> tuple[float, int, int, float] | None:
        """(how far above "not in this window", start, end, probability) of the best span of one window."""
        offsets_C2, first = window.notes["offsets_C2"], window.notes["first"]
        n = len(offsets_C2)
        if n == 0:
            return None
        z_C2 = np.asarray(logits_T2[first : first + n], np.float64)
        longest = min(self.max_answer_tokens, n)
        ends = np.concatenate((z_C2[:, 1], np.full(longest - 1, -np.inf)))
        sums_CL = z_C2[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, longest)
        while True:
            s, length = divmod(int(sums_CL.argmax()), longest)
            if sums_CL[s, length] == -np.inf:
                return None
            start, end = whole(context, int(offsets_C2[s, 0]), int(offsets_C2[s + length, 1]))
            if start < end:
                break
            sums_CL[s, length] = -np.inf  # nothing but blanks
        nothing_2 = np.asarray(logits_T2[0], np.float64)
        considered = np.concatenate((nothing_2[None], z_C2)) if self.has_unanswerable else z_C2
        top_2 = considered.max(0)
        log_share = z_C2[s, 0] + z_C2[s + length, 1] - (top_2 + np.log(np.exp(considered - top_2).sum(0))).sum()
        return float(sums_CL[s, length] - nothing_2.sum()), start, end, float(np.exp(log_share))

    def confidence(self, prediction: Prediction) -> float:
        return float(prediction["score"])

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 3]: whether the answer is exactly right, its F1, and whether there is one."""
        return np.array([(*compare(p["answer"], golds := gold_texts(row)), bool(golds))
                         for p, row in zip(predictions, rows, strict=True)], np.float64).reshape(-1, 3)

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        scores = {"f1": float(outcomes[:, 1].mean()), "exact_match": float(outcomes[:, 0].mean())}
        if self.has_unanswerable:
            has_answer = outcomes[:, 2] > 0
            if has_answer.any():
                scores |= {"f1_has_answer": float(outcomes[has_answer, 1].mean()),
                           "exact_match_has_answer": float(outcomes[has_answer, 0].mean())}
            if not has_answer.all():
                scores["accuracy_no_answer"] = float(outcomes[~has_answer, 0].mean())
        return scores

    def calibrate(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """The task with the null threshold of the best F1; of equals, the nearest to zero."""
        if not self.has_unanswerable or not rows:
            return self
        spans = [p["best_span"] or {"answer": ""} for p in predictions]
        difference_N = np.array([p["score_difference"] for p in predictions])
        order = np.argsort(difference_N, kind="stable")
        gain_N = self.outcomes(spans, rows)[:, 1] - self.outcomes([{"answer": ""}] * len(rows), rows)[:, 1]
        gains = np.append(0.0, np.cumsum(gain_N[order]))  # of answering the first 0, 1, ... rows
        sorted_N = difference_N[order]
        ends = np.concatenate(([sorted_N[0] - 1], sorted_N, [sorted_N[-1] + 1]))
        thresholds = np.round((ends[1:] + ends[:-1]) / 2, 6)
        can_be = np.append(True, (sorted_N[:-1] <= thresholds[1:-1]) & (thresholds[1:-1] < sorted_N[1:]))
        can_be = np.append(can_be, True)
        best = can_be & (gains >= gains[can_be].max() - 1e-9)
        return replace(self, null_threshold=float(thresholds[best][np.abs(thresholds[best]).argmin()]))

    def apply_threshold(self, prediction: Prediction) -> Prediction:
        if "best_span" not in prediction:
            return prediction
        best = prediction["best_span"]
        if best is None or prediction["score_difference"] > self.null_threshold:
            best = {"answer": "", "start": None, "end": None, "score": prediction["no_answer_score"]}
        return {**prediction, **best}

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        if self.has_unanswerable:
            yield "no-answer", [{"answer": "", "start": None, "end": None, "score": 1.0}] * len(test)
        yield "first-sentence", [_sentences(row["context"])[0] for row in test]
        sentences = [set(tokens(sentence["answer"])) for context in {row["context"] for row in train}
                     for sentence in _sentences(context)]
        n_with = Counter(word for words in sentences for word in words)
        yield "best-sentence", [_best_sentence(row, n_with, len(sentences)) for row in test]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        outcomes_N3 = self.outcomes(predictions, rows)
        wrong = sorted(map(int, np.flatnonzero(outcomes_N3[:, 1] < MISTAKE_F1)),
                       key=lambda i: -self.confidence(predictions[i]))[:N_MISTAKES_SHOWN]
        words = np.array([_question_word(row["question"]) for row in rows])
        by_word = []
        for word, n in sorted(Counter(words.tolist()).items(), key=lambda item: (-item[1], item[0])):
            chosen = outcomes_N3[words == word]
            by_word.append({"label": word, "n": n, "f1": float(chosen[:, 1].mean()),
                            "exact_match": float(chosen[:, 0].mean())})
        return {
            "groups": {"by": "question word", "rows": by_word},
            "mistakes": [{"text": _excerpt(rows[i], predictions[i]), "confidence": self.confidence(predictions[i]),
                          "label": " | ".join(dict.fromkeys(gold_texts(rows[i]))) or "(no answer)",
                          "predicted": predictions[i]["answer"] or "(no answer)"} for i in wrong],
        }


# ---------------------------------------------------------------------------------------------------- windows


Places = tuple[int, np.ndarray]  # index of the first context token, offsets_C2 of all C of them


def _places(offsets_T: Sequence[tuple[int, int] | None]) -> Places:
    inside = [at for at in offsets_T if at is not None]
    first = next((t for t, at in enumerate(offsets_T) if at is not None), 0)
    return first, np.array(inside, np.int32).reshape(-1, 2)


def _open(first: int, n: int, n_tokens: int) -> list[int]:
    """open_T: 1 where an answer may begin or end, and at position 0."""
    open_T = [0] * first + [1] * n + [0] * (n_tokens - first - n)
    open_T[0] = 1
    return open_T


def _positions(places: Sequence[Places], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first token, last token) of the answer in each window; (0, 0) where it is not whole in it, or not at all."""
    if not spans:
        return [(0, 0)] * len(places)
    start, end = spans[0]
    touched = [np.flatnonzero((offsets_C2[:, 1] > start) & (offsets_C2[:, 0] < end)) for _, offsets_C2 in places]
    held = [offsets_C2[at] for (_, offsets_C2), at in zip(places, touched, strict=True) if len(at)]
    if not held:
        return [(0, 0)] * len(places)
    begins, ends = min(int(at[:, 0].min()) for at in held), max(int(at[:, 1].max()) for at in held)
    return [(first + int(at[0]), first + int(at[-1]))
            if len(at) and offsets_C2[at, 0].min() == begins and offsets_C2[at, 1].max() == ends else (0, 0)
            for (first, offsets_C2), at in zip(places, touched, strict=True)]


# ---------------------------------------------------------------------------------------- baselines and the report


def _sentences(context: str) -> list[Prediction]:
    """The sentences of a text as answers, roughly parted."""
    ends = [match.span() for match in _SENTENCE_END.finditer(context)]
    starts = [0, *(end for _, end in ends)]
    spans = [whole(context, start, end) for start, end in
             zip(starts, [*(start for start, _ in ends), len(context)], strict=True)]
    return [{"answer": context[start:end], "start": start, "end": end, "score": 1.0}
            for start, end in spans if start < end]


def _best_sentence(row: Row, n_with: Counter[str], n_sentences: int) -> Prediction:
    """The sentence with the most of the question's words, rare ones weighing more; of equals, the first.

    n_with: how many of the `n_sentences` of train contexts have a word.
    """
    words = set(tokens(row["question"]))
    weigh = {word: math.log((1 + n_sentences) / (1 + n_with[word])) for word in words}
    return max(_sentences(row["context"]),
               key=lambda sentence: sum(weigh[word] for word in sorted(words & set(tokens(sentence["answer"])))))


def _question_word(question: str) -> str:
    match = _QUESTION_WORD.search(question.lower())
    word = match[0] if match else "other"
    return "who" if word in ("whom", "whose") else word


def _excerpt(row: Row, prediction: Prediction) -> str:
    """The question, and the context around the gold answer, or around the given one where there is none."""
    context, spans = row["context"], gold_spans(row)
    predicted = prediction["start"] or 0, prediction["end"] or 0
    start, end = spans[0] if spans and not isinstance(spans, str) else predicted
    first, last = max(0, start - CONTEXT_CHARS), min(len(context), end + CONTEXT_CHARS)
    return (f"{row['question']} — {'…' if first else ''}{context[first:last]}"
            f"{'…' if last < len(context) else ''}")
