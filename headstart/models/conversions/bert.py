"""A BERT encoder without a pooler as a model folder: its sizes are those of its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..shelf import WEIGHTS

WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
TYPES, INTERMEDIATE = "embeddings.token_type_embeddings.weight", "encoder.layer.0.intermediate.dense.bias"
EPSILON = 1e-12  # of BERT's layer norms, and of all that were trained from it


def save(target: Path, tensors: Mapping[str, np.ndarray], n_heads: int, **token_ids: int) -> None:
    """Write config.json and model.safetensors.

    token_ids: pad_token_id, and others where there are any.
    """
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, target / WEIGHTS, metadata={"format": "pt"})
    config = {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": EPSILON,
              "vocab_size": len(tensors[WORDS]), "hidden_size": tensors[WORDS].shape[1],
              "num_hidden_layers": sum(name.endswith("attention.self.query.weight") for name in tensors),
              "num_attention_heads": n_heads, "intermediate_size": len(tensors[INTERMEDIATE]),
              "max_position_embeddings": len(tensors[POSITIONS]), "type_vocab_size": len(tensors[TYPES]),
              "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
              "dtype": str(tensors[WORDS].dtype), **token_ids}
    write_json(target / "config.json", config)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """As transformers writes it: keys in order, two blanks."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
