"""Question answering: what a gold answer must be, offsets in every script, windows, scores as SQuAD's own script."""

from __future__ import annotations

import collections
import json
import re
import string
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import headstart
from headstart import tasks
from headstart.core.errors import DataError, SpecError
from headstart.core.spec import DataSpec
from headstart.core.values import Prediction, collate
from headstart.data import table as data
from headstart.models import backbone as backbones
from headstart.readers.text import TextReader
from headstart.report.run import sections
from headstart.runs import resolve as resolving
from headstart.tasks.question_answering import QuestionAnswering, squad

TASK = QuestionAnswering
CONTEXT = "The staff found a phone. The phone was broken."
STRANGE = ["cafe\u0301", "café", "n\u0303o", "naïve", "👩‍👩‍👧", "🇫🇷", "北京大学", "很干净", "שָׁלוֹם", "مرحبا",
           "zero\u200bwidth", "ﬁne", "İstanbul", "the", "room", "a", "staff", "12.5%", "\u00a0", "\u3000", "  ", "\n",
           "。", "，", "—", "’s", "ไทย", "한국어"]


def row(answer, start, context=CONTEXT, question="What was broken?"):
    return {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [start]}}


def blind(one):
    return {"question": one["question"], "context": one["context"]}


@pytest.fixture(scope="module")
def word_pieces(backbone):
    return lambda max_tokens: backbones.load_backbone(str(backbone), max_tokens).reader


@pytest.fixture(scope="module")
def byte_level():
    """A reader of bytes, as RoBERTa and GPT-2 have it: several tokens may stand for one character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the room and the staff"], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return lambda max_tokens: TextReader(tokenizer, max_tokens, 0)


def says(windows, starts, ends, height=9.0):
    """Logits that point at the tokens numbered `starts[w]` and `ends[w]` of each window."""
    logits = [np.zeros((len(window), 2)) for window in windows]
    for one, start, end in zip(logits, starts, ends, strict=True):
        one[start, 0] += height
        one[end, 1] += height
    return logits


def decoded_gold(task, reader, one):
    """What comes back when the model says just what the targets say."""
    windows = task.encode(0, one, reader)
    targets = [w.target for w in windows]
    assert all(w.target == {} for w in task.encode(0, blind(one), reader))
    return task.decode(blind(one), windows, says(windows, [t["start"] for t in targets], [t["end"] for t in targets]))


# ---- the official rules, written down once more ----------------------------------------------------------------------


def official_normal(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split())


def official(prediction, golds):
    """(exact, F1) of SQuAD 2.0's evaluation script."""
    golds = [gold for gold in golds if official_normal(gold)] or [""]
    exact = max(int(official_normal(gold) == official_normal(prediction)) for gold in golds)
    scores = []
    for gold in golds:
        gold_words, said_words = official_normal(gold).split(), official_normal(prediction).split()
        same = sum((collections.Counter(gold_words) & collections.Counter(said_words)).values())
        if not gold_words or not said_words:
            scores.append(float(gold_words == said_words))
        elif same == 0:
            scores.append(0.0)
        else:
            precision, recall = same / len(said_words), same / len(gold_words)
            scores.append(2 * precision * recall / (precision + recall))
    return exact, max(scores)


WORDS = st.lists(st.sampled_from(["the", "The", "a", "an", "AN", "Phone", "phone,", "(room)", "-", "...", "it's", "its",
                                  "ÉTÉ", "été", "İ", "“room”", "don't", "$5", "5", "\t", "theatre", "a.b", "x-the-y"]),
                 max_size=6).map(" ".join)
ANY_BUT_CJK = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: not squad._CJK.search(text))


@settings(max_examples=400, deadline=None)
@given(WORDS | ANY_BUT_CJK, st.lists(WORDS | ANY_BUT_CJK, max_size=4))
@example("The", ["the", "a"])
@example("", [])
@example("", ["the"])
@example("a phone", [])
def test_scores_are_those_of_the_official_script(said, golds):
    assert squad.compare(said, golds) == pytest.approx(official(said, golds), abs=0)


