"""A remote that gives whatever it likes: every command ends in its result or in a sentence, and the store stays as it was.

What is drawn: states whose parts are honest or not, one by one: a commit that is none, trees with names that are none, chunks
that are cut short, swapped, or deltas in a ring. Nothing of it may become a wrong byte, or an error that is none of git-gru's;
what was refused can be had from an honest remote.
"""

import contextlib
import io
import itertools
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from git_gru.errors import GruError
from git_gru.ids import digest
from git_gru.store.bring import bring, locate
from git_gru.store.codec import ChunkDamagedError, encode_delta, encode_plain
from git_gru.store.ingest import ingest
from git_gru.store.manifest import MAX_MANIFEST, Manifest, parse_manifest
from git_gru.store.memory_remote import MemoryHub, MemoryRemote
from git_gru.store.objects import Objects
from git_gru.store.pack_reader import LONGEST_OBJECT, ObjectDamagedError
from git_gru.store.packs import Entry, PackWriter, entry_header, make_entry
from git_gru.store.publish import publish
from git_gru.store.remote import RemoteError
from git_gru.store.restore import restore
from git_gru.store.store import LONGEST_CHAIN, REF, Store
from git_gru.store.trees import FORMAT_TEXT, StoreTree, make_commit, make_tree
from tests.faults.operations import hub_of, make_hub, manifest_of

MINE, NEW = b"a model that is here", b"a model that is published"
CHUNKS = [bytes([at]) * 64 for at in range(3)]
WANTED = Manifest(sum(map(len, CHUNKS)), None, raw=tuple(map(digest, CHUNKS)))
NAMES = [
    b"",
    b".",
    b"..",
    b"../x",
    b"a/b",
    b".git",
    b"\xff\xfe",
    b"-",
    b"format",
    b"0" * 64,
    b"A" * 64,
    b"ab",
]


class Hostile:
    """A remote with these objects, of which the trees and commits come with every look."""

    name = "hostile"

    def __init__(self, objects: Objects, entries: Sequence[Entry], state: bytes) -> None:
        self._objects = objects
        self._entries = {entry.oid: entry for entry in entries}
        self._state = state
        self.moved: list[bytes] = []

    def look(self) -> bytes:
        self._put(oid for oid, entry in self._entries.items() if entry.packed[0] >> 4 & 7 != 3)
        return self._state

    def trees(self, oids: Sequence[bytes]) -> None:
        self._put(oids)

    def blobs(self, oids: Sequence[bytes]) -> None:
        self._put(oids)

    def move(self, new: bytes, old: bytes | None, **how: bool) -> bool:
        self.moved.append(new)
        return True

    def _put(self, oids: "Iterator[bytes] | Sequence[bytes]") -> None:
        pack = PackWriter(self._objects.folder / "objects/pack", 0)
        for oid in oids:
            if oid not in self._entries:
                pack.abandon()
                raise RemoteError(f"there is no {oid.hex()}")
            pack.add(self._entries[oid])
        pack.finish()


# ---- states ------------------------------------------------------------------------------------------------------------


@st.composite
def hostile(draw: st.DrawFn) -> tuple[list[Entry], bytes]:
    """The objects of a state, and its commit. Each part is honest three times of four."""
    entries = [make_entry("blob", [FORMAT_TEXT]), make_entry("blob", [draw(st.binary(max_size=40))])]
    entries += [make_tree({})]

    def maybe(honest: bytes, *others: bytes) -> bytes:
        return draw(st.sampled_from([honest, honest, honest, draw(st.sampled_from(others or (honest,)))]))

    def kept(entry: Entry) -> bytes:
        entries.append(entry)
        return entry.oid

    def any_object() -> bytes:
        return draw(st.sampled_from([*(entry.oid for entry in entries), b"\x11" * 20]))

    def folder(items: Mapping[bytes, bytes], mode: bytes) -> bytes:
        """A tree with some of the names, modes and objects replaced, and perhaps one more."""
        changed = {
            maybe(name, *NAMES): (maybe(mode, b"40000", b"100755", b"120000", b"160000"), maybe(oid, any_object()))
            for name, oid in items.items()
        }  # fmt: skip
        if draw(st.booleans()):
            changed[draw(st.sampled_from(NAMES))] = (mode, any_object())
        return kept(make_tree(changed))

    blobs = {}
    for at, data in enumerate(CHUNKS):
        base = draw(st.sampled_from(CHUNKS))
        plain = b"".join(map(bytes, encode_plain(data, "U8")))
        delta = b"".join(map(bytes, encode_delta(data, base, digest(base), "U8")))
        lie = b"".join(map(bytes, encode_plain(CHUNKS[at - 1], "U8")))
        cut = draw(st.integers(0, len(plain)))
        blob = maybe(plain, delta, delta, lie, plain[:cut], draw(st.binary(max_size=200)))
        blobs[digest(data).encode()] = kept(make_entry("blob", [blob]))
    model = folder(blobs, b"100644")
    group = folder({WANTED.digest[2:].encode(): model}, b"40000")
    models = folder({WANTED.digest[:2].encode(): group}, b"40000")
    incoming = folder({WANTED.digest.encode(): model}, b"40000")
    text = entries[0].oid
    root = make_tree(
        {
            maybe(b"format", *NAMES): (b"100644", maybe(text, any_object())),
            maybe(b"models", *NAMES): (b"40000", maybe(models, any_object())),
            maybe(b"incoming", *NAMES): (b"40000", maybe(incoming, any_object())),
        }
    )
    commit = kept(make_commit(maybe(kept(root), any_object())))
    kept(make_entry("commit", [draw(st.binary(max_size=60))]))
    return entries, maybe(commit, any_object())


