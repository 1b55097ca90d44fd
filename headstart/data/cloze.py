"""Questions out of texts that nobody asked about: practice for question answering before the rows with labels.

A span of a sentence is taken out and a question word put in its place ("the bridge was opened in what year by the");
the text is read whole, and the span is the answer. What is learned is to find the sentence that a question speaks of,
and what it leaves open: an encoder that was trained on whole texts has never done that.

Source  Lewis, Denoyer and Riedel 2019, "Unsupervised Question Answering by Cloze Translation"; theirs parse sentences,
        ours are cut by patterns, which are for English alone.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

LONGEST_TEXT, SHORTEST_TEXT, LONGEST_ANSWER, LONGEST_SIDE = 110, 40, 6, 9  # in words
DROPPED = 0.2  # of a question's words: one that keeps them all is found by its letters
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")
SMALL = ("a|an|the|of|in|on|at|to|for|from|by|with|as|and|or|but|that|which|who|whose|"
         "when|where|while|is|are|was|were|be|been|being|has|have|had|do|does|did|not|it|"
         "its|he|his|she|her|they|their|this|these|those|there|than|then|also|into|over|under|"
         "between|during|after|before|about|up|out|such|can|could|may|might|will|would")  # words that end a span
NUMBER = r"\$?\d[\d,.]*(?<![,.])(?: (?:million|billion|percent|years|days|months|miles|people|km|m))?"
NAME = r"[A-Z][\w'’-]+(?: (?:of the|of|[A-Z][\w'’-]+))*(?: [A-Z][\w'’-]+)?"
WORD = rf"(?!(?:{SMALL})\b)[a-z][\w-]+"
PLAIN = rf"(?:(?<=\bthe )|(?<=\ba )|(?<=\ban )|(?<=\bof )){WORD}(?: {WORD}){{0,2}}"
SPAN = re.compile(rf"\b(?:(?P<number>{NUMBER})|(?P<name>{NAME})|(?P<plain>{PLAIN}))")
WORDS = {"year": ("when", "what year"), "number": ("how many", "how much", "what"),
         "name": ("who", "what", "which", "where"), "plain": ("what", "which")}
SHARES = {"number": 2, "name": 3, "plain": 2}  # how often a kind is chosen where a text has all


def questions(texts: Sequence[str], each: int, seed: int) -> Iterator[dict[str, Any]]:
    """`each` rows {"question", "context", "answers"} of every text that is long enough, cut at LONGEST_TEXT words."""
    rng = random.Random(seed)
    for text in texts:
        sentences, n_words = [], 0
        for sentence in SENTENCE.split(" ".join(text.split())):
            n_words += len(sentence.split())
            if n_words > LONGEST_TEXT:
                break
            sentences.append(sentence)
        context = " ".join(sentences)
        if len(context.split()) < SHORTEST_TEXT:
            continue
        starts = [0, *itertools.accumulate(len(sentence) + 1 for sentence in sentences)]
        spans = [(start, sentence, span) for start, sentence in zip(starts, sentences, strict=False)
                 for span in SPAN.finditer(sentence)
                 if span.start() and len(span[0].split()) <= LONGEST_ANSWER and len(sentence.split()) > LONGEST_ANSWER]
        kinds = {kind: [place for place in spans if place[2].lastgroup == kind] for kind in SHARES}
        shares = [share if kinds[kind] else 0 for kind, share in SHARES.items()]
        for _ in range(min(each, len(spans))):
            start, sentence, span = rng.choice(kinds[rng.choices(list(SHARES), shares)[0]])
            yield {"question": _question(sentence, span, rng), "context": context,
                   "answers": {"text": [span[0]], "answer_start": [start + span.start()]}}


def _question(sentence: str, span: re.Match[str], rng: random.Random) -> str:
    kind = str(span.lastgroup)
    if re.fullmatch(r"1\d\d\d|20\d\d", span[0]):
        kind = "year"
    left, right = sentence[: span.start()].split(), sentence[span.end() :].rstrip(".!?").split()
    n_left, n_right = (rng.randint(2, LONGEST_SIDE) for _ in range(2))
    left, right = ([word for word in side if rng.random() >= DROPPED] for side in (left[-n_left:], right[:n_right]))
    opening = rng.choice(WORDS[kind]).split()
    words = [*opening, *right, *left] if rng.random() < 0.5 else [*left, *opening, *right]
    return " ".join(words) + "?"


def paragraphs(article: str) -> list[str]:
    """The paragraphs of a WikiText article, as they were before it was cut into words."""
    text = re.sub(r" @(.)@ ", r"\1", article)
    text = re.sub(r" ([.,;:!?%)\]'’])", r"\1", re.sub(r"([(\[$]) ", r"\1", text))
    return [line.strip() for line in text.split("\n") if line.strip() and not line.strip().startswith("=")
            and "<unk>" not in line]
