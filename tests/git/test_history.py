import numpy as np
import pytest

from git_gru.cli.main import run
from git_gru.git.changes import changes
from git_gru.git.history import model_history
from git_gru.git.inspect import joined, model_log, sizes
from git_gru.git.revisions import models_at
from git_gru.store.manifest import ManifestError

MODEL = "model.safetensors"


@pytest.fixture
def versions(repo, make_arrays):
    """Three commits of one model, with a text commit between; the commits' ids."""
    made = []
    for seed in (1, 2, 3):
        repo.write(MODEL, make_arrays(seed))
        made.append(
            repo.commit(f"version {seed}\n\nGru-Run: r\nGru-Metric-val-loss: {seed}.5\nGru-Metric-bad: high")
        )
        repo.write("notes.txt", f"{seed}".encode())
        repo.commit("text")
    return made


def digest(repo, rev: str) -> str:
    return models_at(repo.repository, rev)[MODEL].digest


def test_changes_are_the_commits_that_touch_models(repo, versions):
    found = list(changes(repo.repository, ["HEAD"]))
    assert [change.commit for change in found] == versions[::-1]
    newest, *_, oldest = found
    assert newest.subject == "version 3"
    assert newest.metrics == {"val_loss": 3.5}
    assert newest.trailers == {"Gru-Run": "r", "Gru-Metric-val-loss": "3.5", "Gru-Metric-bad": "high"}
    ((path, before, after),) = [(p.path, p.before, p.after) for p in newest.paths]
    assert (path, before.digest, after.digest) == (
        MODEL,
        digest(repo, versions[1]),
        digest(repo, versions[2]),
    )
    assert oldest.parents == ()
    assert oldest.paths[0].before is None


def test_changes_of_one_path_with_an_odd_name(repo, versions, make_arrays):
    name = "dir :x/gr\n\x02öße.safetensors"
    repo.write(name, make_arrays(5))
    commit = repo.commit("odd \x02 subject")
    found = list(changes(repo.repository, ["HEAD"], paths=[f":(literal){name}"]))
    assert [(change.commit, change.subject, change.paths[0].path) for change in found] == [
        (commit, "odd \x02 subject", name)
    ]


def test_a_merge_counts_against_its_first_parent(repo, versions, make_arrays):
    repo.git("switch", "-q", "-c", "side", versions[0])
    repo.write("side.safetensors", make_arrays(8))
    side = repo.commit("side")
    repo.git("switch", "-q", "main")
    repo.git("merge", "-q", "-m", "merged", "side")
    found = list(changes(repo.repository, ["HEAD", "--max-count=1"]))
    assert [change.subject for change in found] == ["merged"]
    assert [touched.path for touched in found[0].paths] == ["side.safetensors"]
    (entry, *_) = model_log(repo.repository, ["HEAD", "--max-count=1"], [])
    assert entry.sizes.raw == 0  # the other parent has all of it
    assert side in {change.commit for change in changes(repo.repository, ["HEAD"])}


def test_the_history_holds_each_version_once_newest_first(repo, versions, make_arrays):
    repo.git("branch", "old", versions[0])
    repo.git("switch", "-q", "-c", "side", versions[1])
    repo.write("other.safetensors", make_arrays(7))
    repo.commit("other")
    repo.git("update-ref", "refs/gru/runs/x/source", "HEAD")
    repo.git("switch", "-q", "main")
    repo.git("branch", "-q", "-D", "side")
    repo.write(MODEL, make_arrays(1))
    repo.commit("back to 1")
    history = model_history(repo.repository, repo.repository.store().stamps)
    assert history.lineages.keys() == {MODEL, "other.safetensors"}
    first, second, third = (digest(repo, commit) for commit in versions)
    assert [manifest.digest for manifest in history.lineages[MODEL]] == [first, third, second]
    assert history.keep_plain == {first}


def test_tips_heads_and_linked_worktrees_stay_plain(repo, versions):
    repo.git("branch", "old", versions[0])
    repo.git("worktree", "add", "-q", "--detach", "../linked", versions[1])
    assert model_history(repo.repository, repo.repository.store().stamps).keep_plain == {
        digest(repo, commit) for commit in versions
    }


