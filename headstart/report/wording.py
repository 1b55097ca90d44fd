"""Values in words: how a report writes numbers, names and texts that came from outside."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.scores import UnknownTokens

MAX_TEXT_CHARS = 280
MAX_UNKNOWN_SHARE, MIN_TOKENS = 0.05, 100  # a larger share of unknown tokens, of so many at least, is warned of
# What reads a script that the default does not; of the shelf where it has such, so that no hub is needed.
OF_SCRIPT = {"Han": ("Chinese", "e5-small-zh-en")}
OF_ANY = ("such text, of one language or of many",
          "--backbone sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2, for one")
MISSING = "–"
WORDS = {"train_seconds": "training time", "total_seconds": "total time", "padding_share": "share of padding",
         "train_tokens_per_s": "training tokens per second", "peak_rss_mb": "peak memory", "artifact_bytes": "artifact",
         "n_trainable": "trainable weights", "n_steps": "optimizer steps",
         "evaluate_seconds": "evaluation time", "cpu": "CPU", "n_threads": "threads"}
OWN_UNIT = ("rmse", "perplexity", "length_ratio")  # scores that are no share: of the rows' own unit, or a ratio
DIRECTIONS = {"LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI"}


def percent(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else _signless(f"{100 * value:.1f}") + "%"


def interval(ends: Sequence[float] | None) -> str:
    """[69.0, 73.0], in percent; bounds of differences in points."""
    return "[" + ", ".join(_signless(f"{100 * end:.1f}") for end in ends) + "]" if ends else ""


def score_words(name: str, value: float | None) -> str:
    """A share of one in percent; what is measured in the task's own unit as it is."""
    if name not in OWN_UNIT or value is None or not math.isfinite(value):
        return percent(value)
    return f"{value:,.4g}"


def points(difference: float) -> str:
    return _signless(f"{100 * difference:+.1f}") + " points"


def tick_points(tick: float) -> str:
    return _signless(f"{100 * tick:+g}")


def tick_percent(tick: float) -> str:
    return f"{100 * tick:g}%"


def _signless(number: str) -> str:
    """A zero without a sign, and a minus as wide as a plus."""
    return "0.0" if number in ("-0.0", "+0.0") else "0" if number == "+0" else number.replace("-", "−")


def in_words(name: str) -> str:
    """"macro_f1" as "macro F1"."""
    return name.replace("_", " ").replace("f1", "F1")


def n_rows(n: int | None) -> str:
    return f"n = {n:,}" if n is not None else "n not recorded"


def amount(name: str, value: object) -> tuple[str, str]:
    """Name and value in words; the unit stands at the name's end, as everywhere in the house ("train_seconds")."""
    unit = next((unit for unit in UNITS if name.endswith(unit) and not name.startswith("n_")), "")
    words = WORDS.get(name) or in_words(name.removeprefix("n_").removesuffix(unit))
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return words, MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return words, cut(str(value), MAX_TEXT_CHARS)
    return words, UNITS[unit](value) if unit else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def unknown_warnings(counts: Sequence[UnknownTokens], backbone: str | None) -> list[str]:
    """A sentence for each script of whose tokens so many are unknown that the answers suffer, with what to do."""
    many = [count for count in counts if count.n_tokens >= MIN_TOKENS and count.share > MAX_UNKNOWN_SHARE]
    return [f"{percent(count.share)} of the {count.n_tokens:,} tokens of {count.n_rows:,} rows in the script "
            f"{count.script} are unknown to {backbone or 'the backbone'}: it reads one placeholder for all of them. "
            "Take a backbone that was pretrained on {}: {}.".format(*_better(count.script, backbone))
            for count in many]


def _better(script: str, backbone: str | None) -> tuple[str, str]:
    """What a better backbone was pretrained on, and how to take one."""
    language, name = OF_SCRIPT.get(script, ("", backbone))
    if name == backbone:
        return OF_ANY
    return language, f"headstart models get {name}, then --backbone {name}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


UNITS: dict[str, Callable[[float], str]] = {
    "_seconds": duration, "_share": percent, "_per_s": "{:,.0f}".format,
    "_mb": "{:,.0f} MB".format, "_bytes": lambda n: f"{n / 1e6:,.1f} MB"}


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean(value: Any) -> Any:
    """`value` with every string on one line and fit to be written.

    Control characters, lone surrogates and direction overrides (which would turn the words after them) become "�".
    """
    if isinstance(value, str):
        return " ".join(printable(value).split())
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def printable(text: str) -> str:
    return "".join(c if c in "\n\t\r" or not _is_control(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _is_control(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in DIRECTIONS
