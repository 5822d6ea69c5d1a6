"""docs/format.md says what the code does: its example, its tables, its limits."""

import re
from pathlib import Path

import numpy as np
import pytest

from git_gru.formats import safetensors
from git_gru.formats.dtypes import DTYPES
from git_gru.ids import digest
from git_gru.store import chunks, codec, manifest, pack_reader, packs, store, trees
from git_gru.store.codec import encode_delta
from git_gru.store.transform import split_delta, split_plain

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
BASE = np.array([1.0, -2.0, 0.001, 1.5], "<f4").tobytes()
CHUNK = np.array([1.0000001, -2.0, 0.0010001, 1.4999999], "<f4").tobytes()


def test_the_worked_example() -> None:
    for data in (BASE, CHUNK):
        assert f"{data.hex()}    id {digest(data)}" in DOC
    for name, planes in (
        ("plain", split_plain(CHUNK, 4, True)),
        ("delta", split_delta(CHUNK, BASE, 4, True)),
    ):
        shown = "  ".join(f"plane{b} {plane.hex()}" for b, plane in enumerate(planes))
        assert re.search(rf"{name} +{shown}\n", DOC), shown
    blob = b"".join(bytes(part) for part in encode_delta(CHUNK, BASE, digest(BASE), "F32"))
    length = int.from_bytes(blob[:8], "little")
    header = blob[8 : 8 + length].decode()
    assert f"`{blob[:8].hex()}`, then the {length} bytes\n\n    {header.rstrip()}\n" in DOC
    assert header.endswith("}  "), "two spaces"
    assert f"then the planes `{blob[8 + length :].hex()}`" in DOC


def test_the_table_of_dtypes() -> None:
    table = DOC.split("### 4.3")[1].split("###")[0]
    seen = set()
    for row in re.findall(r"^\| (`.*?) \| (\d) \| (yes|no) \|$", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[0]):
            seen.add(name)
            assert (str(DTYPES[name].coded_width), DTYPES[name].rotated) == (row[1], row[2] == "yes"), name
    assert seen == set(DTYPES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4,194,304", chunks.CHUNK_BYTES),
        ("100,000,000", safetensors.MAX_HEADER),
        ("100,000,008", chunks.LONGEST_CHUNK),
        ("65,536", codec.MAX_BLOB_HEADER),
        ("65,536", chunks.RAW_SHORTEST),
        ("262,144", chunks.RAW_AVERAGE),
        ("65,535", packs.STORED_BLOCK),
    ],
)
def test_numbers(text: str, value: int) -> None:
    assert text in DOC
    assert value == int(text.replace(",", ""))


def test_other_limits_and_names() -> None:
    assert manifest.MAX_MANIFEST == 64 << 20
    assert pack_reader.LONGEST_OBJECT == 256 << 20
    assert safetensors.MAX_SIZE == 2**63 - 1
    assert store.LONGEST_CHAIN == 64
    assert "chain of deltas | 64 chunks" in DOC
    assert trees.FORMAT_TEXT == b"git-gru store 1\n"
    assert '"git-gru store 1" and a line feed' in DOC
    assert store.REF in DOC
    assert manifest.PREFIX.decode() in DOC
    assert manifest.FORMAT == 1


def test_the_example_of_a_manifest_is_the_golden_one() -> None:
    golden = (Path(__file__).parents[1] / "golden" / "tensors.manifest").read_text().splitlines()
    shown = DOC.split("### 2.2")[1].split("Example")[1].split("\n\n")[1].splitlines()
    lines = [line.strip() for line in shown if "…" not in line]
    assert [line for line in golden if line in lines] == lines


def test_its_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in DOC.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\((?!https)([^)]+)\)", DOC):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (Path(__file__).parents[2] / "docs" / target).is_file(), target
