"""An encoder and a decoder that writes beside it as a Model: T5, BART, mBART, Marian, or two that were trained apart.

What is cached, adapted and computed in 16 bits is the `EncoderDecoder`: blocks of the encoder, then those of the
decoder. Its output layer stands outside, and logits are computed only where a window asks for them.

Shape suffixes: B windows, S tokens that are read, T tokens that are written, D width, M positions whose next token is
asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from ..core.model import MAIN, Inputs
from ..core.values import DECODER_IDS, PREDICTS, Outputs
from . import families
from .families import ENCODER_DECODER, Family
from .heads import NOTHING, Headed, asked_for, check_only_job, encoded, freeze_pooler, save_encoder
from .precision import autocast


class EncoderDecoder(nn.Module):
    """Encoder, decoder, and how the encoder's hidden states get from one to the other.

    config: the encoder's.  new: names of weights here, or beginnings of them, that no pretraining has seen.
    """

    def __init__(self, pretrained: Any, family: Family, new: tuple[str, ...] = ()) -> None:
        super().__init__()
        whole = pretrained.base_model
        self.encoder, self.decoder = whole.encoder, whole.decoder
        if family.name == ENCODER_DECODER:
            self.decoder = whole.decoder.base_model
            family = families.joined(families.of(self.encoder.config))
        self.projection = getattr(whole, "enc_to_dec_proj", None) or nn.Identity()
        self.config, self.family, self.new = self.encoder.config, family, new
        freeze_pooler(self.encoder)
        computed = getattr(pretrained, "_keys_to_ignore_on_load_missing", None) or ()  # Marian's tables of positions
        for name, p in pretrained.named_parameters():
            if name in computed:
                p.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it is; peft asks."""
        return next(self.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        return cast(nn.Module, self.encoder.get_input_embeddings())

    def forward(self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
                decoder_input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None,
                past_key_values: DynamicCache | None = None, use_cache: bool = False, **wanted: Any) -> Any:
        """What the decoder computes, as transformers gives it; what the encoder does, without `decoder_input_ids`.

        past_key_values: of the decoder's own attention: a learned prefix.
        """
        if past_key_values is not None and input_ids is not None and attention_mask is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1]:]  # peft counts the prefix to what is read
        wanted = {name: value for name, value in wanted.items() if name in ("output_hidden_states", "output_attentions")
                  and value}
        read = self.encoder(input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **wanted)
        if decoder_input_ids is None:
            return read
        hidden_BSD = self.projection(read.last_hidden_state)
        cache = None if past_key_values is None and not use_cache else EncoderDecoderCache(
            past_key_values or DynamicCache(), DynamicCache())
        written = self.write(decoder_input_ids, hidden_BSD, attention_mask, cache, **wanted)
        for name in ("hidden_states", "attentions"):
            if written.get(name) is not None:
                written[name] = (*read[name], *written[name])
        if use_cache:
            written["encoder_hidden_state"], written["encoder_mask"] = hidden_BSD, attention_mask
        return written

    def write(self, ids_BT: torch.Tensor, hidden_BSD: torch.Tensor, mask_BS: torch.Tensor | None,
              cache: EncoderDecoderCache | None, **wanted: Any) -> Any:
        """What the decoder computes of a text's next tokens. cache: keys and values of those before; it grows."""
        return self.decoder(input_ids=ids_BT, encoder_hidden_states=hidden_BSD, encoder_attention_mask=mask_BS,
                            past_key_values=cache, use_cache=cache is not None, **wanted)


class Seq2SeqModel(Headed):
    """Inputs with "decoder_input_ids" and `predicts` [B, T] to logits_MV, row by row.

    The output layer is frozen as that of a causal model is, but where it is new.
    """

    head = None
    per_token = False
    writes = True
    signature = "sequence to sequence"

    def __init__(self, pretrained: Any, family: Family, new: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.body: nn.Module = EncoderDecoder(pretrained, family, new)
        self.out = pretrained.get_output_embeddings()
        before = getattr(getattr(pretrained.decoder, "cls", None), "predictions", None) if (
            family.name == ENCODER_DECODER) else None
        self.transform = nn.Identity() if before is None else before.transform
        is_scaled = getattr(pretrained.config, "scale_decoder_outputs", False)  # where T5's embedding is the output
        self.scale = pretrained.config.d_model**-0.5 if is_scaled else 1.0
        self.register_buffer("bias_1V", getattr(pretrained, "final_logits_bias", None), persistent=False)
        self._pretrained = [pretrained]  # in a list: its weights are those above
        if not new:
            self.out.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model of transformers that the weights are of."""
        return cast(nn.Module, self._pretrained[0])

    @property
    def encoder(self) -> nn.Module:
        return self.body

    @property
    def output(self) -> nn.Linear:
        return cast(nn.Linear, self.out)

    def set_encoder(self, encoder: nn.Module) -> None:
        self.body, self.revision = encoder, self.revision + 1
        self.set_precision(self.precision)

    def below_output(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.transform.parameters()]

    def own_head(self) -> nn.Module:
        return nn.ModuleDict({"transform": self.transform})  # beside an adapter it moves, too

    def save_pretrained(self, folder: Path, labels: Mapping[str, Any]) -> None:
        save_encoder(self.model, folder, labels)

    def features(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """What flows into the output layer, [M, D]."""
        return cast(torch.Tensor, self.transform(hidden_MD.float())) * self.scale

    def logits(self, features_MD: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, [M, V] float32; the product is computed in the encoder's precision."""
        with autocast(self.precision, features_MD.device.type):
            logits_MV: torch.Tensor = self.output(features_MD)
        return logits_MV.float() if self.bias_1V is None else logits_MV.float() + cast(torch.Tensor, self.bias_1V)

    def forward(self, inputs: Inputs, job: str = MAIN, want: frozenset[str] = NOTHING) -> Outputs:
        check_only_job(job)
        predicts_BT = inputs.get(PREDICTS)
        names = ("input_ids", "attention_mask", *([] if predicts_BT is None else [DECODER_IDS]))
        outputs, hidden, attentions = encoded(self.encoder, {name: inputs[name] for name in names}, want)
        features_MD = self.features(asked_for(outputs.last_hidden_state, predicts_BT))
        return Outputs(self.logits(features_MD), features_MD, hidden, attentions)
