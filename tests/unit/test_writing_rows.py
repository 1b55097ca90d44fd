"""Rows of tasks that write: their columns, their normal form, what is wrong with them, and which task a file means."""

import json
from typing import ClassVar

import pytest

from headstart.core.errors import DataError, SpecError
from headstart.core.spec import DataSpec
from headstart.data.columns import infer_columns
from headstart.tasks.writing import chats, columns, languages
from headstart.tasks.writing.pairs import Pair, check_pairs, references

USER, AGENT = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}
CHATS = {
    "openai": [USER, AGENT],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, AGENT],
    "sharegpt": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}],
    "star": [{"speaker": "customer", "text": "Hello", "time": "9"}, {"speaker": "agent", "text": "Hi", "action": "x"}],
    "strings": ["Hello", "Hi"],
    "json": json.dumps([USER, AGENT]),
}


class Writing:
    """As much of a task as the inference of columns reads."""

    name: ClassVar[str] = "writing"

    def __init__(self, kind):
        self.columns = kind

    def check(self, row):
        return None

    def normalized(self, row):
        return row, ""


def inferred(kind, header, **options):
    return infer_columns(header, DataSpec(train="a.jsonl", **options), Writing(kind), "a.jsonl")


@pytest.mark.parametrize(("kind", "header", "wanted"), [
    (columns.translation(), ["src", "tgt"], {"source": "src", "target": "tgt"}),
    (columns.translation(), ["原文", "译文"], {"source": "原文", "target": "译文"}),
    (columns.translation("en", "de"), ["en", "de"], {"source": "en", "target": "de"}),
    (columns.translation("de", "en"), ["en", "de"], {"source": "de", "target": "en"}),
    (columns.translation("English", "zh"), ["eng_Latn", "zh-CN"], {}),
    (columns.translation("eng_Latn", "zh-CN"), ["eng_Latn", "zh-CN"], {"source": "eng_Latn", "target": "zh-CN"}),
    (columns.translation(), ["id", "translation"], {"translation": "translation"}),
    (columns.summarization(), ["article", "highlights", "id"], {"document": "article", "summary": "highlights"}),
    (columns.summarization(), ["id", "title", "document", "summary", "summaries"],
     {"document": "document", "title": "title", "summary": "summary", "summaries": "summaries"}),
    (columns.summarization(), ["dialogue", "summary", "topic"], {"document": "dialogue", "summary": "summary"}),
    (columns.dialogue(), ["id", "conversations"], {"messages": "conversations"}),
    (columns.dialogue(), ["context", "response"], {"context": "context", "reply": "response"}),
    (columns.text_generation(), ["instruction", "output"], {"prompt": "instruction", "completion": "output"}),
])
def test_columns_are_found_by_their_usual_names(kind, header, wanted):
    if not wanted:  # "English" means a column called so, or en, not each region's
        with pytest.raises(KeyError):
            inferred(kind, header)["source"]
        return
    assert inferred(kind, header) == wanted


@pytest.mark.parametrize(("header", "row", "task"), [
    (["document", "summary"], {}, "summarization"), (["text", "summary", "id"], {}, "summarization"),
    (["source", "target"], {}, "translation"), (["prompt", "completion"], {}, "text-generation"),
    (["context", "reply"], {}, "dialogue"), (["id", "messages"], {"messages": [USER, AGENT]}, "dialogue"),
    (["turns"], {"turns": CHATS["star"]}, "dialogue"),
    (["conversations"], {"conversations": CHATS["json"]}, "dialogue"),
    (["dialogue", "summary"], {"dialogue": "A: Hi\nB: Ho", "summary": "They greet."}, "summarization"),
    (["text", "label"], {"text": "a", "label": "b"}, None), (["question", "context", "answers"], {}, None),
    (["text", "target"], {}, None), (["id", "no", "text"], {"id": "1", "no": "2", "text": "x"}, None),
])
def test_the_task_that_a_file_means(header, row, task):
    assert columns.infer_writing(header, [row], "a.jsonl") == task


