"""Digests: the BLAKE3-256 of bytes, as 64 lower-case hex digits, names chunks and manifests.

Source: https://github.com/BLAKE3-team/BLAKE3-specs
"""

import re

from blake3 import blake3

Buffer = bytes | bytearray | memoryview
HEX_LENGTH = 64
_HEX = re.compile(r"[0-9a-f]{64}\Z")


def digest(data: Buffer) -> str:
    """The id of `data`: 64 hex digits. Releases the GIL on large inputs."""
    return blake3(data).hexdigest()


def is_id(text: object) -> bool:
    """Whether `text` has the form of an id."""
    return isinstance(text, str) and _HEX.match(text) is not None
