"""Tiny random models and learnable rows, made in milliseconds. No patches, no network, no data of others."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart import tasks
from headstart.models.precision import bf16_instructions
from headstart.training import loop

# What this machine computes in: 16 bits are not emulated.
PRECISIONS = ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(
    not bf16_instructions(torch.device("cpu")), reason="the processor has no instructions for bf16"))]

GOOD = ["lovely", "bright", "kind", "warm", "clever", "fresh"]
BAD = ["dull", "broken", "rude", "cold", "stale", "loud"]
FILL = ["the", "film", "hotel", "phone", "was", "really", "a", "and", "very", "staff", "room", "story", "we", "found",
        "it", "today", "quite", "with", "some", "music"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Tasks that answer a text at once; those that write need another model, and cannot be exported or served yet.
ANSWERING = [name for name in tasks.names() if tasks.build({"name": name}).generation is None]

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1},
    "camembert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                  "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1},
    "xlm-roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1},
    "albert": {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
               "intermediate_size": 64, "pad_token_id": 0},
    "mpnet": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
              "pad_token_id": 0},
    "deberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "modernbert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                   "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "bos_token_id": 2, "eos_token_id": 3},
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
              "intermediate_size": 64, "bos_token_id": 2, "eos_token_id": 3},
    "qwen2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
              "intermediate_size": 48, "bos_token_id": 2, "eos_token_id": 3},
    "qwen3": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 16, "intermediate_size": 48, "bos_token_id": 2, "eos_token_id": 3},
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64, "pad_token_id": 0},
}

# Those that are of use with their decoder alone; T5 is among the others, too.
_BART: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
                         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "pad_token_id": 0,
                         "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "bart": {**_BART, "forced_eos_token_id": None},
    "encoder-decoder": {},
    "marian": {**_BART, "init_std": 0.5, "decoder_start_token_id": 0, "forced_eos_token_id": None},
    "mbart": {**_BART, "scale_embedding": True, "forced_eos_token_id": None},
    "t5": {**FAMILIES["t5"], "num_decoder_layers": 2, "eos_token_id": 3, "decoder_start_token_id": 0},
}


def seq2seq(folder: Path, family: str, seed: int = 0, **config: Any) -> Path:
    """Write a tiny random encoder-decoder of `family` and its tokenizer to `folder`."""
    import torch
    import transformers
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    # An output that stays as it is must be able to tell tokens apart.
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 260}
    torch.manual_seed(seed)
    if family == "encoder-decoder":
        bert = {**sizes, **FAMILIES["bert"], "initializer_range": 0.2, "pad_token_id": 0, **config}
        parts = [transformers.BertConfig(**bert), transformers.BertConfig(**bert, is_decoder=True,
                                                                          add_cross_attention=True)]
        joined = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            *parts, decoder_start_token_id=2, eos_token_id=3, pad_token_id=0)
        model = transformers.EncoderDecoderModel(joined)
    else:
        spread = {"initializer_factor": 4.0} if family == "t5" else {"init_std": 0.2}
        settings = transformers.CONFIG_MAPPING[family](**{**sizes, **spread, **SEQ2SEQ[family], **config})
        model = transformers.AutoModelForSeq2SeqLM.from_config(settings)
    model.save_pretrained(folder)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A $B [SEP]", special_tokens=[("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def descend(model: Any, groups: list[dict[str, Any]], loss: Callable[[], tuple[Any, Any]],
            n_steps: int) -> tuple[list[float], set[int]]:
    """Steps of AdamW on one batch: the mean loss before each, and the ids of the weights that a gradient reached.

    loss: (sum, count) of the batch as the model is now.
    """
    optimizer, losses, reached = loop.optimizer("adamw", groups), [], set[int]()
    for _ in range(n_steps):
        summed, count = loss()
        (summed / count).backward()
        reached = {id(p) for p in model.parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed.item() / float(count))
    return losses, reached


def backbone(folder: Path, family: str = "bert", seed: int = 0, writes: bool = False, **config: Any) -> Path:
    """Write a tiny pretrained model of `family` with a word-level tokenizer to `folder`.

    writes: with its language-model head.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    characters = [chr(c) for c in range(33, 127)] + list("房间很干净服务也好差吵")
    words = SPECIAL + FILL + GOOD + BAD + characters
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=60))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    if writes:
        tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    settings = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 130, **FAMILIES[family]}
    if writes:  # an output that stays as it is must be able to tell tokens apart
        settings |= {"max_position_embeddings": 260, "initializer_range": 0.2}
    settings |= config
    auto = transformers.AutoModelForCausalLM if writes else transformers.AutoModel
    model = auto.from_config(transformers.CONFIG_MAPPING[family](**settings))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def byte_tokenizer() -> Any:
    """A tokenizer that can write any text; words of `stories` and of the tasks' examples take few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    examples = [value for name in tasks.names() if name not in ANSWERING for row in tasks.find(name).examples
                for value in row.values() if isinstance(value, str)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(examples + 4 * [" ".join(FILL + GOOD + BAD)], trainer)
    return tokenizer


def chat(folder: Path) -> Path:
    """Teach the model in `folder` a chat format, as its files tell it."""
    template = ("{% for m in messages %}[CLS]{{ m['role'] }}: {{ m['content'] }}[SEP]{% endfor %}"
                "{% if add_generation_prompt %}[CLS]assistant: {% endif %}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    return folder


def rows(n: int, seed: int = 0, labels: tuple[str, ...] = ("negative", "positive")) -> list[dict[str, str]]:
    """`n` rows of made-up text whose label follows from one word in it."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        k = i % len(labels)
        words = list(rng.choice(FILL, rng.integers(6, 14)))
        cue = (BAD, GOOD)[k] if len(labels) == 2 else [(BAD + GOOD)[k]]
        words.insert(int(rng.integers(len(words))), str(rng.choice(cue)))
        out.append({"text": " ".join(map(str, words)), "label": labels[k]})
    return out


def stories(n: int, seed: int = 0) -> list[dict[str, str]]:
    """`n` made-up texts whose summary is a word of theirs that tells how it was, and what comes before it."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        words = [str(word) for word in rng.choice(FILL, rng.integers(6, 14))]
        cue, at = str(rng.choice((BAD, GOOD)[i % 2])), int(rng.integers(1, len(words)))
        out.append({"document": " ".join([*words[:at], cue, *words[at:]]), "summary": f"it was {cue}"})
    return out


def write_csv(path: Path, records: list[dict[str, str]]) -> Path:
    """`records` as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    return path


def spec(source: Path, model: Path, /, **fields: Any) -> dict[str, Any]:
    """A Spec that fits a tiny model to `source` in a second or two."""
    return {"backbone": str(model), "method": fields.pop("method", "fine-tuning"),
            "data": {"train": str(source), "max_tokens": 64, **fields.pop("data", {})},
            "train": {"epochs": 2, "lr": 3e-3, "tokens_per_batch": 256, **fields.pop("train", {})},
            "evaluate": {"n_resamples": 200, **fields.pop("evaluate", {})}, **fields}
