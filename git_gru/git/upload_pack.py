"""Asking a Git server for objects by their names without `git fetch`: git-gru is the client, Git's remote helper the road.

`git fetch` hashes what comes several times, by a SHA-1 made to be safe rather than fast: it takes in 100 MB/s. Here the same
server (`git upload-pack`) is asked in the same protocol (version 2, `command=fetch`), and its pack goes to
`store/incoming.py`. The helper (`git remote-https`, by its command `stateless-connect`) does what concerns the way there:
credentials, proxies, certificates and redirections are those of any `git fetch`.

Sources: gitremote-helpers(7), gitprotocol-v2(5), gitprotocol-pack(5) on the side-band.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from git_gru.git.pktline import (
    DELIMITER,
    FLUSH,
    RESPONSE_END,
    EndOfStreamError,
    PacketReader,
    ProtocolError,
)
from git_gru.git.run import Environment, GitMissingError, child_environment, widen
from git_gru.ids import Buffer
from git_gru.store.incoming import IncomingError

MOST_WANTS = 1 << 14
"""Most objects that are asked for in one request: less than the megabyte that Git's helper sends in one piece."""

_HELPERS = {"http": "remote-http", "https": "remote-https"}
_MOST_LINES = 1000
"""Most lines that a server may say of itself, or before it sends a pack."""

_AT_ONCE = 1 << 18
_DATA, _PROGRESS = 1, 2
_OBJECT_ID = re.compile(rb"[0-9a-f]{40}")


def helper_for(url: str) -> str | None:
    """Git's helper that goes to a server's upload-pack at `url`, as a command of git; None for an address of another kind."""
    return _HELPERS.get(url.partition("://")[0]) if "://" in url else None


