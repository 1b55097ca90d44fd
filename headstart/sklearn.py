"""scikit-learn's shapes around headstart: for a Pipeline, cross_val_score, a grid search.

    make_pipeline(TextFeatures(), LogisticRegression()).fit(texts, labels)
    TextClassifier(method="fine-tuning").fit(texts, labels).predict(["great film"])
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from .core.cells import normal_label
from .core.errors import DataError
from .data.frames import is_missing, texts_of
from .runs import artifact, fit, language
from .use.vectors import DEFAULT, Extractor

Texts = Sequence[str] | np.ndarray


class TextFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to vectors through a frozen backbone. Nothing is learned; equal texts are computed once (cache).

    backbone: where none is named, `fit` chooses by the language of its texts, and says so.
    Other parameters as for headstart.use.vectors.Extractor.
    """

    def __init__(self, backbone: str | None = None, *, pooling: str = "mean", last_layers: int = 1,
                 max_tokens: int = 256, cache: bool = True) -> None:
        self.backbone = backbone
        self.pooling = pooling
        self.last_layers = last_layers
        self.max_tokens = max_tokens
        self.cache = cache

    def fit(self, X: Texts, y: object = None) -> Self:
        """Nothing to learn; loads the backbone, so that what is wrong with it is raised here."""
        self.backbone_ = self.backbone or language.for_texts(
            language.evenly(_checked(X)), DEFAULT, f'TextFeatures("{DEFAULT}")', "fit again")
        self.n_features_out_ = self._extractor().width
        return self

    def transform(self, X: Texts) -> np.ndarray:
        """features_ND float32, one line a text."""
        check_is_fitted(self)
        return self._extractor()(_checked(X))

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        check_is_fitted(self)
        return np.array([f"{self.backbone or self.backbone_}_{i}" for i in range(self.n_features_out_)], object)

    def _extractor(self) -> Extractor:
        backbone = self.backbone or self.backbone_
        options = (backbone, self.pooling, self.last_layers, self.max_tokens, self.cache)
        if getattr(self, "_loaded", (None, None))[0] != options:
            extractor = Extractor(backbone, pooling=self.pooling, last_layers=self.last_layers,
                                  max_tokens=self.max_tokens, store="fp16" if self.cache else "off")
            self._loaded = options, extractor
        return self._loaded[1]

    def __getstate__(self) -> dict[str, Any]:
        """Parameters and sizes; the backbone is loaded again where it is needed."""
        return {key: value for key, value in vars(self).items() if key != "_loaded"}


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """headstart.fit as a classifier. Pickled, it is the sealed artifact (safetensors and JSON), never torch objects.

    backbone:         where none is named, it is chosen by the language of the texts, and said so.
    method:           as in a Spec, a name or a mapping with options.
    validation_share: of the rows given to `fit`, what chooses checkpoint and head.
    spec:             further fields of the Spec, such as {"train": {"epochs": 2}}.
    out:              folder where the artifact shall stay; a temporary one when absent.
    """

    def __init__(self, backbone: str | None = None, *, method: Any = "fine-tuning", validation_share: float = 0.1,
                 spec: dict[str, Any] | None = None, out: str | None = None, seed: int = 0) -> None:
        self.backbone = backbone
        self.method = method
        self.validation_share = validation_share
        self.spec = spec
        self.out = out
        self.seed = seed

    def fit(self, X: Texts, y: Sequence[Any] | np.ndarray) -> Self:
        """Learn from texts and their labels, which may be of any type that sorts; none may be missing."""
        texts = _checked(X)
        if missing := [i for i, label in enumerate(np.asarray(y, object).ravel()) if is_missing(label)]:
            raise ValueError(f"y has no label at {missing[:10]}{' ...' * (len(missing) > 10)} ({len(missing)} in all); "
                             "leave these rows out of X and y")
        self.classes_, gold_N = np.unique(np.asarray(y), return_inverse=True)
        if len(gold_N) != len(texts):
            raise ValueError(f"X has {len(texts)} texts and y has {len(gold_N)} labels")
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_[0]!r}; a classifier needs at least two")
        names = self._names()
        n_held = max(len(self.classes_), round(self.validation_share * len(texts)))
        train, held = train_test_split(np.arange(len(texts)), test_size=n_held, random_state=self.seed,
                                       stratify=gold_N)
        self._folder = tempfile.TemporaryDirectory()
        work = Path(self._folder.name)
        for name, chosen in (("train", train), ("validation", held)):
            lines = (json.dumps({"text": texts[i], "label": names[gold_N[i]]}) + "\n" for i in chosen)
            (work / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        # No test rows are taken from the caller, who has his own: the validation rows stand in, and no score is shown.
        held_file = str(work / "validation.jsonl")
        files = {"train": str(work / "train.jsonl"), "validation": held_file, "test": held_file}
        named = {"backbone": self.backbone} if self.backbone else {}
        layers = [("TextClassifier", {**named, "method": self.method, "seed": self.seed}),
                  ("TextClassifier.spec", self.spec or {}),
                  ("TextClassifier.fit", {"data": files, "evaluate": {"baselines": False}})]
        self.artifact_ = fit.fit({}, out=self.out or work / "run", overwrite=True, layers=layers)
        return self

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Shares of one, [N, classes], in the order of classes_."""
        check_is_fitted(self)
        all_scores = [answer["scores"] for answer in self.artifact_.predict(_checked(X))]
        names = self._names()
        if all_scores and all_scores[0].keys() != set(names):  # of a former version, which numbered the classes
            names = list(all_scores[0])
        return np.array([[scores[name] for name in names] for scores in all_scores]).reshape(-1, len(self.classes_))

    def predict(self, X: Texts) -> np.ndarray:
        return np.asarray(self.classes_[self.predict_proba(X).argmax(1)])

    def _names(self) -> list[str]:
        """What the artifact calls each of the classes. Raises ValueError for those that it cannot tell apart."""
        names = [str(normal_label(str(label))) for label in self.classes_.tolist()]
        if len({name.casefold() for name in names}) < len(names) or not all(names):
            raise ValueError(f"the classes {names} are empty, or differ only in case, blanks or forms of a letter")
        return names

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in vars(self).items() if key not in ("artifact_", "_folder")}
        if hasattr(self, "artifact_"):
            held = io.BytesIO()
            with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(p for p in self.artifact_.folder.rglob("*") if p.is_file()):
                    archive.write(path, path.relative_to(self.artifact_.folder))
            state["_sealed"] = held.getvalue()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        sealed = state.pop("_sealed", None)
        self.__dict__.update(state)
        if sealed is not None:
            self._folder = tempfile.TemporaryDirectory()
            with zipfile.ZipFile(io.BytesIO(sealed)) as archive:
                archive.extractall(self._folder.name)  # refuses paths that lead out of the folder
            self.artifact_ = artifact.load(self._folder.name)


def _checked(X: Texts) -> list[str]:
    """Texts as a list. Raises DataError for what is none."""
    texts = texts_of(X, "X")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text {i + 1}", f"is {text!r:.60}; it must be a string that is not empty.",
                            "Leave it out, or say what stands there in words.")
    return texts