@pytest.mark.parametrize(("header", "row"), [
    (["en", "de"], {"en": "a dog", "de": "ein Hund"}),
    (["translation"], {"translation": {"en": "a dog", "de": "ein Hund"}}),
    (["id", "translation"], {"translation": '{"en": "a dog", "de": "ein Hund"}'}),
])
def test_two_languages_need_a_direction_and_both_commands_work(header, row):
    with pytest.raises(SpecError) as error:
        columns.infer_writing(header, [row], "a.jsonl")
    first = error.value.fix.splitlines()[0]
    assert "--set task.source_language=en --set task.target_language=de" in first
    kind = columns.translation("en", "de")
    chosen = inferred(kind, [name for name in header if name != "id"])
    task_row = columns.normal_translation({column: row[name] for column, name in chosen.items()}, "en", "de")
    assert task_row == {"source": "a dog", "target": "ein Hund"}
    assert columns.flaw_of_translation(task_row) is None
    assert columns.normal_translation(task_row, "en", "de") == task_row


def test_translations_of_the_hub_without_a_direction_are_refused_in_words():
    row = columns.normal_translation({"translation": {"en": "a", "de": "b"}})
    flaw = columns.flaw_of_translation(row)
    assert flaw is not None
    assert '"en, de"' in flaw
    assert "task.source_language" in flaw
    texts = {"zh_CN": "狗", "en_XX": "dog", "zh_TW": "犬"}
    assert columns.normal_translation({"translation": texts}, "zh_TW", "en") == {"source": "犬", "target": "dog"}
    assert "translation" in columns.normal_translation({"translation": texts}, "zh", "en")  # two of them are Chinese
    assert columns.normal_translation({"source": "dog", "translation": "狗"}) == {"source": "dog", "target": "狗"}
    assert columns.normal_translation({"translation": {"en": "dog"}}, "en", "de") == {"source": "dog"}  # to predict


@pytest.mark.parametrize(("row", "flaw"), [
    ({"source": " ", "target": "x"}, '"source" is empty'), ({"source": "x", "target": ""}, '"target" is empty'),
    ({"source": "x", "target": []}, '"target" is an empty list'), ({"target": "x"}, 'has no "source"'),
    ({"source": "x", "target": ["a", " "]}, '"target" has an empty text'),
    ({"source": "x", "target": 3}, '"target" is 3; it must be a string or a list of strings'),
    ({"source": 3, "target": "x"}, '"source" is 3, not a string'), ({"source": "x", "target": ["a", "b"]}, None),
    ({"source": "x"}, None),
])
def test_flaws_of_translations(row, flaw):
    complaint = columns.flaw_of_translation(row)
    assert (complaint or "").startswith(flaw or "")
    assert (complaint is None) == (flaw is None)


@pytest.mark.parametrize(("row", "normal"), [
    ({"summary": "a"}, {"summary": "a"}),
    ({"summary": ["a", "b"]}, {"summary": "a", "summaries": ["a", "b"]}),
    ({"summary": "['a', 'b']"}, {"summary": "a", "summaries": ["a", "b"]}),
    ({"summary": "b", "summaries": ["a", "b"]}, {"summary": "b", "summaries": ["a", "b"]}),
    ({"summaries": '["a", "b"]'}, {"summary": "a", "summaries": ["a", "b"]}),
    ({"summary": ["c"], "summaries": ["a", "b"]}, {"summary": "c", "summaries": ["a", "b"]}),
    ({}, {}),
])
def test_several_summaries(row, normal):
    row = {"document": "d", **row}
    assert columns.normal_summary(row) == {"document": "d", **normal}
    assert columns.normal_summary({"document": "d", **normal}) == {"document": "d", **normal}
    assert columns.flaw_of_summary({"document": "d", **normal}) is None
    pair = columns.pair_of({"document": "d", **normal}, "document", "summary", "summaries", "title")
    assert pair.targets == tuple(normal.get("summaries", [normal["summary"]] if normal else []))


@pytest.mark.parametrize(("row", "flaw"), [
    ({"document": ""}, '"document" is empty'), ({"document": "d", "summaries": []}, '"summaries" is an empty list'),
    ({"document": "d", "summary": "s", "title": 3}, '"title" is 3'),
])
def test_flaws_of_summaries(row, flaw):
    assert str(columns.flaw_of_summary(columns.normal_summary(row))).startswith(flaw)


@pytest.mark.parametrize("shape", CHATS)
def test_chats_of_every_shape_are_read_alike(shape):
    row = chats.parted({"messages": CHATS[shape]})
    assert row == {"messages": [USER], "reply": "Hi"}
    assert chats.parted(row) == row
    assert columns.flaw_of_dialogue(row) is None
    assert columns.pair_of(row, "messages", "reply") == Pair("Hello", ("Hi",))


