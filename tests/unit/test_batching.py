"""How the server makes batches of what waits, and cuts them into calls of the runtime."""

from __future__ import annotations

import asyncio
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from headstart import tasks
from headstart.core.values import Stepper
from headstart.readers.text import TextReader
from headstart.serve.batching import CALL_TOKENS, PADDED_TOKENS, PAIRS_PER_TOKEN, Batcher, groups
from headstart.serve.measures import Measures
from headstart.serve.settings import Settings


def cost(lengths: list[int], cuts: list[slice], skips_padding: bool) -> float:
    total = 0.0
    for cut in cuts:
        longest, n = lengths[cut.stop - 1], cut.stop - cut.start
        own = sum(lengths[cut]) + n * longest**2 / PAIRS_PER_TOKEN if skips_padding else n * longest
        total += CALL_TOKENS + own
    return total


@given(st.lists(st.integers(1, 512), min_size=1, max_size=9).map(sorted), st.booleans())
def test_no_other_cut_costs_less(lengths, skips_padding):
    found = groups(lengths, skips_padding)
    assert [i for cut in found for i in range(cut.start, cut.stop)] == list(range(len(lengths)))
    for inner in itertools.product((False, True), repeat=len(lengths) - 1):
        ends = [i + 1 for i, is_end in enumerate(inner) if is_end] + [len(lengths)]
        cuts = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        if all((cut.stop - cut.start) * lengths[cut.stop - 1] <= PADDED_TOKENS for cut in cuts):
            assert cost(lengths, found, skips_padding) <= cost(lengths, cuts, skips_padding) + 1e-6


def test_like_lengths_are_one_call_and_a_long_text_stands_alone():
    assert groups([10] * 16) == [slice(0, 16)]
    assert groups([10, 11, 12, 300]) == [slice(0, 3), slice(3, 4)]
    assert groups([8, 10, 12, 30], skips_padding=True) == [slice(0, 4)]
    assert groups([8, 10, 12, 300], skips_padding=True) == [slice(0, 3), slice(3, 4)]
    assert groups([5000]) == [slice(0, 1)]
    assert groups([]) == []


def test_clients_that_were_answered_together_are_answered_together_again():
    n_clients, n_times, n_rows = 4, 8, list[int]()

    class Slow:
        skips_padding = False

        def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
            n_rows.append(len(inputs["input_ids"]))
            time.sleep(0.03)
            return np.zeros((n_rows[-1], 2))

        def stepper(self) -> Stepper:
            raise NotImplementedError

    kind = tasks.find("text-classification")
    reader = TextReader(Tokenizer(models.WordLevel({"?": 0}, "?")), 8, 0)
    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("one", kind().learn(kind.examples), reader, Slow(), Settings(()), Measures(), thread, thread)

        async def ask(i: int) -> None:
            for _ in range(n_times):
                await batcher.answer([{"text": f"client {i}"}])
                await asyncio.sleep(0.0005 * i)  # the slowest is back after half of what a batch waits for company

        async def ask_all() -> None:
            await asyncio.gather(*map(ask, range(1, n_clients + 1)))

        asyncio.run(ask_all())
    assert sum(n_rows) == n_clients * n_times
    assert np.mean(n_rows) > 0.75 * n_clients
