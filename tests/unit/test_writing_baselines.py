"""Scores that no library has, tokenizers by what the texts are, and baselines in English, German and Chinese."""

import json
import subprocess
import sys

import pytest

from headstart.tasks.writing import baselines, measures, overlap, rouge
from headstart.tasks.writing.measures import (
    Copied,
    Length,
    Likelihood,
    Measure,
    Repetition,
    TokenF1,
    Written,
    distinct,
    worst,
)
from headstart.tasks.writing.pairs import Pair
from headstart.tasks.writing.sentences import join_words, sentences, words
from headstart.tasks.writing.word_table import word_for_word, word_table

TRAIN = [Pair("a dog runs", ("ein Hund rennt",)), Pair("a cat sleeps", ("eine Katze schläft",)),
         Pair("the dog sleeps", ("der Hund schläft",)), Pair("a cat runs", ("eine Katze rennt",)),
         Pair("the dog runs.", ("der Hund rennt.",)), Pair("the cat sleeps.", ("die Katze schläft.",))]
ROWS = [Pair("the cat runs.", ("die Katze rennt.",)), Pair("a zebra sleeps", ("ein Zebra schläft",))]


def score(measure, *rows):
    return measures.scores([measure], measures.outcomes([measure], rows))


def test_scores_by_hand():
    assert score(Length(), Written("a b c", ("a", "a b c d")), Written("a", ("a b",))) == {"length_ratio": 4 / 6}
    assert score(Copied(2), Written("the dog ran off", source="The dog ran")) == {"copied_2grams": 2 / 3}
    assert score(Copied(2), Written("狗跑了", source="狗跑了吗")) == {"copied_2grams": 1.0}
    assert score(Repetition(1), Written("no no no yes"), Written("a")) == {"repeated_1grams": 2 / 5}
    assert score(TokenF1(), Written("the dog", ("Dog.", "x")), Written("a cat", ("cat dog",))) == {
        "exact_match": 0.5, "token_f1": (1 + 2 / 3) / 2}
    assert score(Likelihood(), Written("", negative_log_likelihood=3.0, n_tokens=2), Written(
        "", negative_log_likelihood=1.0, n_tokens=2)) == pytest.approx({"likelihood": 2.718281828**-1,
                                                                        "perplexity": 2.718281828})
    assert score(Likelihood(), Written("", negative_log_likelihood=1e9, n_tokens=1))["perplexity"] < float("inf")
    assert distinct(["a b a", "a b"]) == {"distinct_1": 2 / 5, "distinct_2": 2 / 3, "n_words": 5.0}
    assert distinct([]) == {"distinct_1": 0.0, "distinct_2": 0.0, "n_words": 0.0}


def test_numbers_of_a_row():
    rows = [Written("Ein Hund.", ("Ein Hund.", "Der Hund."))]
    widths: dict[Measure, int] = {overlap.Bleu(): 10, overlap.Chrf(): 18, rouge.Rouge(): 3}
    for measure, width in widths.items():
        assert measures.outcomes([measure], rows).shape == (1, 1 + width)
    assert measures.outcomes([overlap.Bleu()], rows)[0].tolist() == [1, 3, 3, 3, 2, 1, 0, 3, 2, 1, 0]
    assert measures.outcomes([], rows).tolist() == [[1]]
    assert measures.outcomes([overlap.Bleu()], []).shape == (0, 11)


def test_signatures_say_tokenizer_references_and_version():
    assert overlap.Bleu("zh", 3).signature.startswith("BLEU|nrefs:3|case:mixed|eff:no|tok:zh|smooth:exp|version:")
    assert "nrefs:var" in overlap.Chrf(overlap.n_references_of([("a",), ("a", "b")])).signature
    assert rouge.Rouge().signature.startswith("ROUGE|refs:best|tok:rouge-score|stems:yes|version:")
    assert rouge.Rouge("words").signature == "ROUGE|refs:best|tok:words|stems:no"


