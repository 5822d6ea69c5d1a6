"""The store: opening, references, the lock, the lookup cache, and the errors of what is not there."""

import contextlib
import fcntl
import io
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from git_gru.errors import GruError, StoreError
from git_gru.ids import digest
from git_gru.store import store as store_module
from git_gru.store.bare import run_git
from git_gru.store.ingest import describe, ingest
from git_gru.store.manifest import Manifest
from git_gru.store.store import REF, ChunkMissingError, ModelMissingError, Store
from git_gru.store.trees import StoreTree

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Lineage = Callable[..., list[bytes]]


def reopened(store: Store) -> Store:
    store.close()
    return Store.open(store.folder)


# ---- opening ----------------------------------------------------------------------------------------------------------


def test_find_makes_nothing(tmp_path: Path) -> None:
    assert Store.find(tmp_path / "gru") is None
    assert list(tmp_path.iterdir()) == []
    Store.open(tmp_path / "gru").close()
    assert Store.find(tmp_path / "gru") is not None


def test_a_new_store_is_a_bare_repository_that_git_leaves_alone(
    store: Store, git: Callable[..., str]
) -> None:
    for key, value in {
        "core.bare": "true",
        "core.compression": "0",
        "gc.auto": "0",
        "maintenance.auto": "false",
    }.items():
        assert git(store.repository, "config", key).strip() == value
    assert store.tip() is None
    assert store.models() == {}


