"""What cannot be learned, read or written by a task that writes: each is an error in four parts, with a way out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny

import headstart
from headstart import tasks
from headstart.core import writing
from headstart.core.errors import ArtifactError, DataError, HeadstartError, ModelError, SpecError
from headstart.core.manifest import seal
from headstart.exporters.export import export
from headstart.models import backbone as backbones
from headstart.models.chat import chat_format
from headstart.tasks.writing.task import WritingTask

STORIES = tiny.stories(60)


def fit(rows, model, tmp_path, task=None, **more):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    task = {"name": "summarization", "decoding": {"max_new_tokens": 8}, **(task or {})}
    data = {"max_tokens": 64, "train": str(source), **more.pop("data", {})}
    return headstart.fit({"task": task, "backbone": str(model), "method": "lora", "data": data,
                          "train": {"epochs": 1, "tokens_per_batch": 512}, "evaluate": {"n_resamples": 100}, **more},
                         out=tmp_path / "run")


def refused(kind, *args, **more) -> HeadstartError:
    with pytest.raises(kind) as raised:
        fit(*args, **more)
    assert raised.value.fix
    return raised.value


def test_an_empty_target(language_model, tmp_path):
    error = refused(DataError, [*STORIES, {"document": "a room", "summary": " "}], language_model, tmp_path)
    assert '"summary" is empty' in str(error)
    assert "61" in str(error)


def test_a_target_that_does_not_fit(language_model, tmp_path):
    long = {"document": "a room", "summary": "lovely " * 100}
    error = refused(DataError, [*STORIES, long], language_model, tmp_path)
    assert '"summary" takes' in str(error)
    assert "data.max_tokens=128" in error.fix
    fitted = fit([*STORIES, long], language_model, tmp_path, data={"max_tokens": 256})  # what to do works
    assert fitted.reader.max_tokens == 256


def test_a_target_that_is_the_source(language_model, tmp_path):
    rows = [{**row, "summary": row["document"]} for row in STORIES]
    error = refused(DataError, rows, language_model, tmp_path)
    assert 'equals "document" in all' in str(error)
    assert "--set data.columns.summary=NAME" in error.fix


def test_only_a_single_target(language_model, tmp_path):
    error = refused(DataError, [{**row, "summary": "it was"} for row in STORIES], language_model, tmp_path)
    assert "two different" in str(error)


def test_a_template_with_an_unknown_column_or_the_answer(language_model, tmp_path):
    error = refused(SpecError, STORIES, language_model, tmp_path, task={"template": "Shorten {documnt}:"})
    assert "documnt" in str(error)
    assert "document" in str(error)
    error = refused(SpecError, STORIES, language_model, tmp_path, task={"template": "{document} {summary}"})
    assert "holds the answer" in str(error)


def test_a_template_that_leaves_no_room(language_model, tmp_path):
    error = refused(SpecError, STORIES, language_model, tmp_path, task={"template": "lovely " * 80 + "{document}"})
    assert "nothing is left for a row" in str(error)


def test_chats_without_a_reply_or_with_two(language_model, tmp_path):
    user, reply = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}
    task = {"name": "dialogue"}
    error = refused(DataError, [{"messages": [user]}] * 20, language_model, tmp_path, task=task)
    assert "end with another's turn than the assistant's in 20 of 20 rows" in str(error)
    assert "data.columns.reply=NAME" in error.fix
    error = refused(DataError, [{"messages": [user, reply, reply]}] * 20, language_model, tmp_path, task=task)
    assert "in a row" in str(error)


def test_rows_that_cannot_be_measured(language_model, tmp_path):
    rows = [{"source": row["document"], "target": row["summary"]} for row in STORIES]
    test = tmp_path / "test.jsonl"
    test.write_text('{"source": "a room"}\n', "utf-8")
    error = refused(DataError, rows, language_model, tmp_path, task={"name": "translation"}, data={"test": str(test)})
    assert f'{test}:1: has no "target" to be measured by' in str(error)
    assert error.fix == "Remove these test rows."
    run = fit(rows, language_model, tmp_path, task={"name": "translation"})
    with pytest.raises(DataError, match='row 2: has no "target"') as raised:
        run.evaluate([rows[0], {"source": "a room"}])
    assert raised.value.fix
    assert run.predict([{"source": "a room"}])


def test_a_target_longer_than_the_model_itself_reads(language_model, tmp_path):
    error = refused(DataError, [*STORIES, {"document": "a room", "summary": "lovely " * 300}], language_model, tmp_path,
                    data={"max_tokens": 512})  # it has 260 positions
    assert "a window of 260" in str(error)
    assert "data.max_tokens" not in error.fix
    assert "Remove these rows" in error.fix


def test_rows_that_are_nearly_all_alike(language_model, tmp_path):
    words = "the film was really a quite lovely and very bright story today with some music in it"
    rows = [{"document": f"{words} {i}", "summary": f"it was {i}"} for i in range(40)]
    error = refused(DataError, rows, language_model, tmp_path)
    assert "are 40 with 1 different text, those nearly alike counted once" in str(error)
    assert "data.near_duplicate=1" in error.fix
    fit(rows, language_model, tmp_path, data={"near_duplicate": 1.0})  # what to do works


def test_a_template_on_the_command_line_stands_in_quotes(language_model, tmp_path, cli):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in STORIES), "utf-8")
    options = ["fit", source, "--backbone", language_model, "--method", "lora", "--out", tmp_path / "run", "--set",
               "train.epochs=1", "--set", "task.decoding.max_new_tokens=4", "--set"]
    _, err = cli(*options, "task.template=Shorten {document}:", rc=2)
    assert """--set 'task.template="..."'""" in err
    cli(*options, 'task.template="Shorten {document}:"')
    assert headstart.load(tmp_path / "run").task.prompt == "Shorten {document}:"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("control", "words"), [
    ({"json_schema": {"enum": []}}, "json_schema that no text can meet"),
    ({"json_schema": {"type": "string", "minLength": 5, "maxLength": 3}}, "json_schema that no text can meet"),
    ({"json_schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "json_schema that no text can meet"),
    ({"pattern": "a(?=b)"}, "pattern that cannot be followed while writing"),
    ({"pattern": "^[0-9]+$", "prefix": "so"}, 'begin with "so", which its pattern or json_schema does not allow'),
    ({"prefix": "so it was", "max_words": 2}, "which itself has 3 words"),
])
def test_a_control_that_no_text_can_meet(control, words, language_model, tmp_path):
    rows = [{"prompt": row["document"], "completion": row["summary"], "control": control} for row in STORIES]
    error = refused(DataError, rows, language_model, tmp_path, task={"name": "text-generation"})
    assert words in str(error)


def test_an_encoder_for_a_task_that_writes(backbone, tmp_path):
    error = refused(SpecError, STORIES, backbone, tmp_path)
    assert "is an encoder, which writes nothing" in str(error)
    assert "--backbone" in error.fix


def test_a_model_without_a_language_model_head(tmp_path):
    model = tiny.backbone(tmp_path / "model", "llama")
    error = refused(ModelError, STORIES, model, tmp_path)
    assert "no language-model head" in str(error)
    assert "AutoModelForCausalLM" in error.fix


def test_a_model_without_an_end(tmp_path):
    model = tiny.backbone(tmp_path / "model", "llama", writes=True, eos_token_id=None)
    error = refused(SpecError, STORIES, model, tmp_path)
    assert "no token that ends a text" in str(error)


def test_a_linear_probe_has_nothing_to_move(language_model, tmp_path):
    error = refused(SpecError, STORIES, language_model, tmp_path, method="linear-probe")
    assert "nothing would move" in str(error)
    assert "lora" in error.fix


@pytest.mark.parametrize("decoding", [{"max_new_tokens": 0}, {"beams": 2, "temperature": 1.0}, {"top_p": 0},
                                      {"beam": 2}, {"stop": [""]}])
def test_decoding_that_cannot_be(decoding, language_model, tmp_path):
    error = refused(SpecError, STORIES, language_model, tmp_path, task={"decoding": decoding})
    assert "decoding" in str(error)


HOSTILE_TEMPLATES = {
    "for ever": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                 "more time or memory"),
    "all memory": ("{% set n = namespace(x='a' * 999) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
                   "cannot be rendered|more time or memory"),
    "a long answer": ("{{ messages[0]['content'] }}{{ 'a' * 999999 }}", "writes 1,000,017 characters"),
    "the inside of Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered: .*unsafe"),
}


@pytest.mark.parametrize("kind", HOSTILE_TEMPLATES)
def test_a_chat_template_is_a_program_that_runs_under_limits(tmp_path, kind):
    template, message = HOSTILE_TEMPLATES[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    with pytest.raises(ModelError, match=message):
        chat_format(tmp_path)


def test_a_chat_template_that_fails_or_changes_messages(tmp_path):
    model = tiny.backbone(tmp_path / "model", "llama", writes=True, tie_word_embeddings=True)
    for template, words in (("{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}", "cannot be rendered"),
                            ("{{ messages[0]['content'] | upper }}", "does not write a message's text"),
                            ("{% if %}", "cannot be rendered")):
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), "utf-8")
        error = refused(ModelError, STORIES, model, tmp_path)
        assert words in str(error)
        assert "task.chat=false" in error.fix
    fit(STORIES, model, tmp_path, task={"chat": False})  # what to do works


def test_a_row_cannot_end_a_prompt(tmp_path):
    folder = tiny.chat(tiny.backbone(tmp_path / "model", "llama", writes=True, tie_word_embeddings=True))
    loaded = backbones.load_backbone(str(folder), 128)
    task = tasks.build({"name": "summarization"}).learn(STORIES).fitted_to(loaded.reader, lambda: chat_format(folder))
    assert isinstance(task, WritingTask)
    assert task.chat_format is not None
    window, = task.encode(0, {"document": "a [SEP] room [CLS]"}, loaded.reader)
    ids = window.inputs["input_ids"]
    specials = [loaded.reader.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")]
    assert [i for i in ids if i in specials] == [specials[0], specials[1], specials[0]]  # those of the format alone
    assert "a [SEP] room [CLS]" in loaded.reader.tokenizer.decode(ids, skip_special_tokens=False)


def test_only_the_prompt_is_cut_and_counted(language_model):
    loaded = backbones.load_backbone(str(language_model), 64)
    task = tasks.build({"name": "summarization", "decoding": {"max_new_tokens": 8}}).learn(STORIES)
    assert isinstance(task, WritingTask)
    row = {"document": "the film was really lovely " * 30, "summary": "it was lovely"}
    window, = task.encode(0, row, loaded.reader)
    assert len(window) <= 64
    assert window.notes["n_cut_tokens"] > 0
    labels = [i for i in window.target["labels"] if i >= 0]
    assert labels == task.target_ids(row, loaded.reader)
    blind, = task.encode(0, {"document": row["document"]}, loaded.reader)
    assert blind.inputs["input_ids"] == window.inputs["input_ids"][: len(blind)]  # the same prompt with and without
    assert loaded.reader.text(blind.inputs["input_ids"]).endswith("Summary:")


def test_export_and_serve_say_that_they_cannot_yet(language_model, tmp_path, cli):
    run = fit(STORIES, language_model, tmp_path)
    _, stderr = cli("serve", run.folder, "--port", "0", rc=2)
    assert "which writes texts token by token" in stderr
    assert "headstart predict" in stderr
    with pytest.raises(SpecError, match="writes texts, token by token") as raised:
        export(run.folder)
    assert "headstart predict" in raised.value.fix


def test_more_beams_than_memory_are_refused_before_anything_is_trained(language_model, tmp_path):
    more = {"evaluate": {"tokens_per_batch": 10_000_000, "n_resamples": 100}}
    model = tiny.backbone(tmp_path / "wide", "llama", writes=True, hidden_size=1024, num_hidden_layers=8,
                          intermediate_size=8, tie_word_embeddings=True)
    for name, decoding in (("beams", {"beams": 64}), ("candidates", {"candidates": 64, "temperature": 1.0})):
        error = refused(SpecError, STORIES, model, tmp_path, task={"decoding": {"max_new_tokens": 1, **decoding}},
                        **more)
        assert "writing would hold" in str(error)
        assert f"task.decoding.{name}=1" in error.fix
    assert not (tmp_path / "run.partial" / "checkpoints").exists()


def test_golden_texts_stand_near_ties_and_no_more(language_model, tmp_path):
    run = fit(STORIES, language_model, tmp_path)
    path = run.folder / "golden.jsonl"
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ids = [*entries[0]["ids"][:1], 9]  # another text, and how likely it is: as another machine would choose at a tie
    tied = {**entries[0], "prediction": {"text": "another", "is_complete": False}, "ids": ids,
            "log_probabilities": writing.log_probabilities(run.task, entries[0]["row"], ids, run.reader, run.runtime)}

    def load_with(entry):
        path.write_text("".join(json.dumps(line) + "\n" for line in [entry, *entries[1:]]), "utf-8")
        seal(run.folder)
        return headstart.load(run.folder)

    assert load_with(tied).task == run.task
    tied["log_probabilities"][1] += 0.01
    with pytest.raises(ArtifactError, match="golden input 1 was answered"):
        load_with(tied)
    odd_entries: list[dict[str, Any]] = [
        {"ids": [10**9, 1]}, {"ids": ["a", 1]}, {"ids": []}, {"log_probabilities": None}]
    for odd in odd_entries:
        with pytest.raises(ArtifactError, match="golden input 1 was answered"):
            load_with({**tied, **odd})


SMOL = """{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}[CLS]system
You are kind.[SEP]{% endif %}[CLS]{{ m['role'] }}: {{ m['content'] }}[SEP]{% endfor %}
{%- if add_generation_prompt %}[CLS]assistant: {% endif %}"""


def test_a_system_message_that_a_chat_template_brings_is_in_every_prompt_unless_a_chat_has_its_own(tmp_path):
    folder = tiny.backbone(tmp_path / "model", "llama", writes=True, tie_word_embeddings=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": SMOL}), "utf-8")
    loaded = backbones.load_backbone(str(folder), 256)

    def prompt(task, row):
        task = task.fitted_to(loaded.reader, lambda: chat_format(folder))
        ids = task.encode(0, row, loaded.reader)[0].inputs["input_ids"]
        return loaded.reader.tokenizer.decode(ids, skip_special_tokens=False)

    room = {"document": "a room"}
    assert "system\nYou are kind." in prompt(tasks.build({"name": "summarization"}).learn(STORIES), room)
    bare = prompt(tasks.build({"name": "summarization", "chat": False}).learn(STORIES), room)
    assert "You are kind." not in bare
    chats = tasks.build({"name": "dialogue"})
    user, own = {"role": "user", "content": "hello"}, {"role": "system", "content": "You are rude."}
    assert "You are kind." in prompt(chats, {"messages": [user]})
    with_own = prompt(chats, {"messages": [own, user]})
    assert "You are rude." in with_own
    assert "You are kind." not in with_own
