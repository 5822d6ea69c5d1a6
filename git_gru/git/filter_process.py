"""The long-running filter: what Git calls for every tracked file that it adds or checks out.

`clean` turns a file's bytes into its manifest, `smudge` a manifest back into the bytes. One process serves all files of a
git command. Protocol: gitattributes(5), "Long Running Filter Process", version 2.

A model that is not in the store is brought from a remote. Where Git allows it (a checkout does), such files are *delayed*: their
manifests are remembered, and when Git asks for them, all are brought in one batch; each is answered while its chunks come.

Invariants:
- A manifest is answered only after `ingest` has made every chunk that it names durable (docs/format.md). Of a file that is
  smudged only the bytes are verified before: what was brought may become durable, and part of the store, until the filter ends.
- What comes in is read to its end before anything is answered; Git would otherwise wait for us while we wait for it.
- An error concerns one file: it is told, answered with `status=error`, and the next file is served.
- Memory is bounded: contents are streamed, or spooled to a file in the Git folder.
- What is already in the wanted form passes through unchanged: an empty file, a manifest that is cleaned (a checkout that
  left manifests in the worktree), a content that is smudged and is no manifest (committed before the file was tracked).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, Protocol

from git_gru.errors import GruError, StoreError
from git_gru.git.looking import Cleaned
from git_gru.git.offering import is_settled, offer
from git_gru.git.pktline import (
    MAX_PAYLOAD,
    Buffer,
    Content,
    EndOfStreamError,
    PacketReader,
    PacketWriter,
    ProtocolError,
)
from git_gru.git.repository import Repository
from git_gru.git.run import PIPE_BYTES, widen
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest, is_manifest, parse_manifest
from git_gru.store.restore import restore
from git_gru.store.store import ModelMissingError, Store

if TYPE_CHECKING:
    from git_gru.git.selection import Selection
    from git_gru.store.arrival import Arrival
    from git_gru.store.bring import Found

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes."""

CAPABILITIES = ("clean", "smudge", "delay")
_IN_MEMORY = 8 << 20  # a content to be smudged that is no manifest is spooled to a file beyond this
_MANIFEST_LIMIT = 64 << 20  # bytes; a manifest that long would describe a million chunks


class Reporter(Protocol):
    """How the filter speaks to the user: the caller knows where to and in which words. An empty path: no file in particular."""

    def warn(self, path: str, text: str) -> None:
        """A remark about the file at `path`."""

    def failed(self, path: str, error: Exception) -> None:
        """The file at `path` could not be filtered."""

    def bringing(self, models: int, size: int) -> Progress | None:
        """So many models, of so many bytes, are brought from a remote; what to tell of their progress."""


def serve(
    stdin: BinaryIO, stdout: int, reporter: Reporter, *, skip_smudge: bool = False
) -> tuple[Repository, Store] | None:
    """Speaks the protocol on `stdin` (buffered) and the descriptor `stdout` until Git closes the pipe.

    `skip_smudge` leaves manifests in the worktree. Returns where models were put, if any were. Raises `ProtocolError`
    when the other side is not Git, and whatever makes the pipe itself unusable.
    """
    for pipe in (stdin.fileno(), stdout):
        widen(pipe)
    reader, writer = PacketReader(stdin), PacketWriter(stdout)
    _shake_hands(reader, writer)
    session = _Session(reader, writer, reporter, skip_smudge=skip_smudge)
    try:
        while not reader.at_end():
            session.answer()
    except (EndOfStreamError, BrokenPipeError):
        session.wait()  # Git has died; what is on its way is kept for its next try
        raise
    return session.finish()


def _shake_hands(reader: PacketReader, writer: PacketWriter) -> None:
    """Agrees on version 2 and on the capabilities that both sides have."""
    if (greeting := reader.lines()) != ["git-filter-client", "version=2"]:
        raise ProtocolError(f"unexpected greeting {greeting}")
    writer.lines("git-filter-server", "version=2")
    offered = {line.removeprefix("capability=") for line in reader.lines()}
    writer.lines(*(f"capability={name}" for name in CAPABILITIES if name in offered))