def test_many_threads_open_one_store(tmp_path: Path) -> None:
    found: list[Store] = []
    threads = [threading.Thread(target=lambda: found.append(Store.open(tmp_path / "gru"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert sorted(path.name for path in (tmp_path / "gru").iterdir()) == ["lock", "store.git"]


@pytest.mark.parametrize("left", ["store.new", "store.git"])
def test_a_creation_that_was_killed_is_begun_again(tmp_path: Path, left: str, add: Add, read: Read) -> None:
    half = tmp_path / "gru" / left
    (half / "objects").mkdir(parents=True)
    (half / "config").write_text("[core]\n")
    store = Store.open(tmp_path / "gru")
    assert read(store, add(store, b"content")) == b"content"
    store.close()


def test_the_environment_of_the_caller_does_not_reach_the_store(
    store: Store, add: Add, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    manifest = add(store, b"content")
    assert read(store, manifest) == b"content"
    assert not (tmp_path / "elsewhere").exists()


# ---- references -------------------------------------------------------------------------------------------------------


def test_the_store_after_some_models_is_whole(
    store: Store, add: Add, lineage: Lineage, whole: Callable[[Store], None], git: Callable[..., str]
) -> None:
    manifests = [add(store, content) for content in lineage(3)]
    whole(store)
    assert set(store.models()) == {manifest.digest for manifest in manifests}
    assert git(store.repository, "rev-list", "--count", REF).strip() == "1", "the commit has no parent"
    for manifest in manifests:
        path = f"{REF}:models/{manifest.digest[:2]}/{manifest.digest[2:]}"
        named = git(store.repository, "ls-tree", "--name-only", path).split()
        assert named == sorted(set(manifest.chunks()))
        for line in git(store.repository, "ls-tree", path).splitlines():
            mode, kind, oid, id = line.split()
            assert (mode, kind) == ("100644", "blob")
            assert digest(store.chunk(id)) == id
            assert git(store.repository, "cat-file", "-t", oid).strip() == "blob"


def test_a_packed_reference_is_read(store: Store, add: Add, read: Read) -> None:
    manifest = add(store, b"content")
    tip = store.tip()
    run_git(store.repository, "pack-refs", "--all")
    assert not (store.repository / REF).exists()
    again = Store(store.folder)
    assert again.tip() == tip
    assert read(again, manifest) == b"content"
    assert read(again, add(again, b"more")) == b"more"
    again.close()


def test_update_ref_is_a_compare_and_swap(store: Store, add: Add) -> None:
    add(store, b"one")
    first = store.tip()
    add(store, b"two")
    second = store.tip()
    assert first is not None
    assert second is not None
    assert store.update_ref(first, second)
    assert not store.update_ref(first, second)
    assert not store.update_ref(second, None)
    assert store.tip() == first
    assert store.update_ref(second, first)


def test_the_loser_of_the_compare_and_swap_puts_its_model_on_top(store: Store, add: Add, read: Read) -> None:
    other = Store(store.folder)
    mine, theirs = b"mine" * 100, b"theirs" * 100
    real, late = store.update_ref, []

    def slow(new: bytes, old: bytes | None) -> bool:
        if not late:
            late.append(add(other, theirs))
        return real(new, old)

    store.update_ref = slow  # type: ignore[method-assign]
    manifest = add(store, mine)
    for reader in (store, other, Store(store.folder)):
        assert read(reader, manifest) == mine
        assert read(reader, late[0]) == theirs
        assert len(reader.models()) == 2
        reader.close()


# ---- the lock ---------------------------------------------------------------------------------------------------------


def _free(store: Store, how: int) -> bool:
    with open(store.folder / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_writers_share_the_lock_and_maintenance_is_alone(store: Store) -> None:
    with store.writer(), store.writer():
        assert _free(store, fcntl.LOCK_SH)
        assert not _free(store, fcntl.LOCK_EX)
    with store.locked(alone=True):
        assert not _free(store, fcntl.LOCK_SH)
    assert _free(store, fcntl.LOCK_EX)


def test_a_writer_waits_for_maintenance(store: Store, add: Add) -> None:
    done = threading.Event()
    other = Store(store.folder)

    def work() -> None:
        add(other, b"content")
        done.set()

    with store.locked(alone=True):
        thread = threading.Thread(target=work)
        thread.start()
        assert not done.wait(0.2)
    thread.join(20)
    assert done.is_set()
    other.close()


def test_the_lock_is_free_after_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[BaseException] = []
    with contextlib.suppress(RuntimeError), store.writer() as writer:
        writer.add(b"x" * 100, "U8")
        raise RuntimeError
    monkeypatch.setattr(store, "sync", lambda: (_ for _ in ()).throw(StoreError("damaged")))
    try:
        with store.writer():
            raise AssertionError("not reached")
    except StoreError as error:
        kept.append(error)  # its traceback keeps the writer alive
    assert _free(store, fcntl.LOCK_EX)
    assert not list((store.repository / "objects/pack").glob("tmp_*"))


# ---- what is not there ------------------------------------------------------------------------------------------------


def test_a_missing_model(store: Store, read: Read) -> None:
    manifest = describe(io.BytesIO(b"never added"), expect_safetensors=False).manifest
    with pytest.raises(ModelMissingError, match=manifest.digest[:12]) as caught:
        read(store, manifest)
    assert caught.value.hint
    assert caught.value.exit_code == 5
    assert not store.has_model(manifest.digest)


def test_a_missing_chunk(store: Store, add: Add) -> None:
    add(store, b"content")
    with pytest.raises(ChunkMissingError, match="0" * 12):
        store.chunk("0" * 64)


def test_a_commit_with_a_chunk_that_was_not_added(store: Store) -> None:
    manifest = describe(io.BytesIO(b"never added"), expect_safetensors=False).manifest
    with pytest.raises(StoreError, match="never added"), store.writer() as writer:
        writer.commit(manifest)
    assert store.models() == {}


def test_a_writer_that_is_left_without_commit_leaves_nothing(store: Store, add: Add, read: Read) -> None:
    with store.writer() as writer:
        id = writer.add(b"x" * 1000, "U8")
    assert list((store.repository / "objects/pack").iterdir()) == []
    with pytest.raises(ChunkMissingError):
        store.chunk(id)
    assert read(store, add(store, b"x" * 1000)) == b"x" * 1000


def test_an_unknown_tensor_and_a_raw_header(store: Store, add: Add, lineage: Lineage) -> None:
    with pytest.raises(KeyError):
        next(store.tensor(add(store, lineage(1)[0]), "no such tensor"))
    with pytest.raises(StoreError, match="kept raw"):
        store.header(add(store, b"raw"))


def test_a_manifest_whose_size_lies(store: Store, add: Add, read: Read) -> None:
    manifest = add(store, b"content")
    with store.writer() as writer:
        lie = Manifest(8, None, raw=manifest.raw)
        writer.commit(lie)
    with pytest.raises(StoreError, match="7 bytes, its manifest says 8"):
        read(store, lie)


# ---- the lookup cache -------------------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(b"this is no database " * 500)
    elif how == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "pages":
        data = bytearray(path.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        path.write_bytes(bytes(data))
    else:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            if how == "older schema":
                db.execute("PRAGMA user_version = 77")
                db.execute("DROP TABLE chunks")
                db.execute("CREATE TABLE chunks (something TEXT)")
                db.execute("CREATE TABLE other (x)")
            elif how == "a table missing":
                db.execute("DROP TABLE chunks")
            elif how == "another tip":
                db.execute("UPDATE meta SET value = ?", ("0" * 40,))


SPOILT = ["deleted", "empty", "garbage", "half", "pages", "older schema", "a table missing", "another tip"]


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_cache_is_rebuilt(how: str, store: Store, add: Add, read: Read, lineage: Lineage) -> None:
    contents = lineage(2, count=2000)
    manifests = [add(store, content) for content in contents]
    rows = store.lookup.rows()
    store.close()
    with contextlib.closing(sqlite3.connect(store.lookup.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        Path(f"{store.lookup.path}{suffix}").unlink(missing_ok=True)
    spoil(store.lookup.path, how)
    again = Store.open(store.folder)
    for manifest, content in zip(manifests, contents, strict=True):
        assert [digest(again.chunk(id)) for id in manifest.chunks()] == manifest.chunks()
        assert add(again, content) == manifest
        assert read(again, manifest) == content
    assert again.lookup.rows() == rows
    again.close()


def test_the_cache_may_vanish_while_it_is_open(store: Store, add: Add, read: Read) -> None:
    add(store, b"one")
    store.lookup.forget()
    assert read(store, add(store, b"two")) == b"two"
    assert len(store.lookup.rows()) == 2


def test_rows_say_what_is_stored(
    store: Store, add: Add, weights: Callable[..., bytes], git: Callable[..., str]
) -> None:
    data = weights(1, 20_000)
    manifest = add(store, data)
    (id,) = manifest.chunks()
    row = store.lookup.rows()[id]
    assert (row.base, row.raw) == (None, len(data))
    assert row.stored == int(git(store.repository, "cat-file", "-s", row.oid.hex()))


def test_using_a_model_stamps_it(store: Store, add: Add) -> None:
    manifest = add(store, b"content")
    first = store.stamps.stamps()[manifest.digest]
    add(store, b"content")
    assert store.stamps.stamps()[manifest.digest] >= first
    store.stamps.stamp(digest(b"another"))
    assert set(store.stamps.stamps()) == {manifest.digest, digest(b"another")}


def test_what_another_process_adds_is_seen(store: Store, add: Add, read: Read) -> None:
    other = Store(store.folder)
    assert other.models() == {}
    manifest = add(store, b"content")
    assert other.has_model(manifest.digest)
    assert other.chunk(manifest.chunks()[0]) == b"content"
    assert read(other, manifest) == b"content"
    other.close()


def test_a_chunk_of_a_dropped_model_is_written_again(store: Store, add: Add, read: Read) -> None:
    kept, dropped = add(store, b"kept"), add(store, b"dropped")
    old = store.tip()
    new, entries = store.tree().write({dropped.digest: None})
    with store.writer():
        from git_gru.store.packs import PackWriter

        pack = PackWriter(store.repository / "objects/pack", len(entries))
        for entry in entries:
            pack.add(entry)
        pack.finish()
        assert store.update_ref(new, old)
    store.sync()
    assert store.lookup.rows().keys().isdisjoint(dropped.chunks())
    with pytest.raises(ModelMissingError):
        read(store, dropped)
    assert read(store, kept) == b"kept"
    assert read(store, add(store, b"dropped")) == b"dropped"
    assert StoreTree(store.objects, store.tip()).models().keys() == {kept.digest, dropped.digest}


# ---- a store that cannot be written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["kept", "deleted"])
def test_a_read_only_store_can_be_read(
    cache: str, store: Store, add: Add, read: Read, lineage: Lineage, read_only: Callable[[Path], Path]
) -> None:
    content = lineage(1)[0]
    manifest = add(store, content)
    store.close()
    if cache == "deleted":
        store.lookup.forget()
    view = Store.open(read_only(store.folder))
    assert read(view, manifest) == content
    assert b"".join(view.tensor(manifest, "w"))
    assert view.header(manifest).metadata == {"step": "0"}
    assert view.chunk(manifest.chunks()[0])
    view.close()


def test_a_read_only_store_refuses_to_add_with_a_sentence(
    store: Store, add: Add, read_only: Callable[[Path], Path]
) -> None:
    add(store, b"one")
    store.close()
    view = Store.open(read_only(store.folder))
    with pytest.raises(GruError, match=r"cannot be written|read-only|Read-only") as caught:
        ingest(view, io.BytesIO(b"two"), expect_safetensors=False)
    assert caught.value.exit_code == 6
    view.close()


def test_git_missing_is_a_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(GruError, match="`git` was not found") as caught:
        run_git(store.repository, "rev-parse", "HEAD")
    assert caught.value.exit_code == 6


def test_read_again_looks_at_the_reference_once_more(store: Store, add: Add) -> None:
    add(store, b"content")
    calls: list[int] = []

    def read() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ChunkMissingError("gone")
        return "there"

    assert store.read_again(read) == "there"
    with pytest.raises(ChunkMissingError):
        store.read_again(lambda: (_ for _ in ()).throw(ChunkMissingError("gone")))
    assert store_module.LONGEST_CHAIN >= 8


def reopen_reads(store: Store, manifest: Manifest, read: Read) -> bytes:
    with contextlib.closing(reopened(store)) as again:
        return read(again, manifest)


def test_a_store_is_read_after_it_was_reopened(store: Store, add: Add, read: Read) -> None:
    assert reopen_reads(store, add(store, b"content"), read) == b"content"


def test_a_cache_set_back_in_the_middle_of_a_sync_loses_no_row(
    store: Store, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes may bring the cache to different states at once; the tip that it names is the state that it has."""
    first = add(store, b"one")
    before = store.tree()
    second = add(store, b"two")
    store.lookup.sync(before, store.objects)
    empty, now = StoreTree(store.objects, None), store.tree()
    reading = now.models

    def interrupted() -> dict[str, bytes]:
        monkeypatch.undo()
        Store(store.folder).lookup.sync(empty, store.objects)
        return reading()

    monkeypatch.setattr(now, "models", interrupted)
    store.lookup.sync(now, store.objects)
    assert set(store.lookup.rows()) == {*first.chunks(), *second.chunks()}
