"""A Git repository as a remote of the store: any host that Git can fetch from and push to, with nothing installed there.

The hub's `refs/gru/store` is the state. Git does the transport, run in the store with the user's own credentials and settings
(`transport_environment`): a state comes by a shallow fetch without model trees and blobs, trees and blobs come by their names,
many a request, and a new state goes by an ordinary push, whose fast-forward rule is the compare-and-swap. (Sources: git-fetch(1)
and git-clone(1) on partial clones, git-push(1), gitprotocol-v2(5).)

There are two roads: over http git-gru asks the hub itself (`upload_pack`), which is faster; what does not come so `git fetch`
brings, or says why it cannot. Whether an address may be used at all (`protocol.allow`) is Git's decision on either: its helper
refuses what is forbidden. A state of which an earlier one is known comes by `git fetch` alone, which asks for the difference.

The settings that make the hub a *promisor* stand on the command line of each fetch alone: no other command ever fetches a missing
object by itself. `refs/gru/remotes/<name>` remembers the state that was seen last.
"""

import contextlib
import errno
import functools
import os
import re
import weakref
from collections.abc import Callable, Sequence

from git_gru.git.run import Environment, GitMissingError, child_environment
from git_gru.git.seen_state import SeenState
from git_gru.git.transport import shown
from git_gru.git.upload_pack import MOST_WANTS, UploadPack, helper_for, upload_pack
from git_gru.ids import digest
from git_gru.store.chunks import LONGEST_CHUNK
from git_gru.store.codec import MAX_BLOB_HEADER
from git_gru.store.incoming import IncomingError, receive, receive_state
from git_gru.store.pack_reader import LONGEST_OBJECT
from git_gru.store.packs import Kind, no_room
from git_gru.store.remote import RemoteError
from git_gru.store.store import REF, Store
from git_gru.store.trees import ordered_blobs

Tell = Callable[[bytes], None]
"""Takes what git says on stderr while it works."""

_UPPER = 3
"""Levels of a state above its model trees: the root tree, `models`, and its groups."""

_LOOKS = 5
"""How often a state is fetched while a git that outlives the process which started it makes its locks anew."""

