"""Ingest and restore: any bytes come back exactly, equal parts are stored once, and what is raw says why."""

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.errors import InputError
from git_gru.formats.safetensors import HeaderError
from git_gru.ids import digest
from git_gru.store.chunks import CHUNK_BYTES, RAW_AVERAGE, raw_cuts
from git_gru.store.ingest import describe, ingest, ingest_all, ingest_tensors
from git_gru.store.manifest import Manifest, parse_manifest
from git_gru.store.store import Store
from git_gru.store.writer import TREE_OBJECTS

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
FileOf = Callable[..., bytes]


class Drip(io.RawIOBase):
    """A source that gives a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.at = data, step, 0

    def readinto(self, buffer: Any) -> int:
        piece = self.data[self.at : self.at + min(self.step, len(buffer))]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


def stored(store: Store) -> int:
    return len(store.lookup.rows())


# ---- round trips ------------------------------------------------------------------------------------------------------

DTYPES = ["F32", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "C64", "F128_NEW"]
WIDTH = {"F32": 4, "BF16": 2, "I64": 8, "BOOL": 1, "U8": 1, "F8_E4M3": 1, "C64": 8, "F128_NEW": 3}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[str, str, list[int], bytes]], dict[str, str] | None, int]:
    """Arguments of `file_of`: tensors, metadata, padding."""
    names = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=4)
    )
    tensors = []
    for name in names:
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 5), max_size=2))
        count = int(np.prod(shape, dtype=int)) * WIDTH[dtype]
        tensors.append((name, dtype, shape, draw(st.binary(min_size=count, max_size=count))))
    return tensors, draw(st.none() | st.just({"format": "pt", "é": "\n"})), draw(st.integers(0, 9))


@pytest.fixture(scope="module")
def shared(new_store: Callable[[], Store]) -> Store:
    return new_store()


@given(layouts())
@settings(deadline=None, max_examples=40)
def test_any_safetensors_file_comes_back(
    shared: Store, add: Add, read: Read, file_of: FileOf, layout: tuple[Any, ...]
) -> None:
    content = file_of(*layout)
    manifest = add(shared, content)
    assert read(shared, manifest) == content
    assert not manifest.is_raw
    assert manifest.size == len(content)
    assert describe(io.BytesIO(content), expect_safetensors=True).manifest == manifest
    assert parse_manifest(manifest.encode(), where="x") == manifest
    header = shared.header(manifest)
    assert [info.name for info in header.tensors] == list(manifest.tensors)
    for info in header.tensors:
        begin = header.length + info.begin
        assert b"".join(shared.tensor(manifest, info.name)) == content[begin : begin + info.nbytes]


@given(st.binary(min_size=1, max_size=300), st.booleans())
@settings(deadline=None, max_examples=40)
def test_any_bytes_come_back(shared: Store, add: Add, read: Read, content: bytes, like: bool) -> None:
    content = struct.pack("<Q", len(content)) + b"{" + content if like else content
    manifest = add(shared, content)
    assert read(shared, manifest) == content
    assert describe(io.BytesIO(content), expect_safetensors=False).manifest == manifest


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2])
def test_sizes_around_the_chunk_boundary(
    chunks: int, extra: int, store: Store, add: Add, read: Read, file_of: FileOf
) -> None:
    data = np.random.default_rng(chunks).bytes(chunks * CHUNK_BYTES + extra)
    expected = chunks + (extra > 0)
    manifest = add(store, file_of([("t", "U8", [len(data)], data), ("u", "U8", [3], b"abc")]))
    ids = manifest.tensors["t"].chunks
    assert ids == tuple(digest(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
    assert len(ids) == expected
    assert b"".join(store.tensor(manifest, "t")) == data
    raw = add(store, data)
    assert raw.raw == tuple(digest(piece) for piece in raw_cuts(io.BytesIO(data)))
    assert read(store, raw) == data


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_source_may_give_a_few_bytes_at_a_time(step: int, lineage: Callable[..., list[bytes]]) -> None:
    content = lineage(1, count=500)[0]
    expected = describe(io.BytesIO(content), expect_safetensors=True)
    assert describe(Drip(content, step), expect_safetensors=True) == expected
    assert describe(Drip(content[:-5], step), expect_safetensors=True).manifest.is_raw


# ---- deduplication ----------------------------------------------------------------------------------------------------


def test_the_same_file_again_writes_nothing(
    store: Store, add: Add, lineage: Callable[..., list[bytes]]
) -> None:
    content = lineage(1)[0]
    first = add(store, content)
    before = {path.name: path.stat().st_mtime_ns for path in (store.repository / "objects/pack").iterdir()}
    tip = store.tip()
    assert add(store, content) == first
    after = {path.name: path.stat().st_mtime_ns for path in (store.repository / "objects/pack").iterdir()}
    assert (after, store.tip()) == (before, tip)


def test_only_what_changed_is_written(
    store: Store, add: Add, read: Read, file_of: FileOf, weights: Callable[..., bytes]
) -> None:
    body = weights(1, 50_000)
    contents = [
        file_of([("body", "F32", [50_000], body), ("head", "F32", [1000], weights(seed, 1000))])
        for seed in (2, 3)
    ]
    first = add(store, contents[0])
    before, packed = stored(store), _packed(store)
    second = add(store, contents[1])
    assert first.tensors["body"] == second.tensors["body"]
    assert first.header == second.header
    assert stored(store) == before + 1
    assert _packed(store) - packed < 5_000
    assert [read(store, manifest) for manifest in (first, second)] == contents


def test_a_chunk_that_stands_twice_in_a_file_is_stored_once(store: Store, add: Add, read: Read) -> None:
    content = bytes(3 * CHUNK_BYTES)
    manifest = add(store, content)
    assert len(manifest.chunks()) == 3
    assert stored(store) == 1
    assert read(store, manifest) == content


def test_many_known_chunks_before_the_first_new_one(store: Store, add: Add, read: Read) -> None:
    """A raw file's number of chunks is not known beforehand, and more of them may be known than were expected."""
    content = np.random.default_rng(2).bytes(12 * RAW_AVERAGE)
    first = add(store, content)
    second = add(store, content + b"more")
    assert len(first.chunks()) > TREE_OBJECTS
    assert first.chunks()[:-1] == second.chunks()[:-1]
    assert read(store, second) == content + b"more"


