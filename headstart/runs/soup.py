"""Several finished runs as one model, by their weights: means, and sums of what each learned beyond its backbone.

All begin from one backbone and have one shape; adapters are added to the weights first. So the result costs what one
model costs. The head is always the mean of the members' heads: no backbone has one that it began from.

Source  Wortsman et al. 2022, "Model soups" (soup, greedy-soup); Ilharco et al. 2023, "Editing Models with Task
        Arithmetic"; Yadav et al. 2023, "TIES-Merging".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ..core.errors import ArtifactError
from ..core.model import Model
from ..core.predict import predict
from ..core.progress import Progress
from ..core.spec import Spec, resolve_layers, to_yaml
from ..core.task import Task
from ..core.untrusted import read_json
from ..core.values import Prediction, Row
from ..models import adapters
from ..models.backbone import Backbone, build_model, load_backbone
from ..models.runtime import TorchRuntime
from ..training.averaging import Weights, include
from . import artifact, blending, weights
from .artifact import EXPORT, Artifact

if TYPE_CHECKING:
    from .ensemble import Alone, Joined

SCALES = (0.25, 0.5, 0.75, 1.0)  # of summed changes; validation chooses
TRIMMED_TO = 0.2  # of each change, the share of largest numbers that TIES keeps
ONE_START = "Name runs that moved the weights of one backbone; to join others: --how mean"


@dataclass(frozen=True)
class Kitchen:
    """A model whose weights are exchanged, and what it is judged by. rows: validation, with their gold."""

    model: Model
    task: Task
    artifact: Artifact
    rows: Sequence[Row]

    def put(self, mixture: Mapping[str, torch.Tensor]) -> None:
        """Let the model have these weights."""
        cast(nn.Module, self.model).load_state_dict(dict(mixture), strict=False)
        self.model.revision += 1

    def answers(self, rows: Sequence[Row]) -> list[Prediction]:
        """What the model, as it is now, answers."""
        runtime, loaded = TorchRuntime(self.model, torch.device("cpu")), self.artifact
        return list(predict(self.task, [self.task.without_gold(row) for row in rows], loaded.reader, runtime,
                            tokens_per_batch=loaded.spec.evaluate.tokens_per_batch))

    def score(self, mixture: Mapping[str, torch.Tensor]) -> float:
        """On validation, of these weights."""
        self.put(mixture)
        return blending.score(self.task, self.answers(self.rows), self.rows)


@dataclass(frozen=True)
class Mixture:
    """Weights, and in words how they were made. shares: of each candidate; None where no number says it."""

    weights: Weights
    what: str
    shares: Sequence[float | None]
    score: float


def make(alone: Alone, how: str, subtract: Sequence[str | Path], progress: Progress) -> Joined:
    """One model out of the candidates. Raises ArtifactError that names the one that does not fit."""
    from .ensemble import Joined

    best = alone.candidates[alone.best].loaded
    opened = [_weights(candidate.loaded) for candidate in alone.candidates]
    for candidate, other in zip(alone.candidates, opened, strict=True):
        _check_fits(best, opened[alone.best], candidate.loaded, other)
    kitchen = Kitchen(_model(best), best.task, best, alone.rows("validation"))
    if how == "soup":
        mixture = _soup(kitchen, opened)
    elif how == "greedy-soup":
        mixture = _greedy_soup(kitchen, opened, alone.scores, progress)
    else:
        taken = [_change_of(folder, best) for folder in subtract]
        mixture = _summed(kitchen, opened, taken, how, progress)
    kitchen.put(mixture.weights)
    rows = alone.rows("validation")
    task = best.task.calibrate(kitchen.answers(rows), rows)
    spec = _spec(best.spec)
    answers = list(map(task.apply_threshold, kitchen.answers(alone.rows("test"))))
    native = task.head.native if kitchen.model.head is None else None
    return Joined(mixture.what, mixture.shares, task, mixture.score, answers,
                  partial(_fill, kitchen.model, task, best, spec), spec, is_one_model=True, native=native)


def _spec(spec: Spec) -> Spec:
    """The best member's, for weights that all moved."""
    values = {**spec.model_dump(), "method": {"name": "fine-tuning"}}
    return resolve_layers(("the best member", values))[0]


