"""Scores of written texts against the libraries' own corpus functions; sums, orders and edges of any texts."""

import copy
import re
import string
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer, _lcs_table
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from headstart.core import statistics
from headstart.readers.words import split_words
from headstart.tasks.writing import chats, columns, measures, sentences
from headstart.tasks.writing.control import Control
from headstart.tasks.writing.measures import Copied, Length, Likelihood, Repetition, TokenF1, Written
from headstart.tasks.writing.overlap import Bleu, Chrf
from headstart.tasks.writing.rouge import Rouge, lcs_length
from headstart.tasks.writing.template import Template, default_template

WORDS = st.sampled_from(["the", "cats", "running", "a", "weiß", "今天", "下雨", "dog.", "3.5", "Hund,", "nice"])
TEXTS = st.one_of(st.lists(WORDS, max_size=8).map(" ".join), st.text(max_size=20).filter(lambda t: "\x00" not in t))
ROWS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=2, max_size=2)), min_size=1, max_size=6)
ALL = (Bleu(), Chrf(), Rouge(), Length(), Copied(), Repetition(), TokenF1(), Likelihood())


def written(rows):
    return [Written(text, tuple(references), references[0], 2.5, 3) for text, references in rows]


def corpus(rows):
    """Texts, and streams of references as sacrebleu takes them."""
    return [text for text, _ in rows], [list(stream) for stream in zip(*(r for _, r in rows), strict=True)]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.sampled_from(["13a", "zh", "char"]))
def test_bleu_is_sacrebleu_s(rows, tokenizer):
    ours = measures.scores([Bleu(tokenizer)], measures.outcomes([Bleu(tokenizer)], written(rows)))
    assert 100 * ours["bleu"] == pytest.approx(BLEU(tokenize=tokenizer, force=True).corpus_score(*corpus(rows)).score)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_chrf_is_sacrebleu_s(rows):
    ours = measures.scores([Chrf()], measures.outcomes([Chrf()], written(rows)))
    assert 100 * ours["chrf"] == pytest.approx(CHRF().corpus_score(*corpus(rows)).score)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.booleans())
def test_rouge_is_rouge_score_s(rows, stems):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stems)
    theirs = [scorer.score_multi(references, text) for text, references in rows]
    ours = measures.scores([Rouge(stems=stems)], measures.outcomes([Rouge(stems=stems)], written(rows)))
    for name, key in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert ours[name] == pytest.approx(np.mean([score[key].fmeasure for score in theirs]))


class WordTokenizer:
    """Our tokenizer for any script, in the shape that rouge-score takes."""

    def tokenize(self, text):
        return sentences.words(text)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_rouge_of_words_is_rouge_score_s_with_the_same_tokenizer(rows):
    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=WordTokenizer())
    ours = measures.scores([Rouge("words")], measures.outcomes([Rouge("words")], written(rows)))
    theirs = [scorer.score_multi(references, text) for text, references in rows]
    assert ours["rouge_1"] == pytest.approx(np.mean([score["rouge1"].fmeasure for score in theirs]))
    assert ours["rouge_l"] == pytest.approx(np.mean([score["rougeL"].fmeasure for score in theirs]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=80), st.lists(st.integers(0, 4), max_size=80))
def test_lcs_length_is_the_table_s(a, b):
    assert lcs_length(a, b) == _lcs_table(a, b)[-1][-1] == lcs_length(b, a)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms())
def test_scores_are_of_sums(rows, random):
    outcomes_NC = measures.outcomes(ALL, written(rows))
    scores = measures.scores(ALL, outcomes_NC)
    assert scores == measures.scores(ALL, outcomes_NC.sum(0))
    twice = measures.scores(ALL, np.concatenate([outcomes_NC, outcomes_NC]))
    order = random.sample(range(len(rows)), len(rows))
    shuffled = measures.scores(ALL, outcomes_NC[order])
    for name, value in scores.items():
        assert np.isfinite(value)
        assert value == pytest.approx(shuffled[name])
        assert value == pytest.approx(twice[name]) or name == "bleu"  # its smoothing counts places without a match
        assert 0 <= value <= 1 or name in ("length_ratio", "perplexity")


def test_gold_is_perfect_in_english_german_and_chinese():
    texts = ["The cat sat on the mat today.", "Der weiße Hund läuft über das Gras.", "今天下雨了，我们没有去公园。"]
    rows = [Written(text, (text,), text) for text in texts]
    for measure in (Bleu(), Bleu("zh"), Chrf(), Rouge("words"), TokenF1(), Copied(), Length()):
        assert set(measures.scores([measure], measures.outcomes([measure], rows)).values()) == {1.0}, measure


class Translating:
    """As much of a task as a bootstrap reads."""

    metric = "bleu"
    lowest_score = 0.0
    gives_parts = True

    def score(self, outcomes):
        return measures.scores([Bleu(), Chrf()], outcomes)

    def correct(self, outcomes):
        return None


TRANSLATING: Any = Translating()


