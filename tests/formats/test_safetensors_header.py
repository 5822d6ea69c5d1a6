"""The header parser accepts what safetensors accepts, refuses the rest by name, and never fails in any other way."""

import json
import math
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from git_gru.errors import InputError
from git_gru.formats.dtypes import DTYPES
from git_gru.formats.safetensors import (
    MAX_HEADER,
    HeaderError,
    TensorInfo,
    json_length,
    parse_header,
    write_header,
)

OK = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(file: bytes, *words: str) -> None:
    with pytest.raises(HeaderError) as caught:
        parse_header(file, file_size=len(file), where="model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors: ")
    for word in words:
        assert word in message, message


# ---- what is accepted -------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A valid header as JSON and its data: any dtypes, empty and 0-d tensors, any order, metadata, padding."""
    names = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, max_size=5)
    )
    entries: list[tuple[str, Any]] = []
    end = 0
    for name in names:
        if name == "__metadata__":
            continue
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = math.prod(shape) * DTYPES[dtype].bits
        if bits % 8:
            shape, bits = [*shape, 8], bits * 8
        begin, end = end, end + bits // 8
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}))
    if draw(st.booleans()):
        entries.append(
            ("__metadata__", draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)))
        )
    header = dict(draw(st.permutations(entries)))
    return header, draw(st.binary(min_size=end, max_size=end))


@given(layouts(), st.sampled_from(["", " ", "   \n\t"]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_agrees_with_safetensors_on_valid_files(
    layout: tuple[dict[str, Any], bytes], padding: str, ascii: bool
) -> None:
    text = (json.dumps(layout[0], ensure_ascii=ascii) + padding).encode()
    file = file_of(text, layout[1])
    header = parse_header(file, file_size=len(file), where="x")
    theirs = dict(deserialize(file))
    assert {info.name for info in header.tensors} == theirs.keys()
    for info in header.tensors:
        reference = theirs[info.name]
        assert (info.dtype, list(info.shape)) == (reference["dtype"], reference["shape"])
        assert layout[1][info.begin : info.end] == bytes(reference["data"])
    assert header.metadata == layout[0].get("__metadata__", {})
    assert (header.length, header.file_size) == (8 + len(text), len(file))
    offsets = [(info.begin, info.end) for info in header.tensors]
    assert offsets == sorted(offsets)


def test_a_file_without_tensors() -> None:
    header = parse_header(file_of(b"{}"), file_size=10, where="x")
    assert (header.tensors, header.metadata, header.file_size) == ((), {}, 10)


def test_a_scalar_and_an_empty_tensor_share_an_offset_in_one_order() -> None:
    file = file_of(
        {
            "z": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]},
            "scalar": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
            "a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 8]},
            "A": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        },
        bytes(8),
    )
    header = parse_header(file, file_size=len(file), where="x")
    assert [info.name for info in header.tensors] == ["A", "z", "scalar", "a"]


def test_the_header_is_enough_and_more_may_follow() -> None:
    file = file_of({"a": OK}, b"ab")
    whole = parse_header(file, file_size=len(file), where="x")
    assert parse_header(file[:-2], file_size=None, where="x") == whole
    assert parse_header(file + b"more", file_size=None, where="x") == whole


def test_a_dtype_of_a_later_version_is_let_through() -> None:
    file = file_of({"a": {"dtype": "F128_NEW", "shape": [3], "data_offsets": [0, 5]}}, b"12345")
    assert parse_header(file, file_size=len(file), where="x").tensors == (
        TensorInfo("a", "F128_NEW", (3,), 0, 5),
    )


# ---- what is refused --------------------------------------------------------------------------------------------------


def test_too_short_for_a_length() -> None:
    for size in range(8):
        refused(bytes(size), "too short", f"{size} bytes")


def test_header_longer_than_the_file() -> None:
    refused(struct.pack("<Q", 1000) + b'{"a"', "1000", "beyond the end of the file")


def test_truncated_inside_the_json() -> None:
    whole = file_of({"a": OK}, b"ab")
    for end in range(8, len(whole) - 2):
        refused(whole[:end], "beyond the end of the file")


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 2**31, 2**63, 2**64 - 1])
def test_over_long_header(length: int) -> None:
    refused(struct.pack("<Q", length) + b"{}", str(length), "over the limit")


def test_the_longest_header_is_allowed_and_costs_nothing_until_it_is_there() -> None:
    assert json_length(struct.pack("<Q", MAX_HEADER), where="x") == MAX_HEADER
    refused(struct.pack("<Q", MAX_HEADER) + b"{}", "beyond the end")


@pytest.mark.parametrize("length", [0, 1])
def test_no_room_for_json(length: int) -> None:
    refused(struct.pack("<Q", length) + b"{}", "no room")


