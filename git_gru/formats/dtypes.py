"""The element types of safetensors: name, width in bits, kind.

A dtype that is not in the table is *opaque*: its bytes are kept exactly, but nothing is known of its elements, so it is
coded byte by byte and never computed with. A later safetensors version's dtypes are therefore stored, not refused.

Source: https://docs.rs/safetensors (enum `Dtype`).
"""

from typing import Literal, NamedTuple

Kind = Literal["float", "int", "bool", "opaque"]


class DType(NamedTuple):
    """One element type. `bits` is the width of an element; sub-byte types are opaque to the codec."""

    name: str
    bits: int
    kind: Kind

    @property
    def coded_width(self) -> int:
        """Bytes of the unit that the codec works on: the element, a complex number's half, or one byte."""
        if self.kind == "opaque" or self.bits < 8:
            return 1
        return 4 if self.name == "C64" else self.bits // 8

    @property
    def rotated(self) -> bool:
        """Whether the codec rotates elements left by one bit, so that a float's exponent fills the top byte."""
        return self.kind == "float" and self.bits >= 8

    @property
    def nonfinite_tops(self) -> bytes:
        """The top bytes, so rotated, that a NaN or an infinity may have: all bits of the exponent set (IEEE 754), in the narrow
        formats also of the mantissa, or the sign alone (OCP 8-bit floating point specification). Empty where there is none.
        """
        return _NONFINITE_TOPS.get(self.name, b"\xff") if self.rotated else b""


DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("BOOL", 8, "bool"),
        DType("F4", 4, "float"),
        DType("F6_E2M3", 6, "float"),
        DType("F6_E3M2", 6, "float"),
        DType("U8", 8, "int"),
        DType("I8", 8, "int"),
        DType("F8_E5M2", 8, "float"),
        DType("F8_E4M3", 8, "float"),
        DType("F8_E8M0", 8, "float"),
        DType("F8_E4M3FNUZ", 8, "float"),
        DType("F8_E5M2FNUZ", 8, "float"),
        DType("I16", 16, "int"),
        DType("U16", 16, "int"),
        DType("F16", 16, "float"),
        DType("BF16", 16, "float"),
        DType("I32", 32, "int"),
        DType("U32", 32, "int"),
        DType("F32", 32, "float"),
        DType("C64", 64, "float"),
        DType("F64", 64, "float"),
        DType("I64", 64, "int"),
        DType("U64", 64, "int"),
    )
}

_NONFINITE_TOPS = {
    "F16": bytes(range(0xF8, 0x100)),
    "F8_E5M2": bytes(range(0xF8, 0x100)),
    "F8_E4M3": b"\xfe\xff",
    "F8_E4M3FNUZ": b"\x01",
    "F8_E5M2FNUZ": b"\x01",
    "F8_E8M0": b"",  # scales
}


def dtype_of(name: str) -> DType:
    """The dtype of that name; an unknown name is an opaque dtype of one byte."""
    return DTYPES.get(name) or DType(name, 8, "opaque")
