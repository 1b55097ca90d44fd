"""Windows of any kind of input: written to flat files, read back, batched under a budget, told apart in the cache."""

import numpy as np
import pytest

from headstart.core.values import IGNORE, Window, collate
from headstart.core.windows import by_length, store
from headstart.features.store import key_of, keys_of

RNG = np.random.default_rng(0)
TEXT = [Window(i, {"input_ids": [5] * n, "token_type_ids": [0] * n}, {"tags": [1] * n}, {"n_cut_tokens": i})
        for i, n in enumerate((3, 7, 2))]
SOUND = [Window(i, {"input_values": RNG.normal(size=n).astype(np.float32)}, {"label": i}, size=n // 10)
         for i, n in enumerate((40, 90, 60))]
IMAGES = [Window(i, {"pixel_values": RNG.normal(size=(3, 4, 5)).astype(np.float32)}, {"score": i / 2}, size=4)
          for i in range(3)]
PAIR = [Window(0, {"input_ids": [1, 2, 3]}, {"labels": [4, 5, 6, 7, 8]}, size=8)]  # a target with a length of its own


@pytest.mark.parametrize("windows", [TEXT, SOUND, IMAGES, PAIR], ids=["text", "sound", "images", "source and target"])
def test_what_is_stored_is_read_back(windows, tmp_path):
    stored = store(windows, tmp_path, 0, with_notes=True)
    assert len(stored) == len(windows)
    for window, again in zip(windows, stored, strict=True):
        assert (again.row, again.size, len(again)) == (window.row, window.size, len(window))
        assert again.inputs.keys() == window.inputs.keys()
        for name, value in window.inputs.items():
            assert np.array_equal(again.inputs[name], value)
            assert again.inputs[name].dtype == (np.float32 if np.asarray(value).dtype.kind == "f" else np.int32)


def test_sizes_are_what_a_budget_counts(tmp_path):
    stored = store(SOUND, tmp_path, 0)
    assert stored.sizes_N.tolist() == [4, 9, 6]
    assert stored.lengths_N.tolist() == [40, 90, 60]
    assert [sorted(b) for b in by_length(stored.sizes_N, np.arange(3), 12)] == [[0, 2], [1]]
    assert stored.batch(np.array([0, 1])).n_tokens == 13
    assert store(TEXT, tmp_path / "text", 0).sizes_N.tolist() == [3, 7, 2]
    assert store(PAIR, tmp_path / "pair", 0).batch(np.array([0])).n_tokens == 8


def test_sound_is_padded_and_masked_images_are_stacked(tmp_path):
    batch = store(SOUND, tmp_path / "sound", 0).batch(np.array([0, 1]))
    assert batch.inputs["input_values"].shape == (2, 90)
    assert batch.inputs["input_values"].dtype == np.float32
    assert not batch.inputs["input_values"][0, 40:].any()
    assert batch.inputs["attention_mask"].sum(1).tolist() == [40, 90]
    batch = store(IMAGES, tmp_path / "images", 0).batch(np.arange(3))
    assert batch.inputs["pixel_values"].shape == (3, 3, 4, 5)
    assert batch.n_windows == 3
    assert "attention_mask" not in batch.inputs
    assert batch.target["score"].tolist() == [0.0, 0.5, 1.0]


def test_a_list_of_targets_is_padded_with_what_no_loss_reads():
    batch = collate({"input_ids": [[1, 2], [1]]}, {"labels": [[3], [4, 5, 6]]}, 9)
    assert batch.inputs["input_ids"].tolist() == [[1, 2], [1, 9]]
    assert batch.target["labels"].tolist() == [[3, IGNORE, IGNORE], [4, 5, 6]]


def test_images_of_two_sizes_do_not_go_into_one_store(tmp_path):
    with pytest.raises(ValueError, match="only the first axis may differ"):
        store([IMAGES[0], Window(1, {"pixel_values": np.ones((3, 5, 5), np.float32)}, {"score": 0.5})], tmp_path, 0)


@pytest.mark.parametrize("windows", [TEXT, SOUND, IMAGES], ids=["text", "sound", "images"])
def test_a_window_has_one_key_alone_and_in_a_batch(windows, tmp_path):
    stored = store(windows, tmp_path, 0)
    keys = keys_of(stored.batch(np.arange(3)).inputs)
    assert keys.tolist() == [key_of({name: field.of(i) for name, field in stored.inputs.items()}) for i in range(3)]
    assert len(set(keys.tolist())) == 3


def test_inputs_that_differ_in_a_fraction_or_in_shape_have_other_keys():
    image = np.zeros((2, 3, 4), np.float32)
    others = [image + np.float32(0.25), image.reshape(3, 2, 4), image.reshape(-1), np.zeros((2, 3, 4), np.int32)]
    keys = {key_of({"pixel_values": value}) for value in (image, *others)}
    assert len(keys) == 5
    assert key_of({"input_ids": np.array([7, 8])}) == key_of({"input_ids": np.array([7, 8], np.int32)})