@pytest.mark.parametrize(("said", "golds", "exact", "f1"), [
    ("北京大学", ["北京大学。"], 1.0, 1.0),
    ("北京", ["北京大学"], 0.0, 2 / 3),
    ("《北京 大学》", ["北京大学"], 1.0, 1.0),
    ("上海", ["北京"], 0.0, 0.0),
    ("NBA总决赛", ["nba 总决赛", "决赛"], 1.0, 1.0),
    ("東京タワー", ["タワー"], 0.0, 2 * 3 / 8),
    ("1990 年", ["1990年"], 1.0, 1.0),
])
def test_chinese_and_japanese_are_scored_by_character(said, golds, exact, f1):
    assert squad.compare(said, golds) == pytest.approx((exact, f1))


def test_scores_of_parts():
    rows = [row("phone", 18), row("a phone", 16), {**blind(row("", 0)), "answers": {"text": [], "answer_start": []}},
            {**blind(row("", 0)), "answers": {"text": [], "answer_start": []}}]
    said = [{"answer": one} for one in ("phone", "the broken phone", "", "phone")]
    task = TASK(has_unanswerable=True)
    outcomes = task.outcomes(said, rows)
    assert outcomes.tolist() == [[1, 1, 1], [0, pytest.approx(2 / 3), 1], [1, 1, 0], [0, 0, 0]]
    assert task.score(outcomes) == pytest.approx({
        "f1": (1 + 2 / 3 + 1) / 4, "exact_match": 0.5, "f1_has_answer": 5 / 6, "exact_match_has_answer": 0.5,
        "accuracy_no_answer": 0.5})
    assert set(TASK().score(outcomes)) == {"f1", "exact_match"}
    assert "accuracy_no_answer" not in task.score(outcomes[:2])
    assert "f1_has_answer" not in task.score(outcomes[2:])


# ---- gold answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "said"), [
    ({"text": ["phone"], "answer_start": [19]},
     '"answers": "phone" is not what the context has at 19: "hone."; the nearest match begins at 18'),
    ({"text": ["phone"], "answer_start": [40]}, "the nearest match begins at 29"),
    ({"text": ["phone"], "answer_start": [-1]},
     '"answers": "phone" has the offset -1, which is below 0; the nearest match begins at 18'),
    ({"text": ["broken."], "answer_start": [44]},
     '"broken." would end at 51, and the context has 46 characters; the nearest match begins at 39'),
    ({"text": ["hotel"], "answer_start": [4]}, "the context has it nowhere"),
    ({"text": ["phone"], "answer_start": [None]}, '"phone" has no offset and stands at 2 places of the context'),
    ({"text": ["hotel"]}, '"hotel" has no offset; the context has it nowhere'),
    ({"text": ["phone", "staff"], "answer_start": [18]}, '"answers" has 2 texts and 1 offsets; it must have one of'),
    ({"text": ["phone"], "answer_start": ["x"]}, '"answers" has the offset "x"; it must be a whole number'),
    ({"text": ["phone"], "answer_start": [True]}, 'has the offset True; it must be a whole number'),
    ({"text": ["phone"], "answer_start": [18.0]}, 'has the offset 18.0; it must be a whole number'),
    ({"text": [" "], "answer_start": [3]}, '"answers" holds the answer " "; it must be a string that is not empty'),
    ({"text": "phone", "answer_start": 18}, 'it must be {"text": [...], "answer_start": [...]}'),
    ("phone", '"answers" is "phone"; it must be {"text": [...], "answer_start": [...]}'),
    ([{"text": "phone"}], "stands at 2 places"),
])
def test_answers_that_cannot_be_are_told(answers, said):
    complaint = TASK().check({**row("", 0), "answers": answers})
    assert said in str(complaint)
    assert str(complaint).startswith('"answers"')


@pytest.mark.parametrize("answers", [
    {"text": ["phone"], "answer_start": [29]}, {"text": ["broken"]}, {"text": [], "answer_start": []}, [],
    [{"text": "phone", "answer_start": 18}], {"text": [" phone "], "answer_start": [28]},
])
def test_answers_that_can_be(answers):
    assert TASK().check({**row("", 0), "answers": answers}) is None


