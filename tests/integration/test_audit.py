"""headstart audit: every kind of fault that is put into a file is found, with its line; a sound file has none."""

from __future__ import annotations

import json
import random

import pytest
import tiny

from headstart.cli import app as cli
from headstart.core.errors import SpecError
from headstart.report import audit as page
from headstart.studies import audit


def audited(path, backbone, **settings):
    return audit.audit({"data": {"train": str(path)}, "backbone": str(backbone), **settings})


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Train and test with one fault of each kind; row i of train stands in line i + 2."""
    folder = tmp_path_factory.mktemp("faulty")
    train = tiny.rows(120)
    train += [dict(train[3]), {**train[4], "text": train[4]["text"].upper() + " today"},
              {"text": train[5]["text"], "label": "positive" if train[5]["label"] == "negative" else "negative"},
              {"text": "?!", "label": "positive"}, {"text": "https://example.org/room", "label": "negative"},
              {"text": "  ", "label": "negative"}]
    test = [{**row, "text": f"{row['text']} room {i}"} for i, row in enumerate(tiny.rows(20, seed=9))]
    tiny.write_csv(folder / "train.csv", train)
    tiny.write_csv(folder / "test.csv", [*test, dict(train[7])])
    return folder


@pytest.fixture(scope="module")
def found(faulty, backbone):
    return audited(faulty, backbone)


def test_rows_with_a_twin_in_train_are_leaks(found):
    assert found["leaks"]["n_rows"] == {"test": 1}
    pair, = found["leaks"]["pairs"]
    assert pair["first"].endswith("train.csv:9")
    assert pair["second"].endswith("test.csv:22")
    assert pair["kind"] == "same text"


def test_twins_are_paired(found):
    kinds = {(one["first"].rpartition(":")[2], one["second"].rpartition(":")[2]): one["kind"]
             for one in found["twins"]["pairs"]}
    assert kinds == {("5", "122"): "same text", ("6", "123"): "nearly the same", ("7", "124"): "same text"}
    assert found["twins"]["n_rows_with_conflicting_label"] == 2


def test_one_text_with_two_labels_is_named(found):
    text, = found["conflicts"]["texts"]
    assert {row["gold"] for row in text["rows"]} == {"positive", "negative"}
    assert [row["where"].rpartition(":")[2] for row in text["rows"]] == ["7", "124"]


def test_a_row_that_cannot_be_used_is_named(found):
    assert found["unusable"]["counts"]["n_skipped"] == 1
    row, = found["unusable"]["rows"]
    assert row["where"].endswith("train.csv:127")
    assert "is empty" in row["what"]


def test_odd_texts_are_named(found):
    assert found["odd"]["no letter and no digit"]["rows"][0]["where"].endswith("train.csv:125")
    assert found["odd"]["a link alone"]["rows"][0]["where"].endswith("train.csv:126")


def test_a_label_that_was_turned_is_suspected(tmp_path, backbone):
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices((tiny.GOOD, tiny.BAD)[i % 2], k=6)), "label": ("good", "bad")[i % 2]}
            for i in range(100)]
    rows[41]["label"] = "good"
    suspects = audited(tiny.write_csv(tmp_path / "a.csv", rows), backbone)["suspects"]
    assert suspects["n_looked_at"] == 100
    worst = suspects["rows"][0]
    assert worst["where"].endswith("a.csv:43")
    assert (worst["gold"], worst["predicted"]) == ("good", "bad")
    assert worst["gold_share"] < 0.5 < min(worst["predicted_share"], worst["wrong"])
    assert suspects["n_expected"] == pytest.approx(sum(row["wrong"] for row in suspects["rows"]))


def test_lengths_say_what_each_limit_cuts(found):
    cut = {one["max_tokens"]: one["n_cut"] for one in found["lengths"]["limits"]}
    assert list(cut) == sorted(cut)
    assert cut[512] == 0
    assert found["lengths"]["n_tokens"]["longest"] <= 256 or cut[256] > 0


def test_balance_counts_every_part(found):
    assert sum(counts["train"] for counts in found["balance"].values()) == found["parts"]["train"] == 125
    assert sum(counts["test"] for counts in found["balance"].values()) == 21


def test_chinese_is_recognized(tmp_path, backbone):
    rows = [{"text": f"房间很干净，服务也很好，下次还会再来住{i}号房", "label": "好差"[i % 2]} for i in range(19)]
    rows += [rows[0]]
    found = audited(tiny.write_csv(tmp_path / "a.csv", rows), backbone)
    assert found["languages"]["n_rows"] == {"zh": 20}
    assert "房间" in page.markdown(found)
    (han,) = found["unknown_tokens"]
    assert (han["script"], han["n_rows"], found["languages"]["unknown_share"]["zh"]) == ("Han", 20, han["share"])
    assert han["n_unknown"] >= 20 * 9  # of each row: 也 很 下 次 还 会 再 来 住 号
    assert "unknown to" in page.headline(found).plain


def test_a_sound_file_has_no_faults(tmp_path, backbone):
    rows = [{**row, "text": f"{row['text']} {tiny.GOOD[i % 6]} {' '.join(str(i * i))}"}
            for i, row in enumerate(tiny.rows(12))]
    found = audit.audit({"data": {"train": str(tiny.write_csv(tmp_path / "a.csv", rows))}, "backbone": str(backbone)},
                        suspects=False)
    assert page.headline(found).title == "Nothing was found to be wrong"
    assert [section.name for section in page.sections(found)] == ["balance", "lengths", "vocabulary", "languages"]


def test_on_the_command_line(faulty, backbone, tmp_path, capsys):
    command = ["audit", str(faulty), "--set", f"backbone={backbone}", "--out", str(tmp_path / "out"), "--json"]
    cli.app(command, standalone_mode=False)
    stdout = capsys.readouterr().out
    assert json.loads(stdout.splitlines()[-1])["leaks"]["n_rows"] == {"test": 1}
    assert "# 1 row of validation or test with a twin in train" in stdout
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert "train.csv:9" in page
    assert json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))["parts"]["train"] == 125
    with pytest.raises(SpecError, match='"text-clasification" is not a task; did you mean "text-classification"'):
        cli.app(["audit", str(faulty), "--task", "text-clasification"], standalone_mode=False)


def test_other_questions_are_looked_through_too(tmp_path, backbone):
    """Entities are counted one by one, and one text with other entities is a contradiction."""
    entities = [{"start": 0, "end": 4, "label": "PER"}, {"start": 13, "end": 18, "label": "LOC"}]
    rows = [{"text": f"Mira went to Quito {i}", "entities": entities} for i in range(30)]
    rows += [{"text": "Mira went to Quito 3", "entities": []}]
    source = tmp_path / "entities.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    found = audit.audit({"data": {"train": str(source)}, "backbone": str(backbone)}, suspects=False)
    assert found["task"] == "token-classification"
    assert found["balance"] == {"LOC": {"train": 30}, "PER": {"train": 30}}
    assert found["conflicts"]["n_texts"] == 1
    assert "Quito" in page.markdown(found)
