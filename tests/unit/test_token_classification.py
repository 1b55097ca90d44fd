"""Tags, spans, windows and offsets of token classification."""

from __future__ import annotations

import gzip
import itertools
import json
import unicodedata
import warnings

import numpy as np
import pytest
import seqeval.metrics
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import headstart
from headstart import tasks
from headstart.core.errors import DataError, SpecError
from headstart.core.spec import DataSpec
from headstart.core.values import IGNORE
from headstart.data import table as data
from headstart.models import backbone as backbones
from headstart.readers.text import TextReader
from headstart.readers.words import join_tokens, split_words
from headstart.tasks.token_classification.tags import PLAIN, scheme_of, spans_to_tags, tags_to_spans, viterbi
from headstart.tasks.token_classification.task import TokenClassification

WHO = {"tokens": ["Ada", "Lund", "met", "Bo", "in", "Rome"], "tags": ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"]}
POS = {"tokens": ["the", "dull", "film"], "tags": ["DET", "ADJ", "NOUN"]}
SCHEMES = ["IOB1", "IOB2", "BIOES", "BILOU", "BMES"]


@pytest.fixture(scope="module")
def reader(backbone) -> TextReader:
    return backbones.load_backbone(str(backbone), 128).reader


def short(reader: TextReader, max_tokens: int) -> TextReader:
    return TextReader(reader.tokenizer, max_tokens, reader.pad_id)


def made_reader(kind: str, max_tokens: int = 128) -> TextReader:
    """Tokenizers that cut words to pieces: WordPiece, single bytes with their blank (GPT-2), characters with ▁ (T5)."""
    letters = [chr(c) for c in range(33, 127)] + list("ãëöé王芳在北京房间很干净说אתמולדכןהביםꢀ👧👩👍")
    known = ["[UNK]", "[CLS]", "[SEP]", "▁", *letters, *(f"##{c}" for c in letters)]
    if kind == "bytes":
        known = ["[CLS]", "[SEP]", *pre_tokenizers.ByteLevel.alphabet()]
    vocab = {token: i for i, token in enumerate(known)}
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE(vocab, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "characters":
        tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")])
    return TextReader(tokenizer, max_tokens, 0)


def blind(row):
    return {k: v for k, v in row.items() if k not in TokenClassification.columns.gold}


def answer_of_gold(task, row, reader):
    """What decode makes of logits that say the row's own targets, and nothing at all elsewhere."""
    windows = task.encode(0, row, reader)
    logits = []
    for window in windows:
        said = np.zeros((len(window), task.n_outputs), np.float32)
        for t, k in enumerate(window.target["tags"]):
            if k != IGNORE:
                said[t, k] = 9.0
        logits.append(said)
    return task.decode(blind(row), task.encode(0, blind(row), reader), logits)


def learned(*rows, **options):
    return TokenClassification(**options).learn(rows)


def entities(text, *found):
    """A row whose entities are these (words, label) in their order."""
    spans, at = [], 0
    for words, label in found:
        at = text.index(words, at)
        spans.append({"start": at, "end": at + len(words), "label": label})
        at += len(words)
    return {"text": text, "entities": spans}


# ----------------------------------------------------------------------------------------------------------- schemes

spans_of_words = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from(["PER", "ORG", "a-b"])),
                          max_size=6)


def laid_out(steps):
    """(gap, length, label) one after another as spans and a number of words."""
    spans, at = [], 0
    for gap, length, label in steps:
        spans.append((at + gap, at + gap + length, label))
        at += gap + length
    return spans, at + 2


@pytest.mark.parametrize("scheme", SCHEMES)
@given(steps=spans_of_words)
def test_tags_and_spans_are_two_forms_of_one_thing(scheme, steps):
    spans, n_words = laid_out(steps)
    tags = spans_to_tags(spans, n_words, scheme)
    assert len(tags) == n_words
    assert tags_to_spans(tags, scheme) == spans


def test_iob1_begins_with_b_only_beside_its_like():
    spans = [(0, 1, "PER"), (1, 2, "ORG"), (2, 4, "ORG")]
    assert spans_to_tags(spans, 5, "IOB1") == ["I-PER", "I-ORG", "B-ORG", "I-ORG", "O"]
    assert scheme_of([["I-PER", "I-ORG", "B-ORG"]]) == "IOB1"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_recognized_by_its_tags(scheme):
    spans = [(0, 1, "PER"), (1, 4, "PER"), (5, 7, "ORG"), (8, 9, "ORG")]
    tags = spans_to_tags(spans, 10, scheme)
    assert scheme_of([tags, ["O", "O"]]) == scheme
    task = learned({"tokens": ["x"] * 10, "tags": tags})
    assert (task.scheme, task.labels, task.n_outputs) == (scheme, ("ORG", "PER"), 5)


