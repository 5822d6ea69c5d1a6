"""Imports and exports as wholes: git-lfs's files, what is refused, what is kept, and what an end in the middle leaves."""

import os
import subprocess
import sys

import pytest

from git_gru.errors import GruError, InputError
from git_gru.git.commits import RefMovedError
from git_gru.git.migrate import migration, refs
from git_gru.git.migrate.migration import Stage, undo
from git_gru.git.migrate.pointers import ContentChangedError, PointerError
from git_gru.git.migrate.refs import NoMigrationError
from git_gru.git.migrate.survey import LfsObjectMissingError
from git_gru.git.migrate.trees import AttributesPlaceError, PatternOfAttributesError
from git_gru.git.migrate.worktree import OtherWorktreeError, ShallowError
from git_gru.git.revisions import UnknownRevisionError
from git_gru.git.state import DirtyWorktreeError, OperationInProgressError
from git_gru.store.store import ModelMissingError

OURS = b"filter=gru diff=gru merge=gru -text"
LFS = b"filter=lfs diff=lfs merge=lfs -text"


@pytest.fixture
def work(plain_repo):
    """Two branches with two versions of a plain file, a tag, and text."""
    plain_repo.write("m.bin", b"version one")
    plain_repo.write("notes.txt", b"text\n")
    plain_repo.commit("one")
    plain_repo.git("tag", "-a", "-m", "t", "v1")
    plain_repo.git("branch", "side")
    plain_repo.write("m.bin", b"version two, longer")
    plain_repo.commit("two")
    return plain_repo


def everything(work) -> tuple[str, ...]:
    """All that a refused or interrupted migration must leave alone."""
    folder = work.path / ".git/objects/pack"
    temporary = [path.name for path in folder.iterdir() if path.name.startswith("tmp_")]
    return work.git("for-each-ref"), work.status(), work.git("config", "--local", "--list"), repr(temporary)


# ---- git-lfs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lfs(plain_repo, history, pointer_to):
    """A history of git-lfs, made by hand: pointers from the second commit on, one file of plain Git before, a deeper attributes
    file, a line of a narrower pattern, an empty file's pointer.
    """
    top = b"# models\n*.bin " + LFS + b"\nbig/x.bin " + LFS + b"\n*.zip " + LFS + b"\n"
    files = {
        "m.bin": b"weights one",
        "big/x.bin": b"x" * 5000,
        "in/deep.bin": b"deep",
        "a.zip": b"zip",
        "empty.bin": b"",
    }
    pointers = {path: pointer_to(data, plain_repo.path) for path, data in files.items()}
    attributes = {".gitattributes": top, "in/.gitattributes": b"*.bin " + LFS + b"\n"}
    first = history.commit({"m.bin": b"before lfs"})
    second = history.commit({**pointers, **attributes}, first)
    last = history.commit(
        {**pointers, **attributes, "m.bin": pointer_to(b"weights two", plain_repo.path)},
        second,
        ref="refs/heads/main",
    )
    plain_repo.git("reset", "-q", "--hard")
    plain_repo.ids = (first, second, last)
    return plain_repo


def test_pointers_become_models_and_their_lines_ours(lfs, history, run):
    done = run(lfs, "lfs", "*.bin")
    first, second, last = (done.commits[oid] for oid in lfs.ids)
    assert history.files(first) == {
        ".gitattributes": ("100644", b"*.bin " + OURS + b"\n"),
        "m.bin": ("100644", b"before lfs"),
    }
    files = {path: data for path, (_, data) in history.files(last).items()}
    top = b"# models\n*.bin " + OURS + b"\nbig/x.bin " + OURS + b"\n*.zip " + LFS + b"\n"
    assert files.pop(".gitattributes") == top
    assert files.pop("in/.gitattributes") == b"*.bin " + OURS + b"\n"
    assert files.pop("a.zip").startswith(b"version https://git-lfs")
    assert files == {
        "m.bin": b"weights two",
        "big/x.bin": b"x" * 5000,
        "in/deep.bin": b"deep",
        "empty.bin": b"",
    }
    assert history.files(second)["m.bin"] == ("100644", b"weights one")
    assert history.models(last) == {"m.bin", "big/x.bin", "in/deep.bin"}
    assert [(model.path, model.count, model.bytes) for model in done.models if model.path == "m.bin"] == [
        ("m.bin", 3, len(b"before lfs" + b"weights one" + b"weights two"))
    ]


