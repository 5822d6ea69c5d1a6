"""Repack: sizes fall, bytes stay, the newest stay plain, chains stay short, and nobody working beside it is hurt."""

import io
import subprocess
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.errors import InputError
from git_gru.ids import digest
from git_gru.store import columns
from git_gru.store.codec import Encoding, inspect
from git_gru.store.columns import DEPTH
from git_gru.store.ingest import ingest
from git_gru.store.locking import RewriteRunningError
from git_gru.store.manifest import Manifest
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.repack import DEEPEST, RepackReport, repack
from git_gru.store.restore import restore
from git_gru.store.store import LONGEST_CHAIN, Store
from git_gru.store.trees import model_blobs, model_deltas

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def encodings(store: Store) -> dict[str, Encoding]:
    """How every chunk is kept, from the blobs themselves."""
    found = {}
    for tree in store.models().values():
        for id, oid in _model(store, tree).items():
            found[id] = inspect(store.objects.expect(oid, "blob"), where=id)
        marked = model_deltas(store.objects, tree)
        assert marked == {id for id in _model(store, tree) if found[id].codec == "delta"}
    return found


def _model(store: Store, tree: bytes) -> dict[str, bytes]:
    return model_blobs(store.objects, tree)


def chain(kept: dict[str, Encoding], id: str) -> int:
    length = 0
    while (base := kept[id].base) is not None:
        id, length = base, length + 1
    return length


def self_contained(store: Store) -> None:
    """Every model tree holds all bases that its chunks need, and nothing that they do not."""
    for tree in store.models().values():
        blobs = _model(store, tree)
        for oid in blobs.values():
            base = inspect(store.objects.expect(oid, "blob"), where="x").base
            assert base is None or base in blobs


def filled(store: Store, add: Add, contents: list[bytes]) -> list[Manifest]:
    return [add(store, content) for content in contents]


# ---- what it does -----------------------------------------------------------------------------------------------------


def test_a_lineage(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None]
) -> None:
    contents = lineage(9)
    manifests = filled(store, add, contents)
    told: list[tuple[int, int]] = []
    report = repack(store, [manifests[::-1]], set(), progress=lambda done, all: told.append((done, all)))
    assert report.bytes_after < 0.97 * report.bytes_before
    assert (report.models, report.chunks) == (9, 2 * 9 + 1)
    assert 0 < report.rewritten <= 8
    assert (report.packs_before, report.packs_after) == (9, 2)
    assert told[-1][0] == told[-1][1] == 9 * 80_000 + 2000
    whole(store)
    self_contained(store)
    kept = encodings(store)
    for id in manifests[-1].chunks():
        assert kept[id].codec == "plain", "the newest version"
    assert any(encoding.codec == "delta" for encoding in kept.values())
    for reader in (store, Store(store.folder)):
        assert [read(reader, manifest) for manifest in manifests] == contents
        assert all(digest(reader.chunk(id)) == id for id in kept)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("window", [1, 4])