@pytest.mark.parametrize(("tags", "scheme"), [
    (["I-PER", "I-PER", "O"], "IOB1"),  # no two neighbors: IO, which is IOB1 too
    (["B-PER", "O", "B-LOC"], "IOB2"),
    (["S-PER", "O"], "BIOES"),
    (["U-PER", "O"], "BILOU"),
    (["B", "I", "O"], "IOB2"),  # one kind without a name
    (["NOUN", "VERB", "X"], PLAIN),
    (["B", "N", "V"], PLAIN),
    (["-LRB-", "NN", "WP$", "O"], PLAIN),
    (["O", "O"], "IOB2"),
])
def test_schemes_that_are_hardly_told(tags, scheme):
    assert scheme_of([tags]) == scheme


@pytest.mark.parametrize(("rows", "expected"), [
    ([["B-PER", "O", "I-PER"]], ['in 1 rows an entity begins with I- as in IOB1', '"I-PER" at place 3',
                                 "in 1 rows one begins with B- as in IOB2"]),
    ([["B-PER", "I-LOC"]], ['"I-LOC" at place 2']),
    ([["X-PER", "O", "Y-PER"]], ['"X-PER" beside "O", which is no scheme that is known (IOB1, IOB2, BIOES']),
    ([["B-PER", "PER"]], ['"PER" beside "B-PER"']),
    ([["B-PER", "L-PER"], ["B-PER", "E-PER"]], ["begin with B, E, L, which no scheme does"]),
    ([["B-PER", "O"], ["S-PER"]], ["look like BIOES, but 1 rows are not valid", "leaves the entity before place 2"]),
    ([["B-PER", "I-PER"], ["S-PER"]], ["leaves the entity before place 3 without its E-"]),
    ([["O", "E-PER"], ["S-PER"]], ['has "E-PER" at place 2 without a beginning before it, which is not BIOES']),
])
def test_tags_of_no_scheme_are_refused(rows, expected):
    with pytest.raises(DataError) as caught:
        scheme_of(rows)
    assert all(words in str(caught.value) for words in expected), str(caught.value)


def test_iob1_may_begin_with_i_and_iob2_may_not():
    iob1 = learned({"tokens": ["a", "b"], "tags": ["I-PER", "B-PER"]})
    assert iob1.scheme == "IOB1"
    assert iob1.check_gold([{"tokens": ["a", "b"], "tags": ["O", "I-PER"]}]) == []
    said = learned(WHO).check_gold([WHO, {"tokens": ["a", "b"], "tags": ["O", "I-PER"]}, {"tokens": ["a"]},
                                    {"tokens": ["a"], "tags": ["S-PER"]}, {"tokens": ["a"], "tags": ["B-NEW"]}])
    assert said == [(1, '"tags" has "I-PER" at place 2 without a beginning before it, which is not IOB2'),
                    (2, 'has neither "tags" nor "entities"'),
                    (3, '"tags" has "S-PER" at place 1, which is not IOB2 as in the train rows')]


def test_rows_that_cannot_be_learned_from():
    with pytest.raises(DataError, match='1 of 2 train rows have neither "tags" nor "entities"'):
        learned(WHO, {"tokens": ["a"], "tags": None})
    with pytest.raises(DataError, match="no entity at all"):
        learned({"tokens": ["a"], "tags": ["O"]})
    with pytest.raises(DataError, match="without a scheme"):
        learned(POS, entities("Bo sat", ("Bo", "PER")))
    [(_, said)] = learned(POS).check_gold([entities("Bo sat", ("Bo", "PER"))])
    assert said == '"entities" cannot be compared with the plain tags of the train rows'


# -------------------------------------------------------------------------------------------------------- complaints

