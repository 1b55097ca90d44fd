"""An encoder and a decoder put together by a Spec, from rows to an artifact that transformers loads, too."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart
from headstart.core.errors import Interrupted, SpecError
from headstart.core.progress import Progress
from headstart.core.values import collate
from headstart.models import warm_start
from headstart.models.backbone import TARGET_TOKENIZER
from headstart.runs.weights import open_model

SENTENCES = ["Ein Hund läuft über die Straße.", "Zwei Kinder spielen im Schnee.", "Die alte Frau liest 3 Bücher."]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny.write_csv(tmp_path_factory.mktemp("data") / "stories.csv", tiny.stories(90))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"encoder": tiny.backbone(root / "encoder", num_hidden_layers=3), "decoder": tiny.backbone(root / "decoder"),
            "electra": tiny.backbone(root / "electra", "electra")}


def spec(rows: Any, models: Any, pair: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": {"name": "summarization", "decoding": {"max_new_tokens": 8}}, "data": {"train": str(rows)},
        "train": {"epochs": 3, "tokens_per_batch": 512, "precision": "fp32"},
        "evaluate": {"n_resamples": 100, "baselines": False}, "method": "fine-tuning",
        "encoder_decoder": {"encoder": str(models["encoder"]), "decoder": str(models["decoder"]), "blocks": 2,
                            "vocabulary": 400, **(pair or {})}}
    return {**values, **more}


@given(st.text(st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_the_learned_vocabulary_writes_any_text(text):
    tokenizer = LEARNED
    ids = tokenizer.encode(text).ids
    written = tokenizer.decode(ids)
    assert written.removeprefix(" ") == tokenizer.normalizer.normalize_str(text).removeprefix(" ")


LEARNED = warm_start.learned_tokenizer(SENTENCES * 3, 400)


def test_the_same_texts_give_the_same_vocabulary_of_at_most_so_many_tokens():
    again = warm_start.learned_tokenizer(iter(SENTENCES * 3), 400)
    assert again.to_str() == LEARNED.to_str()
    assert LEARNED.get_vocab_size() <= 400
    assert [LEARNED.token_to_id(token) for token in (warm_start.PAD, warm_start.BEGIN, warm_start.END)] == [0, 1, 2]
    assert len(LEARNED.encode("Hund").ids) < len("Hund")


def test_a_decoder_begins_as_the_blocks_that_it_is_made_of(models, tmp_path):
    made = warm_start.warm_start(tmp_path / "backbone", str(models["encoder"]), str(models["decoder"]), 2, 400,
                                 SENTENCES * 3, 64, seed=0)
    weights, before = made.tensors(), transformers.BertModel.from_pretrained(models["decoder"]).state_dict()
    taught = [name for name in before if name.startswith("encoder.layer.")]
    assert len(taught) > 20
    for name in taught:
        assert torch.equal(weights[f"decoder.bert.{name}"], before[name])
    assert torch.equal(weights["decoder.bert.encoder.layer.1.crossattention.self.query.weight"],
                       before["encoder.layer.1.attention.self.query.weight"])
    assert made.reader.begin_ids == (1,)
    assert made.reader.target.end_ids == (2,)
    again = warm_start.warm_start(tmp_path / "again", str(models["encoder"]), str(models["decoder"]), 2, 400,
                                  SENTENCES * 3, 64, seed=0)
    assert again.sha256 == made.sha256


@pytest.mark.parametrize("decoder", ["pretrained", "new"])
def test_a_run_with_a_decoder_of_its_own_reads_back_here_and_in_transformers(decoder, rows, models, tmp_path):
    pair = {} if decoder == "pretrained" else {"decoder": None}
    wanted = spec(rows, models, pair)
    wanted["evaluate"] = {"n_resamples": 100}
    run = headstart.fit(wanted, out=tmp_path / "run")
    assert str(run.certificate.backbone).startswith(f"{models['encoder']} + ")
    assert not (tmp_path / "run" / "backbone").exists()
    assert (tmp_path / "run" / TARGET_TOKENIZER).is_file()
    first, *_, last = [entry.scores["likelihood"] or 0 for entry in run.certificate.curve]
    assert last > first
    row = {"document": "the hotel was really lovely today"}
    answers = run.predict([row])
    assert headstart.load(tmp_path / "run").predict([row]) == answers
    model, reader = open_model(tmp_path / "run", run.task, run.spec)
    pretrained = transformers.BertModel.from_pretrained(models["encoder"]).state_dict()
    for name, p in model.encoder.encoder.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(p, pretrained[name]), name
    theirs = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "run").eval()
    window, = run.task.encode(0, {**row, "summary": "it was lovely"}, reader)
    batch = collate({name: [ids] for name, ids in window.inputs.items()}, {}, reader.pad_id).inputs
    tensors = {name: torch.from_numpy(a) for name, a in batch.items()}
    with torch.no_grad():
        ours_MV = model.eval()(tensors).logits
        of_theirs = theirs(**{name: a for name, a in tensors.items() if name != "predicts"}).logits
    torch.testing.assert_close(ours_MV, of_theirs[0])


def test_a_resumed_run_is_the_run_that_was_never_stopped(rows, models, tmp_path):
    whole = headstart.fit(spec(rows, models), out=tmp_path / "whole").folder
    with pytest.raises(Interrupted):
        headstart.fit(spec(rows, models), out=tmp_path / "stopped", progress=Stops("epoch 1:"))
    resumed = headstart.fit(spec(rows, models), out=tmp_path / "stopped", resume=True).folder
    for name in ("model.safetensors", "golden.jsonl", "outcomes.npy", TARGET_TOKENIZER):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


class Stops(Progress):
    """Sends this process a signal when a line begins so."""

    def __init__(self, beginning: str) -> None:
        super().__init__(quiet=True)
        self.beginning, self.lines = beginning, list[str]()

    def say(self, line: str) -> None:
        import os
        import signal

        self.lines.append(line)
        if self.beginning and line.startswith(self.beginning):
            os.kill(os.getpid(), signal.SIGTERM)


def test_validation_chooses_what_of_the_encoder_moves_and_a_resumed_run_does_not_choose_again(rows, models, tmp_path):
    wanted = spec(rows, models, method={"name": "fine-tuning", "encoder": "choose"})
    whole = headstart.fit(wanted, out=tmp_path / "whole")
    assert whole.certificate.kept is not None
    why = whole.certificate.kept.why
    assert "was chosen by validation: frozen " in why
    assert all(name in why for name in ("last_blocks", "all", "steps each"))
    with pytest.raises(Interrupted):
        headstart.fit(wanted, out=tmp_path / "stopped", progress=Stops("epoch 1:"))
    noted = json.loads((tmp_path / "stopped.partial" / "choice.json").read_text("utf-8"))
    assert noted["why"] in why
    again = Stops("")
    resumed = headstart.fit(wanted, out=tmp_path / "stopped", resume=True, progress=again)
    assert not [line for line in again.lines if line.startswith("trying ")]
    assert (resumed.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert not (tmp_path / "stopped.partial").exists()


@pytest.mark.parametrize(("change", "words"), [
    ({"method": "lora"}, "would leave a decoder's new vocabulary as it was drawn"),
    ({"method": "bitfit"}, "would leave a decoder's new vocabulary as it was drawn"),
    ({"method": "adapter"}, "would leave a decoder's new vocabulary as it was drawn"),
    ({"backbone": "minilm-l6"}, "only one of both can read the rows"),
])
def test_what_does_not_go_together_is_refused(change, words, rows, models, tmp_path):
    wanted = spec(rows, models, **{name: value for name, value in change.items() if name != "data"})
    wanted["data"] |= change.get("data", {})
    with pytest.raises(SpecError, match=words):
        headstart.fit(wanted, out=tmp_path / "run")
    assert not (tmp_path / "run.partial").exists()


@pytest.mark.parametrize(("pair", "words"), [
    ({"decoder": "electra"}, "blocks of BERT's family alone can attend to an encoder"),
    ({"blocks": 9}, "is 9, but .* has 2"), ({"vocabulary": 10}, "greater than or equal to 300"),
    ({"encodr": "x"}, "is not a field; did you mean \"encoder\"")])
def test_what_cannot_be_put_together_is_refused(pair, words, rows, models, tmp_path):
    pair = {name: str(models[value]) if name == "decoder" else value for name, value in pair.items()}
    with pytest.raises(SpecError, match=words):
        headstart.fit(spec(rows, models, pair), out=tmp_path / "run")


def test_a_task_that_does_not_write_has_no_decoder(models, tmp_path):
    labeled = tiny.write_csv(tmp_path / "labeled.csv", tiny.rows(60))
    wanted = spec(labeled, models, task="text-classification")
    with pytest.raises(SpecError, match="is for tasks that write"):
        headstart.fit(wanted, out=tmp_path / "run")
    del wanted["encoder_decoder"]
    wanted |= {"backbone": str(models["encoder"]), "method": {"name": "fine-tuning", "encoder": "frozen"}}
    with pytest.raises(SpecError, match="this backbone has none"):
        headstart.fit(wanted, out=tmp_path / "run")