def _packed(store: Store) -> int:
    return sum(path.stat().st_size for path in (store.repository / "objects/pack").glob("*.pack"))


# ---- raw files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 4, 3000])
def test_a_truncated_file_is_raw_and_shares_its_chunks(
    missing: int, store: Store, read: Read, file_of: FileOf, weights: Callable[..., bytes]
) -> None:
    content = file_of([(name, "F32", [500], weights(n, 500)) for n, name in enumerate("abcd")])
    whole = ingest(store, io.BytesIO(content), expect_safetensors=True)
    assert whole.warning is None
    cut = ingest(store, io.BytesIO(content[:-missing]), expect_safetensors=True)
    assert cut.manifest.is_raw
    assert cut.warning is not None
    assert "truncated" in cut.warning
    assert f"{len(content)} bytes, the file has {len(content) - missing}" in cut.warning
    shared = set(whole.manifest.chunks()) & set(cut.manifest.chunks())
    assert len(shared) == 1 + (4 * 2000 - missing) // 2000
    assert read(store, cut.manifest) == content[:-missing]
    assert cut.manifest.size == len(content) - missing


def test_trailing_bytes_are_raw_and_share_the_chunks(
    store: Store, read: Read, lineage: Callable[..., list[bytes]]
) -> None:
    content = lineage(1)[0]
    whole = ingest(store, io.BytesIO(content), expect_safetensors=True).manifest
    for extra in (b"x", bytes(CHUNK_BYTES), np.random.default_rng(1).bytes(CHUNK_BYTES + 1)):
        longer = ingest(store, io.BytesIO(content + extra), expect_safetensors=True)
        assert longer.manifest.is_raw
        assert "trailing bytes" in str(longer.warning)
        behind = [digest(piece) for piece in raw_cuts(io.BytesIO(extra))]
        assert longer.manifest.chunks() == [*whole.chunks(), *behind]
        assert read(store, longer.manifest) == content + extra


