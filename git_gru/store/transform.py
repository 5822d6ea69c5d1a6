"""Byte-plane transforms: elements to planes and back, plain or as differences grouped by the base's exponent.

- plain: an element `x` is rotated left by one bit if it is a float, so that its exponent fills the top byte; plane `b` holds
  byte `b` of every element, least significant plane first.
- delta: `d = x - base` on the unsigned bit patterns modulo 2^w, zigzag-folded; the elements are then stably ordered by the top
  byte of the (rotated) base, and split into planes. The decoder knows the base, so the order costs nothing to store; elements
  of one magnitude stand together, where an entropy coder can use it.

The C extension `_transform` does the work without the GIL; the functions here check nothing more than it does. Where it could
not be built, the numpy twins below give the same bytes (`NATIVE` says which is in use).
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from git_gru.ids import Buffer

_c: ModuleType | None
try:
    from git_gru.store import _transform as _c  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError:  # no compiler when it was installed, or a big-endian machine
    _c = None

NATIVE = _c is not None
"""Whether the C extension is in use."""


def keep_memory() -> None:
    """Has this process's allocator keep freed memory, of huge pages where there are any, if the C extension is built and the C
    library can.

    For processes that code many chunks: to be handed fresh pages for every buffer can cost more than coding it. Up to 128 MB
    stay with the process.
    """
    if _c is not None:
        _c.keep_memory()


def split_plain(data: Buffer, width: int, rotated: bool) -> list[bytearray]:
    """The `width` planes of `data`, which holds little-endian elements of `width` bytes (1, 2, 4 or 8)."""
    if _c is None:
        return split_plain_numpy(data, width, rotated)
    planes = tuple(bytearray(len(data) // width) for _ in range(width))
    _c.split_plain(data, width, rotated, planes)
    return list(planes)


def join_plain(planes: Sequence[Buffer], rotated: bool) -> bytearray:
    """The elements whose planes these are: the inverse of `split_plain`."""
    if _c is None:
        return join_plain_numpy(planes, rotated)
    data = bytearray(len(planes) * len(planes[0]))
    _c.join_plain(tuple(planes), len(planes), rotated, data)
    return data


def split_delta(data: Buffer, base: Buffer, width: int, rotated: bool) -> list[bytearray]:
    """The planes of `data` as grouped differences from `base`, which has the same length."""
    if _c is None:
        return split_delta_numpy(data, base, width, rotated)
    planes = tuple(bytearray(len(data) // width) for _ in range(width))
    _c.split_delta(data, base, width, rotated, planes)
    return list(planes)


def join_delta(planes: Sequence[Buffer], base: Buffer, rotated: bool) -> bytearray:
    """The elements whose grouped differences from `base` have these planes: the inverse of `split_delta`."""
    if _c is None:
        return join_delta_numpy(planes, base, rotated)
    data = bytearray(len(base))
    _c.join_delta(tuple(planes), base, len(planes), rotated, data)
    return data


def split_plain_numpy(data: Buffer, width: int, rotated: bool) -> list[bytearray]:
    """`split_plain` by numpy."""
    x = _elements(data, width)
    return _planes(_rotl(x, width) if rotated else x, width)


def join_plain_numpy(planes: Sequence[Buffer], rotated: bool) -> bytearray:
    """`join_plain` by numpy."""
    x = _joined(planes)
    return bytearray((_rotr(x, len(planes)) if rotated else x).tobytes())


def split_delta_numpy(data: Buffer, base: Buffer, width: int, rotated: bool) -> list[bytearray]:
    """`split_delta` by numpy."""
    if len(data) != len(base):
        raise ValueError("data, base and planes do not fit each other")
    x, b = _elements(data, width), _elements(base, width)
    d = x - b
    z = (d << d.dtype.type(1)) ^ (x.dtype.type(0) - (d >> d.dtype.type(8 * width - 1)))
    return _planes(z[_order(b, width, rotated)], width)


def join_delta_numpy(planes: Sequence[Buffer], base: Buffer, rotated: bool) -> bytearray:
    """`join_delta` by numpy."""
    import numpy as np

    width = len(planes)
    b = _elements(base, width)
    if any(len(plane) != b.size for plane in planes):
        raise ValueError("data, base and planes do not fit each other")
    z = np.empty_like(b)
    z[_order(b, width, rotated)] = _joined(planes)
    one = z.dtype.type(1)
    return bytearray((b + ((z >> one) ^ (z.dtype.type(0) - (z & one)))).tobytes())


def _elements(data: Buffer, width: int) -> Any:
    import numpy as np  # here, because the filter starts faster without it when the C extension is present

    if width not in (1, 2, 4, 8) or len(data) % width:
        raise ValueError("data, base and planes do not fit each other")
    return np.frombuffer(data, dtype=f"<u{width}")


def _planes(x: Any, width: int) -> list[bytearray]:
    import numpy as np

    parts = np.ascontiguousarray(x).view(np.uint8).reshape(-1, width)
    return [bytearray(parts[:, b].tobytes()) for b in range(width)]


def _joined(planes: Sequence[Buffer]) -> Any:
    import numpy as np

    parts = np.empty((len(planes[0]), len(planes)), dtype=np.uint8)
    for b, plane in enumerate(planes):
        parts[:, b] = np.frombuffer(plane, dtype=np.uint8)
    return parts.reshape(-1).view(f"<u{len(planes)}")


def _rotl(x: Any, width: int) -> Any:
    return (x << x.dtype.type(1)) | (x >> x.dtype.type(8 * width - 1))


def _rotr(x: Any, width: int) -> Any:
    return (x >> x.dtype.type(1)) | (x << x.dtype.type(8 * width - 1))


def _order(base: Any, width: int, rotated: bool) -> Any:
    import numpy as np

    top = (_rotl(base, width) if rotated else base) >> base.dtype.type(8 * (width - 1))
    return np.argsort(top.astype(np.uint8), kind="stable")
