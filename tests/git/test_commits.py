import pytest

from git_gru.errors import InputError
from git_gru.git.commits import (
    ConflictedIndexError,
    RefMovedError,
    build_commit,
    move_ref,
    snapshot_dirty,
    worktree,
)
from git_gru.git.revisions import UnbornBranchError, models_at
from git_gru.store.ingest import ingest_tensors

REF = "refs/heads/gru/run"


@pytest.fixture
def manifest(repo, make_arrays):
    parts = [(name, "F32", array.shape, array.tobytes()) for name, array in make_arrays(9).items()]
    return ingest_tensors(repo.repository.store(), parts, {"step": "1"})


def commit(repo, manifest, source, path="models/a.safetensors", parent=None, expected=None):
    message = "train: step 1\n\nGru-Step: 1"
    made = build_commit(
        repo.repository,
        source_commit=source,
        path=path,
        manifest=manifest,
        message=message,
        parent=parent or source,
    )
    move_ref(repo.repository, REF, made, expected, message)
    return made


def everything(repo) -> tuple[str, bytes, str]:
    """What a plumbing commit must leave alone."""
    return repo.status(), repo.read(".git/index"), repo.git("rev-parse", "HEAD")


def test_a_commit_changes_one_path_and_nothing_of_the_users(repo, manifest, make_arrays):
    repo.write("models/readme.txt", b"x")
    repo.write("models/a.safetensors", make_arrays(1))
    source = repo.commit("first")
    repo.write("models/readme.txt", b"being edited")
    repo.write("new.txt", b"not added")
    before = everything(repo)
    made = commit(repo, manifest, source)
    assert everything(repo) == before
    assert repo.git("rev-parse", REF).strip() == made
    assert repo.git("diff", "--name-status", source, made) == "M\tmodels/a.safetensors\n"
    assert repo.git("log", "-1", "--format=%an %P %s", made).strip() == f"A U Thor {source} train: step 1"
    assert repo.git("log", "-1", "--format=%(trailers:key=Gru-Step,valueonly)", made).strip() == "1"
    assert models_at(repo.repository, made)["models/a.safetensors"] == manifest
    repo.git("fsck", "--strict")


def test_folders_are_made_and_the_next_commit_follows(repo, manifest):
    source = repo.commit("first")
    first = commit(repo, manifest, source, path="new/deep/a.safetensors")
    second = commit(repo, manifest, source, path="b.safetensors", parent=first, expected=first)
    assert repo.git("rev-parse", f"{second}^").strip() == first
    assert list(models_at(repo.repository, second)) == ["b.safetensors"]  # the tree is the source's
    repo.git("fsck", "--strict")


def test_of_two_writers_one_is_told(repo, manifest):
    source = repo.commit("first")
    first = commit(repo, manifest, source)
    for expected in (None, source):
        with pytest.raises(RefMovedError, match="somebody else"):
            commit(repo, manifest, source, expected=expected)
    assert repo.git("rev-parse", REF).strip() == first


@pytest.mark.parametrize("path", ["", "/abs.pt", "a/../b.pt", ".git/x", "models", "notes.txt/a.pt"])
def test_paths_that_cannot_be(repo, manifest, path):
    repo.write("models/x", b"x")
    repo.write("notes.txt", b"x")
    source = repo.commit("first")
    with pytest.raises(InputError):
        commit(repo, manifest, source, path=path)
    assert repo.git("for-each-ref", "refs/heads/gru") == ""


def test_a_snapshot_holds_the_worktree_and_leaves_it(repo, make_arrays):
    model = repo.write("a.safetensors", make_arrays(1))
    repo.write("gone.txt", b"x")
    repo.write(".gitignore", b"*.log\n")
    head = repo.commit("first")
    repo.write("a.safetensors", make_arrays(2))
    repo.git("add", "a.safetensors")
    model = repo.write("a.safetensors", make_arrays(3))  # staged, then changed again
    repo.write("new.txt", b"new")
    repo.write("x.log", b"ignored")
    (repo.path / "gone.txt").unlink()
    before = everything(repo)
    made = snapshot_dirty(repo.repository, "refs/gru/snapshot")
    assert everything(repo) == before
    assert repo.git("diff", "--name-status", head, made).split() == [
        "M",
        "a.safetensors",
        "D",
        "gone.txt",
        "A",
        "new.txt",
    ]
    assert repo.git("rev-parse", f"{made}^", "refs/gru/snapshot").split() == [head, made]
    repo.git("checkout", "-q", "--force", made)
    assert repo.read("a.safetensors") == model
    assert not list((repo.path / ".git").glob("gru-snapshot*"))


def test_a_clean_worktree_is_head_itself(repo):
    head = repo.commit("first")
    assert snapshot_dirty(repo.repository, "refs/gru/snapshot") == head


def test_no_snapshot_of_what_is_no_state(repo, make_arrays):
    with pytest.raises(UnbornBranchError):
        snapshot_dirty(repo.repository, "refs/gru/snapshot")
    repo.write("a.txt", b"1\n")
    repo.commit("first")
    repo.git("switch", "-q", "-c", "side")
    repo.write("a.txt", b"2\n")
    repo.commit("2")
    repo.git("switch", "-q", "main")
    repo.write("a.txt", b"3\n")
    repo.commit("3")
    repo.git("merge", "side", check=False)
    with pytest.raises(ConflictedIndexError):
        snapshot_dirty(repo.repository, "refs/gru/snapshot")


def test_a_temporary_worktree(repo, make_arrays):
    model = repo.write("a.safetensors", make_arrays(1))
    head = repo.commit("first")
    hook = repo.path / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\ntouch ran\n")
    hook.chmod(0o755)
    with worktree(repo.repository, head) as place:
        assert (place / "a.safetensors").read_bytes() == model
        assert not (place / "ran").exists()
        assert place.is_relative_to(repo.path / ".git/gru/worktrees")
    with worktree(repo.repository, head, weights=False) as place:
        assert (place / "a.safetensors").read_bytes().startswith(b'{"git-gru"')
    assert not place.exists()
    assert repo.git("worktree", "list").count("\n") == 1


def test_what_a_killed_process_left_is_swept(repo):
    import socket
    import subprocess

    head = repo.commit("first")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = repo.path / f".git/gru/worktrees/{socket.gethostname()}-{ended.pid}-abcd"
    repo.git("worktree", "add", "-q", "--detach", str(left), head)
    other = left.with_name("another-host-1-abcd")
    other.mkdir()
    with worktree(repo.repository, head):
        assert not left.exists()
        assert other.exists()
    assert repo.git("worktree", "list").count("\n") == 1