class _Session:
    """One filter process: answers commands, opening the repository's store at the first that needs it."""

    def __init__(
        self, reader: PacketReader, writer: PacketWriter, reporter: Reporter, *, skip_smudge: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._reporter = reporter
        self._skip_smudge = skip_smudge
        self._delayed: dict[str, Manifest] = {}
        self._ready: dict[str, tuple[Manifest, Arrival]] = {}
        self._arrivals: list[Arrival] = []
        self._told: list[Exception] = []
        self._hooks_offered = False
        self._cleaned: Cleaned | None = None

    @cached_property
    def _repository(self) -> Repository:
        return Repository.of_filter()

    @cached_property
    def _store(self) -> Store:
        return self._repository.store()

    @cached_property
    def _selection(self) -> "Selection":
        from git_gru.git.selection import Selection

        return Selection.of(self._repository)

    def _offer_hooks(self) -> None:
        """Before the first model: a push from here needs them, and nothing else brings them into a clone."""
        if self._hooks_offered:
            return
        self._hooks_offered = True
        if is_settled(self._repository):
            return
        self._repository.require_sha1()
        try:
            for change in offer(self._repository):
                if change.kept is not None:
                    self._reporter.warn(
                        "",
                        f"the hook {change.path.name} that stood here is called first now, from {change.kept}",
                    )
        except GruError as error:
            self._reporter.failed("", error)
        except OSError:
            return  # a Git folder that cannot be written is no reason not to filter

    def answer(self) -> None:
        """Reads one command with its content and answers it."""
        request = dict(line.partition("=")[::2] for line in self._reader.lines())
        if request.get("command") == "list_available_blobs":
            self._list_available()
            return
        path = request.get("pathname", "")
        content = self._reader.content()
        commands: dict[str, Callable[[str, Content, bool], Iterable[Buffer] | None]] = {
            "clean": self._clean,
            "smudge": self._smudge,
        }
        try:
            command = commands.get(request.get("command", ""))
            if command is None:
                raise ProtocolError(f"unknown command {request.get('command')!r}")
            answer = command(path, content, "can-delay" in request)
            content.drain()
            if answer is None:
                self._writer.lines("status=delayed")
                return
            pieces = iter(answer)
            first = next(pieces, b"")
        except (EndOfStreamError, BrokenPipeError):
            raise
        except Exception as error:
            self._told.append(error)
            self._reporter.failed(path, _with_commit(error, request.get("treeish", "")))
            content.drain()
            self._writer.lines("status=error")
            return
        self._writer.lines("status=success")
        try:
            self._writer.content(_chain(first, pieces))
        except BrokenPipeError:
            raise
        except Exception as error:
            self._told.append(error)
            self._reporter.failed(path, error)
            self._writer.flush()
            self._writer.lines("status=error")
            return
        self._writer.flush()
        self._writer.lines()  # the status stands

    def finish(self) -> tuple[Repository, Store] | None:
        """Git has closed the pipe. Returns where models were put, if any were."""
        for failure in self.wait():
            if failure not in self._told:
                self._reporter.failed("", failure)
        if self._cleaned is not None:
            self._cleaned.settle()
        return (self._repository, self._store) if self._cleaned is not None or self._arrivals else None

    def wait(self) -> list[Exception]:
        """Waits for what is on its way; returns what went wrong with it."""
        failures = [arrival.wait() for arrival in self._arrivals]
        return [failure for failure in failures if failure is not None]

    def _list_available(self) -> None:
        """Answers with the paths of the delayed files, whose models are on their way by then; at last with none."""
        paths = list(self._delayed)
        if paths:
            arrival = self._bring(list(self._delayed.values()))
            self._ready.update((path, (manifest, arrival)) for path, manifest in self._delayed.items())
            self._delayed.clear()
        self._writer.lines(*(f"pathname={path}" for path in paths))
        self._writer.lines("status=success")

    def _bring(self, manifests: Sequence[Manifest]) -> "Arrival":
        """Begins to bring models, when those that were to be brought before are here."""
        from git_gru.git.sources import sources  # with them come subprocesses, which most filters never start
        from git_gru.store.arrival import Arrival
        from git_gru.store.bring import bring

        self.wait()
        progress = self._reporter.bringing(len(manifests), sum(manifest.size for manifest in manifests))
        store, remotes = self._store, sources(self._repository, self._store)

        def work(found: "Found") -> None:
            bring(store, remotes, manifests, progress, found)

        self._arrivals.append(Arrival(store, work))
        return self._arrivals[-1]

    def _clean(self, path: str, content: Content, can_delay: bool) -> Iterable[Buffer]:
        head = _take(content, MAX_PAYLOAD)
        if not head:
            return ()
        self._offer_hooks()
        if is_manifest(head):
            data = _whole_manifest(head, content, path)
            manifest = parse_manifest(data, where=path)
            with self._store.locked(alone=False):  # not while a collector decides by the stamps what goes
                self._store.stamps.stamp(manifest.digest, data)
            return (data,)
        self._cleaned = self._cleaned or Cleaned(self._repository, self._store)
        result = ingest(
            self._store, _Prefixed(head, content), expect_safetensors=path.endswith(".safetensors")
        )
        if result.warning is not None:
            reason = result.warning.removeprefix("the file: ")
            self._reporter.warn(path, f"kept as raw bytes, because it is no valid safetensors file: {reason}")
        text = result.manifest.encode()
        self._cleaned.add(result, text)
        return (text,)

    def _smudge(self, path: str, content: Content, can_delay: bool) -> Iterable[Buffer] | None:
        """The file's bytes; None for one that is delayed."""
        head = _take(content, MAX_PAYLOAD)
        if not head and path in self._ready:
            delayed, arrival = self._ready.pop(path)
            self._offer_hooks()  # now, as there is time until the first chunks are here
            return arrival.restore(delayed)
        if not is_manifest(head):
            return self._spooled(head, content)
        data = _whole_manifest(head, content, path)
        manifest = None if self._skip_smudge else parse_manifest(data, where=path)
        is_here = manifest is not None and self._store.has_model(manifest.digest)
        if manifest is not None and can_delay and not is_here and self._selection.allows(path):
            self._delayed[path] = manifest
            return None
        self._offer_hooks()
        if manifest is None or not (is_here or self._selection.allows(path)):
            return (data,)
        return restore(self._store, manifest) if is_here else self._bring([manifest]).restore(manifest)

    def _spooled(self, head: bytes, content: Content) -> Iterable[Buffer]:
        """The content itself, kept in memory while it is small and in an unnamed file when it is not."""
        rest = _take(content, _IN_MEMORY)
        if len(rest) < _IN_MEMORY:
            return (head, rest)
        import tempfile  # rarely needed, and start-up time is felt

        # The Git folder and not the system's: /tmp is often a file system in memory
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(dir=self._repository.git_dir))
            file.write(head)
            file.write(rest)
            view = memoryview(bytearray(PIPE_BYTES))
            while count := content.readinto(view):
                file.write(view[:count])
            file.seek(0)
            return _pieces_of(file, stack.pop_all())


