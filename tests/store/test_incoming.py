"""Packs that come as a stream: what was asked for is kept as it came, anything else ends the reception."""

import contextlib
import hashlib
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.errors import MachineError
from git_gru.store.incoming import IncomingError, receive, receive_state
from git_gru.store.objects import Objects
from git_gru.store.packs import Entry, deflated_entry, entry_header, make_entry

LONGEST = 1 << 20


def stream(entries: Iterable[bytes], count: int | None = None) -> bytes:
    """A pack of entries as they stand in one, that claims `count` of them."""
    body = list(entries)
    data = struct.pack(">4sII", b"PACK", 2, len(body) if count is None else count) + b"".join(body)
    return data + hashlib.sha1(data).digest()


def cut(data: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    for length in lengths:
        yield data[:length]
        data = data[length:]
    yield data


def arrive(
    repository: Path, data: bytes, wanted: Iterable[Entry], lengths: Sequence[int] = ()
) -> Path | None:
    folder = repository / "objects/pack"
    return receive(cut(data, lengths), folder, [entry.oid for entry in wanted], kind="blob", longest=LONGEST)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare")], check=True)
    return tmp_path / "bare"


def blob(content: bytes, *, deflated: bool = False) -> Entry:
    return deflated_entry("blob", content) if deflated else make_entry("blob", [content])


@given(
    contents=st.dictionaries(
        st.binary(max_size=40).map(lambda start: start * 5000) | st.binary(max_size=300),
        st.booleans(),
        max_size=6,
    ),
    lengths=st.lists(st.integers(0, 70_000), max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_a_pack_is_kept_as_it_came_whatever_the_cuts(
    contents: dict[bytes, bool], lengths: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    repository = tmp_path_factory.mktemp("store")
    entries = [blob(content, deflated=deflated) for content, deflated in contents.items()]
    data = stream(entry.packed for entry in entries)
    path = arrive(repository, data, entries, lengths)
    assert (path is not None) == bool(entries)
    if path is not None:
        assert path.read_bytes() == data
        assert path.with_suffix(".promisor").exists()
        objects = Objects(repository)
        assert [objects.read(entry.oid)[1] for entry in entries] == list(contents)


def test_git_accepts_what_came(bare: Path) -> None:
    entries = [blob(bytes(n), deflated=n % 2 == 0) for n in range(70)]
    path = arrive(bare, stream(entry.packed for entry in entries), entries)
    assert path is not None
    subprocess.run(["git", "-C", str(bare), "fsck", "--strict", "--full"], check=True)
    subprocess.run(["git", "verify-pack", str(path)], check=True)


FIRST, SECOND = blob(b"first" * 100), blob(b"second" * 30_000)


def squeezed(content: bytes, size: int) -> bytes:
    """An entry whose content is not as long as it claims."""
    return entry_header(3, size) + zlib.compress(content)


def padded() -> bytes:
    """An entry of one byte whose zlib stream has a million empty blocks before it."""
    return entry_header(3, 1) + b"\x78\x01" + b"\0\0\0\xff\xff" * 1_000_000


WRONG: dict[str, Callable[[], bytes]] = {
    "ends early": lambda: stream([FIRST.packed, SECOND.packed])[:-200],
    "checksum is wrong": lambda: stream([FIRST.packed, SECOND.packed])[:-1] + b"x",
    "checksum is wrong ": lambda: stream([FIRST.packed, SECOND.packed]) + b"more",
    "1 objects that were asked for did not come": lambda: stream([FIRST.packed]),
    "not a blob": lambda: stream([FIRST.packed, make_entry("tree", [b""]).packed]),
    "type 6": lambda: stream([FIRST.packed, entry_header(6, 5) + b"\x07" + zlib.compress(b"delta")]),
    "type 7": lambda: stream([FIRST.packed, entry_header(7, 5) + FIRST.oid + zlib.compress(b"delta")]),
    f"{LONGEST + 1} bytes": lambda: stream([FIRST.packed, blob(bytes(LONGEST + 1), deflated=True).packed]),
    "no end": lambda: stream([FIRST.packed, b"\xff" * 40]),
    "longer than its 10 bytes": lambda: stream([FIRST.packed, squeezed(bytes(1 << 24), 10)]),
    "longer than its 1 bytes": lambda: stream([FIRST.packed, padded()]),
    "ends 1 bytes early": lambda: stream([FIRST.packed, squeezed(b"abc", 4)]),
    "which was not asked for": lambda: stream([FIRST.packed, blob(b"other").packed]),
    "which was not asked for ": lambda: stream([FIRST.packed, FIRST.packed]),
    "decompressing": lambda: stream([FIRST.packed, entry_header(3, 5) + b"no zlib"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_ends_it_and_what_came_before_stays(what: str, bare: Path) -> None:
    with pytest.raises(IncomingError, match=what.strip()):
        arrive(bare, WRONG[what](), [FIRST, SECOND], [5, 100])
    objects = Objects(bare)
    assert objects.read(FIRST.oid)[1] == b"first" * 100
    assert objects.has(SECOND.oid) == what.startswith("checksum")
    assert {path.suffix for path in (bare / "objects/pack").iterdir()} == {".pack", ".idx", ".promisor"}
    subprocess.run(["git", "-C", str(bare), "fsck", "--strict", "--full"], check=True)


@pytest.mark.parametrize(
    "data",
    [b"", b"PACK", b"KCAP" + stream([])[4:], b"PACK\0\0\0\3" + stream([])[8:], stream([b""] * 3)],
)
def test_what_is_no_pack_leaves_nothing(data: bytes, bare: Path) -> None:
    with pytest.raises(IncomingError):
        arrive(bare, data, [FIRST, SECOND])
    assert not list((bare / "objects/pack").iterdir())


@given(at=st.integers(0, 1 << 20), value=st.integers(1, 255), end=st.integers(0, 1 << 20))
@settings(deadline=None, max_examples=80)
def test_no_damaged_byte_gets_in(
    at: int, value: int, end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    contents = [b"one" * 50, b"two" * 60, b"three"]
    entries = [blob(content, deflated=at % 2 == 0) for content in contents]
    data = bytearray(stream(entry.packed for entry in entries))
    data[at % len(data)] ^= value
    repository = tmp_path_factory.mktemp("store")
    with contextlib.suppress(IncomingError):
        arrive(repository, bytes(data[: len(data) - end % 80]), entries)
    objects = Objects(repository)
    for entry, content in zip(entries, contents, strict=True):
        if objects.has(entry.oid):
            assert objects.read(entry.oid)[1] == content


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_any_bytes_are_a_pack_or_an_error(data: bytes) -> None:
    with pytest.raises(IncomingError):
        receive([data], Path("/proc/nowhere"), [], kind="blob", longest=LONGEST)


def test_memory_does_not_grow_with_an_object(tmp_path: Path) -> None:
    size = 1 << 24
    squeeze = zlib.compressobj()
    packed = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(size >> 20)) + squeeze.flush()
    sha = hashlib.sha1(b"blob %d\0" % size)
    for _ in range(size >> 20):
        sha.update(bytes(1 << 20))
    data = stream([entry_header(3, size) + packed])
    tracemalloc.start()
    try:
        receive([data], tmp_path, [sha.digest()], kind="blob", longest=size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(small_disk: Path) -> None:
    large = blob(b"\x5a" * LONGEST)
    entries = [large, *(blob(bytes([n]) * LONGEST) for n in range(7))]
    with pytest.raises(MachineError, match="the disk is full"):
        arrive(small_disk, stream(entry.packed for entry in entries), entries)
    assert not list((small_disk / "objects/pack").iterdir())


COMMIT = deflated_entry("commit", b"tree " + b"0" * 40 + b"\n")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([blob(b"x")], "did not come"),
        ([], "did not come"),
        ([COMMIT, blob(b"x" * (LONGEST + 1))], "1048577 bytes came, not a commit or tree or blob"),
        ([COMMIT, deflated_entry("tag", b"x")], "the type 4"),
        ([COMMIT, COMMIT], "checksum"),
    ],
)
def test_what_is_no_state(bare: Path, entries: Sequence[Entry], said: str) -> None:
    data = stream(entry.packed for entry in entries)
    with pytest.raises(IncomingError, match=said):
        receive_state([data], bare / "objects/pack", COMMIT.oid, longest=LONGEST)


def test_a_state_is_a_commit_and_what_comes_with_it(bare: Path) -> None:
    entries = [COMMIT, deflated_entry("tree", b""), blob(b"git-gru store 1\n")]
    data = stream(entry.packed for entry in entries)
    receive_state(cut(data, [9, 40, 50]), bare / "objects/pack", COMMIT.oid, longest=LONGEST)
    assert not Objects(bare).absent(entry.oid for entry in entries)
    (pack,) = (bare / "objects/pack").glob("*.pack")
    assert pack.with_suffix(".promisor").exists(), "what it names may be missing"
