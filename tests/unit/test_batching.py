"""How the server cuts what waits into calls of the runtime."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headstart.serve.batching import CALL_TOKENS, PADDED_TOKENS, PAIRS_PER_TOKEN, groups


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
