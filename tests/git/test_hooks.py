import pytest

from git_gru.git.hooks import RefusedCommitError, broken_models, pre_commit

MODEL = "model.safetensors"


def test_only_staged_changes_count(repo, make_arrays, make_model):
    whole = make_model(make_arrays(1))
    repo.write(MODEL, whole[:-1])
    repo.git("add", MODEL)
    repo.git("commit", "-q", "--no-verify", "-m", "damaged, on purpose")
    assert broken_models(repo.repository) == {}
    repo.write("b.safetensors", b"\0" * 7)
    repo.write("c.safetensors", b"\xff" * 100)
    repo.write("d.safetensors", make_arrays(2))
    repo.write("e.pt", b"not safetensors, nor called so")
    (repo.path / ".gitattributes").write_bytes(b"*.safetensors filter=gru -text\n*.pt filter=gru -text\n")
    repo.git("add", "-A")
    found = broken_models(repo.repository)
    assert list(found) == ["b.safetensors", "c.safetensors"]
    assert found["b.safetensors"].startswith("too short")
    assert "header" in found["c.safetensors"]


def test_the_refusal_names_each_file_its_reason_and_the_way_out(repo, make_arrays, make_model):
    repo.write(MODEL, make_model(make_arrays(1))[:-1])
    repo.git("add", "-A")
    with pytest.raises(RefusedCommitError) as caught:
        pre_commit(repo.repository)
    assert f"{MODEL}: truncated" in str(caught.value)
    assert "--no-verify" in caught.value.hint


def test_a_deleted_damaged_model_may_be_committed(repo):
    repo.write(MODEL, b"damaged")
    repo.git("add", "-A")
    repo.git("commit", "-q", "--no-verify", "-m", "x")
    repo.git("rm", "-q", MODEL)
    repo.git("commit", "-q", "-m", "gone")
    assert repo.status() == ""


def test_commit_only_looks_at_the_index_that_is_committed(repo, make_arrays):
    repo.write(MODEL, make_arrays(1))
    repo.commit("first")
    repo.write("half.safetensors", b"damaged")
    repo.git("add", "half.safetensors")
    repo.write(MODEL, make_arrays(2))
    repo.git("commit", "-q", "-o", MODEL, "-m", "the other one")
    assert repo.run("git", "commit", "-m", "the damaged one").returncode == 1
    assert repo.status() == "A  half.safetensors\n"


def test_a_path_with_spaces_and_a_linked_worktree(repo, at, make_arrays):
    repo.write(MODEL, make_arrays(1))
    repo.commit("first")
    repo.git("worktree", "add", "-q", "-b", "linked", "../linked tree")
    linked = at(repo.path.parent / "linked tree")
    linked.write("a folder/my model.safetensors", b"damaged")
    linked.git("add", "-A")
    refused = linked.run("git", "commit", "-m", "x")
    assert refused.returncode == 1
    assert b"a folder/my model.safetensors: too short" in refused.stderr
