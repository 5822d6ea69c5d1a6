import ml_dtypes
import numpy as np
import pytest

from git_gru.git.finite import nonfinite_tensors
from git_gru.git.pre_commit import RefusedCommitError, broken_models, pre_commit, staged_models

MODEL = "model.safetensors"


def test_only_staged_changes_count(repo, make_arrays, make_model):
    whole = make_model(make_arrays(1))
    repo.write(MODEL, whole[:-1])
    repo.git("add", MODEL)
    repo.git("commit", "-q", "--no-verify", "-m", "damaged, on purpose")
    assert broken_models(repo.repository, staged_models(repo.repository)) == {}
    repo.write("b.safetensors", b"\0" * 7)
    repo.write("c.safetensors", b"\xff" * 100)
    repo.write("d.safetensors", make_arrays(2))
    repo.write("e.pt", b"not safetensors, nor called so")
    (repo.path / ".gitattributes").write_bytes(b"*.safetensors filter=gru -text\n*.pt filter=gru -text\n")
    repo.git("add", "-A")
    found = broken_models(repo.repository, staged_models(repo.repository))
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


def test_weights_that_are_no_numbers_are_refused_unless_asked_for(repo, make_arrays):
    arrays = make_arrays(1)
    repo.write(MODEL, arrays)
    repo.commit("first")
    arrays["gru.bias_hh_l0"][3] = np.nan
    arrays["head.weight"][0, 1] = np.inf
    repo.write(MODEL, arrays)
    repo.git("add", MODEL)
    refused = repo.run("git", "commit", "-m", "diverged")
    assert refused.returncode == 1
    said = refused.stderr.decode()
    assert f"{MODEL}: gru.bias_hh_l0, head.weight\n" in said
    assert "--no-verify" in said
    assert "gru.allowNonFinite" in said
    repo.git("-c", "gru.allowNonFinite=false", "commit", "-m", "diverged", check=False)
    assert repo.git("rev-list", "--count", "HEAD").strip() == "1"
    repo.git("-c", "gru.allowNonFinite=yes", "commit", "-q", "-m", "on purpose")

    # what an earlier commit has already may stay; a new one elsewhere may not
    arrays["embedding.weight"][0, 0] = 5.0
    repo.write(MODEL, arrays)
    repo.commit("another tensor")
    arrays["embedding.weight"][0, 0] = -np.inf
    repo.write(MODEL, arrays)
    repo.git("add", MODEL)
    with pytest.raises(RefusedCommitError, match=r"embedding\.weight$"):
        pre_commit(repo.repository)
    repo.git("commit", "-q", "--no-verify", "-m", "with force")


def test_a_commit_of_sound_models_starts_no_python(repo, make_arrays):
    arrays = make_arrays(1)
    repo.write(MODEL, arrays)
    repo.commit("first")
    hook = repo.path / ".git/hooks/pre-commit"
    hook.write_text(hook.read_text().replace("exec ", "exec sh -c 'echo starts >&2; exit 1' "))
    arrays["head.weight"] += 1
    repo.write(MODEL, arrays)
    repo.write("notes.txt", b"x")
    repo.commit("a model")
    repo.git("mv", MODEL, "b.safetensors")
    repo.git("rm", "-q", "--cached", "b.safetensors")
    repo.commit("another, and one less")

    repo.write("half written.safetensors", b"\x10")
    repo.git("add", "-A")
    assert b"starts\n" in repo.run("git", "commit", "-m", "refused").stderr
    repo.git("rm", "-q", "--cached", "half written.safetensors")
    (repo.path / "half written.safetensors").unlink()

    arrays["head.weight"][0, 0] = np.inf  # from now on every changed model is looked at
    repo.write("b.safetensors", arrays)
    repo.git("add", "-A")
    assert b"starts\n" in repo.run("git", "commit", "-m", "refused").stderr
    repo.git("reset", "-q", "--hard")
    arrays["head.weight"][0, 0] = 0
    repo.write("b.safetensors", arrays)
    repo.git("add", "-A")
    assert b"starts\n" in repo.run("git", "commit", "-m", "refused").stderr
    repo.git("reset", "-q", "--hard")
    repo.write("notes.txt", b"y")
    repo.commit("no model")


def test_a_refused_model_is_refused_again_although_the_store_knows_its_chunks(repo, make_arrays):
    arrays = make_arrays(1)
    repo.write(MODEL, arrays)
    repo.commit("first")
    arrays["head.weight"][0, 0] = np.nan
    for _ in range(2):
        repo.write(MODEL, arrays)
        repo.git("add", MODEL)
        assert repo.run("git", "commit", "-m", "diverged").returncode == 1
        repo.git("reset", "-q", "--hard")


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "complex64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_every_float_is_looked_at_exactly(repo, kind, value):
    dtype = np.dtype(kind)
    largest = np.finfo(np.float32).max if dtype.itemsize == 8 else ml_dtypes.finfo(dtype).max
    values = np.linspace(-3, 3, 3000).astype(dtype)
    values[:2] = (0, largest)
    if value is not None:
        values[-1] = value
    repo.write(MODEL, {"w": values, "count": np.full(2000, -1, np.int32)})
    repo.git("add", "-A")
    (staged,) = staged_models(repo.repository).values()
    found = nonfinite_tensors(repo.repository.store(), staged.manifest, None)
    assert found == ([] if value is None else ["w"])
