"""Constraints in the decoder: whatever a model would rather write, length and keywords hold."""

from __future__ import annotations

import numpy as np
import pytest

from headstart import tasks
from headstart.core.decoding import write
from headstart.core.generation import Generation
from headstart.models import backbone as backbones
from headstart.tasks.writing.constraints import constraint
from headstart.tasks.writing.control import Control
from headstart.tasks.writing.sentences import words

LIMIT = 60
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}, "ok": {"type": "boolean"}},
          "required": ["n", "ok"], "additionalProperties": False}


@pytest.fixture(scope="module")
def reader(language_model):
    return backbones.load_backbone(str(language_model), 128).reader


class Noise:
    """A stepper that would rather write anything: logits drawn anew for each token, by its number."""

    def __init__(self, n_ids, seed, favored=()):
        self.n_ids, self.rng, self.favored = n_ids, np.random.default_rng(seed), list(favored)

    def logits(self, n):
        logits_BV = self.rng.normal(size=(n, self.n_ids)).astype(np.float32)
        logits_BV[:, self.favored] += 3
        return logits_BV

    def begin(self, inputs):
        return None, self.logits(len(inputs["input_ids"]))

    def step(self, state, tokens_B, parents_B):
        return None, self.logits(len(parents_B))


def written(reader, control, seed, beams=1, favored=()):
    allowed = constraint(control, reader, reader.end_ids, LIMIT)
    inputs = {"input_ids": np.ones((1, 1), np.int64), "attention_mask": np.ones((1, 1), np.int64)}
    text, = write(Noise(reader.n_ids, seed, favored), inputs, Generation(max_new_tokens=LIMIT, beams=beams),
                  ends=reader.end_ids, limits_B=[LIMIT], constraints_C=[allowed])
    return reader.text(text.ids), text.is_complete


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("control", [
    {"max_words": 5}, {"max_words": 0}, {"min_words": 6, "max_words": 8}, {"include": ["rain"], "max_words": 4},
    {"include": ["lovely", "music hall"], "max_words": 6}, {"include": ["kind"], "exclude": ["the", "a"]},
    {"include": ["clever", "warm", "fresh"]}], ids=str)
def test_length_and_keywords_hold(reader, control, beams):
    control = Control.of(control)
    assert isinstance(control, Control)
    for seed in range(6):
        text, is_complete = written(reader, control, seed, beams, favored=reader.end_ids)
        assert is_complete or control.max_words is None, text
        assert control.unmet(text) == [], text


def test_an_excluded_keyword_is_not_written_in_pieces_or_in_capitals(reader):
    control = Control(exclude=("film", "a"))
    favored = [i for i, text in enumerate(reader.token_texts) if text.strip() in ("f", "i", "l", "m", "film", "a", "")]
    texts = [written(reader, control, seed, favored=favored)[0] for seed in range(20)]
    assert any("f" in text for text in texts)
    assert all(control.unmet(text) == [] for text in texts)
    free = [written(reader, Control(exclude=("zebra",)), seed, favored=favored)[0] for seed in range(20)]
    assert any(control.unmet(text) for text in free)  # it would have written them


def test_words_may_hold_an_excluded_keyword_inside(reader):
    allowed = constraint(Control(exclude=("oo",)), reader, reader.end_ids, LIMIT)
    assert allowed is not None
    behind_V = allowed(reader.ids("the"))
    assert behind_V is not None
    assert behind_V[reader.ids(" room")[0]]


def test_what_asks_for_nothing_constrains_nothing(reader):
    assert constraint(Control(), reader, reader.end_ids, LIMIT) is None
    assert constraint(Control(json_schema=None, pattern=None), reader, reader.end_ids, LIMIT) is None


def test_words_are_counted_as_control_counts_them(reader):
    text, _ = written(reader, Control(min_words=3, max_words=3), 0, favored=reader.end_ids)
    assert len(words(text)) == 3


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("control", [
    {"pattern": r"^\d{3}-[a-z]{2,4}$"}, {"pattern": "[0-9]"}, {"pattern": "^(yes|no)$"}, {"json_schema": SCHEMA},
    {"pattern": "^[a-z ]+$", "include": ["music"], "max_words": 5}], ids=str)
def test_patterns_and_schemas_hold(reader, control, beams):
    control = Control.of(control)
    assert isinstance(control, Control)
    n_complete = 0
    for seed in range(6):
        text, is_complete = written(reader, control, seed, beams, favored=reader.end_ids)
        n_complete += is_complete
        assert not is_complete or control.unmet(text) == [], text
    assert n_complete >= 1  # noise may fill a text with blanks to its limit; those that end are right


@pytest.mark.parametrize(("control", "words"), [
    ({"json_schema": {"allOf": [{"type": "integer"}, {"type": "string"}]}}, "json_schema that no text can meet"),
    ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "json_schema that no text can meet"),
    ({"pattern": "(?=a)b"}, "pattern that cannot be followed while writing")], ids=str)
def test_a_form_that_no_text_can_have_is_a_flaw_of_the_row(control, words):
    row = {"prompt": "p", "completion": "c", "control": control}
    flaw = str(tasks.build({"name": "text-generation"}).check(row))
    assert flaw.startswith('"control" has a')
    assert words in flaw
    assert tasks.build({"name": "text-generation", "constrained": False}).check(row) is None  # what it says to do
