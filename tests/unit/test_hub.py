"""Data sets of the hub, as they lie in the cache of `datasets`: no network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter

from headstart.core.errors import DataError
from headstart.data.sources.hub import open_hub, splits
from headstart.data.sources.lines import Rules

NAME = "hub:someone/reviews"
ROWS = {"train": [{"text": "a dull film", "label": 0}, {"text": "a lovely room", "label": 1}],
        "test": [{"text": "a film", "label": -1}]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of two splits, its labels class numbers, where `datasets` keeps what it downloaded."""
    folder = tmp_path / "someone___reviews" / "default" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    features = datasets.Features({"text": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=["bad", "good"])})
    infos = datasets.SplitDict()
    for name, rows in ROWS.items():
        with ArrowWriter(features=features, path=str(folder / f"reviews-{name}.arrow")) as writer:
            for row in rows:
                writer.write(row)
            n_rows, n_bytes = writer.finalize()
        infos.add(datasets.splits.SplitInfo(name, num_bytes=n_bytes, num_examples=n_rows, dataset_name="reviews"))
    datasets.DatasetInfo(features=features, splits=infos, builder_name="parquet", dataset_name="reviews",
                         config_name="default", version="0.0.0").write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_class_numbers_become_names_and_gold_that_is_withheld_none():
    train, test = (open_hub(f"{NAME}@{name}", Rules()) for name in ROWS)
    assert train.header == ["text", "label"]
    assert [(record.line, record.values) for record in train.records(["text", "label"])] == [
        (1, {"text": "a dull film", "label": "bad"}), (2, {"text": "a lovely room", "label": "good"})]
    assert [record.values for record in test.records(["label"])] == [{"label": None}]


def test_splits_are_named():
    assert splits(NAME) == {"train": f"{NAME}@train", "test": f"{NAME}@test"}
    with pytest.raises(DataError, match=f"has several splits[.]\\s+Name one of them: {NAME}@train {NAME}@test"):
        open_hub(NAME, Rules())
    with pytest.raises(DataError, match=r'has no split "tset"; .*test'):
        open_hub(f"{NAME}@tset", Rules())


def test_a_split_that_is_too_large_is_not_read():
    with pytest.raises(DataError, match=r"has 48 bytes; data\.max_bytes allows 10"):
        open_hub(f"{NAME}@train", Rules(max_bytes=10))
