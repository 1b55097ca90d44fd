"""Prompts as data, and constraints on texts, also hostile ones."""

import time

import pytest

from headstart.core.errors import DataError, SpecError
from headstart.core.statistics import share_interval
from headstart.tasks.writing.control import Control
from headstart.tasks.writing.measures import ControlSuccess, LabelSuccess, Written, outcomes, scores, shares
from headstart.tasks.writing.template import DEFAULTS, Template, default_template

SECRET = "s3cret"


class Spy:
    """What str.format would read attributes of."""

    secret = SECRET

    def __str__(self):
        return "spy"


def test_a_row_in_a_prompt():
    template = Template.parse("Sum {{up}}: {document}\nby {a.b[0]!r:>9}")
    assert template.columns == ("document", "a.b[0]!r:>9")
    assert template.render({"document": "{x} {{", "a.b[0]!r:>9": "Ann"}) == "Sum {up}: {x} {{\nby Ann"
    chat = {"messages": [{"role": "user", "content": "今天？"}, {"role": "tool", "content": "rain"}]}
    assert default_template("dialogue").render(chat) == "user: 今天？\ntool: rain\nassistant:"
    assert Template.parse("{a}|{b}|{c}|{d}").render({"a": None, "b": ["x", "y"], "c": 3.5, "d": {"k": True}}) == (
        '|x\ny|3.5|{"k": true}')


def test_no_attribute_of_a_value_is_read():
    template = Template.parse("{x} {x.secret} {x[secret]}")
    row = {"x": Spy(), "x.secret": "-", "x[secret]": "-"}
    assert template.render(row) == "spy - -"
    with pytest.raises(DataError, match=r'has no "x\.secret"'):
        template.render({"x": Spy()})


@pytest.mark.parametrize(("text", "words", "mended"), [
    ("Say {", "a brace without its other at character 5", "Say {{ {x}"), ("} {x}", "at character 1", "}} {x}"),
    ("{a{b}", "at character 1", "{{a{b}"), ("{} {x}", "braces without a name", "{{ }} {x}"),
    ("nothing", "names no column", "nothing {text}"), ("x" * 20_001, "20,001 characters", "{x}"),
])
def test_templates_that_cannot_be(text, words, mended):
    with pytest.raises(SpecError, match=words):
        Template.parse(text)
    assert Template.parse(mended).columns


def test_an_unknown_column_is_named_with_the_nearest():
    template = Template.parse("{documnt} {title}")
    with pytest.raises(SpecError, match='did you mean "document"'):
        template.check(["document", "title"])
    with pytest.raises(SpecError, match="holds the answer"):
        Template.parse("{summary}").check(["summary"], gold=("summary",))
    Template.parse("{document} {title}").check(["document", "title"], gold=("summary",))


def test_every_task_has_a_template():
    assert all(Template.parse(text).columns for text in DEFAULTS.values())
    template = default_template("translation", "en_XX", "German")
    assert template.render({"source": "a {dog}"}) == "Translate from English to German.\nEnglish: a {dog}\nGerman:"
    assert default_template("translation").columns == ("source",)


