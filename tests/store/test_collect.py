"""Collection of models: what is dropped frees its bytes, what stays is whole, whatever happens meanwhile."""

import io
import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest

from git_gru.errors import StoreError
from git_gru.store.codec import ChunkDamagedError, inspect
from git_gru.store.collect import Collected, Needs, Plan, Reason, Rules, collect, plan
from git_gru.store.ingest import ingest
from git_gru.store.locking import RewriteRunningError, one_at_a_time
from git_gru.store.manifest import Manifest
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.promised import remote_tips
from git_gru.store.repack import repack
from git_gru.store.rewrite import mostly_used
from git_gru.store.store import Store
from git_gru.store.trees import make_commit, make_tree, model_blobs

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def planned(store: Store, *needed: Manifest, grace: float = 0.0) -> Plan:
    needs = Needs(
        digests=frozenset(manifest.digest for manifest in needed),
        absent=0,
        adding_since=None,
        in_git=lambda name: True,
    )
    return plan(store, lambda: needs, Rules(grace=grace))


def dropping_all_but(store: Store, *needed: Manifest, known: bool = True) -> Collected:
    """Collects without grace; `known` says whether the needed manifests can be read."""
    own = {manifest.digest: manifest.chunks() for manifest in needed} if known else {}
    return collect(store, planned(store, *needed), own.get)


def packs(store: Store) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (store.repository / "objects/pack").glob("*.pack")}


def kept_as(store: Store, id: str) -> tuple[str, str | None]:
    """(codec, base) of a chunk."""
    store.sync()
    row = store.lookup.get(id)
    assert row is not None
    encoding = inspect(store.objects.expect(row.oid, "blob"), where=id)
    return encoding.codec, encoding.base


# ---- what it does -----------------------------------------------------------------------------------------------------


def test_what_is_dropped_frees_its_bytes_and_nothing_else(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None]
) -> None:
    contents = lineage(4)
    manifests = [add(store, content) for content in contents]
    lonely = add(store, np.random.default_rng(5).bytes(100_000))
    before = packs(store)
    done = dropping_all_but(store, *manifests[2:])
    assert done.dropped == {manifests[0].digest, manifests[1].digest, lonely.digest}
    assert set(store.models()) == {manifest.digest for manifest in manifests[2:]}
    assert done.bytes_before - done.bytes_after > 100_000 + 1.5 * 65_000
    assert done.bytes_after == sum(packs(store).values())
    assert [read(Store(store.folder), manifest) for manifest in manifests[2:]] == contents[2:]
    # The shared chunk was in the first pack: that one was written anew, those without garbage stayed as they were.
    assert len(before.keys() & packs(store).keys()) == 2
    whole(store)
    assert set(store.stamps.stamps()) == set(store.models())
    assert read(store, add(store, contents[0])) == contents[0], "it can be added again"


def test_the_plan_says_what_goes_and_what_it_frees(store: Store, add: Add, lineage: Lineage) -> None:
    contents = lineage(3)
    manifests = [add(store, content) for content in contents]
    store.stamps.stamp(manifests[0].digest)
    made = planned(store, manifests[2])
    assert made.models == 3
    assert [model.digest for model in made.unneeded] == [manifests[0].digest, manifests[1].digest]
    assert made.drop == {model.digest for model in made.unneeded if model.goes}
    before = sum(packs(store).values())
    done = dropping_all_but(store, manifests[2])
    freed = sum(model.frees for model in made.unneeded)
    assert 0.98 < freed / (before - done.bytes_after) <= 1
    assert not planned(store, manifests[2]).unneeded


def test_nothing_to_do_changes_nothing(store: Store, add: Add, lineage: Lineage) -> None:
    manifests = [add(store, content) for content in lineage(3)]
    tip, before = store.tip(), packs(store)
    done = dropping_all_but(store, *manifests)
    assert (done.dropped, done.rewritten) == (frozenset(), 0)
    assert (store.tip(), packs(store)) == (tip, before)
    assert dropping_all_but(Store(store.folder), *manifests).bytes_after == sum(before.values())


def test_all_may_go(store: Store, add: Add, read: Read, whole: Callable[[Store], None]) -> None:
    add(store, b"one")
    add(store, b"two")
    assert len(dropping_all_but(store).dropped) == 2
    assert store.models() == {}
    assert store.lookup.rows() == {}
    whole(store)
    assert read(store, add(store, b"one")) == b"one"


def test_an_empty_store(store: Store) -> None:
    assert dropping_all_but(store).dropped == frozenset()