def test_the_worktree_gets_the_files_in_place_of_pointers(lfs, run):
    run(lfs, "lfs", "*.bin")
    assert lfs.status() == ""
    assert (lfs.read("m.bin"), lfs.read("in/deep.bin"), lfs.read("empty.bin")) == (
        b"weights two",
        b"deep",
        b"",
    )
    assert len(lfs.repository.store().models()) == 5  # no pointer was taken for a model
    undo(lfs.repository, None)
    assert lfs.status() == ""
    assert lfs.read("m.bin").startswith(b"version https://git-lfs")


def test_missing_objects_are_listed_and_nothing_is_changed(lfs, run):
    gone = [
        path
        for path in (lfs.path / ".git/lfs/objects").rglob("*")
        if path.is_file() and path.stat().st_size in (4, 11)
    ]
    for path in gone:
        path.unlink()
    before = everything(lfs)
    with pytest.raises(LfsObjectMissingError, match="nothing was changed") as told:
        run(lfs, "lfs", "*.bin")
    assert told.value.hint.startswith("Bring them: git lfs fetch --all")
    lines = str(told.value).splitlines()[1:]
    assert len(gone) == len(lines) == 3
    assert {line.partition(":")[0].strip().partition(" in commit ")[0] for line in lines} == {
        "m.bin",
        "in/deep.bin",
    }
    assert {line.rpartition(" ")[2] for line in lines} == {path.name for path in gone}
    assert lfs.ids[1][:10] in str(told.value)
    assert everything(lfs) == before
    assert not (lfs.path / ".git/gru").exists()


def test_a_damaged_object_of_the_right_length_is_noticed(lfs, run):
    (path,) = [
        p for p in (lfs.path / ".git/lfs/objects").rglob("*") if p.is_file() and p.read_bytes() == b"deep"
    ]
    path.write_bytes(b"deeP")
    before = everything(lfs)
    with pytest.raises(ContentChangedError, match=path.name):
        run(lfs, "lfs", "*.bin")
    assert everything(lfs) == before


def test_pointers_are_not_imported_as_if_they_were_files(lfs, run):
    before = everything(lfs)
    with pytest.raises(PointerError, match=r"in/deep\.bin|m\.bin|x\.bin") as told:
        run(lfs, "git", "*.bin")
    assert "--from lfs" in told.value.hint
    assert everything(lfs) == before


def test_what_another_line_says_is_told_and_left(plain_repo, history, pointer_to, run):
    """The pattern names files of one folder; a deeper attributes file goes on giving one of them to git-lfs."""
    kept = pointer_to(b"kept", plain_repo.path)
    files = {"in/a.bin": b"a", "in/deep/b.bin": kept, "in/deep/.gitattributes": b"[bc].bin " + LFS + b"\n"}
    history.commit(files, ref="refs/heads/main")
    plain_repo.git("reset", "-q", "--hard")
    done = run(plain_repo, "git", "in/**/*.bin")
    assert done.stays == {"in/deep/b.bin": "lfs"}
    assert history.models("main") == {"in/a.bin"}
    assert history.files("main")["in/deep/b.bin"] == ("100644", kept)


