"""Files of others are read in bounded memory and time, or refused with one message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headstart.core.errors import ModelError
from headstart.core.untrusted import check_regular, parse_json, read_json, read_text

BAD_JSON = {"": "not valid JSON", "{": "not valid JSON", "[1]": "a JSON object is wanted", "3": "a JSON object",
            '{"a": 1, "a": 2}': 'the key "a" stands twice', '{"a": NaN}': "NaN is not a JSON number",
            '{"a": -Infinity}': "-Infinity is not", '{"a": ' + "[" * 100 + "]" * 100 + "}": "nested more than 64 deep",
            "[" * 200_000: "nested too deeply", '{"a": ' + "9" * 5000 + "}": "not valid JSON"}


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelError, match=BAD_JSON[text]) as raised:
        read_json(path, ModelError)
    assert str(path) in str(raised.value)
    assert raised.value.fix


def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    kinds = {tmp_path / "pipe": "is a named pipe", tmp_path: "is a folder", Path("/dev/zero"): "is a device",
             tmp_path / "none": "no such file"}
    for path, what in kinds.items():
        with pytest.raises(ModelError, match=what):
            check_regular(path, ModelError)
        with pytest.raises(ModelError, match=what):
            read_text(path, ModelError)


def test_size_and_encoding_have_limits(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelError, match="byte 7 is not UTF-8"):
        read_json(path, ModelError)
    with pytest.raises(ModelError, match="has 10 bytes; the limit is 9"):
        read_text(path, ModelError, max_bytes=9)
    with pytest.raises(ModelError, match="has more than 3 bytes"):
        read_text(Path("/proc/self/status"), ModelError, max_bytes=3)


def test_sound_json_is_read():
    assert parse_json('{"a": [1, {"b": null}], "c": 1.5}', "here", ModelError) == {"a": [1, {"b": None}], "c": 1.5}
