"""Sparse messages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.train.sync.sparse import GROUP, SPAN, packed, unpacked


@given(st.integers(1, 3 * SPAN + 9), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_message_says_the_places_exactly_and_the_values_in_eight_bits(
    length: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = max(1, round(share * length))
    places = torch.randperm(length, generator=generator)[:count].sort().values
    values = torch.randn(count, generator=generator)
    message, said = packed(values, places, length)
    assert message.dtype is torch.uint8
    assert len(message) == 2 * count + -(-length // SPAN) + 4 * -(-count // GROUP)
    found, there = unpacked(message, length, count, torch.float32)
    assert torch.equal(there, places)
    assert torch.equal(found, said)
    for first in range(0, count, GROUP):
        group = values[first : first + GROUP]
        assert (said[first : first + GROUP] - group).abs().max() <= group.abs().max() / 127 * 0.5001


@pytest.mark.parametrize("length", [SPAN, 2 * SPAN, 2 * SPAN + 1])
def test_full_spans(length: int) -> None:
    message, _ = packed(torch.ones(length), torch.arange(length), length)
    values, places = unpacked(message, length, length, torch.float32)
    assert torch.equal(values, torch.ones(length))
    assert torch.equal(places, torch.arange(length))


def test_what_is_no_number_stays_none() -> None:
    values = torch.ones(2 * GROUP)
    values[3] = torch.nan
    message, _ = packed(values, torch.arange(len(values)), len(values))
    found, _ = unpacked(message, len(values), len(values), torch.float32)
    assert found[3].isnan()
    assert torch.equal(found[GROUP:], values[GROUP:])
