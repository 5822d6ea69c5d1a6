"""Plain git commands, killed with all that they started, at any moment, two hundred times.

What a killed git leaves in the user's repository and in the hub (`index.lock` and the like) is taken away, as git tells its user
to do. In `.git/gru` nothing is touched: garbage piles up there. After every third kill the command is let through.
"""

import io
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pygit2
import pytest

from git_gru.git.install import Scope, install, program_command
from git_gru.git.repository import Repository
from git_gru.store.ingest import ingest
from git_gru.store.manifest import parse_manifest
from git_gru.store.store import REF, Store
from tests.faults.operations import make_hub, manifest_of, require_hub, require_whole, versions

MODEL = "model.safetensors"
ATTRIBUTES = b"*.safetensors filter=gru diff=gru merge=gru -text\n"
KILLS = {"add": 60, "commit": 39, "checkout": 39, "push": 33, "fetch": 33}
IN_A_ROW = 3

pytestmark = pytest.mark.slow


class Killer:
    """Kills commands at a moment drawn from the time that the last one took that was let through."""

    def __init__(self, folder: Path, *git_dirs: Path) -> None:
        self._folder = folder
        self._git_dirs = (folder / ".git", *git_dirs)
        self._seconds = 0.3
        self.killed = 0
        self.after_each: Callable[[], None] = lambda: None

    def kill(self, *command: str) -> None:
        """Kills a command some times, then lets it through."""
        for _ in range(IN_A_ROW):
            process = self._start(command)
            time.sleep(random.uniform(0, self._seconds))
            os.killpg(process.pid, signal.SIGKILL)
            _, said = process.communicate()
            assert b"Traceback" not in said
            self.killed += process.returncode == -signal.SIGKILL
            self._unlock()
            self.after_each()
        begun = time.monotonic()
        process = self._start(command)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        self._seconds = time.monotonic() - begun

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=self._folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _unlock(self) -> None:
        for git_dir in self._git_dirs:
            for lock in git_dir.rglob("*.lock"):
                if git_dir / "gru" not in lock.parents:
                    lock.unlink(missing_ok=True)


@pytest.fixture
def path(quick: Path, isolated: Path) -> Path:
    """A repository with git-gru installed for the user, on a commit without a model."""
    path = quick / "repo"
    git(quick, "init", "-q", str(path))
    install(Repository.find(path), Scope.GLOBAL, program_command(os.environ["PATH"]))
    (path / ".gitattributes").write_bytes(ATTRIBUTES)
    git(path, "add", "-A")
    git(path, "commit", "-qm", "attributes")
    return path


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True).stdout


def files_for(operation: str) -> list[bytes]:
    """One version of a model for every time that the operation is let through."""
    return versions(KILLS[operation] // IN_A_ROW, size=40_000, tensors=3)


def committed(path: Path, files: Sequence[bytes]) -> list[str]:
    """A commit for each file, one on top of the other; their models are in the store. No worktree is touched."""
    objects = pygit2.Repository(str(path))
    who = pygit2.Signature("A U Thor", "author@example.com", 1_700_000_000, 0)
    attributes = objects.create_blob(ATTRIBUTES)
    store = Repository.find(path).store()
    commits: list[str] = []
    for at, file in enumerate(files):
        manifest = ingest(store, io.BytesIO(file), expect_safetensors=True).manifest
        tree = objects.TreeBuilder()
        tree.insert(".gitattributes", attributes, pygit2.enums.FileMode.BLOB)
        tree.insert(MODEL, objects.create_blob(manifest.encode()), pygit2.enums.FileMode.BLOB)
        commit = objects.create_commit(None, who, who, f"version {at}", tree.write(), commits[-1:])
        commits.append(str(commit))
    store.close()
    return commits


def manifest_at(path: Path, name: str) -> str:
    """The digest of the manifest that git has by that name; its model is in the store."""
    manifest = parse_manifest(git(path, "cat-file", "blob", name), where=name)
    store = Store(path / ".git/gru")
    assert store.has_model(manifest.digest)
    return manifest.digest


def test_add(path: Path) -> None:
    files = files_for("add")
    killer = Killer(path)
    for file in files:
        (path / MODEL).write_bytes(file)
        killer.kill("git", "add", MODEL)
        assert manifest_at(path, f":{MODEL}") == manifest_of(file).digest
    assert killer.killed
    require_whole(path / ".git/gru", files)


def test_commit(path: Path) -> None:
    files = files_for("commit")
    killer = Killer(path)
    (path / MODEL).write_bytes(b"at first")
    git(path, "add", MODEL)
    for file in files:
        (path / MODEL).write_bytes(file)
        killer.kill("git", "commit", "--quiet", "--allow-empty", "--all", "--message", "next")
        assert manifest_at(path, f"HEAD:{MODEL}") == manifest_of(file).digest
    assert killer.killed
    require_whole(path / ".git/gru", files)
    git(path, "fsck", "--strict")


def test_checkout(path: Path) -> None:
    files = files_for("checkout")
    commits = committed(path, files)
    killer = Killer(path)
    for commit, file in zip(commits, files, strict=True):
        killer.kill("git", "checkout", "--quiet", "--force", commit)
        assert (path / MODEL).read_bytes() == file
        assert git(path, "status", "--porcelain") == b""
    assert killer.killed
    require_whole(path / ".git/gru", files, only=True)


def test_push(path: Path, quick: Path) -> None:
    files = files_for("push")
    commits = committed(path, files)
    hub = quick / "hub.git"
    make_hub(hub)
    git(path, "remote", "add", "origin", str(hub))
    killer = Killer(path, hub)
    killer.after_each = lambda: require_models_before_branch(hub, commits, files)
    for commit in commits:
        killer.kill("git", "push", "--quiet", "origin", f"{commit}:refs/heads/main")
        assert git(hub, "rev-parse", "main").decode().strip() == commit
    assert killer.killed
    require_hub(hub, files)
    require_whole(path / ".git/gru", files, only=True)
    git(quick, "clone", "-q", str(hub), "clone")
    assert (quick / "clone" / MODEL).read_bytes() == files[-1]


def require_models_before_branch(hub: Path, commits: Sequence[str], files: Sequence[bytes]) -> None:
    """Asserts that the hub has the models of all commits that its branch reaches."""
    objects = pygit2.Repository(str(hub))
    if "refs/heads/main" not in objects.references:
        return
    at = commits.index(str(objects.references["refs/heads/main"].target))
    models = objects[objects.references[REF].target].tree / "models"
    for file in files[: at + 1]:
        digest = manifest_of(file).digest
        assert f"{digest[:2]}/{digest[2:]}" in models


def test_fetch_and_checkout(path: Path, quick: Path) -> None:
    files = files_for("fetch")
    hub, clone = quick / "hub.git", quick / "clone"
    make_hub(hub)
    for at, commit in enumerate(committed(path, files)):
        git(path, "branch", f"version-{at}", commit)
    git(path, "push", "-q", str(hub), "--all")
    git(quick, "clone", "-q", "--branch=main", str(hub), str(clone))
    git(clone, "config", "--unset-all", "remote.origin.fetch")
    killer = Killer(clone)
    for at, file in enumerate(files):
        killer.kill("sh", "-c", f"git fetch -q origin version-{at} && git checkout -qf FETCH_HEAD")
        assert (clone / MODEL).read_bytes() == file
    assert killer.killed
    require_whole(clone / ".git/gru", files)
