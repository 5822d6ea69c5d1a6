"""Plain Git on models, with real Git, bit for bit. What needs the merge and diff drivers is in
test_merge.py.
"""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

MODEL = "model.safetensors"


@pytest.fixture
def two(repo, make_arrays):
    """A repository with two commits of one model; `versions` are its bytes."""
    repo.versions = []
    for seed in (1, 2):
        repo.versions.append(repo.write(MODEL, make_arrays(seed)))
        repo.write("notes.txt", f"version {seed}\n".encode())
        repo.commit(f"version {seed}")
    return repo


def blob(work, name: str) -> bytes:
    """What Git's tree holds."""
    return work.run("git", "cat-file", "blob", name).stdout


def cleans(work, *args: str, tmp_path: Path) -> int:
    """How often `git ARGS` asked the filter to clean a file."""
    trace = tmp_path / "trace"
    trace.unlink(missing_ok=True)
    work.git(*args, env={"GIT_TRACE_PACKET": str(trace)})
    return trace.read_text(errors="replace").count("command=clean") if trace.exists() else 0


def test_the_tree_holds_a_manifest_and_the_worktree_the_bytes(two):
    assert blob(two, f"HEAD:{MODEL}").startswith(b'{"git-gru": 1,\n')
    assert len(blob(two, f"HEAD:{MODEL}")) < len(two.versions[1]) / 10
    assert two.read(MODEL) == two.versions[1]
    assert two.status() == ""


def test_checkout_of_old_commits_is_bit_exact_and_clean(two, tmp_path):
    two.git("checkout", "-q", "HEAD~1")
    assert two.read(MODEL) == two.versions[0]
    assert two.status() == ""
    two.git("switch", "-q", "main")
    assert two.read(MODEL) == two.versions[1]
    assert two.status() == ""
    two.git("checkout", "-q", "HEAD~1", "--", MODEL)
    assert two.read(MODEL) == two.versions[0]
    assert two.status() == f"M  {MODEL}\n"


def test_status_does_not_clean_again_and_again(two, tmp_path):
    two.git("checkout", "-q", "HEAD~1")
    os.utime(two.path / MODEL, (1_000_000_000, 1_000_000_000))  # touched: Git has to look once
    assert cleans(two, "status", tmp_path=tmp_path) == 1
    assert cleans(two, "status", tmp_path=tmp_path) == 0
    assert cleans(two, "status", tmp_path=tmp_path) == 0


def test_adding_the_same_bytes_gives_the_same_manifest(two):
    before = two.git("rev-parse", f"HEAD:{MODEL}")
    two.write(MODEL, two.versions[0])
    two.git("add", MODEL)
    two.write(MODEL, two.versions[1])
    two.git("add", MODEL)
    assert two.git("rev-parse", f":{MODEL}") == before


def test_stash_and_pop(two, make_arrays):
    work = two.write(MODEL, make_arrays(3))
    two.git("stash")
    assert two.read(MODEL) == two.versions[1]
    assert two.status() == ""
    two.git("stash", "pop")
    assert two.read(MODEL) == work


def test_worktree_add_shares_the_store(two, at):
    two.git("worktree", "add", "-q", "../other", "HEAD~1")
    other = at(two.path.parent / "other")
    assert other.read(MODEL) == two.versions[0]
    assert other.status() == ""
    assert other.repository.gru_dir == two.repository.gru_dir
    assert not (two.path / ".git" / "worktrees" / "other" / "gru").exists()


def test_a_submodule_has_its_own_store(two, plain_repo, at, tmp_path):
    outer = at(tmp_path / "outer")
    two.git("init", "-q", str(outer.path))
    outer.git("submodule", "add", "-q", str(two.path), "inner", check=False)
    inner = at(outer.path / "inner")
    assert inner.repository.common_dir == outer.path / ".git" / "modules" / "inner"


def test_rebase_carries_models_along(two, make_arrays):
    two.git("switch", "-q", "-c", "side", "HEAD~1")
    side = two.write("side.safetensors", make_arrays(7))
    two.commit("side")
    two.git("rebase", "-q", "main")
    assert (two.read(MODEL), two.read("side.safetensors")) == (two.versions[1], side)
    assert two.status() == ""


