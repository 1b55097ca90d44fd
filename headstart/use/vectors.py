"""Features of texts: what a backbone, or a fitted model, makes of each, as a vector.

    Extractor("minilm-l6")(["great film", "dull"])          features_ND float32, in the order of the texts
    write("runs/reviews", "new.csv", Path("new.parquet"))    the same for a file, ids kept

What was computed once is kept (features.store): the second time it is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..core.errors import SpecError, shorten
from ..core.files import new_file, scratch_errors
from ..core.outputs import check_output
from ..core.progress import Progress
from ..core.spec import Spec, check_data_spec
from ..core.task import Columns, Head
from ..core.values import Row, Window
from ..core.windows import store
from ..data.frames import texts_of
from ..data.table import stream_rows
from ..features import extract
from ..features.forward import CachedForward
from ..features.store import folder_if_kept
from ..models.backbone import build_model, load_backbone
from ..models.heads import PooledModel, PoolHead
from ..models.precision import put_in
from ..runs import artifact, language, weights

DEFAULT = str(Spec.model_fields["backbone"].default)
POOLINGS = ("mean", "first", "max")
SUFFIXES = (".npy", ".parquet")


class Extractor:
    """Texts to vectors, through one model.

    source:      a backbone (a name, a folder, a hub id) or the folder of a finished run; where none is named,
                 minilm-l6, whatever the texts: those that it cannot read are warned of.
    pooling:     "mean" over real tokens, "first" token or "max"; absent: mean, or what the run was fitted with.
    last_layers: average the hidden states of so many of the last layers before pooling.
    precision:   as `train.precision` of a Spec; absent: "auto", or what the run was fitted with. 32 bits where this
                 machine has not got it.
    store:       "fp16" or "fp32" keeps what was computed in the cache, "off" does not.
    """

    def __init__(self, source: str | Path | None = None, *, pooling: str | None = None, last_layers: int = 1,
                 max_tokens: int = 256, store: str = "fp16", tokens_per_batch: int = 1024,
                 precision: str | None = None, progress: Progress | None = None) -> None:
        if pooling not in (None, *POOLINGS):
            raise SpecError("pooling", f"{shorten(pooling)} is not a pooling.", f"Known: {', '.join(POOLINGS)}")
        self.tokens_per_batch, self.progress = tokens_per_batch, progress or Progress(quiet=True)
        self.is_named, source = source is not None, source or DEFAULT
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = Path(source)
        if (folder / "task.json").exists():
            loaded = artifact.load(folder)
            model, self.reader = weights.open_model(folder, loaded.task, loaded.spec)
            precision = precision or loaded.spec.train.precision
        else:
            backbone = load_backbone(str(source), max_tokens)
            self.reader = backbone.reader
            model = build_model(backbone, _Vector(), pooling or "mean", seed=0)
        n_layers = int(model.encoder.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        if not 1 <= last_layers <= n_layers:
            raise SpecError("last_layers", f"is {last_layers}; the backbone has {n_layers} layers.",
                            f"Choose 1 to {n_layers}.")
        if model.head is not None or model.per_token or pooling or last_layers > 1:
            usual = model.head.pooling if model.head is not None and model.head.is_pooled else "mean"
            model = PooledModel(model.encoder, PoolHead(_width(model.encoder), 1, pooling or usual), last_layers)
        self.model = model.to(device).eval()
        self.model.requires_grad_(False)
        put_in(self.model, precision or "auto", device, folder_if_kept(store), or_fp32=True)
        self.forward = CachedForward(self.model, device, store, self.progress)
        self.n_cut = 0

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return int(self.model.output.in_features)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """features_ND float32, one line a text, in their order. `n_cut` then counts the texts that were cut."""
        texts = texts_of(texts)
        if not self.is_named and (words := language.mostly_chinese(language.evenly(texts))):
            language.warn_of(DEFAULT, words, f'Extractor("{language.CHINESE}")')
        read = self.reader.read_all(texts)
        self.n_cut = sum(n_cut > 0 for _, n_cut in read)
        if not read:
            return np.empty((0, self.width), np.float32)
        with scratch_errors(), tempfile.TemporaryDirectory() as name:
            work = Path(name)
            windows = store((Window(i, inputs) for i, (inputs, _) in enumerate(read)), work / "windows",
                                    self.reader.pad_id)
            chosen = np.arange(len(windows))
            self.forward.remember_features([(windows, chosen)], self.tokens_per_batch)
            self.progress.begin("features", len(windows), "texts")
            vectors = extract.extract(self.forward.features, self.width, windows, chosen, work / "features.bin",
                                     tokens_per_batch=self.tokens_per_batch, each=self.progress.advance)
            return np.array(vectors)


def _width(encoder: Any) -> int:
    return int(encoder.config.hidden_size)


class _Vector:
    """Stands where a task stands when a head is built: one output that nobody reads."""

    name: ClassVar[str] = "extract"
    head = Head("pooled", 1)

    def check_backbone(self, architecture: str, width: int) -> None:
        return

    def describe(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Texts:
    """How `data` finds the texts of a file, and their ids when it has some."""

    name: ClassVar[str] = "extract"
    columns: ClassVar = Columns({"text": "a string that is not empty", "id": "anything"}, gold=("id",), usual_names={
        "text": ("text", "sentence", "review", "content", "tweet", "comment", "message", "body", "utterance", "query",
                 "文本", "评论", "内容"),
        "id": ("id", "uid", "row_id", "编号"),
    })

    def normalized(self, row: Row) -> tuple[Row, str]:
        return row, ""

    def check(self, row: Row) -> str | None:
        if not isinstance(row["text"], str) or not row["text"].strip():
            return '"text" is empty or not a string'
        return None


def write(source: str | Path, rows: str, out: Path, *, overwrite: bool = False,
          settings: Mapping[str, Any] | None = None, progress: Progress | None = None,
          **options: Any) -> dict[str, Any]:
    """Features of a file's texts to `out` (.npy: the matrix; .parquet: a column "id" and a column "features").

    overwrite: replace a file that is there.  options: as for Extractor.

    A row that `settings` skip keeps its line: a vector of NaN.
    Returns  what was written, in numbers.
    """
    if out.suffix not in SUFFIXES:
        raise SpecError("--out", f"{shorten(out.name)} has no known ending.", f"Use one of: {', '.join(SUFFIXES)}")
    check_output(out, overwrite, [source, rows])
    reading = stream_rows(rows, check_data_spec({"train": rows}, settings), Texts(), gold="optional", lenient=True)
    table = list(reading.numbered())
    extractor = Extractor(source, progress=progress, **options)
    vectors = np.full((len(table), extractor.width), np.nan, np.float32)
    vectors[[isinstance(row, dict) for row in table]] = extractor([row["text"] for row in table
                                                                   if isinstance(row, dict)])
    ids = [row.get("id", i) if isinstance(row, dict) else i for i, row in enumerate(table)]
    with new_file(out, overwrite) as temporary:
        (_write_npy if out.suffix == ".npy" else _write_parquet)(temporary, ids, vectors)
    n_skipped = reading.counts["n_skipped"]
    return {"out": str(out), "n_rows": len(vectors), "width": extractor.width, "n_cut": extractor.n_cut,
            **({"n_skipped": n_skipped} if n_skipped else {})}


def _write_npy(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)


def _write_parquet(path: Path, ids: Sequence[Any], vectors: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    column = pa.array(ids if len({type(i) for i in ids}) < 2 else [str(i) for i in ids])
    pq.write_table(pa.table({"id": column, "features": lists}), path)