@pytest.mark.parametrize(("control", "text", "n_unmet"), [
    ({"max_words": 3}, "It rained again.", 0), ({"max_words": 2}, "It rained again.", 1),
    ({"min_words": 5}, "今天下雨。", 1), ({"min_words": 4, "max_words": 4}, "今天下雨。", 0),
    ({"include": ["Rain", "in Paris"]}, "rain in paris", 0), ({"include": ["rain"]}, "It rained.", 1),
    ({"include": ["下雨"]}, "今天下雨。", 0), ({"exclude": ["下雨"]}, "今天下雨。", 1),
    ({"include": [":)"]}, "ok :)", 0),
    ({"exclude": ["in Paris"]}, "Paris in spring", 0), ({"pattern": r"^\d{4}-\d\d$"}, "2026-01", 0),
    ({"pattern": r"^\d{4}-\d\d$"}, "in 2026-01", 1), ({}, "", 0), (None, "", 0), (" ", "", 0),
    ({"json_schema": {"required": ["a"], "properties": {"a": {"pattern": "^b+$"}}}}, '{"a": "bb"}', 0),
    ({"json_schema": {"type": "object", "required": ["a"]}}, "{}", 1), ({"json_schema": True}, "no JSON", 1),
    ({"json_schema": {"$defs": {"t": {"type": "string"}}, "items": {"$ref": "#/$defs/t"}}}, '["a", 1]', 1),
    ({"max_words": 1, "include": ["a"], "pattern": "z"}, "b c", 3),
])
def test_constraints(control, text, n_unmet):
    parsed = Control.of(control)
    assert isinstance(parsed, Control), parsed
    assert len(parsed.unmet(text)) == n_unmet
    assert Control.of(parsed.to_json()) == parsed
    assert parsed.is_empty == (not parsed.to_json())


@pytest.mark.parametrize(("control", "words"), [
    (3, "must be an object"), ("[1]", "must be an object"), ("{", "must be a JSON object"),
    ({"max_word": 3}, 'did you mean "max_words"'), ({"max_words": -1}, "a whole number from 0"),
    ({"max_words": True}, "a whole number"), ({"min_words": 3, "max_words": 2}, "above max_words"),
    ({"include": "rain"}, "a list"), ({"include": [""]}, "none empty"), ({"pattern": "("}, "no regular expression"),
    ({"pattern": ""}, "a string"), ({"pattern": "a" * 1001}, "1,000 characters"),
    ({"pattern": "((((a{999}){999}){999}){999})"}, "repeat a part at most"),
    ({"pattern": "(a{9}){99999999999999999999}"}, "repeat a part"), ({"pattern": "(?ix) (a) {9}"}, "commented by"),
    ({"json_schema": {"type": "objct"}}, "json_schema that is none"), ({"json_schema": "{"}, "is not valid JSON"),
    ({"json_schema": {"$ref": "http://127.0.0.1:9/x"}}, "nothing else is fetched"),
    ({"json_schema": {"patternProperties": {"a": {}}}}, "name the properties"),
    ({"json_schema": {"pattern": "("}}, "no regular expression"), ({"json_schema": {"title": "x" * 20_001}}, "at most"),
    ({"json_schema": {"pattern": "((a{999}){999})"}}, "repeat a part"),
])
def test_controls_that_cannot_be(control, words):
    complaint = Control.of(control)
    assert isinstance(complaint, str)
    assert words in complaint