def _fill(model: Model, task: Task, best: Artifact, spec: Spec, folder: Path, golden: Sequence[Row]) -> None:
    weights.save(folder, model, task, _backbone(best), golden)
    (folder / "spec.yaml").write_text(to_yaml(spec, {}), "utf-8")
    (folder / "steps.jsonl").write_text("", "utf-8")


def _backbone(loaded: Artifact) -> Backbone:
    """What the run began from, for its tokenizer's files and its first weights."""
    return load_backbone(loaded.spec.backbone.name, loaded.spec.data.max_tokens,
                         keep_blocks=loaded.spec.backbone.keep_blocks)


def _model(loaded: Artifact) -> Model:
    """The run's model, its adapter added to its weights. Raises ArtifactError for an adapter that is no change of them.
    """
    if (loaded.folder / EXPORT).exists():
        raise ArtifactError(f"ensemble {loaded.folder}", "is exported and holds no weights to average.",
                            "Name the run that it was exported from, or use --how mean.")
    model, _ = weights.open_model(loaded.folder, loaded.task, loaded.spec)
    if adapters.is_mergeable(model):
        model = adapters.merged(model)
    if adapters.is_on(model):
        raise ArtifactError(f"ensemble {loaded.folder}", f'answers with an adapter of "{loaded.spec.method["name"]}", '
                            "which is no change of the backbone's weights.", ONE_START)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # they may lie in a mapped file
    return model


def _weights(loaded: Artifact) -> Weights:
    """All weights of a run, by name, on the CPU."""
    state = cast(nn.Module, _model(loaded)).state_dict()
    return {name: tensor.detach() for name, tensor in state.items() if tensor.is_floating_point()}


def _check_fits(best: Artifact, first: Weights, loaded: Artifact, other: Weights) -> None:
    """Raise ArtifactError unless both began from one backbone and have one shape."""
    where, first_name = f"ensemble {loaded.folder}", best.folder
    starts = [str(read_json(a.folder / "scores.json", ArtifactError).get("backbone_sha256")) for a in (best, loaded)]
    if starts[0] != starts[1]:
        raise ArtifactError(where, f"began from {loaded.spec.backbone} (sha256 {starts[1][:12]}…), and {first_name} "
                            f"from {best.spec.backbone} ({starts[0][:12]}…).", ONE_START)
    shapes = [{key: tuple(tensor.shape) for key, tensor in of_run.items()} for of_run in (first, other)]
    if shapes[0] != shapes[1]:
        key = sorted(dict(shapes[0].items() ^ shapes[1].items()))[0]
        raise ArtifactError(where, f"has {shapes[1].get(key)} for the weight {key}, and {first_name} has "
                            f"{shapes[0].get(key)}.", ONE_START)
    if getattr(loaded.task, "labels", ()) != getattr(best.task, "labels", ()) or (
            loaded.spec.head.pooling != best.spec.head.pooling):
        raise ArtifactError(where, f"has labels in another order, or another head, than {first_name}.", ONE_START)


def _soup(kitchen: Kitchen, opened: Sequence[Weights]) -> Mixture:
    """The mean of all."""
    mean: Weights = {}
    for n, of_run in enumerate(opened, 1):
        include(mean, of_run, 1 / n)
    return Mixture(mean, f"the mean of the weights of {len(opened)} members", [1 / len(opened)] * len(opened),
                   kitchen.score(mean))


def _greedy_soup(kitchen: Kitchen, opened: Sequence[Weights], scores: Sequence[float], progress: Progress) -> Mixture:
    """The mean of those that, taken from the best on, do not make it worse on validation."""
    order = sorted(range(len(opened)), key=lambda m: -scores[m])
    kept = order[:1]
    mean: Weights = {name: tensor.clone() for name, tensor in opened[order[0]].items()}
    best = kitchen.score(mean)
    for m in order[1:]:
        tried = {name: torch.lerp(tensor, opened[m][name], 1 / (len(kept) + 1)) for name, tensor in mean.items()}
        value = kitchen.score(tried)
        progress.say(f"with member {m + 1}: validation {kitchen.task.metric} {value:.4f}"
                     + ("" if value >= best else ", left out"))
        if value >= best:
            mean, best, kept = tried, value, [*kept, m]
    shares = [1 / len(kept) if m in kept else 0.0 for m in range(len(opened))]
    return Mixture(mean, f"the mean of the weights of {len(kept)} of {len(opened)} members", shares, best)


