"""Packs: Git accepts what PackWriter writes, Objects reads what Git wrote, and damage is an error."""

import errno
import hashlib
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.errors import MachineError, StoreError
from git_gru.store import packs
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.open_files import OpenFiles
from git_gru.store.pack_reader import ObjectDamagedError, Pack
from git_gru.store.packs import Entry, PackWriter, deflated_entry, entry_header, make_entry

Git = Callable[..., str]
SIZES = [0, 1, 15, 16, 2047, 2048, 65534, 65535, 65536, 131069, 131070, 131071, 1 << 20]


@pytest.fixture
def bare(tmp_path: Path, git: Git) -> Path:
    path = tmp_path / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    return path


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def write(folder: Path, entries: list[Entry], expected: int | None = None) -> Path | None:
    writer = PackWriter(folder, len(entries) if expected is None else expected)
    for entry in entries:
        writer.add(entry)
    return writer.finish()


def test_no_object_gives_no_file(bare: Path) -> None:
    assert write(bare / "objects/pack", []) is None
    assert write(bare / "objects/pack", [], expected=3) is None
    assert list((bare / "objects/pack").iterdir()) == []


@pytest.mark.parametrize("expected", [0, len(SIZES), 1000])
def test_git_accepts_a_pack_of_all_sizes(bare: Path, git: Git, expected: int) -> None:
    entries = [make_entry("blob", [content(size)]) for size in SIZES]
    path = write(bare / "objects/pack", entries, expected)
    assert path is not None
    git(bare, "fsck", "--strict", "--full")
    listed = git(bare, "verify-pack", "-v", str(path.with_suffix(".idx")))
    for entry, size in zip(entries, SIZES, strict=True):
        assert f"{entry.oid.hex()} blob   {size} {len(entry.packed)} " in listed
        done = subprocess.run(
            ["git", "--git-dir", str(bare), "cat-file", "blob", entry.oid.hex()],
            capture_output=True,
            check=True,
        )
        assert done.stdout == content(size)
    assert path.stat().st_mode & 0o777 == 0o444
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".idx", ".pack"]
    assert path.stem == "pack-" + path.read_bytes()[-20:].hex()


def test_git_index_pack_makes_the_same_index(bare: Path, git: Git) -> None:
    path = write(bare / "objects/pack", [make_entry("blob", [content(n)]) for n in range(300)])
    assert path is not None
    theirs = bare / "theirs.idx"
    git(bare, "index-pack", "--strict", "-o", str(theirs), str(path))
    assert theirs.read_bytes() == path.with_suffix(".idx").read_bytes()


@pytest.mark.parametrize("kind", ["blob", "tree", "commit"])
def test_one_object(bare: Path, git: Git, kind: packs.Kind) -> None:
    text = {
        "blob": b"x",
        "tree": b"100644 a\0" + make_entry("blob", [b"x"]).oid,
        "commit": b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nm\n",
    }[kind]
    entry = make_entry(kind, [text])
    assert write(bare / "objects/pack", [entry]) is not None
    assert git(bare, "cat-file", "-t", entry.oid.hex()).strip() == kind
    assert Objects(bare).read(entry.oid) == (kind, text)


def test_an_object_twice_is_written_once(bare: Path, git: Git) -> None:
    entry = make_entry("blob", [b"same"])
    path = write(bare / "objects/pack", [entry, entry, make_entry("blob", [b"sa", b"me"])])
    assert path is not None
    assert [pack.count for pack in Objects(bare).packs()] == [1]
    git(bare, "fsck", "--strict")


def test_object_ids_are_gits() -> None:
    assert make_entry("blob", [b""]).oid.hex() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert make_entry("blob", [b"hel", b"lo\n"]).oid.hex() == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x30"),
        (15, b"\x3f"),
        (16, b"\xb0\x01"),
        (2047, b"\xbf\x7f"),
        (2048, b"\xb0\x80\x01"),
        (1 << 32, None),
    ],
)
def test_entry_headers(size: int, head: bytes | None) -> None:
    made = entry_header(3, size)
    assert head is None or made == head
    value, shift = made[0] & 15, 4
    for byte in made[1:]:
        value, shift = value | (byte & 0x7F) << shift, shift + 7
    assert value == size