def test_cherry_pick_and_revert_of_a_change_that_nobody_else_touched(two, make_arrays):
    third = two.write(MODEL, make_arrays(3))
    commit = two.commit("version 3")
    two.git("reset", "-q", "--hard", "HEAD~1")
    assert two.read(MODEL) == two.versions[1]
    two.git("cherry-pick", commit)
    assert two.read(MODEL) == third
    two.git("revert", "--no-edit", "HEAD")
    assert two.read(MODEL) == two.versions[1]
    assert two.status() == ""


def test_reset_hard_restores_a_deleted_and_a_changed_model(two):
    (two.path / MODEL).unlink()
    two.git("reset", "-q", "--hard")
    assert two.read(MODEL) == two.versions[1]
    two.write(MODEL, b"scribble")
    two.git("reset", "-q", "--hard", "HEAD~1")
    assert two.read(MODEL) == two.versions[0]


def test_archive_holds_the_weights(two):
    made = two.run("git", "archive", "--format=tar", "HEAD~1")
    assert made.returncode == 0, made.stderr
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as tar:
        member = tar.extractfile(MODEL)
        assert member is not None and member.read() == two.versions[0]


def test_autocrlf_changes_no_byte(repo, make_arrays):
    repo.git("config", "core.autocrlf", "true")
    data = repo.write(MODEL, make_arrays(1)) + b""
    text = repo.write("other.safetensors", b"lines\nthat end\r\nin both ways\r\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "--no-verify", "-m", "one")
    for name in (MODEL, "other.safetensors"):
        assert b"\r" not in blob(repo, f"HEAD:{name}")
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert (repo.read(MODEL), repo.read("other.safetensors")) == (data, text)
    assert repo.status() == ""


def test_commit_only_takes_the_named_model(two, make_arrays):
    third = two.write(MODEL, make_arrays(3))
    two.write("b.safetensors", make_arrays(4))
    two.git("add", "b.safetensors")
    two.git("commit", "-q", "-o", MODEL, "-m", "only the model")
    assert two.git("show", "--format=", "--name-only", "HEAD").split() == [MODEL]
    assert two.status() == "A  b.safetensors\n"
    two.git("reset", "-q", "--hard", "HEAD")
    assert two.read(MODEL) == third


def test_commit_patch_beside_a_changed_model(two, make_arrays):
    third = two.write(MODEL, make_arrays(3))
    two.write("notes.txt", b"version 3\n")
    two.git("commit", "-p", "-m", "the notes", "--", "notes.txt", input=b"y\n")
    assert two.git("show", "--format=", "--name-only", "HEAD").split() == ["notes.txt"]
    assert two.status() == f" M {MODEL}\n"
    assert two.read(MODEL) == third


def test_rename_and_copy_cost_nothing_and_are_seen_as_such(two):
    store = two.repository.store()
    models = set(store.models())
    two.git("mv", MODEL, "renamed.safetensors")
    two.write("copy.safetensors", two.versions[1])
    two.commit("rename and copy")
    assert set(two.repository.store().models()) == models
    shown = two.git("show", "-C", "--format=", "--name-status", "HEAD")
    assert "R100\tmodel.safetensors\trenamed.safetensors" in shown or "C100" in shown
    assert two.read("renamed.safetensors") == two.read("copy.safetensors") == two.versions[1]


def test_two_models_and_a_path_with_spaces_and_unicode(repo, make_arrays):
    names = ("a.safetensors", 'deep folder/größe #1/модель "x".safetensors')
    contents = [repo.write(name, make_arrays(seed)) for seed, name in enumerate(names)]
    repo.commit("two")
    for name in names:
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert [repo.read(name) for name in names] == contents
    assert repo.status() == ""


def test_an_empty_file_stays_empty(repo):
    repo.write(MODEL, b"")
    repo.commit("empty")
    assert blob(repo, f"HEAD:{MODEL}") == b""
    (repo.path / MODEL).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read(MODEL) == b""
    assert repo.status() == ""


def test_a_file_that_git_held_before_it_was_tracked(plain_repo, make_arrays, repo):
    (repo.path / ".gitattributes").rename(repo.path / "aside")
    data = repo.write(MODEL, make_arrays(1))
    old = repo.commit("as a plain file", MODEL)
    (repo.path / "aside").rename(repo.path / ".gitattributes")
    repo.git("add", "--renormalize", MODEL)
    repo.commit("as a model")
    assert blob(repo, f"HEAD:{MODEL}").startswith(b'{"git-gru"')
    repo.git("checkout", "-q", old, "--", MODEL)  # smudge meets bytes that are no manifest
    assert repo.read(MODEL) == data


def test_a_large_file_that_is_no_manifest_is_smudged_through_a_file(repo):
    (repo.path / ".gitattributes").rename(repo.path / "aside")
    data = repo.write(MODEL, os.urandom(20 << 20))
    repo.commit("as a plain file", MODEL)
    (repo.path / "aside").rename(repo.path / ".gitattributes")
    (repo.path / MODEL).unlink()
    repo.git("checkout", "-q", "--", MODEL)
    assert repo.read(MODEL) == data


def test_skip_smudge_leaves_manifests_that_are_clean(two):
    (two.path / MODEL).unlink()
    two.git("checkout", "-q", "--", MODEL, env={"GIT_GRU_SKIP_SMUDGE": "1"})
    assert two.read(MODEL) == blob(two, f"HEAD:{MODEL}")
    assert two.status() == ""
    two.git("add", "--renormalize", MODEL)
    assert two.status() == ""


def test_delete_modify_is_an_ordinary_conflict(two, make_arrays):
    two.git("switch", "-q", "-c", "gone")
    two.git("rm", "-q", MODEL)
    two.commit("delete")
    two.git("switch", "-q", "main")
    third = two.write(MODEL, make_arrays(3))
    two.commit("version 3")
    assert two.run("git", "merge", "gone").returncode == 1
    assert two.status() == f"UD {MODEL}\n"
    assert two.read(MODEL) == third
    two.git("add", MODEL)
    two.git("commit", "-q", "--no-edit")
    assert two.read(MODEL) == third


def test_a_commit_that_touches_no_model_starts_no_python(two):
    """The hook stub gets a program that cannot be run: it must not want it."""
    hook = two.path / ".git" / "hooks" / "pre-commit"
    hook.write_text("\n".join(two_lines_without_program(hook.read_text())))
    two.write("notes.txt", b"changed\n")
    two.commit("text", "notes.txt")
    assert two.git("log", "-1", "--format=%s") == "text\n"


def two_lines_without_program(stub: str) -> list[str]:
    """The stub with its program replaced by one that fails."""
    lines = [
        line.replace(line[line.index("exec ") :], "exec false") if "exec " in line else line
        for line in stub.split("\n")
    ]
    assert "exec false" in "\n".join(lines)
    return lines


@pytest.mark.parametrize("born", [True, False])
def test_a_damaged_model_is_kept_and_not_committed(repo, make_arrays, born):
    if born:
        repo.write("notes.txt", b"x")
        repo.commit("first")
    whole = repo.write(MODEL, make_arrays(1))
    half = repo.write(MODEL, whole[: len(whole) // 2])
    added = repo.run("git", "add", MODEL)
    assert added.returncode == 0
    assert b"model.safetensors" in added.stderr and b"truncated" in added.stderr
    refused = repo.run("git", "commit", "-m", "half")
    assert refused.returncode == 1
    assert b"model.safetensors: truncated" in refused.stderr
    assert b"--no-verify" in refused.stderr
    repo.git("commit", "-q", "--no-verify", "-m", "half, as it is")
    (repo.path / MODEL).unlink()
    repo.git("checkout", "-q", "--", MODEL)
    assert repo.read(MODEL) == half
    repo.write(MODEL, whole)
    repo.commit("whole again")
    assert repo.status() == ""


def test_a_clone_without_git_gru_gets_a_sentence(two, at):
    two.git("clone", "-q", str(two.path), "../clone")
    clone = at(two.path.parent / "clone")
    assert clone.read(MODEL) == blob(two, f"HEAD:{MODEL}")
    told = clone.gru("status").stdout.decode()
    assert "git-gru is not installed for this repository" in told
    assert "git gru install" in told
    assert "manifest only" in told


def test_a_clone_without_the_weights_names_the_model(two, at, isolated):
    (two.path / ".git/gru").rename(two.path / "elsewhere")
    config = (two.path / ".git" / "config").read_text()
    with (isolated / ".gitconfig").open("a") as settings:
        settings.write(config[config.index("[filter") :])
    cloned = two.run("git", "clone", "-q", str(two.path), "../clone")
    assert cloned.returncode != 0
    assert b"git-gru: model.safetensors: the model" in cloned.stderr
    assert b"hint: " in cloned.stderr


def test_a_missing_chunk_fails_one_file_and_leaves_the_rest(repo, make_arrays):
    first = repo.write("a.safetensors", make_arrays(1))
    repo.commit("a")
    repo.write("b.safetensors", make_arrays(2))
    repo.commit("b")
    (repo.path / ".git" / "gru").rename(repo.path / "gru aside")
    (repo.path / "b.safetensors").unlink()  # before Git may clean it for being racily clean
    repo.write("a.safetensors", first)
    repo.git("add", "--renormalize", "a.safetensors")  # the new store knows a, not b
    (repo.path / "a.safetensors").unlink()
    done = repo.run("git", "checkout", "--", "a.safetensors")
    assert done.returncode == 0, done.stderr
    done = repo.run("git", "checkout", "--", "b.safetensors")
    assert done.returncode != 0
    assert b"b.safetensors: the model" in done.stderr
    assert repo.read("a.safetensors") == first


def test_a_name_outside_utf_8(repo, make_arrays):
    name = os.fsdecode(b"w\xe9ights.safetensors")
    data = repo.write(name, make_arrays(1))
    repo.commit("latin 1")
    (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read(name) == data


def test_no_room_while_adding_loses_nothing(two, make_arrays):
    """A limit on the size of files stands for a full disk: the write fails in the filter, midway."""
    big = two.write(MODEL, make_arrays(3, hidden=700))
    two.git("add", "notes.txt")
    refused = two.run("sh", "-c", f"ulimit -f 2000; git add {MODEL}")
    assert refused.returncode != 0
    assert f"git-gru: {MODEL}: ".encode() in refused.stderr
    assert b"hint: " in refused.stderr
    assert b"Traceback" not in refused.stderr
    assert two.git("rev-parse", f":{MODEL}") == two.git("rev-parse", f"HEAD:{MODEL}")
    assert two.read(MODEL) == big
    two.git("stash")
    assert two.read(MODEL) == two.versions[1]
    two.git("stash", "pop")
    two.commit("there is room again")
    assert two.read(MODEL) == big


def test_a_file_that_is_no_safetensors_shares_what_did_not_change(repo):
    repo.write(".gitattributes", b"*.npz filter=gru diff=gru merge=gru -text\n")
    random = np.random.default_rng(0)
    arrays = {name: random.normal(0, 0.05, 500_000).astype(np.float32) for name in "abcd"}
    versions = []
    for inserted in ({}, {"a+": random.normal(0, 0.05, 1_000)}):
        file = io.BytesIO()
        np.savez(file, **dict(sorted((arrays | inserted).items())))
        versions.append(repo.write("model.npz", file.getvalue()))
        repo.commit("a version")
    second, _ = json.loads(repo.gru("log", "--json").stdout)
    assert 0 < second["new_raw"] < len(versions[1]) / 5
    repo.git("checkout", "-q", "HEAD~1")
    assert repo.read("model.npz") == versions[0]
    repo.git("switch", "-q", "main")
    assert repo.read("model.npz") == versions[1]
    assert repo.status() == ""
