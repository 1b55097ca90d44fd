"""Questions that are made out of texts: their answers stand where they say, and the question lacks them."""

from __future__ import annotations

from headstart import tasks
from headstart.data import cloze

TEXT = ("The old bridge over the Arden river was opened in 1887 by the mayor of Kirkhaven. It replaced a wooden "
        "crossing that a flood had carried away, and cost some 40,000 pounds, which the town had borrowed from three "
        "banks. When the railway came, Anna Lindqvist drew a second bridge beside it. Neither is open to carts.")


def test_answers_stand_where_they_say():
    rows = list(cloze.questions([TEXT] * 5, 8, seed=0))
    assert len(rows) == 40
    task = tasks.find("question-answering")()
    answers = set()
    for row in rows:
        answer, at = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        assert row["context"][at : at + len(answer)] == answer
        assert row["question"].endswith("?")
        assert any(word in row["question"] for words in cloze.WORDS.values() for word in words)
        assert task.check(row) is None
        if answer[0].isupper() or answer[0].isdigit():  # names and numbers stand in the text once
            assert answer not in row["question"]
        answers.add(answer)
    assert {"1887", "Kirkhaven", "Anna Lindqvist"} <= answers


def test_the_same_seed_asks_the_same():
    asked = [list(cloze.questions([TEXT], 5, seed)) for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


def test_a_short_text_is_not_asked_about():
    assert not list(cloze.questions(["Too short. Really."], 5, 0))


def test_paragraphs_of_an_article():
    article = " = Bridge = \n \n It cost 40 @,@ 000 pounds ( then a fortune ) . \n A <unk> man . \n"
    assert cloze.paragraphs(article) == ["It cost 40,000 pounds (then a fortune)."]