def test_an_export_lists_the_models_that_are_not_in_the_store(work, run):
    run(work, "git", "*.bin")
    (work.path / ".git/gru").rename(work.path / ".git/aside")
    before = everything(work)
    with pytest.raises(ModelMissingError, match=r"not in the store(.|\n)*m\.bin in commit") as told:
        run(work, "export", "*.bin")
    assert "git gru fetch --all" in told.value.hint
    assert everything(work) == before


# ---- scope, dry run, again ----------------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_changes_nothing(work, run):
    before = everything(work)
    done = run(work, "git", "*.bin", dry_run=True)
    assert everything(work) == before
    assert not (work.path / ".git/gru").exists()
    assert (done.id, done.examined, done.rewritten, done.files, done.bytes) == (None, 2, 2, 2, 11 + 19)
    assert [move.ref for move in done.moves] == ["refs/heads/main", "refs/heads/side", "refs/tags/v1"]
    assert [(model.path, model.count, model.bytes) for model in done.models] == [("m.bin", 2, 30)]
    real = run(work, "git", "*.bin")
    assert (real.examined, real.rewritten, real.files, real.bytes) == (2, 2, 2, 30)


def test_only_the_references_asked_for_move(work, run, tmp_path):
    refs_before = work.git("for-each-ref", "refs/tags", "refs/heads/main")
    done = run(work, "git", "*.bin", refs=("side",), map_file=tmp_path / "map")
    assert [move.ref for move in done.moves] == ["refs/heads/side"]
    assert work.git("for-each-ref", "refs/tags", "refs/heads/main") == refs_before
    assert work.status() == ""
    old, new = (tmp_path / "map").read_text().split()
    assert (old, new) == (work.git("rev-parse", "main~1").strip(), work.git("rev-parse", "side").strip())
    for name in ("nope", "HEAD~1", "--all", "main~1"):
        with pytest.raises(UnknownRevisionError, match="no branch or tag"):
            run(work, "git", "*.bin", refs=(name,))


def test_running_again_has_nothing_to_do(work, run):
    first = run(work, "git", "*.bin")
    before = everything(work)
    again = run(work, "git", "*.bin")
    assert (again.id, again.rewritten, again.moves) == (None, 0, ())
    assert again.commits == {new: new for new in first.commits.values()}
    assert everything(work) == before


def test_a_pattern_without_files_has_no_match(work, run):
    done = run(work, "git", "*.nope")
    assert (done.matched, done.rewritten, done.id) == (False, 0, None)


def test_only_what_is_called_safetensors_is_told_to_be_raw(work, run):
    work.write("bad.safetensors", b"no safetensors")
    work.commit("bad")
    done = run(work, "git", "*.bin", "*.safetensors")
    assert list(done.raw) == ["bad.safetensors"]


def test_many_versions_make_few_packs(plain_repo, history, run):
    commit = ""
    for version in range(40):
        parents = [commit] if commit else []
        commit = history.commit({"m.bin": b"version %d" % version}, *parents, ref="refs/heads/main")
    plain_repo.git("reset", "-q", "--hard")
    done = run(plain_repo, "git", "*.bin")
    assert done.files == 40
    store = plain_repo.repository.store()
    assert (len(store.models()), len(store.objects.packs())) == (40, 1)
    assert history.files("main~39")["m.bin"] == ("100644", b"version 0")


def test_an_export_writes_no_file_twice(work, run, monkeypatch):
    """The blobs of an import from git are still there, so the way back costs the disk nothing but names."""
    big = os.urandom(3_000_000)
    work.write("m.bin", big)
    work.commit("big")
    run(work, "git", "*.bin")
    before = {path: path.stat().st_size for path in (work.path / ".git/objects/pack").glob("*.pack")}
    run(work, "export", "*.bin")
    new = [path for path in (work.path / ".git/objects/pack").glob("*.pack") if path not in before]
    assert sum(path.stat().st_size for path in new) < 10_000
    assert work.read("m.bin") == big