def test_no_answer_is_moved():
    assert squad.gold_spans(row("phone", 29)) == [(29, 34)]
    assert squad.gold_spans(row(" phone ", 28)) == [(29, 34)]  # blanks around it are no part of it
    assert squad.gold_texts(row(" phone ", 28)) == [" phone "]


@pytest.mark.parametrize(("flat", "said"), [
    ({"answer": "broken", "answer_start": "39"}, None),
    ({"answer": "broken", "answer_start": ""}, None),
    ({"answer": "broken"}, None),
    ({"answer": "", "answer_start": ""}, None),
    ({"answer": None, "answer_start": None, "is_impossible": True}, None),
    ({"answer": "", "answer_start": "-1", "is_impossible": "True"}, None),
    ({"is_impossible": "1"}, None),
    ({"answer": "broken", "answer_start": "38"}, '"answer": "broken" is not what the context has at 38'),
    ({"answer": "broken", "answer_start": "3e1"}, '"answer" has the offset "3e1"'),
    ({"answer": "broken", "answer_start": "9" * 5000}, '"answer" has the offset "999'),
    ({"answer": "", "answer_start": "7"}, '"answer" is empty, and "answer_start" is "7"'),
    ({"answer_start": 7}, '"answer_start" stands without "answer"'),
    ({"answer": 7}, '"answer" holds the answer 7; it must be a string'),
    ({"answer": "broken", "is_impossible": True}, '"is_impossible" is true, and the row has an answer'),
    ({"answer": "", "is_impossible": "no"}, '"is_impossible" is false, and the row has no answer'),
    ({"is_impossible": 0}, '"is_impossible" is false, and the row has no answer'),
    ({"answer": "broken", "is_impossible": 2.5}, '"is_impossible" is 2.5; it must be true or false'),
    ({"answer": "broken", "answers": []}, '"answer" stands beside "answers"'),
])
def test_flat_rows(flat, said):
    complaint = TASK().check({**blind(row("", 0)), **flat})
    assert complaint is None if said is None else str(complaint).startswith(said), complaint


@pytest.mark.parametrize(("text", "start", "said"), [
    ("cafe", 4, "ends inside a character: U+0301 at 8 combines"), ("\u0301 was", 8, "begins inside a character"),
    ("cafe\u0301", 4, None), ("e\u0301", 7, None), ("café", 4, "in another Unicode form"),
])
def test_an_answer_holds_whole_characters(text, start, said):
    complaint = TASK().check(row(text, start, "The cafe\u0301 was loud"))
    assert complaint is None if said is None else said in str(complaint), complaint


GARBAGE = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                           st.sampled_from(["text", "answer_start", "x"]), inner, max_size=3), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(TASK.columns.rules)), GARBAGE), st.booleans())
def test_no_row_breaks_the_check(values, with_texts):
    base = blind(row("", 0)) if with_texts else {}
    said = TASK().check({**values, **base})
    assert said is None or (said.startswith('"') and len(said) < 500)


def test_what_cannot_be_learned_is_told():
    rows = [row("phone", 18)] * 3
    with pytest.raises(DataError, match=r'neither "answers" nor "answer".*\n.*data\.columns\.answers=NAME'):
        TASK().learn([*rows, blind(rows[0])])
    with pytest.raises(DataError, match="none of 1 rows has an answer"):
        TASK().learn([{**rows[0], "answers": []}])
    task = TASK().learn(rows)
    assert not task.has_unanswerable
    assert task.check_gold([rows[0], {**rows[0], "answers": []}, blind(rows[0])]) == [
        (1, "has no answer, and every train row has one"), (2, 'has neither "answers" nor "answer"')]
    assert TASK().learn([*rows, {**rows[0], "answers": []}]).check_gold([{**rows[0], "answers": []}]) == []


def test_options():
    assert tasks.options_of(tasks.build({"name": "question-answering", "stride": 0}))["stride"] == 0
    with pytest.raises(SpecError, match=r"task\.stride: -1 is not allowed"):
        tasks.build({"name": "question-answering", "stride": -1})
    with pytest.raises(SpecError, match=r"task\.max_answer_tokens: 0 is not allowed"):
        tasks.build({"name": "question-answering", "max_answer_tokens": 0})
    with pytest.raises(SpecError, match=r"task\.null_threshold: is not an option"):
        tasks.build({"name": "question-answering", "null_threshold": 1.0})


