"""Raw bytes of a tensor as numpy arrays, and float64 values back as raw bytes with ONE rounding.

A *layout* says how a dtype's bytes are read. Complex numbers are read as their two halves (one "element"
each), which every linear rule and norm allows. A dtype without a layout of numbers (unknown ones, sub-byte
ones, the power-of-two scales of F8_E8M0, which mean nothing apart from the block that they scale) is
*opaque*: its bytes can be compared and nothing else.

Sources: dtype names of https://docs.rs/safetensors; number formats of https://github.com/jax-ml/ml_dtypes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from git_gru.ids import Buffer

Kind = Literal["float", "int", "bool", "opaque"]
Float64 = npt.NDArray[np.float64]
Bits = npt.NDArray[np.unsignedinteger[Any]]

BLOCK = 1 << 17
"""Elements worked on at once: float64 temporaries stay near the processor's cache, and memory bounded, for
1-byte dtypes too."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a dtype are read: as elements of `numpy`, compared as `bits` (unsigned, of the same
    width).
    """

    kind: Kind
    numpy: np.dtype[Any]

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def bits(self) -> np.dtype[Any]:
        """The unsigned integer dtype of the same width."""
        return np.dtype(f"<u{self.width}")


def _layouts() -> dict[str, Layout]:
    floats: dict[str, Any] = {
        "F64": "<f8",
        "F32": "<f4",
        "C64": "<f4",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    }
    ints = {f"{sign}{8 * width}": f"<{sign.lower()}{width}" for sign in "IU" for width in (1, 2, 4, 8)}
    return {
        **{name: Layout("float", np.dtype(code)) for name, code in floats.items()},
        **{name: Layout("int", np.dtype(code)) for name, code in ints.items()},
        "BOOL": Layout("bool", np.dtype("u1")),
    }


LAYOUTS: dict[str, Layout] = _layouts()
_NATIVE = frozenset({"F64", "F32", "C64", "F16"})
_NAMES = {layout.numpy: name for name, layout in LAYOUTS.items() if name not in ("C64", "BOOL")}
_OPAQUE = Layout("opaque", np.dtype("u1"))


def layout_of(dtype: str) -> Layout:
    """The layout of a safetensors dtype; opaque bytes for one that is not known or holds no numbers of its
    own.
    """
    return LAYOUTS.get(dtype, _OPAQUE)


def dtype_name(dtype: np.dtype[Any]) -> str | None:
    """How safetensors names a numpy dtype (of ml_dtypes too); None for one that it does not have."""
    if dtype == np.bool_:
        return "BOOL"
    if dtype == np.complex64:
        return "C64"
    return _NAMES.get(dtype.newbyteorder("<"))


def bits_of(data: Buffer, dtype: str) -> Bits:
    """The elements' bit patterns: a view on `data`, unsigned, 1-d."""
    return np.frombuffer(data, dtype=layout_of(dtype).bits)


def to_float64(bits: Bits, dtype: str) -> Float64:
    """The values of bit patterns (exact for every float and for integers below 2^53). Not for opaque
    dtypes.
    """
    layout = layout_of(dtype)
    if layout.kind == "opaque":
        raise ValueError(f"{dtype} holds no numbers")
    with np.errstate(invalid="ignore"):  # signalling NaNs become quiet ones
        values: Float64 = bits.view(layout.numpy).astype(np.float64)
    return values


def from_float64(values: Float64, dtype: str) -> Bits:
    """The bit patterns of float64 values rounded once, to nearest, ties to even, in a float dtype.

    Too large values become what the dtype has for them: Inf, or NaN where it has no Inf (F8_E4M3).
    """
    layout = layout_of(dtype)
    if layout.kind != "float":
        raise ValueError(f"{dtype} is no float dtype")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if dtype in _NATIVE:
            rounded: npt.NDArray[Any] = values.astype(layout.numpy)
        else:
            # ml_dtypes converts float64 by way of float32, which would round twice.
            rounded = _round_to_odd(values).astype(layout.numpy)
    return rounded.view(layout.bits)


def _round_to_odd(values: Float64) -> npt.NDArray[np.float32]:
    """Rounded to float32 "to odd": an inexact value gets the neighbour whose last bit is 1.

    Rounding that again, to a format that is at least two bits shorter, gives what one rounding would have
    given (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    nearest = values.astype(np.float32)
    bits = nearest.view(np.int32)
    back = nearest.astype(np.float64)
    move = (back != values) & (bits & 1 == 0) & ~np.isnan(values)
    step = np.where(np.abs(values) > np.abs(back), 1, -1).astype(np.int32)
    return np.where(move, bits + step, bits).view(np.float32)


def array_of(data: Buffer, dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """A tensor's bytes as an array of its own numbers; read-only where `data` is.

    Raises ValueError for a dtype that holds no numbers of its own.
    """
    kind = np.dtype("<c8") if dtype == "C64" else layout_of(dtype).numpy
    if layout_of(dtype).kind == "opaque":
        raise ValueError(f"{dtype} holds no numbers")
    array = np.frombuffer(data, dtype=kind).reshape(shape)
    return array.view(np.bool_) if dtype == "BOOL" else array


def npy_header(dtype: str, shape: Sequence[int]) -> bytes:
    """What stands before a tensor's bytes in an .npy file (version 1.0; numpy's own description of the format).

    dtypes that numpy lacks are described as raw elements of their width. Raises ValueError for one that holds no numbers.
    """
    layout = layout_of(dtype)
    if layout.kind == "opaque":
        raise ValueError(f"{dtype} holds no numbers")
    plain = {"C64": "<c8", "BOOL": "|b1"}.get(dtype, layout.numpy.str)
    kind = f"|V{layout.width}" if layout.numpy.kind == "V" and dtype not in ("C64", "BOOL") else plain
    size = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {size}, }}"
    padded = text + " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")


def blocks(count: int) -> Iterator[slice]:
    """Slices of up to `BLOCK` that together cover `count` elements."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))
