"""pkt-line: the framing that Git speaks with a long-running filter, and with a server.

A packet is four hex digits (its length, these four included) and up to 65,516 bytes; `0000` is a *flush* and ends a list
or a content. Lists are lines of text (`key=value`), contents are bytes cut at will. A client and a server have two
more marks without a payload. Sources: gitprotocol-common(5), gitprotocol-v2(5), and gitattributes(5), "Long Running Filter
Process".

Copies are what a pipe of gigabytes costs, so contents are read straight into the caller's buffer, and written as a
scatter list of headers and slices of the caller's buffers, many packets a system call.
"""

import os
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from typing import BinaryIO

MAX_PAYLOAD = 65516
FLUSH = b"0000"
DELIMITER = b"0001"
"""Ends a section of a message to or from a server."""
RESPONSE_END = b"0002"
"""Ends what comes of one request through a remote helper."""
_MARKS = (FLUSH, DELIMITER, RESPONSE_END)
_BATCH = 256  # packets a system call: 512 buffers, under the 1,024 that Linux takes (IOV_MAX); some systems take less
_FULL = b"%04x" % (MAX_PAYLOAD + 4)

Buffer = bytes | bytearray | memoryview


class ProtocolError(Exception):
    """The other side does not speak pkt-line: a bug there or here, never something that a user can mend."""


class EndOfStreamError(EOFError):
    """The other side has closed the pipe in the middle of a packet or list."""


class PacketReader:
    """Reads packets from a buffered binary stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def header(self) -> int | None:
        """The payload length of the next packet, None for a flush. Raises `EndOfStreamError` at the end."""
        length = self._length()
        if length == 0:
            return None
        if length < 4:
            raise ProtocolError(f"bad packet length {length}")
        return length - 4

    def packet(self) -> tuple[bytes, bool]:
        """(payload, False) of the next packet, or (`FLUSH`, `DELIMITER` or `RESPONSE_END`, True). Raises `EndOfStreamError`."""
        length = self._length()
        if length < len(_MARKS):
            return _MARKS[length], True
        if not 4 <= length <= MAX_PAYLOAD + 4:
            raise ProtocolError(f"bad packet length {length}")
        payload = self._stream.read(length - 4)
        if len(payload) < length - 4:
            raise EndOfStreamError("the pipe was closed")
        return payload, False

    def _length(self) -> int:
        digits = self._stream.read(4)
        if len(digits) < 4:
            raise EndOfStreamError("the pipe was closed")
        try:
            return int.from_bytes(unhexlify(digits), "big")  # `int` would let signs, spaces and 0x pass
        except ValueError as error:
            raise ProtocolError(f"bad packet length {digits!r}") from error

    def lines(self) -> list[str]:
        """The text packets up to the next flush, without their newlines. Bytes outside UTF-8 become surrogates."""
        found = []
        while (length := self.header()) is not None:
            payload = self._stream.read(length)
            if len(payload) < length:
                raise EndOfStreamError("the pipe was closed")
            found.append(payload.decode("utf-8", "surrogateescape").removesuffix("\n"))
        return found

    def at_end(self) -> bool:
        """Whether the other side has closed the pipe where a new list may begin: the orderly end. Waits for input."""
        peek = getattr(self._stream, "peek", None)
        return peek is not None and not peek(1)

    def content(self) -> "Content":
        """The content that follows, up to its flush."""
        return Content(self, self._stream)


class Content:
    """One content, read as a stream; `readinto` fills the whole buffer that it is given unless the content ends."""

    def __init__(self, packets: PacketReader, stream: BinaryIO) -> None:
        self._packets = packets
        self._stream = stream
        self._left = 0  # of the packet under way
        self._ended = False

    def readinto(self, view: memoryview) -> int:
        """Fills `view` (bytes); returns how many were read, 0 at the end of the content."""
        filled = 0
        while filled < len(view) and self._more():
            count = self._stream.readinto(view[filled : filled + self._left])  # type: ignore[attr-defined]
            if not count:
                raise EndOfStreamError("the pipe was closed")
            filled += count
            self._left -= count
        return filled

    def drain(self) -> None:
        """Reads on to the end: Git writes all of a content before it listens to the answer."""
        scrap = memoryview(bytearray(MAX_PAYLOAD))
        while self.readinto(scrap):
            pass

    def _more(self) -> bool:
        while self._left == 0 and not self._ended:
            length = self._packets.header()
            self._ended = length is None
            self._left = length or 0
        return self._left > 0


class PacketWriter:
    """Writes packets to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def lines(self, *lines: str) -> None:
        """A list: each line a packet, then a flush. No lines: the empty list."""
        packets = [f"{line}\n".encode("utf-8", "surrogateescape") for line in lines]
        self._write([b"".join(b"%04x%b" % (len(packet) + 4, packet) for packet in packets) + FLUSH])

    def content(self, pieces: Iterable[Buffer]) -> None:
        """A content made of `pieces`, without its flush, so that a failure between pieces can still be told."""
        batch: list[Buffer] = []
        for piece in pieces:
            for packet in _packets(piece):
                batch += packet
                if len(batch) >= 2 * _BATCH:
                    self._write(batch)
                    batch = []
            if not isinstance(piece, bytes):  # its owner may fill that buffer anew for the next piece
                self._write(batch)
                batch = []
        self._write(batch)

    def flush(self) -> None:
        """A flush packet."""
        self._write([FLUSH])

    def _write(self, buffers: list[Buffer]) -> None:
        """All of `buffers`, whatever part of them each system call takes."""
        while buffers:
            written = os.writev(self._descriptor, buffers)
            done = 0
            while done < len(buffers) and written >= len(buffers[done]):
                written -= len(buffers[done])
                done += 1
            buffers = buffers[done:]
            if buffers and written:
                buffers[0] = memoryview(buffers[0])[written:]


def _packets(piece: Buffer) -> Iterator[tuple[Buffer, Buffer]]:
    """`(header, payload)` of each packet of `piece`; payloads are slices of it, none is copied."""
    view = memoryview(piece).cast("B")
    whole = len(view) - len(view) % MAX_PAYLOAD
    for start in range(0, whole, MAX_PAYLOAD):
        yield _FULL, view[start : start + MAX_PAYLOAD]
    if whole < len(view):
        yield b"%04x" % (len(view) - whole + 4), view[whole:]