@pytest.mark.parametrize(("row", "expected"), [
    ({}, '"tokens" is missing, and so is "text"'),
    ({"tokens": None, "text": None}, '"tokens" is missing'),
    ({"text": " "}, '"text" is empty'),
    ({"text": 3}, '"text" is 3, not a string'),
    ({"tokens": "Ada met"}, '"tokens" is "Ada met", not a list'),
    ({"tokens": []}, '"tokens" is empty'),
    ({"tokens": ["Ada", ""]}, '"tokens" has "" at place 2; each must be a string that is not empty'),
    ({"tokens": ["Ada", True]}, '"tokens" has True at place 2'),
    ({"tokens": ["Ada", "Bo"], "text": "Bo, Ada"}, '"tokens" has "Bo" at place 2, which "text" does not have there'),
    ({"tokens": ["Ada"], "tags": ["O", "O"]}, '"tags" has 2 values for 1 tokens; it must have one for each'),
    ({"text": "Ada", "tags": ["O"]}, '"tags" stands without "tokens"'),
    ({"tokens": ["Ada"], "tags": "O"}, '"tags" is "O", not a list'),
    ({"tokens": ["Ada"], "tags": [float("nan")]}, '"tags" has nan at place 1'),
    ({"tokens": ["Ada"], "tags": ["B-PER "]}, '"tags" has "B-PER " at place 1; each must be a string without blanks'),
    ({"tokens": ["Ada"], "tags": ["O"], "entities": []}, '"entities" stands beside "tags"'),
])
def test_rows_that_are_refused(row, expected):
    assert (TokenClassification().check(row) or "").startswith(expected)


@pytest.mark.parametrize(("found", "expected"), [
    ([{"start": 2, "end": 2, "label": "X"}], "has 2-2 in a text of 8 characters; it must be 0 <= start < end <= 8"),
    ([{"start": 4, "end": 2, "label": "X"}], "has 4-2 in a text"),
    ([{"start": 0, "end": 9, "label": "X"}], "has 0-9 in a text of 8 characters"),
    ([{"start": -1, "end": 3, "label": "X"}], "has -1-3"),
    ([{"start": 10**400, "end": 10**401, "label": "X"}], "has 1000"),
    ([{"start": 0.0, "end": 3, "label": "X"}], "has 0.0 as start; it must be a whole number"),
    ([{"start": True, "end": 3, "label": "X"}], "has True as start"),
    ([{"start": 0, "label": "X"}], "has None as end"),
    ([{"start": 0, "end": 3, "label": " "}], 'has " " as label'),
    ([{"start": 0, "end": 3, "label": None}], "has None as label"),
    (["Ada"], 'has "Ada"; each must be {start, end, label} (number 1)'),
    ([{"start": 4, "end": 8, "label": "X"}, {"start": 0, "end": 5, "label": "Y"}], "has 0-5 and 4-8, which overlap"),
    ([{"start": 0, "end": 1, "label": "X"}], 'has 0-1, and 1 is inside "e\u0301", a letter with its mark (U+0301)'),
    ([{"start": 1, "end": 4, "label": "X"}], "has 1-4, and 1 is inside"),
    ([{"start": 0, "end": 4, "label": "X", "text": "eva"}], 'has "eva" at 0-4, where the text has'),
    ({"start": 0}, "is {'start': 0}, not a list"),
])
def test_entities_that_are_refused(found, expected):
    said = TokenClassification().check({"text": "e\u0301va sat", "entities": found})
    assert said is not None
    assert said.startswith('"entities" ')
    assert expected in said
    assert len(said) < 500


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["start", "end", "label"]), inner))


@given(row=st.dictionaries(st.sampled_from(["tokens", "tags", "text", "entities"]), anything))
@settings(max_examples=300, deadline=None)
def test_no_row_breaks_check_and_what_passes_can_be_read(row):
    said = TokenClassification().check(row)
    assert said is None or (said.startswith('"') and len(said) < 500)
    if said is None:
        text, words = TokenClassification().read(row)
        assert all(0 <= start < end <= len(text) for start, end in words)


# ------------------------------------------------------------------------------------------------------ words, text

@pytest.mark.parametrize(("text", "words"), [
    ("U.S. aid, 3-1!", ["U", ".", "S", ".", "aid", ",", "3", "-", "1", "!"]),
    ("snake_case\tx\x00", ["snake_case", "x"]),
    ("Zoe\u0308's café", ["Zoe\u0308", "'", "s", "café"]),
    ("王芳在Rome吃饭。", ["王", "芳", "在", "Rome", "吃", "饭", "。"]),
    ("\u200fדוד\u200f הלך", ["דוד", "הלך"]),
    ("می\u200cخواهم برو", ["می\u200cخواهم", "برو"]),
    ("hi 👩\u200d👧👍🏽🇫🇷🇩🇪!", ["hi", "👩\u200d👧", "👍🏽", "🇫🇷", "🇩🇪", "!"]),
    ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ("a\u200b", ["a"]),
    ("Ａｄａ９　ﾈｺ", ["Ａｄａ９", "ﾈ", "ｺ"]),
    ("ไทย มา", ["ไ", "ท", "ย", "ม", "า"]),
    ("\u0301x", ["\u0301", "x"]),
])
def test_words_of_a_text(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words


@given(text=st.text(max_size=30))
@example("\u200d\u0301\u200d👍")
def test_words_are_in_order_and_hold_every_letter(text):
    words = split_words(text)
    covered = {i for start, end in words for i in range(start, end)}
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(words))
    assert all(i in covered for i, character in enumerate(text) if character.isalnum())
    assert all(not unicodedata.combining(text[at]) or at == 0 or at not in covered or at - 1 not in covered
               or text[at - 1].isspace() for word in words for at in word if at < len(text))
    if text.isascii():
        assert split_words(text + "é")[: len(words) - 1] == words[:-1]  # both ways of splitting agree


