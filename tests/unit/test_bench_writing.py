"""The bench of text that writes: its rows, its marks, its tables. No model is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import ROOT, Run, writing, writing_control, writing_fits, writing_rows, writing_speed, writing_translation
from headstart.core import spec as specs
from headstart.tasks.writing.control import Control
from headstart.tasks.writing.pairs import Pair


def run(cell, result):
    return Run(cell=cell, result=result, seconds=1.0, others_share=0.0, finished="", machine={}, versions={},
               sources="")


def turn(speaker, text):
    return {"speaker": speaker, "text": text}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_cell_is_measured_by_one_part():
    for quick in (False, True):
        names = [cell["name"] for cell in writing.cells(quick)]
        assert len(set(names)) == 13
        assert all(sum(name in part.NAMES for part in writing.PARTS) == 1 for name in names)


def test_every_fit_cell_is_a_sound_spec():
    cells = writing_fits.cells(quick=False)
    assert len(cells) == len(writing_fits.FITS)
    for cell in cells:
        path = ROOT / "specs" / f"{cell['spec']}.yaml"
        spec, _ = specs.resolve_layers((str(path), specs.read_spec(path)), ("bench", cell["settings"]))
        assert str(spec.backbone) == "smollm2-135m"
        assert spec.task["decoding"]["max_new_tokens"] > 0


@pytest.mark.parametrize("kind", writing_translation.RUNS)
def test_every_run_of_translation_is_a_sound_spec(kind, tmp_path):
    path = ROOT / "specs" / "multi30k.yaml"
    settings = writing_translation.settings_of(kind, 40, 2, 8, tmp_path)
    spec, _ = specs.resolve_layers((str(path), specs.read_spec(path)), ("bench", settings))
    assert spec.encoder_decoder is not None
    assert spec.train.max_steps == 2
    assert (spec.encoder_decoder.encoder == "minilm-l6") == (kind == "pretrained")
    assert (spec.method["encoder"], spec.encoder_decoder.decoder) == (
        ("all", None) if kind == "random" else ("frozen", "minilm-l3"))


def test_a_reply_is_drawn_from_each_dialogue_and_never_after_two_turns_of_the_agent(tmp_path):
    first = [turn("customer", "Hello."), turn("agent", "How can I help?"), turn("customer", "Bye."),
             turn("agent", "Goodbye.")]
    twice = [turn("customer", "Hello."), turn("agent", "One moment."), turn("agent", "Thank you."),
             turn("customer", "Bye."), turn("agent", "Goodbye.")]
    silent = [turn("agent", "Hello?"), turn("customer", "Hello.")]
    dialogues = [{"id": i, "turns": turns} for i, turns in enumerate([first] * 20 + [twice] * 20 + [silent])]
    rows = list(writing_rows.replies(write(tmp_path / "test.jsonl", dialogues)))
    assert len(rows) == 40
    assert {row["reply"] for row in rows[:20]} == {"How can I help?", "Goodbye."}
    assert {row["reply"] for row in rows[20:]} == {"One moment."}
    assert rows == list(writing_rows.replies(tmp_path / "test.jsonl"))


def test_keywords_stand_in_the_caption_which_meets_its_own_control(tmp_path):
    captions = ["Two dogs chase a yellow ball.", "A dog.", "One " * 13, "We go up to it at an inn."]
    rows = list(writing_rows.keywords(write(tmp_path / "test.jsonl", [{"source": text} for text in captions])))
    assert [row["completion"] for row in rows] == captions[:1]
    assert rows[0]["control"] == {"max_words": 12, "include": ["chase", "yellow"]}
    control = Control.of(rows[0]["control"])
    assert isinstance(control, Control)
    assert not control.unmet(rows[0]["completion"])


def test_rows_of_both_sets_are_made_part_by_part(tmp_path):
    for part in ("train", "validation", "test"):
        (tmp_path / "multi30k_en_de").mkdir(exist_ok=True)
        write(tmp_path / "multi30k_en_de" / f"{part}.jsonl", [{"source": f"Some children play outside in {part}."}])
    made = writing_rows.make("multi30k_keywords", tmp_path, tmp_path / "out")
    texts = {path.stem: json.loads(path.read_text("utf-8"))["completion"] for path in made.iterdir()}
    assert texts == {part: f"Some children play outside in {part}." for part in ("train", "validation", "test")}


def test_bm25_finds_the_context_with_the_rare_word():
    train = [Pair("where is my order my order", ("It comes.",)), Pair("is the shop open", ("Yes.",)),
             Pair("the refund", ("It was paid.",))]
    assert writing_fits.bm25(train, [Pair("when is the refund"), Pair("an order of mine"), Pair("shop")]) == [
        "It was paid.", "It comes.", "Yes."]


def test_settings_of_a_quick_run_come_last():
    merged = writing_fits.merged({"data": {"limit": 5, "max_tokens": 9}},
                                 {"data": {"limit": 1}, "train": {"epochs": 2}})
    assert merged == {"data": {"limit": 1, "max_tokens": 9}, "train": {"epochs": 2}}
    assert writing_fits.command("a", {"data": {"test_limit": None}, "train": {"precision": "fp32"}}, 3) == (
        "headstart fit specs/a.yaml --set data.test_limit=null --set train.precision=fp32 --seed 3")


def system(score, gain=None):
    values = {"scores": {"rouge_l": score}, "interval": [score - 0.01, score + 0.01]}
    return values if gain is None else values | {"gain": gain, "gain_interval": [gain - 0.01, gain + 0.01],
                                                 "is_proven": abs(gain) > 0.01}


@pytest.mark.parametrize(("score", "gain", "verdicts"), [(0.35, 0.02, "yes yes"), (0.33, 0.02, "no yes"),
                                                         (0.35, -0.02, "yes no"), (0.35, 0.005, "yes no")])
def test_a_fit_is_measured_against_its_floor_and_over_what_it_must_beat(score, gain, verdicts):
    result = {"task": "summarization", "metric": "rouge_l", "n_train": 3, "n_test": 4, "wall_s": 1.0, "cpu_s": 1.0,
              "peak_mb": 1.0, "cost": {"train_seconds": 1.0}, "command": "fit",
              "systems": {"fitted": system(score), "lead-1": system(score - gain, gain), "title": system(0.4, -0.05)}}
    text = writing_fits.section("scitldr-320", result)
    floor, proven = verdicts.split()
    assert ("met: yes" if floor == "yes" else "met: **NO**") in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert lines["lead-1"].endswith("| yes | yes |" if proven == "yes" else "| yes | **NO** |")
    assert lines["title"].endswith("|  | no |")


def trained(seconds, rouge, mb=2000.0):
    outcomes = [[1.0, rouge, rouge, rouge, 9.0, 9.0, 0.0, 9.0, 0.0, 9.0, 20.0, 10.0]] * 40
    return {"n_tokens": 900, "train_s": seconds, "train_cpu_s": seconds, "peak_mb": mb, "outcomes": outcomes,
            "scores": {"rouge_l": rouge, "likelihood": 0.1}}


@pytest.mark.parametrize(("ours", "rouge", "is_met"), [(30.0, 0.5, True), (60.0, 0.5, False), (30.0, 0.3, False)])
def test_training_must_be_fast_and_no_worse(ours, rouge, is_met):
    runs = [run({"name": "speed", "work": "lora", "system": name, "n_rows": 3, "n_test": 40}, result)
            for name, result in (("headstart", trained(ours, rouge)), ("trainer", trained(100.0, 0.5)))]
    last = writing_speed.table(runs).splitlines()[-1]
    assert last.startswith("| lora | headstart : trainer |")
    assert last.endswith("| yes |" if is_met else "| **NO** |")
    assert writing_speed.table(runs[:1]) == ""


def test_a_likelihood_that_is_lower_in_every_row_is_proven_lower():
    rows = np.random.default_rng(0).uniform(10, 30, 40)
    first, second = ([[*[0.5] * 10, nats, 10.0] for nats in of_system] for of_system in (rows + 1, rows))
    rouge, likelihood = writing_speed.gaps(first, second)
    assert rouge[0] == 0
    assert likelihood[0] == pytest.approx(np.exp(-rows.mean() / 10 - 0.1) - np.exp(-rows.mean() / 10))
    assert likelihood[1] < likelihood[0] < likelihood[2] < 0


def test_a_batch_is_padded_on_the_right_and_its_padding_is_never_learned():
    batch = writing_speed.padded([{"input_ids": [5, 6], "attention_mask": [1, 1], "labels": [-100, 6]},
                                  {"input_ids": [7], "attention_mask": [1], "labels": [7]}])
    assert {key: tensor.tolist() for key, tensor in batch.items()} == {
        "input_ids": [[5, 6], [7, 0]], "attention_mask": [[1, 1], [1, 0]], "labels": [[-100, 6], [7, -100]]}


def test_control_in_the_decoder_must_hold_for_every_text():
    def systems(n_held):
        is_met = {"prompting": 2, "best of eight": 5, "in the decoder": n_held}
        return {name: {"is_met": [i < n for i in range(10)], "nats": [-1.0] * 10, "cpu_s": 1.0}
                for name, n in is_met.items()}

    for n_held, verdict in ((10, "yes"), (9, "**NO**")):
        last = writing_control.section(systems(n_held)).splitlines()[-1]
        assert last.startswith(f"| in the decoder | **{n_held / 10:.2f}**")
        assert last.endswith(f"| 1 | {verdict} |")


def test_the_cost_of_control_is_paired_over_the_rows():
    plain = np.random.default_rng(0).normal(-2.0, 1.0, 100)
    value, low, high = writing_control.difference(list(plain - 0.5), list(plain))
    assert (value, low, high) == pytest.approx((-0.5, -0.5, -0.5))
