"""The store's trees: in Git's own form, strict when read, the same for the same models."""

import contextlib
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_gru.errors import StoreError
from git_gru.ids import digest
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.trees import (
    BLOB_MODE,
    EMPTY_TREE,
    FORMAT_TEXT,
    TREE_MODE,
    StoreTree,
    TreeError,
    TreeItem,
    make_commit,
    make_model_tree,
    make_tree,
    model_blobs,
    model_deltas,
    parse_tree,
)

Git = Callable[..., str]
OID = bytes(range(20))
IDS = [digest(bytes([n])) for n in range(40)]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    return path


def write(bare: Path, *entries: object) -> Objects:
    writer = PackWriter(bare / "objects/pack", len(entries))
    for entry in entries:
        writer.add(entry)  # type: ignore[arg-type]
    writer.finish()
    return Objects(bare)


def test_names_stand_in_gits_order(bare: Path, git: Git) -> None:
    blob = make_entry("blob", [b""])
    inner = make_tree({b"x": (BLOB_MODE, blob.oid)})
    tree = make_tree(
        {
            b"a": (TREE_MODE, inner.oid),
            b"a.b": (BLOB_MODE, blob.oid),
            b"a0": (BLOB_MODE, blob.oid),
            b"a-": (BLOB_MODE, blob.oid),
        }
    )
    write(bare, blob, inner, tree)
    git(bare, "fsck", "--strict", "--full")
    assert git(bare, "ls-tree", "--name-only", tree.oid.hex()).split() == ["a-", "a.b", "a", "a0"]


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=6).filter(lambda n: b"\0" not in n), st.booleans(), max_size=6
    )
)
@settings(deadline=None, max_examples=100)
def test_a_tree_is_read_back(names: dict[bytes, bool]) -> None:
    items = {name: (TREE_MODE if folder else BLOB_MODE, OID) for name, folder in names.items()}
    entry = make_tree(items)
    content = zlib.decompress(entry.packed[entry.packed.index(b"\x78\x9c") :])
    parsed = list(parse_tree(content, where="x"))
    assert {item.name: (item.mode, item.oid) for item in parsed} == items


@given(st.binary(max_size=120))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_a_tree_or_a_tree_error(data: bytes) -> None:
    for text in (data, b"100644 " + data, b"40000 a\0" + data):
        with contextlib.suppress(TreeError):
            assert all(len(item.oid) == 20 for item in parse_tree(text, where="x"))


@pytest.mark.parametrize(
    "text",
    [b"100644", b"100644 a", b"100644 a\0", b"100644 a\0" + bytes(19), b"100644 a\0" + bytes(21), b"\0" * 30],
)
def test_malformed_trees(text: bytes) -> None:
    with pytest.raises(TreeError, match="the tree is malformed"):
        list(parse_tree(text, where="x"))


def test_the_empty_tree_is_gits() -> None:
    assert EMPTY_TREE.hex() == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    assert make_tree({}).oid == EMPTY_TREE


def test_a_model_tree(bare: Path) -> None:
    blobs = dict.fromkeys(IDS[:5], OID)
    tree = make_model_tree(blobs, set(IDS[:2]))
    objects = write(bare, tree)
    assert model_blobs(objects, tree.oid) == blobs
    assert model_deltas(objects, tree.oid) == set(IDS[:2])


@pytest.mark.parametrize(
    "items",
    [
        {b"x": (BLOB_MODE, OID)},
        {IDS[0].upper().encode(): (BLOB_MODE, OID)},
        {IDS[0].encode(): (TREE_MODE, OID)},
        {IDS[0].encode(): (b"120000", OID)},
        {b"\xff" * 64: (BLOB_MODE, OID)},
    ],
)
def test_a_model_tree_with_anything_else_is_refused(
    bare: Path, items: dict[bytes, tuple[bytes, bytes]]
) -> None:
    tree = make_tree(items)
    with pytest.raises(TreeError, match="is not a chunk"):
        model_blobs(write(bare, tree), tree.oid)


