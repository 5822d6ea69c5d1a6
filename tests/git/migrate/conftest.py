"""Fixtures for migrations: histories made object by object, and a look at what a migration made of them that uses Git alone."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pygit2
import pytest

from git_gru.git.install import program_command
from git_gru.git.migrate.migration import Migration, Request, migrate
from git_gru.git.migrate.trees import Direction
from git_gru.git.repository import Repository
from git_gru.store.manifest import is_manifest, parse_manifest
from git_gru.store.restore import restore

WHO = "A U Thor <a@example.com> 1700000000 +0130"
Files = Mapping[str, bytes | tuple[int, bytes]]


class History:
    """Writes commits with any headers and trees into a repository, and reads them back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects: Any = pygit2.Repository(str(path))

    @property
    def repository(self) -> Repository:
        """The library's view of it."""
        return Repository.find(self.path)

    def git(self, *args: str, input: bytes | None = None) -> str:
        """Stdout of `git ARGS`; a failure shows what git said."""
        done = subprocess.run(["git", *args], cwd=self.path, input=input, capture_output=True, check=False)
        assert done.returncode == 0, (args, done.stderr)
        return done.stdout.decode("utf-8", "surrogateescape")

    def tree(self, files: Files) -> str:
        """A tree: path -> content, or (mode, content)."""
        index = pygit2.Index()
        for path, file in files.items():
            mode, content = file if isinstance(file, tuple) else (0o100644, file)
            index.add(pygit2.IndexEntry(path, self.objects.create_blob(content), mode))
        return str(index.write_tree(self.objects))

    def commit(
        self,
        files: Files,
        *parents: str,
        message: bytes = b"message\n",
        headers: Sequence[str] = (),
        ref: str | None = None,
    ) -> str:
        """A commit; `headers` stand behind the committer. Moves `ref` to it."""
        lines = [f"tree {self.tree(files)}", *(f"parent {parent}" for parent in parents)]
        lines += [f"author {WHO}", f"committer {WHO}", *headers]
        return self.put("commit", "\n".join(lines).encode() + b"\n\n" + message, ref)

    def tag(self, target: str, kind: str, name: str, message: bytes = b"tag\n") -> str:
        """An annotated tag and its reference."""
        text = f"object {target}\ntype {kind}\ntag {name}\ntagger {WHO}\n\n".encode()
        return self.put("tag", text + message, f"refs/tags/{name}")

    def put(self, kind: str, content: bytes, ref: str | None = None) -> str:
        """Any object, unchecked."""
        kinds = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
        oid = str(self.objects.odb.write(kinds[kind], content))
        if ref is not None:
            self.objects.references.create(ref, oid, force=True)
        return oid

    def raw(self, name: str, kind: str = "commit") -> bytes:
        """An object's bytes."""
        done = subprocess.run(["git", "cat-file", kind, name], cwd=self.path, capture_output=True, check=True)
        return done.stdout

    def files(self, name: str) -> dict[str, tuple[str, bytes]]:
        """Path -> (mode, content) of all of a commit's files; models as the files that they stand for."""
        found = {}
        repo = self.repository
        for entry in self.git("ls-tree", "-r", "-z", name).split("\0")[:-1]:
            meta, path = entry.split("\t", 1)
            mode, _, oid = meta.split(" ")
            data = bytes(self.objects[oid].data)
            if is_manifest(data):
                data = b"".join(restore(repo.store(), parse_manifest(data, where=path)))
            found[path] = (mode, data)
        return found

    def models(self, name: str) -> set[str]:
        """The paths whose blobs are manifests."""
        rows = (entry.split("\t", 1) for entry in self.git("ls-tree", "-r", "-z", name).split("\0")[:-1])
        return {path for meta, path in rows if is_manifest(bytes(self.objects[meta.split(" ")[2]].data))}

    def filters(self, name: str) -> dict[str, str]:
        """Path -> the filter that Git gives it by the attributes of that commit alone."""
        index = {"GIT_INDEX_FILE": str(self.path / ".git/look"), "GIT_CONFIG_GLOBAL": "/dev/null"}
        env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CONFIG_NOSYSTEM": "1", **index}
        subprocess.run(["git", "read-tree", name], cwd=self.path, env=env, check=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=self.path, env=env, capture_output=True, check=True
        )
        done = subprocess.run(
            ["git", "check-attr", "--cached", "-z", "--stdin", "filter"],
            cwd=self.path, env=env, input=listed.stdout, capture_output=True, check=True,
        )  # fmt: skip
        fields = done.stdout.decode("utf-8", "surrogateescape").split("\0")
        return dict(zip(fields[0::3], fields[2::3], strict=False))

    def refs(self) -> dict[str, str]:
        """All references but those that a migration keeps."""
        rows = (
            row.split(" ")
            for row in self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        )
        return {name: oid for name, oid in rows if not name.startswith("refs/gru/")}


@pytest.fixture
def history(plain_repo: Any) -> History:
    """A new, empty history in the repository `plain_repo`."""
    return History(plain_repo.path)


@pytest.fixture(scope="session")
def history_in() -> Callable[[Path], History]:
    """`history_in(path)`: a history in a new repository there."""

    def make(path: Path) -> History:
        subprocess.run(["git", "init", "-q", str(path)], check=True)
        return History(path)

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., Migration]:
    """`run(history or work, "git" | "lfs" | "export", *patterns, refs=…)`: a migration."""

    def call(where: Any, direction: str, *patterns: str, **more: Any) -> Migration:
        progress = more.pop("progress", lambda stage, done, every: None)
        program = program_command(os.environ["PATH"])
        request = Request(direction=Direction(direction), patterns=patterns, program=program, **more)
        return migrate(where.repository, request, progress)

    return call


@pytest.fixture(scope="session")
def pointer_to() -> Callable[..., bytes]:
    """`pointer_to(data, path=None)`: git-lfs's pointer for a file; its object is put into the repository at `path`."""

    def make(data: bytes, path: Path | None = None) -> bytes:
        oid = hashlib.sha256(data).hexdigest()
        if path is not None:
            place = path / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            oid.encode(),
            len(data),
        )

    return make