def test_a_bare_repository_can_be_migrated(work, run, at, history_in):
    work.git("clone", "-q", "--bare", str(work.path), "../bare.git")
    bare = at(work.path.parent / "bare.git")
    done = run(bare, "git", "*.bin")
    assert done.rewritten == 2
    assert bare.git("show", "main:m.bin").startswith('{"git-gru": 1,')
    undo(bare.repository, None)
    assert bare.git("show", "main:m.bin") == "version two, longer"


# ---- what is refused ----------------------------------------------------------------------------------------------------


def refused(work, run, error: type[GruError], words: str) -> GruError:
    before = everything(work)
    with pytest.raises(error, match=words) as told:
        run(work, "git", "*.bin")
    assert told.value.hint
    assert everything(work) == before
    return told.value


def test_a_dirty_worktree_is_refused(work, run):
    work.write("notes.txt", b"changed\n")
    refused(work, run, DirtyWorktreeError, r"notes\.txt")
    work.git("add", "notes.txt")
    refused(work, run, DirtyWorktreeError, r"notes\.txt")
    work.git("reset", "-q", "--hard")
    work.write("new.txt", b"not tracked: in nobody's way")
    run(work, "git", "*.bin", dry_run=True)
    work.write(".gitattributes", b"*.txt text\n")
    refused(work, run, DirtyWorktreeError, r"\.gitattributes")


def test_an_operation_in_progress_is_refused(work, run):
    work.git("switch", "-q", "side")
    work.write("m.bin", b"side")
    work.commit("side")
    work.git("merge", "-q", "main", check=False)
    refused(work, run, OperationInProgressError, "merge is not finished")


def test_a_shallow_clone_is_refused(work, run, at):
    work.git("clone", "-q", "--depth=1", f"file://{work.path}", "../shallow")
    refused(at(work.path.parent / "shallow"), run, ShallowError, "shallow")


def test_names_by_sha256_are_refused(tmp_path, at, run):
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(tmp_path / "other")], check=True)
    refused(at(tmp_path / "other"), run, InputError, "sha256")


def test_a_branch_checked_out_elsewhere_is_refused(work, run):
    work.git("worktree", "add", "-q", "../other", "side")
    assert "other" in str(refused(work, run, OtherWorktreeError, "has side checked out"))
    run(work, "git", "*.bin", refs=("main",))
    work.git("-C", "../other", "switch", "-q", "--detach")
    run(work, "git", "*.bin")


def test_a_pattern_that_takes_deeper_attributes_files_along_is_refused(work, run):
    work.write("in/.gitattributes", b"*.txt text\n")
    work.commit("deeper")
    before = everything(work)
    with pytest.raises(PatternOfAttributesError, match=r"in/\*\* matches in/.gitattributes"):
        run(work, "git", "in/**")
    assert everything(work) == before


def test_attributes_that_are_a_link_are_refused(work, run):
    (work.path / ".gitattributes").symlink_to("notes.txt")
    work.commit("link")
    refused(work, run, AttributesPlaceError, "symbolic link")


# ---- ends in the middle -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(Stage))
def test_an_interrupt_leaves_the_old_state(work, run, stage):
    before = everything(work)

    def interrupt(now, done, every):
        if now is stage and done == every:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work, "git", "*.bin", progress=interrupt)
    assert everything(work) == before
    assert run(work, "git", "*.bin").rewritten == 2


def test_a_kill_before_the_references_move_leaves_the_old_state(work, run):
    code = """
import os
from git_gru.git.migrate import migration
from git_gru.git.migrate.trees import Direction
from git_gru.git.repository import Repository
migration._require_whole = lambda *_: os.kill(os.getpid(), 9)
request = migration.Request(direction=Direction.FROM_GIT, patterns=("*.bin",), program="git-gru")
migration.migrate(Repository.find(), request, lambda *_: None)
"""
    before = everything(work)
    assert work.run(sys.executable, "-c", code).returncode == -9
    assert everything(work) == before
    assert run(work, "git", "*.bin").rewritten == 2
    work.git("fsck")


