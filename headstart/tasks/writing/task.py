"""What every task that writes does alike: prompt and target as one window, texts as answers, measures, baselines.

A window of a causal model is prompt + target; `predicts` is 1 where the next token is one of the target's, so logits of
a prompt are never computed. Of an encoder-decoder the prompt is what the encoder reads, and the target what its decoder
goes on with. Only the prompt is ever cut, and counted; a target that does not fit is a complaint.

Shape suffixes: B windows, T tokens, M target tokens of a batch, V vocabulary, N rows, C numbers a row.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ...core.errors import SpecError, shorten
from ...core.generation import Generation
from ...core.reader import ChatFormat, Reader
from ...core.task import Architecture, Head, Task
from ...core.values import DECODER_IDS, IGNORE, PREDICTS, Constraint, Prediction, Row, Window
from . import measures
from .baselines import BASELINES, TITLES, names_for
from .constraints import beginning
from .control import Control
from .measures import Measure, Written
from .pairs import Pair, check_pairs
from .rouge import tokenizer_of
from .template import Kind, Template, default_template

if TYPE_CHECKING:
    import torch

MIN_SOURCE_TOKENS = 16  # of a prompt that are read whatever else wants room
N_EXAMPLES = 4  # texts shown of each place: worst, median, best
N_TEXTS = 2_000  # targets that tell how words are told apart


@dataclass(frozen=True)
class WritingTask(Task):
    """Abstract: a text for a row.

    template:    the prompt, with columns in braces; "": the task's own.
    chat:        whether the prompt stands in the model's own chat format, where it has one: with all that its
                 template writes, a system message too, if it brings one (SmolLM2's does: "You are a helpful AI
                 assistant named SmolLM, ..."), for so it was taught. A chat's own system message takes its place.
    decoding:    how texts are written.
    prompt:      the template that is used.               chat_format: what stands around it; None: nothing.
    ends_with:   the tokens that end a text; the first one is learned.
    begins_with: the tokens that a decoder's text begins with; (): it goes on from the prompt, in one window.
    tokenizer:   how texts are cut into words where they are measured.
    """

    needs_windows: ClassVar = False
    gives_parts: ClassVar = True
    architectures: ClassVar[tuple[Architecture, ...]] = ("causal", "encoder-decoder")
    options: ClassVar[tuple[str, ...]] = ("template", "chat", "decoding")
    baseline_titles: ClassVar = TITLES
    source: ClassVar[str]
    target: ClassVar[str]

    template: str = ""
    chat: bool = True
    decoding: Generation = field(default_factory=Generation)
    prompt: str = ""
    chat_format: ChatFormat | None = None
    ends_with: tuple[int, ...] = ()
    begins_with: tuple[int, ...] = ()
    tokenizer: Literal["rouge-score", "words"] = "rouge-score"

    # ------------------------------------------------------------------------------------------- what a task says

    @property
    @abc.abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """What its texts are measured by; the first one's scores order the examples of a report."""

    @abc.abstractmethod
    def pair(self, row: Row) -> Pair:
        """A sound row as what is read and what may be written."""

    def targets_of(self, row: Row) -> Sequence[str]:
        return self.pair(row).targets

    def own_template(self, kind: Kind) -> Template:
        """The prompt where none is set, for a model of this kind."""
        return default_template(self.name, kind=kind)

    # --------------------------------------------------------------------------------------------------- settings

    @property
    def generation(self) -> Generation:
        return self.decoding

    @property
    def head(self) -> Head:
        return Head("language-model", 0, "AutoModelForCausalLM")

    @property
    def defaults(self) -> dict[str, Any]:
        return {"data": {"max_tokens": 512}, "evaluate": {"tokens_per_batch": 4096},
                "train": {"tokens_per_batch": 2048, "tokens_per_micro_batch": 1024, "epochs": 3}}

    @property
    def overrides(self) -> dict[str, Any]:
        return {"train": {"label_smoothing": 0.0}}  # a share for each of fifty thousand tokens makes no text better

    def check_backbone(self, architecture: Architecture, width: int) -> None:
        if architecture not in self.architectures:
            raise SpecError("backbone", f'is an {architecture}, which writes nothing; task "{self.name}" needs a '
                            "causal language model, or an encoder and a decoder.", "Take the shelf's: headstart models "
                            "get smollm2-135m, then --backbone smollm2-135m. Or let a decoder be put beside this one: "
                            "--set encoder_decoder.encoder=minilm-l6")

    def learn(self, rows: Sequence[Row]) -> Self:
        template = Template.parse(self.template) if self.template else self.own_template("plain")
        template.check([*self.columns.rules, *(column for row in rows[:1] for column in row)], self.columns.gold)
        pairs = list(map(self.pair, rows))
        check_pairs(pairs, self.source, self.target)
        texts = [target for pair in pairs[:N_TEXTS] for target in pair.targets]
        return replace(self, tokenizer=tokenizer_of(texts), prompt=str(template))

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        return [(i, f'has no "{self.target}" to be measured by') for i, row in enumerate(rows)
                if not self.pair(row).targets]

    def flaw_of_learned(self) -> str | None:
        try:
            Template.parse(self.prompt)
        except SpecError as error:
            return f"prompt {error.what.rstrip('.')}"
        return next((f"{name} is {shorten(ids)}" for name, ids in (("ends_with", self.ends_with), (
            "begins_with", self.begins_with)) if any(i < 0 for i in ids)), None)

    def fitted_to(self, reader: Reader, chat_format: Callable[[], ChatFormat | None]) -> Self:
        """With the model's own chat format, and a prompt that suits it."""
        begins = tuple(reader.begin_ids)
        chat = chat_format() if self.chat and not begins else None
        ends = list(reader.target.end_ids)
        if chat is not None:
            before = reader.ids(chat.end.strip(), has_special=True)[:1]
            ends = [*(i for i in before if not reader.text([i])), *ends]
        if not ends:
            raise SpecError("backbone", "names no token that ends a text (eos_token_id in its config.json is empty), "
                            "so no text would ever end.", "Take the model's whole folder, or another model.")
        kind: Kind = "encoder-decoder" if begins else "plain" if chat is None else "chat"
        prompt = self.prompt if self.template else str(self.own_template(kind))
        fitted = replace(self, prompt=prompt, chat_format=chat, ends_with=tuple(dict.fromkeys(ends)),
                         begins_with=begins)
        n_fixed = fitted._n_fixed(reader)
        if n_fixed + MIN_SOURCE_TOKENS + fitted._reserve(reader) > reader.max_tokens:
            raise SpecError("task.template", f"takes {n_fixed:,} tokens of every window of {reader.max_tokens:,}, and "
                            f"{fitted._reserve(reader):,} are for what is written: nothing is left for a row.",
                            f"Shorten it, or --set data.max_tokens={n_fixed + 4 * self.decoding.max_new_tokens}")
        return fitted

    def ends(self, reader: Reader) -> frozenset[int]:
        return frozenset(self.ends_with or reader.target.end_ids)

    # ---------------------------------------------------------------------------------------------------- windows

    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        target = self.target_ids(row, reader)
        taken = 0 if self.begins_with else max(len(target), self._reserve(reader))
        prompt, n_cut = self.prompt_ids(row, reader, max(1, reader.max_tokens - taken))
        inputs: dict[str, Any] = {"input_ids": prompt or [reader.pad_id]}
        if self.begins_with:
            inputs[DECODER_IDS] = [*self.begins_with]
        n_before = len(inputs[self._goes_on]) - 1
        size = sum(map(len, inputs.values())) + len(target) if self.begins_with else 0
        inputs = self.continued(inputs, target) if target else {**inputs, PREDICTS: [0] * n_before + [1]}
        labels = {"labels": [IGNORE] * n_before + target} if target else {}
        return [Window(i, inputs, labels, {"n_cut_tokens": n_cut}, size)]

    @property
    def _goes_on(self) -> str:
        """The input that what is written goes on from."""
        return DECODER_IDS if self.begins_with else "input_ids"

    def continued(self, prompt: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        before = list(prompt[self._goes_on])
        # The last token is only ever predicted; nothing follows it.
        return {**prompt, self._goes_on: before + list(ids[:-1]), PREDICTS: [0] * (len(before) - 1) + [1] * len(ids)}

    # --------------------------------------------------------------------------------------------------- beginnings

    def prefix(self, row: Row) -> str:
        """What a text written for a row begins with, by force."""
        return self.decoding.prefix

    def prefix_ids(self, row: Row, reader: Reader) -> list[int]:
        """The same as tokens."""
        prefix = self.prefix(row)
        return reader.ids(self._lead + prefix) if prefix else []

    def constraint(self, row: Row, reader: Reader) -> Constraint | None:
        return beginning(self.prefix_ids(row, reader), reader)

    def flaw_of_beginning(self, row: Row) -> str | None:
        """What is wrong with targets that do not begin as every text must; None when nothing is."""
        prefix, targets = self.decoding.prefix, self.pair(row).targets if self.decoding.prefix else ()
        other = next((target for target in targets if not target.strip().startswith(prefix)), None)
        if other is None:
            return None
        return (f'"{self.target}" is {shorten(other)}; it must begin with {shorten(prefix)}, as task.decoding.prefix '
                "has every text begin: let it, or put these words at the end of task.template, where they are no part "
                "of an answer")

    def flaw_of_prefix(self, row: Row, reader: Reader) -> str | None:
        """Why this model cannot begin a text as the row asks; None where it can."""
        prefix, ids = self.prefix(row), self.prefix_ids(row, reader)
        if len(ids) >= self.decoding.max_new_tokens:
            return f"takes {len(ids):,} tokens, and {self.decoding.max_new_tokens:,} may be written"
        if prefix and (read := reader.text(ids).strip()) != prefix:
            return f"is {shorten(read)} to this model's tokenizer"
        return None

    # ------------------------------------------------------------------------------------------------------ targets

    def target_ids(self, row: Row, reader: Reader) -> list[int]:
        """What is learned of a row, with the token that ends it; [] when predicting."""
        targets = self.pair(row).targets
        if not targets:
            return []
        end = next(iter(self.ends_with or reader.target.end_ids), None)
        return [*reader.target.ids(self._lead + targets[0].strip()), *([] if end is None else [end])]

    @property
    def _lead(self) -> str:
        """A blank where the prompt ends in a word or a sign: tokens of running text begin with it."""
        has_gap = self.chat_format is not None or self.prompt[-1:].isspace() or not self.prompt or self.begins_with
        return "" if has_gap else " "

    def prompt_ids(self, row: Row, reader: Reader, room: int) -> tuple[list[int], int]:
        """(the prompt's tokens, how many were cut): the source gives way first, from its end, then other columns."""
        pieces = [(column, reader.ids(text, has_special=not column)) for text, column in self.pieces(row)]
        pieces = [("", list(ids)) for ids in (self._before(reader),)] + pieces + [("", self._behind(reader))]
        n_over = max(0, sum(len(ids) for _, ids in pieces) - room)
        n_cut = 0
        for k in sorted(range(len(pieces)), key=lambda k: (pieces[k][0] != self.source, -len(pieces[k][1]))):
            column, ids = pieces[k]
            n = min(len(ids), n_over - n_cut) if column else 0
            pieces[k] = (column, ids[: len(ids) - n])
            n_cut += n
        return [i for _, ids in pieces for i in ids], n_cut

    @property
    def template_read(self) -> Template:
        """The template that is used."""
        return Template.parse(self.prompt) if self.prompt else self.own_template("plain")

    def pieces(self, row: Row) -> list[tuple[str, str]]:
        """(text, the column it is from or "") of a row's prompt, in their order."""
        return self.template_read.pieces(row)

    def _before(self, reader: Reader) -> list[int]:
        chat = self.chat_format
        return list(reader.start_ids) if chat is None else reader.ids(chat.first, has_special=True)

    def _behind(self, reader: Reader) -> list[int]:
        chat = self.chat_format
        if chat is None:
            return list(reader.close_ids) if self.begins_with else []
        return reader.ids(chat.to_reply, has_special=True)

    def _n_fixed(self, reader: Reader) -> int:
        """Tokens of a prompt that are the same for every row."""
        parts = [text for text, column in Template.parse(self.prompt).parts if not column]
        return len(self._before(reader)) + len(self._behind(reader)) + sum(
            len(reader.ids(text, has_special=True)) for text in parts)

    def _reserve(self, reader: Reader) -> int:
        """Tokens of a window that are kept for what is written."""
        return 0 if self.begins_with else min(self.decoding.max_new_tokens, reader.max_tokens // 2)

    def check_read(self, rows: Sequence[Row], reader: Reader) -> list[tuple[int, str]]:
        n_before = len(self.begins_with) or self._n_fixed(reader) + MIN_SOURCE_TOKENS
        room = reader.target.max_tokens - n_before
        lengths = [len(self.target_ids(row, reader)) for row in rows]
        flaws = [(i, f"must begin with {shorten(self.prefix(row))}, which {flaw}") for i, row in enumerate(rows)
                 if (flaw := self.flaw_of_prefix(row, reader.target))]
        return flaws + [(i, f'"{self.target}" takes {n:,} tokens; beside the prompt {room:,} fit into a window of '
                    f"{reader.target.max_tokens:,}") for i, n in enumerate(lengths) if n > room]

    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """logits_MV, and labels_M of the same tokens: both go row by row."""
        labels_BT = target["labels"]
        return logits, labels_BT[labels_BT != IGNORE]

    # ---------------------------------------------------------------------------------------------------- answers

    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        raise NotImplementedError("its answers are written: core/writing.py")

    def written(self, row: Row, text: str, is_complete: bool) -> Prediction:
        for stop in self.decoding.stop:
            text = text.partition(stop)[0]
        return {"text": text.strip(), "is_complete": is_complete}

    def _written(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Iterator[Written]:
        for prediction, row in zip(predictions, rows, strict=True):
            pair, control = self.pair(row), Control.of(row.get("control"))
            yield Written(prediction.get("text", ""), pair.targets, pair.source,
                          prediction.get("negative_log_likelihood", 0.0), prediction.get("n_tokens", 0),
                          control if isinstance(control, Control) else None, prediction.get("label", ""))

    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """[N, 1 + C]: see measures.outcomes."""
        return measures.outcomes(self.measures, self._written(predictions, rows))

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        return measures.scores(self.measures, outcomes)

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        learned, to_answer = list(map(self.pair, train)), list(map(self.pair, map(self.without_gold, test)))
        for name in names_for(self.name, to_answer):
            texts = BASELINES[name](learned, to_answer, seed)
            yield name, [{"text": text} for text in texts]

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        """Texts side by side: the worst, those about the median, the best. JSON values."""
        measure, name = self.measures[0], self.metric
        written = list(self._written(predictions, rows))
        values = [measure.scores(np.asarray(measure.outcomes(of_row), np.float64), 1).get(name, 0.0)
                  for of_row in written]
        order = sorted(range(len(written)), key=lambda i: (values[i], i))
        n, half = min(N_EXAMPLES, (len(order) + 2) // 3), len(order) // 2
        places = {"worst": order[:n], "median": order[max(0, half - n // 2):][:n], "best": order[::-1][:n]}
        cut = sum(not prediction.get("is_complete", True) for prediction in predictions)
        examples = [{"place": place, "source": written[i].source, "reference": " | ".join(written[i].references),
                     "written": written[i].text, "before": str(predictions[i].get("before", "")),
                     "score": round(values[i], 6)} for place, chosen in places.items() for i in chosen]
        return {"examples": examples,
                "n_incomplete": cut, "signatures": [m.signature for m in self.measures],
                **measures.distinct(of_row.text for of_row in written)}