@given(tokens=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).filter(str.strip),
                       min_size=1, max_size=8))
def test_tokens_keep_their_place_in_the_joined_text(tokens):
    text, words = join_tokens(tokens)
    assert [text[start:end] for start, end in words] == tokens
    assert TokenClassification().check({"tokens": tokens, "text": text}) is None


def test_chinese_tokens_are_joined_without_blanks():
    assert join_tokens(["王", "芳", "在", "Rome", "，", "吃", "饭"])[0] == "王芳在 Rome ，吃饭"


def test_tokens_beside_a_text_keep_the_text_s_offsets(reader):
    row = {"tokens": ["Ada", "Lund", ",", "Rome"], "text": "  Ada  Lund, Rome!",
           "tags": ["B-PER", "I-PER", "O", "B-LOC"]}
    task = learned(row)
    answer = answer_of_gold(task, row, reader)
    assert [(e["start"], e["end"], e["text"]) for e in answer["entities"]] == [(2, 11, "Ada  Lund"), (13, 17, "Rome")]
    assert answer["tags"] == row["tags"]


# ---------------------------------------------------------------------------------------------- encode and decode

ROWS = [
    WHO, POS | {"tags": ["O", "B-PER", "I-PER"]},
    entities("The music was really lovely in São Paulo, and cold in Zoe\u0308's room.", ("São Paulo", "LOC"),
             ("Zoe\u0308", "PER")),
    entities("房间在北京很干净，王芳说。", ("北京", "LOC"), ("王芳", "PER")),
    {"tokens": list("王芳在北京"), "tags": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]},
    entities("אתמול דוד כהן הלך לתל אביב.", ("דוד כהן", "PER"), ("תל אביב", "LOC")),
    entities("👩\u200d👧 found Bo 👍🏽 in Rome\u200b today", ("Bo", "PER"), ("Rome", "LOC")),
    entities("Ａｄａ met Bo", ("Ａｄａ", "PER"), ("Bo", "PER")),
    {"tokens": ["New York", "\u200b", "Times"], "tags": ["B-ORG", "I-ORG", "I-ORG"]},
]


@pytest.mark.parametrize("max_tokens", [128, 12])
@pytest.mark.parametrize("constrained", [True, False])
def test_decoded_targets_are_the_gold(reader, max_tokens, constrained):
    task = learned(*ROWS, constrained=constrained)
    reached = [row for row in ROWS if "לתל" not in row.get("text", "")]  # an entity behind a prefix, inside a word
    for row in reached:
        assert task.check(row) is None
        answer = answer_of_gold(task, row, short(reader, max_tokens))
        outcome = task.outcomes([answer], [row])[0]
        assert len(set(outcome.tolist())) == 1, (row, answer)
        if "tokens" in row:
            assert answer["tags"] == row["tags"]
        text = task.text(row)
        assert all(one["text"] == text[one["start"] : one["end"]] for one in answer["entities"])
        assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize("max_tokens", [512, 24])
@pytest.mark.parametrize("kind", ["pieces", "bytes", "characters"])
def test_words_of_several_tokens_have_one_answer(kind, max_tokens):
    task, reader = learned(*ROWS), made_reader(kind, max_tokens)
    for row in [row for row in ROWS if "לתל" not in row.get("text", "")]:
        windows = task.encode(0, row, reader)
        asked = [unit for window in windows for unit in window.notes["units"]]
        assert len(asked) == len(set(asked))
        assert all(stop == first + 1 for first, stop in asked)
        assert len(asked) >= len(task.read(row)[1]) - 1  # the zero-width space may have no token
        answer = answer_of_gold(task, row, reader)
        assert len(set(task.outcomes([answer], [row])[0].tolist())) == 1, (row, answer)
    longest = windows and max(len(window) for window in task.encode(0, {"text": "kindness " * 20}, reader))
    assert longest <= max_tokens
    [window] = task.encode(0, {"text": "a kind"}, reader)
    assert window.notes["at"][0] == 1 if kind == "pieces" else window.notes["at"][0] in (1, 2)
    assert len(window) > 6


