"""distillation: a smaller student learns what a teacher answers, beside or instead of what labels say.

What moves  as in fine-tuning: all of the student but its token embeddings, and its head, which is first solved on the
            labeled rows. The teacher is a finished run of the same task, exported or not, or several: the mean of their
            logits (of vectors: of their cosines). It answers every row once, before training; its answers are kept
            under its sha256 (cache), so that other seeds and students find them, and it is not in memory afterwards.
When        the teacher is better than the student alone, and there are texts without labels (unlabelled): from a few
            thousand labeled rows alone a student rarely gains. Labels are matched by their names.
Cost        one forward pass of the teacher over all rows, then that of fine-tuning the student on them; ablation trains
            the student again, once without the teacher or, if true, up to three times. Matched hidden states take four
            bytes a number, token and block on the disk, and the cache of frozen blocks cannot serve them.
Goes wrong  a teacher that is no better than the student teaches its mistakes. One that learned from this run's test
            rows makes them worthless: fit it with the same data and seed, or name data.test. Where the head reads
            tokens, and where hidden states or attention are matched, both must have the same tokenizer. More unlabeled
            rows make more steps: an epoch is all rows.
Source      Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (temperature squared, weight); Jiao et
            al. 2020, "TinyBERT" (hidden states of evenly chosen blocks, through a learned projection); Wang et al.
            2020, "MiniLM" (attention of the last block, compared as distributions; here the mean of its heads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..core.errors import SpecError
from ..core.method import Method, Plan
from ..core.teaching import ATTENTION, HIDDEN, IS_LABELED, LOGITS, PROJECTIONS, TEACHER
from ..core.values import IGNORE
from .fine_tuning import FineTuning

if TYPE_CHECKING:
    import torch

    from ..core.model import Model
    from ..core.task import Task
    from ..core.values import Outputs

STEPS = FineTuning()
Loss = tuple["torch.Tensor", "torch.Tensor"]  # sum, count


@dataclass(frozen=True)
class Distillation(Method):
    """A student learns from a teacher's answers.

    teacher:     the folder of a finished run, or a list of them.
    temperature: logits are divided by it before they are compared: the higher, the more unlikely answers count; 1: as
                 they are. Numbers (regression, cosines) are compared by their squared difference, without it.
    weight:      of the teacher's answers; the gold of labeled rows has the rest. 1: gold is not read.
    match:       what is compared: logits; hidden, the states of evenly chosen blocks through a learned projection;
                 attention, how the last block spreads it, mean of its heads.
    unlabelled:  a file of rows that only the teacher answers; gold in it is not read. Those that stand in this run's
                 train, validation or test rows are left out, and counted.
    ablation:    whether the certificate holds the same student, trained as often, from labels alone, from the teacher
                 alone, and without the unlabeled rows; absent: from labels alone; false: none of them.
    head_first, freeze_embeddings, last_blocks, average: as in fine-tuning.
    """

    name: ClassVar = "distillation"
    # A student goes on learning from what a teacher says of all rows while a small validation set shows nothing yet.
    defaults: ClassVar = {"train": {**STEPS.defaults["train"], "patience": 20}}

    teacher: str | tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    match: tuple[Literal["logits", "hidden", "attention"], ...] = ("logits",)
    unlabelled: str | None = None
    ablation: bool | None = None
    head_first: bool = True
    freeze_embeddings: bool = True
    last_blocks: Annotated[int, Field(ge=1)] | None = None
    average: Literal["none", "wise-ft", "ema", "swa"] = STEPS.average  # type: ignore[assignment]

    @property
    def plan(self) -> Plan:
        teachers = (self.teacher,) if isinstance(self.teacher, str) else self.teacher
        return Plan(solves_head=self.head_first, average=self.average, teachers=teachers, unlabeled=self.unlabelled,
                    matches=self.match)

    @property
    def wants(self) -> frozenset[str]:
        names = {"hidden": "hidden", "attention": "attentions"}
        return frozenset(names[part] for part in self.match if part in names)

    def check(self, task: Task) -> None:
        if not all(self.plan.teachers) or not self.plan.teachers:
            raise SpecError(TEACHER, "is missing; it must be the folder of a finished run of the same task, or a list "
                            "of them.", "For example: --set method.teacher=runs/big")
        if len(set(self.plan.teachers)) < len(self.plan.teachers):
            raise SpecError(TEACHER, "names a run twice.", "Name each once.")
        if self.unlabelled == "-":
            raise SpecError("method.unlabelled", "is standard input, which cannot be read again by a run that goes on.",
                            "Write the rows to a file first, and name it.")
        if not self.match or len(set(self.match)) < len(self.match):
            raise SpecError("method.match", f"is {list(self.match)}; it must name one or more of logits, hidden and "
                            "attention, each once.", "Leave it out: logits are matched then.")
        if task.generation is not None:
            raise SpecError("method.name", f'"distillation" compares logits of answers; task "{task.name}" writes '
                            "texts.", "Use lora, or write texts with the teacher and fit the student to those.")

    def prepare(self, model: Model) -> None:
        FineTuning(freeze_embeddings=self.freeze_embeddings, last_blocks=self.last_blocks).prepare(model)

    def projected(self, model: Model, outputs: Outputs) -> Outputs:
        if PROJECTIONS not in model.more_heads:
            return outputs
        projections: Any = model.more_heads[PROJECTIONS]
        return replace(outputs, hidden=tuple(p(h_BTD) for p, h_BTD in zip(projections, outputs.hidden, strict=True)))

    def loss(self, task: Task, outputs: Outputs, target: dict[str, torch.Tensor], *,
             weights_K: torch.Tensor | None = None, label_smoothing: float = 0.0) -> Loss:
        """(1 - weight) of the task's loss on labeled rows, and weight of the distance to the teacher on all.

        Sums over the lines that are compared (rows, words, labels), whose number is the count.
        """
        own = {name: values for name, values in target.items() if name not in (IS_LABELED, LOGITS, HIDDEN, ATTENTION)}
        if IS_LABELED not in target or not self.weight:
            return task.loss(outputs.logits, own, weights_K=weights_K, label_smoothing=label_smoothing)
        summed, count = self._distance(task, outputs, own, target)
        is_labeled_B = target[IS_LABELED] == 1
        if self.weight == 1 or not bool(is_labeled_B.any()):
            return self.weight * summed, count
        gold = {name: values[is_labeled_B] for name, values in own.items()}
        of_gold, _ = task.loss(outputs.logits[is_labeled_B], gold, weights_K=weights_K, label_smoothing=label_smoothing)
        return (1 - self.weight) * of_gold + self.weight * summed, count

    def _distance(self, task: Task, outputs: Outputs, own: dict[str, torch.Tensor],
                  target: Mapping[str, torch.Tensor]) -> Loss:
        """How far a batch is from its teacher, in all that is matched."""
        scores_NK = task.compared(outputs.logits, own)
        parts = []
        if LOGITS in target:
            parts.append(soft_loss(scores_NK, task.compared(target[LOGITS], own), self.temperature))
        if HIDDEN in target:
            parts.append(hidden_loss(outputs.hidden, target[HIDDEN]))
        if ATTENTION in target:
            parts.append(attention_loss(outputs.attentions[-1], target[ATTENTION]))
        return sum(parts[1:], parts[0]), scores_NK.new_full((), len(scores_NK))

    def ablations(self) -> dict[str, tuple[Method, bool]]:
        if self.ablation is False:
            return {}
        arms: dict[str, tuple[Method, bool]] = {"student-from-labels": (replace(self, weight=0.0), False)}
        if self.ablation:
            if self.weight < 1:
                arms["student-from-teacher"] = replace(self, weight=1.0), True
            if self.unlabelled:
                arms["without-unlabeled-rows"] = self, False
        return arms

    def finish(self, model: Model) -> Model:
        if PROJECTIONS in model.more_heads:
            del model.more_heads[PROJECTIONS]
        return model


def soft_loss(scores_NK: torch.Tensor, teacher_NK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence from teacher to student at a temperature, times its square, so that gradients keep
    their size; of one number a line the squared difference. Summed over N."""
    from torch.nn.functional import kl_div, log_softmax, mse_loss

    if scores_NK.shape[-1] == 1:
        return mse_loss(scores_NK.float(), teacher_NK.float(), reduction="sum")
    ours_NK, theirs_NK = (log_softmax(scores.float() / temperature, -1) for scores in (scores_NK, teacher_NK))
    return temperature**2 * kl_div(ours_NK, theirs_NK, reduction="sum", log_target=True)