@given(st.lists(st.sampled_from([0, 1, 2, 5, 100, 65533, 65534, 65535, 65536, 70000, 131070]), max_size=5))
@settings(deadline=None, max_examples=60)
def test_parts_are_as_good_as_the_whole(sizes: list[int]) -> None:
    parts = [content(size) for size in sizes]
    entry = make_entry("blob", parts)
    assert entry == make_entry("blob", [b"".join(parts)])
    size = sum(sizes)
    assert zlib.decompress(entry.packed[len(entry_header(3, size)) :]) == b"".join(parts)
    # Full blocks but for the last, which the reader relies on.
    blocks = max(size - 1, 0) // packs.STORED_BLOCK + 1
    assert len(entry.packed) == len(entry_header(3, size)) + 2 + 5 * blocks + size + 4


@pytest.mark.parametrize("size", SIZES)
def test_the_stream_is_zlibs(size: int) -> None:
    entry = make_entry("blob", [content(size)])
    assert zlib.decompress(entry.packed[len(entry_header(3, size)) :]) == content(size)
    assert entry.crc == zlib.crc32(entry.packed)


def test_offsets_over_2_gib_go_to_the_large_table(tmp_path: Path) -> None:
    oids = [hashlib.sha1(bytes([n])).digest() for n in range(6)]
    offsets = [12, (1 << 31) - 1, 1 << 31, (1 << 32) + 5, 1 << 40, 500]
    checksum = hashlib.sha1(b"pack").digest()
    path = tmp_path / "pack-x.pack"
    path.write_bytes(bytes(64))
    index = packs._index({o: (at, n) for n, (o, at) in enumerate(zip(oids, offsets, strict=True))}, checksum)
    path.with_suffix(".idx").write_bytes(index)
    pack = Pack(path, OpenFiles())
    assert [pack.find(oid) for oid in oids] == offsets
    assert len(index) == 8 + 1024 + 6 * 28 + 3 * 8 + 40
    assert index[-20:] == hashlib.sha1(index[:-20]).digest()
    # `git show-index` is the oracle for the layout.
    shown = subprocess.run(
        ["git", "show-index"], input=index, capture_output=True, check=True
    ).stdout.decode()
    assert {line.split()[1]: int(line.split()[0]) for line in shown.splitlines()} == {
        oid.hex(): at for oid, at in zip(oids, offsets, strict=True)
    }


def test_finding_in_every_part_of_the_fan_out(bare: Path) -> None:
    entries = [make_entry("blob", [content(n)]) for n in range(600)]
    path = write(bare / "objects/pack", entries)
    assert path is not None
    (pack,) = Objects(bare).packs()
    assert {entry.oid[0] for entry in entries} >= {0x00, 0xFF} or len({e.oid[0] for e in entries}) > 200
    for entry in entries:
        offset = pack.find(entry.oid)
        assert offset is not None
        assert pack.packed(offset) == entry.packed
        assert pack.entry(entry.oid) == entry
    for n in range(256):
        assert pack.find(bytes([n]) + bytes(19)) is None
        assert pack.find(bytes([n]) + b"\xff" * 19) is None
    assert pack.oids() == sorted(entry.oid for entry in entries)


def test_a_damaged_entry_is_not_copied(bare: Path) -> None:
    sound, damaged = make_entry("blob", [content(100)]), make_entry("blob", [content(70_000)])
    path = write(bare / "objects/pack", [sound, damaged])
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    objects = Objects(bare)
    assert objects.entry(sound.oid) == sound
    with pytest.raises(ObjectDamagedError, match=r"is damaged: the entry's CRC-32"):
        objects.entry(damaged.oid)
    assert objects.entry(bytes(20)) is None


