"""setfit: texts of one label are pulled together and others pushed apart; then a head is solved on what comes out.

What moves  all weights but the token embeddings, under a contrastive loss that has no head; the head is solved anew.
When        8 to 64 labels a class, and a sentence encoder as backbone.
Cost        that of fine-tuning a step; all pairs of a batch are compared, so few steps are enough.
            With fewer than 30 validation rows their score chooses nothing and the last weights are kept: of a handful
            of rows all weights score alike, and the untrained ones would win the ties.
Goes wrong  with many labels a class plain fine-tuning is as good and knows the labels' own geometry; a batch must hold
            texts of one label twice, so very many classes want large batches.
Source      Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts". There pairs are drawn and encoded one
            by one with a squared loss on their cosine; here every pair of a batch is compared under the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..core.errors import SpecError
from ..core.method import Method, Plan
from .fine_tuning import FineTuning

if TYPE_CHECKING:
    import torch

    from ..core.model import Model
    from ..core.task import Task
    from ..core.values import Outputs


@dataclass(frozen=True)
class SetFit(Method):
    """Contrast, then a solved head. freeze_embeddings: leave the token embeddings as they are."""

    name: ClassVar = "setfit"
    wants: ClassVar = frozenset({"features"})
    compares_rows: ClassVar = True
    defaults: ClassVar = {"train": {"lr": 1e-4, "dropout": 0.0, "tokens_per_batch": 1024}}
    plan: ClassVar = Plan(solves_again=True, min_choosing_rows=30)

    freeze_embeddings: bool = True

    def check(self, task: Task) -> None:
        if not task.is_comparable:
            raise SpecError("method", f'compares rows by their answers, and those of "{task.name}" have no likeness.',
                            "Use another method: fine-tuning works with every task.")

    def prepare(self, model: Model) -> None:
        FineTuning(freeze_embeddings=self.freeze_embeddings).prepare(model)

    def loss(self, task: Task, outputs: Outputs, target: dict[str, torch.Tensor], *,
             weights_K: torch.Tensor | None = None, label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared difference between each pair's cosine and 1 (one label) or 0 (two), both kinds weighed equally."""
        from torch.nn.functional import normalize

        assert outputs.features is not None  # `wants` names them
        unit_BD = normalize(outputs.features.float(), dim=-1)
        same_BB = task.similarity(target)
        n = len(same_BB)
        other_BB = 1 - same_BB
        same_BB = same_BB - same_BB.new_ones(n).diag()  # a text with itself tells nothing
        error_BB = (unit_BD @ unit_BD.T - same_BB).square()
        kinds = [(error_BB * pairs).sum() / pairs.sum() for pairs in (same_BB, other_BB) if pairs.sum() > 0]
        mean = sum(kinds[1:], kinds[0]) / len(kinds) if kinds else 0 * unit_BD.sum()
        return n * mean, unit_BD.new_full((), n)
