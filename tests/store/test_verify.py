"""Verifying and mending: every kind of damage is found and named, and what is intact elsewhere mends it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from git_gru.ids import digest
from git_gru.store.codec import ChunkDamagedError, encode_delta, encode_plain
from git_gru.store.manifest import Manifest
from git_gru.store.mend import Intact, intact_copies, mend
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.repack import repack
from git_gru.store.salvage import salvage
from git_gru.store.store import Store
from git_gru.store.trees import StoreTree, make_model_tree
from git_gru.store.verify import Kind, Verified, verify

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def verified(store: Store, *manifests: Manifest, deep: bool = True) -> Verified:
    chunks = {manifest.digest: manifest.chunks() for manifest in manifests}
    return verify(store, chunks.get, deep=deep)


def kinds(found: Verified) -> set[Kind]:
    return {finding.kind for finding in found.findings}


def largest_pack(store: Store) -> Path:
    return max((store.repository / "objects/pack").glob("*.pack"), key=lambda path: path.stat().st_size)


def overwrite(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.unlink()
    path.write_bytes(bytes(content))


def damage(store: Store, id: str) -> None:
    """Flips a bit in the middle of a chunk's blob."""
    store.sync()
    row = store.lookup.get(id)
    assert row is not None
    for pack in store.objects.packs():
        offset = pack.find(row.oid)
        if offset is not None:
            content = pack.path.read_bytes()
            middle = offset + row.stored // 2
            overwrite(pack.path, middle, bytes([content[middle] ^ 16]))


def put(store: Store, digest_: str, blobs: dict[str, bytes], deltas: set[str]) -> None:
    """A model tree of one's own making: chunk id -> blob."""
    entries = {id: make_entry("blob", [blob]) for id, blob in blobs.items()}
    model = make_model_tree({id: entry.oid for id, entry in entries.items()}, deltas)
    old = store.tip()
    new, upper = StoreTree(store.objects, old).write({digest_: model.oid})
    pack = PackWriter(store.repository / "objects/pack", 0)
    for entry in (*entries.values(), model, *upper):
        pack.add(entry)
    pack.finish()
    assert store.update_ref(new, old)


# ---- finding ----------------------------------------------------------------------------------------------------------


def test_a_whole_store(store: Store, add: Add, lineage: Lineage) -> None:
    assert verified(store) == Verified(models=0, chunks=0, packs=0, findings=())
    manifests = [add(store, content) for content in lineage(5)]
    repack(store, [manifests[::-1]], set())
    told: list[tuple[int, int]] = []
    found = verify(store, lambda digest: None, deep=True, progress=lambda *done: told.append(done))
    assert found == Verified(models=5, chunks=11, packs=2, findings=())
    assert told == [(done, 11) for done in range(1, 12)]
    verify(store, lambda digest: None, progress=lambda *done: told.append(done))
    assert told[-1] == (5, 5)


def test_a_flipped_bit_is_found_by_a_deep_look_only(store: Store, add: Add, lineage: Lineage) -> None:
    manifests = [add(store, content) for content in lineage(2)]
    id = manifests[0].tensors["w"].chunks[0]
    damage(store, id)
    assert verified(Store(store.folder), *manifests, deep=False).findings == ()
    found = verified(Store(store.folder), *manifests)
    assert kinds(found) == {Kind.DAMAGED}
    assert found.broken_chunks() == [(manifests[0].digest, id)]
    assert id[:12] in found.findings[0].text


def test_what_hangs_on_a_damaged_base_is_named_too(store: Store, add: Add, lineage: Lineage) -> None:
    manifests = [add(store, content) for content in lineage(3)]
    repack(store, [manifests[::-1]], set())
    ids = [manifest.tensors["w"].chunks[0] for manifest in manifests]
    damage(store, ids[2])
    broken = verified(Store(store.folder), *manifests).broken_chunks()
    assert {chunk for _, chunk in broken} == set(ids)


def test_a_lost_pack_and_a_lost_index(store: Store, add: Add, read: Read) -> None:
    first, second = add(store, b"first" * 900), add(store, b"second" * 900)
    store.close()
    (lost,) = [pack for pack in store.objects.packs() if pack.find(store.models()[first.digest])]
    aside = lost.path.read_bytes(), lost.path.with_suffix(".idx").read_bytes()
    lost.path.unlink()
    assert Kind.PACK in kinds(verified(Store(store.folder), first, second))
    lost.path.with_suffix(".idx").unlink()
    found = verified(Store(store.folder), first, second)
    assert (found.models, kinds(found)) == (1, {Kind.TREE})
    assert first.digest[:2] in found.findings[0].text, "with the pack went the tree that has the model"
    for data, path in zip(aside, (lost.path, lost.path.with_suffix(".idx")), strict=True):
        path.write_bytes(data)
    assert not verified(Store(store.folder), first, second).findings
    for path in (lost.path, lost.path.with_suffix(".idx")):
        path.unlink()
    fresh = Store(store.folder)
    assert salvage(fresh, [first, second]).lost == {first.digest}
    assert not verified(fresh, first, second).findings
    assert read(fresh, add(fresh, b"first" * 900)) == b"first" * 900
    assert read(fresh, second) == b"second" * 900


@pytest.mark.parametrize(("suffix", "at"), [(".idx", 1100), (".idx", 2), (".pack", 5), (".pack", -10)])
def test_a_pack_or_index_that_does_not_fit(suffix: str, at: int, store: Store, add: Add) -> None:
    add(store, b"content" * 5000)
    store.close()
    path = largest_pack(store).with_suffix(suffix)
    overwrite(path, at % path.stat().st_size, b"\xee")
    assert Kind.PACK in kinds(verified(Store(store.folder)))


