"""Cutting: fixed offsets for tensors, content for everything else; exact cuts, whatever way the bytes come."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from git_gru.ids import digest
from git_gru.store.chunks import (
    CHUNK_BYTES,
    RAW_AVERAGE,
    RAW_LONGEST,
    RAW_NORMALIZATION,
    RAW_SHORTEST,
    cut_lengths,
    raw_cuts,
    read_up_to,
)

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
NOISE = hashlib.shake_256(b"git-gru").digest(1 << 20)
EXAMPLE = NOISE + bytes(9 << 20) + NOISE[1:]
EXAMPLE_CUTS = [302794, 271943, 409089, 4194304, 4194304, 1128227, 287892, 271943, 409089, 64750]


class Doled:
    """A source that hands out its bytes in pieces of given lengths, over and over."""

    def __init__(self, data: bytes, steps: list[int]) -> None:
        self.data, self.at = memoryview(data), 0
        self.steps = self._forever(steps)

    @staticmethod
    def _forever(steps: list[int]) -> Iterator[int]:
        while True:
            yield from steps

    def readinto(self, buffer: Any, /) -> int:
        piece = self.data[self.at : self.at + min(next(self.steps), len(buffer))]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


def lengths(data: bytes) -> list[int]:
    return [len(piece) for piece in raw_cuts(io.BytesIO(data))]


def weights(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


# ---- fixed offsets ----------------------------------------------------------------------------------------------------


def test_a_tensor_is_cut_at_fixed_offsets() -> None:
    assert list(cut_lengths(0)) == []
    assert list(cut_lengths(2 * CHUNK_BYTES + 5)) == [CHUNK_BYTES, CHUNK_BYTES, 5]


def test_reading_ends_with_the_source() -> None:
    assert read_up_to(io.BytesIO(b"abc"), 5) == b"abc"
    assert read_up_to(io.BytesIO(b"abc"), 2) == b"ab"


# ---- cuts by content: exact, for ever -----------------------------------------------------------------------------------


def test_golden_cuts() -> None:
    """If this fails after an update of pyfastcdc, files would show as modified: do not let that version in."""
    assert lengths(EXAMPLE) == EXAMPLE_CUTS
    assert f"    {' '.join(map(str, EXAMPLE_CUTS))}\n" in DOC


def cuts_by_the_document(data: bytes) -> list[int]:
    """docs/format.md, section 3.1, word for word."""
    gear = [int.from_bytes(hashlib.md5(bytes([v]) * 64).digest()[:8], "big") for v in range(256)]
    assert f"`{digest(b''.join(g.to_bytes(8, 'little') for g in gear))}`" in DOC
    cuts = []
    while data:
        n = len(data)
        c = m = min(n, 4_194_304)
        if n > 65_536:
            h = 0
            for i in range(65_536, m - m % 2):
                h = (2 * h + gear[data[i]]) % 2**64
                if h & (0x0000D91747537000 if i < 262_144 else 0x0000D90303537000) == 0:
                    c = i
                    break
        cuts.append(c)
        data = data[c:]
    return cuts


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        NOISE[: RAW_SHORTEST - 1],
        NOISE[:RAW_SHORTEST],
        NOISE[: RAW_SHORTEST + 1],
        NOISE[: EXAMPLE_CUTS[0]],
        NOISE[: EXAMPLE_CUTS[0] + 1],
        NOISE[: EXAMPLE_CUTS[0] + 2],
        bytes(RAW_AVERAGE + 1),
        weights(1, 400_001).tobytes()[3:],
        b"".join(b"%d: a line of text, all different\n" % n for n in range(30_000)),
    ],
)
def test_the_cuts_are_those_of_the_document(data: bytes) -> None:
    assert lengths(data) == cuts_by_the_document(data)


def test_a_cut_may_fall_just_before_the_last_byte() -> None:
    first = EXAMPLE_CUTS[0]
    assert first % 2 == 0
    assert lengths(NOISE[: first + 1]) == [first + 1], "places are looked at in pairs"
    assert lengths(NOISE[: first + 2]) == [first, 2]


def test_the_longest_chunk() -> None:
    for length in (RAW_LONGEST - 1, RAW_LONGEST, RAW_LONGEST + 1, 3 * RAW_LONGEST):
        assert lengths(bytes(length)) == list(cut_lengths(length))
    assert RAW_LONGEST == CHUNK_BYTES


@given(
    start=st.integers(0, len(EXAMPLE)),
    length=st.integers(0, len(EXAMPLE)),
    held=st.integers(0, 1 << 20),
    steps=st.lists(st.integers(3_000, 10_000_000), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_cuts_do_not_depend_on_how_the_bytes_come(
    start: int, length: int, held: int, steps: list[int]
) -> None:
    data = EXAMPLE[start : start + length]
    whole = FastCDC(
        RAW_AVERAGE, min_size=RAW_SHORTEST, max_size=RAW_LONGEST, normalized_chunking=RAW_NORMALIZATION
    ).cut_buf(data)
    pieces = list(raw_cuts(Doled(data[held:], steps), bytearray(data[:held])))
    assert [len(piece) for piece in pieces] == [chunk.length for chunk in whole]
    assert b"".join(pieces) == data


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_few_bytes_at_a_time(step: int) -> None:
    data = NOISE[: 400 * 1024]
    assert [len(piece) for piece in raw_cuts(Doled(data, [step]))] == lengths(data)


def test_a_source_may_end_with_none() -> None:
    class Ending(io.BytesIO):
        def readinto(self, buffer: Any, /) -> Any:
            return super().readinto(buffer) or None

    assert b"".join(raw_cuts(Ending(b"abc"))) == b"abc"


def test_only_a_raw_file_loads_the_library() -> None:
    script = """