@pytest.fixture(scope="session")
def fresh(memory: Path) -> Callable[[], Store]:
    """Makes stores that hold the models `MINE` and `NEW`."""
    folder = memory / "hostile"
    template = Store.open(folder / "template")
    for data in (MINE, NEW):
        ingest(template, io.BytesIO(data), expect_safetensors=False)
    template.close()
    numbers = itertools.count()

    def make() -> Store:
        path = folder / f"{next(numbers)}"
        shutil.copytree(template.folder, path)
        return Store.open(path)

    return make


@pytest.fixture(scope="session")
def honest(memory: Path) -> MemoryHub:
    """What an honest remote has: the wanted model."""
    hub = MemoryHub()
    store = Store.open(memory / "honest")
    with store.writer() as writer:
        for data in CHUNKS:
            writer.add(data, "U8")
        writer.commit(WANTED)
    publish(store, MemoryRemote(hub, store.objects), [[WANTED]])
    store.close()
    return hub


@given(hostile())
@settings(deadline=None, max_examples=150)
def test_any_state(fresh: Callable[[], Store], honest: MemoryHub, state: tuple[list[Entry], bytes]) -> None:
    store = fresh()
    remote = Hostile(store.objects, *state)
    with contextlib.suppress(GruError):
        assert bytes(locate(store, [remote], WANTED).chunk(digest(CHUNKS[1]))) == CHUNKS[1]
    with contextlib.suppress(GruError):
        publish(store, remote, [[manifest_of(NEW)]], related=lambda: [WANTED])
    with contextlib.suppress(GruError):
        bring(store, [remote], [WANTED])
    if store.has_model(WANTED.digest):
        with contextlib.suppress(ChunkDamagedError):
            assert b"".join(restore(store, WANTED)) == b"".join(CHUNKS)
    else:
        bring(store, [remote, MemoryRemote(honest, store.objects)], [WANTED])
        assert b"".join(restore(store, WANTED)) == b"".join(CHUNKS)
    for data in (MINE, NEW):
        assert b"".join(restore(store, manifest_of(data))) == data
    store.close()
    shutil.rmtree(store.folder)


# ---- one at a time -----------------------------------------------------------------------------------------------------


def state_with(blobs: Mapping[bytes, bytes], manifest: Manifest) -> tuple[list[Entry], bytes]:
    """The honest state of a hub that keeps these blobs (chunk id -> blob) as the model of a manifest."""
    entries = {id: make_entry("blob", [blob]) for id, blob in blobs.items()}
    model = make_tree({id: (b"100644", entry.oid) for id, entry in entries.items()})
    group = make_tree({manifest.digest[2:].encode(): (b"40000", model.oid)})
    models = make_tree({manifest.digest[:2].encode(): (b"40000", group.oid)})
    text = make_entry("blob", [FORMAT_TEXT])
    root = make_tree({b"format": (b"100644", text.oid), b"models": (b"40000", models.oid)})
    commit = make_commit(root.oid)
    return [*entries.values(), model, group, models, text, root, commit], commit.oid


def chain(*chunks: bytes, end: bytes) -> dict[bytes, bytes]:
    """Each chunk kept as a delta against the next, the last against `end`."""
    return {
        digest(data).encode(): b"".join(map(bytes, encode_delta(data, base, digest(base), "U8")))
        for data, base in itertools.pairwise([*chunks, end])
    }


