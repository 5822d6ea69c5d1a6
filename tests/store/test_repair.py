"""Damaged and missing chunks come back from a remote."""

from collections.abc import Callable

import pytest

from git_gru.store.bring import bring
from git_gru.store.codec import ChunkDamagedError
from git_gru.store.manifest import Manifest
from git_gru.store.memory_remote import MemoryHub, MemoryRemote
from git_gru.store.pack_reader import ObjectDamagedError
from git_gru.store.publish import publish
from git_gru.store.repack import repack
from git_gru.store.repair import repair
from git_gru.store.store import Store

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def damage(store: Store, id: str) -> None:
    """Flips bytes in the middle of the blob that keeps a chunk."""
    store.sync()
    row = store.lookup.get(id)
    assert row is not None
    for pack in store.objects.packs():
        if (offset := pack.find(row.oid)) is not None:
            pack.path.chmod(0o644)
            with open(pack.path, "r+b") as file:
                file.seek(offset + row.stored // 2)
                file.write(b"\xde\xad\xbe\xef\xde\xad\xbe\xef")


@pytest.mark.parametrize("repacked", [False, True])
def test_a_damaged_chunk_is_fetched_anew(
    new_store: Callable[[], Store], add: Add, read: Read, lineage: Lineage, repacked: bool
) -> None:
    store, hub = new_store(), MemoryHub()
    files = lineage(3)
    manifests = [add(store, file) for file in files]
    publish(store, MemoryRemote(hub, store.objects), [manifests[::-1]])
    if repacked:  # versions 0 and 1 are deltas whose bases are in the newer ones
        repack(store, [manifests[::-1]], set())
    broken_id = manifests[2].tensors["w"].chunks[0]
    damage(store, broken_id)
    with pytest.raises((ChunkDamagedError, ObjectDamagedError)):
        read(store, manifests[2])
    broken = {m: [m.tensors["w"].chunks[0]] for m in (manifests if repacked else manifests[2:])}
    done = repair(store, lambda scratch: [MemoryRemote(hub, scratch.objects)], broken)
    assert done.chunks == len(broken)
    assert not done.left
    assert [read(store, manifest) for manifest in manifests] == files
    assert not list(store.folder.glob("git-gru-*"))
    again = Store(store.folder)
    again.lookup.forget()
    assert [read(again, manifest) for manifest in manifests] == files
    again.close()


def test_a_remote_that_is_damaged_too_is_passed_over(
    new_store: Callable[[], Store], add: Add, read: Read, lineage: Lineage
) -> None:
    """Each remote is looked at once, however many chunks it is asked for."""
    store, hubs = new_store(), [MemoryHub(), MemoryHub()]
    (file,) = lineage(1)
    manifest = add(store, file)
    for hub in hubs:
        publish(store, MemoryRemote(hub, store.objects), [[manifest]])
    ids = [id for entry in manifest.tensors.values() for id in entry.chunks]
    store.sync()
    for id in ids:
        row = store.lookup.get(id)
        assert row is not None
        kind, content = hubs[0].objects[row.oid]
        hubs[0].objects[row.oid] = (kind, content[:-9] + bytes(9))
        damage(store, id)
    looks = []

    class Counting(MemoryRemote):
        def look(self) -> bytes | None:
            looks.append(self.name)
            return super().look()

    done = repair(
        store,
        lambda scratch: [Counting(hub, scratch.objects, f"hub {at}") for at, hub in enumerate(hubs)],
        {manifest: ids},
    )
    assert (done.chunks, done.left) == (len(ids), {})
    assert looks == ["hub 0", "hub 1"]
    assert read(store, manifest) == file


def test_what_no_remote_has_is_told(new_store: Callable[[], Store], add: Add, lineage: Lineage) -> None:
    store, other, hub = new_store(), new_store(), MemoryHub()
    (file,) = lineage(1)
    manifest = add(store, file)
    publish(store, MemoryRemote(hub, store.objects), [[manifest]])
    bring(other, [MemoryRemote(hub, other.objects)], [manifest])
    id = manifest.tensors["w"].chunks[0]
    damage(store, id)
    done = repair(store, lambda scratch: [MemoryRemote(MemoryHub(), scratch.objects)], {manifest: [id]})
    assert done.chunks == 0
    assert set(done.left) == {id}
    assert "tried: memory" in done.left[id]
    done = repair(store, lambda scratch: [], {manifest: [id]})
    assert "there is no remote" in done.left[id]