def test_what_a_chat_asks_last_is_never_cut():
    messages = [USER, AGENT, {"role": "user", "content": "And now?"}]
    assert chats.parted({"messages": messages}) == {"messages": messages}
    assert columns.flaw_of_dialogue({"messages": messages}) is None
    assert chats.parted({"context": ["Hello", "Hi", "And now?"], "reply": "x"})["messages"] == messages
    assert chats.parted({"context": "Hello", "reply": "Hi"}) == {"messages": [USER], "reply": "Hi"}
    assert [reply for _, reply in chats.replies([*messages, AGENT])] == ["Hi", "Hi"]


@pytest.mark.parametrize(("row", "words"), [
    ({"messages": [USER]}, None), ({"messages": [AGENT]}, "nothing before the reply"),
    ({"messages": [USER, AGENT, AGENT]}, "assistant's turns 2 and 3 in a row"),
    ({"messages": [USER, AGENT], "reply": "Hi"}, "assistant's turns 2 and 3 in a row"),
    ({"messages": []}, "not empty"), ({"messages": "Hello"}, "it must be a list of turns"),
    ({"messages": [{"role": "user", "content": " "}, AGENT]}, "a turn 1 that is the user's and has no text"),
    ({"messages": [{"role": "usr2", "content": "x"}]}, 'did you mean "usr"'),
    ({"messages": [{"content": "x"}]}, 'has no "role"'), ({"messages": [USER, 3]}, "a turn 2 that is 3"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "it must be text"),
    ({"messages": [USER, {"role": "system", "content": "x"}, AGENT]}, "system turn 2; it must be the first"),
    ({"messages": [USER], "reply": " "}, '"reply" is empty'), ({"messages": ["a", " ", "b"]}, "an empty turn 2"),
    ({"context": 3, "reply": "x"}, '"context" is 3'), ({"reply": "x"}, "has neither"),
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]}, "has no text"),
])
def test_flaws_of_chats(row, words):
    complaint = columns.flaw_of_dialogue(chats.parted(row))
    assert (words or "") in (complaint or "")
    assert (complaint is None) == (words is None)


def test_a_knowledge_base_s_turn_is_text():
    turn = {"speaker": "knowledge", "item": {"Note": "A table for two.", "Price": 12}}
    assert chats.read_chat([turn]) == [{"role": "tool", "content": "Note: A table for two.; Price: 12"}]


def test_flaws_of_completions():
    sound = columns.normal_completion({"prompt": "p", "completion": "c", "control": '{"max_words": 3}'})
    assert sound["control"] == {"max_words": 3}
    assert columns.flaw_of_completion(sound) is None
    assert "did you mean" in str(columns.flaw_of_completion({"prompt": "p", "control": {"max_word": 3}}))
    assert columns.flaw_of_completion({"prompt": "", "completion": "c"}) == '"prompt" is empty'
    assert columns.normal_completion({"prompt": "p", "control": ""})["control"] == {}


@pytest.mark.parametrize(("pairs", "words"), [
    ([Pair("a", ("a",)), Pair("b", ("b ",))], "learn to copy"),
    ([Pair("a", ("x",)), Pair("b", ("x",))], "at least two different"),
    ([Pair("a", ("x",)), Pair("b")], "stands in 1 of 2 rows"),
])
def test_files_that_teach_nothing_are_refused(pairs, words):
    with pytest.raises(DataError, match=words) as error:
        check_pairs(pairs, "source", "target")
    assert "data.columns.target=NAME" in error.value.fix


def test_files_that_teach_something_pass():
    check_pairs([Pair("a", ("x",)), Pair("b", ("b",))], "source", "target")
    check_pairs([Pair("a", ("a", "b")), Pair("a", ("b", "c"))], "source", "target")
    assert references("['a'] and more") == ("['a'] and more",)


def test_languages_by_codes_regions_and_names():
    assert [languages.language_name(name) for name in ("de", "deu_Latn", "German", "zh-CN", "zh-Hant-TW", "xx")] == [
        "German", "German", "German", "Chinese", "Chinese", "xx"]
    assert languages.language_columns(["id_text", "en_XX", "label", "French", "english"]) == [
        "en_XX", "French", "english"]
    assert languages.names_of("") == ()
