"""The manifest: golden bytes, a reader that accepts exactly what the writer writes, and text merges that it notices."""

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_gru.errors import StoreError
from git_gru.formats.dtypes import DTYPES
from git_gru.ids import digest
from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.ingest import describe
from git_gru.store.manifest import (
    MAX_MANIFEST,
    Manifest,
    ManifestError,
    TensorEntry,
    is_manifest,
    parse_manifest,
    stated_digest,
)

GOLDEN = Path(__file__).parents[1] / "golden"
A, B, C = (digest(bytes([n])) for n in range(3))
SMALL = Manifest(
    8 + 90 + 12, A, {"w": TensorEntry("F32", (3,), (B,)), "empty": TensorEntry("F16", (0, 2), ())}
)
RAW = Manifest(5, None, raw=(A, B))


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(data, where="HEAD:m.safetensors")
    assert str(caught.value).startswith("HEAD:m.safetensors: the manifest ")
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ---- golden files: these bytes never change ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "raw"),
    [
        ("tensors", "eab7b8f8fefc99a36e0e951eb62d05582b293fbedbc1d962343842d7999ab59c", False),
        ("raw", "78cbdc4e2f13ef55cd49de1bcac313e73af32dc102af8b7eb149f44d6f49b7f7", True),
        ("raw-several", "78af04ebac97a226fa349bc1616738a424412b9e02b10a1995b333be54b79dde", True),
        ("several-chunks", "7f70f9a78b487722a61ce2f426cf445ffbd14e07fa650aaaaa269d9cd49e2520", False),
    ],
)
def test_golden(name: str, model: str, raw: bool) -> None:
    manifest = (GOLDEN / f"{name}.manifest").read_bytes()
    with golden_file(name) as source:
        described = describe(source, expect_safetensors=False).manifest
    assert described.encode() == manifest
    assert described.digest == model
    assert described.is_raw == raw
    assert parse_manifest(manifest, where="x") == described


def golden_file(name: str) -> io.BufferedIOBase:
    """The file that a golden manifest describes; the large ones are made from a rule instead of being kept."""
    if name == "raw-several":
        noise = hashlib.shake_256(b"git-gru").digest(1 << 20)
        return io.BytesIO(noise + bytes(9 << 20) + noise[1:])
    if name == "several-chunks":
        text = b'{"t":{"dtype":"U16","shape":[4718592],"data_offsets":[0,9437184]}}'
        data = b"".join((n * 40503 & 0xFFFF).to_bytes(2, "little") for n in range(1 << 16)) * 72
        return io.BytesIO(len(text).to_bytes(8, "little") + text + data)
    return open(GOLDEN / ("tensors.safetensors" if name == "tensors" else "raw.bin"), "rb")


def test_the_form_is_as_documented() -> None:
    body = (
        f'"size": 110,\n"header": "{A}",\n"tensors": {{\n'
        f'"w": {{"dtype": "F32", "shape": [3], "chunks": ["{B}"]}},\n'
        '"empty": {"dtype": "F16", "shape": [0, 2], "chunks": []}\n}}\n'
    )
    assert SMALL.digest == digest(body.encode())
    assert SMALL.encode().decode() == f'{{"git-gru": 1,\n"digest": "{SMALL.digest}",\n{body}'
    raw = f'"size": 5,\n"raw": [\n"{A}",\n"{B}"\n]}}\n'
    assert RAW.encode().decode() == f'{{"git-gru": 1,\n"digest": "{digest(raw.encode())}",\n{raw}'
    odd = Manifest(9, A, {'\x7f\x1f"\\ü\u2028': TensorEntry('\x7f\n"', (1,), (B,))})
    line = '"\x7f\\u001f\\"\\\\ü\u2028": {"dtype": "\\u007f\\n\\"", "shape": [1], "chunks": ["%s"]}\n'
    assert (line % B).encode() in odd.encode()
    none = Manifest(10, A)
    assert none.encode().decode().endswith(f'"size": 10,\n"header": "{A}",\n"tensors": {{\n}}}}\n')


# ---- round trip -------------------------------------------------------------------------------------------------------

IDS = st.sampled_from([A, B, C])


