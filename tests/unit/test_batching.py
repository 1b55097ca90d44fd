"""How the server cuts what waits into calls of the runtime."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headstart.serve.batching import CALL_TOKENS, PADDED_TOKENS, groups


def cost(lengths: list[int], cuts: list[slice]) -> int:
    return sum(CALL_TOKENS + (cut.stop - cut.start) * lengths[cut.stop - 1] for cut in cuts)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=9).map(sorted))
def test_no_other_cut_costs_less(lengths):
    found = groups(lengths)
    assert [i for cut in found for i in range(cut.start, cut.stop)] == list(range(len(lengths)))
    for inner in itertools.product((False, True), repeat=len(lengths) - 1):
        ends = [i + 1 for i, is_end in enumerate(inner) if is_end] + [len(lengths)]
        cuts = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        if all((cut.stop - cut.start) * lengths[cut.stop - 1] <= PADDED_TOKENS for cut in cuts):
            assert cost(lengths, found) <= cost(lengths, cuts)


def test_like_lengths_are_one_call_and_a_long_text_stands_alone():
    assert groups([10] * 16) == [slice(0, 16)]
    assert groups([10, 11, 12, 300]) == [slice(0, 3), slice(3, 4)]
    assert groups([5000]) == [slice(0, 1)]
    assert groups([]) == []