def test_an_abandoned_pack_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "pack", 1)
    writer.add(make_entry("blob", [b"x"]))
    writer.abandon()
    assert list((tmp_path / "pack").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_the_machine_refuses_becomes_a_sentence(tmp_path: Path, number: int) -> None:
    error = packs.no_room(OSError(number, "reason"), tmp_path)
    assert isinstance(error, MachineError)
    assert str(tmp_path) in str(error)
    other = OSError(errno.EIO, "reason")
    assert packs.no_room(other, tmp_path) is other


# ---- reading what Git wrote -------------------------------------------------------------------------------------------


def test_objects_of_a_packed_repository_with_deltas(bare: Path, git: Git) -> None:
    objects = Objects(bare)
    text = content(30_000).hex().encode()
    versions = [text + b"%d\n" % n for n in range(6)]
    oids = [git(bare, "hash-object", "-w", "--stdin", input=version).strip() for version in versions]
    for oid, version in zip(oids, versions, strict=True):
        assert objects.read(bytes.fromhex(oid)) == ("blob", version), "loose"
    tree = git(
        bare, "mktree", input=b"".join(b"100644 blob %s\tf%d\n" % (o.encode(), n) for n, o in enumerate(oids))
    )
    git(bare, "update-ref", "refs/keep", _commit(git, bare, tree.strip()))
    git(bare, "repack", "-a", "-d", "-f", "--depth=5", "--window=6")
    git(bare, "prune-packed")
    (path,) = (bare / "objects/pack").glob("*.pack")
    listed = git(bare, "verify-pack", "-v", str(path.with_suffix(".idx")))
    assert "chain length" in listed, "the pack must hold deltas"
    for reader in (objects, Objects(bare)):
        for oid, version in zip(oids, versions, strict=True):
            kind, read = reader.read(bytes.fromhex(oid))
            assert (kind, bytes(read)) == ("blob", version)
            size, head = reader.head(bytes.fromhex(oid), 100)
            assert (size, bytes(head[:100])) == (len(version), version[:100])
            assert reader.entry(bytes.fromhex(oid)) is None
        assert reader.expect(bytes.fromhex(tree.strip()), "tree")


def _commit(git: Git, bare: Path, tree: str) -> str:
    text = f"tree {tree}\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\nm\n".encode()
    return git(bare, "hash-object", "-t", "commit", "-w", "--stdin", input=text).strip()


def test_compression_of_git_is_read_without_libgit2(bare: Path, git: Git) -> None:
    text = b"compressible " * 10_000
    oid = git(bare, "hash-object", "-w", "--stdin", input=text).strip()
    git(bare, "pack-objects", str(bare / "objects/pack/pack"), input=oid.encode() + b"\n")
    (pack,) = Objects(bare).packs()
    offset = pack.find(bytes.fromhex(oid))
    assert offset is not None
    found = pack.read(offset)
    assert found is not None
    assert (found[0], bytes(found[1])) == (3, text)


def test_a_new_pack_is_seen_and_a_deleted_one_forgotten(bare: Path) -> None:
    objects = Objects(bare)
    first, second = make_entry("blob", [b"first"]), make_entry("blob", [b"second"])
    path = write(bare / "objects/pack", [first])
    assert path is not None
    assert objects.read(first.oid)[1] == b"first"
    with pytest.raises(ObjectMissingError, match=second.oid.hex()):
        objects.read(second.oid)
    write(bare / "objects/pack", [second])
    assert objects.read(second.oid)[1] == b"second"
    path.with_suffix(".idx").unlink()
    path.unlink()
    assert objects.read(second.oid)[1] == b"second"
    assert [pack.count for pack in objects.packs()] == [1]
    with pytest.raises(ObjectMissingError):
        objects.read(first.oid)


def test_what_is_absent(bare: Path, git: Git, tmp_path: Path) -> None:
    packed, nowhere = make_entry("blob", [b"packed"]), make_entry("blob", [b"nowhere"])
    write(bare / "objects/pack", [packed])
    loose = bytes.fromhex(git(bare, "hash-object", "-w", "--stdin", input=b"loose").strip())
    lender = tmp_path / "lender.git"
    subprocess.run(["git", "init", "-q", "--bare", str(lender)], check=True)
    lent = bytes.fromhex(git(lender, "hash-object", "-w", "--stdin", input=b"lent").strip())
    objects = Objects(bare)
    asked = [nowhere.oid, packed.oid, lent, loose, nowhere.oid]
    assert objects.absent(asked) == [nowhere.oid, lent]
    (bare / "objects/info/alternates").write_text(f"{lender}/objects\n")
    assert Objects(bare).absent(asked) == [nowhere.oid]
    write(bare / "objects/pack", [nowhere])
    assert Objects(bare).absent(asked) == objects.absent([nowhere.oid]) == []


def test_the_wrong_kind(bare: Path) -> None:
    entry = make_entry("blob", [b"x"])
    write(bare / "objects/pack", [entry])
    with pytest.raises(ObjectDamagedError, match="is a blob, not a tree"):
        Objects(bare).expect(entry.oid, "tree")


# ---- damage -----------------------------------------------------------------------------------------------------------


def _use(bare: Path, oids: list[bytes]) -> list[bytes | None]:
    """What reading gives, None for an error of the store; any other error escapes."""
    results: list[bytes | None] = []
    for oid in oids:
        for act in ("read", "head", "entry"):
            objects = Objects(bare)
            try:
                found = getattr(objects, act)(*((oid, 64) if act == "head" else (oid,)))
            except StoreError:
                found = None
            if act == "read":
                results.append(bytes(found[1]) if found else None)
    return results


@pytest.mark.parametrize("suffix", [".pack", ".idx"])
def test_every_damaged_byte_is_an_error_of_the_store_or_harmless(bare: Path, suffix: str) -> None:
    contents = [b"some content of a blob" * 3, b"", b"x" * 40]
    entries = [make_entry("blob", [text]) for text in contents]
    path = write(bare / "objects/pack", entries)
    assert path is not None
    file = path.with_suffix(suffix)
    file.chmod(0o644)
    good = file.read_bytes()
    # All of a pack; of an index, all but the long stretches of the fan-out where every entry is alike.
    places = range(len(good)) if suffix == ".pack" else [*range(0, 1032, 37), *range(1032, len(good))]
    for at in places:
        for flip in (0x80, 0x01, 0x7F):
            # The file must be replaced: an earlier reader still maps the old one.
            file.unlink()
            file.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            _use(bare, [entry.oid for entry in entries])


@pytest.mark.parametrize("suffix", [".pack", ".idx"])
def test_a_truncated_file(bare: Path, suffix: str) -> None:
    entry = make_entry("blob", [content(300)])
    path = write(bare / "objects/pack", [entry])
    assert path is not None
    file = path.with_suffix(suffix)
    good = file.read_bytes()
    for size in [*range(0, len(good), 61), len(good) - 21]:
        file.unlink()
        file.write_bytes(good[:size])
        assert _use(bare, [entry.oid])[0] in (None, content(300))


def test_an_entry_that_claims_a_huge_size_costs_nothing(bare: Path) -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    packed = entry_header(3, 1 << 50) + bomb
    oid = hashlib.sha1(b"bomb").digest()
    path = write(bare / "objects/pack", [Entry(oid, packed, zlib.crc32(packed))])
    assert path is not None
    with pytest.raises(StoreError):
        Objects(bare).read(oid)


def test_an_index_that_is_none(bare: Path) -> None:
    path = write(bare / "objects/pack", [make_entry("blob", [b"x"])])
    assert path is not None
    index = path.with_suffix(".idx")
    index.unlink()
    index.write_bytes(b"\0" * 2000)
    with pytest.raises(ObjectDamagedError, match="index"):
        Objects(bare).read(bytes(20))


def test_a_pack_without_its_index_is_not_there(bare: Path) -> None:
    entry = make_entry("blob", [b"x"])
    path = write(bare / "objects/pack", [entry])
    assert path is not None
    path.with_suffix(".idx").unlink()
    with pytest.raises(ObjectMissingError):
        Objects(bare).read(entry.oid)


def test_the_header_of_a_pack_is_documented(bare: Path) -> None:
    path = write(bare / "objects/pack", [make_entry("blob", [b"x"]), make_entry("blob", [b"y"])], expected=7)
    assert path is not None
    assert struct.unpack(">4sII", path.read_bytes()[:12]) == (b"PACK", 2, 2)


# ---- what goes into the user's repository -------------------------------------------------------------------------------


def pieces(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]


HEADER = b'{"a": 1}' * 20_000
"""Of a file whose data does not compress: it must not mislead."""


@pytest.mark.parametrize("data", [HEADER + content(1 << 20), b"text\n" * 300_000, b"x"])
def test_an_object_that_comes_in_pieces(bare: Path, data: bytes, git: Git) -> None:
    writer = PackWriter(bare / "objects/pack", 0)
    oid = writer.stream("blob", len(data), pieces(data, 70_000), known=lambda oid: False)
    path = writer.finish()
    assert path is not None
    assert oid == make_entry("blob", [data]).oid
    git(bare, "fsck", "--strict", "--full")
    assert git(bare, "cat-file", "-s", oid.hex()).strip() == str(len(data))
    assert git(bare, "rev-parse", f"{oid.hex()}^{{blob}}").strip() == oid.hex()
    small = path.stat().st_size < len(data) / 10
    assert small == (data[:1] == b"t")


def test_a_streamed_object_that_is_there_already_is_taken_back(bare: Path, git: Git) -> None:
    folder, data = bare / "objects/pack", content(200_000)
    others = [make_entry("blob", [content(n)]) for n in range(1, 4)]
    writer = PackWriter(folder, 3)
    writer.add(others[0])
    assert writer.stream("blob", len(data), [data], known=lambda oid: True) == make_entry("blob", [data]).oid
    writer.add(others[1])
    writer.stream("blob", 2, [content(2)], known=lambda oid: False)  # the pack has it
    writer.add(others[2])
    assert len(writer) == 3
    path, expected = writer.finish(), write(bare / "expected", others)
    assert path is not None and expected is not None
    assert path.read_bytes() == expected.read_bytes()
    git(bare, "fsck", "--strict", "--full")


@pytest.mark.parametrize("parts", [[b"abc"], [b"abcd", b"e"], []])
def test_a_streamed_object_of_another_length_is_refused(tmp_path: Path, parts: list[bytes]) -> None:
    writer = PackWriter(tmp_path, 0)
    with pytest.raises(ValueError, match="not 4"):
        writer.stream("blob", 4, parts, known=lambda oid: False)
    writer.abandon()


def test_compressed_entries_are_what_git_reads(bare: Path, git: Git) -> None:
    tree = deflated_entry("tree", b"")
    who = b"A <a@b> 0 +0000"
    commit = deflated_entry(
        "commit", b"tree %b\nauthor %b\ncommitter %b\n\nx\n" % (tree.oid.hex().encode(), who, who)
    )
    tag = deflated_entry(
        "tag", b"object %b\ntype commit\ntag v\ntagger %b\n\nx\n" % (commit.oid.hex().encode(), who)
    )
    text = deflated_entry("blob", b"word " * 1000)
    assert len(text.packed) < 100
    write(bare / "objects/pack", [tree, commit, tag, text])
    git(bare, "update-ref", "refs/tags/v", tag.oid.hex())
    git(bare, "fsck", "--strict", "--full")
    assert git(bare, "cat-file", "blob", text.oid.hex()) == "word " * 1000


def test_a_pack_without_objects(bare: Path) -> None:
    """Git keeps one where a fetch brings nothing new."""
    command = ["git", "--git-dir", str(bare), "pack-objects", "-q", str(bare / "objects/pack/pack")]
    subprocess.run(command, input=b"", capture_output=True, check=True)
    (pack,) = Objects(bare).packs()
    assert pack.entries() == []
    assert pack.oids() == []
    assert pack.find(bytes(20)) is None