def test_the_commit_is_a_function_of_its_tree() -> None:
    assert make_commit(OID) == make_commit(OID)
    assert make_commit(OID) != make_commit(bytes(20))


def test_an_empty_store(bare: Path) -> None:
    tree = StoreTree(Objects(bare), None)
    assert tree.models() == {}
    assert tree.model(IDS[0]) is None


def test_models_are_added_replaced_and_dropped(bare: Path, git: Git) -> None:
    blob = make_entry("blob", [b"chunk"])
    trees = [make_model_tree({id: blob.oid}, ()) for id in IDS[:3]]
    objects = write(bare, blob, *trees)
    state = StoreTree(objects, None)
    first, entries = state.write(dict.fromkeys(IDS, trees[0].oid))
    objects = write(bare, *entries)
    state = StoreTree(objects, first)
    assert state.models() == dict.fromkeys(IDS, trees[0].oid)
    git(bare, "update-ref", "refs/gru/store", first.hex())
    git(bare, "fsck", "--strict", "--full")
    assert git(bare, "show", f"{first.hex()}:format") == FORMAT_TEXT.decode()
    assert git(bare, "cat-file", "-p", f"{first.hex()}:models/{IDS[7][:2]}/{IDS[7][2:]}").split()[3] == IDS[0]

    second, entries = state.write({IDS[0]: trees[1].oid, IDS[1]: None})
    state = StoreTree(write(bare, *entries), second)
    assert state.model(IDS[0]) == trees[1].oid
    assert state.model(IDS[1]) is None
    assert len(state.models()) == len(IDS) - 1
    assert {second, *(entry.oid for entry in entries)} >= {second}
    again, _ = state.write({IDS[0]: trees[0].oid, IDS[1]: trees[0].oid})
    assert again == first, "the same models are the same commit"

    last, entries = state.write(dict.fromkeys(IDS))
    state = StoreTree(write(bare, *entries), last)
    assert state.models() == {}
    again, _ = state.write(dict.fromkeys(IDS, trees[0].oid))
    assert again == first


def test_a_store_of_a_later_format_says_so(bare: Path) -> None:
    text = make_entry("blob", [b"git-gru store 2\n"])
    root = make_tree({b"format": (BLOB_MODE, text.oid), b"models": (TREE_MODE, EMPTY_TREE)})
    commit = make_commit(root.oid)
    with pytest.raises(TreeError, match="git-gru store 2") as caught:
        StoreTree(write(bare, text, root, commit), commit.oid)
    assert "newer" in (caught.value.hint or "")


def test_states_that_are_none(bare: Path) -> None:
    text = make_entry("blob", [FORMAT_TEXT])
    no_models = make_tree({b"format": (BLOB_MODE, text.oid)})
    digests = make_tree({IDS[0][2:].encode(): (TREE_MODE, EMPTY_TREE)})
    bad_group = make_tree({b"xy": (TREE_MODE, digests.oid)})
    group = make_tree({b"not a digest": (TREE_MODE, EMPTY_TREE)})
    in_group = make_tree({b"ab": (TREE_MODE, group.oid)})
    roots = [
        make_tree({b"format": (BLOB_MODE, text.oid), b"models": (TREE_MODE, models.oid)})
        for models in (bad_group, in_group)
    ]
    commits = [make_commit(root.oid) for root in (no_models, *roots)]
    broken = [
        make_entry("commit", [text]) for text in (b"", b"tree ", b"tree " + b"g" * 40 + b"\n", b"parent x\n")
    ]
    objects = write(bare, text, no_models, digests, bad_group, group, in_group, *roots, *commits, *broken)
    for entry in (*commits, *broken, text, no_models):
        with pytest.raises(StoreError):
            StoreTree(objects, entry.oid).models()
    with pytest.raises(ObjectMissingError):
        StoreTree(objects, OID)


def test_a_tree_item_has_its_parts() -> None:
    (item,) = parse_tree(b"40000 ab\0" + OID, where="x")
    assert item == TreeItem(b"40000", b"ab", OID)
