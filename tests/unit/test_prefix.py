"""What frozen layers said: kept, shared, and never wrong."""

from __future__ import annotations

import copy
import os
import resource
import shutil

import numpy as np
import pytest
import tiny
import yaml
from forked import Command

import headstart
from headstart.core.errors import SpecError
from headstart.core.progress import Progress
from headstart.core.values import collate
from headstart.features import store as memos


class Told(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.begun: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.begun.append(what)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fit(backbone, reviews, out, method, progress=None, **fields):
    spec = tiny.spec(reviews, backbone, method=copy.deepcopy(method), data={"limit": 100}, train={"epochs": 1},
                     evaluate={"baselines": False}, **fields)
    return headstart.fit(spec, out=out, progress=progress)


def weights(run):
    return (run.folder / "model.safetensors").read_bytes() + (run.folder / "head.safetensors").read_bytes()


LAST = {"name": "fine-tuning", "last_blocks": 1}


def test_a_second_run_computes_nothing_of_the_frozen_part(own_cache, backbone, reviews, tmp_path):
    told = Told(), Told()
    runs = [fit(backbone, reviews, tmp_path / str(i), LAST, progress) for i, progress in enumerate(told)]
    assert "frozen layers (lowest 1)" in told[0].begun
    assert not any("frozen" in what for what in told[1].begun)
    assert weights(runs[0]) == weights(runs[1])


def test_another_seed_finds_the_same_stores(own_cache, backbone, reviews, tmp_path):
    fit(backbone, reviews, tmp_path / "a", LAST)
    stores = {path.parent for path in own_cache.glob("*-*/*.npy") if not path.parent.name.startswith("heads-")}
    assert len(stores) == 2  # of the lowest block, and of the features
    fit(backbone, reviews, tmp_path / "b", LAST, seed=1)
    assert {path.parent for path in own_cache.glob("*-*/*.npy")
            if not path.parent.name.startswith("heads-")} == stores


def test_features_serve_a_method_that_freezes_less(own_cache, backbone, reviews, tmp_path):
    fit(backbone, reviews, tmp_path / "a", {"name": "linear-probe"}, probe := Told())
    fit(backbone, reviews, tmp_path / "b", LAST, tuning := Told())
    assert "frozen features" in probe.begun
    assert "frozen features" not in tuning.begun
    assert "frozen layers (lowest 1)" in tuning.begun


def test_fp16_scores_like_fp32_and_off(own_cache, backbone, reviews, tmp_path):
    scores = {cache: fit(backbone, reviews, tmp_path / str(cache), LAST, cache=cache).scores
              for cache in ("fp16", "fp32", False)}
    low, high = scores[False]["interval"]
    assert low <= scores["fp16"]["score"] <= high
    assert scores["fp32"]["score"] == scores[False]["score"]


def damage_truncate(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def damage_other_model(path):
    other = path.parent.with_name("0" * 24 + "-1-fp16")
    shutil.copytree(path.parent, other)
    shutil.rmtree(path.parent)
    other.rename(path.parent)
    for index in path.parent.glob("*.npy"):
        found = np.load(index)
        found["memo"] += 1
        np.save(index, found)


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_other_model, os.unlink])
@pytest.mark.parametrize("kind", ["*.bin", "*.npy"])
def test_a_damaged_memo_is_computed_again(own_cache, backbone, reviews, tmp_path, damage, kind):
    first = fit(backbone, reviews, tmp_path / "a", LAST)
    paths = sorted(own_cache.glob(f"*-fp16/{kind}"))
    assert paths
    damage(paths[0])
    second = fit(backbone, reviews, tmp_path / "b", LAST, progress := Told())
    assert second.scores["score"] == first.scores["score"]
    assert weights(second) == weights(first)
    if damage is not os.unlink:
        assert any("damaged" in line for line in progress.lines)
    fit(backbone, reviews, tmp_path / "c", LAST, mended := Told())
    assert not any("damaged" in line for line in mended.lines)


def test_deleted_during_a_run_changes_nothing(own_cache, backbone, reviews, tmp_path):
    class Deleting(Told):
        def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
            if what == "training":
                shutil.rmtree(own_cache)

    kept = fit(backbone, reviews, tmp_path / "a", LAST)
    shutil.rmtree(own_cache)
    assert weights(fit(backbone, reviews, tmp_path / "b", LAST, Deleting())) == weights(kept)


