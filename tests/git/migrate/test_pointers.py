import hashlib
import io

import pytest

from git_gru.git.migrate.pointers import (
    CheckedSource,
    ContentChangedError,
    LfsObjects,
    Pointer,
    PointerError,
    parse_pointer,
)

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
TEXT = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % OID.encode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace(b"\n", b"\r\n"),
        TEXT[:-1],
        TEXT.replace(b"git-lfs.github.com", b"hawser.github.com"),
        TEXT.replace(b"https://git-lfs.github.com/spec/v1", b"http://git-media.io/v/2"),
        TEXT + b"\n",
        TEXT + b"x-new 1\n",
    ],
)
def test_pointers_as_git_lfs_and_its_ancestors_wrote_them(text):
    assert parse_pointer(text, where="m.bin") == Pointer(OID, 12345)


@pytest.mark.parametrize("data", [b"", b"weights", b"version 1\n", TEXT + bytes(1024), b" " + TEXT])
def test_other_files_are_no_pointers(data):
    assert parse_pointer(data, where="m.bin") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (TEXT.replace(b"sha256", b"sha1"), "is none"),
        (TEXT.replace(b"4d7a", b"4D7A"), "is none"),
        (TEXT.replace(b"12345", b"-1"), "is none"),
        (TEXT.replace(b"size 12345\n", b""), "is none"),
        (TEXT.replace(b"/spec/v1", b"/spec/v1.5"), "is none"),
        (TEXT.replace(b"oid", b"ext-0-foo sha256:%s\noid" % OID.encode()), "extension"),
    ],
)
def test_a_broken_pointer_is_an_error_that_names_the_file(text, word):
    with pytest.raises(PointerError, match=rf"m\.bin.*{word}"):
        parse_pointer(text, where="m.bin")


def test_objects_are_found_where_git_lfs_puts_them(plain_repo, pointer_to):
    data = b"weights"
    pointer = parse_pointer(pointer_to(data, plain_repo.path), where="")
    objects = LfsObjects(plain_repo.repository)
    assert objects.has(pointer)
    with objects.open(pointer) as source:
        buffer = bytearray(100)
        assert source.readinto(memoryview(buffer)) == len(data)
        assert source.readinto(memoryview(buffer)) == 0
    assert not objects.has(Pointer(pointer.oid, 6))
    assert not objects.has(Pointer(OID, 12345))
    assert objects.has(Pointer(hashlib.sha256(b"").hexdigest(), 0))
    plain_repo.git("config", "lfs.storage", "elsewhere")
    assert not LfsObjects(plain_repo.repository).has(pointer)
    (plain_repo.path / ".git/lfs").rename(plain_repo.path / ".git/elsewhere")
    assert LfsObjects(plain_repo.repository).has(pointer)


def test_other_bytes_than_their_name_says_are_an_error():
    source = CheckedSource(
        io.BytesIO(b"weighty"), hashlib.sha256(), hashlib.sha256(b"weights").hexdigest(), "the file f"
    )
    buffer = bytearray(4)
    assert [source.readinto(memoryview(buffer)) for _ in range(2)] == [4, 3]
    with pytest.raises(ContentChangedError, match="the file f is damaged"):
        source.readinto(memoryview(buffer))
