"""A full disk while adding: a sentence, the old state whole, and the next add works when there is room again."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from git_gru.errors import MachineError
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.packs import PackWriter
from git_gru.store.repack import repack
from git_gru.store.store import Store

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def leftovers(store: Store) -> list[str]:
    return [
        path.name for path in (store.repository / "objects/pack").iterdir() if path.name.startswith("tmp_")
    ]


def test_a_model_that_is_too_large(
    small_disk: Path, add: Add, read: Read, whole: Callable[[Store], None]
) -> None:
    store = Store.open(small_disk / "gru")
    before = add(store, noise(1 << 20))
    with pytest.raises(MachineError, match="disk is full") as caught:
        ingest(store, io.BytesIO(noise(12 << 20, 2)), expect_safetensors=False)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert leftovers(store) == []
    assert set(store.models()) == {before.digest}
    assert read(store, before) == noise(1 << 20)
    whole(store)
    assert read(store, add(store, noise(1 << 20, 3))) == noise(1 << 20, 3)
    store.close()


def test_a_disk_that_fills_up_to_the_last_byte(
    small_disk: Path, add: Add, read: Read, whole: Callable[[Store], None]
) -> None:
    store = Store.open(small_disk / "gru")
    first = add(store, noise(1 << 18))
    filler = small_disk / "filler"
    # Less and less room: the write fails in the pack, its index, the reference or the cache.
    for room in (200, 100, 60, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0):
        content = noise(20_000, room + 10)
        free = os.statvfs(small_disk)
        size = free.f_bavail * free.f_frsize - room * 1024
        with open(filler, "ab") as file:
            file.write(bytes(max(0, size)))
        known = set(store.models())
        try:
            manifest = add(store, content)
        except MachineError as error:
            assert "disk" in str(error)
            assert set(store.models()) == known
        else:
            assert read(store, manifest) == content
        assert leftovers(store) == []
        fresh = Store(store.folder)
        assert read(fresh, first) == noise(1 << 18)
        fresh.close()
        filler.unlink()
        whole(store)
        assert read(store, add(store, content)) == content
    store.close()


def test_no_room_for_a_new_store(small_disk: Path, add: Add) -> None:
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(MachineError, match="disk"):
        Store.open(small_disk / "gru")
    (small_disk / "filler").unlink()
    store = Store.open(small_disk / "gru")
    assert add(store, b"content")
    store.close()


def test_no_room_for_a_repack(
    small_disk: Path,
    add: Add,
    read: Read,
    whole: Callable[[Store], None],
    lineage: Callable[..., list[bytes]],
) -> None:
    store = Store.open(small_disk / "gru")
    contents = lineage(10, count=100_000)
    manifests = [add(store, content) for content in contents]
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - (1 << 18)))
    with pytest.raises(MachineError, match="disk is full"):
        repack(store, [manifests[::-1]], set())
    assert leftovers(store) == []
    assert [read(store, manifest) for manifest in manifests] == contents
    whole(store)
    (small_disk / "filler").unlink()
    store.close()


# ---- without a disk of one's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_write_that_fails(
    number: int, after: int, store: Store, add: Add, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = add(store, b"before")
    real, calls = PackWriter._put, []

    class Full:
        """A file on a disk that is full after some writes."""

        def __init__(self, file: io.FileIO) -> None:
            self.file = file

        def write(self, data: memoryview) -> int:
            calls.append(len(data))
            if len(calls) > after:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    def put(self: PackWriter, data: bytes) -> None:
        if not isinstance(self._file, Full):
            self._file = Full(self._file)  # type: ignore[assignment, arg-type]
        real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "_put", put)
        with pytest.raises(MachineError, match="disk is full"):
            add(store, noise(50_000))
    assert leftovers(store) == []
    assert set(store.models()) == {before.digest}
    assert read(store, add(store, noise(50_000))) == noise(50_000)


@pytest.mark.parametrize("step", ["fsync", "rename", "index"])
def test_a_finish_that_fails(
    step: str, store: Store, add: Add, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = add(store, b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", fail)
        elif step == "rename":
            patch.setattr(Path, "rename", fail)
        else:
            patch.setattr("git_gru.store.packs._index", fail)
        with pytest.raises(MachineError, match="disk is full"):
            add(store, b"after")
    assert leftovers(store) == []
    assert set(store.models()) == {before.digest}
    assert read(store, add(store, b"after")) == b"after"