_LONGEST: dict[Kind, int] = {"tree": LONGEST_OBJECT, "blob": LONGEST_CHUNK + MAX_BLOB_HEADER}
"""Bytes of the longest model tree, and of the longest stored chunk."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z")
_MOVED = (
    "[rejected]",
    "fetch first",
    "non-fast-forward",
    "failed to update ref",
    "cannot lock ref",
    "failed to lock",
    "incorrect old value",
    "reference already exists",
    "unable to create",
    "remote ref is at",
)
_ABSENT = (
    "does not appear to be a git repository",
    "not found",
    "could not be found",
    "does not exist",
    "denied",
    "could not read username",
    "authentication failed",
    "the requested url returned error: 4",
)
"""What hosts say of a repository that may be there, and is not; many will not tell the one from what one may not see."""

_UNASKED: Environment = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": ""}

_QUICK = (
    # Weights do not compress, and Git would hunt for deltas between them
    *("-c", "core.compression=0", "-c", "pack.compression=0", "-c", "pack.window=0"),
    *("-c", "core.bigFileThreshold=1k", "-c", "core.hooksPath=/dev/null"),
    # The sparse walk takes what stands at another path for new, and would send a model again that has arrived in parts
    *("-c", "pack.useSparse=false"),
    *("-c", "maintenance.auto=false", "-c", "gc.auto=0", "-c", "protocol.version=2"),
    *("-c", "fetch.unpackLimit=1", "-c", "fetch.fsckObjects=false", "-c", "fetch.recurseSubmodules=false"),
)


class GitRemote:
    """The Git repository at `url` (absolute, if it is a path), as a remote of `store`. A `git_gru.store.remote.Remote`.

    `name` is for messages. `optional` says that there may be no repository at `url`, which then has no state. The user, who has
    never named that address, is asked for no password there, and no credential helper is told of it. `plain` says that no setting
    has git replace parts of addresses.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        url: str,
        environment: Environment,
        *,
        optional: bool = False,
        plain: bool = False,
        tell: Tell | None = None,
    ) -> None:
        self.name = shown(name)
        self.url = url
        self._store = store
        self._environment = {**environment, **_UNASKED} if optional else environment
        self._optional = optional
        self._plain = plain
        self._tell = tell
        self._seen = SeenState(store, f"refs/gru/remotes/{_component(name, url)}")
        self._is_direct = True
        self._talk: UploadPack | None = None
        self._open = contextlib.ExitStack()
        weakref.finalize(self, self._open.close)

    def look(self) -> bytes | None:
        """As `Remote.look`."""
        states: list[bytes | None] = []
        # Who may be absent is asked by git, which says why there is nothing
        is_first = not self._optional and self._seen.is_unknown()
        if is_first and self._directly(lambda server: states.append(self._first_state(server))):
            return states[0]
        return self._look_by_git()

    def _look_by_git(self) -> bytes | None:
        with self._seen.alone():
            for _ in range(_LOOKS):
                self._seen.unlock()
                status, said = self._fetch(
                    "--depth=1", f"--filter=tree:{_UPPER}", wanted=[f"+{REF}:{self._seen.ref}"]
                )
                if status == 0:
                    self._seen.trim(self._reached)
                    return self._seen.read()
                if ".lock': File exists" not in said:
                    break
        missing = f"couldn't find remote ref {REF}" in said
        if missing or (self._optional and any(text in said.lower() for text in _ABSENT)):
            return None
        raise self._error("cannot be read", said)

    def trees(self, oids: Sequence[bytes]) -> None:
        """As `Remote.trees`."""
        self._objects(oids, "tree")

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        """As `Remote.models`."""

        def ask(server: UploadPack) -> None:
            self._receive(server, trees, "tree")
            self._receive(server, ordered_blobs(self._store.objects, trees, chunks), "blob")

        if not self._directly(ask):
            self._by_git(self._store.objects.absent(trees), "--no-filter")
            self._by_git(self._store.objects.absent(ordered_blobs(self._store.objects, trees, chunks)))

    def blobs(self, oids: Sequence[bytes]) -> None:
        """As `Remote.blobs`."""
        self._objects(oids, "blob")

    def move(self, new: bytes, old: bytes | None, *, replace: bool = False, shared: bool = True) -> bool:
        """As `Remote.move`.

        Git has a quick way to find what a remote lacks (`pack.useSparse`), which compares trees at the same paths: it sends again
        what other models have.
        """
        import tempfile  # with it much else, which a clone does without

        lease = (f"--force-with-lease={REF}:{old.hex()}",) if replace and old is not None else ()
        with tempfile.NamedTemporaryFile(dir=self._store.folder, prefix="shallow-") as shallow:
            # Of the commits whose history is not here this push has to do with one; to hear of others puts a server off
            shallow.write(f"{old.hex()}\n".encode() if old is not None else b"")
            shallow.flush()
            status, said = self._git(
                *_QUICK, "-c", f"pack.useSparse={str(not shared).lower()}", *self._as_remote(), "push", self._progress(),
                "--no-verify", "--recurse-submodules=no", *lease, "gru", f"{new.hex()}:{REF}", GIT_SHALLOW_FILE=shallow.name,
            )  # fmt: skip
        if status == 0:
            self._remember(new)
            return True
        if any(text in said.lower() for text in _MOVED):
            return False
        raise self._error("does not take the models", said)

    def _remember(self, state: bytes) -> None:
        with self._seen.alone():
            self._git("update-ref", "--no-deref", self._seen.ref, state.hex())

    def _objects(self, oids: Sequence[bytes], kind: Kind) -> None:
        if not oids:
            return
        if not self._directly(lambda server: self._receive(server, oids, kind)):
            self._by_git(self._store.objects.absent(oids))

    def _directly(self, ask: Callable[[UploadPack], None]) -> bool:
        """Whether `ask` got all that it asks for from the hub's upload-pack itself; what did not come is left to `git fetch`.

        The conversation lasts as long as this object, or to its first error.
        """
        if not (self._is_direct and self._server is not None):
            return False
        try:
            if self._talk is None:
                git = ("git", "--git-dir", str(self._store.repository), *_QUICK, *self._as_remote())
                self._talk = self._open.enter_context(upload_pack(git, *self._server, self._environment))
            ask(self._talk)
        except BaseException as error:
            self._open.close()
            self._is_direct, self._talk = False, None
            if not isinstance(error, IncomingError):
                raise
        return self._is_direct

    def _first_state(self, server: UploadPack) -> bytes | None:
        """The state, in the conversation in which the rest is asked for; None where there is none."""
        state = server.reference(REF)
        if state is not None:
            ends, pieces = server.state(state, _UPPER)
            receive_state(pieces, self._store.repository / "objects/pack", state, longest=LONGEST_OBJECT)
            self._seen.note(state, ends)
        return state

    @functools.cached_property
    def _server(self) -> tuple[str, str] | None:
        """The helper that goes to the hub's upload-pack, and the address that Git makes of `url`; None where there is no such."""
        if self._plain:
            helper = helper_for(self.url)
            return (helper, self.url) if helper is not None else None
        status, said = self._git(*self._as_remote(), "ls-remote", "--get-url", "gru")
        url = said.strip()
        helper = helper_for(url)
        return (helper, url) if status == 0 and helper is not None else None

    def _receive(self, server: UploadPack, oids: Sequence[bytes], kind: Kind) -> None:
        folder, wanted = self._store.repository / "objects/pack", list(dict.fromkeys(oids))
        for at in range(0, len(wanted), MOST_WANTS):
            asked = wanted[at : at + MOST_WANTS]
            pieces = server.pack(asked, alone=kind == "tree")
            came = self._store.objects.has_come
            receive(pieces, folder, asked, kind=kind, longest=_LONGEST[kind], came=came)

    def _by_git(self, oids: Sequence[bytes], filter: str = "--filter=blob:none") -> None:
        names = "".join(f"{oid.hex()}\n" for oid in dict.fromkeys(oids)).encode()
        if not names:
            return
        alone = ("-c", "fetch.negotiationAlgorithm=noop")
        status, said = self._fetch(filter, "--stdin", settings=alone, input=names)
        if status != 0:
            raise self._error("does not give what it should have", said)

    def _fetch(
        self, *options: str, wanted: Sequence[str] = (), settings: Sequence[str] = (), input: bytes = b""
    ) -> tuple[int, str]:
        promised = ("-c", "remote.gru.promisor=true", "-c", "remote.gru.partialclonefilter=blob:none")
        return self._git(
            *_QUICK, *promised, *settings, *self._as_remote(), "fetch", self._progress(), "--no-tags",
            "--no-write-fetch-head", "--no-auto-maintenance", "--recurse-submodules=no", *options, "gru", *wanted,
            input=input,
        )  # fmt: skip

    def _reached(self) -> list[str] | None:
        status, reached = self._git("rev-list", "--all")
        return reached.split() if status == 0 else None

    def _as_remote(self) -> tuple[str, ...]:
        url = ("-c", f"remote.gru.url={self.url}")
        return (*url, "-c", "credential.helper=") if self._optional else url

    def _progress(self) -> str:
        return "--progress" if self._tell is not None else "--quiet"

    def _git(self, *arguments: str, input: bytes = b"", **variables: str) -> tuple[int, str]:
        """(exit status, what was said) of `git ARGUMENTS` in the store, with more environment `variables`."""
        import subprocess
        import threading

        try:
            process = subprocess.Popen(
                ["git", "--git-dir", str(self._store.repository), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=child_environment({**self._environment, **variables}),
            )
        except FileNotFoundError:
            raise GitMissingError from None
        assert process.stdin is not None and process.stdout is not None
        source = process.stdin

        def feed() -> None:
            with contextlib.suppress(BrokenPipeError):
                source.write(input)
            with contextlib.suppress(BrokenPipeError):
                source.close()

        with process:
            feeder = threading.Thread(target=feed)
            feeder.start()
            said = bytearray()
            while piece := process.stdout.read1(4096):  # type: ignore[attr-defined]
                said += piece
                if self._tell is not None:
                    self._tell(piece)
            feeder.join()
        return process.returncode, said.decode("utf-8", "replace")

    def _error(self, what: str, said: str) -> Exception:
        lines = [line.strip() for line in said.replace("\r", "\n").splitlines()]
        if any(os.strerror(errno.ENOSPC) in line for line in lines if not line.startswith("remote: ")):
            return no_room(OSError(errno.ENOSPC, ""), self._store.folder)
        told = [
            line.partition(": ")[2] if line.startswith(("fatal: ", "error: ")) else line
            for line in lines
            if line.startswith(("fatal: ", "error: ", "remote: ", "!", "ssh: ", "Permission denied"))
        ]
        return RemoteError(
            f"the remote {self.name} ({shown(self.url)}) {what}: {'; '.join(told) or said.strip() or 'git failed'}",
            hint=_hint(said),
        )


def _hint(said: str) -> str | None:
    if "unadvertised object" in said:
        return "The server must give objects by name: git config uploadpack.allowAnySHA1InWant true, on the server"
    if "Authentication failed" in said or "Permission denied" in said or "could not read Username" in said:
        return "Check that a plain `git fetch` from there works; git-gru uses the same credentials"
    return None


def _component(name: str, url: str) -> str:
    """`name` as one component of a reference's name; for one that cannot be it, a digest."""
    good = _NAME.match(name) and ".." not in name and not name.endswith((".lock", "."))
    return name if good else f"url-{digest(f'{name} {url}'.encode())[:16]}"
