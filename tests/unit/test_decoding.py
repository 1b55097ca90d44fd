"""Decoding over a stepper whose logits are a table: what is written follows from it by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from headstart.core.decoding import log_softmax, write
from headstart.core.generation import Generation

END, A, B, C = range(4)


class Table:
    """Logits of the next token by the last one; prompts are one token long. It notes how many texts each step has."""

    def __init__(self, table_VV):
        self.table_VV, self.sizes = np.asarray(table_VV, np.float32), []

    def begin(self, inputs):
        last_B = inputs["input_ids"][:, -1]
        self.sizes.append(len(last_B))
        return last_B, self.table_VV[last_B]

    def step(self, state, tokens_B, parents_B):
        assert (np.asarray(parents_B) < len(state)).all()
        self.sizes.append(len(tokens_B))
        return tokens_B, self.table_VV[tokens_B]


def written(table, prompts, limit=6, **how):
    stepper = Table(table)
    inputs = {"input_ids": np.array(prompts)[:, None], "attention_mask": np.ones((len(prompts), 1), np.int64)}
    stop = how.pop("is_stopped", None)
    texts = write(stepper, inputs, Generation(**how), ends={END}, limits_B=[limit] * len(prompts), is_stopped=stop)
    return texts, stepper.sizes


#            END  A  B  C
CHAIN = [[0, 0, 0, 0], [0, 1, 9, 0], [0, 0, 1, 9], [9, 0, 0, 1]]  # A -> B -> C -> END
LOOP = [[0, 0, 0, 0], [0, 0, 9, 5], [0, 9, 0, 5], [1, 9, 0, 0]]  # A -> B -> A -> ...


def test_greedy_takes_the_likeliest_and_finished_texts_leave_the_batch():
    texts, sizes = written(CHAIN, [A, B, C])
    assert [text.ids for text in texts] == [(B, C), (C,), ()]
    assert all(text.is_complete and text.end_id == END for text in texts)
    assert sizes == [3, 2, 1]
    expected = log_softmax(np.asarray(CHAIN, np.float32))
    assert texts[0].log_probabilities == pytest.approx([expected[A, B], expected[B, C], expected[C, END]])


def test_a_text_at_its_limit_is_not_complete():
    text, = written(LOOP, [A], limit=3)[0]
    assert text.ids == (B, A, B)
    assert (text.end_id, text.is_complete) == (None, False)


def test_no_run_of_tokens_is_written_twice():
    assert written(LOOP, [A], limit=5)[0][0].ids == (B, A, B, A, B)
    ids = written(LOOP, [A], limit=5, no_repeat_ngram=2)[0][0].ids
    pairs = list(itertools.pairwise(ids))
    assert len(pairs) == len(set(pairs)) > 1
    assert ids[:4] == (B, A, B, C)  # not A at last: the pair of B and A stands there already
    assert len(set(written(LOOP, [A], limit=3, no_repeat_ngram=1)[0][0].ids)) == 3


def test_a_stop_ends_a_text():
    text, = written(LOOP, [A], is_stopped=lambda ids: list(ids[-2:]) == [B, A])[0]
    assert text.ids == (B, A)
    assert text.is_complete


def test_beams_find_what_greedy_misses():
    likely = np.log(np.array([[1, 1e-9, 1e-9, 1e-9], [1e-9, 1e-9, 0.6, 0.4], [0.3, 0.35, 0.35, 1e-9],
                              [0.99, 1e-9, 1e-9, 0.01]]))
    greedy, = written(likely, [A], limit=4)[0]
    assert greedy.ids[0] == B
    best, = written(likely, [A], limit=4, beams=2)[0]
    assert best.ids == (C,)
    assert math.exp(sum(best.log_probabilities)) == pytest.approx(0.4 * 0.99, rel=1e-3)


def test_a_length_penalty_chooses_between_short_and_long():
    even = np.log(np.array([[1, 1e-9, 1e-9, 1e-9], [0.4, 1e-9, 0.6, 1e-9], [0.02, 1e-9, 1e-9, 0.98],
                            [0.98, 1e-9, 1e-9, 0.02]]))
    short, = written(even, [A], beams=3, length_penalty=-4.0)[0]
    long, = written(even, [A], beams=3, length_penalty=4.0)[0]
    assert len(short.ids) != len(long.ids)


def test_drawn_tokens_are_as_frequent_as_they_are_likely():
    shares = np.array([1e-9, 0.5, 0.3, 0.2])
    table = np.log(np.tile(shares, (4, 1)))
    ids = [written(table, [A], limit=40, temperature=1.0, seed=seed)[0][0].ids for seed in range(60)]
    counts = np.bincount(np.concatenate([np.array(text) for text in ids]), minlength=4) / 2400
    np.testing.assert_allclose(counts, shares, atol=0.04)
    for how, kept in (({"top_p": 0.45}, {A}), ({"top_p": 0.75}, {A, B}), ({"min_p": 0.5}, {A, B}),
                      ({"min_p": 0.9}, {A})):
        tokens = {token for seed in range(20) for token in written(
            table, [A], limit=20, temperature=1.0, seed=seed, **how)[0][0].ids}
        assert tokens == kept, how


def test_the_same_prompt_and_seed_draw_the_same_whatever_stands_beside():
    table = np.zeros((4, 4))
    alone = written(table, [B], limit=12, temperature=1.0)[0][0]
    beside = written(table, [A, C, B, A], limit=12, temperature=1.0)[0]
    assert beside[2] == alone
    assert beside[0] == beside[3] != alone


def test_candidates_go_on_from_one_reading_and_the_first_is_what_would_be_drawn_alone():
    how = {"temperature": 1.0, "seed": 3}
    texts, sizes = written(LOOP, [A, B], candidates=5, **how)
    assert len(texts) == 10
    assert sizes[:2] == [2, 10]  # two prompts are read, ten texts go on
    alone = [written(LOOP, [prompt], candidates=5, **how)[0] for prompt in (A, B)]
    assert [text.ids for text in texts] == [text.ids for of_prompt in alone for text in of_prompt]
    single = written(LOOP, [A, B], **how)[0]
    assert [texts[0].ids, texts[5].ids] == [text.ids for text in single]
    assert len({text.ids for text in texts[:5]}) > 1


def test_texts_of_unequal_lengths_are_compared_by_the_penalty():
    text, = written(CHAIN, [A])[0]
    assert text.value(0.0) == pytest.approx(sum(text.log_probabilities))
    assert text.value(1.0) == pytest.approx(sum(text.log_probabilities) / 3)


@pytest.mark.parametrize(("how", "words"), [
    ({"candidates": 4}, "differ by a temperature"), ({"prefix": " TL;DR:"}, "begins or ends in a blank"),
    ({"prefix": "a\n\nb", "stop": ("\n\n",)}, "which ends a text")])
def test_what_cannot_be_together(how, words):
    with pytest.raises(ValueError, match=words):
        Generation(**how)
