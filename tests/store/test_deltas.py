"""Git's deltas: applied as Git does (test_packs.py has Git's own), refused when they are none, never more than they may be."""

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_gru.store.deltas import apply_delta, base_offset

LONGEST = 1 << 16


def number(value: int) -> bytes:
    """7 bits a byte, lowest first."""
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def copy(begin: int, length: int) -> bytes:
    """The instruction that copies a piece of the base: its numbers without their zero bytes."""
    op, rest = 0x80, b""
    for at, byte in enumerate([*begin.to_bytes(4, "little"), *length.to_bytes(3, "little")]):
        if byte:
            op |= 1 << at
            rest += bytes([byte])
    return bytes([op]) + rest


PIECES = st.lists(st.one_of(st.binary(min_size=1, max_size=127), st.tuples(st.floats(0, 1), st.floats(0, 1))))


@given(st.binary(min_size=1, max_size=3000), PIECES)
@settings(deadline=None, max_examples=100)
def test_pieces_of_the_base_and_bytes_of_its_own(
    base: bytes, pieces: list[bytes | tuple[float, float]]
) -> None:
    result, body = b"", b""
    for piece in pieces:
        if isinstance(piece, bytes):
            result, body = result + piece, body + bytes([len(piece)]) + piece
        else:
            begin = min(int(piece[0] * len(base)), len(base) - 1)
            length = 1 + int(piece[1] * (len(base) - begin - 1))
            result, body = result + base[begin : begin + length], body + copy(begin, length)
    delta = number(len(base)) + number(len(result)) + body
    assert apply_delta(base, delta, 1 << 30) == result
    for wrong in (delta[:-1], delta + b"\x01", number(len(base) + 1) + number(len(result)) + body):
        with pytest.raises((ValueError, IndexError)):
            apply_delta(base, wrong, 1 << 30)


def test_no_length_means_65536_bytes() -> None:
    base = bytes(range(256)) * 300
    assert apply_delta(base, number(len(base)) + number(65536) + b"\x81\x05", 1 << 20) == base[5:65541]


def test_the_longest_result() -> None:
    delta = number(4) + number(8) + copy(0, 4) * 2
    assert apply_delta(b"base", delta, 8) == b"basebase"
    with pytest.raises(ValueError, match="claims 8 bytes"):
        apply_delta(b"base", delta, 7)


@given(st.binary(max_size=40), st.binary(max_size=60), st.integers(0, 300))
@example(b"", b"", 0)
@settings(deadline=None, max_examples=300)
def test_random_bytes(base: bytes, body: bytes, size: int) -> None:
    for delta in (body, number(len(base)) + number(size) + body):
        with contextlib.suppress(ValueError, IndexError):
            assert len(apply_delta(base, delta, LONGEST)) <= LONGEST


@given(st.binary(min_size=1, max_size=20), st.integers(0, 1 << 40))
def test_a_base_is_before_its_delta(head: bytes, offset: int) -> None:
    with contextlib.suppress(ValueError, IndexError):
        base, length = base_offset(head, offset)
        assert 0 < base < offset
        assert 0 < length <= len(head)


@pytest.mark.parametrize(
    ("head", "back"), [(b"\x01", 1), (b"\x7f", 127), (b"\x80\x00", 128), (b"\x80\x80\x00", 16512)]
)
def test_how_far_back_a_base_is(head: bytes, back: int) -> None:
    assert base_offset(head + b"rest", 1 << 20) == ((1 << 20) - back, len(head))