def test_a_manifest_longer_than_any_that_is_read_is_refused(store: Store) -> None:
    with mock.patch("git_gru.store.ingest.MAX_MANIFEST", 200), pytest.raises(InputError) as caught:
        ingest(store, io.BytesIO(bytes(2 * CHUNK_BYTES)), expect_safetensors=False)
    assert "a manifest of its 2 chunks takes 25" in str(caught.value)
    assert caught.value.hint
    assert store.models() == {}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"x", "too short"),
        (b"a text that is long enough to hold a length", "over the limit"),
        (struct.pack("<Q", 1000) + b"{}", "beyond the end"),
        (struct.pack("<Q", 4) + b"{[]}", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "does not start"),
        (struct.pack("<Q", 1), "no room"),
    ],
)
def test_a_bad_header_is_raw_with_its_reason(content: bytes, word: str, store: Store, read: Read) -> None:
    result = ingest(store, io.BytesIO(content), expect_safetensors=True)
    assert result.manifest.is_raw
    assert word in str(result.warning)
    assert read(store, result.manifest) == content
    assert ingest(store, io.BytesIO(content), expect_safetensors=False).warning is None


def test_the_name_does_not_decide(lineage: Callable[..., list[bytes]]) -> None:
    content = lineage(1, count=100)[0]
    for data in (content, content[:-1], content + b"x", b"text"):
        one, two = (describe(io.BytesIO(data), expect_safetensors=expect) for expect in (True, False))
        assert one.manifest == two.manifest
        assert two.warning is None


# ---- tensors in memory ------------------------------------------------------------------------------------------------


def test_tensors_become_the_file_that_holds_them(
    store: Store, read: Read, weights: Callable[..., bytes]
) -> None:
    x = np.frombuffer(weights(1, 24), np.float32).reshape(4, 6)
    manifest = ingest_tensors(
        store,
        [
            ("w", "F32", (4, 6), memoryview(np.ascontiguousarray(x))),
            ("none", "F32", (0, 6), memoryview(np.zeros((0, 6), np.float32))),
            ("n", "I64", (), b"\1" + bytes(7)),
            ("half", "BF16", (2,), bytearray(b"abcd")),
        ],
        {"format": "pt"},
    )
    import safetensors.numpy

    content = read(store, manifest)
    assert not manifest.is_raw
    assert list(manifest.tensors) == ["w", "none", "n", "half"]
    loaded = safetensors.deserialize(content)
    assert bytes(dict(loaded)["w"]["data"]) == x.tobytes()
    assert manifest == describe(io.BytesIO(content), expect_safetensors=True).manifest


def test_tensors_that_are_no_file_are_refused(store: Store) -> None:
    for tensors in (
        [("w", "F32", (2,), bytes(7))],
        [("w", "F32", (2,), bytes(9))],
        [("a", "F32", (1,), bytes(5)), ("b", "F32", (1,), bytes(3))],
        [("w", "F128", (2,), bytes(8))],
        [("w", "F32", (1,), bytes(4)), ("w", "F32", (1,), bytes(4))],
    ):
        with pytest.raises(HeaderError, match=r"'[wab]'"):
            ingest_tensors(store, tensors)
    assert store.models() == {}


# ---- many files -------------------------------------------------------------------------------------------------------


def test_many_files_make_few_packs(store: Store, read: Read, lineage: Callable[..., list[bytes]]) -> None:
    files = [*lineage(6, count=1000), b"text", lineage(6, count=1000)[2]]
    results = list(
        ingest_all(store, ((io.BytesIO(data), True) for data in files), together=3 * len(files[0]))
    )
    assert [read(store, result.manifest) for result in results] == files
    assert [result.warning is None for result in results] == [data != b"text" for data in files]
    assert len(store.models()) == 7
    assert len(store.objects.packs()) == 3  # six versions in groups of three; the text with one that is known


def test_what_was_given_out_stays_when_a_later_file_fails(
    store: Store, read: Read, lineage: Callable[..., list[bytes]]
) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            raise ValueError("gone")

    first, second = lineage(2, count=1000)
    sources = ((source, True) for source in (io.BytesIO(first), io.BytesIO(second), Broken()))
    given = ingest_all(store, sources, together=len(first))
    manifests = [next(given).manifest, next(given).manifest]
    with pytest.raises(ValueError, match="gone"):
        next(given)
    assert [read(store, manifest) for manifest in manifests] == [first, second]
    assert len(store.models()) == 2
    assert not list((store.repository / "objects/pack").glob("tmp_*"))


def test_a_group_with_a_broken_file_leaves_nothing(store: Store, lineage: Callable[..., list[bytes]]) -> None:
    def sources() -> Iterator[tuple[io.BytesIO, bool]]:
        yield io.BytesIO(lineage(1)[0]), True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ingest_all(store, sources()))
    assert store.models() == {}
    assert not list((store.repository / "objects/pack").iterdir())
