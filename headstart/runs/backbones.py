"""The backbone of a run: which one, what the task takes from it, and whether there is memory for what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core import machine
from ..core.errors import DataError, Problem, SpecError
from ..core.method import Method
from ..core.model import Model
from ..core.spec import DEFAULT, EncoderDecoderSpec, Origins, Spec
from ..core.task import Task
from ..core.values import Row
from ..data.splits import Splits
from ..models.backbone import Backbone, load_backbone
from ..models.chat import chat_format
from ..models.stepping import bytes_needed
from ..models.warm_start import warm_start
from . import language
from .folder import BACKBONE
from .resolve import Layer

LR = 2e-3  # what is new learns from nothing: at the rate of fine-tuning it would take many times as long


def load(spec: Spec, origins: Origins, task: Task, train: Sequence[Row], method: Method,
         work: Path) -> tuple[Layer, Backbone]:
    """(what the train rows make of the Spec, the backbone): the one named, the one that suits the rows, or an encoder
    and a decoder, which are put together in the folder `work`."""
    pair = spec.encoder_decoder
    if pair is None:
        layer = language.layer(spec, origins, task, train)
        name = layer[1].get("backbone", spec.backbone.name)
        return layer, load_backbone(name, spec.data.max_tokens, method.plan.n_extra_tokens,
                                    keep_blocks=spec.backbone.keep_blocks)
    _check_pair(pair, spec, origins, task)
    texts = [text for row in train for text in task.targets_of(row)]
    backbone = warm_start(work / BACKBONE, pair.encoder, pair.decoder, pair.blocks, pair.vocabulary, texts,
                          spec.data.max_tokens, spec.seed)
    return ("encoder_decoder", {"backbone": pair.encoder, "train": {"lr": LR}}), backbone


def _check_pair(pair: EncoderDecoderSpec, spec: Spec, origins: Origins, task: Task) -> None:
    if task.generation is None:
        raise SpecError("encoder_decoder", f'is for tasks that write; "{task.name}" does not.',
                        "Leave it out, or name another task.")
    if origins.get("backbone") != DEFAULT and str(spec.backbone) != pair.encoder:
        raise SpecError("encoder_decoder.encoder", f"is {pair.encoder}, and backbone is {spec.backbone}: only one of "
                        "both can read the rows.", "Leave backbone out.")


def fitted_to(backbone: Backbone, task: Task, parts: Splits, max_tokens: int) -> Task:
    """The task with what only the backbone tells. Raises DataError for rows whose gold does not fit into a window.

    max_tokens: as the Spec has it; the backbone may read fewer.
    """
    if task.generation is None:
        return task
    task = task.fitted_to(backbone.reader, lambda: chat_format(backbone.folder))
    problems = [Problem(table.where(i), what) for table in (parts.train, parts.validation, parts.test)
                for i, what in task.check_read(table.rows, backbone.reader)]
    if problems:
        longest = backbone.reader.max_tokens
        longer = ("Remove these rows, or take another backbone: this one reads no more tokens." if longest < max_tokens
                  else f"Let windows be longer, such as --set data.max_tokens={2 * longest}, or remove these rows.")
        raise DataError.of(problems, f"Nothing of a target is ever cut. {longer}")
    return task


def check_memory(model: Model, task: Task, spec: Spec, max_tokens: int) -> None:
    """Raise SpecError where texts would take more memory than there is: now, and not after hours of training."""
    if task.generation is None:
        return
    needed = bytes_needed(model, task.generation, max_tokens, spec.evaluate.tokens_per_batch)
    if needed > (there := machine.memory_bytes()):
        name = "beams" if task.generation.candidates == 1 else "candidates"
        raise SpecError(f"task.decoding.{name}", f"is {task.generation.n_at_once}: with evaluate.tokens_per_batch "
                        f"{spec.evaluate.tokens_per_batch:,} and data.max_tokens {max_tokens:,}, writing would hold "
                        f"{needed / 1e9:.1f} GB, and this machine has {there / 1e9:.1f} GB.",
                        f"Follow fewer, and write fewer texts at once: --set task.decoding.{name}=1 --set "
                        "evaluate.tokens_per_batch=4096")
