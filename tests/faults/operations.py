"""What is killed at every step: each operation of the store, with what must hold whenever it dies.

To add one: a class with the three methods of `Operation`, and a line in `OPERATIONS`.
"""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import save

from git_gru.git.git_remote import GitRemote
from git_gru.git.install import Scope, install, program_command
from git_gru.git.repository import Repository
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.git.worktree_models import pull
from git_gru.ids import digest
from git_gru.store import bring as bring_module
from git_gru.store import publish as publish_module
from git_gru.store.bring import Brought, bring
from git_gru.store.collect import Needs, Rules, collect, plan
from git_gru.store.ingest import describe, ingest
from git_gru.store.manifest import Manifest
from git_gru.store.publish import Published, publish
from git_gru.store.repack import repack
from git_gru.store.restore import restore
from git_gru.store.store import REF, Store
from git_gru.store.trees import StoreTree, model_blobs


class Operation(Protocol):
    """One operation on the stores in a folder."""

    def prepare(self, folder: Path) -> None:
        """Makes, in an empty folder, what the operation works on."""

    def act(self, folder: Path) -> None:
        """The operation: what dies. Run again after a death, it completes."""

    def check(self, folder: Path, *, done: bool) -> None:
        """Asserts that nothing is lost and nothing is half; after `act` has completed also that it was done."""


def versions(number: int, *, seed: int = 0, size: int = 3_000, tensors: int = 1) -> list[bytes]:
    """Files of one model in training, oldest first."""
    rng = np.random.default_rng(seed)
    body = {f"w{at}": rng.normal(0, 0.05, size).astype("<f4") for at in range(tensors)}
    files = []
    for step in range(number):
        files.append(save(body, {"step": f"{seed} {step}"}))
        body = {
            name: (w + rng.normal(0, 1e-4, size) * (1 + abs(w))).astype("<f4") for name, w in body.items()
        }
    return files


FILES = versions(3)
LARGE = versions(1, seed=9, size=1_500, tensors=6)[0]
BATCH = 12_000
"""Bytes of a batch while `LARGE` travels: it takes three."""


def manifest_of(file: bytes) -> Manifest:
    """The manifest of a file that may be in no store."""
    return describe(io.BytesIO(file), expect_safetensors=True).manifest


def add(folder: Path, files: Iterable[bytes]) -> None:
    """Adds files to the store in `folder`."""
    store = Store.open(folder)
    for file in files:
        ingest(store, io.BytesIO(file), expect_safetensors=True)
    store.close()


def require_whole(folder: Path, files: Sequence[bytes], *, only: bool = False) -> None:
    """Asserts that the store in `folder` is whole and has these files (`only`: no others).

    Whole: Git finds nothing wrong with what the reference reaches, every chunk of every model is there and is what its id says,
    and that does not hang on the cache.
    """
    store = Store.find(folder)
    if store is None:
        assert not files
        return
    if store.tip() is not None:
        fsck(store)
    found = store.models()
    for tree in found.values():
        for id in model_blobs(store.objects, tree):
            assert digest(store.chunk(id)) == id
    wanted = {manifest_of(file).digest: file for file in files}
    assert wanted.keys() == found.keys() if only else wanted.keys() <= found.keys()
    for file in files:
        assert b"".join(restore(store, manifest_of(file))) == file
    known = set(store.lookup.rows())
    store.lookup.forget()
    store.sync()
    assert set(store.lookup.rows()) == known
    store.close()


def fsck(store: Store) -> None:
    """Asserts that Git finds nothing wrong with the store, as far as its reference reaches."""
    command = ["git", "--git-dir", str(store.repository), "fsck", "--strict", "--no-dangling", REF]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("notice: ")]
    assert done.returncode == 0 and not said, said


class AddFirst:
    """The first model of a repository: the store is made."""

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def act(self, folder: Path) -> None:
        add(folder / "gru", FILES[:1])

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "gru", FILES[:1] if done else [])


class Add:
    """One more model."""

    def prepare(self, folder: Path) -> None:
        add(folder / "gru", FILES[:2])

    def act(self, folder: Path) -> None:
        add(folder / "gru", FILES[2:])

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "gru", FILES if done else FILES[:2])


class Repack:
    """Older versions become deltas; garbage of earlier deaths is swept."""

    def prepare(self, folder: Path) -> None:
        add(folder / "gru", FILES)

    def act(self, folder: Path) -> None:
        store = Store.open(folder / "gru")
        repack(store, [[manifest_of(file) for file in reversed(FILES)]], set())
        store.close()

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "gru", FILES, only=True)


class Collect:
    """Models that nothing needs leave; the one that stays was a delta against one that goes."""

    def prepare(self, folder: Path) -> None:
        Repack().prepare(folder)
        Repack().act(folder)
        add(folder / "gru", [LARGE])

    def act(self, folder: Path) -> None:
        store = Store.open(folder / "gru")
        stays = manifest_of(FILES[0])
        needs = Needs(
            digests=frozenset([stays.digest]), absent=0, adding_since=None, in_git=lambda name: True
        )
        collect(store, plan(store, lambda: needs, Rules(grace=0.0)), {stays.digest: stays.chunks()}.get)
        store.close()

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "gru", FILES[:1], only=done)
        assert not done or not list((folder / "gru").rglob("tmp_*"))


