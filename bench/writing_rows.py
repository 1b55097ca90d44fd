"""Rows of the shared data for tasks that write, made where a set has no file for them.

    python -m bench.writing_rows data        data/star_replies and data/multi30k_keywords out of data/star_dialogues and
                                             data/multi30k_en_de, which must be there

- star_replies: one reply of the human agent out of each dialogue, drawn by the dialogue's id, with all that was said
  before it, in the order of the file: {"messages": [...], "reply": str}.
- multi30k_keywords: English captions of 5 to 12 words; the prompt asks for two of their words, the longest ones, in at
  most twelve words, and so does `control`: {"prompt": str, "completion": str, "control": {...}}.

No text of either is committed.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import read_jsonl, write_jsonl

MAX_WORDS, LEAST_WORDS, N_KEYWORDS, MIN_LETTERS = 12, 5, 2, 4
ASK = 'Write one sentence of at most twelve words with the words "{}" and "{}".'


def replies(path: Path) -> Iterator[dict[str, Any]]:
    """A reply of each dialogue of STAR that has one."""
    from headstart.tasks.writing import chats

    for row in read_jsonl(path):
        messages = chats.read_chat(row["turns"])
        answers = chats.replies(messages) if isinstance(messages, list) else []
        answers = [(before, reply) for before, reply in answers if not _in_a_row(before)]
        if answers:
            before, reply = answers[zlib.crc32(str(row["id"]).encode()) % len(answers)]
            yield {"messages": before, "reply": reply}


def _in_a_row(messages: list[dict[str, str]]) -> bool:
    """Whether the assistant speaks twice without an answer: no row may hold that."""
    return any(a["role"] == b["role"] == "assistant" for a, b in itertools.pairwise(messages))


def keywords(path: Path) -> Iterator[dict[str, Any]]:
    """Captions of Multi30k with the two words that were to stand in them."""
    from headstart.tasks.writing.sentences import words

    for row in read_jsonl(path):
        tokens = words(row["source"])
        kinds = sorted({t for t in tokens if len(t) >= MIN_LETTERS and t.isalpha()}, key=lambda t: (-len(t), t))
        if LEAST_WORDS <= len(tokens) <= MAX_WORDS and len(kinds) >= N_KEYWORDS:
            chosen = sorted(kinds[:N_KEYWORDS], key=tokens.index)
            yield {"prompt": ASK.format(*chosen), "completion": row["source"].strip(),
                   "control": {"max_words": MAX_WORDS, "include": chosen}}


# name of the folder -> the set that it is made from, and how
MADE: Mapping[str, tuple[str, Callable[[Path], Iterator[dict[str, Any]]]]] = {
    "star_replies": ("star_dialogues", replies), "multi30k_keywords": ("multi30k_en_de", keywords)}


def make(name: str, data: Path, folder: Path) -> Path:
    """`folder`/`name` with train, validation and test, out of what lies in `data`. Returns it."""
    source, rows = MADE[name]
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    write_jsonl(made, **{part: rows(data / source / f"{part}.jsonl") for part in ("train", "validation", "test")})
    return made


def main() -> int:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
    for name in MADE:
        print(make(name, data, data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