def hidden_loss(hidden: tuple[torch.Tensor, ...], teacher_BTLD: torch.Tensor) -> torch.Tensor:
    """Squared difference of the states of L layers, [B, T, D] each; a mean over a window's tokens, summed over B."""
    import torch

    is_real_BT = teacher_BTLD[:, :, 0, 0] != IGNORE
    apart_BT = (torch.stack(hidden, 2).float() - teacher_BTLD).square().mean((2, 3)).masked_fill(~is_real_BT, 0.0)
    return (apart_BT.sum(1) / is_real_BT.sum(1)).sum()


def attention_loss(attention_BHTT: torch.Tensor, teacher_BS: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of where tokens look, mean of the heads; a mean over a window's tokens.

    teacher_BS: [T, T] of each window in a row, S numbers with IGNORE behind them.
    """
    ours_BTT = attention_BHTT.float().mean(1).clamp(min=1e-12)
    total = ours_BTT.new_zeros(())
    for ours_TT, line_S, size in zip(ours_BTT, teacher_BS, (teacher_BS != IGNORE).sum(1).tolist(), strict=True):
        n = round(size**0.5)
        theirs_TT = line_S[:size].reshape(n, n).clamp(min=1e-12)
        total = total + (theirs_TT * (theirs_TT.log() - ours_TT[:n, :n].log())).sum() / n
    return total