# ---- offsets and windows ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(before=st.lists(st.sampled_from(STRANGE), max_size=5),
       answer=st.lists(st.sampled_from(STRANGE), min_size=1, max_size=3),
       after=st.lists(st.sampled_from(STRANGE), max_size=5), form=st.sampled_from(["NFC", "NFD", None]))
def test_offsets_in_every_script(word_pieces, byte_level, before, answer, after, form):
    parts = [" ".join(part) if form is None else unicodedata.normalize(form, " ".join(part))
             for part in (before, answer, after)]
    context, text = " ".join(parts), parts[1]
    one = row(text, len(parts[0]) + 1, context)
    if not text.strip() or TASK().check(one):
        return
    spans = squad.gold_spans(one)
    assert isinstance(spans, list)
    gold = context[slice(*spans[0])]
    for reader, is_lossless in ((word_pieces(120), False), (byte_level(500), True)):
        said = decoded_gold(TASK(max_answer_tokens=400), reader, one)
        if said["start"] is None:
            assert not is_lossless  # word pieces leave out zero-width characters: nothing may be left
            continue
        assert said["answer"] == context[said["start"] : said["end"]]
        for at in (said["start"], said["end"]):
            assert at == len(context) or not unicodedata.combining(context[at])
        assert said["answer"] == gold if is_lossless else said["answer"] in gold or gold in said["answer"]


def test_accents_that_the_tokenizer_drops_are_in_the_answer(word_pieces):
    context = "We found a\u0301, the room"
    assert decoded_gold(TASK(), word_pieces(64), row("a\u0301", 9, context))["answer"] == "a\u0301"


@pytest.mark.parametrize("stride", [0, 5, 128])
def test_a_long_context_is_read_in_windows(word_pieces, stride):
    context = " ".join(["the room was cold and"] * 30) + " lovely staff " + " ".join(["we found it stale"] * 20)
    one = row("lovely staff", context.index("lovely staff"), context)
    task, reader = TASK(stride=stride), word_pieces(32)
    windows = task.encode(0, one, reader)
    held = [w for w in windows if w.target["start"] > 0]
    assert len(windows) > 6
    assert 1 <= len(held) < len(windows)
    for window in windows:
        open_T = np.array(window.target["open"])
        assert len(open_T) == len(window)
        assert open_T[0] == 1
        assert not open_T[1 : window.notes["first"]].any()
        assert open_T[1:].sum() == len(window.notes["offsets_C2"])
        assert open_T[window.target["start"]] == open_T[window.target["end"]] == 1
    covered = sorted({tuple(at) for w in windows for at in w.notes["offsets_C2"].tolist()})
    assert covered == reader.tokenizer.encode(context, add_special_tokens=False).offsets
    assert decoded_gold(task, reader, one)["start"] == context.index("lovely staff")


def test_an_answer_cut_by_a_window_is_not_in_it(word_pieces):
    context = "the room was cold and the staff was rude and it was a dull and loud story with some stale music today"
    task, reader = TASK(stride=4), word_pieces(16)
    for match in re.finditer(r"(?=\b(\w+ \w+ \w+)\b)", context):
        one = row(match[1], match.start(), context)
        for window in task.encode(0, one, reader):
            start, end = window.target["start"], window.target["end"]
            first, offsets = window.notes["first"], window.notes["offsets_C2"]
            if start:
                assert context[offsets[start - first][0] : offsets[end - first][1]] == match[1]
            else:
                assert end == 0


def test_no_stride_makes_endless_windows(word_pieces):
    context = "the room " * 1000
    assert len(TASK(stride=10**6).encode(0, {"question": "a " * 500, "context": context}, word_pieces(64))) < 400