def test_overlap() -> None:
    refused(
        file_of({"a": OK, "b": {**OK, "data_offsets": [1, 3]}}, b"abc"), "'b'", "data_offsets", "overlaps"
    )
    refused(file_of({"a": OK, "b": OK}, b"ab"), "overlaps")


def test_hole() -> None:
    refused(file_of({"a": OK, "b": {**OK, "data_offsets": [3, 5]}}, b"abcde"), "'b'", "data_offsets", "hole")
    refused(file_of({"a": {**OK, "data_offsets": [1, 3]}}, b"abc"), "'a'", "hole")
    refused(file_of({"a": {**OK, "shape": [0], "data_offsets": [1, 1]}}, b"a"), "'a'", "hole")


def test_trailing_bytes_and_truncated_data() -> None:
    refused(file_of({"a": OK}, b"abc"), "trailing bytes")
    refused(file_of({"a": OK}, b"a"), "truncated")
    refused(file_of(b"{}", b"x"), "trailing bytes")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [-2]),
        ("shape", [2**63]),
        ("shape", [2**64]),
        ("shape", [10**4000]),
        ("shape", [2.0]),
        ("shape", [True, 2]),
        ("shape", ["2"]),
        ("shape", [None]),
        ("shape", [[2]]),
        ("shape", 2),
        ("shape", None),
        ("shape", {"0": 2}),
        ("shape", [3]),
        ("shape", []),
        ("data_offsets", [0]),
        ("data_offsets", [0, 1, 2]),
        ("data_offsets", [2, 0]),
        ("data_offsets", [0, -2]),
        ("data_offsets", [0, 2**63]),
        ("data_offsets", [False, 2]),
        ("data_offsets", [0.0, 2]),
        ("data_offsets", "02"),
        ("data_offsets", None),
        ("data_offsets", [0, 1]),
        ("dtype", ""),
        ("dtype", 7),
        ("dtype", None),
        ("dtype", ["U8"]),
        ("dtype", "F3²"),
        ("dtype", "x" * 33),
        ("dtype", "F32"),
    ],
)
def test_bad_field(field: str, value: object) -> None:
    file = file_of({"the tensor": {**OK, field: value}}, b"ab")
    refused(file, "'the tensor'", field if field != "dtype" or value != "F32" else "F32")
    with pytest.raises(SafetensorError):
        deserialize(file)


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_missing_field(field: str) -> None:
    refused(file_of({"t": {key: value for key, value in OK.items() if key != field}}, b"ab"), "'t'", field)


@pytest.mark.parametrize("entry", [None, 1, "x", [], True])
def test_an_entry_that_is_no_object(entry: object) -> None:
    refused(file_of({"t": entry}), "'t'")


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("U8", [2**62, 4]),
        ("F64", [2**60]),
        ("F64", [2**31, 2**31, 2]),
        ("U8", [2**62, 2**62, 0]),
        ("F32", [2**63 - 1]),
    ],
)
def test_sizes_over_2_to_the_63(dtype: str, shape: list[int]) -> None:
    refused(file_of({"t": {"dtype": dtype, "shape": shape, "data_offsets": [0, 2]}}, b"ab"), "'t'", "shape")


def test_many_huge_dimensions_are_refused_quickly() -> None:
    shape = [2**62] * 200_000
    file = file_of({"t": {"dtype": "F64", "shape": shape, "data_offsets": [0, 2]}}, b"ab")
    refused(file, "'t'")  # the product of all of them would take minutes


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_elements_that_do_not_fill_a_byte(dtype: str) -> None:
    file = file_of({"t": {"dtype": dtype, "shape": [3], "data_offsets": [0, 2]}}, b"ab")
    refused(file, "'t'", "whole bytes")


