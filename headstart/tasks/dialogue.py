"""dialogue: the next reply of a chat, measured by ROUGE-L, chrF and token F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from ..core.errors import DataError, shorten
from ..core.reader import ChatFormat, Reader
from ..core.task import Columns
from ..core.values import Row
from .writing import chats, columns
from .writing.chats import Message
from .writing.measures import Length, Likelihood, Measure, Repetition, TokenF1
from .writing.overlap import Chrf
from .writing.pairs import Pair
from .writing.rouge import Rouge
from .writing.task import WritingTask


@dataclass(frozen=True)
class Dialogue(WritingTask):
    """The assistant's next reply. A chat that is too long loses its oldest turns, never the latest.

    metric: what the verdict is of.
    """

    name: ClassVar = "dialogue"
    source: ClassVar = "messages"
    target: ClassVar = "reply"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "metric")
    examples: ClassVar = (
        {"messages": [{"role": "user", "content": "Is the shop open today?"}], "reply": "Yes, until six."},
        {"messages": [{"role": "system", "content": "You sell shoes."}, {"role": "user", "content": "Hello!"},
                      {"role": "assistant", "content": "Hello, how can I help?"},
                      {"role": "user", "content": "I need boots."}], "reply": "Which size do you wear?"},
        {"messages": [{"role": "user", "content": "Where is my order?"}], "reply": "It arrives tomorrow."},
    )

    metric: Literal["rouge_1", "rouge_2", "rouge_l"] = "rouge_l"

    @property
    def columns(self) -> Columns:
        return columns.dialogue()

    def normalized(self, row: Row) -> tuple[Row, str]:
        return chats.parted(row), ""

    def check(self, row: Row) -> str | None:
        return columns.flaw_of_dialogue(row) or self.flaw_of_beginning(row)

    def learn(self, rows: Sequence[Row]) -> Self:
        without = [row["messages"] for row in rows if "reply" not in row]
        if without and all("messages" in row for row in rows):
            last = shorten(without[0][-1]["content"])
            raise DataError("messages", f"end with another's turn than the assistant's in {len(without):,} of "
                            f"{len(rows):,} rows, the first with {last}: there is no reply to learn.",
                            "End each chat with the assistant's turn, or name the column of replies: --set "
                            "data.columns.reply=NAME")
        return super().learn(rows)

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "messages", "reply")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return Rouge(self.tokenizer), Chrf(), TokenF1(), Length(), Repetition(), Likelihood()

    def prompt_ids(self, row: Row, reader: Reader, room: int) -> tuple[list[int], int]:
        """(the prompt's tokens, how many were cut): the oldest turns give way first; of the last one, its beginning."""
        chat, messages = self.chat_format, list(row["messages"])
        if chat is None or self.template:
            return self._plain_ids(row, reader, room)
        head, turns = _turns(messages, chat, reader)
        n_all = len(head) + sum(map(len, turns))
        while len(turns) > 1 and len(head) + sum(map(len, turns)) > room:
            turns = turns[1:]
        ids = [i for turn in turns for i in turn]
        ids = [*head, *ids[max(0, len(head) + len(ids) - room):]]
        return ids, n_all - len(ids)

    def _plain_ids(self, row: Row, reader: Reader, room: int) -> tuple[list[int], int]:
        """The template's prompt, of as many of the last turns as fit."""
        messages, n_cut = list(row["messages"]), 0
        while True:
            ids, n_over = super().prompt_ids({**row, "messages": messages}, reader, room)
            if not n_over or len(messages) == 1:
                return ids, n_cut + n_over
            n_cut += len(reader.ids(messages[0]["content"]))
            messages = messages[1:]


def _turns(messages: Sequence[Message], chat: ChatFormat, reader: Reader) -> tuple[list[int], list[list[int]]]:
    """(tokens of what stands first, a system message too; tokens of each turn, with what stands behind it)."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    rest = messages[1:] if system is not None else messages

    def special(text: str) -> list[int]:
        return reader.ids(text, has_special=True)

    head = special(chat.first) if system is None else [*special(chat.system), *reader.ids(system),
                                                       *special(chat.after_system)]
    turns = []
    for turn, following in zip(rest, [*rest[1:], None], strict=True):
        is_reply = turn["role"] == "assistant"
        if following is None:
            behind = special(chat.to_reply)
        elif is_reply:
            behind = special(chat.to_user)
        else:  # two who speak one after the other are read as one
            behind = special(chat.to_assistant) if following["role"] == "assistant" else reader.ids("\n")
        turns.append([*reader.ids(turn["content"]), *behind])
    return head, turns