def brute(task, context, windows, logits):
    """(difference to the null, start, end) of the best span, looked for one by one."""
    best = None
    for window, z in zip(windows, logits, strict=True):
        first, offsets = window.notes["first"], window.notes["offsets_C2"]
        for s in range(len(offsets)):
            for e in range(s, min(len(offsets), s + task.max_answer_tokens)):
                above = z[first + s, 0] + z[first + e, 1] - z[0].sum()
                if best is None or above > best[0]:
                    best = (above, int(offsets[s][0]), int(offsets[e][1]))
    return best


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), longest=st.integers(1, 50), max_tokens=st.sampled_from([16, 40, 64]))
def test_decode_finds_the_best_span(word_pieces, seed, longest, max_tokens):
    rng = np.random.default_rng(seed)
    one = {"question": "who was rude", "context": " ".join(rng.choice(tiny.FILL, rng.integers(1, 60)))}
    task = TASK(max_answer_tokens=longest, stride=4, has_unanswerable=bool(seed % 2), null_threshold=1e9)
    windows = task.encode(0, one, word_pieces(max_tokens))
    logits = [rng.normal(0, 3, (len(w) + 3, 2)).astype(np.float32) for w in windows]  # padded behind
    said = task.decode(one, windows, logits)
    above, start, end = brute(task, one["context"], windows, logits)
    assert (said["start"], said["end"], said["answer"]) == (start, end, one["context"][start:end])
    assert 0 <= said["score"] <= 1
    assert json.loads(json.dumps(said)) == said
    assert task.decode(one, windows, logits) == said
    if task.has_unanswerable:
        assert said["score_difference"] == pytest.approx(-above, abs=1e-4)
        assert said["no_answer_score"] == pytest.approx(1 / (1 + np.exp(above)), abs=1e-5)
        assert said == {**said, **said["best_span"]}


def test_score_is_the_probability_of_both_ends(word_pieces):
    one = {"question": "who", "context": "the staff was rude"}
    for has_unanswerable in (False, True):
        task = TASK(has_unanswerable=has_unanswerable, null_threshold=1e9)
        windows = task.encode(0, one, word_pieces(64))
        logits = np.random.default_rng(0).normal(0, 2, (len(windows[0]), 2))
        first, n = windows[0].notes["first"], len(windows[0].notes["offsets_C2"])
        chosen = logits[[*([0] if has_unanswerable else []), *range(first, first + n)]]
        shares = np.exp(chosen) / np.exp(chosen).sum(0)
        said = task.decode(one, windows, [logits])
        offsets, k = windows[0].notes["offsets_C2"].tolist(), int(has_unanswerable)
        start, end = ([at[side] for at in offsets].index(said[name]) + k for side, name in enumerate(("start", "end")))
        assert said["score"] == pytest.approx(shares[start, 0] * shares[end, 1], abs=1e-6)


def test_an_answer_is_never_blank(byte_level):
    one = {"question": "who", "context": "the \n\n staff"}
    windows = TASK().encode(0, one, byte_level(64))
    offsets = windows[0].notes["offsets_C2"]
    blank = next(i for i, (s, e) in enumerate(offsets) if not one["context"][s:e].strip())
    at = windows[0].notes["first"] + blank
    said = TASK().decode(one, windows, says(windows, [at], [at]))
    assert said["answer"].strip() == said["answer"] != ""


def test_a_context_without_a_token_has_no_answer(word_pieces):
    one = {"question": "who", "context": "\u200b\u200b"}
    windows = TASK().encode(0, one, word_pieces(64))
    logits = [np.zeros((len(w), 2)) for w in windows]
    assert TASK().decode(one, windows, logits) == {"answer": "", "start": None, "end": None, "score": 0.0}
    task = TASK(has_unanswerable=True)
    said = task.decode(one, windows, logits)
    assert (said["answer"], said["no_answer_score"]) == ("", 1.0)
    assert json.loads(json.dumps(said)) == said
    assert task.calibrate([said], [{**one, "answers": []}]).apply_threshold(said) == said


# ---- no answer -------------------------------------------------------------------------------------------------------


def prediction(difference, answer="phone"):
    return TASK(has_unanswerable=True)._answer({"answer": answer, "start": 18, "end": 23, "score": 0.5}, difference)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from(["right", "wrong", "none"])), min_size=1, max_size=12))