def test_a_chain_of_deltas_that_does_not_end_is_refused(fresh: Callable[[], Store]) -> None:
    chunks = [bytes([at]) * 64 for at in range(LONGEST_CHAIN + 1)]
    plain = b"".join(map(bytes, encode_plain(chunks[-1], "U8")))
    ring = chain(*CHUNKS, end=CHUNKS[0])
    long = {**chain(*chunks[:-1], end=chunks[-1]), digest(chunks[-1]).encode(): plain}
    everything = Manifest(64 * len(chunks), None, raw=tuple(map(digest, chunks)))
    for blobs, manifest in ((ring, WANTED), (long, everything)):
        store = fresh()
        with pytest.raises(RemoteError, match="does not end"):
            bring(store, [Hostile(store.objects, *state_with(blobs, manifest))], [manifest])
        assert not store.has_model(manifest.digest)
    longest = {id: blob for id, blob in long.items() if id != digest(chunks[0]).encode()}
    most = Manifest(64 * (len(chunks) - 1), None, raw=tuple(map(digest, chunks[1:])))
    bring(store, [Hostile(store.objects, *state_with(longest, most))], [most])
    assert b"".join(restore(store, most)) == b"".join(chunks[1:])
    store.close()


def test_a_tree_of_too_many_blobs_is_refused_before_they_are_asked_for(fresh: Callable[[], Store]) -> None:
    honest = {digest(data).encode(): b"".join(map(bytes, encode_plain(data, "U8"))) for data in CHUNKS}
    most = LONGEST_CHAIN * len(CHUNKS)
    fillers = {f"{at:064x}".encode(): honest[digest(CHUNKS[0]).encode()] for at in range(most)}
    many = dict(list((honest | fillers).items())[: most + 1])
    store = fresh()
    with pytest.raises(RemoteError, match="is not that of the model"):
        bring(store, [Hostile(store.objects, *state_with(many, WANTED))], [WANTED])
    assert not store.has_model(WANTED.digest)
    assert not any(store.objects.has(make_entry("blob", [blob]).oid) for blob in honest.values())
    many.popitem()
    bring(store, [Hostile(store.objects, *state_with(many, WANTED))], [WANTED])
    assert b"".join(restore(store, WANTED)) == b"".join(CHUNKS)
    store.close()


def test_a_model_is_located_past_a_remote_that_is_damaged(
    fresh: Callable[[], Store], honest: MemoryHub
) -> None:
    store = fresh()
    damaged = Hostile(store.objects, *state_with({b"0" * 64: b""}, WANTED))
    with pytest.raises(RemoteError, match="what the remote hostile keeps is not right: model tree"):
        locate(store, [damaged], WANTED)
    part = locate(store, [damaged, MemoryRemote(honest, store.objects)], WANTED)
    assert bytes(part.chunk(digest(CHUNKS[0]))) == CHUNKS[0]
    store.close()


def test_what_stands_in_incoming_under_no_digest_is_not_carried_on(fresh: Callable[[], Store]) -> None:
    store = fresh()
    entries, _ = state_with({}, WANTED)
    *_, models, text, _, _ = entries
    blob, tree = make_entry("blob", [b""]), make_tree({b"x": (b"100644", text.oid)})
    arrived = make_tree(
        {
            **dict.fromkeys(NAMES, (b"40000", tree.oid)),
            b"b" * 64: (b"100644", blob.oid),
            b"c" * 64: (b"40000", tree.oid),
            manifest_of(NEW).digest.encode(): (b"40000", tree.oid),  # a tree that is none of ours
        }
    )
    root = make_tree(
        {
            b"format": (b"100644", text.oid),
            b"incoming": (b"40000", arrived.oid),
            b"models": (b"40000", models.oid),
        }
    )
    commit = make_commit(root.oid)
    remote = Hostile(store.objects, [*entries, blob, tree, arrived, root, commit], commit.oid)
    publish(store, remote, [[manifest_of(NEW)]])
    state = StoreTree(store.objects, remote.moved[-1])
    assert set(state.incoming) == {"0" * 64, "c" * 64}
    assert set(state.models()) == {WANTED.digest, manifest_of(NEW).digest}
    store.close()


def test_a_manifest_that_repeats_a_chunk_a_million_times(fresh: Callable[[], Store]) -> None:
    """As many times as fit into the longest manifest. It costs what its names cost; bytes come as they are asked for."""
    data, times = bytes(64), 980_000
    blobs = {digest(data).encode(): b"".join(map(bytes, encode_plain(data, "U8")))}
    text = Manifest(64 * times, None, raw=(digest(data),) * times).encode()
    assert MAX_MANIFEST * 0.99 < len(text) < MAX_MANIFEST
    manifest = parse_manifest(text, where="x")
    store = fresh()
    tracemalloc.start()
    try:
        remote = Hostile(store.objects, *state_with(blobs, manifest))
        assert bring(store, [remote], [manifest]).blobs == 1
        begun = list(itertools.islice(restore(store, manifest), 1000))
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()
    assert set(map(bytes, begun)) == {data}
    store.close()


