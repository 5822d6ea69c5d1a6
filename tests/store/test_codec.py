"""Encodings: every chunk comes back exactly, every blob is a safetensors file that an independent reader understands."""

import json
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.formats.dtypes import DTYPES, dtype_of
from git_gru.formats.safetensors import write_header
from git_gru.ids import digest
from git_gru.store.chunks import CHUNK_BYTES, LONGEST_CHUNK
from git_gru.store.codec import (
    ChunkDamagedError,
    decode,
    encode_delta,
    encode_plain,
    inspect,
    may_be_nonfinite,
    plain_planes,
)
from git_gru.tensors.arrays import layout_of

BlobReader = Callable[..., tuple[dict[str, str], bytes]]
ALL = [*sorted(DTYPES), "F128_NEW"]
F32_CORNERS = struct.pack(
    "<12I",
    0x7FC00000,  # NaN, quiet
    0xFFC00001,  # NaN with a payload
    0x7F800001,  # NaN, signalling
    0x7F800000,  # Inf
    0xFF800000,  # -Inf
    0x80000000,  # -0.0
    0,
    1,  # smallest denormal
    0x807FFFFF,  # largest negative denormal
    0x00800000,  # smallest normal
    0x7F7FFFFF,  # largest
    0x3F800000,
)


def blob_of(parts: object) -> bytes:
    return b"".join(bytes(part) for part in parts)  # type: ignore[attr-defined]


def round_trip(data: bytes, dtype: str, reader: BlobReader, base: bytes | None = None) -> bytes:
    """Encodes and decodes, by git-gru and by the independent reader; gives the blob."""
    parts = encode_plain(data, dtype) if base is None else encode_delta(data, base, digest(base), dtype)
    blob = blob_of(parts)
    encoding = inspect(blob, where="chunk")
    assert (encoding.codec, encoding.dtype, encoding.nbytes) == (
        "plain" if base is None else "delta",
        dtype,
        len(data),
    )
    assert encoding.base == (None if base is None else digest(base))
    assert bytes(decode(blob, encoding, base, where="chunk")) == data
    meta, theirs = reader(blob, base)
    assert theirs == data
    assert set(meta) == {"codec", "dtype", "bytes"} | (set() if base is None else {"base"})
    return blob


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_every_dtype(dtype: str, count: int, blob_reader: BlobReader) -> None:
    width = dtype_of(dtype).coded_width
    rng = np.random.default_rng(count)
    data, base = rng.bytes(count * width), rng.bytes(count * width)
    round_trip(data, dtype, blob_reader)
    round_trip(data, dtype, blob_reader, base)


