"""What headstart knows of each architecture family: one record a family. A family without a record is not loaded.

    families.of(encoder.config).blocks        "encoder.layer"

To add a family, write its record here and a tiny configuration into tests/tiny.py: the contract tests run over both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# (the block that is skipped, its input hidden_BTD, its other arguments by position) -> what the family's loop expects
HandOn = Callable[[Any, "torch.Tensor", tuple[Any, ...]], Any]


def _alone(_block: Any, hidden_BTD: torch.Tensor, _rest: tuple[Any, ...]) -> Any:
    return hidden_BTD


def _in_tuple(_block: Any, hidden_BTD: torch.Tensor, _rest: tuple[Any, ...]) -> Any:
    return (hidden_BTD,)


def _with_attentions(_block: Any, hidden_BTD: torch.Tensor, _rest: tuple[Any, ...]) -> Any:
    return hidden_BTD, None


def _with_position_bias(block: Any, hidden_BTD: torch.Tensor, rest: tuple[Any, ...]) -> Any:
    """T5's first block also computes the position bias that all blocks share."""
    if rest[1] is not None:
        return hidden_BTD, rest[1], None
    n_tokens = hidden_BTD.shape[1]
    bias = block.layer[0].SelfAttention.compute_bias(n_tokens, n_tokens, device=hidden_BTD.device)
    return hidden_BTD, bias, None


ENCODER_DECODER = "encoder-decoder"  # what transformers calls a model of two that were trained apart


@dataclass(frozen=True)
class Family:
    """One architecture family, by the names that transformers gives its modules and configuration.

    blocks:           the list of its blocks, bottom-up; None: its blocks cannot be told apart, it trains whole.
    unless:           a module in whose presence the blocks cannot be entered either.
    behind:           modules computed behind the blocks. All else outside of them (embeddings, tables of positions
                      that blocks share) is below.
    hand_on:          how a block that is skipped hands on its input.
    read_of_block:    attributes of a block that the family's loop reads.
    attention_out:    the last linear layer of a block's attention.
    keys_and_values:  the linear layers that make keys and values.
    feed_forward:     the configuration's name for the width inside of a block's feed-forward part.
    takes_prefix:     whether its attention takes past keys and values.
    position_offset:  rows of the position table that no token uses: position ids begin behind the padding id.
    has_native_head:  whether its own classification head reads one vector a text.
    loaded_as:        the class of transformers that loads the encoder; None: it is of no use without its decoder.
    has_16_bits:      whether it computes under autocast.
    writes_as:        the class of transformers that loads it with its language-model head; None: it writes nothing.
    decoder_blocks:   the list of the blocks of a decoder that reads what the encoder computes; None: it has none.
    """

    name: str
    blocks: str | None = "encoder.layer"
    unless: str | None = None
    behind: tuple[str, ...] = ("pooler",)
    hand_on: HandOn = _alone
    read_of_block: tuple[str, ...] = ()
    attention_out: str = "attention.output.dense"
    keys_and_values: tuple[str, ...] = ("key", "value")
    feed_forward: str = "intermediate_size"
    takes_prefix: bool = False
    position_offset: int = 0
    has_native_head: bool = True
    loaded_as: str | None = "AutoModel"
    has_16_bits: bool = True
    writes_as: str | None = None
    decoder_blocks: str | None = None