import io, sys
from git_gru.formats.safetensors import write_header
from git_gru.store.ingest import describe
file = write_header([("w", "U8", [3])]) + b"abc"
for data, expected in ((file, False), (file[:-1], False), (b"no safetensors", True)):
    describe(io.BytesIO(data), expect_safetensors=False)
    assert ("pyfastcdc" in sys.modules) is expected, data
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- what an insertion costs --------------------------------------------------------------------------------------------

BIG, NEW = 750_000, 50_000  # elements of a tensor: 3 MB, 200 kB


def state(*, inserted: bool) -> dict[str, Any]:
    tensors = {f"layer{n}": weights(n, BIG) for n in range(4)}
    if not inserted:
        return tensors
    names = list(tensors)
    return {name: tensors.get(name, weights(9, NEW)) for name in (*names[:2], "new", *names[2:])}


def torch_file(tensors: dict[str, Any]) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, file)
    return file.getvalue()


def numpy_file(tensors: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def gguf_like(tensors: dict[str, Any]) -> bytes:
    """Magic, version, counts, names with offsets, padding to 32 bytes, data: as llama.cpp's format goes."""
    head = b"GGUF" + (3).to_bytes(4, "little") + len(tensors).to_bytes(8, "little") + bytes(8)
    at = 0
    for name, array in tensors.items():
        head += len(name).to_bytes(8, "little") + name.encode() + (1).to_bytes(4, "little")
        head += array.size.to_bytes(8, "little") + bytes(4) + at.to_bytes(8, "little")
        at += -(-array.nbytes // 32) * 32
    body = b"".join(array.tobytes() + bytes(-array.nbytes % 32) for array in tensors.values())
    return head + bytes(-len(head) % 32) + body


@pytest.mark.parametrize(("kind", "moved"), [(torch_file, 2), (numpy_file, 0), (gguf_like, 0)])
def test_a_tensor_inserted_in_the_middle_costs_little(kind: Any, moved: int) -> None:
    """A chunk at the head, the new tensor and the chunks around it, and one for each member whose name has `moved` on."""
    before, after = kind(state(inserted=False)), kind(state(inserted=True))
    assert kind is gguf_like or zipfile.is_zipfile(io.BytesIO(after))
    known = {digest(piece) for piece in raw_cuts(io.BytesIO(before))}
    pieces = list(raw_cuts(io.BytesIO(after)))
    assert b"".join(pieces) == after
    new = sum(len(piece) for piece in pieces if digest(piece) not in known)
    assert 4 * NEW < new < 4 * NEW + (4 + moved) * RAW_AVERAGE < len(after) / 5
