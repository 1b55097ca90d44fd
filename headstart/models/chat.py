"""A model folder's chat template as plain text around messages: rendered once, over marks, in a sandbox.

What an artifact keeps is the text; the template itself, which is a program, is neither kept nor run again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..core.errors import ModelError
from ..core.reader import ChatFormat
from ..core.untrusted import library_errors, read_json, read_text

MAX_TEMPLATE_BYTES = 100_000
FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
SYSTEM, USER, REPLY, SECOND = (f"@@headstart-{name}@@" for name in ("system", "user", "reply", "second"))
FIX = "Write the prompt yourself: --set task.chat=false, and task.template if the default is not what you want."


def chat_format(folder: Path) -> ChatFormat | None:
    """How the model in `folder` holds a chat; None where it has no chat template.

    Raises  ModelError for a template that fails, or does not write messages as they are.
    """
    template, where = _template(folder)
    if not template:
        return None
    user, reply, second = ({"role": role, "content": text} for role, text in (
        ("user", USER), ("assistant", REPLY), ("user", SECOND)))

    def rendered(messages: list[dict[str, str]], *marks: str, is_open: bool = False) -> list[str]:
        """What stands before, between and behind the marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        with library_errors(where, "cannot be rendered", ModelError, FIX):
            text: Any = render_jinja_template([messages], chat_template=template, add_generation_prompt=is_open,
                                              **_special_tokens(folder))
        parts, rest = [], str(text[0][0] if isinstance(text, tuple) else text[0])
        for mark in marks:
            before, came, rest = rest.partition(mark)
            if not came:
                raise ModelError(where, "does not write a message's text as it is.", FIX)
            parts.append(before)
        return [*parts, rest]

    first, to_reply = rendered([user], USER, is_open=True)
    _, to_assistant, end = rendered([user, reply], USER, REPLY)
    _, _, to_user, _ = rendered([user, reply, second], USER, REPLY, SECOND)
    try:
        system, after_system, _ = rendered([{"role": "system", "content": SYSTEM}, user], SYSTEM, USER)
    except ModelError:  # some templates have no place for one: it is put before the user's message
        system, after_system = first, "\n\n"
    return ChatFormat(first, system, after_system, to_assistant, to_user, to_reply, end)


def _template(folder: Path) -> tuple[str, str]:
    """(the template, the file that holds it); "" where there is none."""
    path = folder / FILE
    if os.path.lexists(path):
        return read_text(path, ModelError, MAX_TEMPLATE_BYTES), str(path)
    path = folder / SETTINGS
    if not os.path.lexists(path):
        return "", str(path)
    value = read_json(path, ModelError).get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if isinstance(value, str) and len(value) > MAX_TEMPLATE_BYTES:
        raise ModelError(str(path), f"has a chat template of {len(value):,} characters; at most "
                         f"{MAX_TEMPLATE_BYTES:,} are read.", FIX)
    return (value if isinstance(value, str) else ""), str(path)


def _special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens by the names that templates call them."""
    path = folder / SETTINGS
    values = read_json(path, ModelError) if os.path.lexists(path) else {}
    texts = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = values.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        texts[name] = value if isinstance(value, str) else ""
    return texts
