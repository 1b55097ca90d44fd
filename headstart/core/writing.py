"""Rows in, texts out, through any runtime that can step: what `predict` does for tasks that write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .decoding import Continuation, log_softmax, write
from .generation import Generation
from .reader import Reader
from .task import Task
from .values import DECODER_IDS, Prediction, Row, Runtime, Stepper, Window, collate
from .windows import by_length

STOP_TOKENS = 64  # of the end of a text that are looked at for a text that stops it


def predictions(task: Task, rows: Sequence[Row], windows: Sequence[Window], reader: Reader, stepper: Stepper,
                tokens_per_batch: int, each: Callable[[int], None] = lambda _n: None) -> list[Prediction]:
    """The answer to each row, in order; `windows` are the rows' prompts, one each. each: called with rows done."""
    written = continuations(task, rows, windows, reader, stepper, tokens_per_batch, each)
    return [prediction(task, row, reader, of_row) for row, of_row in zip(rows, written, strict=True)]


def prediction(task: Task, row: Row, reader: Reader, written: Continuation) -> Prediction:
    """The answer that a continuation of a row's prompt is."""
    return task.written(row, reader.target.text(written.ids), written.is_complete)


def continuations(task: Task, rows: Sequence[Row], windows: Sequence[Window], reader: Reader, stepper: Stepper,
                  tokens_per_batch: int, each: Callable[[int], None] = lambda _n: None) -> list[Continuation]:
    """What is written behind the prompt of each row, in order; batches are of prompts of like length.

    tokens_per_batch: of prompts and of all that may be written, each beam counted.
    """
    how, target = generation_of(task), reader.target
    lengths_N = np.fromiter((len(window) for window in windows), np.int64, len(windows))
    limits = [max(1, min(how.max_new_tokens, target.max_tokens - len(window.inputs.get(DECODER_IDS, window))))
              for window in windows]
    sizes_N = (lengths_N + np.asarray(limits, np.int64)) * how.beams
    done: dict[int, Continuation] = {}
    for chosen in by_length(sizes_N, np.arange(len(windows)), tokens_per_batch):
        inputs = {name: [windows[i].inputs[name] for i in chosen] for name in windows[chosen[0]].inputs}
        texts = write(stepper, collate(inputs, {}, reader.pad_id).inputs, how, ends=task.ends(target),
                      limits_B=[limits[i] for i in chosen], is_stopped=_stop(how, target),
                      constraints_B=[task.constraint(rows[i], target) for i in chosen])
        done |= dict(zip(chosen.tolist(), texts, strict=True))
        each(len(chosen))
    return [done[i] for i in range(len(windows))]


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
