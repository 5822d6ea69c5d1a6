"""Git's own deltas, as they stand in packs that Git made: an object as pieces of another one and bytes of its own.

git-gru writes none; a hub that was repacked by Git sends some. (Deltas of weights are another thing: `codec`.) A damaged or
hostile one is a ValueError or an IndexError, in time and memory bounded by its own length and by the longest result allowed.

Source: gitformat-pack(5), "Deltified representation".
"""

from git_gru.ids import Buffer


def apply_delta(base: Buffer, delta: Buffer, longest: int) -> bytearray:
    """The object that `delta` makes of `base`; at most `longest` bytes."""
    source, at = _size(delta, 0)
    size, at = _size(delta, at)
    if source != len(base) or size > longest:
        raise ValueError(f"a delta of {source} bytes claims {size} bytes")
    view, own, result = memoryview(base), memoryview(delta), bytearray()
    while at < len(delta):
        head, at = delta[at], at + 1
        if (
            head & 0x80
        ):  # a piece of the base: where it begins and how long it is, the bytes that are not zero
            begin, at = _number(delta, at, head & 0x0F)
            length, at = _number(delta, at, head >> 4 & 0x07)
            piece, length = view[begin : begin + (length or 0x10000)], length or 0x10000
        else:
            piece, length = own[at : at + head], head
            at += head
        if len(piece) != length or not length or len(result) + length > size:
            raise ValueError("a delta goes beyond its base or its result")
        result += piece
    if len(result) != size:
        raise ValueError("a delta ends early")
    return result


def base_offset(head: bytes, offset: int) -> tuple[int, int]:
    """(where the base's entry begins, how many bytes say so) for the entry at `offset`, whose header `head` follows.

    7 bits a byte, highest first, one added for each byte but the last.
    """
    at, back = 0, head[0] & 0x7F
    while head[at] & 0x80:
        at += 1
        back = (back + 1) << 7 | head[at] & 0x7F
    if not 0 < back < offset:
        raise ValueError("a delta's base is not before it")
    return offset - back, at + 1


def _size(delta: Buffer, at: int) -> tuple[int, int]:
    """A length, 7 bits a byte, lowest first; and where it ends."""
    value = shift = 0
    while True:
        byte, at = delta[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            return value, at


def _number(delta: Buffer, at: int, present: int) -> tuple[int, int]:
    """A number of whose bytes, lowest first, those are written whose bits are set in `present`; and where it ends."""
    value = 0
    for byte in range(4):
        if present >> byte & 1:
            value |= delta[at] << 8 * byte
            at += 1
    return value, at