def test_gold_inside_a_word_is_missed_and_counted(reader):
    row = next(row for row in ROWS if "אביב" in row.get("text", ""))
    task = learned(*ROWS)
    answer = answer_of_gold(task, row, reader)
    assert task.outcomes([answer], [row]).tolist() == [[1, 2, 2]]
    new = {"tokens": ["Ada"], "tags": ["B-NEW"]}
    assert set(task.encode(0, new, reader)[0].target["tags"]) == {IGNORE}  # no loss is taken of what has no output
    missed = answer_of_gold(task, new, reader)
    assert task.outcomes([missed], [new]).tolist() == [[0, 0, 1]]
    details = task.details([answer, missed], [row, new])
    assert details["n_out_of_reach"] == 2
    assert {one["label"]: one["n"] for one in details["per_label"]} == {"LOC": 1, "NEW": 1, "ORG": 0, "PER": 1}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_offsets_count_the_row_s_own_code_points(reader, form):
    text = unicodedata.normalize(form, "Zoë Émile was in Kraków today")
    words = [unicodedata.normalize(form, word) for word in ("Zoë Émile", "Kraków")]
    row = entities(text, (words[0], "PER"), (words[1], "LOC"))
    answer = answer_of_gold(learned(row), row, reader)
    assert [one["text"] for one in answer["entities"]] == words
    assert [(one["start"], one["end"]) for one in answer["entities"]] == [
        (one["start"], one["end"]) for one in row["entities"]]