def test_no_more_bytes_come_than_the_manifest_says(fresh: Callable[[], Store]) -> None:
    data = bytes(64)
    blobs = {digest(data).encode(): b"".join(map(bytes, encode_plain(data, "U8")))}
    manifest = Manifest(100, None, raw=(digest(data),) * 1000)
    store = fresh()
    bring(store, [Hostile(store.objects, *state_with(blobs, manifest))], [manifest])
    pieces = restore(store, manifest)
    assert bytes(next(pieces)) == data
    with pytest.raises(ChunkDamagedError, match="its chunks hold more bytes, its manifest says 100"):
        next(pieces)
    store.close()


def squeezed_bomb() -> list[Entry]:
    """A blob of a few hundred kilobytes that inflates to more than the longest object."""
    squeeze = zlib.compressobj(9)
    content = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(LONGEST_OBJECT >> 20))
    packed = entry_header(3, LONGEST_OBJECT + 1) + content + squeeze.compress(b"x") + squeeze.flush()
    return [Entry(b"\x22" * 20, packed, zlib.crc32(packed))]


def delta_bomb() -> list[Entry]:
    """A Git delta of a hundred bytes that copies its base, of 16 MiB, seventeen times."""
    base = make_entry("blob", [bytes(0xFFFFFF)])
    sizes = b"\xff\xff\xff\x07" + b"\xef\xff\xff\x87\x01"  # of base and result: 7 bits a byte, lowest first
    packed = entry_header(7, 77) + base.oid + zlib.compress(sizes + b"\xf0\xff\xff\xff" * 17)
    return [base, Entry(b"\x22" * 20, packed, zlib.crc32(packed))]


@pytest.mark.parametrize("make", [squeezed_bomb, delta_bomb])
def test_an_object_that_inflates_to_gigabytes_is_refused(
    make: Callable[[], list[Entry]], fresh: Callable[[], Store]
) -> None:
    store = fresh()
    pack = PackWriter(store.repository / "objects/pack", 0)
    for entry in make():
        pack.add(entry)
    pack.finish()
    tracemalloc.start()
    try:
        for ask in (
            lambda: store.objects.read(entry.oid),
            lambda: store.objects.head(entry.oid, 100),
            lambda: store.objects.expect(entry.oid, "blob"),
        ):
            with pytest.raises(ObjectDamagedError, match="claims .*2[68][0-9]{7} bytes"):
                ask()
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    store.close()


@pytest.mark.parametrize("what", ["tag", "tree", "blob", "commit"])
def test_a_hub_whose_reference_names_something_else(
    what: str, quick: Path, fresh: Callable[[], Store]
) -> None:
    hub = quick / "hub.git"
    make_hub(hub)
    publish_one = fresh()
    publish(publish_one, hub_of(publish_one, quick), [[manifest_of(NEW)]])
    state = git(hub, "rev-parse", REF)
    tag = f"object {state}\ntype commit\ntag x\ntagger A <a@b.c> 0 +0000\n\nx\n"
    named = {
        "tag": lambda: git(hub, "mktag", input=tag),
        "tree": lambda: git(hub, "rev-parse", f"{REF}^{{tree}}"),
        "blob": lambda: git(hub, "rev-parse", f"{REF}:format"),
        "commit": lambda: git(hub, "commit-tree", "-m", "x", git(hub, "mktree", input="")),
    }[what]()
    git(hub, "update-ref", REF, named)
    store = fresh()
    for act in (
        lambda: bring(store, [hub_of(store, quick)], [WANTED]),
        lambda: publish(store, hub_of(store, quick), [[manifest_of(NEW)]]),
    ):
        with pytest.raises(RemoteError, match="hub"):
            act()
    assert b"".join(restore(store, manifest_of(MINE))) == MINE
    publish_one.close()
    store.close()


def test_a_hub_that_git_has_repacked(quick: Path, fresh: Callable[[], Store]) -> None:
    """Its packs hold git's own deltas, and so do those that come from there."""
    make_hub(quick / "hub.git")
    store = fresh()
    body = {f"w{at}": np.full(64, at, "<f4") for at in range(60)}
    files = [save({**body, "w0": np.full(64, 100 + step, "<f4")}) for step in range(6)]
    for file in files:
        ingest(store, io.BytesIO(file), expect_safetensors=True)
    for file in files:
        publish(store, hub_of(store, quick), [[manifest_of(file)]])
    git(quick / "hub.git", "repack", "-a", "-d", "-f", "--window=50", "--depth=50")
    other = fresh()
    assert bring(other, [hub_of(other, quick)], list(map(manifest_of, files))).models == 6
    kinds = {
        pack._entry(offset)[0]
        for pack in other.objects.packs()
        for offset in filter(None, map(pack.find, pack.oids()))
    }
    assert kinds & {6, 7}
    for file in files:
        assert b"".join(restore(other, manifest_of(file))) == file
    store.close()
    other.close()


def git(hub: Path, *arguments: str, input: str | None = None) -> str:
    done = subprocess.run(
        ["git", "--git-dir", str(hub), *arguments], input=input, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