@st.composite
def entries(draw: st.DrawFn) -> TensorEntry:
    dtype = draw(st.sampled_from([*sorted(DTYPES), "F128", 'odd "type"\n']))
    shape = tuple(draw(st.lists(st.integers(0, 3000), max_size=3)))
    bits = DTYPES[dtype].bits if dtype in DTYPES else 8
    for n in shape:
        bits *= n
    nbytes = min(bits // 8, CHUNK_BYTES * 20)
    if dtype in DTYPES and nbytes != bits // 8:
        shape, nbytes = (0,), 0
    count = -(-nbytes // CHUNK_BYTES)
    return TensorEntry(dtype, shape, tuple(draw(st.lists(IDS, min_size=count, max_size=count))))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
MANIFESTS = st.builds(
    lambda header, tensors, more: Manifest(
        1 + more + sum(entry.nbytes for entry in tensors.values()), header, tensors
    ),
    IDS,
    st.dictionaries(NAMES, entries(), max_size=4),
    st.integers(0, 2**40),
) | st.builds(
    lambda size, raw: Manifest(size, None, raw=tuple(raw)),
    st.integers(1, 2**63 - 1),
    st.lists(IDS, min_size=1, max_size=4),
)


@given(MANIFESTS)
@example(Manifest(50, A, {'"quoted"\n\\name\u2028 ü \U0001f600\x00': TensorEntry("U8", (), (B,))}))
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    data = manifest.encode()
    again = parse_manifest(data, where="x")
    assert again == manifest
    assert list(again.tensors) == list(manifest.tensors)
    assert again.encode() == data
    assert again.digest == manifest.digest
    assert is_manifest(data)


@given(MANIFESTS)
@settings(max_examples=200, deadline=None)
def test_the_text_is_what_a_json_library_writes(manifest: Manifest) -> None:
    """As docs/format.md has it: names as `json.dumps(name, ensure_ascii=False)` writes them, dtypes in ASCII."""
    lines = [
        f'{json.dumps(name, ensure_ascii=False)}: {{"dtype": {json.dumps(entry.dtype)}, '
        f'"shape": {json.dumps(entry.shape)}, "chunks": {json.dumps(entry.chunks)}}}'
        for name, entry in manifest.tensors.items()
    ]
    if manifest.raw is None:
        text = manifest.encode().decode().split('"tensors": {\n')[1]
        assert text == "".join(",\n".join(lines)) + ("\n" if lines else "") + "}}\n"


def test_the_order_of_tensors_is_kept_and_counts() -> None:
    turned = Manifest(SMALL.size, A, dict(reversed(SMALL.tensors.items())))
    assert turned.digest != SMALL.digest
    assert list(parse_manifest(turned.encode(), where="x").tensors) == ["empty", "w"]


def test_chunks_are_in_file_order_with_repetitions() -> None:
    two = Manifest(50, A, {"a": TensorEntry("U8", (1,), (B,)), "b": TensorEntry("U8", (1,), (B,))})
    assert two.chunks() == [A, B, B]
    assert RAW.chunks() == [A, B]


# ---- strictness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [SMALL, RAW], ids=["tensors", "raw"])
def test_every_changed_byte_is_noticed(manifest: Manifest) -> None:
    data = manifest.encode()
    for at in range(len(data)):
        for byte in {data[at] ^ 1, data[at] ^ 0x20, 0x20, 0x0A, 0x39, 0xFF} - {data[at]}:
            with pytest.raises(ManifestError):
                parse_manifest(data[:at] + bytes([byte]) + data[at + 1 :], where="x")


@pytest.mark.parametrize("manifest", [SMALL, RAW], ids=["tensors", "raw"])
def test_every_cut_and_every_insertion_is_noticed(manifest: Manifest) -> None:
    data = manifest.encode()
    for at in range(len(data)):
        for changed in (
            data[:at],
            data[:at] + data[at + 1 :],
            data[:at] + b" " + data[at:],
            data[:at] + b"\n" + data[at:],
        ):
            with pytest.raises(ManifestError):
                parse_manifest(changed, where="x")
    for more in (b"\n", b" ", b"{}", b"\0", data):
        refused(data + more)


def test_crlf_is_noticed() -> None:
    refused(SMALL.encode().replace(b"\n", b"\r\n"), "digest")


@pytest.mark.parametrize("version", ["2", "0", "99999", "-1"])
def test_another_version_says_so(version: str) -> None:
    data = SMALL.encode().replace(b'"git-gru": 1', b'"git-gru": ' + version.encode())
    with pytest.raises(ManifestError, match=f"format {version}") as caught:
        parse_manifest(data, where="x")
    assert "newer" in (caught.value.hint or "")


@pytest.mark.parametrize("version", ["true", '"1"', "1.0", "null", "[1]", "NaN"])
def test_a_version_that_is_no_number(version: str) -> None:
    refused(SMALL.encode().replace(b'"git-gru": 1', b'"git-gru": ' + version.encode()), "version")


def test_conflict_markers_are_named() -> None:
    data = SMALL.encode()
    at = data.index(b'"size"')
    for marked in (
        data[:at] + b"<<<<<<< ours\n" + data[at:],
        data + b">>>>>>> theirs\n",
        data[:at] + b'<<<<<<< HEAD\n"size": 1,\n=======\n"size": 2,\n>>>>>>> x\n' + data[at:],
    ):
        refused(marked, "conflict markers")


def test_a_name_that_looks_like_a_conflict_marker_is_only_a_name() -> None:
    entry = TensorEntry("U8", (1,), (B,))
    odd = Manifest(50, A, {"\n<<<<<<< HEAD": entry, ">>>>>>> x": entry})
    assert parse_manifest(odd.encode(), where="x") == odd


def test_merging_two_changes_as_text_conflicts(tmp_path: Path) -> None:
    entry = TensorEntry("U8", (1,), (A,))
    names = [f"layer{n}" for n in range(20)]
    base = Manifest(1000, A, dict.fromkeys(names, entry))
    changed = TensorEntry("U8", (1,), (B,))
    sides = [Manifest(1000, A, {**base.tensors, name: changed}) for name in ("layer2", "layer17")]
    for name, manifest in zip(("base", "ours", "theirs"), (base, *sides), strict=True):
        (tmp_path / name).write_bytes(manifest.encode())
    done = subprocess.run(
        ["git", "merge-file", "-p", "ours", "base", "theirs"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1, "the digest lines must conflict"
    refused(done.stdout, "conflict markers")
    # Even where somebody resolves the one conflict by taking a side, the mixed text is not a model.
    for side in ("--ours", "--theirs", "--union"):
        merged = subprocess.run(
            ["git", "merge-file", "-p", side, "ours", "base", "theirs"],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        ).stdout
        refused(merged)


def resealed(body: str) -> bytes:
    """A manifest with this body and the digest that fits it: what an attacker can write."""
    return f'{{"git-gru": 1,\n"digest": "{digest(body.encode("utf-8", "surrogatepass"))}",\n{body}'.encode(
        "utf-8", "surrogatepass"
    )


def tensor_body(entry: str, size: str = "100", header: str = A) -> str:
    return f'"size": {size},\n"header": "{header}",\n"tensors": {{\n{entry}\n}}}}\n'


GOOD = f'"w": {{"dtype": "F32", "shape": [3], "chunks": ["{B}"]}}'


def test_the_resealed_form_is_the_written_one() -> None:
    assert parse_manifest(resealed(tensor_body(GOOD)), where="x").tensors["w"].chunks == (B,)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (tensor_body(GOOD, size="0"), "size"),
        (tensor_body(GOOD, size="-1"), "size"),
        (tensor_body(GOOD, size="9223372036854775808"), "size"),
        (tensor_body(GOOD, size="100.0"), "size"),
        (tensor_body(GOOD, size="true"), "size"),
        (tensor_body(GOOD, size='"100"'), "size"),
        (tensor_body(GOOD, size="NaN"), "size"),
        (tensor_body(GOOD, size="11"), "size"),
        (tensor_body(GOOD, size="1e2"), "size"),
        (tensor_body(GOOD, size="0100"), "JSON"),
        (tensor_body(GOOD, header=A[:-1]), "header"),
        (tensor_body(GOOD, header=A.upper()), "header"),
        (tensor_body(GOOD.replace("[3]", "[-3]")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "[3.0]")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "[true]")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "[9223372036854775808]")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "3")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "[0]")), "'w'"),
        (tensor_body(GOOD.replace("[3]", "[1048577]"), size="9999999"), "'w'"),
        (tensor_body(GOOD.replace('"F32"', "32")), "'w'"),
        (tensor_body(GOOD.replace('"F32"', "null")), "'w'"),
        (tensor_body(GOOD.replace(B, B[:63])), "'w'"),
        (tensor_body(GOOD.replace(B, B.upper())), "'w'"),
        (tensor_body(GOOD.replace(B, B + "\\n")), "'w'"),
        (tensor_body(GOOD.replace(f'["{B}"]', f'"{B}"')), "'w'"),
        (tensor_body(GOOD.replace(f'["{B}"]', "[null]")), "'w'"),
        (tensor_body('"w": null'), "'w'"),
        (tensor_body('"w": []'), "'w'"),
        (tensor_body(GOOD + ",\n" + GOOD), "digest"),
        (tensor_body(GOOD.replace('"w"', '"\\u0077"')), "digest"),
        (tensor_body(GOOD.replace('"dtype"', '"x": 1, "dtype"')), "digest"),
        (tensor_body(GOOD.replace('"w"', '"\\ud800"')), ""),
        (tensor_body(GOOD.replace('"F32"', '"\\ud800"')), ""),
        (tensor_body(GOOD.replace('"w"', '"\ud800"')), "JSON"),
        (tensor_body(GOOD) + " ", "digest"),
        (tensor_body(GOOD)[:-1], "digest"),
        ('"size": 5,\n"raw": [\n]}\n', "raw"),
        ('"size": 5,\n"raw": []}\n', "raw"),
        ('"size": 5,\n"raw": {}}\n', "raw"),
        ('"size": 5,\n"raw": null}\n', "raw"),
        (f'"size": 5,\n"raw": ["{A}"]}}\n', "digest"),
        (f'"size": 5,\n"raw": [\n"{A[1:]}"\n]}}\n', "raw"),
        (f'"size": 5,\n"header": "{A}",\n"raw": [\n"{A}"\n]}}\n', "digest"),
        (f'"size": 5,\n"header": "{A}"}}\n', "tensors"),
        (f'"size": 5,\n"header": "{A}",\n"tensors": []}}\n', "tensors"),
        ('"size": 5}\n', "tensors"),
    ],
)
def test_a_wrong_field_under_a_fitting_digest_is_refused(body: str, word: str) -> None:
    refused(resealed(body), word)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\0" * 100, b'{"git-gru":1}', b"\xef\xbb\xbf" + SMALL.encode(), b" " + SMALL.encode()],
)
def test_what_is_not_a_manifest(data: bytes) -> None:
    assert not is_manifest(data)
    refused(data, "is not a manifest")