def test_a_reference_to_nothing(store: Store, add: Add) -> None:
    add(store, b"content")
    (store.repository / "refs/gru/store").write_text("12" * 20 + "\n")
    found = verified(Store(store.folder))
    assert (found.models, kinds(found)) == (0, {Kind.TREE})


def test_trees_that_lack_or_lie(store: Store) -> None:
    one, two = b"\0" * 400, b"\0\0\0\1" * 100
    plain, delta = b"".join(encode_plain(one, "F32")), b"".join(encode_delta(two, one, digest(one), "F32"))
    back = b"".join(encode_delta(one, two, digest(two), "F32"))
    for number, (blobs, deltas, expected) in enumerate(
        [
            ({digest(one): plain}, set(), (None, None)),
            ({digest(one): plain}, {digest(one)}, (Kind.TREE, None)),
            ({digest(two): delta}, {digest(two)}, (Kind.MISSING, digest(one))),
            ({digest(one): back, digest(two): delta}, {digest(one), digest(two)}, (Kind.DAMAGED, None)),
            ({digest(one): b"no safetensors"}, set(), (Kind.DAMAGED, digest(one))),
            ({digest(two): plain}, set(), (Kind.DAMAGED, digest(two))),
        ]
    ):
        name = f"{number:064x}"
        put(store, name, blobs, deltas)
        kind, chunk = expected
        found = [finding for finding in verified(store).findings if finding.digest == name]
        assert {finding.kind for finding in found} == ({kind} if kind else set())
        assert chunk is None or {finding.chunk for finding in found} >= {chunk}


def test_a_chunk_that_the_manifest_names_and_the_tree_lacks(store: Store, add: Add) -> None:
    manifest = add(store, b"content")
    asked = verify(store, lambda digest: [*manifest.chunks(), "ab" * 32])
    assert asked.broken_chunks() == [(manifest.digest, "ab" * 32)]


# ---- mending ----------------------------------------------------------------------------------------------------------


def test_a_second_copy_mends_a_damaged_chunk(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None]
) -> None:
    contents = lineage(4)
    manifests = [add(store, content) for content in contents]
    store.close()
    aside = {path.name: path.read_bytes() for path in (store.repository / "objects/pack").iterdir()}
    repack(store, [manifests[::-1]], set())
    ids = [manifest.tensors["w"].chunks[0] for manifest in manifests]
    damage(store, ids[3])
    for name, data in aside.items():  # an older pack that somebody has kept: it has the newest chunk, plain
        path = store.repository / "objects/pack" / name
        path.write_bytes(data)
        os.utime(path, (0, 0))
    fresh = Store(store.folder)
    broken = dict.fromkeys(chunk for _, chunk in verified(fresh, *manifests).broken_chunks())
    assert set(broken) >= {ids[3]}
    copies = list(intact_copies(fresh, broken))
    assert {copy.id for copy in copies} == set(broken)
    assert mend(fresh, copies) == len(broken)
    fresh.close()
    fresh = Store(store.folder)
    assert not verified(fresh, *manifests).findings
    assert [read(fresh, manifest) for manifest in manifests] == contents
    whole(fresh)
    fresh.close()


def test_another_models_encoding_mends_a_damaged_chunk(store: Store, read: Read) -> None:
    # One chunk in two models: here as a delta, there plain.
    rng = np.random.default_rng(1)
    one = rng.bytes(4000)
    two = bytes(np.frombuffer(one, np.uint32) + 1)
    plain_one, plain_two = b"".join(encode_plain(one, "U32")), b"".join(encode_plain(two, "U32"))
    delta = b"".join(encode_delta(two, one, digest(one), "U32"))
    first = Manifest(4000, None, raw=(digest(two),))
    second = Manifest(8000, None, raw=(digest(two), digest(one)))
    put(store, first.digest, {digest(two): plain_two}, set())
    put(store, second.digest, {digest(two): delta, digest(one): plain_one}, {digest(two)})
    store.sync()
    assert store.lookup.get(digest(two)).depth == 0, "of two encodings, the one that needs no base"  # type: ignore[union-attr]
    damage(store, digest(two))
    fresh = Store(store.folder)
    found = verified(fresh, first, second)
    assert found.broken_chunks() == [(first.digest, digest(two))]
    assert mend(fresh, intact_copies(fresh, [digest(two)])) == 1
    fresh = Store(store.folder)
    assert not verified(fresh, first, second).findings
    assert (read(fresh, first), read(fresh, second)) == (two, two + one)


def test_nothing_intact_mends_nothing(store: Store, add: Add) -> None:
    manifest = add(store, b"content" * 500)
    (id,) = manifest.chunks()
    damage(store, id)
    fresh = Store(store.folder)
    before = fresh.tip()
    assert list(intact_copies(fresh, [id, "00" * 32])) == []
    assert mend(fresh, []) == 0
    assert fresh.tip() == before
    assert mend(fresh, [Intact(id, b"content" * 500, "U8")]) == 1, "as from a remote"
    assert not verified(Store(store.folder), manifest).findings


def test_other_bytes_never_mend(store: Store, add: Add) -> None:
    (id,) = add(store, b"content").chunks()
    before = store.tip()
    with pytest.raises(ChunkDamagedError, match=id[:12]):
        mend(store, [Intact(id, b"others", "U8")])
    assert store.tip() == before
    assert not list((store.repository / "objects/pack").glob("tmp_*"))