def _pieces_of(file: BinaryIO, resources: contextlib.ExitStack) -> Iterator[bytes]:
    with resources:
        while piece := file.read(PIPE_BYTES):
            yield piece


class _Prefixed:
    """A source that gives `head`, which was read already, before the rest of a content."""

    def __init__(self, head: bytes, rest: Content) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readinto(self, view: memoryview, /) -> int:
        """As `Content.readinto`."""
        count = min(len(view), len(self._head))
        view[:count] = self._head[:count]
        self._head = self._head[count:]
        return count + (self._rest.readinto(view[count:]) if count < len(view) else 0)


def _whole_manifest(head: bytes, content: Content, path: str) -> bytes:
    """`head` and all that follows it; raises `StoreError` when that is too much to be a manifest."""
    data = head + _take(content, _MANIFEST_LIMIT)
    if len(data) > _MANIFEST_LIMIT:
        raise StoreError(f"{path} begins like a manifest and is over {_MANIFEST_LIMIT >> 20} MiB long")
    return data


def _take(content: Content, limit: int) -> bytes:
    """At most `limit` bytes of `content`; fewer only at its end."""
    taken = bytearray()
    while len(taken) < limit:
        piece = bytearray(min(limit - len(taken), PIPE_BYTES))
        count = content.readinto(memoryview(piece))
        taken += memoryview(piece)[:count]
        if count < len(piece):
            break
    return bytes(taken)


def _chain(first: Buffer, rest: Iterator[Buffer]) -> Iterator[Buffer]:
    yield first
    yield from rest


def _with_commit(error: Exception, treeish: str) -> Exception:
    """The error, saying which commit (or tree) Git is checking out, where a model of it is missing."""
    if not (isinstance(error, ModelMissingError) and treeish):
        return error
    return ModelMissingError(f"{error}; needed for {treeish[:10]}", hint=error.hint, digests=error.digests)