def test_a_bootstrap_scores_texts_by_their_numbers():
    rng = np.random.default_rng(0)
    vocabulary = np.array(["ein", "hund", "läuft", "katze", "schläft", "haus"])
    references = [" ".join(rng.choice(vocabulary, 9)) for _ in range(200)]
    near = [re.sub("haus", "hof", text) for text in references]
    far = [" ".join(rng.choice(vocabulary, 9)) for _ in references]
    systems = [measures.outcomes([Bleu(), Chrf()], [Written(t, (r,)) for t, r in zip(texts, references, strict=True)])
               for texts in (near, far)]
    paired = statistics.paired(TRANSLATING, systems, 200, 0)
    difference = paired.difference(0, 1)
    assert difference.is_proven
    assert paired.interval(0)[0] < paired.values_S[0] < paired.interval(0)[1]
    assert 100 * paired.values_S[0] == pytest.approx(BLEU().corpus_score(near, [references]).score)


@pytest.mark.timing
def test_a_bootstrap_of_five_thousand_rows_takes_seconds():
    outcomes_NC = np.random.default_rng(0).integers(1, 9, (5000, 29)).astype(float)
    outcomes_NC[:, 0] = 1
    began = time.perf_counter()
    statistics.paired(TRANSLATING, [outcomes_NC], 1000, 0)
    assert time.perf_counter() - began < 5


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12) | st.text(alphabet="aZß_9é-'\u0301\u00ad\u200b ª①㈱今天のﾊａ。İ५हि", max_size=12))
def test_words_are_those_of_split_words(text):
    folded = text.casefold()
    spans = [folded[start:end] for start, end in split_words(folded)]
    assert sentences.words(text) == [word for word in spans if word[0].isalnum() or word[0] == "_"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.ascii_letters + " .!?\n\"'()。！“”今天:：", max_size=60))
def test_sentences_hold_all_of_a_text_but_blanks(text):
    parts = sentences.sentences(text)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part == part.strip() != "" for part in parts)


NAMES = st.text(alphabet="abc.[]!:0 _项", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=8).map(lambda t: (t, "")), NAMES.map(lambda n: ("", n))), max_size=6),
       st.text(max_size=12))
def test_a_template_is_its_text_and_values_are_never_read(parts, value):
    parts = [*parts, ("", "last")]
    text = "".join(f"{{{name}}}" if name else literal.replace("{", "{{").replace("}", "}}") for literal, name in parts)
    template = Template.parse(text)
    assert Template.parse(str(template)) == template
    row = {name: f"{{{value}}}" for _, name in parts if name}
    assert template.render(row) == "".join(row[name] if name else literal for literal, name in parts)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from([
        "min_words", "max_words", "include", "exclude", "pattern", "json_schema", "type", "$ref", "x"]), inner,
        max_size=4), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(JSON, st.text(max_size=20))
def test_any_control_is_read_or_refused_in_words(value, text):
    control = Control.of(value)
    if isinstance(control, str):
        assert control.startswith(("is ", "has "))
    else:
        assert all(isinstance(flaw, str) and flaw for flaw in control.unmet(text))
        assert Control.of(control.to_json()) == control


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4)
    | st.sampled_from(["user", "gpt", "en", "de", "", " ", "[", '["a"]', "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "text", "item", "en", "max_words"]), inner, max_size=3),
    max_leaves=8)
KINDS = {
    "translation": (lambda row: columns.normal_translation(row, "en", "de"), columns.flaw_of_translation,
                    ("source", "target")),
    "summarization": (columns.normal_summary, columns.flaw_of_summary, ("document", "summary", "summaries", "title")),
    "dialogue": (chats.parted, columns.flaw_of_dialogue, ("messages", "reply")),
    "text-generation": (columns.normal_completion, columns.flaw_of_completion, ("prompt", "completion")),
}
TURNS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
SOUND = {"translation": {"translation": {"en": "a dog", "de": ["ein Hund"]}},
         "summarization": {"document": "d", "summary": ["a", "b"]}, "dialogue": {"messages": TURNS},
         "text-generation": {"prompt": "p", "completion": "c", "control": '{"max_words": 3}'}}
COLUMNS = ["source", "target", "translation", "document", "summary", "summaries", "title", "messages", "context",
           "reply", "prompt", "completion", "control"]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(KINDS)), st.booleans(),
       st.dictionaries(st.sampled_from(COLUMNS), VALUES, min_size=1, max_size=4))
def test_any_row_is_sound_or_refused_in_words(kind, is_near, row):
    normal, flaw_of, names = KINDS[kind]
    row = SOUND[kind] | row if is_near else row
    before = copy.deepcopy(row)
    result = normal(row)
    assert row == before  # rows of callers are not changed
    flaw = flaw_of(result)
    if flaw is not None:
        assert flaw.startswith(("has ", '"'))
        return
    assert normal(result) == result
    pair = columns.pair_of(result, *names)
    assert pair.source.strip()
    assert all(target.strip() for target in pair.targets)
    assert default_template(kind).render(result)
