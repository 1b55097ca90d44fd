"""fine-tuning: every weight moves, from a head that already fits; or only the upper blocks, or block after block.

What moves  all weights but the token embeddings; those too with freeze_embeddings: false. last_blocks: k moves only the
            upper k blocks: what lies below is computed once and kept (cache), so an epoch costs a fraction.
When        some hundred labels or more, and minutes to spend. last_blocks where the machine is slow or labels are few.
Cost        three forward passes' arithmetic a token and epoch; the optimizer holds twice the weights.
Goes wrong  with few labels and a high rate the pretrained features are lost; `head_first` guards against that: a
            random head sends large, meaningless gradients into the backbone, a solved one does not. `layer_decay`,
            `l2_sp` and `gradual` hold the lower blocks back.
            Where labels are many and rows few, the frozen features with a solved head are hard to beat; the mean of
            both (`average: wise-ft`) often beats either.
Source      Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (head_first, LP-FT); Wortsman et al. 2022,
            "Robust fine-tuning of zero-shot models" (wise-ft); Izmailov et al. 2018, "Averaging Weights Leads to Wider
            Optima" (swa); Wortsman et al. 2022, "Model soups" (soup); Howard & Ruder 2018, "Universal Language Model
            Fine-tuning" (gradual, slanted-triangular); Clark et al. 2020, "ELECTRA" (layer_decay); Li et al. 2018,
            "Explicit Inductive Bias for Transfer Learning" (l2_sp). What the defaults were chosen by: python -m bench
            defaults
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..core.errors import SpecError
from ..core.method import Average, Method, Plan, parameter_groups

if TYPE_CHECKING:
    import torch

    from ..core.model import Model
    from ..core.task import Task

SOUP_OF = 3  # trainings


@dataclass(frozen=True)
class FineTuning(Method):
    """Everything moves, or the upper part of it.

    head_first:        solve the head on frozen features, then move the rest.
    freeze_embeddings: leave the token embeddings as they are.
    last_blocks:       move only this many of the upper blocks; a decoder's stand above those of its encoder.
    encoder:           of a model with a decoder, what moves beside that: nothing (frozen), the upper third of the
                       encoder's blocks (last_blocks), or all of it; choose: each is tried for a sixth of the steps, and
                       validation chooses. Absent: frozen where the decoder is new, else all.
    layer_decay:       each block learns at this share of the rate of the block above it; 1 is one rate for all.
    gradual:           the top block first, one more every epoch.
    l2_sp:             pull of the backbone's weights towards the pretrained ones, times half their squared distance.
    average:           a mean of weights that is kept if it scores better on validation: of the first and the best
                       trained ones (wise-ft), of all steps with exponential weights (ema), of the second half's
                       evaluations (swa), of the best ones of several trainings from the first weights, rows in another
                       order each (soup: so many times the time).
    members:           how many trainings a soup is of; absent: three.
    """

    name: ClassVar = "fine-tuning"

    head_first: bool = True
    freeze_embeddings: bool = True
    last_blocks: Annotated[int, Field(ge=1)] | None = None
    encoder: Literal["frozen", "last_blocks", "all", "choose"] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    gradual: bool = False
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    average: Average = "wise-ft"
    members: Annotated[int, Field(ge=2)] | None = None

    @property
    def alternatives(self) -> Mapping[str, Method]:
        names: tuple[Literal["frozen", "last_blocks", "all"], ...] = ("frozen", "last_blocks", "all")
        return {name: replace(self, encoder=name) for name in names} if self.encoder == "choose" else {}

    @property
    def defaults(self) -> dict[str, Any]:
        schedule = {"schedule": "slanted-triangular"} if self.gradual else {}
        return {"train": {"dropout": 0.0, "label_smoothing": 0.1, **schedule}}

    @property
    def plan(self) -> Plan:
        return Plan(solves_head=self.head_first, average=self.average, n_members=self.members or SOUP_OF)

    def check(self, task: Task) -> None:
        if self.members is not None and self.average != "soup":
            raise SpecError("method.members", f"says how many trainings a soup is of, and average is {self.average}.",
                            "Leave it out, or add average: soup")

    def prepare(self, model: Model) -> None:
        from ..models import blocks, families

        n = len(blocks.of(model.encoder))
        for option, value in (("last_blocks", self.last_blocks), ("gradual", self.gradual or None),
                              ("layer_decay", self.layer_decay if self.layer_decay < 1 else None)):
            if value is not None and not n:
                raise SpecError(f"method.{option}", "needs blocks that can be told apart, and this backbone's cannot.",
                                f"Leave it out, or use one of: {families.names(lambda f: f.blocks)}")
        if (self.last_blocks or 0) > n:
            raise SpecError("method.last_blocks", f"is {self.last_blocks}, but the backbone has {n} blocks.",
                            f"Choose 1 to {n}.")
        self._freeze_encoder(model)
        if self.last_blocks is not None:
            blocks.freeze(model.encoder, n - self.last_blocks)
        if model.writes and not self.freeze_embeddings and self.last_blocks is None and any(
                p is model.output.weight and not p.requires_grad for p in blocks.base(model.encoder).parameters()):
            raise SpecError("method.freeze_embeddings", "is false, but this model's embedding is its output layer, "
                            "too, which stays as it is.", "Leave it out.")
        if self.freeze_embeddings or self.last_blocks is not None:
            blocks.base(model.encoder).get_input_embeddings().requires_grad_(False)  # type: ignore[operator]

    def _freeze_encoder(self, model: Model) -> None:
        from ..models import blocks

        if blocks.decoder(model.encoder) is None:
            if self.encoder is not None:
                raise SpecError("method.encoder", "is for a model with a decoder beside its encoder, and this backbone "
                                "has none.", "Leave it out, or use last_blocks.")
            return
        n = blocks.n_entered(model.encoder)
        moves = self.encoder or ("frozen" if blocks.new_weights(model.encoder) and self.last_blocks is None else "all")
        if not n and moves == "last_blocks":
            raise SpecError("method.encoder", "is last_blocks, and the encoder's blocks cannot be told apart.",
                            "Use frozen or all.")
        if moves == "frozen":
            blocks.base(model.encoder).encoder.requires_grad_(False)  # type: ignore[union-attr]
        elif moves == "last_blocks":
            blocks.freeze(model.encoder, n - max(1, n // 3))

    def depths(self, model: Model, epochs: int) -> list[int]:
        from ..models import blocks

        n, least = len(blocks.of(model.encoder)), model.n_frozen()
        return [max(least, n - 1 - epoch) for epoch in range(epochs)] if self.gradual else [least]

    def at_epoch(self, model: Model, epoch: int, trainable: Sequence[torch.nn.Parameter]) -> None:
        if self.gradual:
            from ..models import blocks

            for p in trainable:
                p.requires_grad_(True)
            blocks.freeze(model.encoder, max(0, len(blocks.of(model.encoder)) - 1 - epoch))

    def groups(self, model: Model, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        trainable = [p for p in model.parameters() if p.requires_grad]
        if self.layer_decay == 1:
            return parameter_groups(trainable, lr, weight_decay)
        from ..models import blocks

        layers = blocks.of(model.encoder)
        block_of = {id(p): i for i, layer in enumerate(layers) for p in layer.parameters()}
        behind = {id(p) for part in blocks.behind(model.encoder) for p in part.parameters()}
        inside = {id(p) for p in model.encoder.parameters()} - behind
        below_head: dict[int, list[torch.nn.Parameter]] = {}
        for p in trainable:
            steps = len(layers) - block_of.get(id(p), -1) if id(p) in inside else 0
            below_head.setdefault(steps, []).append(p)
        return [group for steps, weights in sorted(below_head.items())
                for group in parameter_groups(weights, lr * self.layer_decay**steps, weight_decay)]

    def penalty(self, model: Model, first: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        if not self.l2_sp:
            return None
        output = {id(p) for p in model.output.parameters()}
        moved = [(p - first[name].to(p.device)).square().sum() for name, p in model.named_parameters()
                 if p.requires_grad and id(p) not in output]
        return self.l2_sp / 2 * sum(moved[1:], moved[0]) if moved else None
