"""Chats in the shapes that files have, as one: [{"role": "user", "content": "Hello"}, ...].

    {"messages":      [{"role": "user", "content": ...}]}            OpenAI; content may be a list of text parts
    {"conversations": [{"from": "human", "value": ...}]}             ShareGPT
    {"turns":         [{"speaker": "customer", "text": ...}]}        STAR; a turn without a text may have an "item"
    {"dialog":        ["Hello", "Hi, how can I help?"]}              DailyDialog: turns of two who alternate

Roles are system, user, assistant and tool. The reply that is learned is the last turn, if it is the assistant's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import DataError, nearest, shorten
from ...core.untrusted import parse_json
from ...core.values import Row
from ...data.columns import normal_name

Message = dict[str, str]  # role, content

MAX_TURNS = 2_000
ROLES: Mapping[str, tuple[str, ...]] = {
    "system": ("system", "developer"),
    "user": ("user", "human", "customer", "client", "caller", "visitor", "student", "patient", "seeker", "usr", "用户",
             "prompter", "inquirer"),
    "assistant": ("assistant", "gpt", "agent", "bot", "model", "chatgpt", "operator", "wizard", "helper", "tutor",
                  "doctor", "ai", "sys", "客服", "助手"),
    "tool": ("tool", "function", "function_response", "observation", "knowledge", "ipython", "environment")}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_WHO, _WHAT = ("role", "from", "speaker", "sender", "author"), ("content", "value", "text", "utterance", "message")


def read_chat(value: Any) -> list[Message] | str:
    """A chat of any of the shapes, or its JSON text; what is wrong with it, in words that follow the column's name."""
    if isinstance(value, str):
        try:
            value = parse_json(value, "chat", DataError)
        except DataError as error:
            return f"is {shorten(value)}: {error.what.rstrip('.')}; it must be a list of turns"
    if not isinstance(value, list | tuple) or not value:
        return f"is {shorten(value)}; it must be a list of turns, and not empty"
    if len(value) > MAX_TURNS:
        return f"has {len(value):,} turns; at most {MAX_TURNS:,} are read"
    if all(isinstance(turn, str) for turn in value):
        return _alternating(value)
    messages = []
    for n, turn in enumerate(value, 1):
        message = _message(turn)
        if isinstance(message, str):
            return f"has a turn {n} that {message}"
        messages.append(message)
    return messages


def _alternating(turns: Sequence[str]) -> list[Message] | str:
    """Two who take turns, seen from the last turn: it is the assistant's where somebody spoke before."""
    empty = next((n for n, turn in enumerate(turns, 1) if not turn.strip()), None)
    if empty:
        return f"has an empty turn {empty}"
    return [{"role": "user" if (len(turns) - i) % 2 == 0 else "assistant", "content": turn}
            for i, turn in enumerate(turns)]


def _message(turn: Any) -> Message | str:
    """One turn, or what is wrong with it, in words that follow "a turn that"."""
    if not isinstance(turn, Mapping):
        return f"is {shorten(turn)}; it must be an object with a role and a content"
    who = next((key for key in _WHO if key in turn), None)
    if who is None:
        return f'has no "role" (nor {", ".join(_WHO[1:])})'
    name = turn[who]
    role = _ROLE_OF.get(normal_name(name)) if isinstance(name, str) else None
    if role is None:
        return f"has the {who} {shorten(name)}; {nearest(str(name), _ROLE_OF)}"
    content = _content(turn)
    if not isinstance(content, str):
        return f"has the content {shorten(content)}; it must be text"
    return {"role": role, "content": content} if content.strip() else f"is the {role}'s and has no text"


def _content(turn: Mapping[str, Any]) -> Any:
    value = next((turn[key] for key in _WHAT if turn.get(key) is not None), None)
    if isinstance(value, list | tuple) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str)
                                               for part in value):
        return "\n".join(part["text"] for part in value)
    if value is None and isinstance(item := turn.get("item"), Mapping):  # what a knowledge base answered
        return "; ".join(f"{key}: {part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)}"
                         for key, part in item.items())
    return "" if value is None else value


def flaw_of_chat(messages: Sequence[Message], reply: str | None) -> str | None:
    """What is wrong with a chat that a reply ends (None: when predicting), in words that follow the column's name."""
    turns = [*messages, *([{"role": "assistant", "content": reply}] if reply is not None else [])]
    for n, (first, second) in enumerate(itertools.pairwise(turns), 1):
        if first["role"] == second["role"] == "assistant":
            return f"has the assistant's turns {n} and {n + 1} in a row; a reply must answer somebody: join the two"
        if n > 1 and first["role"] == "system":
            return f"has a system turn {n}; it must be the first"
    before = messages[:-1] if reply is None and messages[-1]["role"] == "assistant" else messages
    if not any(turn["role"] != "system" for turn in before):
        return "has nothing before the reply; somebody must speak first"
    return None


def parted(row: Row) -> Row:
    """A row with `messages`, `context` or a reply as {"messages": [...], "reply": str}; as it is where that fails.

    A chat that ends with the assistant's turn gives the reply; any other has none, and nothing of it is cut.
    """
    if "messages" not in row and "context" in row:
        context = row["context"]
        chat = [{"role": "user", "content": context}] if isinstance(context, str) and context.strip() else None
        if isinstance(context, list | tuple) and all(isinstance(turn, str) and turn.strip() for turn in context):
            # The reply comes next: seen from there, the last turn of the context is the user's.
            chat = [{"role": "user" if (len(context) - i) % 2 else "assistant", "content": turn}
                    for i, turn in enumerate(context)]
        if not chat:
            return row
        rest = {column: value for column, value in row.items() if column != "context"}
        return {"messages": chat, **rest}
    messages = read_chat(row.get("messages"))
    if isinstance(messages, str):
        return row
    if "reply" not in row and len(messages) > 1 and messages[-1]["role"] == "assistant":
        return {**row, "messages": messages[:-1], "reply": messages[-1]["content"]}
    return {**row, "messages": messages}


def replies(messages: Sequence[Message]) -> list[tuple[list[Message], str]]:
    """(the turns before, reply) of every turn of the assistant that answers somebody, in their order."""
    return [(list(messages[:i]), turn["content"]) for i, turn in enumerate(messages)
            if turn["role"] == "assistant" and any(before["role"] != "system" for before in messages[:i])
            and messages[i - 1]["role"] != "assistant"]