def test_the_threshold_is_the_best_there_is(drawn):
    task = TASK(has_unanswerable=True)
    rows = [{**row("phone", 18), "answers": []} if kind == "none" else row("phone", 18) for _, kind in drawn]
    said = [prediction(float(difference), "staff" if kind == "wrong" else "phone") for difference, kind in drawn]

    def f1(threshold):
        tuned = TASK(has_unanswerable=True, null_threshold=threshold)
        return tuned.score(tuned.outcomes([tuned.apply_threshold(p) for p in said], rows))["f1"]

    tuned = task.calibrate(said, rows)
    assert f1(tuned.null_threshold) == pytest.approx(max(map(f1, np.arange(-5.25, 5.5, 0.25).tolist())))
    again = [tuned.apply_threshold(tuned.apply_threshold(p)) for p in said]
    assert again == [tuned.apply_threshold(p) for p in said]


def test_settling_shows_the_span_or_none():
    said = prediction(2.0)
    assert (said["answer"], said["start"], said["end"], said["score"]) == ("", None, None, said["no_answer_score"])
    shown = TASK(has_unanswerable=True, null_threshold=3.0).apply_threshold(said)
    assert (shown["answer"], shown["start"], shown["end"], shown["score"]) == ("phone", 18, 23, 0.5)
    assert TASK(has_unanswerable=True).apply_threshold(shown) == said


def test_where_every_train_row_has_an_answer_every_question_is_answered(word_pieces):
    task = TASK().learn([row("phone", 18)])
    windows = task.encode(0, blind(row("", 0)), word_pieces(64))
    said = task.decode(blind(row("", 0)), windows, says(windows, [0], [0], height=50.0))
    assert said["answer"] != ""
    assert set(said) == {"answer", "start", "end", "score"}
    assert task.calibrate([said], [row("phone", 18)]) == task


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_only_open_positions_compete(word_pieces):
    task = TASK()
    windows = [task.encode(i, one, word_pieces(64))[0] for i, one in
               enumerate([row("phone", 18), row("rude", 0, "rude"), {**row("phone", 18), "answers": []}])]
    batch = collate({"input_ids": [w.inputs["input_ids"] for w in windows]},
                    {k: [w.target[k] for w in windows] for k in windows[0].target}, 0)
    target = {k: torch.from_numpy(a) for k, a in batch.target.items()}
    logits = torch.randn(3, batch.inputs["input_ids"].shape[1], 2, generator=torch.Generator().manual_seed(0))
    scores, gold = task.aligned(logits, target)
    assert gold.tolist() == [windows[0].target["start"], windows[0].target["end"], windows[1].target["start"],
                             windows[1].target["end"], 0, 0]
    is_open = target["open"].eq(1)
    for smoothing in (0.0, 0.2):
        want = sum(torch.nn.functional.cross_entropy(
            logits[b, is_open[b], k][None], is_open[b, : int(gold[2 * b + k])].sum()[None], label_smoothing=smoothing)
            for b in range(3) for k in range(2))
        summed, n = task.loss(logits, target, label_smoothing=smoothing)
        assert n == 6
        torch.testing.assert_close(summed, want)
    noise = torch.where(is_open[..., None], logits, torch.full_like(logits, 99.0))
    torch.testing.assert_close(task.loss(noise, target)[0], task.loss(logits, target)[0])
    torch.testing.assert_close(scores[~is_open.repeat_interleave(2, 0)].unique(), torch.tensor([-1e4]))


# ---- files -----------------------------------------------------------------------------------------------------------


def official_file(version="v2.0"):
    qas = [{"id": "1", "question": "What was broken?", "answers": [{"text": "phone", "answer_start": 18}],
            "is_impossible": False},
           {"id": "2", "question": "Who was rude?", "answers": [], "is_impossible": True,
            "plausible_answers": [{"text": "staff", "answer_start": 4}]}]
    more = {"context": "The room was warm.", "qas": [{"id": "3", "question": "How was it?", "is_impossible": False,
                                                      "answers": [{"text": "warm", "answer_start": 13}]}]}
    return {"version": version, "data": [{"title": "A", "paragraphs": [{"context": CONTEXT, "qas": qas}]},
                                         {"title": "B", "paragraphs": [more]}]}


def read(path, **how):
    return data.read_table(str(path), DataSpec(train=str(path), **how), TASK())


