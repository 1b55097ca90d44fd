"""Texts token by token, from the logits that any Stepper gives: greedy, drawn, or by beams. numpy only.

    continuations = write(stepper, inputs, Generation(), ends={2}, limits_B=[64, 64])

Each text is decided by its own logits alone: what stands beside it in a batch changes no text, and what is finished
leaves the batch. Random numbers come from (seed, prompt, number of the candidate).

Shape suffixes: B prompts, or texts in a step; C texts that are written, T tokens, V vocabulary, K beams.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from .generation import Generation
from .values import Constraint, Stepper

NEVER = -math.inf


@dataclass(frozen=True)
class Continuation:
    """What was written behind one prompt.

    ids:               the tokens; an end token is not among them.
    log_probabilities: of each token by the model itself, whatever was allowed; of the end token too, if it came.
    end_id:            the token that ended it; None where it was stopped, or reached its limit.
    is_complete:       whether it ended before its limit.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    end_id: int | None
    is_complete: bool

    def value(self, length_penalty: float) -> float:
        """What texts of unequal lengths are compared by: log-probability over length to the power of the penalty."""
        return _value(sum(self.log_probabilities), len(self.log_probabilities), length_penalty)


def _value(log_probability: float, n_tokens: int, length_penalty: float) -> float:
    return float(log_probability / max(1, n_tokens) ** length_penalty)


def written_ids(written: Continuation) -> list[int]:
    """All tokens whose log-probabilities it has, the end token too."""
    return [*written.ids, *([] if written.end_id is None else [written.end_id])]


@dataclass
class _Text:
    """A text on its way."""

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        return sum(self.log_probabilities)

    def plus(self, token: int, log_probability: float) -> _Text:
        return _Text([*self.ids, token], [*self.log_probabilities, log_probability])

    def finished(self, end_id: int | None, is_complete: bool) -> Continuation:
        n = len(self.ids) - (end_id is not None)
        return Continuation(tuple(self.ids[:n]), tuple(self.log_probabilities), end_id, is_complete)


def write(stepper: Stepper, inputs: dict[str, np.ndarray], how: Generation, *, ends: Collection[int],
          limits_B: Sequence[int], is_stopped: Callable[[Sequence[int]], bool] | None = None,
          constraints_C: Sequence[Constraint | None] = ()) -> list[Continuation]:
    """A continuation of each prompt; of each `how.candidates`, those of one prompt one after the other.

    inputs:        prompts as a padded batch, [B, T] each.
    ends:          tokens that end a text.  limits_B: how many tokens each may have at most, an end token counted.
    is_stopped:    whether ids written so far hold a text that ends them.
    constraints_C: what each text must keep to, each candidate by itself; () or None: nothing.
    """
    constraints = list(constraints_C) or [None] * (len(limits_B) * how.candidates)
    follow = _beams if how.beams > 1 else _singles
    return follow(stepper, inputs, how, frozenset(ends), limits_B, is_stopped or (lambda _ids: False), constraints)


def log_softmax(logits_BV: np.ndarray) -> np.ndarray:
    """Log-probabilities, [B, V] float32."""
    shifted_BV = logits_BV - logits_BV.max(1, keepdims=True)
    return np.asarray(shifted_BV - np.log(np.exp(shifted_BV).sum(1, keepdims=True)))


