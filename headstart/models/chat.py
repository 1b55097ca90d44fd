"""A model folder's chat template as plain text around messages: rendered once, over marks, in a sandbox.

What an artifact keeps is the text; the template itself, which is a program, is neither kept nor run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import ModelError, shorten
from ..core.reader import ChatFormat
from ..core.untrusted import read_json, read_text

MAX_TEMPLATE_BYTES = 100_000
MAX_S = 60.0  # of a busy machine; the process itself has seconds of a processor
FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
SYSTEM, USER, REPLY, SECOND = (f"@@headstart-{name}@@" for name in ("system", "user", "reply", "second"))
FIX = "Write the prompt yourself: --set task.chat=false, and task.template if the default is not what you want."


def chat_format(folder: Path) -> ChatFormat | None:
    """How the model in `folder` holds a chat; None where it has no chat template.

    Raises  ModelError for a template that fails, takes too long, or does not write messages as they are.
    Cost    some seconds: a process of its own runs the template, under limits.
    """
    template, where = _template(folder)
    if not template:
        return None
    system, user, reply, second = ({"role": role, "content": text} for role, text in (
        ("system", SYSTEM), ("user", USER), ("assistant", REPLY), ("user", SECOND)))
    texts = _rendered(template, _special_tokens(folder), [
        ([user], True), ([user, reply], False), ([user, reply, second], False), ([system, user], False)], where)
    first, to_reply = _around(texts[0], where, USER)
    _, to_assistant, end = _around(texts[1], where, USER, REPLY)
    _, _, to_user, _ = _around(texts[2], where, USER, REPLY, SECOND)
    try:
        before, after_system, _ = _around(texts[3], where, SYSTEM, USER)
    except ModelError:  # some templates have no place for one: it is put before the user's message
        before, after_system = first, "\n\n"
    return ChatFormat(first, before, after_system, to_assistant, to_user, to_reply, end)


def _rendered(template: str, tokens: dict[str, str], chats: Sequence[tuple[list[dict[str, str]], bool]],
              where: str) -> list[dict[str, str]]:
    """What the template makes of each chat: its "text", or the "error"."""
    request = json.dumps({"template": template, "tokens": tokens, "chats": chats})
    try:
        ended = subprocess.run([sys.executable, "-I", str(Path(__file__).with_name("chat_renderer.py"))], input=request,
                               capture_output=True, text=True, timeout=MAX_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(where, f"is a template that runs for more than {MAX_S:g} seconds.", FIX) from None
    if ended.returncode:
        raise ModelError(where, "is a template that takes more time or memory than one may.", FIX)
    answers: list[dict[str, str]] = json.loads(ended.stdout)
    return answers


def _around(answer: dict[str, str], where: str, *marks: str) -> list[str]:
    """What stands before, between and behind the marks."""
    if "error" in answer:
        raise ModelError(where, f"cannot be rendered: {shorten(answer['error'])}.", FIX)
    parts, rest = [], answer["text"]
    if len(rest) > MAX_TEMPLATE_BYTES:
        raise ModelError(where, f"writes {len(rest):,} characters around a few words.", FIX)
    for mark in marks:
        before, came, rest = rest.partition(mark)
        if not came:
            raise ModelError(where, "does not write a message's text as it is.", FIX)
        parts.append(before)
    return [*parts, rest]


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
