import contextlib
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.git.pktline import (
    MAX_PAYLOAD,
    EndOfStreamError,
    PacketReader,
    PacketWriter,
    ProtocolError,
)


def reader(data: bytes) -> PacketReader:
    return PacketReader(io.BufferedReader(io.BytesIO(data)))


def written(path, work) -> bytes:
    """What `work(PacketWriter)` writes."""
    with open(path, "w+b") as file:
        work(PacketWriter(file.fileno()))
        file.seek(0)
        return file.read()


def read_all(data: bytes, size: int) -> bytes:
    content, found = reader(data).content(), b""
    buffer = bytearray(size)
    while count := content.readinto(memoryview(buffer)):
        found += buffer[:count]
    return found


def test_the_bytes_of_lists_and_contents(tmp_path):
    assert written(tmp_path / "a", lambda w: w.lines("version=2", "x")) == b"000eversion=2\n0006x\n0000"
    assert written(tmp_path / "b", lambda w: w.lines()) == b"0000"
    assert written(tmp_path / "c", lambda w: w.content([b"abc", b"", memoryview(b"d")])) == b"0007abc0005d"


def test_the_largest_packet(tmp_path):
    data = written(tmp_path / "a", lambda w: w.content([bytes(MAX_PAYLOAD + 1)]))
    assert data[:4] == b"fff0"
    assert data[4 + MAX_PAYLOAD :] == b"0005\0"


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(
        st.integers(0, 3 * MAX_PAYLOAD).flatmap(
            lambda n: st.sampled_from([bytes(n), bytearray(b"\xab" * n)])
        ),
        max_size=6,
    ),
    size=st.integers(1, 200_000),
)
def test_a_content_survives_whatever_the_cuts(tmp_path_factory, pieces, size):
    file = tmp_path_factory.mktemp("w") / "x"
    data = written(file, lambda w: (w.content(pieces), w.flush()))
    assert read_all(data, size) == b"".join(pieces)


def test_a_piece_may_be_reused_by_its_owner(tmp_path):
    buffer = bytearray(3)

    def pieces():
        for text in (b"one", b"two"):
            buffer[:] = text
            yield buffer

    assert written(tmp_path / "a", lambda w: w.content(pieces())) == b"0007one0007two"


def test_writes_that_the_pipe_takes_in_part():
    """A pipe that is full takes a part of a scatter list; what is left must follow in order."""
    import threading

    out, into = os.pipe()
    data = os.urandom(5 * MAX_PAYLOAD + 17)
    found = bytearray()

    def drain() -> None:
        while part := os.read(out, 1000):
            found.extend(part)

    thread = threading.Thread(target=drain)
    thread.start()
    PacketWriter(into).content([data])
    PacketWriter(into).flush()
    os.close(into)
    thread.join()
    os.close(out)
    assert read_all(bytes(found), 1 << 16) == data


def test_readinto_fills_the_buffer_over_packets():
    content = reader(b"0006ab0007cde0006fg0000").content()
    buffer = bytearray(4)
    assert (content.readinto(memoryview(buffer)), bytes(buffer)) == (4, b"abcd")
    assert (content.readinto(memoryview(buffer)), bytes(buffer[:3])) == (3, b"efg")
    assert content.readinto(memoryview(buffer)) == 0


def test_drain_stops_at_the_flush():
    source = reader(b"0006ab0006cd00000009next\n0000")
    source.content().drain()
    assert source.lines() == ["next"]


@pytest.mark.parametrize("data", [b"", b"00", b"0009ab"])
def test_a_closed_pipe(data):
    with pytest.raises(EndOfStreamError):
        reader(data).lines()


@pytest.mark.parametrize("data", [b"zzzz", b"0003", b"-001", b"+00a", b"0x1a", b"1_0a", b" 00a", b"\xff" * 4])
def test_what_is_no_packet(data):
    with pytest.raises(ProtocolError):
        reader(data).lines()


@given(
    st.lists(
        st.sampled_from([b"0000", b"0005a", b"0006ab", b"fff0", b"0004", b"00", b"\xff", b"zz"]), max_size=12
    )
)
def test_any_bytes_are_packets_or_an_error(pieces):
    source = reader(b"".join(pieces))
    with contextlib.suppress(ProtocolError, EndOfStreamError):
        while not source.at_end():
            assert all(len(line) <= MAX_PAYLOAD for line in source.lines())
            source.content().drain()


def test_the_orderly_end():
    source = reader(b"0000")
    assert not source.at_end()
    assert source.lines() == []
    assert source.at_end()