def test_survivors_do_not_hang_on_what_was_dropped(
    store: Store,
    add: Add,
    read: Read,
    lineage: Lineage,
    whole: Callable[[Store], None],
    cache_is_right: Callable[[Store], None],
) -> None:
    contents = lineage(6)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())
    chunks = [manifest.tensors["w"].chunks[0] for manifest in manifests]
    # 5 <- 4 <- 3 <- 2, then a new chain: 1 hangs on 5 or goes by itself.
    assert [kept_as(store, chunks[at])[1] for at in (5, 4, 3, 2)] == [None, chunks[5], chunks[4], chunks[3]]
    done = dropping_all_but(store, manifests[5], manifests[2], manifests[3])
    assert done.rewritten == 1
    assert kept_as(store, chunks[3]) == ("delta", chunks[5]), "the nearest of its bases that stays"
    assert kept_as(store, chunks[2]) == ("delta", chunks[3])
    cache_is_right(store)
    done = dropping_all_but(store, manifests[2])
    assert done.rewritten == 1
    assert kept_as(store, chunks[2]) == ("plain", None)
    assert set(store.lookup.rows()) == set(manifests[2].chunks())
    assert read(Store(store.folder), manifests[2]) == contents[2]
    whole(store)


def test_a_survivor_whose_manifest_cannot_be_read_keeps_its_bases(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(3)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())
    done = dropping_all_but(store, manifests[0], known=False)
    assert done.dropped == {manifests[1].digest, manifests[2].digest}
    assert done.rewritten == 0
    assert kept_as(store, manifests[0].tensors["w"].chunks[0])[0] == "delta"
    assert read(Store(store.folder), manifests[0]) == contents[0]
    assert not dropping_all_but(store, manifests[0]).dropped


def test_large_packs_in_good_use_may_be_left(
    store: Store, add: Add, read: Read, lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("git_gru.store.rewrite.LARGE_PACK", 10_000)
    contents = lineage(9, count=4000)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())
    large = max(packs(store), key=packs(store).__getitem__)
    collect(store, planned(store, *manifests[1:]), lambda digest: None, keep=mostly_used)
    assert large in packs(store)
    assert set(store.models()) == {manifest.digest for manifest in manifests[1:]}
    dropping_all_but(store, *manifests[1:])
    assert large not in packs(store), "asked for by hand, everything that can go goes"
    assert [read(Store(store.folder), manifest) for manifest in manifests[1:]] == contents[1:]


def test_only_one_rewrites_at_a_time(store: Store, add: Add) -> None:
    add(store, b"one")
    with one_at_a_time(store.folder), pytest.raises(RewriteRunningError):
        dropping_all_but(Store(store.folder))
    assert len(dropping_all_but(store).dropped) == 1


# ---- what else is in a store ------------------------------------------------------------------------------------------


def test_what_killed_processes_left_is_swept(store: Store, add: Add, read: Read) -> None:
    manifest = add(store, b"content" * 1000)
    folder = store.repository / "objects/pack"
    garbage = PackWriter(folder, 1)
    garbage.add(make_entry("blob", [b"complete, but nothing names it" * 50]))
    pack = garbage.finish()
    assert pack is not None
    (folder / "tmp_pack_0123456789abcdef").write_bytes(b"half a pack")
    before = packs(store).keys() - {pack.name}
    dropping_all_but(store, manifest)
    assert packs(store).keys() == before
    assert not list(folder.glob("tmp_*"))
    assert read(store, manifest) == b"content" * 1000


def test_loose_objects_join_the_packs(store: Store, add: Add, read: Read, git: Callable[..., str]) -> None:
    # As after a `git fetch` into the store that brought few objects.
    manifests = [add(store, b"one" * 500), add(store, b"two" * 500)]
    for path in list((store.repository / "objects/pack").glob("*.pack")):
        data = path.read_bytes()
        path.with_suffix(".idx").unlink()
        path.unlink()
        git(store.repository, "unpack-objects", "-q", input=data)
    fresh = Store(store.folder)
    assert read(fresh, manifests[0]) == b"one" * 500
    dropping_all_but(fresh, *manifests)
    assert not list((store.repository / "objects").glob("??/*"))
    assert [read(Store(store.folder), manifest) for manifest in manifests] == [b"one" * 500, b"two" * 500]