def test_the_official_file_is_read(tmp_path):
    for nested in (official_file(), dict(reversed(official_file().items())), official_file()["data"]):
        path = tmp_path / "train-v2.0.json"
        path.write_text(json.dumps(nested), "utf-8")
        table = read(path)
        assert [one["question"] for one in table.rows] == ["What was broken?", "Who was rude?", "How was it?"]
        assert [squad.gold_spans(one) for one in table.rows] == [[(18, 23)], [], [(13, 17)]]
        assert [table.where(i) for i in range(3)] == [f"{path}: row {i}" for i in (1, 2, 3)]
        assert table.rows[0]["context"] is table.rows[1]["context"]


def test_what_is_wrong_in_the_official_file_is_told_with_its_row(tmp_path):
    nested = official_file()
    nested["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 17
    nested["data"][0]["paragraphs"].append({"context": "x", "qas": "y"})
    nested["data"][0]["paragraphs"].append({"context": "x", "qas": ["y"]})
    nested["data"][1]["paragraphs"].append({"qas": [{"question": "Who?", "answers": [], "is_impossible": True}]})
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(nested), "utf-8")
    with pytest.raises(DataError) as error:
        read(path)
    lines = str(error.value).splitlines()
    assert 'row 1: column "answers": "phone" is not what the context has at 17' in lines[0]
    assert "row 3: holds the paragraph" in lines[1]
    assert "row 4: holds the question" in lines[2]
    assert 'row 6: has no "context"' in lines[3]
    table = read(path, errors="skip")
    assert table.counts["n_skipped"] == 4
    assert table.lines_N.tolist() == [2, 5]


def test_columns_say_which_task_is_meant(tmp_path):
    path = tmp_path / "train-v2.0.json"
    path.write_text(json.dumps(official_file()), "utf-8")
    flat = [{"question": "a", "context": "b", "answer": "b", "answer_start": "0"}]
    for source in (path, tiny.write_csv(tmp_path / "x.csv", flat)):
        spec, _, _ = resolving.resolve([("call", {"data": {"train": str(source)}})])
        assert (spec.task["name"], spec.data.max_tokens) == ("question-answering", 384)


def test_paragraphs_of_another_kind_stay_a_column(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{**row("phone", 18), "paragraphs": [{"text": "a"}]}]), "utf-8")
    assert len(read(path)) == 1


def test_a_flat_csv_file(tmp_path):
    rows = [{"id": "1", "query": "What was broken?", "passage": CONTEXT, "answer_text": "phone", "answer_start": "18"},
            {"id": "2", "query": "Who was rude?", "passage": CONTEXT, "answer_text": "", "answer_start": ""}]
    table = read(tiny.write_csv(tmp_path / "x.csv", rows))
    assert table.columns == {"question": "query", "context": "passage", "answer": "answer_text",
                             "answer_start": "answer_start"}
    assert [squad.gold_spans(one) for one in table.rows] == [[(18, 23)], []]
    rows[0]["answer_start"] = "20"
    with pytest.raises(DataError, match=r'x\.csv:2: column "answer_text" \(the task\'s "answer"\): "phone" is not what '
                                        r'the context has at 20: "one\. "; the nearest match begins at 18'):
        read(tiny.write_csv(tmp_path / "x.csv", rows))


# ---- a whole run -----------------------------------------------------------------------------------------------------


