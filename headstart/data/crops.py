"""Pairs made out of texts that nobody labeled: parts of one text mean what lies near each other.

Source  Gao et al. 2021, "SimCSE" (same); Giorgi et al. 2021, "DeCLUTR", and Izacard et al. 2022, "Contriever" (crops).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from ..core.values import Row

KINDS = ("same", "crops", "neighbors")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
MIN_WORDS = 4  # of a text that has two parts; of characters in a script that writes no blanks
HAS_NO_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def pairs(texts: Sequence[str], how: str, seed: int) -> Iterator[Row]:
    """Rows {"text", "text_pair"}, one of each text that is long enough.

    how: same: the text twice, which dropout alone tells apart; crops: two pieces drawn from it; neighbors: two
         sentences that follow each other, or the halves of a single one.
    """
    for i, text in enumerate(texts):
        is_parted = HAS_NO_BLANKS.search(text) is None
        words = text.split() if is_parted else list(text.strip())
        if len(words) < MIN_WORDS:
            continue
        rng, join = random.Random(seed * 1_000_003 + i), " ".join if is_parted else "".join
        if how == "same":
            yield {"text": text, "text_pair": text}
        elif how == "crops":
            yield {"text": join(_crop(words, rng)), "text_pair": join(_crop(words, rng))}
        else:
            sentences = [part.strip() for part in SENTENCE.split(text) if part and part.strip()]
            at = rng.randrange(max(1, len(sentences) - 1))
            half = len(words) // 2
            first, second = (sentences[at : at + 2] if len(sentences) > 1 else (join(words[:half]), join(words[half:])))
            yield {"text": first, "text_pair": second}


def _crop(words: Sequence[str], rng: random.Random) -> Sequence[str]:
    """A run of a third to two thirds of the words."""
    n = max(1, rng.randint(len(words) // 3, max(len(words) // 3, 2 * len(words) // 3)))
    start = rng.randint(0, len(words) - n)
    return words[start : start + n]
