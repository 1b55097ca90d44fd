"""The gold answers of SQuAD and CMRC as rows give them, and the official scores. No model.

    gold_spans(row)                            [(start, end), ...], or what is wrong with the row, in words
    compare("in Paris", ["Paris", "France"])   (exact match, F1)

Source  Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions"; Rajpurkar et al. 2018, "Know What You Don't Know"; Cui et
        al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension" (scores by character).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...core.errors import shorten
from ...core.values import Row
from ...readers.words import splits_character

MAX_DIGITS = 18  # of an offset; int() refuses thousands of them
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def gold_texts(row: Row) -> list[str]:
    """The answers of a checked row as they are written; [] where nothing answers."""
    gold = _gold(row)
    return gold[1] if isinstance(gold, tuple) else []


def gold_spans(row: Row) -> list[tuple[int, int]] | str | None:
    """[start, end) of every answer without the blanks around it, or what is wrong; None where no gold is given."""
    gold = _gold(row)
    if gold is None or isinstance(gold, str):
        return gold
    column, texts, starts = gold
    spans = []
    for text, start in zip(texts, starts, strict=True):
        span = _span(column, row.get("context", ""), text, start)
        if isinstance(span, str):
            return span
        spans.append(span)
    return spans


def n_answers(row: Row) -> int | None:
    gold = _gold(row)
    return len(gold[1]) if isinstance(gold, tuple) else None


def _gold(row: Row) -> tuple[str, list[Any], list[Any]] | str | None:
    """(column, answers, their offsets) as the row gives them, or what is wrong; None where it gives none."""
    if "answers" in row:
        if "answer" in row:
            return '"answer" stands beside "answers"; a row gives its answers in one of the two'
        gold = _listed(row["answers"])
    elif "answer" in row:
        gold = _flat(row["answer"], row.get("answer_start"))
    elif row.get("answer_start") is not None:
        return '"answer_start" stands without "answer"; it must stand beside one'
    else:
        gold = None
    if isinstance(gold, str) or row.get("is_impossible") is None:
        return gold
    value = row["is_impossible"]
    is_impossible = _YES_NO.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if is_impossible is None:
        return f'"is_impossible" is {shorten(value)}; it must be true or false'
    if gold is None:
        return ("answers", [], []) if is_impossible else '"is_impossible" is false, and the row has no answer; give it'
    if is_impossible == bool(gold[1]):
        n = "an" if gold[1] else "no"
        return f'"is_impossible" is {str(is_impossible).lower()}, and the row has {n} answer; the two must agree'
    return gold


def _listed(answers: Any) -> tuple[str, list[Any], list[Any]] | str:
    """The column `answers`: lists of texts and offsets, or a list with an object for each answer."""
    rule = 'it must be {"text": [...], "answer_start": [...]}'
    if isinstance(answers, list | tuple) and all(isinstance(answer, dict) for answer in answers):
        answers = {"text": [answer.get("text") for answer in answers],
                   "answer_start": [answer.get("answer_start") for answer in answers]}
    if not isinstance(answers, dict) or "text" not in answers:
        return f'"answers" is {shorten(answers)}; {rule}'
    texts, starts = answers["text"], answers.get("answer_start")
    if starts is None and isinstance(texts, list):
        starts = [None] * len(texts)
    if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple):
        return f'"answers" is {shorten(answers)}; {rule}'
    if len(texts) != len(starts):
        return f'"answers" has {len(texts):,} texts and {len(starts):,} offsets; it must have one of each for an answer'
    return "answers", list(texts), list(starts)


def _flat(answer: Any, start: Any) -> tuple[str, list[Any], list[Any]] | str:
    """The columns `answer` and `answer_start`; empty ones say that nothing answers."""
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        if start in (None, "", -1, "-1"):
            return "answer", [], []
        return f'"answer" is empty, and "answer_start" is {shorten(start)}; an offset must belong to an answer'
    return "answer", [answer], [None if start == "" else start]


def _span(column: str, context: str, text: Any, start: Any) -> tuple[int, int] | str:
    """[start, end) of one answer without the blanks around it, or what is wrong with it."""
    if not isinstance(text, str) or not text.strip():
        return f'"{column}" holds the answer {shorten(text)}; it must be a string that is not empty'
    if start is None:
        return _unique_span(column, context, text)
    if isinstance(start, str) and len(start) <= MAX_DIGITS and re.fullmatch(r"\s*-?[0-9]+\s*", start):
        start = int(start)  # CSV files know strings alone
    if isinstance(start, bool) or not isinstance(start, int):
        return f'"{column}" has the offset {shorten(start)}; it must be a whole number'
    end = start + len(text)
    if start < 0:
        what = f"has the offset {start}, which is below 0"
    elif end > len(context):
        what = f"would end at {shorten(end)}, and the context has {len(context):,} characters"
    elif context[start:end] != text:
        what = f"is not what the context has at {start:,}: {shorten(context[start:end])}"
    else:
        return _sound(column, context, start, end)
    return f'"{column}": {shorten(text)} {what}; {_nearest_match(context, text, start)}'


def _unique_span(column: str, context: str, text: str) -> tuple[int, int] | str:
    """The span of an answer without an offset, where there is no doubt."""
    start = context.find(text)
    if start < 0:
        return f'"{column}": {shorten(text)} has no offset; {_nearest_match(context, text, 0)}'
    n, at = 1, start
    while (at := context.find(text, at + 1)) >= 0 and n < 1000:
        n += 1
    if n > 1:
        return (f'"{column}": {shorten(text)} has no offset and stands at {n:,} places of the context; '
                "an answer_start must say which is meant")
    return _sound(column, context, start, start + len(text))


def _nearest_match(context: str, text: str, start: int) -> str:
    """Where the answer stands nearest to the offset that was given."""
    start = min(max(start, 0), len(context))
    places = [at for at in (context.rfind(text, 0, start + len(text)), context.find(text, start)) if at >= 0]
    if places:
        return f"the nearest match begins at {min(places, key=lambda at: abs(at - start)):,}"
    for form in ("NFC", "NFD"):
        if unicodedata.normalize(form, text) in unicodedata.normalize(form, context):
            return "the context has it in another Unicode form (NFC and NFD); answer and context must have the same"
    return "the context has it nowhere"


def _sound(column: str, context: str, start: int, end: int) -> tuple[int, int] | str:
    """The span without the blanks around it, unless it cuts a character in two."""
    for at, verb in ((start, "begins"), (end, "ends")):
        if splits_character(context, at):
            return (f'"{column}": {shorten(context[start:end])} {verb} inside a character: U+{ord(context[at]):04X} at '
                    f"{at:,} combines with what stands before it; an answer must hold whole characters")
    return whole(context, start, end)


def whole(context: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without the blanks around it, and with the combining marks that a tokenizer left out."""
    while end < len(context) and unicodedata.combining(context[end]):
        end += 1
    while 0 < start < end and unicodedata.combining(context[start]):
        start -= 1
    while start < end and context[start].isspace() and not unicodedata.combining(context[start + 1 : start + 2] or " "):
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


# ------------------------------------------------------------------------------------ scores, as SQuAD's own script


def tokens(text: str) -> list[str]:
    """The words that scores compare: in lower case, without ASCII punctuation and English articles.

    A text with Chinese characters or kana counts each of them as a word, and none of its punctuation.
    """
    text = _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION))
    if not text.isascii() and _CJK.search(text):
        text = _CJK.sub(r" \g<0> ", "".join(c for c in text if unicodedata.category(c)[0] != "P"))
    return text.split()


def compare(answer: str, golds: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) against the gold answer that each fits best; [] says that nothing answers."""
    answered = tokens(answer)
    wanted = [gold for gold in map(tokens, golds) if gold] or [[]]
    return float(answered in wanted), max(_f1(answered, gold) for gold in wanted)


def _f1(answered: list[str], gold: list[str]) -> float:
    if not answered or not gold:
        return float(answered == gold)
    n_common = sum((Counter(answered) & Counter(gold)).values())
    if n_common == 0:
        return 0.0
    precision, recall = n_common / len(answered), n_common / len(gold)
    return 2 * precision * recall / (precision + recall)
