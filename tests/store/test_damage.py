"""Damage: whatever happened to the store's files, restoring gives the exact bytes or an error of the store, never others."""

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from git_gru.errors import StoreError
from git_gru.formats.safetensors import write_header
from git_gru.ids import digest
from git_gru.store import codec
from git_gru.store.chunks import LONGEST_CHUNK
from git_gru.store.codec import ChunkDamagedError, encode_delta, encode_plain
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.repack import repack
from git_gru.store.restore import restore
from git_gru.store.store import LONGEST_CHAIN, ChunkMissingError, Store
from git_gru.store.trees import StoreTree, make_model_tree

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def files(store: Store) -> list[Path]:
    return sorted((store.repository / "objects/pack").iterdir())


def replace(path: Path, data: bytes) -> None:
    """Writes a new file under the name: the old one may be mapped."""
    path.unlink()
    path.write_bytes(data)


def test_the_error_names_the_chunk(store: Store, add: Add, read: Read, weights: Callable[..., bytes]) -> None:
    manifest = add(store, weights(1, 5000))
    (id,) = manifest.chunks()
    store.close()
    (path,) = [path for path in files(store) if path.suffix == ".pack"]
    data = bytearray(path.read_bytes())
    data[path.stat().st_size // 2] ^= 4
    replace(path, bytes(data))
    fresh = Store(store.folder)
    with pytest.raises(ChunkDamagedError, match=id[:12]):
        fresh.chunk(id)
    with pytest.raises(ChunkDamagedError, match=id[:12]) as caught:
        read(fresh, manifest)
    assert caught.value.exit_code == 5
    assert caught.value.hint
    fresh.close()


def test_the_other_models_of_a_damaged_store_come_back(store: Store, add: Add, read: Read) -> None:
    first, second = add(store, b"first " * 200), add(store, b"second " * 200)
    store.close()
    for path in (store.repository / "objects/pack").glob("*.pack"):
        data = path.read_bytes()
        at = data.find(b"first")
        if at >= 0:
            replace(path, data[:at] + b"F" + data[at + 1 :])
    fresh = Store(store.folder)
    assert read(fresh, second) == b"second " * 200
    with pytest.raises(ChunkDamagedError):
        read(fresh, first)
    fresh.close()


@pytest.mark.parametrize("what", ["both", ".pack", ".idx"])
def test_a_missing_pack(what: str, store: Store, add: Add, read: Read) -> None:
    first = add(store, b"first " * 200)
    held = set(files(store))
    second = add(store, b"second " * 200)
    store.close()
    for path in held:
        if what in ("both", path.suffix):
            path.unlink()
    fresh = Store(store.folder)
    with pytest.raises(StoreError) as caught:
        read(fresh, first)
    assert caught.value.exit_code == 5
    assert read(fresh, second) == b"second " * 200
    fresh.close()


def test_a_missing_reference_or_repository(store: Store, add: Add, read: Read) -> None:
    manifest = add(store, b"content")
    store.close()
    (store.repository / "refs/gru/store").unlink()
    fresh = Store(store.folder)
    with pytest.raises(StoreError, match=manifest.digest[:12]):
        read(fresh, manifest)
    assert read(fresh, add(fresh, b"content")) == b"content"
    fresh.close()


@pytest.mark.parametrize("text", [b"", b"x", b"ref: refs/heads/main\n", b"0" * 40, b"\xff" * 41, b"12" * 30])
def test_a_spoilt_reference_is_an_error_of_the_store(text: bytes, store: Store, add: Add) -> None:
    add(store, b"content")
    (store.repository / "refs/gru/store").write_bytes(text)
    fresh = Store(store.folder)
    try:
        assert fresh.models() == {}
    except StoreError:
        pass
    finally:
        fresh.close()


# ---- what a hostile store can hold ------------------------------------------------------------------------------------


def planted(store: Store, blobs: dict[str, bytes], manifest: Manifest) -> None:
    """Makes `blobs` (chunk id -> blob) the model of `manifest`, as a fetched store could hold it."""
    entries = {id: make_entry("blob", [blob]) for id, blob in blobs.items()}
    model = make_model_tree({id: entry.oid for id, entry in entries.items()}, ())
    old = store.tip()
    new, upper = StoreTree(store.objects, old).write({manifest.digest: model.oid})
    pack = PackWriter(store.repository / "objects/pack", 0)
    for entry in (*entries.values(), model, *upper):
        pack.add(entry)
    pack.finish()
    assert store.update_ref(new, old)


def joined(parts: object) -> bytes:
    return b"".join(bytes(part) for part in parts)  # type: ignore[attr-defined]


def raw_of(*chunks: bytes) -> Manifest:
    return Manifest(sum(map(len, chunks)), None, raw=tuple(map(digest, chunks)))


def test_a_planted_model_that_is_right_is_read(store: Store, read: Read) -> None:
    manifest = raw_of(b"content")
    planted(store, {digest(b"content"): joined(encode_plain(b"content", "U8"))}, manifest)
    assert read(store, manifest) == b"content"


def test_a_chunk_under_another_id(store: Store, read: Read) -> None:
    manifest = raw_of(b"content")
    planted(store, {digest(b"content"): joined(encode_plain(b"Content", "U8"))}, manifest)
    with pytest.raises(ChunkDamagedError, match=digest(b"content")[:12]):
        read(store, manifest)


def test_a_delta_against_the_wrong_base(store: Store, read: Read) -> None:
    data, base, other = b"d" * 64, bytes(range(64)), bytes(64)
    manifest = raw_of(data)
    # The blob kept as the base holds other bytes than the base's id says.
    blobs = {
        digest(data): joined(encode_delta(data, base, digest(base), "U8")),
        digest(base): joined(encode_plain(other, "U8")),
    }
    planted(store, blobs, manifest)
    with pytest.raises(ChunkDamagedError):
        read(store, manifest)


def test_a_base_that_is_not_there(store: Store, read: Read) -> None:
    data, base = b"d" * 64, bytes(64)
    manifest = raw_of(data)
    planted(store, {digest(data): joined(encode_delta(data, base, digest(base), "U8"))}, manifest)
    with pytest.raises(ChunkMissingError, match=digest(base)[:12]):
        read(store, manifest)


def test_bases_in_a_circle(store: Store, read: Read) -> None:
    one, two = b"1" * 64, b"2" * 64
    manifest = raw_of(one)
    blobs = {
        digest(one): joined(encode_delta(one, two, digest(two), "U8")),
        digest(two): joined(encode_delta(two, one, digest(one), "U8")),
    }
    planted(store, blobs, manifest)
    with pytest.raises(ChunkDamagedError, match="does not end"):
        read(store, manifest)


def test_a_chain_as_long_as_is_allowed_and_one_longer(store: Store, read: Read) -> None:
    chunks = [bytes([n]) * 40 for n in range(LONGEST_CHAIN + 1)]
    for length in (LONGEST_CHAIN, LONGEST_CHAIN + 1):
        blobs = {digest(chunks[0]): joined(encode_plain(chunks[0], "U8"))}
        for base, data in itertools.pairwise(chunks[:length]):
            blobs[digest(data)] = joined(encode_delta(data, base, digest(base), "U8"))
        manifest = raw_of(chunks[length - 1])
        planted(store, blobs, manifest)
        if length == LONGEST_CHAIN:
            assert read(store, manifest) == chunks[length - 1]
        else:
            with pytest.raises(ChunkDamagedError, match="does not end"):
                read(store, manifest)


def test_a_blob_that_is_no_chunk(store: Store, read: Read) -> None:
    for blob in (b"", b"x", b"\0" * 100, joined(encode_plain(b"content", "U8"))[:-1]):
        manifest = raw_of(b"content", blob)
        planted(store, dict.fromkeys(manifest.chunks(), blob), manifest)
        with pytest.raises(ChunkDamagedError):
            read(store, manifest)


def test_a_tensor_file_whose_header_chunk_is_another_header(
    store: Store, add: Add, file_of: Callable[..., bytes]
) -> None:
    real = add(store, file_of([("w", "F32", [2], bytes(8))]))
    other = add(store, file_of([("w", "F32", [3], bytes(12))]))
    with store.writer() as writer:
        mixed = Manifest(real.size, other.header, real.tensors)
        writer.commit(mixed)
    with pytest.raises(StoreError, match="truncated"):
        store.header(mixed)
    renamed = add(store, file_of([("v", "F32", [2], bytes(8))]))
    with store.writer() as writer:
        mixed = Manifest(real.size, renamed.header, real.tensors)
        writer.commit(mixed)
    with pytest.raises(StoreError, match="different tensors"):
        store.header(mixed)


def test_limits_fit_each_other() -> None:
    assert codec.MAX_BLOB_HEADER < LONGEST_CHUNK


@pytest.mark.parametrize("cache", ["there", "gone"])
def test_adding_a_file_again_repairs_the_store(tmp_path: Path, cache: str) -> None:
    """A chunk whose stored copy is damaged counts as unknown once that was seen: adding its file writes it anew."""
    store = Store.open(tmp_path / "gru")
    content = write_header([("a", "F32", [4096]), ("b", "F32", [512])]) + random.Random(1).randbytes(18432)
    first = ingest(store, io.BytesIO(content), expect_safetensors=True).manifest
    ingest(store, io.BytesIO(write_header([("c", "U8", [3])]) + b"abc"), expect_safetensors=True)
    blob = store.blobs(first)[first.tensors["a"].chunks[0]]
    (pack,) = [pack for pack in store.objects.packs() if pack.find(blob) is not None]
    store.close()
    offset = pack.find(blob)
    assert offset is not None
    pack.path.chmod(0o644)
    with open(pack.path, "r+b") as file:
        file.seek(offset + 20)
        file.write(b"\0" * 40)
    store = Store.open(tmp_path / "gru")
    if cache == "gone":
        store.lookup.forget()
    with pytest.raises(StoreError):
        b"".join(restore(store, first))
    with pytest.raises(StoreError, match="missing or damaged"):
        repack(store, [[first]], frozenset())
    assert ingest(store, io.BytesIO(content), expect_safetensors=True).manifest == first
    assert b"".join(restore(store, first)) == content
    repack(store, [[first]], frozenset())
    assert b"".join(restore(store, first)) == content
    store.close()
