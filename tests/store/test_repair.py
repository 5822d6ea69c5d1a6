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
