"""The manifest (format 1): the small canonical text that Git's tree holds in a model's place.

It is a function of the file's bytes alone: never a date, a commit, a base or a path. One tensor a line, so that plain
`git diff` names the tensors that changed. `digest` is the BLAKE3 of everything behind its line: an edit by hand is noticed, and
a textual merge of two changed manifests conflicts instead of mixing tensors into a model that nobody stored.

The reader is strict: it accepts exactly what `Manifest.encode` writes.
"""

import json
import re
from functools import cached_property
from json.encoder import (
    encode_basestring,
    encode_basestring_ascii,
)  # what json.dumps makes of a string, several times as fast
from typing import Any, NamedTuple, NoReturn

from git_gru.errors import StoreError
from git_gru.formats.dtypes import DTYPES
from git_gru.formats.safetensors import MAX_SIZE
from git_gru.ids import digest, is_id
from git_gru.store.chunks import CHUNK_BYTES, cut_lengths

FORMAT = 1
PREFIX = b'{"git-gru": '
MAX_MANIFEST = 1 << 26
"""Longest manifest that is read, in bytes: a model of 4 TB."""

_HEAD = re.compile(rb'\{"git-gru": %d,\n"digest": "([0-9a-f]{64})",\n' % FORMAT)
_QUOTED = '"%s"'
_HINT = "restore the file from a commit (`git checkout REV -- PATH`); a manifest is never edited or merged by hand"


class ManifestError(StoreError):
    """A manifest that is not one that git-gru wrote; the sentence names where it stands and what is wrong."""


class TensorEntry(NamedTuple):
    """One tensor of a manifest: its dtype, its shape, and its chunks' ids in order."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Length of the tensor's data in bytes; for an unknown dtype, the most that its chunks can hold."""
        known = DTYPES.get(self.dtype)
        if known is None:
            return CHUNK_BYTES * len(self.chunks)
        bits = known.bits
        for n in self.shape:
            # beyond every limit: a hostile shape must not cost more than its length
            bits = min(bits * n, 16 * MAX_SIZE)
        return bits // 8


class Manifest:
    """A file's description: `size` in bytes, and either `header` and `tensors` (in file order) or `raw` chunks.

    Not to be changed once made; two are equal when their texts are. (No dataclass: what a filter imports is felt on every
    `git add`.)
    """

    def __init__(
        self,
        size: int,
        header: str | None,
        tensors: dict[str, TensorEntry] | None = None,
        raw: tuple[str, ...] | None = None,
    ) -> None:
        self.size = size
        self.header = header
        self.tensors = tensors or {}
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Manifest({self.digest[:12]}, {self.size} bytes, {len(self.tensors)} tensors)"

    @property
    def is_raw(self) -> bool:
        """Whether the file is kept as raw chunks, not as tensors."""
        return self.raw is not None

    @cached_property
    def digest(self) -> str:
        """The id under which the store keeps this model."""
        return digest(self._body)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return b'{"git-gru": %d,\n"digest": "%s",\n' % (FORMAT, self.digest.encode()) + self._body

    def chunks(self) -> list[str]:
        """The ids of all chunks in file order, with repetitions."""
        if self.raw is not None:
            return list(self.raw)
        ids = [self.header] if self.header else []
        for entry in self.tensors.values():
            ids.extend(entry.chunks)
        return ids

    def chunk_lengths(self) -> dict[str, int]:
        """Chunk id → raw bytes, for all chunks of the model, in file order.

        A manifest does not tell everything: of a raw file, the bytes are spread evenly; of a tensor of an unknown dtype, the
        last chunk counts in full.
        """
        if self.raw is not None:
            count = len(self.raw)
            return {
                id: self.size * (n + 1) // count - self.size * n // count for n, id in enumerate(self.raw)
            }
        data = sum(entry.nbytes for entry in self.tensors.values())
        lengths = {self.header: max(0, self.size - data)} if self.header else {}
        for entry in self.tensors.values():
            lengths.update(zip(entry.chunks, cut_lengths(entry.nbytes), strict=False))
        return lengths

    @cached_property
    def _body(self) -> bytes:
        lines = [f'"size": {self.size},']
        if self.raw is not None:
            lines += ['"raw": [', ",\n".join(f'"{id}"' for id in self.raw), "]}"]
        else:
            entries = ",\n".join(
                f'{encode_basestring(name)}: {{"dtype": {encode_basestring_ascii(entry.dtype)}, '
                f'"shape": [{", ".join(map(str, entry.shape))}], "chunks": [{", ".join(_QUOTED % id for id in entry.chunks)}]}}'
                for name, entry in self.tensors.items()
            )
            lines += [f'"header": "{self.header}",', '"tensors": {', entries, "}}"]
        return ("\n".join(line for line in lines if line) + "\n").encode()