def questions(n, seed=0, with_none=False):
    """Contexts in which the one good or bad word is what is asked for."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        words = [str(word) for word in rng.choice(tiny.FILL, rng.integers(8, 40))]
        answers: dict[str, list[object]] = {"text": [], "answer_start": []}
        if not (with_none and i % 3 == 0):
            place = int(rng.integers(len(words)))
            words.insert(place, str(rng.choice(tiny.GOOD)))
            answers = {"text": [words[place]], "answer_start": [len(" ".join([*words[:place], ""]))]}
        question = f"{('what', 'who')[i % 2]} was it {' '.join(rng.choice(tiny.FILL, 2))}"
        out.append({"question": question, "context": " ".join(words), "answers": answers})
    return out


def fitted(tmp_path, backbone, rows):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    spec = tiny.spec(path, backbone, task={"name": "question-answering", "stride": 8}, data={"max_tokens": 32},
                     train={"epochs": 5, "lr": 5e-3})
    return headstart.fit(spec, out=tmp_path / "run")


@pytest.mark.parametrize("with_none", [False, True])
def test_a_run_from_file_to_answers(tmp_path, backbone, with_none):
    run = fitted(tmp_path, backbone, questions(240, with_none=with_none))
    baselines = {"first-sentence", "best-sentence", "before-training"} | ({"no-answer"} if with_none else set())
    assert set(run.scores["baselines"]) == baselines
    assert run.scores["score"] > 0.8 > max(one["score"] for one in run.scores["baselines"].values())
    assert run.task.has_unanswerable == with_none
    rows = questions(60, seed=7, with_none=with_none)
    answers = run.predict([blind(one) for one in rows])
    for one, said in zip(rows, answers, strict=True):
        assert said["answer"] == (one["context"][said["start"] : said["end"]] if said["answer"] else "")
    scores = run.evaluate(rows)["scores"]
    assert scores["f1"] > 0.8
    assert ("accuracy_no_answer" in scores) == with_none
    found = {section.name: section for section in sections(run.certificate, [])}
    assert {line[0] for line in found["groups"].tables[0].rows} == {"what", "who"}


def test_details_show_the_question_and_the_gold_answer():
    rows = [row("phone", 18, question="Whose phone?"), row("staff", 4, question="为什么？"),
            row("staff", 4, question="Huh")]
    said: list[Prediction] = [
            {"answer": "phone", "start": 18, "end": 23, "score": 0.4},
            {"answer": "broken", "start": 39, "end": 45, "score": 0.3},
            {"answer": "", "start": None, "end": None, "score": 0.9}]
    details = TASK(has_unanswerable=True).details(said, rows)
    assert [one["label"] for one in details["groups"]["rows"]] == ["other", "who", "为什么"]
    assert [(one["label"], one["predicted"]) for one in details["mistakes"]] == [("staff", "(no answer)"),
                                                                               ("staff", "broken")]
    assert details["mistakes"][1]["text"] == f"为什么？ — {CONTEXT}"


def test_the_best_sentence_has_the_rarest_words():
    rows = [row("phone", 18, "The staff was kind. A room was cold! 房间很吵。服务也好。", question) for question in
            ("How was the room?", "服务好吗", "xyz")]
    found = dict(TASK().baselines(rows, rows, rows, 0))
    assert [one["answer"] for one in found["best-sentence"]] == [
        "A room was cold!", "服务也好。", "The staff was kind."]
    assert {one["answer"] for one in found["first-sentence"]} == {"The staff was kind."}
    for one in (one for answers in found.values() for one in answers):
        assert rows[0]["context"][one["start"] : one["end"]] == one["answer"]


@pytest.mark.timing
def test_thousands_of_rows_a_second(word_pieces):
    one = {"question": "who was rude", "context": " ".join(["the staff was rude and"] * 30)}
    task = TASK(has_unanswerable=True)
    windows = task.encode(0, one, word_pieces(384))
    logits = [np.random.default_rng(0).normal(size=(len(w), 2)).astype(np.float32) for w in windows]
    began = time.process_time()
    for _ in range(300):
        task.decode(one, windows, logits)
    assert 300 / (time.process_time() - began) > 1000


def test_answers_need_no_torch():
    code = ("import numpy as np\nfrom tokenizers import Tokenizer, models, pre_tokenizers\n"
            "from headstart.readers.text import TextReader\n"
            "from headstart.tasks.question_answering import QuestionAnswering\n"
            "t = Tokenizer(models.WordLevel({'the': 0, 'staff': 1}, unk_token='the'))\n"
            "t.pre_tokenizer = pre_tokenizers.Whitespace()\n"
            "row = {'question': 'the', 'context': 'staff the'}\ntask = QuestionAnswering()\n"
            "windows = task.encode(0, row, TextReader(t, 16, 0))\n"
            "print(task.decode(row, windows, [np.eye(3)[:, :2] * 5])['answer'])\n"
            "import sys; print('torch' in sys.modules, 'transformers' in sys.modules)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[1] == "False False"
