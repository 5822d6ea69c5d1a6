"""The safetensors header: strict parser, canonical writer, limits.

A file is `N` (8 bytes, little-endian), `N` bytes of JSON (which may end in spaces), then the tensors' bytes. The JSON object
maps each tensor's name to `dtype`, `shape` and `data_offsets` (begin, end; relative to the end of the JSON), and may hold
`__metadata__`, a map of strings. The tensors cover the data without hole or overlap.

The parser refuses what the reference implementation refuses (and names that stand twice), except that it lets dtypes pass
that it does not know: their size cannot be checked against their shape. It raises `HeaderError`, in time and memory
proportional to the header.

Source: https://github.com/huggingface/safetensors (README, "Format").
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from git_gru.errors import InputError
from git_gru.formats.dtypes import DTYPES

MAX_HEADER = 100_000_000
"""Longest JSON accepted, in bytes (the reference implementation's limit)."""

MAX_SIZE = 2**63 - 1
"""Largest file, offset or element count accepted."""

LENGTH_BYTES = 8


class HeaderError(InputError):
    """A safetensors header that does not parse; the sentence names the file and the field."""


class TensorInfo(NamedTuple):
    """One tensor of a header. `begin` and `end` count bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Length of the tensor's data in bytes."""
        return self.end - self.begin


class Header(NamedTuple):
    """A parsed header: tensors in file order, metadata, and `length`, the bytes before the data."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    length: int

    @property
    def file_size(self) -> int:
        """Size in bytes of the whole file."""
        return self.length + (self.tensors[-1].end if self.tensors else 0)


def json_length(prefix: bytes, *, where: str) -> int:
    """The length of the JSON that the first 8 bytes announce. Raises `HeaderError` when it cannot be one."""
    if len(prefix) < LENGTH_BYTES:
        raise HeaderError(f"{where}: too short for a safetensors file ({len(prefix)} bytes)")
    (length,) = struct.unpack("<Q", prefix[:LENGTH_BYTES])
    if length > MAX_HEADER:
        raise HeaderError(f"{where}: the header's length {length} is over the limit of {MAX_HEADER} bytes")
    if length < 2:
        raise HeaderError(f"{where}: the header's length {length} leaves no room for JSON")
    return int(length)


def parse_header(data: bytes, *, file_size: int | None, where: str) -> Header:
    """Parses the leading bytes of a file: `data` holds at least the 8-byte length and the whole JSON.

    `file_size`, where known, must be just what the header describes. Raises `HeaderError`.
    """
    length = json_length(data, where=where)
    text = data[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        raise HeaderError(f"{where}: the header's length {length} goes beyond the end of the file")
    entries = _decode_json(bytes(text), where)
    metadata = _metadata(entries.pop("__metadata__", {}), where)
    tensors = sorted((_tensor(name, entry, where) for name, entry in entries.items()), key=_file_order)
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            what = "overlaps the tensor before it" if tensor.begin < end else "leaves a hole before it"
            _refuse(where, tensor.name, f"data_offsets [{tensor.begin}, {tensor.end}] {what}")
        end = tensor.end
    header = Header(tuple(tensors), metadata, LENGTH_BYTES + length)
    if file_size is not None and file_size != header.file_size:
        what = "truncated" if file_size < header.file_size else "followed by trailing bytes"
        raise HeaderError(
            f"{where}: {what}: the header describes {header.file_size} bytes, the file has {file_size}"
        )
    return header


def write_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The leading bytes of a file whose tensors follow in the order given, padded with spaces to a multiple of 8.

    Each tensor is (name, dtype, shape); dtypes must be known and whole bytes in sum. Metadata keys are sorted, so equal
    input gives equal bytes. Raises `HeaderError` for an unknown dtype, a name that stands twice, and one that UTF-8 cannot write.
    """
    entries: dict[str, Any] = {}
    if metadata:
        entries["__metadata__"] = dict(sorted(metadata.items()))
    end = 0
    for name, dtype, shape in tensors:
        if name in entries or name == "__metadata__":
            _refuse("new header", name, "the name stands twice")
        if not _encodable([name]):
            _refuse("new header", name, "the name holds half of a surrogate pair")
        if dtype not in DTYPES:
            _refuse("new header", name, f"unknown dtype {dtype!r}")
        begin, end = end, end + _data_bytes(dtype, tuple(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _file_order(tensor: TensorInfo) -> tuple[int, int, str]:
    # Empty tensors share their offsets with a neighbour; the name makes the order one and the same everywhere.
    return (tensor.begin, tensor.end, tensor.name)


def _refuse(where: str, name: str, why: str) -> NoReturn:
    raise HeaderError(f"{where}: tensor {name!r}: {why}")


def _decode_json(text: bytes, where: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise HeaderError(f"{where}: the header does not start with '{{'")
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise HeaderError(f"{where}: the header is not UTF-8 (byte {error.start})") from None
    except _DuplicateKey as error:
        raise HeaderError(f"{where}: the name {error.args[0]!r} stands twice in the header") from None
    except RecursionError:
        raise HeaderError(f"{where}: the header nests too deeply") from None
    except ValueError as error:
        raise HeaderError(f"{where}: the header is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise HeaderError(f"{where}: the header is not a JSON object")
    if not _encodable(entries):
        raise HeaderError(f"{where}: a tensor's name holds half of a surrogate pair")
    return entries


def _encodable(strings: Iterable[str]) -> bool:
    # JSON may spell half of a surrogate pair ("\ud800"), which UTF-8 cannot write back.
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKey(key)
            seen.add(key)
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise HeaderError(f"{where}: __metadata__ is not a map of strings")
    if not _encodable([*value.keys(), *value.values()]):
        raise HeaderError(f"{where}: __metadata__ holds half of a surrogate pair")
    return value


def _tensor(name: str, entry: object, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        _refuse(where, name, "dtype, shape or data_offsets is missing")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not dtype.isascii() or not 0 < len(dtype) <= 32:
        _refuse(where, name, "dtype is not a short string")
    if not _naturals(shape):
        _refuse(where, name, "shape is not a list of natural numbers below 2^63")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(where, name, "data_offsets are not two ascending natural numbers below 2^63")
    info = TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1])
    if dtype in DTYPES and info.nbytes != (wanted := _data_bytes(dtype, info.shape, where, name)):
        _refuse(
            where,
            name,
            f"{dtype} of shape {list(shape)} takes {wanted} bytes, data_offsets give {info.nbytes}",
        )
    return info


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)


def _data_bytes(dtype: str, shape: Sequence[int], where: str = "new header", name: str = "") -> int:
    bits = DTYPES[dtype].bits
    for n in shape:
        bits *= n
        if bits > MAX_SIZE * 8:
            _refuse(where, name, f"shape {list(shape)} holds more than 2^63 bytes")
    if bits % 8:
        _refuse(where, name, f"{dtype} of shape {list(shape)} does not fill whole bytes")
    return bits // 8