@pytest.mark.timing
@pytest.mark.parametrize(("control", "text"), [
    ({"pattern": r"^(\w+\s?)*$"}, "a" * 40 + "!"), ({"pattern": "^(a|aa)+$"}, "a" * 60 + "b"),
    ({"json_schema": {"pattern": "^(a|aa)+$"}}, f'"{"a" * 60}b"'),
    ({"json_schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "1"),
    ({"json_schema": {"$ref": "#/nowhere"}}, "1"),
    ({"json_schema": {"$ref": "#/$defs/a0", "$defs": {"a30": {}} | {
        f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 3} for i in range(30)}}}, "1"),
    ({"json_schema": {}}, "[" * 100_000), ({"json_schema": {}}, "1" * 10_000),
])
def test_what_cannot_be_decided_in_time_is_not_met(control, text):
    parsed = Control.of(control)
    assert isinstance(parsed, Control), parsed
    began = time.perf_counter()
    assert parsed.unmet(text)
    assert time.perf_counter() - began < 5


def test_control_success_is_a_share_of_rows_with_constraints():
    control = Control(include=("rain",))
    rows = [Written("rain", control=control), Written("sun", control=control), Written("sun"),
            Written("rain", control=control), Written("", control=Control())]
    outcomes_N3 = outcomes([ControlSuccess()], rows)
    assert outcomes_N3.tolist() == [[1, 1, 1], [1, 0, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert scores([ControlSuccess()], outcomes_N3) == {"control_success": 2 / 3}
    assert scores([ControlSuccess()], outcomes_N3[2:3]) == {"control_success": 0.0}


@pytest.mark.parametrize(("control", "text", "label", "unmet"), [
    ({"label": "good"}, "a film", "good", []), ({"label": "good"}, "a film", "bad", ['is "bad", not "good"']),
    ({"label": "good"}, "a film", "", ['is "", not "good"']),
    ({"prefix": "TL;DR:"}, "TL;DR: rain", "", []),
    ({"prefix": "TL;DR:"}, "tl;dr: rain", "", ['does not begin with "TL;DR:"']),
])
def test_labels_and_beginnings(control, text, label, unmet):
    parsed = Control.of(control)
    assert isinstance(parsed, Control)
    assert parsed.unmet(text, label) == unmet
    assert Control.of(parsed.to_json()) == parsed


@pytest.mark.parametrize(("control", "words"), [
    ({"label": ""}, "a string"), ({"label": 3}, "a string"), ({"prefix": "a "}, "begins or ends in a blank"),
    ({"prefix": "one two three", "max_words": 2}, "which itself has 3 words"),
    ({"prefix": "No rain", "exclude": ["rain"]}, 'which itself has "rain"'),
])
def test_labels_and_beginnings_that_cannot_be(control, words):
    complaint = Control.of(control)
    assert isinstance(complaint, str)
    assert words in complaint


@pytest.mark.parametrize(("control", "words"), [
    ({}, ""), ({"max_words": 8}, "Write at most 8 words."), ({"min_words": 3}, "Write at least 3 words."),
    ({"min_words": 3, "max_words": 3}, "Write 3 words."), ({"min_words": 0, "max_words": 0}, "Write at most 0 words."),
    ({"label": "good", "min_words": 3, "max_words": 5, "include": ["rain", "sun"], "exclude": ["snow"], "prefix": "So"},
     'Label: good. Begin with "So". Write 3 to 5 words. Use the words: rain, sun. Do not use the words: snow.'),
    ({"pattern": "^a+$"}, "Match a regular expression: ^a+$"),
    ({"pattern": "a" * 500}, "Match a regular expression."), ({"json_schema": True}, "Write JSON of a schema: true"),
])
def test_what_a_prompt_says_of_a_control(control, words):
    parsed = Control.of(control)
    assert isinstance(parsed, Control)
    assert parsed.in_words() == words


@pytest.mark.parametrize(("text", "without"), [
    ("{control}\n{prompt}", "{prompt}"), ("{prompt}\n\n{control}", "{prompt}"), ("{a}\n{control}\n{b}", "{a}\n{b}"),
    ("{a} {control} {b}", "{a}  {b}"), ("{prompt}", "{prompt}"), ("{control}", "")])
def test_a_template_without_a_column(text, without):
    assert str(Template.parse(text).without("control")) == without


def test_label_success_is_a_share_of_rows_that_ask_and_has_its_interval():
    asked, measure = Control(label="good"), LabelSuccess("runs/judge", "a" * 64)
    rows = [Written("x", control=asked, label="good"), Written("x", control=asked, label="bad"), Written("x"),
            Written("x", control=Control(max_words=3)), Written("x", control=asked)]
    outcomes_N3 = outcomes([measure], rows)
    assert outcomes_N3[:, 1:].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0], [0, 1]]
    assert scores([measure], outcomes_N3) == {"label_success": 1 / 3}
    assert measure.signature == "label_success|judge:runs/judge|sha256:aaaaaaaaaaaa"
    share = shares([measure, ControlSuccess()], rows)
    assert share["label_success"] == {"value": 1 / 3, "interval": list(share_interval(1, 3)), "n": 3}
    assert share["control_success"]["n"] == 4
    assert shares([measure], [Written("x")]) == {}