@given(st.sampled_from(ALL), st.binary(min_size=1, max_size=100), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_any_bytes(blob_reader: BlobReader, dtype: str, data: bytes, seed: int) -> None:
    # The length need not be a multiple of the element: such a chunk is coded byte by byte.
    round_trip(data, dtype, blob_reader)
    round_trip(data, dtype, blob_reader, np.random.default_rng(seed).bytes(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        F32_CORNERS,
        F32_CORNERS[::-1],
        bytes(4),
        bytes(4000),
        b"\xff" * 4000,
        struct.pack("<f", 0.1) * 50_000,
        np.random.default_rng(0).bytes(400_000),
        np.where(np.arange(100_000) % 10, 0, np.arange(100_000)).astype("<f4").tobytes(),
        b"text that repeats, text that repeats. " * 4000,
    ],
    ids=["corners", "reversed", "one zero", "zeros", "ones", "constant", "random", "pruned", "text"],
)
@pytest.mark.parametrize("dtype", ["F32", "U32", "BF16", "F8_E4M3", "U8"])
def test_kinds_of_content(data: bytes, dtype: str, blob_reader: BlobReader) -> None:
    blob = round_trip(data, dtype, blob_reader)
    assert len(blob) <= len(data) + 600
    same = round_trip(data, dtype, blob_reader, data)
    assert len(same) <= len(data) / 50 + 600
    round_trip(data, dtype, blob_reader, data[::-1])
    round_trip(bytes(len(data)), dtype, blob_reader, data)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_whole_chunk_of_weights(
    dtype: str, weights: Callable[..., bytes], drift: Callable[[bytes, int], bytes], blob_reader: BlobReader
) -> None:
    base = weights(1, CHUNK_BYTES // (4 if dtype == "F32" else 2), dtype)
    data = drift(base, 2) if dtype == "F32" else bytes(np.frombuffer(base, "<u2") ^ np.uint16(1))
    assert len(data) == CHUNK_BYTES
    plain, delta = round_trip(data, dtype, blob_reader), round_trip(data, dtype, blob_reader, base)
    assert len(delta) < len(plain) < 0.9 * len(data)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F8_E5M2", "I32", "U8"])
def test_without_the_extension_the_blobs_are_the_same(
    dtype: str, blob_reader: BlobReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    data, base = rng.bytes(8000), rng.bytes(8000)
    blobs = [round_trip(data, dtype, blob_reader), round_trip(data, dtype, blob_reader, base)]
    monkeypatch.setattr("git_gru.store.transform._c", None)
    assert [round_trip(data, dtype, blob_reader), round_trip(data, dtype, blob_reader, base)] == blobs


def test_encoding_is_a_function_of_the_bytes(weights: Callable[..., bytes]) -> None:
    data = weights(3, 100_000)
    assert blob_of(encode_plain(data, "F32")) == blob_of(encode_plain(bytearray(data), "F32"))
    assert blob_of(encode_plain(data, "F32")) == blob_of(encode_plain(memoryview(data), "F32"))


def test_a_chunk_of_one_element_is_laid_out_as_documented() -> None:
    one = struct.pack("<f", 1.0)
    blob = blob_of(encode_plain(one, "F32"))
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    assert header["__metadata__"] == {"bytes": "4", "codec": "plain", "dtype": "F32"}
    assert safetensors.numpy.load(blob)["plane3"].tolist() == [0x7F]
    assert blob[8 + length :] == b"\0\0\0\x7f"


# ---- hostile and damaged blobs ----------------------------------------------------------------------------------------

PLAIN = {"codec": "plain", "dtype": "U8", "bytes": "8"}


def made(metadata: dict[str, str], planes: dict[str, bytes], dtype: str = "U8") -> bytes:
    header = write_header(((name, dtype, [len(data)]) for name, data in planes.items()), metadata)
    return header + b"".join(planes.values())


def damaged(blob: bytes, base: bytes | None = None) -> str:
    with pytest.raises(ChunkDamagedError) as caught:
        decode(blob, inspect(blob, where="chunk abc"), base, where="chunk abc")
    assert str(caught.value).startswith("chunk abc: ")
    return str(caught.value)


def frame(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def test_the_good_ones_pass() -> None:
    for planes in ({"plane0": b"12345678"}, {"plane0.zst": frame(b"12345678")}):
        blob = made(PLAIN, planes)
        assert bytes(decode(blob, inspect(blob, where="x"), None, where="x")) == b"12345678"


@pytest.mark.parametrize(
    ("metadata", "planes"),
    [
        ({**PLAIN, "codec": "xor"}, {"plane0": bytes(8)}),
        ({**PLAIN, "codec": ""}, {"plane0": bytes(8)}),
        ({"dtype": "U8", "bytes": "8"}, {"plane0": bytes(8)}),
        ({**PLAIN, "base": "0" * 64}, {"plane0": bytes(8)}),
        ({**PLAIN, "codec": "delta"}, {"plane0": bytes(8)}),
        ({**PLAIN, "codec": "delta", "base": "0" * 63}, {"plane0": bytes(8)}),
        ({**PLAIN, "codec": "delta", "base": "Z" * 64}, {"plane0": bytes(8)}),
        ({"codec": "plain", "dtype": "U8"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": ""}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "-8"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "8.0"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "0x8"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "\u0668"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "9" * 5000}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": str(LONGEST_CHUNK + 1)}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": str(2**63)}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "9"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "7"}, {"plane0": bytes(8)}),
        ({**PLAIN, "bytes": "0"}, {"plane0": bytes(8)}),
        (PLAIN, {}),
        (PLAIN, {"plane1": bytes(8)}),
        (PLAIN, {"plane0": bytes(8), "plane1": b""}),
        (PLAIN, {"plane0": bytes(8), "plane0.zst": frame(bytes(8))}),
        (PLAIN, {"plane0": bytes(8), "more": b""}),
        ({**PLAIN, "dtype": "F32"}, {"plane0": bytes(8)}),
        ({**PLAIN, "dtype": "F32"}, {f"plane{b}": bytes(2 + (b == 2)) for b in range(4)}),
        ({**PLAIN, "dtype": "F32"}, {f"plane{b}": bytes(2) for b in range(3)}),
        ({**PLAIN, "dtype": "F32"}, {f"plane{b}": bytes(2) for b in range(5)}),
        (PLAIN, {"plane0.zst": b""}),
        (PLAIN, {"plane0.zst": bytes(8)}),
        (PLAIN, {"plane0.zst": frame(bytes(9))}),
        (PLAIN, {"plane0.zst": frame(bytes(7))}),
        (PLAIN, {"plane0.zst": frame(bytes(8), write_content_size=False)}),
        (PLAIN, {"plane0.zst": frame(b"12345678")[:-1]}),
        (PLAIN, {"plane0.zst": b"\x50\x2a\x4d\x18\x04\0\0\0abcd"}),
    ],
)
def test_a_blob_that_is_not_one(metadata: dict[str, str], planes: dict[str, bytes]) -> None:
    damaged(made(metadata, planes), bytes(8))


def test_planes_that_are_not_bytes() -> None:
    damaged(made(PLAIN, {"plane0": bytes(8)}, dtype="I8"))


@pytest.mark.parametrize("base", [None, b"", bytes(7), bytes(9), bytes(16)])
def test_a_base_of_another_length(base: bytes | None) -> None:
    blob = made({**PLAIN, "codec": "delta", "base": "0" * 64}, {"plane0": bytes(8)})
    assert "base" in damaged(blob, base)


def test_a_base_that_is_another_gives_other_bytes_and_no_crash(weights: Callable[..., bytes]) -> None:
    data, base, other = (weights(seed, 1000) for seed in range(3))
    blob = blob_of(encode_delta(data, base, digest(base), "F32"))
    # `decode` cannot know; the store compares the result with the id (test_damage.py).
    assert bytes(decode(blob, inspect(blob, where="x"), other, where="x")) != data


@pytest.mark.parametrize("said", ["8", str(1 << 22), str(LONGEST_CHUNK)])
def test_a_bomb_does_not_cost_more_than_the_chunk_that_it_says_it_is(said: str) -> None:
    bomb = frame(bytes(1 << 28))
    lying = bytearray(frame(bytes(1 << 20)))
    assert len(bomb) < 1 << 15
    tracemalloc.start()
    try:
        damaged(made({**PLAIN, "bytes": said}, {"plane0.zst": bomb}))
        damaged(made({**PLAIN, "bytes": said}, {"plane0.zst": bytes(lying)}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_frame_that_lies_about_its_size() -> None:
    # The frame's header says 8 bytes (one byte of content size, single segment), its blocks hold a megabyte.
    big = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 20))
    assert zstandard.frame_content_size(big) == 1 << 20
    descriptor_and_size = big[4:9]
    assert descriptor_and_size[0] & 0xC0 == 0x80, "four bytes of content size"
    small = big[:4] + bytes([descriptor_and_size[0] & 0x3F | 0x20, 8]) + big[9:]
    assert zstandard.frame_content_size(small) == 8
    tracemalloc.start()
    try:
        damaged(made(PLAIN, {"plane0.zst": small}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_truncated_blobs(size: int) -> None:
    damaged(made(PLAIN, {"plane0.zst": frame(b"12345678")})[:size])


def test_every_truncation_is_noticed(weights: Callable[..., bytes]) -> None:
    blob = blob_of(encode_plain(weights(1, 500), "F32"))
    for size in range(0, len(blob), 7):
        damaged(blob[:size])


def test_an_over_long_header() -> None:
    blob = made({**PLAIN, "x": "y" * (1 << 16)}, {"plane0": bytes(8)})
    with pytest.raises(ChunkDamagedError, match="header"):
        inspect(blob, where="x")
    with pytest.raises(ChunkDamagedError, match="header"):
        inspect(struct.pack("<Q", 1 << 40) + b"{}", where="x")


@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    st.integers(0, 40),
)
@settings(deadline=None, max_examples=300)
def test_mutated_blobs_decode_or_are_refused(delta: bool, changes: list[tuple[int, int]], cut: int) -> None:
    data = np.sin(np.arange(120)).astype("<f4").tobytes()
    base = np.cos(np.arange(120)).astype("<f4").tobytes()
    good = blob_of(encode_delta(data, base, digest(base), "F32") if delta else encode_plain(data, "F32"))
    blob = bytearray(good)
    for at, byte in changes:
        # Half of the changes hit the header, which is where the parser lives.
        blob[at % (len(blob) if at % 2 else 250)] = byte
    changed = bytes(blob[: len(blob) - cut])
    try:
        encoding = inspect(changed, where="x")
        assert len(decode(changed, encoding, base, where="x")) == encoding.nbytes
    except ChunkDamagedError:
        assert changed != good


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_random_bytes(data: bytes) -> None:
    for blob in (data, struct.pack("<Q", len(data)) + data):
        with pytest.raises(ChunkDamagedError):
            inspect(blob, where="x")


@pytest.mark.parametrize("dtype", ALL)
@given(data=st.data())
def test_numbers_that_are_none_are_seen_in_the_planes(dtype: str, data: st.DataObject) -> None:
    layout = layout_of(dtype)
    width = layout.width
    elements = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=8))
    with np.errstate(invalid="ignore"):
        exact = (
            layout.kind == "float" and not np.isfinite(np.frombuffer(b"".join(elements), layout.numpy)).all()
        )
    found = may_be_nonfinite(plain_planes(b"".join(elements), dtype), dtype)
    assert found == exact or (dtype == "F64" and found)


@pytest.mark.parametrize("dtype", sorted(name for name in DTYPES if layout_of(name).kind == "float"))
def test_every_float_of_a_byte_or_two_is_judged_right(dtype: str) -> None:
    layout = layout_of(dtype)
    for value in range(1 << 8 * min(layout.width, 2)):
        top = value.to_bytes(min(layout.width, 2), "little")
        element = bytes(layout.width - len(top)) + top
        with np.errstate(invalid="ignore"):  # ml_dtypes counts the signalling NaN of bfloat16 as invalid
            finite = bool(np.isfinite(np.frombuffer(element, layout.numpy)).all())
        found = may_be_nonfinite(plain_planes(element, dtype), dtype)
        assert found != finite or (dtype == "F64" and found)