_RECORDS = (
    Family("albert", blocks=None, attention_out="attention.dense"),  # its blocks share their weights
    Family("bart", blocks="encoder.layers", behind=(), attention_out="self_attn.out_proj",
           keys_and_values=("k_proj", "v_proj"), feed_forward="encoder_ffn_dim", takes_prefix=True,
           has_native_head=False, loaded_as=None, writes_as="BartForConditionalGeneration",
           decoder_blocks="decoder.layers"),
    Family("bert", takes_prefix=True),
    Family("camembert", takes_prefix=True, position_offset=2),
    # It masks with the lowest float of 32 bits, which 16 bits cannot hold.
    Family("deberta", blocks=None, behind=(), keys_and_values=(), has_16_bits=False),
    Family("deberta-v2", unless="encoder.conv", behind=(), hand_on=_with_attentions,  # conv: beside its first block
           keys_and_values=("key_proj", "value_proj")),
    Family("distilbert", blocks="transformer.layer", behind=(), attention_out="attention.out_lin",
           keys_and_values=("k_lin", "v_lin"), feed_forward="hidden_dim"),
    Family("electra", behind=(), takes_prefix=True),
    # An encoder and a decoder, each of a family of its own: see `joined`.
    Family(ENCODER_DECODER, blocks=None, has_native_head=False, takes_prefix=True, loaded_as=None,
           writes_as="EncoderDecoderModel", decoder_blocks="decoder.encoder.layer"),
    Family("gpt2", blocks="h", behind=("ln_f",), attention_out="attn.c_proj", keys_and_values=("c_attn",),
           feed_forward="n_inner", takes_prefix=True, has_native_head=False, writes_as="AutoModelForCausalLM"),
    Family("llama", blocks="layers", behind=("norm",), attention_out="self_attn.o_proj",
           keys_and_values=("k_proj", "v_proj"), takes_prefix=True, has_native_head=False,
           writes_as="AutoModelForCausalLM"),
    Family("marian", blocks="encoder.layers", behind=(), attention_out="self_attn.out_proj",
           keys_and_values=("k_proj", "v_proj"), feed_forward="encoder_ffn_dim", takes_prefix=True,
           has_native_head=False, loaded_as=None, writes_as="MarianMTModel", decoder_blocks="decoder.layers"),
    Family("mbart", blocks="encoder.layers", behind=("encoder.layer_norm", "decoder.layer_norm"),
           attention_out="self_attn.out_proj", keys_and_values=("k_proj", "v_proj"), feed_forward="encoder_ffn_dim",
           takes_prefix=True, has_native_head=False, loaded_as=None, writes_as="MBartForConditionalGeneration",
           decoder_blocks="decoder.layers"),
    Family("modernbert", blocks="layers", behind=("final_norm",), read_of_block=("attention_type",),
           attention_out="attn.Wo", keys_and_values=("Wqkv",)),
    Family("mpnet", hand_on=_in_tuple, attention_out="attention.attn.o", keys_and_values=("k", "v"),
           position_offset=2),
    Family("qwen2", blocks="layers", behind=("norm",), attention_out="self_attn.o_proj",
           keys_and_values=("k_proj", "v_proj"), takes_prefix=True, has_native_head=False,
           writes_as="AutoModelForCausalLM"),
    Family("qwen3", blocks="layers", behind=("norm",), attention_out="self_attn.o_proj",
           keys_and_values=("k_proj", "v_proj"), takes_prefix=True, has_native_head=False,
           writes_as="AutoModelForCausalLM"),
    Family("roberta", takes_prefix=True, position_offset=2),
    # About a label the decoder has nothing to say: T5's encoder half alone answers then.
    Family("t5", blocks="encoder.block", behind=("encoder.final_layer_norm", "decoder.final_layer_norm"),
           hand_on=_with_position_bias, attention_out="SelfAttention.o", keys_and_values=("k", "v"),
           feed_forward="d_ff", has_native_head=False, loaded_as="T5EncoderModel",
           writes_as="T5ForConditionalGeneration", decoder_blocks="decoder.block"),
    Family("xlm-roberta", takes_prefix=True, position_offset=2),
)
# What older versions of transformers wrote into config.json in the place of rope_parameters and layer_types.
FORMER_KEYS = ("rope_theta", "rope_scaling", "global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")
FAMILIES = {family.name: family for family in _RECORDS}


def of(config: Any) -> Family:
    """The family of a transformers configuration."""
    return FAMILIES[config.model_type]


def joined(encoder: Family) -> Family:
    """The family of a model whose encoder is of the family `encoder` and whose decoder is of BERT's."""
    blocks = encoder.blocks and f"encoder.{encoder.blocks}"
    unless = encoder.unless and f"encoder.{encoder.unless}"
    keys_and_values = dict.fromkeys((*encoder.keys_and_values, *FAMILIES["bert"].keys_and_values))
    return replace(FAMILIES[ENCODER_DECODER], blocks=blocks, unless=unless, hand_on=encoder.hand_on,
                   behind=tuple(f"encoder.{name}" for name in encoder.behind), read_of_block=encoder.read_of_block,
                   attention_out=encoder.attention_out, keys_and_values=tuple(keys_and_values),
                   feed_forward=encoder.feed_forward, has_16_bits=encoder.has_16_bits)


def names(has: Callable[[Family], Any]) -> str:
    """The families that have something, as a message lists them."""
    return ", ".join(family.name for family in FAMILIES.values() if has(family))
