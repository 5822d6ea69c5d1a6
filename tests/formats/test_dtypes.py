"""The table of element types against the names and widths that safetensors itself accepts."""

import json
import struct

import pytest
from safetensors import SafetensorError, deserialize

from git_gru.formats.dtypes import DTYPES, dtype_of


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_width_is_the_reference_implementations(name: str) -> None:
    # 8 elements fill whole bytes whatever the width; one byte more or less is refused by the reference.
    for extra in (-1, 0, 1):
        nbytes = DTYPES[name].bits + extra
        text = json.dumps({"t": {"dtype": name, "shape": [8], "data_offsets": [0, nbytes]}}).encode()
        file = struct.pack("<Q", len(text)) + text + bytes(nbytes)
        if extra:
            with pytest.raises(SafetensorError):
                deserialize(file)
        else:
            assert deserialize(file)[0][1]["dtype"] == name


def test_every_dtype_of_the_reference_is_known() -> None:
    text = b'{"t":{"dtype":"?","shape":[0],"data_offsets":[0,0]}}'
    with pytest.raises(SafetensorError) as caught:
        deserialize(struct.pack("<Q", len(text)) + text)
    named = set(str(caught.value).split("expected one of ")[1].split("`")[1::2])
    assert named <= set(DTYPES)


@pytest.mark.parametrize(
    ("name", "width", "rotated"),
    [
        ("F64", 8, True),
        ("F32", 4, True),
        ("F16", 2, True),
        ("BF16", 2, True),
        ("C64", 4, True),
        ("F8_E4M3", 1, True),
        ("F8_E8M0", 1, True),
        ("I64", 8, False),
        ("U32", 4, False),
        ("I16", 2, False),
        ("I8", 1, False),
        ("BOOL", 1, False),
        ("F4", 1, False),
        ("F6_E2M3", 1, False),
        ("a later type", 1, False),
        ("", 1, False),
    ],
)
def test_how_the_codec_sees_a_dtype(name: str, width: int, rotated: bool) -> None:
    assert (dtype_of(name).coded_width, dtype_of(name).rotated) == (width, rotated)


def test_an_unknown_dtype_is_opaque_bytes() -> None:
    later = dtype_of("F128")
    assert (later.name, later.bits, later.kind) == ("F128", 8, "opaque")
