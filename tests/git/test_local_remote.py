"""A repository on this machine is read where it is; whatever its own git has made of its objects."""

import io
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import save

from git_gru.git.git_remote import GitRemote
from git_gru.git.local_remote import LocalRemote, local_repository, remote_at
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store.bring import bring
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.publish import publish
from git_gru.store.remote import RemoteError
from git_gru.store.restore import restore
from git_gru.store.store import REF, Store


@pytest.fixture
def stores(tmp_path: Path):
    """Makes stores."""
    made: list[Store] = []

    def make() -> Store:
        made.append(Store.open(tmp_path / f"store {len(made)}" / "gru"))
        return made[-1]

    yield make
    for store in made:
        store.close()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def at(store: Store, url: object) -> GitRemote:
    return remote_at(store, "hub", str(url), LOCAL_VARIABLES)


@pytest.fixture
def fed(tmp_path: Path, stores, make_arrays) -> tuple[Path, list[Manifest], list[bytes]]:
    """A hub with three models, published one by one."""
    hub = tmp_path / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", str(hub)], check=True)
    git(hub, "config", "receive.unpackLimit", "1")
    store, manifests = stores(), []
    files = [save(make_arrays(seed)) for seed in range(3)]
    for file in files:
        manifests.append(ingest(store, io.BytesIO(file), expect_safetensors=True).manifest)
        publish(store, at(store, hub), [manifests[-1:]])
    return hub, manifests, files


def content(store: Store, manifest: Manifest) -> bytes:
    return b"".join(restore(store, manifest))


def test_which_addresses_are_folders_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare.git")], check=True)
    subprocess.run(["git", "init", "-q", str(tmp_path / "work")], check=True)
    monkeypatch.chdir(tmp_path)
    assert local_repository(str(tmp_path / "bare.git")) == tmp_path / "bare.git"
    assert local_repository(f"file://{tmp_path}/bare.git") == tmp_path / "bare.git"
    assert local_repository(str(tmp_path / "work")) == tmp_path / "work/.git"
    for other in (
        "bare.git",
        "https://host/bare.git",
        f"host:{tmp_path}/bare.git",
        str(tmp_path / "none"),
        str(tmp_path),
    ):
        assert local_repository(other) is None, other
    (tmp_path / "bare.git/reftable").mkdir()  # references that only git can read
    assert local_repository(str(tmp_path / "bare.git")) is None


@pytest.mark.parametrize(
    "done",
    [(), ("gc", "-q"), ("repack", "-adfq", "--window=50"), ("pack-refs", "--all"), ("unpack",)],
    ids=str,
)
def test_objects_and_references_may_be_kept_in_any_way(fed, stores, done) -> None:
    hub, manifests, files = fed
    if done == ("unpack",):
        for pack in (hub / "objects/pack").glob("*.pack"):
            moved = pack.rename(hub / pack.name)
            pack.with_suffix(".idx").unlink()
            with moved.open("rb") as data:
                subprocess.run(["git", "-C", str(hub), "unpack-objects", "-q"], stdin=data, check=True)
    elif done:
        git(hub, *done)
    store = stores()
    assert bring(store, [at(store, hub)], manifests).models == 3
    assert [content(store, manifest) for manifest in manifests] == files


def test_no_process_is_started_and_nothing_is_remembered(fed, stores, monkeypatch) -> None:
    hub, manifests, files = fed
    store = stores()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert bring(store, [at(store, hub)], manifests[:1]).models == 1
    assert content(store, manifests[0]) == files[0]
    assert not (store.repository / "refs/gru/remotes").exists()
    packs = len(store.objects.packs())
    assert at(store, hub).look() == at(store, hub).look()
    assert len(store.objects.packs()) == packs  # what is here is not copied again


def test_what_is_damaged_there_does_not_come_here(fed, stores) -> None:
    hub, manifests, _ = fed
    store = stores()
    packs = sorted((hub / "objects/pack").glob("*.pack"), key=lambda pack: pack.stat().st_mtime_ns)
    data = bytearray(packs[0].read_bytes())
    data[len(data) // 2] ^= 1
    packs[0].chmod(0o644)
    packs[0].write_bytes(data)
    with pytest.raises(RemoteError, match=r"hub.*does not give what it should have: .*is damaged"):
        bring(store, [at(store, hub)], manifests[:1])
    assert not store.models()
    assert bring(store, [at(store, hub)], manifests[1:]).models == 2


def test_a_reference_to_nothing_is_a_sentence(fed, stores) -> None:
    hub, manifests, _ = fed
    (hub / REF).write_text("1" * 40 + "\n")
    store = stores()
    remote = at(store, hub)
    assert isinstance(remote, LocalRemote)
    with pytest.raises(RemoteError, match=r"the remote hub .* cannot be read: object 1111"):
        bring(store, [remote], manifests)