@pytest.mark.parametrize(("text", "bleu", "of_rouge"), [
    ("The cat sat on the mat.", "13a", "rouge-score"), ("Der weiße Hund läuft schnell.", "13a", "words"),
    ("Ein Mann und eine Frau sitzen auf einer Bank.", "13a", "words"),  # without marks, and not English either
    ("Le chat est dans la maison.", "13a", "words"), ("def f(x): return x", "13a", "rouge-score"),
    ("The shop of Mr. Müller opened in the old town, and all of the town came to see what it would be like; some of "
     "them stayed until the evening, for the weather was fine and there was a band that played in the yard. In the "
     "end everyone had a slice of the cake with their coffee, which was on the house that day, and went home happy "
     "as they had not been for a long time, and those who were late got the rest of it at the door of the kitchen.",
     "13a", "rouge-score"),
    ("今天下雨了，我们在家用 Python。", "zh", "words"), ("今日は雨です。", "char", "words"), ("", "13a", "rouge-score"),
])
def test_tokenizers_are_chosen_by_the_targets(text, bleu, of_rouge):
    assert overlap.tokenizer_of([text]) == bleu
    assert rouge.tokenizer_of([text]) == of_rouge


def test_chinese_has_rouge_by_characters_alone():
    row = Written("今天下雨了", ("今天没下雨",))
    assert set(score(rouge.Rouge(), row).values()) == {0.0}  # rouge-score's tokenizer drops it all
    assert score(rouge.Rouge("words"), row) == {"rouge_1": 0.8, "rouge_2": 0.5, "rouge_l": 0.8}


def test_long_texts_take_no_table():
    text = " ".join(str(i % 977) for i in range(20_000))
    assert score(rouge.Rouge(), Written(text, (text,)))["rouge_l"] == 1


def test_the_worst_rows_are_the_report_s_mistakes():
    rows = [Written("a dog", ("a dog",), "x"), Written("no", ("a cat", "a dog"), "y")]
    assert worst(overlap.Chrf(), "chrf", rows, 1) == [{"text": "y", "label": "a cat | a dog", "predicted": "no"}]


@pytest.mark.parametrize(("text", "parts"), [
    ("Dr. Smith met J. R. Brown. He left!", ["Dr. Smith met J. R. Brown.", "He left!"]),
    ("Map X to Y. The end.", ["Map X to Y.", "The end."]),
    ("Use e.g. Adam, etc. We did.", ["Use e.g. Adam, etc.", "We did."]),
    ("Lines are\nwrapped here. And\nhere.", ["Lines are\nwrapped here.", "And\nhere."]),
    ("Title\n\nText.", ["Title", "Text."]),
    ("今天下雨了。我们没去！你呢？", ["今天下雨了。", "我们没去！", "你呢？"]),
    ("“走吧。”她说。", ["“走吧。”", "她说。"]),
    ("标题\n正文。", ["标题", "正文。"]),
    ("Ann: Hi. You?\nBob: Fine.", ["Ann: Hi. You?", "Bob: Fine."]),
    ("客服：您好。请问？\n客户：退货。", ["客服：您好。请问？", "客户：退货。"]),
    ("Pi is 3.14", ["Pi is 3.14"]), ("", []), (" \n ", []),
    ("Er sagte: „Geh.“ Dann kam sie.", ["Er sagte: „Geh.“", "Dann kam sie."]), ("...", ["..."]),
])
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_words_are_joined_as_languages_do():
    assert join_words(["Ein", "Hund", "(", "groß", ")", ",", "läuft", "."]) == "Ein Hund (groß), läuft."
    assert join_words(["今", "天", "，", "好", "。"]) == "今天，好。"
    assert words("It's 今天 3.5!") == ["it", "s", "今", "天", "3", "5"]


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_answers_every_row_the_same_way_twice(name):
    baseline = baselines.BASELINES[name]
    blind = [Pair(row.source) for row in ROWS]
    texts = baseline(TRAIN, ROWS, 0)
    assert len(texts) == 2
    assert all(isinstance(text, str) and text for text in texts)
    assert texts == baseline(TRAIN, blind, 0)  # targets are not looked at
    assert len(baseline([], ROWS, 0)) == 2
    assert baseline(TRAIN, [], 0) == []
    assert len(baseline(TRAIN, [Pair(" ")], 0)) == 1
    assert name in baselines.TITLES


