"""What a backbone is asked of texts without labels: which words are hidden, which windows there are, which pairs."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from headstart import tasks
from headstart.core.errors import SpecError
from headstart.core.values import IGNORE, Batch, collate
from headstart.data import crops
from headstart.models.backbone import build_masked_model, build_model, load_backbone
from headstart.models.masked import solve_head
from headstart.tasks.objectives import CausalLanguage, MaskedLanguage
from headstart.training import batches

TEXTS = [row["text"] for row in tiny.rows(60, seed=3)]


@pytest.fixture
def loaded(backbone):
    return load_backbone(str(backbone), 64)


@pytest.fixture
def masked(loaded) -> MaskedLanguage:
    return MaskedLanguage().fitted_to(loaded.reader, lambda: None)


def batch_of(task, reader, texts=TEXTS):
    windows = [window for i, text in enumerate(texts) for window in task.encode(i, {"text": text}, reader)]
    inputs = {name: [window.inputs[name] for window in windows] for name in windows[0].inputs}
    return collate(inputs, {name: [w.target[name] for w in windows] for name in windows[0].target}, reader.pad_id)


def test_objectives_are_no_tasks_of_a_run():
    assert not {"masked", "causal"} & set(tasks.names())
    with pytest.raises(SpecError, match="is not a task"):
        tasks.build({"name": "masked"})


def test_words_are_hidden_whole_and_nothing_else_is_asked_for(masked, loaded):
    batch = batch_of(masked, loaded.reader)
    words_BT, ids_BT = batch.target["words"], batch.inputs["input_ids"]
    words_BT[:, 3][words_BT[:, 3] > 0] = words_BT[:, 2][words_BT[:, 3] > 0]  # two pieces of one word
    n_whole = 0
    for step in range(20):
        hidden = masked.corrupt(batch, np.random.default_rng((0, step)))
        labels_BT, now_BT = hidden.target["labels"], hidden.inputs["input_ids"]
        asked_BT = labels_BT != IGNORE
        assert np.array_equal(hidden.inputs["predicts"], asked_BT)
        assert np.array_equal(labels_BT[asked_BT], ids_BT[asked_BT])
        assert np.array_equal(now_BT[~asked_BT], ids_BT[~asked_BT])
        assert (words_BT[asked_BT] >= 0).all()  # no special token, no padding
        for words_T, asked_T in zip(words_BT, asked_BT, strict=True):
            for word in np.unique(words_T[words_T >= 0]):
                assert len(set(asked_T[words_T == word])) == 1
            assert asked_T.any()
        n_whole += int((asked_BT[:, 2] & asked_BT[:, 3]).sum())
    assert n_whole


def test_shares_of_words_are_as_in_bert(masked, loaded):
    batch = batch_of(masked, loaded.reader)
    n_words = sum(len(np.unique(words_T[words_T >= 0])) for words_T in batch.target["words"])
    n, n_mask, n_same = 0, 0, 0
    for step in range(100):
        hidden = masked.corrupt(batch, np.random.default_rng((1, step)))
        asked_BT, ids_BT = hidden.target["labels"] != IGNORE, hidden.inputs["input_ids"]
        n += int(asked_BT.sum())
        n_mask += int((ids_BT[asked_BT] == masked.mask_id).sum())
        n_same += int((ids_BT[asked_BT] == hidden.target["labels"][asked_BT]).sum())
    assert 0.12 < n / 100 / n_words < 0.2
    assert 0.77 < n_mask / n < 0.83
    assert 0.08 < n_same / n < 0.13


def test_masks_follow_from_seed_and_step(masked, loaded):
    batch = batch_of(masked, loaded.reader)

    def steps():
        while True:
            yield [batch, batch]

    def drawn(first, n, seed=0):
        stream = batches.corrupted(steps(), masked, seed, first)
        return [[part.inputs["input_ids"] for part in next(stream)] for _ in range(n)]

    whole, later = drawn(1, 5), drawn(4, 2)
    assert all(np.array_equal(a, b) for a, b in zip(whole[3], later[0], strict=True))
    assert not np.array_equal(whole[0][0], whole[1][0])
    assert not np.array_equal(whole[0][0], whole[0][1])
    assert not np.array_equal(whole[0][0], drawn(1, 1, seed=7)[0][0])


def test_a_task_without_masks_is_read_as_it_is():
    steps = [[Batch({}, {}, 1)], [Batch({}, {}, 2)]]
    read = list(batches.corrupted((step for step in steps), tasks.build({"name": "text-classification"}), 0))
    assert all(now is before for now, before in zip(read, steps, strict=True))


def test_held_out_questions_stay_the_same(masked, loaded):
    window, = masked.encode(0, {"text": TEXTS[0]}, loaded.reader)
    first, again, other = (masked.for_test(window, loaded.reader.pad_id, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    assert np.array_equal(first.inputs["input_ids"], again.inputs["input_ids"])
    assert not np.array_equal(first.inputs["predicts"], other.inputs["predicts"])


def test_texts_too_short_to_ask_anything_of_give_no_window(masked, loaded):
    assert masked.encode(0, {"text": "music"}, loaded.reader) == []
    assert len(masked.encode(0, {"text": "the film was loud"}, loaded.reader)) == 1


def test_a_tokenizer_without_a_mask_is_refused(language_model):
    reader = load_backbone(str(language_model), 64).reader

    class Without:
        def token_id(self, _token):
            return None

        def __getattr__(self, name):
            return getattr(reader, name)

    with pytest.raises(SpecError, match="has a mask token") as raised:
        MaskedLanguage().fitted_to(Without(), lambda: None)
    assert "--objective causal" in raised.value.fix


def test_causal_windows_hold_every_token_once(language_model):
    loaded = load_backbone(str(language_model), 16)
    reader, text = loaded.reader, " ".join(TEXTS[:8])
    windows = CausalLanguage().encode(0, {"text": text}, reader)
    assert len(windows) > 2
    n_start = len(reader.start_ids)
    predicted = [i for window in windows for i in window.target["labels"][max(0, n_start - 1):]]
    ids = [*reader.ids(text), *reader.end_ids[:1]]
    assert set(predicted) <= set(ids)
    assert sum(len(window.target["labels"]) for window in windows) >= len(ids) - len(windows)
    for window in windows:
        assert len(window) <= reader.max_tokens
        assert window.inputs["input_ids"][1:] == window.target["labels"][:-1]
        assert window.inputs["predicts"] == [1] * len(window)


def test_each_objective_needs_its_kind_of_backbone(backbone, language_model):
    encoder, writer = load_backbone(str(backbone), 64), load_backbone(str(language_model), 64)
    with pytest.raises(SpecError, match="needs a model that writes") as raised:
        build_model(encoder, CausalLanguage(), "mean", 0)
    assert "--objective masked" in raised.value.fix
    with pytest.raises(SpecError, match="in both directions") as raised:
        build_masked_model(writer, 0)
    assert "--objective causal" in raised.value.fix


@pytest.mark.parametrize("family", ["bert", "albert", "electra", "distilbert", "roberta", "mpnet", "modernbert",
                                    "deberta-v2", "t5"])
def test_every_family_gets_a_head_and_a_solved_one_beats_a_drawn_one(family, tmp_path):
    loaded = load_backbone(str(tiny.backbone(tmp_path / family, family)), 64)
    task = MaskedLanguage().fitted_to(loaded.reader, lambda: None)
    model = build_masked_model(loaded, seed=0).eval()
    hidden = task.corrupt(batch_of(task, loaded.reader), np.random.default_rng(0))
    inputs = {name: torch.from_numpy(array) for name, array in hidden.inputs.items()}
    target = {name: torch.from_numpy(array) for name, array in hidden.target.items()}

    def loss() -> float:
        with torch.no_grad():
            summed, n = task.loss(model(inputs).logits, target)
        return float(summed / n)

    drawn = loss()
    solve_head(model, [inputs], [target["labels"][target["labels"] != IGNORE]])
    assert loss() < drawn
    assert model.embedding_VE.shape[0] == loaded.config.vocab_size
    assert not any(p.shape == model.embedding_VE.shape for p in model.own_head().parameters())  # it owns no copy


@pytest.mark.parametrize("how", crops.KINDS)
def test_pairs_are_parts_of_one_text_and_follow_from_the_seed(how):
    texts = [*TEXTS, "One sentence here. Another one there. And a third one.", "房间很干净，服务也好。早餐不错。"]
    rows = list(crops.pairs(texts, how, seed=0))
    assert rows == list(crops.pairs(texts, how, seed=0))
    assert len(rows) == len(texts)
    for text, row in zip(texts, rows, strict=True):
        assert row["text"].strip()
        assert all(" ".join(part.split()) in " ".join(text.split()) for part in row.values())
    assert (rows != list(crops.pairs(texts, how, seed=5))) == (how != "same")


def test_a_text_of_few_words_makes_no_pair():
    assert list(crops.pairs(["yes", "no no no", ""], "crops", 0)) == []
