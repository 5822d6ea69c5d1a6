import hashlib

import pytest

from git_gru.git.migrate.objects import (
    HostileTreeError,
    NewPack,
    ObjectMissingError,
    ObjectReader,
    object_name,
)


def test_blobs_are_read_whole_in_pieces_and_from_their_start(history):
    data = hashlib.sha256(b"x").digest() * 100_000
    oid = bytes.fromhex(history.put("blob", data))
    assert oid == object_name("blob", data)
    with ObjectReader(history.repository) as reader:
        assert reader.size(oid) == len(data)
        assert reader.start(oid, 10) == data[:10]
        for _ in range(2):
            source, buffer, found = reader.stream(oid), bytearray(70_000), b""
            while count := source.readinto(memoryview(buffer)):
                found += buffer[:count]
            assert found == data
            assert reader.read(oid, "blob") == data


def test_what_is_missing_or_something_else_is_an_error(history):
    blob = bytes.fromhex(history.put("blob", b"x"))
    with ObjectReader(history.repository) as reader:
        with pytest.raises(ObjectMissingError, match="the tree 0{40} is missing"):
            reader.tree(bytes(20))
        with pytest.raises(ObjectMissingError, match="is a blob, not a commit"):
            reader.read(blob, "commit")
        assert reader.read(blob, "blob") == b"x"  # the talk goes on


def test_replaced_objects_are_read_as_they_are(history):
    old, new = history.put("blob", b"old"), history.put("blob", b"new")
    history.git("replace", old, new)
    with ObjectReader(history.repository) as reader:
        assert reader.read(bytes.fromhex(old), "blob") == b"old"


@pytest.mark.parametrize("name", [b"..", b".git", b"a/b", b""])
def test_names_that_lead_elsewhere_are_refused(history, run, name):
    blob = bytes.fromhex(history.put("blob", b"x"))
    inner = bytes.fromhex(history.put("tree", b"100644 .gitattributes\0" + blob))
    root = history.put("tree", b"40000 %b\0%b" % (name, inner))
    who = b"A <a@b> 1 +0000"
    text = b"tree %b\nauthor %b\ncommitter %b\n\nx\n" % (root.encode(), who, who)
    history.put("commit", text, "refs/heads/hostile")
    history.git("symbolic-ref", "HEAD", "refs/heads/none")
    with pytest.raises(HostileTreeError, match="which Git forbids"):
        run(history, "git", "*.bin")


def test_a_pack_is_seen_when_it_is_finished_and_gone_when_it_is_not(history):
    folder = history.path / ".git/objects/pack"
    with NewPack(history.repository) as pack:
        pack.put("blob", b"x")
        assert [path.name.startswith("tmp_pack_") for path in folder.iterdir()] == [True]
    assert list(folder.iterdir()) == []
    with NewPack(history.repository) as pack:
        oid = pack.put("blob", b"x")
        big = pack.put_blob(6, [b"abc", b"def"])
        pack.finish()
    assert [history.raw(name.hex(), "blob") for name in (oid, big)] == [b"x", b"abcdef"]
    assert len(list(folder.iterdir())) == 2