def remote_state(store: Store, name: str, model: dict[bytes, tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Puts a remote's state here as a filtered fetch does: upper trees only. Its commit and the (missing) model tree."""
    from git_gru.store.trees import FORMAT_TEXT

    absent = make_tree(model)
    group = make_tree({b"2" * 62: (b"40000", absent.oid)})
    models = make_tree({b"11": (b"40000", group.oid)})
    text = make_entry("blob", [FORMAT_TEXT])
    root = make_tree({b"format": (b"100644", text.oid), b"models": (b"40000", models.oid)})
    commit = make_commit(root.oid)
    pack = PackWriter(store.repository / "objects/pack", 5)
    for entry in (group, models, text, root, commit):
        pack.add(entry)
    assert pack.finish(promised=True) is not None
    ref = store.repository / "refs/gru/remotes" / name
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit.oid.hex() + "\n")
    return commit.oid, absent.oid


@pytest.mark.parametrize("rewriting", ["collect", "repack"])
def test_a_remotes_state_stays_and_git_accepts_what_it_lacks(
    rewriting: str, store: Store, add: Add, lineage: Lineage, git: Callable[..., str]
) -> None:
    manifests = [add(store, content) for content in lineage(3, count=2000)]
    commit, absent = remote_state(store, "origin", {b"3" * 64: (b"100644", bytes(range(20)))})
    git(store.repository, "config", "remote.origin.url", "/nowhere")
    git(store.repository, "config", "remote.origin.promisor", "true")
    assert remote_tips(store.repository) == {"origin": commit}
    for _ in range(2):
        if rewriting == "collect":
            dropping_all_but(store, manifests[2])
        else:
            repack(store, [manifests[::-1]], set())
        assert remote_tips(store.repository) == {"origin": commit}
        listed = git(
            store.repository,
            "ls-tree",
            "-r",
            "-t",
            "--name-only",
            "refs/gru/remotes/origin:models/11",
            check=False,
        )
        assert "2" * 62 in listed
        assert not store.objects.has(absent)
        git(store.repository, "fsck", "--connectivity-only")
        assert len(list((store.repository / "objects/pack").glob("*.promisor"))) == 1
    git(store.repository, "pack-refs", "--all")
    assert remote_tips(store.repository) == {"origin": commit}


def test_a_copy_that_was_mended_outlives_the_damaged_one(
    store: Store, add: Add, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("git_gru.store.rewrite.LARGE_PACK", 10_000)
    content, other = np.random.default_rng(1).bytes(40_000), np.random.default_rng(2).bytes(50)
    manifest = add(store, content)
    small = add(store, other)
    store.close()
    pack = max((store.repository / "objects/pack").glob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.unlink()
    pack.write_bytes(bytes(data))
    fresh = Store(store.folder)
    with pytest.raises(ChunkDamagedError):
        read(fresh, manifest)
    assert add(fresh, content) == manifest
    fresh.close()
    for rewriting in (
        lambda s: collect(s, planned(s, manifest, small), lambda d: None, keep=mostly_used),
        dropping_small,
    ):
        fresh = Store(store.folder)
        rewriting(fresh)
        fresh.close()
        fresh = Store(store.folder)
        assert read(fresh, manifest) == content
        fresh.close()


def dropping_small(store: Store) -> None:
    collect(store, planned(store, grace=1e6), lambda digest: None)


def test_damage_in_what_stays_does_not_stop_a_collection(
    store: Store, add: Add, read: Read, lineage: Lineage
) -> None:
    contents = lineage(4)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())
    gone = add(store, b"gone" * 5000)
    chunk = manifests[2].tensors["w"].chunks[0]
    row = store.lookup.get(chunk)
    assert row is not None
    store.close()
    pack = max((store.repository / "objects/pack").glob("*.pack"), key=lambda path: path.stat().st_size)
    offset = next(pack.find(row.oid) for pack in Store(store.folder).objects.packs() if pack.find(row.oid))
    data = bytearray(pack.read_bytes())
    data[offset : offset + 40] = bytes(40)
    pack.unlink()
    pack.write_bytes(bytes(data))
    fresh = Store(store.folder)
    done = dropping_all_but(fresh, *manifests[:3])
    assert done.dropped == {gone.digest, manifests[3].digest}
    fresh = Store(store.folder)
    with pytest.raises(StoreError):
        read(fresh, manifests[2])
    assert pack.exists(), "what cannot be copied stays where it is"
    assert read(fresh, add(fresh, contents[2])) == contents[2], "and can be mended"


# ---- beside writers ---------------------------------------------------------------------------------------------------


def between(store: Store, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Has `act` done when a collection has written its packs and not taken the lock yet."""
    from git_gru.store.rewrite import Rewrite

    real = Rewrite.swap

    def swap(self: Rewrite, *arguments: object) -> object:
        act()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Rewrite, "swap", swap)


def test_a_model_that_takes_chunks_of_one_that_is_going(
    store: Store, add: Add, read: Read, file_of: Callable[..., bytes], weights: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch, cache_is_right: Callable[[Store], None],
) -> None:  # fmt: skip
    body = weights(1, 20_000)
    gone = add(store, file_of([("w", "F32", [20_000], body)]))
    stays = add(store, b"stays")
    new = file_of([("v", "F32", [20_000], body), ("x", "F32", [10], body[:40])])
    added: list[Manifest] = []
    between(store, monkeypatch, lambda: added.append(add(Store(store.folder), new)))
    done = dropping_all_but(store, stays)
    assert done.dropped == {gone.digest}
    assert read(Store(store.folder), added[0]) == new
    assert added[0].tensors["v"].chunks == gone.tensors["w"].chunks
    monkeypatch.undo()
    cache_is_right(store)
    dropping_all_but(store, stays, added[0])
    assert read(Store(store.folder), added[0]) == new
    cache_is_right(store)


def test_a_model_that_is_added_again_while_it_is_going(
    store: Store,
    add: Add,
    read: Read,
    lineage: Lineage,
    monkeypatch: pytest.MonkeyPatch,
    cache_is_right: Callable[[Store], None],
) -> None:
    contents = lineage(4)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())
    between(store, monkeypatch, lambda: add(Store(store.folder), contents[0]))
    done = dropping_all_but(store, manifests[3], manifests[2])
    assert done.dropped == {manifests[1].digest}
    cache_is_right(store)
    for at in (0, 2, 3):
        assert read(Store(store.folder), manifests[at]) == contents[at]


def test_threads_add_and_read_while_collections_run(
    store: Store, add: Add, read: Read, lineage: Lineage, whole: Callable[[Store], None]
) -> None:
    """Each thread adds models that share chunks; what it was answered is there until its grace is over."""
    contents = lineage(6, count=600)
    wrong: list[BaseException] = []
    stop = threading.Event()

    def work(name: int) -> None:
        mine = Store(store.folder)
        try:
            for n in itertools.count():
                for content in (contents[n % 6], contents[n % 6] + b"%d %d" % (name, n)):
                    if stop.is_set():
                        return
                    manifest = add(mine, content)
                    assert mine.has_model(manifest.digest)
                    assert read(mine, manifest) == content
        except BaseException as error:
            wrong.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    dropped = 0
    for _ in range(5):
        # What was used in the last 0.2 s may be just being read; all else goes.
        dropped += len(collect(store, planned(store, grace=0.2), lambda digest: None).dropped)
        repack(store, [], set())
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong
    assert dropped
    whole(store)


# ---- failed (killed: tests/faults) ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["copy", "_copy_promised", "_swap", "_delete"])
def test_a_collection_that_fails_leaves_everything(
    step: str, store: Store, add: Add, read: Read, lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = lineage(4, count=1500)
    manifests = [add(store, content) for content in contents]
    repack(store, [manifests[::-1]], set())

    def fail(*_: object) -> None:
        raise RuntimeError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(f"git_gru.store.rewrite.Rewrite.{step}", fail)
        with pytest.raises(RuntimeError, match="stopped here"):
            dropping_all_but(store, manifests[0])
    assert not list((store.repository / "objects/pack").glob("tmp_*"))
    assert read(Store(store.folder), manifests[0]) == contents[0]
    dropping_all_but(store, manifests[0])
    assert set(store.lookup.rows()) == set(manifests[0].chunks())
    assert read(Store(store.folder), manifests[0]) == contents[0]


def test_reasons_are_told_apart(store: Store, add: Add) -> None:
    manifest = add(store, b"content")
    name = store.stamps.names(manifest.digest)
    assert len(name) == 1

    def judged(**changes: object) -> Reason:
        needs = {
            "digests": frozenset(),
            "absent": 0,
            "adding_since": None,
            "in_git": lambda name: True,
            **changes,
        }
        (model,) = plan(store, lambda: Needs(**needs), Rules(grace=1000)).unneeded  # type: ignore[arg-type]
        return model.reason

    assert judged() is Reason.GRACE
    assert judged(adding_since=0.0) is Reason.ADDING
    assert judged(absent=1) is Reason.GRACE, "its name is known: it is not among those absent"
    store.lookup.forget()
    assert judged(absent=1) is Reason.ABSENT
    assert store.models().keys() == {manifest.digest}
    assert model_blobs(store.objects, store.models()[manifest.digest])
    assert ingest(store, io.BytesIO(b"content"), expect_safetensors=False).manifest == manifest
