"""Unknown tokens: what a backbone's vocabulary has no entry for is counted, by script, and many of them are said."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from headstart.core.scores import Scores, UnknownTokens
from headstart.core.values import Window
from headstart.core.windows import store
from headstart.models.shelf import SHIPPED
from headstart.readers.text import TextReader
from headstart.readers.vocabulary import NO_LETTERS, by_script, script
from headstart.report.model_card import model_card
from headstart.report.page import render_html, render_markdown
from headstart.report.wording import unknown_warnings

WORDS = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "##s", "好"])}
BYTES = {character: i for i, character in enumerate(["<pad>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
FALLBACK = {word: i for i, word in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a"])}


def tokenizer(model, pre_tokenizer=None):
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    return made


KINDS = {  # kind -> (tokenizer, unknown tokens of "a 好 坏 坏")
    "WordPiece": (tokenizer(models.WordPiece(WORDS, unk_token="[UNK]")), 2),
    "WordLevel": (tokenizer(models.WordLevel(WORDS, unk_token="[UNK]")), 2),
    "Unigram": (tokenizer(models.Unigram([("[UNK]", 0.0), ("a", -1.0), ("好", -2.0)], unk_id=0)), 2),
    "Unigram, its unknown token is not the first": (
        tokenizer(models.Unigram([("a", -1.0), ("好", -2.0), ("?", 0.0)], unk_id=2)), 2),
    "BPE of characters": (tokenizer(models.BPE(WORDS, [], unk_token="[UNK]")), 2),
    "BPE of bytes": (tokenizer(models.BPE(BYTES, []), pre_tokenizers.ByteLevel()), 0),
    "BPE of bytes with an unknown token": (
        tokenizer(models.BPE(BYTES, [], unk_token="<unk>"), pre_tokenizers.ByteLevel()), 0),
    "BPE with bytes to fall back on": (
        tokenizer(models.BPE(FALLBACK, [], unk_token="<unk>", byte_fallback=True)), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_is_counted(kind, tmp_path):
    made, n_unknown = KINDS[kind]
    reader = TextReader(made, 64, 0)
    texts = ["a 好 坏 坏", "a a a"]
    windows = store((Window(i, reader.read(text)[0], {}, {}) for i, text in enumerate(texts)), tmp_path, 0)
    is_text_V, is_unknown_V = reader.which_tokens()
    assert windows.n_tokens_of_rows(2, is_unknown_V).tolist() == [n_unknown, 0]
    assert windows.n_tokens_of_rows(2, is_text_V).tolist() == [
        len(made.encode(text, add_special_tokens=False)) for text in texts]


def test_special_tokens_and_padding_are_no_text_and_windows_of_a_row_are_summed(tmp_path):
    made = tokenizer(models.WordPiece(WORDS, unk_token="[UNK]"))
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.decoder = decoders.WordPiece()
    is_text_V, is_unknown_V = TextReader(made, 64, 0).which_tokens()
    assert np.flatnonzero(is_text_V).tolist() == [1, 4, 5, 6, 7]
    windows = store((Window(row, {"input_ids": ids}, {}, {}) for row, ids in
                     ((0, [2, 4, 1, 3]), (2, [2, 1, 1, 3]), (2, [2, 5, 3]), (3, [0]))), tmp_path, 0)
    assert windows.n_tokens_of_rows(4, is_text_V).tolist() == [2, 0, 3, 0]
    assert windows.n_tokens_of_rows(4, is_unknown_V).tolist() == [1, 0, 2, 0]
    assert store([], tmp_path / "none", 0).n_tokens_of_rows(2, is_text_V).tolist() == [0, 0]


@pytest.mark.parametrize(("text", "name"), [
    ("a film", "Latin"), ("été à Żywiec", "Latin"), ("ＦＵＬＬ", "Latin"), ("𝓫𝓸𝓵𝓭", "Latin"), ("ﬁne", "Latin"),
    ("房间很干净", "Han"), ("WiFi 房间很干净，服务好", "Han"), ("𠀀𠀁", "Han"), ("部屋はとてもきれい", "Kana"),
    ("ﾊﾝｶｸ", "Kana"), ("방이 깨끗", "Hangul"), ("Комната", "Cyrillic"), ("غرفة", "Arabic"), ("कमरा", "Devanagari"),
    ("ห้อง", "Thai"), ("δωμάτιο", "Greek"), ("חדר", "Hebrew"),
    ("", NO_LETTERS), ("12:30 !?", NO_LETTERS), ("😀👍🏽", NO_LETTERS), ("½ €", NO_LETTERS)])
def test_the_script_of_most_letters(text, name):
    assert script(text) == name


def test_rows_are_summed_by_script_the_most_tokens_first():
    counts = by_script(["a film", "房间", "好", "?"], np.array([2, 2, 1, 1]), np.array([0, 2, 1, 0]))
    assert counts == [UnknownTokens("Han", 2, 3, 3), UnknownTokens("Latin", 1, 2, 0),
                      UnknownTokens(NO_LETTERS, 1, 1, 0)]
    assert [count.share for count in counts] == [1.0, 0.0, 0.0]
    assert by_script([], np.zeros(0, np.int64), np.zeros(0, np.int64)) == []


@pytest.mark.parametrize(("n_tokens", "n_unknown", "is_warned_of"), [
    (100, 6, True), (100, 5, False), (99, 99, False), (10_000, 501, True), (10_000, 0, False), (0, 0, False)])
def test_more_than_a_twentieth_of_enough_tokens_is_warned_of(n_tokens, n_unknown, is_warned_of):
    counts = [UnknownTokens("Latin", 50, 1000, 0), UnknownTokens("Han", 5, n_tokens, n_unknown)]
    lines = unknown_warnings(counts, "minilm-l6")
    assert len(lines) == is_warned_of
    assert all("Han" in line and "minilm-l6" in line and "--backbone" in line for line in lines)


def test_the_advice_is_a_model_of_the_shelf_where_that_reads_the_script(cli):
    line, other = unknown_warnings([UnknownTokens("Han", 5, 1000, 900), UnknownTokens("Cyrillic", 5, 1000, 900)], "m")
    advice = re.search(r"headstart models get (\S+), then --backbone (\S+)\.", line)
    assert advice
    assert advice[1] == advice[2]
    assert "Chinese" in SHIPPED[advice[1]].languages
    assert f"headstart models get {advice[1]}" in cli("models", advice[1])[0]  # a slow test fetches it
    assert "models get" not in other
    again, = unknown_warnings([UnknownTokens("Han", 5, 1000, 900)], advice[1])
    assert all("--backbone sentence-transformers/" in line for line in (other, again))


UNKNOWN = {"metric": "accuracy", "score": 0.7, "interval": [0.6, 0.8], "n_test": 30, "seed": 0, "backbone": "minilm-l6",
           "unknown_tokens": [{"script": "Han", "n_rows": 300, "n_tokens": 30150, "n_unknown": 19386, "share": 0.643}]}


@pytest.mark.parametrize("write", [lambda scores: render_markdown(scores, [], ""),
                                   lambda scores: render_html(scores, [], ""), lambda scores: model_card(scores, "")])
def test_pages_and_card_count_and_warn_and_older_ones_do_not(write):
    words = write(Scores.from_json(UNKNOWN))
    assert "64.3% of the 30,150 tokens of 300 rows in the script Han are unknown to minilm-l6" in words
    assert "19,386" in words
    assert "unknown" not in write(Scores.from_json({k: v for k, v in UNKNOWN.items() if k != "unknown_tokens"}))


def test_scores_json_keeps_the_counts():
    scores = Scores.from_json(UNKNOWN)
    assert Scores.from_json(json.loads(json.dumps(scores.to_json()))).unknown_tokens == scores.unknown_tokens
    assert scores.to_json()["unknown_tokens"][0]["share"] == pytest.approx(0.643, abs=1e-3)
    assert "unknown_tokens" not in Scores.from_json({**UNKNOWN, "unknown_tokens": []}).to_json()


def test_a_run_says_what_its_backbone_does_not_know(tmp_path, backbone, capsys):
    import headstart

    rows = [{"text": f"房间很干净服务很好，厨房明亮，{i}号{'好坏'[i % 2]}", "label": "ab"[i % 2]} for i in range(60)]
    fitted = headstart.fit(tiny.spec(tiny.write_csv(tmp_path / "a.csv", rows), backbone, method="linear-probe"),
                           out=tmp_path / "run")
    (counted,) = fitted.certificate.unknown_tokens
    assert counted.script == "Han"
    assert counted.n_rows == len(rows)  # each once, though all are learned from and tested
    assert 0.2 < counted.share < 0.5
    assert "in the script Han are unknown to" in capsys.readouterr().err
    assert "in the script Han" in Path(tmp_path / "run" / "README.md").read_text("utf-8")
