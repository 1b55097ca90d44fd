"""A tokenizer.json that somebody else wrote: opened in bounded time and memory, or refused. No torch.

    tokenizer = read_tokenizer(folder / "tokenizer.json", n_ids=30_522, error=ModelError)

The library compiles and runs what the file says: patterns that backtrack for ever, replacements that grow a text
without end, ids that no embedding has. Steps that every tokenizer of a known family has are let through; any others
are tried first, in a process of their own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import HeadstartError, shorten
from ..core.untrusted import library_errors, parse_json, read_text

MAX_BYTES = 100_000_000  # the largest vocabularies, of 260,000 tokens, take 35 MB
MAX_SPECIAL_TOKENS = 16  # around one pair of texts
MAX_WORD_CHARS = 1000  # WordPiece takes quadratic time of a word
PROBE_S = 10.0  # what a busy machine may take for a second of work
FIX = "Take tokenizer.json from where the weights are from; headstart opens none that could hang or fail later."
TRIED = "pieces of a text 好 \U0010fffd a1!"

# Steps that take linear time and do not grow a text, whatever their settings.
SAFE = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Precompiled",
        "ByteLevel", "Sequence", "BertPreTokenizer", "Metaspace", "WhitespaceSplit", "Whitespace", "Punctuation",
        "Digits", "UnicodeScripts", "CharDelimiterSplit", "BertProcessing", "RobertaProcessing", "TemplateProcessing",
        "WordPiece", "BPEDecoder", "ByteFallback", "Fuse", "CTC"}
_CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
SAFE_PATTERNS = {" {2,}", r"\s+", r"\d", r"\p{N}", "[0-9]", r"\r\n", r"\n", "[\r\n]", _CL100K % "", _CL100K % "{1,3}",
                 r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"}


def read_tokenizer(path: Path, n_ids: int | None, error: type[HeadstartError]) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json, without padding and truncation.

    n_ids: rows of the embedding that its ids are looked up in; None: not known.
    Raises  `error` for a file that is damaged, could hang, or has ids beyond the embedding.
    """
    return parse_tokenizer(read_text(path, error, MAX_BYTES), str(path), n_ids, error)


def parse_tokenizer(text: str, where: str, n_ids: int | None, error: type[HeadstartError]) -> Any:
    """`read_tokenizer` for what such a file holds."""
    from tokenizers import Tokenizer

    described = parse_json(text, where, error)
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise error(where, "has no tokenizer that can be read: it holds no \"model\".", FIX)
    _check_model(described["model"], where, error)
    steps = {part: described.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")}
    if not all(_is_safe(step) for part in steps.values() for step in _steps(part)):
        problem = _probe(json.dumps(steps))
        if problem:
            raise error(where, f"has a normalizer, pre-tokenizer or decoder that cannot be used: {problem}.", FIX)
    with library_errors(where, "has no tokenizer that can be read", error, FIX):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    _check_ids(tokenizer, where, n_ids, error)
    return tokenizer


def _check_model(model: Mapping[str, Any], where: str, error: type[HeadstartError]) -> None:
    n_chars = model.get("max_input_chars_per_word", 0)
    if type(n_chars) is not int or not 0 <= n_chars <= MAX_WORD_CHARS:
        raise error(where, f"max_input_chars_per_word is {shorten(n_chars)}; wanted is a whole number up to "
                    f"{MAX_WORD_CHARS:,}.", FIX)
    if model.get("dropout"):
        raise error(where, f"has dropout {shorten(model['dropout'])}: it would cut a text differently each time.",
                    "Set it to null.")


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, those inside of sequences too."""
    if isinstance(part, dict):
        yield part
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for value in inner:
        if isinstance(value, dict | list):
            yield from _steps(value)


def _is_safe(step: Mapping[str, Any]) -> bool:
    """Whether a step is one of the known ones, or a pattern inside of such a one."""
    kind, pattern, content = str(step.get("type")), step.get("pattern"), step.get("content", "")
    if kind in SAFE:
        return True
    if kind == "Prepend":
        return isinstance(step.get("prepend"), str) and len(step["prepend"]) <= 1
    if kind in ("Replace", "Split") and isinstance(pattern, dict) and isinstance(content, str):
        text = pattern.get("String")
        return (str(pattern.get("Regex")) in SAFE_PATTERNS and len(content) <= 1) or (
            isinstance(text, str) and len(content) <= len(text) != 0)
    return "type" not in step and ("Regex" in step or "String" in step)  # it was looked at in the step around it


@functools.lru_cache(32)
def _probe(steps: str) -> str:
    """What goes wrong with normalizer, pre-tokenizer and decoder on texts made to break them; "" when nothing does."""
    described = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
                 "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}, **json.loads(steps)}
    characters = dict.fromkeys([*"a \n1!é好", *(c for step in _steps(json.loads(steps)) for c in str(step))][:96])
    behind = "!\n" + "".join(characters)  # a pattern that needs a character is not tried where there is none
    texts = [TRIED, steps[:2000], *(text for c in characters for text in (c * 3000 + behind, (c * 24 + behind) * 20))]
    try:
        ended = subprocess.run([sys.executable, "-I", str(Path(__file__).with_name("probe.py"))],
                               input=json.dumps([described, texts]), capture_output=True, text=True, timeout=PROBE_S,
                               env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}, check=False)
    except subprocess.TimeoutExpired:
        return "it takes too long of short texts"
    if ended.returncode < 0:
        return "it takes too long, or too much memory, of short texts"
    return "" if ended.returncode == 0 else shorten(ended.stderr.strip().rpartition("\n")[2], 160)


def _check_ids(tokenizer: Any, where: str, n_ids: int | None, error: type[HeadstartError]) -> None:
    """Raise `error` for ids beyond the embedding, and for special tokens that leave no room for a text."""
    with library_errors(where, "cannot read a short text", error, FIX):
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        n_special = tokenizer.num_special_tokens_to_add(True)
        alone, first, second = (tokenizer.encode(TRIED, add_special_tokens=False) for _ in range(3))
        n_tokens = len(alone)  # now: what is post-processed is used up
        single, pair = tokenizer.post_process(alone), tokenizer.post_process(first, second)
        highest = max([highest, *single.ids, *pair.ids])
        n_kept = [len(single) - tokenizer.num_special_tokens_to_add(False), len(pair) - n_special - n_tokens,
                  pair.sequence_ids.count(1)]
    if n_ids is not None and highest >= n_ids:
        raise error(where, f"has token id {highest:,}, but the embedding has {n_ids:,} rows (vocab_size).",
                    "Tokenizer and weights are of different models; take both from one.")
    if not n_tokens or n_special > MAX_SPECIAL_TOKENS or n_kept != [n_tokens] * 3:
        raise error(where, f"adds {n_special:,} special tokens to a pair and keeps {n_kept} of {n_tokens} tokens of "
                    f"a text alone, and of each of a pair; wanted are at most {MAX_SPECIAL_TOKENS}, and all tokens.",
                    FIX)
