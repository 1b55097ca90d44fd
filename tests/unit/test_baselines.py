"""Baselines without pretrained knowledge: each learns what an engineer's own would, and says the same twice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from headstart import tasks
from headstart.features import tagger, tfidf
from headstart.studies.label_errors import label_errors

VERBS = ("play", "walk", "open", "call", "jump")


def words(draw, n=4):
    return " ".join("".join(draw.choices("abdeghilmnorstu", k=5)) for _ in range(n))


def by_ending(draw, n):
    """The class is how an unseen word ends: no whole word tells."""
    return [{"text": f"{words(draw, 1)}{('ings', 'ness')[i % 2]} {words(draw)}", "label": "ab"[i % 2]}
            for i in range(n)]


def by_word(draw, n):
    return [{"text": f"{words(draw)} {('good', 'bad')[i % 2]}", "label": "ab"[i % 2]} for i in range(n)]


def chinese(draw, n):
    return [{"text": "".join(draw.choices("房间酒店服务早餐价格", k=8)) + ("很好", "很差")[i % 2], "label": "ab"[i % 2]}
            for i in range(n)]


def overlapping(draw, n):
    """The class is whether the second text says the first again: no word tells."""
    rows = []
    for i in range(n):
        first = words(draw)
        rows.append({"text": first, "text_pair": " ".join(reversed(first.split())) if i % 2 else words(draw),
                     "label": "ab"[i % 2]})
    return rows


def directed(draw, n):
    """The relation is which of two spans comes first."""
    rows = []
    for i in range(n):
        a, b, text = (0, 5), (11, 16), f"{words(draw, 1)} makes {words(draw, 1)}"
        rows.append({"text": text, "head_span": (a, b)[i % 2], "tail_span": (b, a)[i % 2], "relation": "ab"[i % 2]})
    return rows


def scored(draw, n):
    rows = []
    for i in range(n):
        first = words(draw, 6).split()
        rows.append({"text": " ".join(first), "text_pair": " ".join([*first[: i % 7], *words(draw, 6 - i % 7).split()]),
                     "score": float(i % 7)})
    return rows


def labeled(draw, n):
    return [{"text": f"{words(draw)} {'room' * (i % 2)} {'food' * (i // 2 % 2)}",
             "labels": [name for name, has in (("r", i % 2), ("f", i // 2 % 2)) if has]} for i in range(n)]


def chosen(draw, n):
    rows = []
    for i in range(n):
        question = words(draw)
        choices = [words(draw, 2), words(draw, 2)]
        choices[i % 2] = " ".join(question.split()[:2])
        rows.append({"question": question, "choices": choices, "label": i % 2})
    return rows


def named(draw, n):
    """Names are words that were never seen, in a place that was."""
    return [{"tokens": [*words(draw, 2).split(), draw.choice(("Mr", "Mrs")), words(draw, 1).title(), "spoke"],
             "tags": ["O", "O", "O", "B-PER", "O"]} for _ in range(n)]


def parts_of_speech(draw, n):
    return [{"tokens": [words(draw, 1) + "ly", words(draw, 1) + "ed", words(draw, 1)], "tags": ["ADV", "VERB", "NOUN"]}
            for _ in range(n)]


def misspelled(draw, n):
    """The right text has the words of the query with other endings."""
    rows = []
    for _ in range(n):
        stems = words(draw).split()
        rows.append({"text": " ".join(w + "s" for w in stems), "text_pair": " ".join(w + "ing" for w in stems)})
    return rows


KINDS = [
    ("text-classification", by_ending, "tf-idf"), ("text-classification", by_word, "tf-idf"),
    ("text-classification", chinese, "tf-idf"), ("text-classification", overlapping, "tf-idf"),
    ("relation-extraction", directed, "tf-idf"), ("text-regression", scored, "tf-idf-ridge"),
    ("multi-label-classification", labeled, "tf-idf"), ("multiple-choice", chosen, "tf-idf"),
    ("token-classification", named, "linear-tagger"), ("token-classification", parts_of_speech, "linear-tagger"),
    ("sentence-similarity", misspelled, "tf-idf-cosine"),
]


@pytest.mark.parametrize(("kind", "made", "name"), KINDS, ids=[made.__name__ for _, made, _ in KINDS])
def test_the_baseline_learns_what_there_is_to_learn_and_says_it_twice(kind, made, name):
    draw = random.Random(0)
    train, validation, test = (made(draw, n) for n in (80, 20, 40))
    task = tasks.build({"name": kind}).learn(train)
    answers, again = (dict(task.baselines(train, validation, test, 0))[name] for _ in range(2))
    assert task.score(task.outcomes(answers, test))[task.metric] > 0.85
    assert answers == again


@pytest.mark.parametrize("n_rows", [2, 3, 8, 13])
def test_few_rows_have_a_baseline_too(n_rows):
    rows = by_word(random.Random(0), n_rows)
    task = tasks.build({"name": "text-classification"}).learn(rows)
    assert [answer["label"] for answer in dict(task.baselines(rows, [], rows, 0))["tf-idf"]] == [
        row["label"] for row in rows]


def test_rows_of_a_group_are_held_out_together_and_like_gold_is_spread():
    groups_N, gold_N = np.repeat(np.arange(30), 2), np.tile([0.0, 1.0], 30)
    folds_N = tfidf._folds(gold_N, 0, groups_N)
    assert (folds_N[::2] == folds_N[1::2]).all()
    assert np.bincount(folds_N).tolist() == [12] * 5
    alone_N = tfidf._folds(gold_N, 0, np.arange(60))
    assert [gold_N[alone_N == fold].mean() for fold in range(5)] == [0.5] * 5


def test_cross_validation_sees_a_bounded_number_of_rows():
    n = 2 * tfidf.MAX_CHOOSING_ROWS
    folds_N = tfidf._folds(np.arange(n, dtype=float), 0, np.arange(n))
    assert (folds_N >= 0).sum() == tfidf.MAX_CHOOSING_ROWS
    assert folds_N.max() == 2


def test_very_many_labels_are_told_by_their_mean_row():
    texts = [f"word{i % 50} {i}" for i in range(200)]
    gold_NK = np.arange(50) == (np.arange(200) % 50)[:, None]
    train, test = tfidf.tf_idf(texts, [f"word{i}" for i in range(50)])
    assert (tfidf._nearness(train, gold_NK, [test])[0].argmax(1) == np.arange(50)).all()


def test_tags_that_no_word_has_are_never_learned_from():
    margins, follows_KK = tagger.tag_margins([["a", "b"], ["a", "b"]], [[0, -100], [0, 1]], 2, [["a", "b"], []], 0)
    assert [some.shape for some in margins] == [(2, 2), (0, 2)]
    assert margins[0].argmax(1).tolist() == [0, 1]
    assert follows_KK.shape == (3, 2)
    assert follows_KK[0, 1] > follows_KK[1, 1]


# ------------------------------------------------------------------------------------------------------ wrong labels


def planted(n, share, n_labels=2, apart=2.5, seed=0):
    """Points of classes that lie `apart` from each other, the labels of a share of them turned: (x, labels, which)."""
    draws = np.random.default_rng(seed)
    gold_N = np.arange(n) % n_labels
    features_ND = draws.normal(size=(n, 8)) + apart * np.eye(n_labels, 8)[gold_N]
    turned_N = np.isin(np.arange(n), draws.permutation(n)[: int(share * n)])
    others_N = (gold_N + 1 + draws.integers(0, n_labels - 1, n)) % n_labels
    return features_ND, np.where(turned_N, others_N, gold_N), turned_N


@pytest.mark.parametrize("n_labels", [2, 5])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_as_many_of_the_listed_labels_are_wrong_as_expected(share, n_labels):
    features_ND, gold_N, turned_N = planted(1000, share, n_labels, apart=1 + n_labels / 2)
    wrong_N = label_errors(features_ND, gold_N, 0).wrong_N
    listed_N = wrong_N > 1 / 3
    assert listed_N.sum() > 15
    assert -0.1 < turned_N[listed_N].mean() - wrong_N[listed_N].mean() < 0.3
    assert turned_N[np.argsort(-wrong_N)[:20]].mean() >= 0.75


@pytest.mark.parametrize(("n_labels", "apart"), [(2, 0), (2, 1), (2, 2.5), (2, 6), (5, 1), (5, 4)])
def test_of_sound_labels_few_are_suspected(n_labels, apart):
    """Also where the classifier cannot tell one label from the other."""
    features_ND, gold_N, _ = planted(800, 0.0, n_labels, apart)
    assert (label_errors(features_ND, gold_N, 0).wrong_N > 1 / 3).sum() <= 20