def test_no_commit_no_history(repo):
    history = model_history(repo.repository, repo.repository.store().stamps)
    assert (history.lineages, history.keep_plain) == ({}, frozenset())


def test_sizes_count_shared_chunks_once(repo, make_arrays):
    arrays = make_arrays(1)
    repo.write("a.safetensors", arrays)
    repo.commit("a")
    arrays["head.weight"] = arrays["head.weight"] + np.float32(1)
    repo.write("b.safetensors", arrays)
    repo.commit("b")
    models = models_at(repo.repository, "HEAD")
    a, b = models["a.safetensors"], models["b.safetensors"]
    assert sum(a.chunk_lengths().values()) == a.size == len(repo.read("a.safetensors"))
    both = joined([a, b])
    assert sum(both.values()) == a.size + arrays["head.weight"].nbytes
    found = sizes(repo.repository.store(), both)
    assert (found.raw, found.missing) == (a.size + arrays["head.weight"].nbytes, 0)
    assert 0 < found.stored < found.raw
    (newest, _) = model_log(repo.repository, ["HEAD"], [])
    assert newest.sizes.raw == arrays["head.weight"].nbytes


def test_chunks_that_are_not_here_are_counted(repo, make_arrays):
    repo.write("a.safetensors", make_arrays(1))
    repo.commit("a")
    manifest = models_at(repo.repository, "HEAD")["a.safetensors"]
    (repo.path / ".git/gru").rename(repo.path / "aside")
    found = sizes(repo.repository.store(), manifest.chunk_lengths())
    assert (found.stored, found.missing) == (0, len(set(manifest.chunks())))


@pytest.mark.parametrize("name", ["data.safetensors", "half.safetensors"])
def test_raw_files_have_sizes_too(repo, make_arrays, make_model, name):
    """Random bytes, and a safetensors file cut short, whose chunks end where its tensors end."""
    data = np.random.default_rng(0).bytes(5 << 20)
    if name == "half.safetensors":
        data = make_model({f"w{n}": np.full(300_000, n, np.float32) for n in range(4)})[:-1_000]
    repo.write(name, data)
    repo.git("add", "-A")
    repo.git("commit", "-q", "--no-verify", "-m", "raw")
    manifest = models_at(repo.repository, "HEAD")[name]
    assert manifest.is_raw
    assert sum(manifest.chunk_lengths().values()) == len(data)
    assert sizes(repo.repository.store(), manifest.chunk_lengths()).raw == len(data)


def test_one_unreadable_manifest_closes_no_history(repo, versions, make_arrays, monkeypatch, capsys):
    """A manifest edited as text and committed past the hook; the version after it is good again."""
    text = repo.git("cat-file", "blob", f"HEAD:{MODEL}").replace('"size": ', '"size": 1', 1)
    blob = repo.repository.git("hash-object", "-w", "--stdin", input=text.encode()).decode().strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
    repo.git("commit", "-q", "--no-verify", "-m", "edited")
    bad = repo.git("rev-parse", "HEAD").strip()
    with pytest.raises(ManifestError, match=bad[:10]):
        models_at(repo.repository, "HEAD")
    first, second, third = (digest(repo, commit) for commit in versions)
    assert model_history(repo.repository, repo.repository.store().stamps).keep_plain == frozenset()
    repo.write(MODEL, make_arrays(1))
    repo.commit("mended")
    after, edited, *older = model_log(repo.repository, ["HEAD"], [])
    assert [entry.change.commit for entry in older] == versions[::-1]
    ((mended,), (broken,)) = (after.change.paths, edited.change.paths)
    assert (mended.before, mended.after.digest, mended.unreadable) == (None, first, (True, False))
    assert (broken.before.digest, broken.after, broken.unreadable) == (third, None, (False, True))
    (lineage,) = model_history(repo.repository, repo.repository.store().stamps).lineages.values()
    assert [manifest.digest for manifest in lineage] == [first, third, second]
    monkeypatch.chdir(repo.path)
    assert run(["log", "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"{MODEL} (unreadable manifest)" in shown and "added" not in shown