def is_manifest(data: bytes | bytearray | memoryview) -> bool:
    """Whether `data` begins as a manifest does (of this or a later format)."""
    return bytes(data[: len(PREFIX)]) == PREFIX


def stated_digest(data: bytes) -> str | None:
    """The digest that a manifest of this format states, where the rest of it has that digest; else None.

    For those who look through many: what it says beyond that is not checked.
    """
    found = _HEAD.match(data)
    if found is None or digest(memoryview(data)[found.end() :]) != found[1].decode():
        return None
    return found[1].decode()


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Reads a manifest. Raises `ManifestError` for everything but the bytes that `Manifest.encode` writes."""
    if not is_manifest(data):
        _refuse(where, "is not a manifest")
    if len(data) > MAX_MANIFEST:
        _refuse(where, f"is longer than {MAX_MANIFEST} bytes")
    if b"\n<<<<<<< " in data or b"\n>>>>>>> " in data:
        _refuse(where, "holds conflict markers: it was merged as text, without git-gru's merge driver")
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(where, f"is not JSON: {error}")
    if not isinstance(fields, dict) or type(fields.get("git-gru")) is not int:
        _refuse(where, 'has no version in "git-gru"')
    if fields["git-gru"] != FORMAT:
        raise ManifestError(
            f"{where}: the manifest has format {fields['git-gru']}, this git-gru reads format {FORMAT}",
            hint="install a newer git-gru",
        )
    size = fields.get("size")
    if type(size) is not int or not 0 < size <= MAX_SIZE:
        _refuse(where, 'names no valid "size"')
    if "raw" in fields:
        manifest = Manifest(size, None, raw=_ids(fields["raw"], where, '"raw"'))
        if not manifest.raw:
            _refuse(where, '"raw" names no chunk')
    else:
        manifest = _parse_tensors(fields, size, where)
    try:
        canonical = fields.get("digest") == manifest.digest and manifest.encode() == data
    except UnicodeEncodeError:
        canonical = False  # JSON may spell half of a surrogate pair, which no manifest holds
    if not canonical:
        _refuse(where, "was changed after git-gru wrote it (its digest does not fit)")
    return manifest


def _parse_tensors(fields: dict[str, Any], size: int, where: str) -> Manifest:
    tensors = fields.get("tensors")
    if not is_id(fields.get("header")) or not isinstance(tensors, dict):
        _refuse(where, 'names neither "raw" nor "header" and "tensors"')
    entries: dict[str, TensorEntry] = {}
    known = 0
    for name, entry in tensors.items():
        place = f"tensor {name!r}"
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if not isinstance(dtype, str) or not dtype.isascii() or not 0 < len(dtype) <= 32:
            _refuse(where, f"{place}: no dtype")
        shape = entry.get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= MAX_SIZE for n in shape):
            _refuse(where, f"{place}: the shape is not a list of natural numbers")
        parsed = TensorEntry(dtype, tuple(shape), _ids(entry.get("chunks"), where, place))
        if parsed.dtype in DTYPES:
            nbytes = parsed.nbytes
            known += nbytes
            if len(parsed.chunks) != -(-nbytes // CHUNK_BYTES):
                _refuse(where, f"{place}: {len(parsed.chunks)} chunks do not fit its shape")
        entries[name] = parsed
    if known > size:
        _refuse(where, f'"size" {size} is less than the tensors take')
    return Manifest(size, fields["header"], entries)


def _ids(value: object, where: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(is_id(id) for id in value):
        _refuse(where, f"{place}: the chunks are not a list of ids")
    return tuple(value)


def _refuse(where: str, why: str) -> NoReturn:
    raise ManifestError(f"{where}: the manifest {why}", hint=_HINT)
