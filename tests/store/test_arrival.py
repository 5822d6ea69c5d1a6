"""Files are given while their chunks come: the same bytes whatever comes first, and nothing of what is not right."""

import io
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from git_gru.store.arrival import Arrival
from git_gru.store.bring import bring
from git_gru.store.codec import ChunkDamagedError
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.memory_remote import MemoryHub, MemoryRemote
from git_gru.store.objects import ObjectMissingError
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.publish import publish
from git_gru.store.remote import RemoteError
from git_gru.store.store import Store
from git_gru.store.trees import model_blobs, ordered_blobs

PATIENCE = 60
TENSORS = {f"w{at:02}": np.random.default_rng(at).normal(0, 0.1, 9_000).astype("<f4") for at in range(12)}
FILES = [
    save({name: array + np.float32(1e-4 * step) for name, array in TENSORS.items()}) for step in range(2)
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MemoryHub, list[Manifest], Store]]:
    """A hub with two versions of a model, the older one as deltas."""
    store, hub = Store.open(tmp_path_factory.mktemp("published") / "gru"), MemoryHub()
    manifests = [ingest(store, io.BytesIO(file), expect_safetensors=True).manifest for file in FILES]
    publish(store, MemoryRemote(hub, store.objects), [manifests[::-1]])
    yield hub, manifests, store
    store.close()


class Ordered(MemoryRemote):
    """Sends the blobs of models in an order of its own; `sends` is called before each."""

    def __init__(
        self, hub: MemoryHub, store: Store, order: Callable[[list[bytes]], None], sends: Callable[[], None]
    ) -> None:
        super().__init__(hub, store.objects)
        self._order, self._sends, self._mine = order, sends, hub

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        self._take(trees)
        oids = ordered_blobs(self._objects, trees, chunks)
        self._order(oids)
        pack = PackWriter(self._objects.folder / "objects/pack", len(oids))
        try:
            for oid in oids:
                self._sends()
                kind, content = self._mine.objects[oid]
                pack.add(make_entry(kind, [content]))
                self._objects.has_come(pack)
        except BaseException:
            pack.abandon()
            raise
        pack.finish()


def as_it_is(oids: list[bytes]) -> None:
    """The order in which chunks are wanted: that of the file."""


def arriving(store: Store, remote: Any, *manifests: Manifest) -> Arrival:
    return Arrival(store, lambda found: bring(store, [remote], manifests, None, found))


def test_bytes_are_given_before_the_last_chunk_is_here(published, tmp_path: Path) -> None:
    hub, (_, new), _ = published
    store, gate = Store.open(tmp_path / "gru"), threading.Semaphore(store_room := 9)
    remote = Ordered(hub, store, as_it_is, lambda: _passed(gate))
    arrival = arriving(store, remote, new)
    pieces = arrival.restore(new)
    first = [bytes(next(pieces)) for _ in range(store_room - store.cores - 2)]
    assert not store.has_model(new.digest)
    gate.release(1000)
    assert b"".join([*first, *pieces]) == FILES[1]
    assert arrival.wait() is None
    assert store.has_model(new.digest)
    store.close()


def _passed(gate: threading.Semaphore) -> None:
    assert gate.acquire(timeout=PATIENCE)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), which=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]))
def test_any_order_gives_the_same_bytes(
    published, tmp_path_factory, seed: int, which: tuple[int, ...]
) -> None:
    hub, manifests, _ = published
    store = Store.open(tmp_path_factory.mktemp("clone") / "gru")
    wanted = [manifests[at] for at in which]
    arrival = arriving(store, Ordered(hub, store, random.Random(seed).shuffle, lambda: None), *wanted)
    for at in which[::-1]:
        assert b"".join(arrival.restore(manifests[at])) == FILES[at]
    assert arrival.wait() is None
    assert set(store.models()) == {manifest.digest for manifest in wanted}
    store.close()


def test_what_breaks_off_is_told_behind_right_bytes(published, tmp_path: Path) -> None:
    hub, (_, new), _ = published
    store, left = Store.open(tmp_path / "gru"), [8]

    def sends() -> None:
        left[0] -= 1
        if not left[0]:
            raise RemoteError("out of luck")

    arrival, came = arriving(store, Ordered(hub, store, as_it_is, sends), new), bytearray()
    with pytest.raises(RemoteError, match="out of luck"):
        for piece in arrival.restore(new):
            came += piece
    assert FILES[1].startswith(came)
    assert not store.has_model(new.digest)
    assert isinstance(arrival.wait(), RemoteError)
    store.close()


def test_a_chunk_of_other_bytes_is_not_given(published, tmp_path: Path) -> None:
    hub, (_, new), source = published
    blobs, ids = model_blobs(source.objects, _tree(hub, new, tmp_path)), list(new.chunks())
    false = MemoryHub()
    false.state, false.objects = hub.state, {**hub.objects, blobs[ids[6]]: hub.objects[blobs[ids[5]]]}

    class Blind(Ordered):
        """Takes whatever the hub has under a name."""

        def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
            self._take(trees)
            pack = PackWriter(self._objects.folder / "objects/pack", 0)
            for oid in ordered_blobs(self._objects, trees, chunks):
                kind, content = self._mine.objects[oid]
                pack.add(make_entry(kind, [content])._replace(oid=oid))
                self._objects.has_come(pack)
            pack.finish()

    store, came = Store.open(tmp_path / "gru"), bytearray()
    arrival = arriving(store, Blind(false, store, as_it_is, lambda: None), new)
    with pytest.raises(ChunkDamagedError):
        for piece in arrival.restore(new):
            came += piece
    assert came
    assert FILES[1].startswith(came)
    store.close()


def _tree(hub: MemoryHub, manifest: Manifest, folder: Path) -> bytes:
    """The model tree of a manifest, which the source's own store keeps too."""
    store = Store.open(folder / "look")
    bring(store, [MemoryRemote(hub, store.objects)], [manifest])
    tree = store.tree().model(manifest.digest)
    assert tree is not None
    store.close()
    return tree


def test_a_pack_under_way_is_read_and_not_counted_on(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gru")
    entries = [make_entry("blob", [bytes([at]) * 70_000]) for at in range(3)]
    pack = PackWriter(store.repository / "objects/pack", len(entries))
    for at, entry in enumerate(entries):
        pack.add(entry)
        store.objects.has_come(pack)
        assert bytes(store.objects.expect(entry.oid, "blob")) == bytes([at]) * 70_000
        assert store.objects.absent([entry.oid]) == [entry.oid], "it is not durable"
        assert store.objects.entry(entry.oid) is None
    pack.finish()
    assert store.objects.absent([entry.oid for entry in entries]) == []
    other = PackWriter(store.repository / "objects/pack", 1)
    lost = make_entry("blob", [b"lost"])
    other.add(lost)
    store.objects.has_come(other)
    other.abandon()
    with pytest.raises(ObjectMissingError):
        store.objects.read(lost.oid)
    store.close()