class Publish:
    """A model goes to a hub in parts."""

    def prepare(self, folder: Path) -> None:
        add(folder / "gru", [FILES[0], LARGE])
        make_hub(folder / "hub.git")
        store = Store.open(folder / "gru")
        publish(store, hub_of(store, folder), [[manifest_of(FILES[0])]])
        store.close()

    def act(self, folder: Path) -> None:
        publish_large(folder, LARGE)

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "gru", [FILES[0], LARGE], only=True)
        require_hub(folder / "hub.git", [FILES[0], LARGE] if done else [FILES[0]])


class Bring:
    """A model comes from a hub in batches."""

    def prepare(self, folder: Path) -> None:
        Publish().prepare(folder)
        Publish().act(folder)
        add(folder / "clone", FILES[1:2])

    def act(self, folder: Path) -> None:
        bring_large(folder, LARGE)

    def check(self, folder: Path, *, done: bool) -> None:
        require_whole(folder / "clone", [FILES[1], LARGE] if done else [FILES[1]])
        require_hub(folder / "hub.git", [FILES[0], LARGE])


class Pull:
    """The weights take the place of a manifest in the worktree."""

    def prepare(self, folder: Path) -> None:
        repo = folder / "repo"
        subprocess.run(["git", "init", "-q", str(repo)], check=True)
        install(Repository.find(repo), Scope.LOCAL, program_command(os.environ["PATH"]))
        (repo / ".gitattributes").write_text("*.safetensors filter=gru diff=gru merge=gru -text\n")
        (repo / "model.safetensors").write_bytes(FILES[0])
        subprocess.run(["git", "add", "-A"], cwd=repo, check=True)
        (repo / "model.safetensors").write_bytes(manifest_of(FILES[0]).encode())

    def act(self, folder: Path) -> None:
        pull(Repository.find(folder / "repo"))

    def check(self, folder: Path, *, done: bool) -> None:
        repo = folder / "repo"
        (repo / ".git/index.lock").unlink(missing_ok=True)  # git's own
        there = (repo / "model.safetensors").read_bytes()
        assert there == FILES[0] or (not done and there == manifest_of(FILES[0]).encode())
        if done:
            assert sorted(path.name for path in repo.iterdir()) == [
                ".git",
                ".gitattributes",
                "model.safetensors",
            ]
        require_whole(repo / ".git/gru", FILES[:1], only=True)


def publish_large(folder: Path, file: bytes) -> Published:
    """Publishes a model from the store `gru` to the hub, in small batches."""
    store = Store.open(folder / "gru")
    with small_batches():
        done = publish(store, hub_of(store, folder), [[manifest_of(file)]])
    store.close()
    return done


def bring_large(folder: Path, file: bytes) -> Brought:
    """Brings a model from the hub to the store `clone`, in small batches."""
    store = Store.open(folder / "clone")
    with small_batches():
        done = bring(store, [hub_of(store, folder)], [manifest_of(file)])
    store.close()
    return done


@contextlib.contextmanager
def small_batches() -> Iterator[None]:
    """Transfers in batches of `BATCH` bytes."""
    usual = publish_module.BATCH_BYTES, bring_module.BATCH_BYTES
    publish_module.BATCH_BYTES = bring_module.BATCH_BYTES = BATCH
    try:
        yield
    finally:
        publish_module.BATCH_BYTES, bring_module.BATCH_BYTES = usual


def make_hub(path: Path) -> None:
    """A bare repository that gives objects by name."""
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    for name in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        subprocess.run(["git", "-C", str(path), "config", name, "true"], check=True)


def hub_of(store: Store, folder: Path) -> GitRemote:
    """The hub in `folder`, as a remote of `store`."""
    return GitRemote(store, "hub", str(folder / "hub.git"), LOCAL_VARIABLES)


def require_hub(hub: Path, files: Sequence[bytes]) -> None:
    """Asserts that Git finds nothing wrong with a hub, and that it has these files."""
    subprocess.run(["git", "-C", str(hub), "fsck", "--strict", "--no-dangling", REF], check=True)
    objects = Store(hub.parent / "no store").objects
    objects.folder = hub
    commit = subprocess.run(
        ["git", "-C", str(hub), "rev-parse", REF], capture_output=True, text=True, check=True
    )
    models = StoreTree(objects, bytes.fromhex(commit.stdout.strip())).models()
    assert {manifest_of(file).digest for file in files} <= models.keys()


OPERATIONS: dict[str, Operation] = {
    "add the first": AddFirst(),
    "add": Add(),
    "repack": Repack(),
    "collect": Collect(),
    "publish": Publish(),
    "bring": Bring(),
    "pull": Pull(),
}