def test_a_name_twice() -> None:
    refused(file_of(b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b"}"), "not JSON")
    one = b'"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    refused(file_of(b"{" + one + b"," + one + b"}"), "'t'", "twice")
    refused(file_of(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__'", "twice")
    refused(file_of(b'{"__metadata__":{"k":"1","k":"2"}}'), "'k'", "twice")
    refused(
        file_of(b'{"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "'dtype'", "twice"
    )
    refused(file_of(b"{" + one + b"," + one.replace(b'"t"', b'"\\u0074"') + b"}"), "'t'", "twice")


def test_deep_json() -> None:
    for opening in (b'{"a":' * 200_000, b'{"a":' + b"[" * 1_000_000):
        refused(file_of(opening), "nests too deeply")
    refused(file_of(b"[" * 1_000_000), "does not start with '{'")


@pytest.mark.parametrize("text", [b"[]", b"  {}", b"\xef\xbb\xbf{}", b'"x"', b"null", b"\0\0"])
def test_not_an_object_from_the_first_byte(text: bytes) -> None:
    refused(file_of(text), "does not start with '{'")


@pytest.mark.parametrize("text", [b"{}\0\0", b"{} {}", b"{ ", b'{"a"}', b"{'a': 1}", b'{"a": 1,}', b"{} x"])
def test_not_json(text: bytes) -> None:
    refused(file_of(text), "not JSON")


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_constants_that_are_not_json(constant: bytes) -> None:
    refused(file_of(b'{"t":{"dtype":"U8","shape":[' + constant + b'],"data_offsets":[0,0]}}'), "not JSON")


@pytest.mark.parametrize(
    "text", [b'{"\xff":1}', b'{"\xed\xa0\x80":1}', b'{"\xc0\x80":1}', b'{"a\xe2\x82":1}']
)
def test_not_utf8(text: bytes) -> None:
    refused(file_of(text), "UTF-8")


def test_half_of_a_surrogate_pair() -> None:
    refused(file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "surrogate")
    refused(file_of(b'{"__metadata__":{"\\udfff":"x"}}'), "surrogate", "__metadata__")
    refused(file_of(b'{"__metadata__":{"x":"\\ud83d"}}'), "surrogate", "__metadata__")
    pair = file_of(b'{"\\ud83d\\ude00":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}')
    assert parse_header(pair, file_size=None, where="x").tensors[0].name == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "metadata", [None, [], "x", 1, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": ["b"]}]
)
def test_metadata_that_is_no_map_of_strings(metadata: object) -> None:
    refused(file_of({"__metadata__": metadata}), "__metadata__")


def test_the_error_is_one_of_input() -> None:
    assert issubclass(HeaderError, InputError)


# ---- fuzz -------------------------------------------------------------------------------------------------------------

VALID = file_of({"__metadata__": {"k": "v"}, "a.b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "c": {
    "dtype": "BOOL", "shape": [], "data_offsets": [24, 25]}}, bytes(25))  # fmt: skip


def survives(file: bytes) -> None:
    try:
        header = parse_header(file, file_size=len(file), where="x")
    except HeaderError:
        return
    assert header.file_size == len(file)
    assert sum(info.nbytes for info in header.tensors) == len(file) - header.length


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(struct.pack("<Q", len(data)) + data)
    survives(file_of(b"{" + data))


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 3),
    st.binary(max_size=3),
)
@settings(deadline=None, max_examples=250)
def test_mutated_files(changes: list[tuple[int, int]], cut: int, extra: bytes) -> None:
    file = bytearray(VALID)
    for at, byte in changes:
        file[at] = byte
    survives(bytes(file[: len(file) - cut]) + extra)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        JSON | st.fixed_dictionaries({"dtype": JSON | st.just("U8"), "shape": JSON, "data_offsets": JSON}),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=150)
def test_any_json(header: dict[str, Any]) -> None:
    survives(file_of(json.dumps(header).encode()))


def test_memory_is_proportional_to_the_header() -> None:
    text = (
        b"{"
        + b",".join(b'"%06d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(5000))
        + b"}"
    )
    file = file_of(text)
    tracemalloc.start()
    parse_header(file, file_size=len(file), where="x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(file)


# ---- writing ----------------------------------------------------------------------------------------------------------


@given(layouts())
@settings(deadline=None, max_examples=100)
def test_what_is_written_is_read_back(layout: tuple[dict[str, Any], bytes]) -> None:
    header = parse_header(file_of(layout[0], layout[1]), file_size=None, where="x")
    tensors = [(info.name, info.dtype, info.shape) for info in header.tensors]
    written = write_header(tensors, header.metadata)
    again = parse_header(written, file_size=len(written) + len(layout[1]), where="x")
    # Empty tensors tie on their offsets; the parser breaks ties by name.
    assert again.tensors == header.tensors
    assert again.metadata == header.metadata
    assert len(written) % 8 == 0
    assert len(deserialize(written + layout[1])) == len(tensors)


def test_the_exact_bytes_written() -> None:
    written = write_header([("b", "F32", (1, 2)), ("a", "BOOL", ())], {"z": "1", "a": "é"})
    text = (
        '{"__metadata__":{"a":"é","z":"1"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
        '"a":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    assert written == struct.pack("<Q", len(text)) + text


def test_writing_refuses_what_could_not_be_read() -> None:
    for tensors, word in (
        ([("a", "U8", [1]), ("a", "U8", [1])], "twice"),
        ([("__metadata__", "U8", [1])], "twice"),
        ([("\ud800", "U8", [1])], "surrogate"),
        ([("a", "F128", [1])], "F128"),
        ([("a", "F4", [1])], "whole bytes"),
        ([("a", "U8", [2**63])], "2^63"),
    ):
        with pytest.raises(HeaderError, match=word.replace("^", r"\^")):
            write_header(tensors)