@pytest.mark.parametrize(
    "tail",
    [b"1" * 5000, b"[" * 1_000_000, b'{"a":' * 200_000, b'1, "x": "\xff"}', b"1", b"1}", b"NaN}", b"1}}"],
)
def test_a_prefix_alone_is_not_enough(tail: bytes) -> None:
    refused(b'{"git-gru": ' + tail)


def test_over_long() -> None:
    data = SMALL.encode()
    refused(data + b" " * (MAX_MANIFEST + 1 - len(data)), "longer than")


def test_many_huge_dimensions_are_refused_quickly() -> None:
    entry = GOOD.replace("[3]", "[" + ", ".join([str(2**62)] * 200_000) + "]")
    refused(resealed(tensor_body(entry)), "'w'")  # the product of all of them would take minutes


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_random_bytes(data: bytes) -> None:
    for text in (
        data,
        b'{"git-gru": 1,' + data,
        b'{"git-gru": 1,\n"digest": "' + A.encode() + b'",\n' + data,
    ):
        with pytest.raises(ManifestError):
            parse_manifest(text, where="x")


@given(MANIFESTS, st.data())
@settings(deadline=None, max_examples=150)
def test_mutated_manifests(manifest: Manifest, data: st.DataObject) -> None:
    original = manifest.encode()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["set", "drop", "double"]))
        if kind == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del changed[at]
        else:
            changed[at:at] = changed[max(0, at - 20) : at]
    try:
        assert parse_manifest(bytes(changed), where="x").encode() == original
    except ManifestError:
        assert changed != original