def test_no_room_means_no_memo_and_is_said(own_cache, backbone, reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE_BYTES", "0.1KB")
    run = fit(backbone, reviews, tmp_path / "a", LAST, progress := Told())
    assert run.scores["score"] > 0
    assert any("do not fit" in line and "HEADSTART_CACHE_BYTES" in line for line in progress.lines)
    assert not memos.used()


def test_a_folder_that_cannot_be_written_is_said(backbone, reviews, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file" / "cache"))
    run = fit(backbone, reviews, tmp_path / "a", LAST, progress := Told())
    assert run.scores["score"] > 0
    assert any("cannot be written" in line for line in progress.lines)


def test_the_longest_unused_goes_first(own_cache):
    for i, name in enumerate("abc"):
        memo = memos.ActivationStore(name, 4, "<f4")
        with memo.locked(Told()):
            memo.write(np.array([i], np.uint64), np.array([2]), iter([(np.array([0]), [np.ones((2, 4))])]))
        path = next((own_cache / name).glob("*.npy"))
        os.utime(path, (i, i))
    one = memos.used()[0][1]
    assert memos.prune(2 * one) == one
    assert [path.parent.name for path, _, _ in memos.used()] == ["b", "c"]
    assert memos.prune(0) == 2 * one


def test_two_processes_at_once_leave_a_sound_memo(own_cache, backbone, reviews, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"backbone": str(backbone), "method": LAST, "train": {"epochs": 1},
                                    "data": {"train": str(reviews), "limit": 100}, "evaluate": {"baselines": False}}))
    both = [Command("fit", spec, "--out", tmp_path / name) for name in "ab"]
    for command in both:
        _, stderr = command.communicate()
        assert command.returncode == 0, stderr
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert all(memos.ActivationStore(path.parent.name, 32, "<f2").n_damaged == 0 for path, _, _ in memos.used()
               if path.parent.name.endswith("fp16"))


def test_keys_are_of_ids_and_not_of_padding():
    one = collate({"input_ids": [[5, 6], [5, 6, 7]]}, {}, 0).inputs
    alone = collate({"input_ids": [[5, 6]]}, {}, 0).inputs
    keys = memos.keys_of(one)
    assert keys[0] == memos.keys_of(alone)[0] != keys[1]


@pytest.mark.parametrize(("text", "n"), [("2GB", 2_000_000_000), ("1.5 kb", 1500), ("7", 7)])
def test_sizes(text, n):
    assert memos.parse_size(text) == n


@pytest.mark.parametrize("text", ["many", "-5", "9" * 400, ".", "inf", "", "1.2.3", "2PB"])
def test_a_size_that_is_none(text):
    with pytest.raises(SpecError, match="is not a size"):
        memos.parse_size(text)


def stored_lines(own_cache):
    store = memos.ActivationStore("a", 4, "<f4")
    with store.locked(Told()):
        store.write(np.array([1, 2], np.uint64), np.array([2, 2]),
                    iter([(np.array([0, 1]), [np.ones((2, 4)), np.full((2, 4), 2.0)])]))
    return memos.ActivationStore("a", 4, "<f4")


def test_every_flipped_bit_of_an_index_or_of_values_is_found(own_cache):
    stored_lines(own_cache)
    for path in (own_cache / "a").glob("*-*"):
        sound = path.read_bytes()
        for i in range(len(sound)):
            path.write_bytes(sound[:i] + bytes([sound[i] ^ 0x10]) + sound[i + 1 :])
            store = memos.ActivationStore("a", 4, "<f4")
            kept = {other: other.read_bytes() for other in (own_cache / "a").glob("*-*")}
            store.check(np.array([1, 2], np.uint64))
            assert store.n_damaged == 1, (path.suffix, i)
            assert not store.contains(np.array([1, 2], np.uint64)).any(), (path.suffix, i)
            for other, content in kept.items():
                other.write_bytes(content)
        path.write_bytes(sound)


def test_a_file_cut_while_it_is_read_is_damage_and_no_signal(own_cache):
    store = stored_lines(own_cache)
    store.hold()
    os.truncate(next((own_cache / "a").glob("*.bin")), 8)
    assert store.get(np.array([2], np.uint64)) is None
    assert store.n_damaged == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_a_lock_that_is_no_file_is_refused_at_once(own_cache, make):
    (own_cache / "a").mkdir(parents=True)
    make(own_cache / "a" / "lock")
    with pytest.raises(OSError), memos.ActivationStore("a", 4, "<f4").locked(Told()):
        pass


def test_a_part_of_a_segment_is_removed_and_folders_are_private(own_cache):
    (own_cache / "a").mkdir(mode=0o755, parents=True)
    store = memos.ActivationStore("a", 4, "<f4")

    def full_disk():
        yield np.array([0]), [np.ones((2, 4))]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError), store.locked(Told()):
        store.write(np.array([1], np.uint64), np.array([2]), full_disk())
    assert [path.name for path in (own_cache / "a").iterdir()] == ["lock"]
    assert (own_cache / "a").stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_opened_just_now_is_no_damage(own_cache):
    stored_lines(own_cache)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    store = memos.ActivationStore("a", 4, "<f4")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard[1]))
    try:
        value = store.get(np.array([1], np.uint64))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
    assert (value, store.n_damaged) == (None, 0)
    assert memos.ActivationStore("a", 4, "<f4").get(np.array([1], np.uint64)) is not None