def _singles(stepper: Stepper, inputs: dict[str, np.ndarray], how: Generation, ends: frozenset[int],
             limits_B: Sequence[int], is_stopped: Callable[[Sequence[int]], bool],
             constraints_C: Sequence[Constraint | None]) -> list[Continuation]:
    """C texts: of each prompt `how.candidates`, which go on from one reading of it."""
    state, logits_BV = stepper.begin(inputs)
    texts = [_Text() for _ in constraints_C]
    draws = [_random(how, ids, n) for ids in _prompts(inputs) for n in range(how.candidates)]
    done: dict[int, Continuation] = {}
    active = {c: c // how.candidates for c in range(len(texts))}  # texts that go on, and the line of each in the state
    while active:
        log_p_BV = log_softmax(logits_BV)
        going: dict[int, int] = {}
        for c, line in active.items():
            text, scores_V = texts[c], _limited(log_p_BV[line], texts[c].ids, how, constraints_C[c])
            token = int(scores_V.argmax()) if draws[c] is None else _drawn(scores_V, how, draws[c])
            text.ids.append(token)
            text.log_probabilities.append(float(log_p_BV[line, token]))
            if (end := _end_of(text.ids, ends, limits_B[c // how.candidates], is_stopped)) is not None:
                done[c] = text.finished(token if token in ends else None, end)
            else:
                going[c] = line
        if not going:
            break
        state, logits_BV = stepper.step(state, np.array([texts[c].ids[-1] for c in going]), np.array([*going.values()]))
        active = {c: line for line, c in enumerate(going)}
    return [done[c] for c in range(len(texts))]


def _end_of(ids: Sequence[int], ends: frozenset[int], limit: int,
            is_stopped: Callable[[Sequence[int]], bool]) -> bool | None:
    """Whether a text that ends here is complete; None where it goes on."""
    if ids[-1] in ends or is_stopped(ids):
        return True
    return False if len(ids) >= limit else None


def _limited(log_p_V: np.ndarray, ids: Sequence[int], how: Generation, constraint: Constraint | None) -> np.ndarray:
    """Log-probabilities in which what must not come is -inf. Where nothing would be left, all is as it was."""
    repeated = _repeating(ids, how.no_repeat_ngram)
    allowed_V = constraint(ids) if constraint is not None else None
    if not repeated and allowed_V is None:
        return log_p_V
    scores_V = log_p_V.copy()
    if allowed_V is not None:
        scores_V[: len(allowed_V)][~allowed_V] = NEVER
        scores_V[len(allowed_V):] = NEVER  # rows of the embedding that no token has
    if not np.isfinite(scores_V.max()):
        return log_p_V
    before_V = scores_V.copy()
    scores_V[repeated] = NEVER
    return scores_V if np.isfinite(scores_V.max()) else before_V


def _repeating(ids: Sequence[int], n: int) -> list[int]:
    """The tokens that would end a run of n tokens which stands in `ids` already."""
    if not n or len(ids) < n:
        return []
    tail = tuple(ids[len(ids) - n + 1 :])
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i : i + n - 1]) == tail]


def _prompts(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [ids_T[:n] for ids_T, n in zip(inputs["input_ids"], inputs["attention_mask"].sum(1), strict=True)]


def _random(how: Generation, ids_T: np.ndarray, candidate: int) -> np.random.Generator | None:
    """What draws the tokens of a prompt's candidate; None where none are drawn."""
    if not how.temperature:
        return None
    digest = hashlib.blake2b(np.ascontiguousarray(ids_T, np.int64).tobytes(), digest_size=16).digest()
    numbers = [how.seed, *np.frombuffer(digest, np.uint32).tolist()]
    return np.random.default_rng([*numbers, candidate] if candidate else numbers)  # the first is drawn as if alone


def _drawn(scores_V: np.ndarray, how: Generation, rng: np.random.Generator | None) -> int:
    """A token drawn by its probability, the likeliest first, so that rounding far behind changes nothing before."""
    assert rng is not None
    order_V = np.argsort(-scores_V, kind="stable")
    p_V = np.exp((scores_V[order_V] - scores_V[order_V[0]]).astype(np.float64) / how.temperature)
    n = int((p_V >= how.min_p).sum()) if how.min_p else len(p_V)
    shares_V = np.cumsum(p_V[:n]) / p_V[:n].sum()
    if how.top_p < 1:
        n = min(n, int(np.searchsorted(shares_V, how.top_p)) + 1)
    return int(order_V[min(int(np.searchsorted(shares_V[:n], rng.random() * shares_V[n - 1], "right")), n - 1)])


# --------------------------------------------------------------------------------------------------------- beams


@dataclass
class _Beams:
    """The beams of one prompt: texts that go on, and the best that have ended."""

    k: int
    penalty: float
    going: list[_Text]
    ended: list[tuple[float, Continuation]] = field(default_factory=list)

    def value(self, score: float, n: int) -> float:
        """What texts of unequal lengths are compared by."""
        return _value(score, n, self.penalty)

    def end(self, text: _Text, end_id: int | None, is_complete: bool) -> None:
        self.ended.append((self.value(text.score, len(text.ids)), text.finished(end_id, is_complete)))
        self.ended.sort(key=lambda entry: -entry[0])
        del self.ended[self.k :]

    @property
    def is_done(self) -> bool:
        """Whether no text that goes on can still be better, at its present length, than k that have ended."""
        if not self.going:
            return True
        best = max(self.value(text.score, len(text.ids)) for text in self.going)
        return len(self.ended) == self.k and best <= self.ended[-1][0]


def _beams(stepper: Stepper, inputs: dict[str, np.ndarray], how: Generation, ends: frozenset[int],
           limits_B: Sequence[int], is_stopped: Callable[[Sequence[int]], bool],
           constraints_B: Sequence[Constraint | None]) -> list[Continuation]:
    """Source: beam search as in Wu et al. 2016, "Google's Neural Machine Translation System", section 7."""
    state, logits_BV = stepper.begin(inputs)
    beams = [_Beams(how.beams, how.length_penalty, [_Text()]) for _ in limits_B]
    first_B = np.arange(len(beams))  # the first line of each prompt's texts in the state
    while True:
        log_p_BV = log_softmax(logits_BV)
        parents: list[int] = []
        for b, (of_prompt, first) in enumerate(zip(beams, first_B, strict=True)):
            if not of_prompt.is_done:
                lines = _grow(of_prompt, log_p_BV[first : first + len(of_prompt.going)], how, ends, limits_B[b],
                              is_stopped, constraints_B[b])
                if of_prompt.is_done:
                    of_prompt.going = []
                else:
                    parents += [int(first) + line for line in lines]
        counts_B = [len(of_prompt.going) for of_prompt in beams]
        if not parents:
            return [of_prompt.ended[0][1] for of_prompt in beams]
        first_B = np.cumsum([0, *counts_B[:-1]])
        tokens = [text.ids[-1] for of_prompt in beams for text in of_prompt.going]
        state, logits_BV = stepper.step(state, np.array(tokens), np.array(parents))


def _grow(of_prompt: _Beams, log_p_KV: np.ndarray, how: Generation, ends: frozenset[int], limit: int,
          is_stopped: Callable[[Sequence[int]], bool], constraint: Constraint | None) -> list[int]:
    """Let each text go on by its best tokens. Returns the text before of each that goes on, by its number."""
    candidates = []
    for line, (text, log_p_V) in enumerate(zip(of_prompt.going, log_p_KV, strict=True)):
        scores_V = _limited(log_p_V, text.ids, how, constraint)
        n = min(2 * of_prompt.k, len(scores_V))
        best = np.argpartition(-scores_V, n - 1)[:n].tolist()
        candidates += [(text.score + float(log_p_V[token]), line, token, float(log_p_V[token])) for token in best
                       if scores_V[token] > NEVER]
    candidates.sort(key=lambda candidate: (-candidate[0], candidate[1], candidate[2]))
    going, lines = [], []
    for rank, (_, line, token, log_p) in enumerate(candidates):
        text = of_prompt.going[line].plus(token, log_p)
        end = _end_of(text.ids, ends, limit, is_stopped)
        if end is None:
            going.append(text)
            lines.append(line)
        elif rank < of_prompt.k or not end:
            of_prompt.end(text, token if token in ends else None, end)
        if len(going) == of_prompt.k:
            break
    of_prompt.going = going
    return lines