def test_the_error_is_one_of_the_store() -> None:
    assert issubclass(ManifestError, StoreError)


def test_nbytes() -> None:
    assert TensorEntry("F32", (3, 4), (A,)).nbytes == 48
    assert TensorEntry("F32", (), (A,)).nbytes == 4
    assert TensorEntry("F4", (3, 4), (A,)).nbytes == 6
    assert TensorEntry("F128", (3,), (A, B)).nbytes == 2 * CHUNK_BYTES


def test_a_manifest_is_a_function_of_the_bytes_alone(
    new_store: Callable[..., object], add: Callable[..., Manifest], lineage: Callable[..., list[bytes]]
) -> None:
    data = lineage(1, count=300)[0]
    one, two = add(new_store(), data), add(new_store(), data)
    assert (
        one.encode() == two.encode() == describe(io.BytesIO(data), expect_safetensors=True).manifest.encode()
    )


@given(MANIFESTS)
@settings(deadline=None, max_examples=30)
def test_the_stated_digest_is_that_of_a_whole_parse(manifest: Manifest) -> None:
    text = manifest.encode()
    assert stated_digest(text) == manifest.digest
    for spoilt in (
        text[:-1],
        text + b" ",
        text.replace(b'"size"', b'"sizf"', 1),
        text.replace(b": 1,", b": 2,", 1),
        b"",
    ):
        assert stated_digest(spoilt) is None
