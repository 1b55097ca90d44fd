"""An encoder-decoder out of an encoder that is there and a decoder that reads beside it, with a vocabulary of its own.

The decoder's blocks are those of another pretrained encoder, or new. Its attention to what the encoder computes begins
as a copy of its attention to itself; the embedding of a token of the new vocabulary begins as the mean of the pieces
that the pretrained tokenizer cuts it into. What comes out is a folder like any other model's.

Source  Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks" (BERT2BERT; there the
        attention between both is drawn at random).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from ..core import files
from ..core.errors import SpecError
from . import families
from .backbone import TARGET_TOKENIZER, Backbone, load_backbone, load_encoder

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
NEW = ("decoder.embeddings.word_embeddings.", "projection.")  # of `EncoderDecoder`: nothing has taught them anything
NEW_DECODER = ("decoder.", "projection.")


def warm_start(folder: Path, encoder: str, decoder: str | None, n_blocks: int, vocabulary: int, texts: Iterable[str],
               max_tokens: int, seed: int) -> Backbone:
    """Make the model in `folder` from the target `texts`, unless it is there already, and load it.

    decoder:    whose lowest `n_blocks` blocks begin the decoder; None: new ones, as wide as the encoder's.
    vocabulary: tokens that are learned from `texts`, at most.
    Raises      SpecError for models that do not go together; ModelError as `load_backbone` does.
    """
    if not (folder / "config.json").exists():
        with files.write_folder(folder) as unfinished, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _write(unfinished, encoder, decoder, n_blocks, vocabulary, texts)
    backbone = load_backbone(str(folder), max_tokens)
    return replace(backbone, name=f"{encoder} + {decoder or f'{n_blocks} new blocks'}",
                   new=NEW_DECODER if decoder is None else NEW)


def _write(folder: Path, encoder: str, decoder: str | None, n_blocks: int, vocabulary: int,
           texts: Iterable[str]) -> None:
    reads = load_backbone(encoder, max_tokens=10**6)
    family = families.of(reads.config)
    if family.loaded_as is None or family.writes_as is not None:
        raise SpecError("encoder_decoder.encoder", f"is of the family {family.name}, which is no encoder alone.",
                        "Name an encoder, such as minilm-l6; a model that writes is used as it is: --backbone")
    tokenizer = learned_tokenizer(texts, vocabulary)
    of_target = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                 "is_decoder": True, "add_cross_attention": True, "architectures": None}
    if decoder is None:
        config = transformers.BertConfig(**of_target, **_sizes(reads.config), num_hidden_layers=n_blocks)
        writer: Any = transformers.BertLMHeadModel(config)
    else:
        writer = _taught(load_backbone(decoder, max_tokens=10**6), n_blocks, of_target, tokenizer)
    joined = transformers.EncoderDecoderModel(encoder=load_encoder(reads), decoder=writer)
    joined.config.decoder_start_token_id, joined.config.eos_token_id, joined.config.pad_token_id = 1, 2, 0
    joined.save_pretrained(folder)
    reads.reader.tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.save(str(folder / TARGET_TOKENIZER))


def _sizes(config: Any) -> dict[str, Any]:
    """Sizes of new blocks beside an encoder."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    return {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width,
            "max_position_embeddings": int(getattr(config, "max_position_embeddings", 0) or 512)}


def learned_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A tokenizers.Tokenizer of at most `vocabulary` tokens that can write any text, learned from `texts`.

    Pairs of bytes that stand together often are joined (byte-level BPE); the same texts give the same tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[PAD, BEGIN, END], show_progress=False,
                                  min_frequency=2, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _taught(backbone: Backbone, n_blocks: int, of_target: dict[str, Any], tokenizer: Any) -> Any:
    """BERT's lowest blocks as a decoder over the new vocabulary."""
    if backbone.config.model_type != "bert":
        raise SpecError("encoder_decoder.decoder", f"is of the family {backbone.config.model_type}; blocks of BERT's "
                        "family alone can attend to an encoder.",
                        "Name one, such as minilm-l3, or leave it out for new blocks.")
    if n_blocks > backbone.config.num_hidden_layers:
        raise SpecError("encoder_decoder.blocks", f"is {n_blocks}, but {backbone.name} has "
                        f"{backbone.config.num_hidden_layers}.", "Choose fewer.")
    config = copy.deepcopy(backbone.config)
    config.update({**of_target, "num_hidden_layers": n_blocks})
    writer = transformers.BertLMHeadModel(config)
    from_encoder: Any = load_encoder(backbone)
    embeddings, before = writer.bert.embeddings, from_encoder.embeddings
    with torch.no_grad():
        for name in ("position_embeddings", "token_type_embeddings", "LayerNorm"):
            getattr(embeddings, name).load_state_dict(getattr(before, name).state_dict())
        embeddings.word_embeddings.weight.copy_(_means_of_pieces(before.word_embeddings.weight, backbone, tokenizer))
        for block, taught in zip(writer.bert.encoder.layer, from_encoder.encoder.layer, strict=False):
            block.load_state_dict(taught.state_dict(), strict=False)
            block.crossattention.load_state_dict(_attention(taught), strict=False)
    return writer


def _attention(block: nn.Module) -> dict[str, torch.Tensor]:
    return cast(nn.Module, block.attention).state_dict()


def _means_of_pieces(table_VD: torch.Tensor, backbone: Backbone, tokenizer: Any) -> torch.Tensor:
    """The new vocabulary's embedding: of each token the mean of its pieces, spread as the pretrained ones are."""
    n_ids = tokenizer.get_vocab_size()
    new_VD = torch.randn(n_ids, table_VD.shape[1]) * table_VD.std()
    for i, text in enumerate(tokenizer.decode_batch([[i] for i in range(n_ids)], skip_special_tokens=True)):
        pieces = backbone.reader.ids(text.strip()) if text.strip() and "\ufffd" not in text else []
        pieces = [piece for piece in pieces if piece != backbone.reader.unknown_id]
        if pieces:
            new_VD[i] = table_VD[pieces].mean(0)
    return new_VD