def test_chains_are_no_longer_than_asked(
    depth: int, window: int, store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(10, count=4000)
    manifests = filled(store, add, contents)
    repack(store, [manifests[::-1]], set(), depth=depth, window=window)
    kept = encodings(store)
    assert max(chain(kept, id) for id in kept) == min(depth, 9)
    assert [read(store, manifest) for manifest in manifests] == contents
    # Another depth afterwards holds as well, for the chains that there are.
    repack(store, [manifests[::-1]], set(), depth=2, window=window)
    kept = encodings(store)
    assert max(chain(kept, id) for id in kept) <= 2
    assert [read(store, manifest) for manifest in manifests] == contents


@pytest.mark.parametrize(("depth", "window"), [(0, 4), (4, 0)])
def test_without_depth_or_window_all_is_plain(
    depth: int, window: int, store: Store, add: Add, lineage: Lineage
) -> None:
    manifests = filled(store, add, lineage(4, count=2000))
    repack(store, [manifests[::-1]], set(), depth=depth, window=window)
    assert {encoding.codec for encoding in encodings(store).values()} == {"plain"}


def test_what_is_asked_to_stay_plain_does_and_becomes_so_again(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(6)
    manifests = filled(store, add, contents)
    repack(store, [manifests[::-1]], {manifests[2].digest})
    kept = encodings(store)
    for at in (2, 5):
        assert {kept[id].codec for id in manifests[at].chunks()} == {"plain"}
    assert kept[manifests[1].tensors["w"].chunks[0]].codec == "delta"
    repack(store, [manifests[::-1]], {manifests[1].digest})
    kept = encodings(store)
    assert {kept[id].codec for id in manifests[1].chunks()} == {"plain"}
    assert kept[manifests[2].tensors["w"].chunks[0]].codec == "delta"
    assert [read(store, manifest) for manifest in manifests] == contents


def test_again_rewrites_nothing(store: Store, add: Add, read: Read, lineage: Lineage) -> None:
    contents = lineage(6)
    manifests = filled(store, add, contents)
    repack(store, [manifests[::-1]], set())
    kept, tip = encodings(store), store.tip()
    for _ in range(2):
        report = repack(store, [manifests[::-1]], set())
        assert report.rewritten == 0
        assert abs(report.bytes_after - report.bytes_before) < 1000
        assert (encodings(store), store.tip()) == (kept, tip)
        assert [read(store, manifest) for manifest in manifests] == contents


def test_a_new_version_takes_over_the_front(store: Store, add: Add, read: Read, lineage: Lineage) -> None:
    contents = lineage(7)
    manifests = filled(store, add, contents[:4])
    repack(store, [manifests[::-1]], set())
    for content in contents[4:]:
        manifests.append(add(store, content))
        report = repack(store, [manifests[::-1]], set())
        assert report.rewritten >= 1
        kept = encodings(store)
        assert {kept[id].codec for id in manifests[-1].chunks()} == {"plain"}
        assert kept[manifests[-2].tensors["w"].chunks[0]].codec == "delta"
        assert [read(store, manifest) for manifest in manifests] == contents[: len(manifests)]


def test_versions_that_have_nothing_in_common_stay_plain(store: Store, add: Add, read: Read) -> None:
    contents = [np.random.default_rng(n).bytes(30_000) for n in range(4)]
    files = [
        b"\x4a\0\0\0\0\0\0\0"
        + b'{"w":{"dtype":"U8","shape":[30000],"data_offsets":[0,30000]}}'
        + b" " * 13
        + c
        for c in contents
    ]
    manifests = filled(store, add, files)
    assert not manifests[0].is_raw
    report = repack(store, [manifests[::-1]], set())
    assert report.rewritten == 0
    assert {encoding.codec for encoding in encodings(store).values()} == {"plain"}
    assert [read(store, manifest) for manifest in manifests] == files


def test_models_that_no_lineage_names_stay_as_they_are(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents, others = lineage(5), [*lineage(2, seed=50, count=3000), b"raw bytes"]
    manifests, apart = filled(store, add, contents), filled(store, add, others)
    repack(store, [manifests[::-1]], set())
    before = encodings(store)
    repack(store, [], set())
    assert encodings(store) == before
    assert [read(store, manifest) for manifest in (*manifests, *apart)] == [*contents, *others]
    assert {before[id].codec for manifest in apart for id in manifest.chunks()} == {"plain"}


def test_chains_through_models_that_no_lineage_names_any_more_stay_readable(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    # A commit amended again and again: each version becomes the base of the one before, which then is named no more.
    contents = lineage(30, count=400)
    manifests: list[Manifest] = []
    for content in contents:
        manifests.append(add(store, content))
        repack(store, [manifests[-1:-3:-1]], set())
    kept = encodings(store)
    assert max(chain(kept, id) for id in kept) <= 2 * DEPTH < LONGEST_CHAIN
    assert sum(encoding.codec == "delta" for encoding in kept.values()) > len(contents) * 0.6
    self_contained(store)
    assert [read(store, manifest) for manifest in manifests] == contents


def test_a_base_that_nothing_needs_any_more_is_forgotten_and_written_again(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    old, new = lineage(2)
    first, second = add(store, old), add(store, new)
    repack(store, [[second, first]], set())
    base = second.tensors["w"].chunks[0]
    assert store.lookup.rows()[first.tensors["w"].chunks[0]].base == base
    tip = store.tip()
    commit, entries = store.tree().write({second.digest: None})
    pack = PackWriter(store.repository / "objects/pack", len(entries))
    for entry in entries:
        pack.add(entry)
    pack.finish()
    assert store.update_ref(commit, tip)
    store.sync()
    assert base in store.lookup.rows(), "a base of a model that is there"
    repack(store, [[first]], set())
    assert set(store.lookup.rows()) == set(first.chunks())
    repack(store, [[first]], set())
    assert read(store, first) == old
    assert read(store, add(store, new)) == new


def test_a_manifest_that_the_store_lacks_is_passed_over(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(4)
    manifests = filled(store, add, contents[:3])
    from git_gru.store.ingest import describe

    missing = describe(io.BytesIO(contents[3]), expect_safetensors=True).manifest
    repack(store, [[missing, *manifests[::-1]]], set())
    assert [read(store, manifest) for manifest in manifests] == contents[:3]


def test_an_empty_store(store: Store) -> None:
    report = repack(store, [], set())
    assert report == RepackReport(0, 0, 0, 0, 0, 0, 0)


def test_lineages_that_share_rename_and_interleave(
    store: Store, add: Add, read: Read, file_of: Callable[..., bytes], weights: Callable[..., bytes],
    drift: Callable[[bytes, int], bytes], whole: Callable[[Store], None],
) -> None:  # fmt: skip
    body = [weights(1, 3000)]
    for n in range(7):
        body.append(drift(body[-1], n))

    def model(*parts: tuple[str, int]) -> bytes:
        return file_of([(name, "F32", [3000], body[at]) for name, at in parts])

    # The same chunks stand under other names, in other columns, in other lineages, in other orders of time.
    contents = [
        model(("a", 0), ("b", 4)),
        model(("a", 1), ("b", 3)),
        model(("a", 2), ("b", 2)),
        model(("a", 3), ("b", 1)),
        model(("b", 0), ("a", 4)),
        model(("renamed", 5), ("b", 0)),
        model(("a", 6), ("c", 7)),
    ]
    manifests = filled(store, add, contents)
    for lines in (
        [manifests[::-1]],
        [manifests, manifests[::-1]],
        [manifests[::2], manifests[1::2]],
        [[manifests[n]] for n in range(7)],
        [manifests[3:] + manifests[:3], manifests[2::-1]],
    ):
        repack(store, lines, set(), depth=3, window=3)
        kept = encodings(store)
        assert max(chain(kept, id) for id in kept) <= 3
        self_contained(store)
        assert [read(Store(store.folder), manifest) for manifest in manifests] == contents
    whole(store)


def test_a_copy_under_another_path_becomes_deltas_against_its_origin(
    store: Store, add: Add, read: Read, lineage: Lineage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    contents = lineage(9)
    manifests = filled(store, add, contents)
    chunks = [manifest.tensors["w"].chunks[0] for manifest in manifests]
    # At the fifth version the file was renamed: neither path's history has both sides of that.
    now, before = manifests[:4:-1], manifests[4::-1]
    ranks = {manifest.digest: rank for rank, manifest in enumerate(manifests[::-1])}
    repack(store, [now, before], {manifests[-1].digest}, ranks=ranks)
    kept = encodings(store)
    as_one = Store.open(tmp_path_factory.mktemp("one") / "gru")
    repack(as_one, [filled(as_one, add, contents)[::-1]], set())
    assert kept == encodings(as_one)
    as_one.close()
    assert kept[chunks[4]].base in chunks[5:]
    assert max(chain(kept, id) for id in kept) <= DEPTH
    # A copy of an old version, made and dropped again: the origin in its middle is nearest, not its end.
    copy = [contents[4][:-4] + b"\0\0\0\0"]
    manifests += filled(store, add, copy)
    ranks[manifests[9].digest] = 4
    repack(store, [manifests[8::-1], manifests[9:]], {manifests[8].digest}, ranks=ranks)
    kept = encodings(store)
    base = kept[manifests[9].tensors["w"].chunks[0]].base
    assert base in {chunks[3], chunks[4], chunks[5]}
    self_contained(store)
    assert [read(Store(store.folder), manifest) for manifest in manifests] == [*contents, *copy]


def test_what_no_delta_could_make_smaller_is_not_tried_again_unless_asked(
    store: Store, add: Add, file_of: Callable[..., bytes], weights: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    manifests = filled(store, add, [file_of([("w", "F32", [3000], weights(n, 3000))]) for n in range(4)])
    calls = []
    real = columns.encode_delta
    monkeypatch.setattr(columns, "encode_delta", lambda *given: calls.append(1) or real(*given))
    repack(store, [manifests[::-1]], set())
    tried = len(calls)
    assert tried >= 3
    assert len(store.lookup.settled()) == 3
    repack(store, [manifests[::-1]], set(), anew=False)
    assert len(calls) == tried
    repack(store, [manifests[::-1]], set())
    assert len(calls) == 2 * tried


def test_what_plain_encodings_take_is_remembered(store: Store, add: Add, lineage: Lineage) -> None:
    manifests = filled(store, add, lineage(4))
    before = {id: row.stored for id, row in store.lookup.rows().items()}
    repack(store, [manifests[::-1]], set())
    deltas = {id for id, encoding in encodings(store).items() if encoding.codec == "delta"}
    assert store.lookup.plain_sizes() == {id: before[id] for id in deltas}


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=6),
    st.data(),
)
@settings(deadline=None, max_examples=15)
def test_any_lineages(
    new_store: Callable[[], Store], add: Add, read: Read, file_of: Callable[..., bytes],
    cache_is_right: Callable[[Store], None], models: list[list[int]], data: st.DataObject,
) -> None:  # fmt: skip
    # Few distinct, similar chunks, so that columns and lineages meet in every way.
    chunks = [np.arange(600, dtype=np.uint32) * (n % 2 + 1) + n for n in range(6)]
    contents = [
        file_of([(f"t{at}", "U32", [600], chunks[n].tobytes()) for at, n in enumerate(model)])
        for model in models
    ]
    store = new_store()
    manifests = filled(store, add, contents)
    for _ in range(2):
        lines = data.draw(st.lists(st.lists(st.sampled_from(manifests), max_size=6), max_size=3))
        plain = data.draw(st.sets(st.sampled_from([manifest.digest for manifest in manifests])))
        depth = data.draw(st.integers(0, 3))
        repack(store, lines, plain, depth=depth, window=data.draw(st.integers(0, 3)))
        kept = encodings(store)
        named = {manifest.digest: manifest for line in lines for manifest in line}
        for digest_ in plain & named.keys():
            assert {kept[id].codec for id in named[digest_].chunks()} <= {"plain"}
        for manifest in named.values():
            assert all(chain(kept, id) <= depth for id in manifest.chunks())
        self_contained(store)
        cache_is_right(store)
        assert [read(Store(store.folder), manifest) for manifest in manifests] == contents
    store.close()


def test_all_dtypes_become_deltas(store: Store, add: Add, read: Read, file_of: Callable[..., bytes]) -> None:
    rng = np.random.default_rng(0)
    old = {
        dtype: rng.bytes(4096)
        for dtype in ("F64", "F32", "BF16", "F16", "I64", "U8", "BOOL", "F8_E4M3", "C64")
    }
    width = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "C64": 8}
    contents = []
    for step in (0, 1):
        tensors = []
        for dtype, data in old.items():
            new = bytearray(data)
            if step:
                new[::64] = bytes(b ^ 1 for b in new[::64])
            tensors.append((dtype, dtype, [4096 // width.get(dtype, 1)], bytes(new)))
        contents.append(file_of(tensors))
    manifests = filled(store, add, contents)
    repack(store, [manifests[::-1]], set())
    kept = encodings(store)
    assert {kept[e.chunks[0]].codec for e in manifests[0].tensors.values()} == {"delta"}
    assert [read(store, manifest) for manifest in manifests] == contents


# ---- beside others ----------------------------------------------------------------------------------------------------


def test_only_one_at_a_time(store: Store, add: Add, lineage: Lineage) -> None:
    manifests = filled(store, add, lineage(3, count=1000))
    seen: list[Exception] = []

    def again(done: int, all: int) -> None:
        if not seen:
            try:
                repack(Store(store.folder), [], set())
            except RewriteRunningError as error:
                seen.append(error)

    repack(store, [manifests[::-1]], set(), progress=again)
    assert len(seen) == 1
    repack(store, [manifests[::-1]], set())


def test_a_reader_under_way_finishes(store: Store, add: Add, lineage: Lineage) -> None:
    contents = lineage(4, count=5000)
    manifests = filled(store, add, contents)
    readers = [restore(Store(store.folder), manifest) for manifest in manifests]
    started = [bytes(next(reader)) for reader in readers]
    repack(store, [manifests[::-1]], set())
    for content, first, reader in zip(contents, started, readers, strict=True):
        assert first + b"".join(reader) == content


def test_a_reader_that_misses_an_object_looks_again(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(4, count=5000)
    manifests = filled(store, add, contents)
    stale = {manifest.digest: store.blobs(manifest) for manifest in manifests}
    repack(store, [manifests[::-1]], set())
    for manifest, content in zip(manifests, contents, strict=True):
        # As if the reader had looked at the trees just before the repack, and opened the packs just after.
        for take in (read, lambda reader, m: b"".join(reader.tensor(m, "w"))):
            reader = Store(store.folder)
            reader.blobs = lambda m: stale[m.digest]  # type: ignore[method-assign]
            assert take(reader, manifest) in (content, content[-20_000:])
            reader.close()


def test_a_reader_that_read_the_reference_just_before(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(4, count=5000)
    manifests = filled(store, add, contents)
    old = store.tip()
    repack(store, [manifests[::-1]], set())
    acts: list[Callable[[Store], object]] = [
        lambda reader: read(reader, manifests[0]) == contents[0],
        lambda reader: reader.has_model(manifests[0].digest),
        lambda reader: len(reader.models()) == 4,
        lambda reader: reader.chunk(manifests[0].chunks()[0]),
        lambda reader: reader.header(manifests[0]),
        lambda reader: reader.tensor(manifests[0], "w").__next__(),
    ]
    for act in acts:
        for cache in ("kept", "forgotten"):
            reader = Store(store.folder)
            if cache == "forgotten":
                reader.lookup.forget()
            tips = [old]
            real = reader.tip
            reader.tip = lambda tips=tips, real=real: tips.pop() if tips else real()  # type: ignore[method-assign]
            assert act(reader)
            assert not tips
            reader.close()


def test_adds_during_a_repack_survive(
    store: Store,
    add: Add,
    read: Read,
    lineage: Lineage,
    whole: Callable[[Store], None],
    cache_is_right: Callable[[Store], None],
) -> None:
    contents, later = lineage(6, count=3000), lineage(12, seed=7, count=3000)
    manifests = filled(store, add, contents)
    other = Store(store.folder)
    added: list[tuple[Manifest, bytes]] = []

    def between(done: int, all: int) -> None:
        # A new model, and one whose chunks are just being re-encoded.
        content = later[len(added) % len(later)]
        added.append((add(other, content), content))
        again = contents[0] + b"x" * (len(added) + 1)
        added.append((add(other, again), again))

    repack(store, [manifests[::-1]], set(), progress=between)
    assert len(added) > 10
    cache_is_right(store)
    for reader in (store, Store(store.folder)):
        for manifest, content in [*added, *zip(manifests, contents, strict=True)]:
            assert read(reader, manifest) == content
    repack(store, [manifests[::-1], [manifest for manifest, _ in added if not manifest.is_raw][::-1]], set())
    fresh = Store(store.folder)
    for manifest, content in [*added, *zip(manifests, contents, strict=True)]:
        assert read(fresh, manifest) == content
    whole(store)
    self_contained(store)
    other.close()
    fresh.close()


def test_a_writer_between_its_pack_and_the_reference(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    # The pack is there, the reference does not name it yet: a repack that begins now must not take it for garbage.
    contents = lineage(3, count=2000)
    manifests = filled(store, add, contents)
    writing = Store(store.folder)
    real, begun = writing.update_ref, threading.Event()
    reports: list[RepackReport] = []

    def run() -> None:
        begun.set()
        reports.append(repack(store, [manifests[::-1]], set()))

    thread = threading.Thread(target=run)

    def late(new: bytes, old: bytes | None) -> bool:
        thread.start()
        begun.wait(10)
        thread.join(0.5)  # long enough for a repack that does not wait for this writer
        return real(new, old)

    writing.update_ref = late  # type: ignore[method-assign]
    manifest = add(writing, b"written meanwhile" * 100)
    thread.join(30)
    assert len(reports) == 1
    assert read(Store(store.folder), manifest) == b"written meanwhile" * 100
    assert [read(Store(store.folder), m) for m in manifests] == contents
    writing.close()


def test_adds_and_reads_on_threads_beside_many_repacks(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None]
) -> None:
    contents, later = lineage(5, count=1500), lineage(25, seed=9, count=1500)
    manifests = filled(store, add, contents)
    stop, wrong = threading.Event(), []
    added: list[tuple[Manifest, bytes]] = []

    def write() -> None:
        try:
            mine = Store(store.folder)
            for content in later:
                added.append((add(mine, content), content))
            mine.close()
        except BaseException as error:
            wrong.append(error)

    def look() -> None:
        try:
            mine = Store(store.folder)
            while not stop.is_set():
                for manifest, content in zip(manifests, contents, strict=True):
                    assert read(mine, manifest) == content
                    assert mine.has_model(manifest.digest)
            mine.close()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=look), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    while threads[0].is_alive():
        known = [manifest for manifest, _ in list(added)]
        repack(store, [known[::-1], manifests[::-1]], set(), depth=1 + len(known) % 3)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong
    assert len(added) == len(later)
    for manifest, content in added:
        assert read(store, manifest) == content
    whole(store)


# ---- killed and failed ------------------------------------------------------------------------------------------------


def test_what_killed_processes_left_is_swept(store: Store, add: Add, read: Read, lineage: Lineage) -> None:
    contents = lineage(3, count=1000)
    manifests = filled(store, add, contents)
    folder = store.repository / "objects/pack"
    (folder / "tmp_pack_0123456789abcdef").write_bytes(b"half a pack")
    (folder / "tmp_idx_0123456789abcdef").write_bytes(b"half an index")
    (folder / "something else").write_bytes(b"not ours")
    garbage = PackWriter(folder, 1)
    garbage.add(make_entry("blob", [b"complete, but nothing names it" * 50]))
    pack = garbage.finish()
    lost = PackWriter(folder, 1)
    lost.add(make_entry("blob", [b"its index was never renamed into place"]))
    without_index = lost.finish()
    assert pack is not None
    assert without_index is not None
    without_index.with_suffix(".idx").unlink()
    repack(store, [manifests[::-1]], set())
    left = {path.name for path in folder.iterdir()}
    assert not {name for name in left if name.startswith("tmp_")}
    assert "something else" in left
    assert pack.name not in left
    assert without_index.name not in left
    assert [read(store, manifest) for manifest in manifests] == contents


@pytest.mark.parametrize("step", ["copy", "_swap", "encode"])
def test_a_repack_that_fails_leaves_everything(
    step: str, store: Store, add: Add, read: Read, lineage: Lineage, monkeypatch: pytest.MonkeyPatch,
    whole: Callable[[Store], None],
) -> None:  # fmt: skip
    contents = lineage(4, count=1500)
    manifests = filled(store, add, contents)

    def fail(*_: object) -> None:
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(f"git_gru.store.rewrite.Rewrite.{step}", fail)
        with pytest.raises(RuntimeError, match="stopped here"):
            repack(store, [manifests[::-1]], set())
    assert not list((store.repository / "objects/pack").glob("tmp_*"))
    assert [read(Store(store.folder), manifest) for manifest in manifests] == contents
    whole(store)
    assert repack(store, [manifests[::-1]], set()).rewritten
    assert [read(store, manifest) for manifest in manifests] == contents


REPACK = """
import sys, json
from pathlib import Path
from git_gru.store.store import LONGEST_CHAIN, Store
from git_gru.store.manifest import parse_manifest
from git_gru.store.repack import repack
store = Store.open(Path(sys.argv[1]))
manifests = [parse_manifest(path.read_bytes(), where="x") for path in sorted(Path(sys.argv[2]).iterdir())]
print("ready", flush=True)
sys.stdin.readline()
for depth in (1, 2, 3, 1, 2, 3, 1, 2, 3):
    repack(store, [manifests[::-1]], set(), depth=depth)
    print(depth, flush=True)
"""


@pytest.mark.slow
def test_a_killed_repack_leaves_everything(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None],
    python: Callable[..., "subprocess.Popen[bytes]"], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    contents = lineage(6, count=20_000)
    manifests = filled(store, add, contents)
    listed = tmp_path_factory.mktemp("manifests")
    for at, manifest in enumerate(manifests):
        (listed / f"{at}").write_bytes(manifest.encode())
    store.close()
    chance = np.random.default_rng()
    for _ in range(10):
        process = python(REPACK, store.folder, listed)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        threading.Event().wait(float(chance.uniform(0, 0.25)))
        process.kill()
        process.wait()
        fresh = Store(store.folder)
        assert [read(fresh, manifest) for manifest in manifests] == contents
        assert [digest(fresh.chunk(id)) for id in manifests[0].chunks()] == manifests[0].chunks()
        fresh.close()
    store = Store(store.folder)
    whole(store)
    more = ingest(store, io.BytesIO(b"after all that"), expect_safetensors=False).manifest
    repack(store, [manifests[::-1]], set())
    assert not list((store.repository / "objects/pack").glob("tmp_*"))
    assert [read(store, manifest) for manifest in (*manifests, more)] == [*contents, b"after all that"]
    self_contained(store)
    store.close()


def test_no_chain_longer_than_readers_follow_can_be_asked_for(store: Store) -> None:
    with pytest.raises(InputError, match="not between 0 and 16"):
        repack(store, [], frozenset(), depth=17)
    assert DEEPEST + DEPTH < LONGEST_CHAIN
