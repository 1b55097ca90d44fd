"""Tags of words: their schemes (IOB1, IOB2, BIOES, BILOU, BMES), the words of a text, the best sequence of tags, and
which words of a text in windows can get one.

Spans are [first word, end) with a label, whatever the scheme. Shape suffixes: W words, U units, T tokens of a
window, K tags.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...core.errors import DataError, shorten
from ...core.reader import Piece

Span = tuple[int, int, str]  # [start, end) and a label

PLAIN = "plain"  # tags without a scheme
SCHEMES = ("IOB1", "IOB2", "BIOES", "BILOU", "BMES", PLAIN)
LETTERS = {"IOB": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}  # what tags of a family may begin with
SINGLE = {"BIOES": "S", "BILOU": "U", "BMES": "S"}
INSIDE = {"BIOES": "I", "BILOU": "I", "BMES": "M"}
SMALLEST_SHARE = 1e-12  # of a tag, when its logarithm is taken
LAST = {"BIOES": "E", "BILOU": "L", "BMES": "E"}


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
    flaws = [flaw for row in tagged if (flaw := flaw_of_sequence(row, "IOB2"))]
    if flaws:
        raise DataError("tags", f"are of two schemes: in {len(flaws):,} rows an entity begins with I- as in IOB1 (the "
                        f"first one {flaws[0]}), and in {len(not_iob1):,} rows one begins with B- as in IOB2.",
                        "Mend those rows: in IOB2 every entity begins with B-.")
    return "IOB2"


def _checked(tagged: Sequence[Sequence[str]], scheme: str) -> str:
    flaws = [flaw for row in tagged if (flaw := flaw_of_sequence(row, scheme))]
    if flaws:
        raise DataError("tags", f"look like {scheme}, but {len(flaws):,} rows are not valid; the first one {flaws[0]}.",
                        "Mend those rows, or write IOB2: B-X begins an entity X, I-X goes on, O is none.")
    return scheme


def flaw_of_sequence(tags: Sequence[str], scheme: str) -> str | None:
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
    """tags_U: the sequence with the largest sum of scores and of what each step adds, which takes no barred step.

    barred_KK: what a step from one tag to the next adds, -inf: barred; one more line, the last, for the first step.
    Source  Viterbi 1967; Forney 1973, "The Viterbi algorithm".
    """
    scores_UK = np.asarray(scores_UK, np.float64)
    n, steps_KK = len(scores_UK), barred_KK[:-1]
    if not n or not barred_KK.any():
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


# ------------------------------------------------------------------------------------------------------------- windows


def units_of(words_W: Sequence[tuple[int, int]], pieces: Sequence[Piece],
             stride: int) -> tuple[list[tuple[int, int]], list[list[tuple[int, int]]]]:
    """Which words can get an answer of their own, and where it is read from.

    Returns  units: [first word, end) of words that share their first token, mostly one word; words that the tokenizer
             drops are in none. places: for each piece (unit, place in the window), each unit once, where its first
             token has the most context.
    """
    inside = [[t for t, at in enumerate(piece.offsets_T) if at is not None] for piece in pieces]
    step = max(1, len(inside[0]) - stride)
    tokens = [(piece.offsets_T[t] or (0, 0)) for k, piece in enumerate(pieces)
              for t in (inside[k] if k == 0 else inside[k][stride:])]
    units: list[tuple[int, int]] = []
    places: list[list[tuple[int, int]]] = [[] for _ in pieces]
    w = free = 0  # the first word that does not end before the token; the first one without a token
    for g, (start, end) in enumerate(tokens):
        while w < len(words_W) and words_W[w][1] <= start:
            w += 1
        first = stop = max(w, free)
        while stop < len(words_W) and words_W[stop][0] < end:
            stop += 1
        if stop > first:
            free = stop
            k = _best_window(g, [len(tokens_C) for tokens_C in inside], step) if len(pieces) > 1 else 0
            places[k].append((len(units), inside[k][g - k * step]))
            units.append((first, stop))
    return units, places


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


def mean_of_units(of_members: Sequence[Mapping[tuple[int, int], np.ndarray]],
                  weights_M: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The weighted mean of several models' shares of each unit's tags, over the models that read it.

    of_members: unit -> shares_K. Units are one where they begin with one word: tokenizers may part words otherwise.
    Returns  the units, in order, and the logarithms of their means, logits_UK.
    """
    sums: dict[int, np.ndarray] = {}
    stops: dict[int, int] = {}
    for of_units, weight in zip(of_members, weights_M.tolist(), strict=True):
        for (first, stop), shares_K in of_units.items():
            sums[first] = sums.get(first, 0.0) + weight * shares_K
            stops[first] = max(stop, stops.get(first, 0))
    if not sums:
        return [], np.empty((0, 0))
    firsts = sorted(sums)
    ends = [*firsts[1:], stops[firsts[-1]]]
    shares_UK = np.stack([sums[first] for first in firsts])
    return ([(first, min(stops[first], end)) for first, end in zip(firsts, ends, strict=True)],
            np.log(np.maximum(shares_UK / shares_UK.sum(1, keepdims=True), SMALLEST_SHARE)))
