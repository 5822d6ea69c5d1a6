import pytest

from git_gru.git.revisions import (
    ModelName,
    ModelReader,
    NoModelError,
    UnbornBranchError,
    UnknownRevisionError,
    index_models,
    models_at,
    read_model,
    resolve_commit,
)
from git_gru.store.manifest import ManifestError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("HEAD:a.safetensors", ModelName("HEAD", "a.safetensors")),
        ("main~2:in a/b.pt#gru.weight", ModelName("main~2", "in a/b.pt", "gru.weight")),
        (":a#b#c", ModelName("", "a#b", "c")),
        ("v1:a:b", ModelName("v1", "a:b")),
    ],
)
def test_names_are_taken_apart_and_written_back(text, name):
    assert ModelName.parse(text) == name
    assert str(name) == text
    assert str(name.whole) == text


@pytest.mark.parametrize("text", ["a.safetensors", "HEAD:", ""])
def test_what_is_no_name(text):
    with pytest.raises(NoModelError) as caught:
        ModelName.parse(text)
    assert "REV:PATH" in caught.value.hint


def test_revisions(repo):
    with pytest.raises(UnbornBranchError, match="main has no commit"):
        resolve_commit(repo.repository, "HEAD")
    with pytest.raises(UnbornBranchError):
        resolve_commit(repo.repository, "main")
    commit = repo.commit("first")
    repo.git("tag", "-a", "-m", "x", "v1")
    assert {resolve_commit(repo.repository, rev) for rev in ("HEAD", "main", "v1", commit[:8], "@")} == {
        commit
    }
    for unknown in ("nope", "--all", "HEAD:.gitattributes", ""):
        with pytest.raises(UnknownRevisionError):
            resolve_commit(repo.repository, unknown)


def test_models_of_commits_and_of_the_index(repo, make_arrays):
    repo.write("b/größe x.safetensors", make_arrays(1))
    repo.write("a.safetensors", make_arrays(2))
    repo.write("notes.txt", b"text")
    first = repo.commit("first")
    repo.git("rm", "-q", "--cached", "a.safetensors")
    repo.git("mv", "b", "c")
    assert list(models_at(repo.repository, first)) == ["a.safetensors", "b/größe x.safetensors"]
    assert list(index_models(repo.repository)) == ["c/größe x.safetensors"]
    model = models_at(repo.repository, first)["a.safetensors"]
    assert read_model(repo.repository, f"{first[:9]}:a.safetensors") == model
    assert (
        read_model(repo.repository, ":c/größe x.safetensors")
        == models_at(repo.repository, "HEAD")["b/größe x.safetensors"]
    )


def test_models_are_found_by_content_when_the_attributes_are_gone(repo, make_arrays):
    repo.write("a.safetensors", make_arrays(1))
    commit = repo.commit("first")
    (repo.path / ".gitattributes").unlink()
    assert list(models_at(repo.repository, commit)) == ["a.safetensors"]


def test_a_hash_in_the_path(repo, make_arrays):
    repo.write("a#1.safetensors", make_arrays(1))
    repo.commit("first")
    assert read_model(repo.repository, "HEAD:a#1.safetensors").size > 0
    assert read_model(repo.repository, "HEAD:a#1.safetensors#head.weight").size > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [("HEAD:nope.pt", "no file"), ("HEAD:notes.txt", "not a model"), ("HEAD:in", "not a model")],
)
def test_what_is_no_model(repo, name, said):
    repo.write("notes.txt", b"text")
    repo.write("in/notes.txt", b"text")
    repo.commit("first")
    with pytest.raises(NoModelError, match=said):
        read_model(repo.repository, name)


def test_a_damaged_manifest_is_an_error_and_not_no_model(repo):
    repo.write("a.txt", b'{"git-gru": 1,\n"digest": "edited by hand"}\n')
    repo.commit("first")
    with pytest.raises(ManifestError, match=r"a\.txt"):
        models_at(repo.repository, "HEAD")


def test_a_conflict_in_the_index_is_our_side(repo, make_arrays):
    repo.write("a.safetensors", make_arrays(1))
    repo.commit("first")
    repo.git("switch", "-q", "-c", "side")
    repo.git("rm", "-q", "a.safetensors")
    repo.commit("gone")
    repo.git("switch", "-q", "main")
    repo.write("a.safetensors", make_arrays(2))
    repo.commit("changed")
    ours = models_at(repo.repository, "HEAD")
    repo.git("merge", "side", check=False)
    assert index_models(repo.repository) == ours


def test_a_reader_reads_each_blob_once(repo, make_arrays, monkeypatch):
    repo.write("a.safetensors", make_arrays(1))
    first = repo.commit("first")
    repo.write("b.safetensors", make_arrays(2))
    second = repo.commit("second")
    reader = ModelReader(repo.repository)
    seen = []
    read = reader._read
    monkeypatch.setattr(reader, "_read", lambda blob, path: seen.append(path) or read(blob, path))
    assert reader.models(first)["a.safetensors"] is reader.models(second)["a.safetensors"]
    assert sorted(seen) == [".gitattributes", "a.safetensors", "b.safetensors"]