def test_a_word_table_translates_by_what_stands_together():
    assert word_for_word(TRAIN, ROWS, 0)[0] in ("die Katze rennt.", "der Katze rennt.")
    assert word_for_word(TRAIN, ROWS, 0)[1].split()[1:] == ["zebra", "schläft"]
    table = word_table([Pair("猫睡了", ("the cat slept",)), Pair("狗睡了", ("the dog slept",)), Pair("猫", ("cat",)),
                        Pair("狗", ("dog",))], 0)
    assert (table["猫"], table["狗"]) == ("cat", "dog")


def test_the_nearest_train_row_and_the_most_frequent_target():
    assert baselines.nearest_target(TRAIN, [Pair("the cat sleeps!")], 0) == ["die Katze schläft."]
    chinese = [Pair("今天下雨", ("rain",)), Pair("我喜欢猫", ("cats",))]
    assert baselines.nearest_target(chinese, [Pair("他喜欢猫吗")], 0) == ["cats"]
    assert baselines.most_frequent_target([*TRAIN, TRAIN[3]], ROWS, 0) == ["eine Katze rennt"] * 2


def test_sentences_of_a_source():
    text = "Cats sleep. Dogs run far. Cats and dogs sleep and run. It is 5. Ok."
    row = Pair(text, ("Cats and dogs run and sleep.",), "On cats")
    assert baselines.lead([], [row], 0, n=2) == ["Cats sleep. Dogs run far."]
    assert baselines.text_rank([row], [row], 0) == ["Cats and dogs sleep and run."]
    assert baselines.oracle_sentence([], [row], 0) == ["Cats and dogs sleep and run."]
    assert baselines.title([], [row, Pair(text)], 0) == ["On cats", "Cats sleep."]
    chinese = Pair("今天下雨了。我们没去公园。我们在家。", ("我们今天没去公园。",))
    assert baselines.lead([], [chinese], 0, n=2) == ["今天下雨了。我们没去公园。"]
    assert baselines.oracle_sentence([], [chinese], 0) == ["我们没去公园。"]


def test_baselines_of_a_task():
    assert "title" in baselines.names_for("summarization", [Pair("a", title="t")])
    assert "title" not in baselines.names_for("summarization", [Pair("a", title="t"), Pair("b")])
    assert {name for names in baselines.OF_TASK.values() for name in names} <= baselines.BASELINES.keys()


def test_long_sources_and_many_pairs_are_bounded():
    long = Pair("word " * 200_000, ("x " * 5_000,))
    for name, baseline in baselines.BASELINES.items():
        assert len(baseline([long, *TRAIN] * 20, [long], 0)) == 1, name


def test_importing_loads_no_library_of_scores():
    code = ("import json, sys\nimport headstart.tasks\nheadstart.tasks.names()\n"
            "from headstart.tasks.writing import baselines, chats, columns, overlap, rouge, template\n"
            "print(json.dumps(sorted(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(out.stdout))
    assert "headstart.tasks.writing.columns" in loaded
    assert not {"torch", "transformers", "sklearn", "sacrebleu", "rouge_score", "nltk", "jsonschema", "regex"} & loaded


def test_letters_with_marks_count_where_the_targets_are_german():
    """rouge-score's tokenizer makes "wei" of "weiß" and "weise"'s stem of nothing: other words, or none."""
    row = Written("Der Bär ist weiß.", ("Der Bar ist wei.",))
    assert score(rouge.Rouge("rouge-score"), row)["rouge_1"] > score(rouge.Rouge("words"), row)["rouge_1"]
    assert rouge.Rouge("words").tokens("Übergrößen, äußerst") == ["übergrössen", "äusserst"]
    assert score(rouge.Rouge("words"), Written("Straße", ("Strasse",)))["rouge_1"] == 1.0