@contextlib.contextmanager
def upload_pack(
    git: Sequence[str], helper: str, url: str, environment: Environment
) -> Iterator["UploadPack"]:
    """The upload-pack at `url`, reached by `helper` of the program and settings `git`, for as long as the context lasts.

    Raises `IncomingError` where it cannot be spoken to.
    """
    import subprocess

    try:
        process = subprocess.Popen(
            [*git, helper, "gru", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(environment),
            bufsize=_AT_ONCE,
        )
    except FileNotFoundError:
        raise GitMissingError from None
    requests, answers = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
    widen(answers.fileno())
    with process:
        try:
            yield UploadPack(requests, answers)
        finally:
            process.terminate()  # it waits for a request, or is in the middle of an answer that nobody wants
            for pipe in (requests, answers):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class UploadPack:
    """A conversation with an upload-pack. Made by `upload_pack`; after an error it is over."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._packets = PacketReader(answers)
        with _told_as_incoming():
            requests.write(b"stateless-connect git-upload-pack\n")
            requests.flush()
            # Of a server that speaks another version Git's helper says `fallback`
            if answers.read(1) != b"\n":
                raise IncomingError("the server cannot be spoken to in Git's protocol of version 2")
            said = dict(line.partition(b"=")[::2] for line in self._lines(FLUSH))
        self._said = said
        self._fetch = said.get(b"fetch", b"").split()
        if b"version 2" not in said or b"fetch" not in said:
            raise IncomingError("the server does not speak Git's protocol of version 2")
        if (format := said.get(b"object-format", b"sha1")) != b"sha1":
            raise IncomingError(f"the server names its objects by {format!r}")
        self._capabilities = [b"object-format=sha1"] if b"object-format" in said else []

    def pack(self, oids: Sequence[bytes], *, alone: bool) -> Iterator[Buffer]:
        """Asks for at most `MOST_WANTS` objects; gives the pack that holds them as it comes, in pieces.

        `alone` asks for trees without the blobs that they name. Raises `IncomingError`.
        """
        if alone and b"filter" not in self._fetch:
            raise IncomingError("the server sends no tree without its blobs")
        with _told_as_incoming():
            self._ask_for(oids, *([b"filter blob:none"] if alone else []))
            yield from self._pieces()

    def reference(self, name: str) -> bytes | None:
        """The object that a reference of the server names, or None. Raises `IncomingError`."""
        if b"ls-refs" not in self._said:
            raise IncomingError("the server lists no references")
        with _told_as_incoming():
            self._ask(b"ls-refs", b"ref-prefix " + name.encode())
            lines = [line.split(b" ") for line in self._lines(FLUSH)]
            self._end()
        found = [words[0] for words in lines if words[1:2] == [name.encode()]]
        return _object_id(found[0]) if found else None

    def state(self, commit: bytes, depth: int) -> tuple[list[bytes], Iterator[Buffer]]:
        """Asks for a commit without its history, and for what is less than `depth` below it.

        Gives the commits that the server has cut off from their parents, and the pack as it comes. Raises `IncomingError`.
        """
        if not {b"filter", b"shallow"} <= set(self._fetch):
            raise IncomingError("the server sends no part of a history")
        with _told_as_incoming():
            told = self._ask_for([commit], b"deepen 1", b"filter tree:%d" % depth)
        ends = [_object_id(line.removeprefix(b"shallow ")) for line in told if line.startswith(b"shallow ")]
        return ends, self._told_pieces()

    def _told_pieces(self) -> Iterator[Buffer]:
        with _told_as_incoming():
            yield from self._pieces()

    def _ask_for(self, oids: Sequence[bytes], *options: bytes) -> list[bytes]:
        """Asks for objects; returns the lines that come before the pack."""
        self._ask(
            b"fetch", b"no-progress", *options, *(b"want " + oid.hex().encode() for oid in oids), b"done"
        )
        lines = self._lines(b"packfile")
        if b"packfile" not in lines:
            raise IncomingError("the server sends no pack")
        return lines

    def _ask(self, command: bytes, *arguments: bytes) -> None:
        lines = [b"command=" + command, *self._capabilities, DELIMITER, *arguments]
        self._requests.write(b"".join(map(_packet, lines)) + FLUSH)
        self._requests.flush()

    def _end(self) -> None:
        if self._packets.packet() != (RESPONSE_END, True):
            raise IncomingError("the server's answer does not end where it should")

    def _pieces(self) -> Iterator[Buffer]:
        """What comes in the side-band of data, up to the end of the answer."""
        while True:
            payload, is_mark = self._packets.packet()
            if is_mark and payload == FLUSH:
                self._end()
                return
            band = 0 if is_mark or not payload else payload[0]
            if band == _DATA:
                yield memoryview(payload)[1:]
            elif band != _PROGRESS:
                raise IncomingError(
                    f"the server breaks off: {payload[1:].decode('utf-8', 'replace').strip()}"
                )

    def _lines(self, end: bytes) -> list[bytes]:
        """The lines up to the one, or the mark, that is `end`, this line included."""
        found: list[bytes] = []
        while len(found) < _MOST_LINES:
            payload, is_mark = self._packets.packet()
            line = payload.removesuffix(b"\n")
            if line.startswith(b"ERR "):
                raise IncomingError(f"the server refuses: {line[4:].decode('utf-8', 'replace')}")
            if not is_mark:
                found.append(line)
            if line == end:
                return found
            if is_mark and payload != DELIMITER:
                break
        raise IncomingError("the server says something else than it should")


def _object_id(text: bytes) -> bytes:
    """The object that the server names so."""
    if not _OBJECT_ID.fullmatch(text):
        raise IncomingError(f"the server names an object {text[:80]!r}")
    return bytes.fromhex(text.decode())


def _packet(line: bytes) -> bytes:
    return line if line == DELIMITER else b"%04x%b\n" % (len(line) + 5, line)


@contextlib.contextmanager
def _told_as_incoming() -> Iterator[None]:
    """Raises `IncomingError` for a helper that has ended, or that does not speak as it should."""
    try:
        yield
    except (EndOfStreamError, ProtocolError, BrokenPipeError) as error:
        raise IncomingError(f"the server cannot be spoken to: {error}") from error