def test_a_reference_that_moves_meanwhile_stops_all(work, run, monkeypatch, tmp_path):
    real = refs.move

    def late(repo, moves, id, message):
        repo.git("update-ref", "refs/heads/side", "main")
        real(repo, moves, id, message)

    monkeypatch.setattr(migration.refs, "move", late)
    main = work.git("rev-parse", "main")
    with pytest.raises(RefMovedError, match="refs/heads/side"):
        run(work, "git", "*.bin", map_file=tmp_path / "map")
    assert work.git("rev-parse", "main") == main
    assert work.git("for-each-ref", "refs/gru") == ""
    assert list(tmp_path.glob("map*")) == []


def test_a_run_that_ended_before_the_index_followed_is_finished_by_the_next(work, run, monkeypatch):
    def ended(repo, moves):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migration, "follow", ended)
        with pytest.raises(KeyboardInterrupt):
            run(work, "git", "*.bin")
    assert work.status() != ""
    assert run(work, "git", "*.bin").rewritten == 0
    assert work.status() == ""
    assert work.read("m.bin") == b"version two, longer"


def test_changes_made_after_such_an_end_are_not_overwritten(work, run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(migration, "follow", lambda repo, moves: None)
        run(work, "git", "*.bin")
    work.write("m.bin", b"edited since")
    with pytest.raises(DirtyWorktreeError, match=r"m\.bin"):
        run(work, "git", "*.bin")
    assert work.read("m.bin") == b"edited since"


# ---- undo ---------------------------------------------------------------------------------------------------------------


def test_undo_puts_all_back_and_forgets_the_migration(work, run):
    work.git("notes", "add", "-m", "n", "v1^{commit}")
    before = work.git("for-each-ref")
    first = run(work, "git", "*.bin")
    second = run(work, "git", "*.txt")
    assert second.id > first.id or second.id.startswith(first.id)
    assert work.git("rev-parse", f"refs/gru/migrate/{first.id}/old/heads/main").strip() in first.commits
    id, moves = undo(work.repository, None)
    assert id == second.id
    assert {move.ref for move in moves} == {
        "refs/heads/main",
        "refs/heads/side",
        "refs/tags/v1",
        "refs/notes/commits",
    }
    assert work.status() == ""
    undo(work.repository, first.id)
    assert work.git("for-each-ref") == before
    assert work.status() == ""
    assert not (work.path / ".gitattributes").exists()
    with pytest.raises(NoMigrationError, match="no migration to undo"):
        undo(work.repository, None)


def test_undo_is_refused_where_a_reference_was_moved_since(work, run):
    id = run(work, "git", "*.bin").id
    work.write("notes.txt", b"more\n")
    work.commit("since")
    before = everything(work)
    with pytest.raises(RefMovedError, match="refs/heads/main") as told:
        undo(work.repository, None)
    assert "refs/gru/migrate/" in told.value.hint
    assert everything(work) == before
    with pytest.raises(NoMigrationError, match="no migration x") as unknown:
        undo(work.repository, "x")
    assert id in unknown.value.hint


def test_the_old_history_survives_gc_until_it_is_let_go(work, run):
    old = work.git("rev-parse", "main").strip()
    id = run(work, "git", "*.bin").id
    work.git("reflog", "expire", "--expire=now", "--all")
    work.git("gc", "--quiet", "--prune=now")
    work.git("cat-file", "-e", f"{old}^{{tree}}")
    listed = work.git("for-each-ref", "--format=delete %(refname)", f"refs/gru/migrate/{id}")
    work.git("update-ref", "--stdin", input=listed.encode())
    work.git("gc", "--quiet", "--prune=now")
    assert work.run("git", "cat-file", "-e", old).returncode != 0
    assert work.read("m.bin") == b"version two, longer"
    work.git("fsck")