def _summed(kitchen: Kitchen, opened: Sequence[Weights], taken: Sequence[Weights], how: str,
            progress: Progress) -> Mixture:
    """The backbone's weights plus a multiple of what the members learned beyond them, less what is taken away."""
    first = _first_weights(kitchen.artifact)
    changes = [{name: of_run[name] - tensor for name, tensor in first.items()} for of_run in opened]
    change = _ties(changes) if how == "ties" else {name: _sum(c[name] for c in changes) for name in first}
    for away in taken:
        change = {name: tensor - away[name] for name, tensor in change.items()}
    heads: Weights = {}
    for n, of_run in enumerate(opened, 1):
        include(heads, {name: tensor for name, tensor in of_run.items() if name not in first}, 1 / n)
    tried = {}
    for scale in SCALES:
        tried[scale] = kitchen.score(heads | {name: tensor + scale * change[name] for name, tensor in first.items()})
        progress.say(f"{scale:g} times the change: validation {kitchen.task.metric} {tried[scale]:.4f}")
    scale = max(tried, key=tried.__getitem__)
    words = {"ties": "TIES of", "task-arithmetic": "the sum of"}[how]
    what = f"{words} what {len(opened)} members learned" + (f", less that of {len(taken)} others" if taken else "")
    mixed = heads | {name: tensor + scale * change[name] for name, tensor in first.items()}
    return Mixture(mixed, f"{what}, times {scale:g}", [None] * len(opened), tried[scale])


def _sum(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(tensors)).sum(0)


def _ties(changes: Sequence[Weights]) -> Weights:
    """Of each change only the largest numbers; for each weight the sign with the larger sum; the mean of the numbers
    that have it."""
    return {name: _elected(torch.stack([_trimmed(change[name]) for change in changes])) for name in changes[0]}


def _trimmed(change: torch.Tensor) -> torch.Tensor:
    n = change.numel()
    n_small = n - max(1, round(TRIMMED_TO * n))
    if not n_small:
        return change
    limit = change.abs().flatten().kthvalue(n_small).values
    return torch.where(change.abs() > limit, change, 0)


def _elected(changes_M: torch.Tensor) -> torch.Tensor:
    agrees_M = (torch.sign(changes_M.sum(0)) == torch.sign(changes_M)) & (changes_M != 0)
    return (changes_M * agrees_M).sum(0) / agrees_M.sum(0).clamp(min=1)


def _first_weights(loaded: Artifact) -> Weights:
    """The backbone's own weights, by the names that they have in the run's model; those of the head are not there."""
    backbone = _backbone(loaded)
    if backbone.sha256 != loaded.certificate.backbone_sha256:
        raise ArtifactError(f"ensemble {loaded.folder}", f"began from another {loaded.spec.backbone} than lies there "
                            "now.", "Bring that backbone back.")
    model = build_model(backbone, loaded.task, loaded.spec.head.pooling, loaded.spec.seed)
    own = {tensor.data_ptr() for tensor in model.own_head().state_dict().values()}
    return {name: tensor.detach().clone() for name, tensor in cast(nn.Module, model).state_dict().items()
            if tensor.is_floating_point() and tensor.data_ptr() not in own}


def _change_of(folder: str | Path, best: Artifact) -> Weights:
    """What a run that is taken away learned beyond the backbone."""
    loaded = artifact.load(folder, "cpu", precision="fp32")
    if loaded.certificate.backbone_sha256 != best.certificate.backbone_sha256:
        raise ArtifactError(f"--subtract {folder}", f"began from {loaded.spec.backbone}, and the members from "
                            f"{best.spec.backbone}, or from other weights of that name.", ONE_START)
    learned, first = _weights(loaded), _first_weights(best)
    if missing := [name for name, tensor in first.items() if getattr(learned.get(name), "shape", None) != tensor.shape]:
        raise ArtifactError(f"--subtract {folder}", f"has no weight {missing[0]} of the members' shape.", ONE_START)
    return {name: learned[name] - tensor for name, tensor in first.items()}