@pytest.mark.parametrize("stride", [0, 1, 3, 64])
@pytest.mark.parametrize("max_tokens", [5, 8, 13, 40])
def test_every_word_is_asked_once_where_it_has_the_most_context(reader, max_tokens, stride):
    tokens = [("kind", "film", "1996", "Bo")[i % 4] for i in range(30)]
    row = {"tokens": tokens, "tags": ["B-X", "I-X", "I-X", "I-X", *["O"] * 7, *["B-X", "I-X"] * 9, "O"]}
    task = learned(row, stride=stride)
    windows = task.encode(7, row, short(reader, max_tokens))
    assert {window.row for window in windows} == {7}
    assert all(len(window) <= max_tokens for window in windows)
    asked = [unit for window in windows for unit in window.notes["units"]]
    assert sorted(asked) == [(w, w + 1) for w in range(30)]
    assert sum((np.array(window.target["tags"]) != IGNORE).sum() for window in windows) == 30
    answer = answer_of_gold(task, row, short(reader, max_tokens))
    assert answer["tags"] == row["tags"]
    overlap = min(stride, max_tokens // 3)
    for k, window in enumerate(windows):  # no word is asked closer to an inner edge than half of the overlap
        left, right = min(window.notes["at"]) - 1, len(window) - 2 - max(window.notes["at"])
        assert k == 0 or left >= overlap // 2
        assert k == len(windows) - 1 or right >= (overlap - 1) // 2


def test_tokens_are_those_that_the_windows_hold(reader):
    task = learned(WHO)
    text, words = task.read(WHO)
    [window] = task.encode(0, WHO, reader)
    read = reader.read_windows(text)[0]
    for (first, _), at in zip(window.notes["units"], window.notes["at"], strict=True):
        assert read.offsets_T[at][0] == words[first][0]
    assert window.inputs == read.inputs


def test_words_that_share_a_token_share_the_answer(backbone, reader):
    """A tokenizer that keeps kana together answers once for the word; a part of it cannot be an entity."""
    task = learned(entities("ネコ met Bo", ("ネコ", "PER"), ("Bo", "PER")))
    [window] = task.encode(0, {"text": "ネコ met Bo"}, reader)
    assert window.notes["units"] == [(0, 2), (2, 3), (3, 4)]
    half = entities("ネコ met Bo", ("ネ", "PER"))
    answer = answer_of_gold(task, half, reader)
    assert [one["text"] for one in answer["entities"]] == ["ネコ"]
    assert task.outcomes([answer], [half]).tolist() == [[0, 1, 1]]


def test_a_text_without_a_single_token(reader):
    task, row = learned(WHO), {"text": "\u200b\u2060"}
    assert task.check(row) is None
    assert task.encode(0, row, reader) == []
    assert task.decode(row, [], []) == {"entities": []}
    assert task.decode({"tokens": ["\u200b"]}, [], []) == {"entities": [], "tags": ["O"]}
    plain = learned(POS)
    assert plain.decode({"tokens": ["\u200b"]}, [], [])["tags"] == ["ADJ"]


def test_plain_tags_are_an_answer_for_each_word(reader):
    task = learned(POS, {"tokens": ["it", "was"], "tags": ["PRON", "VERB"]})
    assert (task.scheme, task.metric, task.n_outputs) == (PLAIN, "accuracy", 5)
    row = {"tokens": ["the", "\u200b", "film"], "tags": ["DET", "NOUN", "NOUN"]}
    answer = answer_of_gold(task, row, reader)
    assert answer["tags"] == ["DET", "DET", "NOUN"]  # nothing is read of the second, which has the tag before it
    assert task.outcomes([answer], [row]).tolist() == [[2, 3, 3]]
    assert task.score(task.outcomes([answer], [row])) == {"accuracy": 2 / 3}
    details = task.details([answer], [row])
    assert (details["counted"], sum(n for _, _, n in details["confused_pairs"])) == ("words", 3)
    assert [one["text"] for one in task.decode({"text": "the film"}, *_random(task, {"text": "the film"}, reader))[
        "entities"]] == ["the", "film"]


def _random(task, row, reader, seed=0):
    windows = task.encode(0, row, reader)
    rng = np.random.default_rng(seed)
    return windows, [rng.normal(size=(len(w), task.n_outputs)) for w in windows]


# --------------------------------------------------------------------------------------------------------- Viterbi

@given(seed=st.integers(0, 2**32), n=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_viterbi_finds_the_best_of_all_sequences(seed, n):
    task = TokenClassification(labels=("LOC", "PER"))
    scores = np.random.default_rng(seed).normal(size=(n, 5))
    barred = task._barred_KK

    def total(tags):
        return sum(scores[u, k] + barred[tags[u - 1] if u else -1, k] for u, k in enumerate(tags))

    best = max(itertools.product(range(5), repeat=n), key=total)
    assert viterbi(scores, barred).tolist() == list(best)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_no_invalid_sequence_leaves(seed):
    task = TokenClassification(labels=("LOC", "PER"))
    scores = np.random.default_rng(seed).normal(size=(12, 5))
    tags = [task.tags_K[k] for k in viterbi(scores, task._barred_KK)]
    assert all(tag[0] != "I" or before[2:] == tag[2:] for before, tag in itertools.pairwise(["O", *tags]))


def test_unconstrained_takes_each_word_s_best(reader):
    row = {"tokens": ["dull", "film"]}
    logits = np.full((4, 3), 0.0)
    logits[1, 0], logits[2] = 1.0, (0.0, 0.5, 1.0)  # O, then I-X by itself
    answers = [TokenClassification(labels=("X",), constrained=c).decode(
        row, TokenClassification(labels=("X",)).encode(0, row, reader), [logits]) for c in (False, True)]
    assert [a["tags"] for a in answers] == [["O", "B-X"], ["O", "B-X"]]
    assert answers[0]["entities"][0]["score"] > answers[1]["entities"][0]["score"]
    logits[0:, :], logits[1, 0], logits[2] = 0, 1.0, (0.9, 0.0, 1.0)
    answers = [TokenClassification(labels=("X",), constrained=c).decode(
        row, TokenClassification(labels=("X",)).encode(0, row, reader), [logits]) for c in (False, True)]
    assert [a["tags"] for a in answers] == [["O", "B-X"], ["O", "O"]]


# ---------------------------------------------------------------------------------------------------------- scores

@pytest.mark.parametrize(("scheme", "theirs"), [("IOB1", IOB1), ("IOB2", IOB2), ("BIOES", IOBES), ("BILOU", BILOU)])
@given(pairs=st.lists(st.tuples(spans_of_words, spans_of_words), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_seqeval(scheme, theirs, pairs):
    rows, answers, gold, said = [], [], [], []
    task = TokenClassification(labels=("ORG", "PER", "a-b"), scheme=scheme)
    for one, other in pairs:
        (gold_spans, n), (said_spans, m) = laid_out(one), laid_out(other)
        tokens = ["x"] * max(n, m)
        words = join_tokens(tokens)[1]
        gold.append(spans_to_tags(gold_spans, len(tokens), scheme))
        said.append(spans_to_tags(said_spans, len(tokens), scheme))
        rows.append({"tokens": tokens, "tags": gold[-1]})
        answers.append({"entities": [{"start": words[a][0], "end": words[b - 1][1], "label": label, "score": 0.5}
                                     for a, b, label in said_spans]})
    scores = task.score(task.outcomes(answers, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("precision", "recall", "f1"):
            wanted = getattr(seqeval.metrics, f"{name}_score")(gold, said, mode="strict", scheme=theirs)
            assert scores[name] == pytest.approx(wanted), name


ANY_TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@given(tags=st.lists(ANY_TAG, max_size=12))
def test_any_sequence_is_read_as_conlleval_reads_it(tags):
    from seqeval.metrics.sequence_labeling import get_entities

    found = [(first, end - 1, label) for first, end, label in tags_to_spans(tags, "IOB2")]
    assert found == [(start, end, label) for label, start, end in get_entities(tags)]


def test_scores_of_a_hand_counted_answer():
    task = learned(WHO)
    said = [{"start": 0, "end": 8, "label": "PER", "score": 0.9},
            {"start": 13, "end": 15, "label": "LOC", "score": 0.8}]
    outcomes = task.outcomes([{"entities": said}], [WHO])
    assert outcomes.tolist() == [[1, 2, 3]]
    assert task.score(outcomes) == {"f1": 0.4, "precision": 0.5, "recall": pytest.approx(1 / 3)}
    assert task.score(np.zeros((3, 3), np.int64)) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_mistakes_show_both_sides_in_their_place():
    task = learned(WHO)
    said = [{"start": 0, "end": 3, "label": "PER", "score": 0.7},
            {"start": 13, "end": 15, "label": "LOC", "score": 0.9}]
    mistakes = task.details([{"entities": said}], [WHO])["mistakes"]
    assert mistakes == [
        {"text": "Ada Lund met ⟦Bo⟧ in Rome", "label": "PER: Bo", "predicted": "LOC: Bo", "confidence": 0.9},
        {"text": "⟦Ada Lund⟧ met Bo in Rome", "label": "PER: Ada Lund", "predicted": "PER: Ada", "confidence": 0.7},
        {"text": "Ada Lund met Bo in ⟦Rome⟧", "label": "LOC: Rome", "predicted": "none", "confidence": None}]


def test_the_baseline_knows_words_it_has_seen():
    task = learned(WHO)
    test = [{"tokens": ["Bo", "met", "Eve"], "tags": ["B-PER", "O", "B-PER"]}, entities("Rome, Lund", ("Rome", "LOC"))]
    (name, answers), _ = task.baselines([WHO], [], test, 0)
    assert name == "majority-tag"
    assert answers[0]["tags"] == ["B-PER", "O", "O"]
    assert [(one["label"], one["text"]) for one in answers[1]["entities"]] == [("LOC", "Rome"), ("PER", "Lund")]
    assert task.outcomes(answers, test).tolist() == [[1, 1, 2], [1, 2, 1]]
    (_, answers), _ = learned(POS, POS).baselines([POS, {"tokens": ["film"], "tags": ["NOUN"]}], [], [
        {"tokens": ["dull", "new"], "tags": ["ADJ", "X"]}], 0)
    assert answers[0]["tags"] == ["ADJ", "NOUN"]


# ------------------------------------------------------------------------------------------------------------ files

CONLL = """-DOCSTART- -X- O O

Ada NNP I-NP B-PER
met VBD I-VP O
Bo NNP I-NP B-PER

# a remark
Rome NNP I-NP B-LOC
. . O O


# # O O
"""


def rows_of(path, **options):
    table = data.read_table(str(path), DataSpec(train="unused", **options), TokenClassification())
    return [(int(line), row) for line, row in zip(table.lines_N, table.rows, strict=True)]


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.iob", "a.txt", "a.conll.gz"])
def test_conll_files(tmp_path, name):
    text = CONLL if name != "a.txt" else CONLL.replace("# a remark\n", "")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    second = 7 if name == "a.txt" else 8
    assert rows_of(path) == [
        (3, {"tokens": ["Ada", "met", "Bo"], "tags": ["B-PER", "O", "B-PER"]}),
        (second, {"tokens": ["Rome", "."], "tags": ["B-LOC", "O"]}),
        (second + 4, {"tokens": ["#"], "tags": ["O"]})]
    assert rows_of(path, columns={"tags": "column_2"})[0][1]["tags"] == ["NNP", "VBD", "NNP"]


def test_conll_words_may_hold_blanks_between_tabs(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("New York\tB-LOC\n!\tO\n\nBo\tB-PER", "utf-8")
    assert [row["tokens"] for _, row in rows_of(path)] == [["New York", "!"], ["Bo"]]


def test_conll_flaws_have_their_line(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(b"Ada B-PER\nmet O\n\nBo\n\nRome B-LOC\n\ncaf\xe9 O\n")
    with pytest.raises(DataError, match=r"a.conll:4: line 4 has 1 columns; the file has 2"):
        rows_of(path, errors="replace")
    with pytest.raises(DataError, match=r"a.conll:8: byte 4 of the line \(0xe9\) is not utf-8"):
        rows_of(path)
    assert [line for line, _ in rows_of(path, errors="skip")] == [1, 6]
    assert rows_of(path, encoding="latin-1", errors="skip")[-1][1]["tokens"] == ["café"]
    path.write_text("Ada\nmet\n", "utf-8")
    table = data.read_table(str(path), DataSpec(train="unused"), TokenClassification(), gold="ignored")
    assert table.rows == [{"tokens": ["Ada", "met"]}]


def test_text_files_stay_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("The blood type O\nVitamin B\n\nSo it is O\n", "utf-8")
    rows = data.stream_rows(str(path), DataSpec(train="unused", errors="skip"), TokenClassification(), gold="ignored")
    assert [row for _, row in rows] == [{"text": "The blood type O"}, {"text": "Vitamin B"}, {"text": "So it is O"}]


# ----------------------------------------------------------------------------------------------------------- a run

NAMES = {"PER": ["lovely", "kind"], "LOC": ["cold", "stale"]}


def made(n, seed=0):
    """Rows whose entities follow from the words: a name, or "the" and a name, of a person or a place."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        tokens, tags = [], []
        for _ in range(rng.integers(2, 5)):
            words = [str(w) for w in rng.choice(["film", "was", "really", "today", "staff"], rng.integers(1, 4))]
            label = str(rng.choice(["PER", "LOC"]))
            name = [*["the"] * int(rng.integers(2)), str(rng.choice(NAMES[label]))]
            tokens += [*words, *name]
            tags += [*["O"] * len(words), f"B-{label}", *[f"I-{label}"] * (len(name) - 1)]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def test_options_are_checked():
    with pytest.raises(SpecError, match=r"task.stride: -1 is not allowed"):
        tasks.build({"name": "token-classification", "stride": -1})
    built = tasks.build({"name": "token-classification", "constrained": False})
    assert tasks.options_of(built)["constrained"] is False


@pytest.mark.parametrize("method", ["fine-tuning", "linear-probe"])
def test_a_run_from_conll_files_to_answers(tmp_path, backbone, method):
    (tmp_path / "data").mkdir()
    for part, n, seed in (("train", 100, 0), ("validation", 30, 1), ("test", 40, 2)):
        sentences = ["\n".join(map(" ".join, zip(row["tokens"], row["tags"], strict=True))) for row in made(n, seed)]
        (tmp_path / "data" / f"{part}.conll").write_text("\n\n".join(sentences) + "\n", "utf-8")
    spec = tiny.spec(tmp_path / "data", backbone, method=method, data={"max_tokens": 16}, train={"epochs": 6},
                     task={"name": "token-classification", "stride": 4})
    run = headstart.fit(spec, out=tmp_path / "run")
    scores = run.scores
    assert scores["metric"] == "f1"
    majority = scores["baselines"]["majority-tag"]["score"]  # it cannot know whether "the" begins a name
    assert 0.3 < majority < 0.75
    assert scores["score"] > (majority if method == "fine-tuning" else 0.3)
    assert scores["truncation"]["test"]["n_cut"] == 0
    assert run.evaluate(made(40, 2))["score"] == scores["score"]
    text = "lovely was in the film today"
    [from_text], [from_tokens] = run.predict([text]), run.predict([{"tokens": text.split()}])
    assert from_text["entities"] == from_tokens["entities"]
    assert all(one["text"] == text[one["start"] : one["end"]] for one in from_text["entities"])
    assert len(from_tokens["tags"]) == 6
    for page in ("report.md", "report.html"):
        written = (run.folder / page).read_text("utf-8")
        assert "test entities with this gold label" in written
        assert "⟦" in written or scores["score"] == 1


def test_native_head(tmp_path, backbone):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, made(60))), "utf-8")
    spec = tiny.spec(path, backbone, task="token-classification", head={"pooling": "native"}, train={"epochs": 4})
    assert headstart.fit(spec, out=tmp_path / "run").scores["score"] > 0.5
