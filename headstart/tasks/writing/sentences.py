"""Words and sentences of texts in languages with and without blanks, and words joined to a text again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...readers.words import join_tokens, split_words

_END = re.compile(r"""
    (?<=[.!?…])["'”’“»«)\]]*\s+      # a full stop, what closes behind it, and a blank
    | (?<=[。！？…])[”’」』）]*(?![。！？…”’」』）])\s*   # Chinese and Japanese: no blank is needed
    | \n[^\S\n]*\n\s*                 # an empty line
    | (?<=[\u3001-\u9fff\uff00-\uffef])\s*\n\s*     # a line, in scripts that no editor wraps at blanks
""", re.VERBOSE)
# A full stop behind these ends no sentence. Lower case, without the last stop.
_ABBREVIATIONS = frozenset(re.findall(r"\S+", """
    approx bzw ca cf col dept dr e.g eq fig figs gen gov i.e lt messrs mr mrs ms mt no nr pp prof rep resp rev sec sen
    sgt st vgl viz vol vs z.b
"""))
# These do where a capital letter follows.
_LAST_WORDS = frozenset(("al", "co", "corp", "etc", "inc", "jr", "ltd", "sr", "usw"))
# What begins a sentence and is no name: behind "from X to Y." and no part of "by J. Smith".
_FIRST_WORDS = frozenset(re.findall(r"\S+", """
    A After All Although An And As At Both But By For From Here His How However If In It Its No On Our She He So Such
    That The Their Then There These They This Those Thus To Under Using We What When Where While With You
"""))
_TURN = re.compile(r"[^\s:：][^:：\n]{0,39}[:：]\s*\S")  # "Anna: hello", "#Person1#: hello"
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# Latin, Greek, Cyrillic, Chinese, kana, and their punctuation: scripts whose words a pattern parts.
_WITHOUT_MARKS = re.compile("[\x00-\xac\xae-\u02ff\u0370-\u0482\u048a-\u052f\u2010-\u2027\u2030-\u205e\u20a0-\u20bf"
                            "\u3000-\u3029\u3030-\u3098\u309b-\u30ff\u3400-\u9fff\uff00-\uffef]*")
_WORD = re.compile(r"(?=\w)[\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uff66-\uff9d]"
                   r"|[^\W\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uff66-\uff9d]+")
_KANA = re.compile("[\u3040-\u30ff]")
_CLOSING = re.compile(r" +([.,;:!?…%)\]}»”])")
_OPENING = re.compile(r"([(\[{«“]) +")
MANY_TURNS = 2  # lines that begin with a speaker's name, all of them, are turns from so many on


def words(text: str) -> list[str]:
    """The words of a text in lower case, punctuation left out; each Chinese or Japanese character is a word.

    Those of `split_words`, at a tenth of its time where no character combines with others.
    """
    folded = text.casefold()
    if _WITHOUT_MARKS.fullmatch(folded):
        return _WORD.findall(folded)
    return [word for start, end in split_words(folded) if (word := folded[start:end])[0].isalnum() or word[0] == "_"]


def sentences(text: str) -> list[str]:
    """The sentences of a text, the blanks around them gone; of a transcript, its turns.

    Rules, no model: a stop and a blank end a sentence unless an abbreviation or an initial stands before it; Chinese
    stops need no blank; an empty line ends one, a line's end alone does not: texts are wrapped. Cost: linear.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= MANY_TURNS and all(_TURN.match(line) for line in lines):
        return lines
    parts, start = [], 0
    for match in _END.finditer(text):
        if match.end() == start or _is_abbreviated(text, match):
            continue
        closing = match[0].rstrip()  # quotation marks behind the stop belong to what they close
        parts.append(text[start : match.start() + len(closing)])
        start = match.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _is_abbreviated(text: str, end: re.Match[str]) -> bool:
    """Whether the stop before `end` belongs to a word such as "Dr." or to an initial."""
    if text[end.start() - 1 : end.start()] != "." or end[0].count("\n") > 1:
        return False
    before = text[max(0, end.start() - 20) : end.start() - 1]
    word = re.split(r"[\s(\[“\"']", before)[-1]
    following = re.match(r"\w*", text[end.end() : end.end() + 20])
    after = following[0] if following else ""
    if len(word) == 1 and word.isupper():
        return after not in _FIRST_WORDS
    return word.casefold() in _ABBREVIATIONS or (word.casefold() in _LAST_WORDS and after[:1].islower())


def is_unspaced(texts: Sequence[str]) -> bool:
    """Whether at least a third of all characters are Chinese or Japanese, of the texts without their blanks."""
    n = sum(len("".join(text.split())) for text in texts)
    return n > 0 and sum(len(_UNSPACED.findall(text)) for text in texts) * 3 >= n


def has_kana(texts: Sequence[str]) -> bool:
    """Whether some text is Japanese: no Chinese one has kana."""
    return any(map(_KANA.search, texts))


def join_words(tokens: Sequence[str]) -> str:
    """Words and punctuation as one text: blanks as English, German or Chinese put them."""
    text, _ = join_tokens([token for token in tokens if token])
    return _OPENING.sub(r"\1", _CLOSING.sub(r"\1", text))
