"""Rows in, texts out, through any runtime that can step: what `predict` does for tasks that write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .decoding import Continuation, log_softmax, write
from .generation import Generation
from .reader import Reader
from .task import Task
from .values import DECODER_IDS, Judge, Prediction, Row, Runtime, Stepper, Window, collate
from .windows import by_length

STOP_TOKENS = 64  # of the end of a text that are looked at for a text that stops it


def predictions(task: Task, rows: Sequence[Row], windows: Sequence[Window], reader: Reader, stepper: Stepper,
                tokens_per_batch: int, each: Callable[[int], None] = lambda _n: None,
                judge: Judge | None = None) -> list[Prediction]:
    """The answer to each row, in order; `windows` are the rows' prompts, one each. each: called with rows done.

    judge: as for `judged`.
    """
    written = continuations(task, rows, windows, reader, stepper, tokens_per_batch, each, judge)
    answers = [prediction(task, row, reader, of_row) for row, of_row in zip(rows, written, strict=True)]
    return judged(task, rows, answers, judge)


def prediction(task: Task, row: Row, reader: Reader, written: Continuation) -> Prediction:
    """The answer that a continuation of a row's prompt is."""
    return task.written(row, reader.target.text(written.ids), written.is_complete)


def judged(task: Task, rows: Sequence[Row], answers: Sequence[Prediction], judge: Judge | None) -> list[Prediction]:
    """The answers, with the "label" of each text whose row asks for one. judge: None leaves them as they are."""
    chosen = [i for i, row in enumerate(rows) if judge is not None and task.label_asked(row)]
    labels = judge([answers[i]["text"] for i in chosen]) if judge is not None and chosen else []
    with_label = dict(zip(chosen, labels, strict=True))
    return [{**answer, "label": with_label[i]} if i in with_label else answer for i, answer in enumerate(answers)]


def continuations(task: Task, rows: Sequence[Row], windows: Sequence[Window], reader: Reader, stepper: Stepper,
                  tokens_per_batch: int, each: Callable[[int], None] = lambda _n: None,
                  judge: Judge | None = None) -> list[Continuation]:
    """What is written behind the prompt of each row, in order; batches are of prompts of like length.

    tokens_per_batch: of prompts and of all that may be written, each beam and candidate counted.
    """
    how, target = generation_of(task), reader.target
    lengths_N = np.fromiter((len(window) for window in windows), np.int64, len(windows))
    limits = [max(1, min(how.max_new_tokens, target.max_tokens - len(window.inputs.get(DECODER_IDS, window))))
              for window in windows]
    sizes_N = (lengths_N + np.asarray(limits, np.int64)) * how.n_at_once
    done: dict[int, Continuation] = {}
    for chosen in by_length(sizes_N, np.arange(len(windows)), tokens_per_batch):
        inputs = {name: [windows[i].inputs[name] for i in chosen] for name in windows[chosen[0]].inputs}
        asked = [rows[i] for i in chosen for _ in range(how.candidates)]
        texts = write(stepper, collate(inputs, {}, reader.pad_id).inputs, how, ends=task.ends(target),
                      limits_B=[limits[i] for i in chosen], is_stopped=_stop(how, target),
                      constraints_C=[task.constraint(row, target) for row in asked])
        done |= dict(zip(chosen.tolist(), _best(task, asked, texts, reader, judge), strict=True))
        each(len(chosen))
    return [done[i] for i in range(len(windows))]


def _best(task: Task, rows: Sequence[Row], texts: Sequence[Continuation], reader: Reader,
          judge: Judge | None) -> list[Continuation]:
    """Of each row's candidates the one that keeps to most of what it asks for; of equals the likeliest, then the first.

    rows: of each text its own.
    """
    how = generation_of(task)
    if how.candidates == 1:
        return list(texts)
    answers = judged(task, rows, [prediction(task, row, reader, text) for row, text in zip(rows, texts, strict=True)],
                     judge)
    ranks = [(task.n_unmet(row, answer), -text.value(how.length_penalty))
             for row, answer, text in zip(rows, answers, texts, strict=True)]
    return [texts[min(range(first, first + how.candidates), key=ranks.__getitem__)]
            for first in range(0, len(texts), how.candidates)]


def generation_of(task: Task) -> Generation:
    """How a task that writes does it."""
    assert task.generation is not None, f"{task.name} writes nothing"
    return task.generation


def _stop(how: Generation, reader: Reader) -> Callable[[Sequence[int]], bool] | None:
    if not how.stop:
        return None
    return lambda ids: any(text in reader.text(ids[-STOP_TOKENS:]) for text in how.stop)


def log_probabilities(task: Task, row: Row, ids: Sequence[int], reader: Reader, runtime: Runtime) -> list[float]:
    """Of each of `ids`, were they written behind the row's prompt: read in one pass, nothing is written."""
    window, = task.encode(0, task.without_gold(row), reader)
    inputs = {name: [values] for name, values in task.continued(window.inputs, ids).items()}
    log_p_MV = log_softmax(runtime.logits(collate(inputs, {}, reader.pad_id).inputs))
    return [float(log_p_V[i]) for log_p_V, i in zip(log_p_MV, ids, strict=True)]
