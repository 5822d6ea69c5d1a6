"""The user's objects, raw: reading them as they are stored, and taking new ones.

Names are 20 bytes. Objects are read by `git cat-file`, past replacements and grafts, so the history is what it is for every
clone; a blob of any size is read in pieces. New objects go into one pack that becomes visible when all of them are written.
"""

import functools
import os
import subprocess
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from git_gru.errors import InputError, StoreError
from git_gru.git.repository import Repository
from git_gru.git.run import Environment, child_environment
from git_gru.git.talk import Talk
from git_gru.ids import Buffer
from git_gru.store.chunks import Source
from git_gru.store.packs import Kind, PackWriter, deflated_entry, object_hash
from git_gru.store.trees import TreeItem, parse_tree

AS_STORED: Environment = {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}
"""As `env`: git shows the objects themselves and not what replaces them here."""

STREAMED = ("-c", "core.bigFileThreshold=1m")
"""As first arguments: git reads and writes larger blobs in pieces, where they are not deltas."""

FOLDER = b"40000"
_FORBIDDEN = {b"", b".", b"..", b".git"}


def object_name(kind: Kind, content: bytes) -> bytes:
    """The id of an object."""
    return object_hash(kind, len(content), content).digest()


EMPTY_BLOB = object_name("blob", b"")


class ObjectMissingError(StoreError):
    """An object that the history names and the repository does not have."""


class HostileTreeError(InputError):
    """A tree with a name that must never be a file's."""


class ObjectReader:
    """Reads one repository's objects, as a context manager."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._exit = ExitStack()
        self.tree = functools.lru_cache(maxsize=1 << 12)(self._tree)

    def __enter__(self) -> Self:
        self._talk = self._exit.enter_context(
            Talk(
                *STREAMED,
                "cat-file",
                "--batch-command",
                cwd=self._repo.top,
                env={**self._repo.environment, **AS_STORED},
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def read(self, oid: bytes, kind: Kind) -> bytes:
        """An object's whole content. Raises `ObjectMissingError`, also for an object of another kind."""
        size = self._ask(b"contents", oid, kind)
        content = self._talk.bytes(size)
        self._talk.bytes(1)
        return content

    def size(self, oid: bytes) -> int:
        """A blob's length."""
        return self._ask(b"info", oid, "blob")

    def stream(self, oid: bytes) -> Source:
        """A blob's content, to be read to its end before anything else is asked for."""
        return _BlobStream(self._talk, self._ask(b"contents", oid, "blob"))

    def start(self, oid: bytes, length: int) -> bytes:
        """The first `length` bytes of a large blob, read by a git of their own that is not let finish."""
        with subprocess.Popen(
            ["git", *STREAMED, "cat-file", "blob", oid.hex()],
            cwd=self._repo.top,
            env=child_environment({**self._repo.environment, **AS_STORED}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            data = process.stdout.read(length)
            process.kill()
        return data

    def _tree(self, oid: bytes) -> tuple[TreeItem, ...]:
        """The items of a tree, in its order. Raises `HostileTreeError` for names such as `..`."""
        items = tuple(parse_tree(self.read(oid, "tree"), where=f"tree {oid.hex()}"))
        for item in items:
            if item.name in _FORBIDDEN or b"/" in item.name:
                raise HostileTreeError(
                    f"the tree {oid.hex()} holds the name {item.name.decode('utf-8', 'replace')!r}, which Git forbids",
                    hint="See what is wrong with this history: git fsck",
                )
        return items

    def _ask(self, command: bytes, oid: bytes, kind: Kind) -> int:
        self._talk.ask(b"%s %s\n" % (command, oid.hex().encode()))
        answer = self._talk.line().split(b" ")
        if answer[1:2] != [kind.encode()]:
            if command == b"contents" and len(answer) == 3:
                self._talk.bytes(int(answer[2]) + 1)
            what = "is missing" if len(answer) < 3 else f"is a {answer[1].decode()}, not a {kind}"
            raise ObjectMissingError(
                f"the {kind} {oid.hex()} {what}", hint="See what is wrong with this repository: git fsck"
            )
        return int(answer[2])


class _BlobStream:
    """The content of one blob in a talk, as a `Source`."""

    def __init__(self, talk: Talk, size: int) -> None:
        self._talk = talk
        self._left = size
        self._open = True

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            if self._open:
                self._open = False
                self._talk.bytes(1)
            return 0
        count: int = self._talk.answers.readinto(buffer[: self._left])  # type: ignore[attr-defined]
        if not count:
            raise self._talk.ended()
        self._left -= count
        return count


class Sink(Protocol):
    """Where new objects go."""

    def put(self, kind: Kind, content: bytes) -> bytes:
        """Takes an object and returns its id."""


class Names:
    """A sink that only names objects: for a survey."""

    def put(self, kind: Kind, content: bytes) -> bytes:
        """The id that the object would have."""
        return object_name(kind, content)


class NewPack:
    """A sink that writes one pack into the repository. As a context manager it throws away what was not finished."""

    def __init__(self, repo: Repository) -> None:
        place = repo.git("rev-parse", "--path-format=absolute", "--git-path", "objects/pack")
        self._pack = PackWriter(Path(os.fsdecode(place.removesuffix(b"\n"))), 0)
        self._known: Callable[[bytes], bool] = lambda oid: repo.pygit2.odb.exists(oid.hex())
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._pack.abandon()

    def put(self, kind: Kind, content: bytes) -> bytes:
        """Writes a small object."""
        entry = deflated_entry(kind, content)
        self._pack.add(entry)
        return entry.oid

    def put_blob(self, size: int, pieces: Iterable[Buffer]) -> bytes:
        """Writes a blob of any size, unless the repository has it already."""
        return self._pack.stream("blob", size, pieces, self._known)

    def finish(self) -> None:
        """Makes the objects durable and visible."""
        self._open = False
        self._pack.finish()


def encode_tree(items: Iterable[TreeItem]) -> bytes:
    """A tree's content, its items in the order in which they come."""
    return b"".join(b"%s %s\0%s" % item for item in items)


def tree_order(item: TreeItem) -> bytes:
    """Git's order of a tree's items: a folder's name counts as if it ended in a slash."""
    return item.name + b"/" if item.mode == FOLDER else item.name
