"""A run's numbers as a TensorBoard event file, without TensorBoard.

An event file is a row of TFRecords (length, CRC of the length, data, CRC of the data; CRC-32C, masked), each the bytes of an
`Event` protocol buffer; of that message only what scalars need is written:

    Event    { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
    Summary  { repeated Value value = 1; }      Value { string tag = 1; float simple_value = 2; }

After a rollback a `SessionLog` of status START tells readers to forget the steps from there on. Sources: TensorFlow's
core/lib/io/record_writer.cc, core/util/event.proto, core/framework/summary.proto.
"""

import re
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from git_gru.runs.metrics import Event

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def _table() -> tuple[int, ...]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        values.append(value)
    return tuple(values)


_TABLE = _table()


class TensorBoardWriter:
    """Appends a run's events to a new file in `folder`, which is made; a context manager. Raises OSError."""

    def __init__(self, folder: Path, started: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
        number = 0
        while (path := folder / f"events.out.tfevents.{int(started)}.{host}.{number}").exists():
            number += 1
        self._file: BinaryIO = path.open("xb")
        self._write(_number(1, started) + _text(3, _VERSION))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, event: Event) -> None:
        """Writes the numbers of an event, one tag each; those of other ranks than 0 under `<name>/rank-<n>`."""
        head = _number(1, event.time) + _whole(2, event.step)
        incident = event.incident
        if incident is not None and incident.back_to is not None:
            restart = _number(1, event.time) + _whole(2, incident.back_to + 1)
            self._write(restart + _text(7, _whole(1, 1)))
            return
        found = {"loss": event.loss, "lr": event.lr, "tokens_per_s": event.tokens_per_s, **event.validation}
        values = b""
        for name, value in found.items():
            if value is not None:
                tag = f"{name}/rank-{event.rank}" if event.rank else name
                values += _text(1, _text(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value))
        if values:
            self._write(head + _text(5, values))

    def _write(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._file.write(length + _crc(length) + data + _crc(data))
        self._file.flush()  # a reader follows


def _crc(data: bytes) -> bytes:
    """The masked CRC-32C of `data`, as TFRecords hold it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _whole(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    """A field of bytes: a text or a message."""
    return _key(field, 2) + _varint(len(value)) + value
