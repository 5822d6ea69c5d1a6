"""Which models a push publishes follows from the commits alone, and costs what is new in them."""

import json

from git_gru.git import revisions, run
from git_gru.git.publishing import own_branches, pushed_models

MODEL = "model.safetensors"


def digest_at(repo, name: str) -> str:
    return json.loads(repo.git("cat-file", "blob", name))["digest"]


def grown(repo, make_arrays, count: int = 3) -> list[str]:
    """Commits of so many versions of a model; a second model is there from the first on."""
    repo.write("other.safetensors", make_arrays(100))
    commits = []
    for seed in range(count):
        repo.write(MODEL, make_arrays(seed))
        commits.append(repo.commit(f"version {seed}"))
    return commits


def test_lineages_are_newest_first_and_end_where_the_known_begins(repo, make_arrays):
    commits = grown(repo, make_arrays)
    found = pushed_models(repo.repository, [commits[2]])
    digests = {path: [manifest.digest for manifest in line] for path, line in found.lineages.items()}
    assert digests == {
        MODEL: [digest_at(repo, f"{commit}:{MODEL}") for commit in reversed(commits)],
        "other.safetensors": [digest_at(repo, f"{commits[0]}:other.safetensors")],
    }
    assert found.tips == {digests[MODEL][0], digests["other.safetensors"][0]}
    newer = pushed_models(repo.repository, [commits[2]], [commits[0]])
    assert {path: len(line) for path, line in newer.lineages.items()} == {MODEL: 2}
    assert newer.tips == {digests[MODEL][0]}
    assert pushed_models(repo.repository, []).lineages == {}
    assert pushed_models(repo.repository, [commits[2]], [commits[2]]).tips == set()
    of_path = pushed_models(repo.repository, [commits[2]], paths=["other.safetensors"])
    assert list(of_path.lineages) == ["other.safetensors"]


def test_known_commits_may_be_missing_and_tips_may_be_tags(repo, make_arrays):
    commits = grown(repo, make_arrays)
    repo.git("tag", "-a", "-m", "one", "v1", commits[1])
    tag = repo.git("rev-parse", "v1").strip()
    found = pushed_models(repo.repository, [tag], ["1" * 40, commits[0]])
    assert found.tips == {digest_at(repo, f"v1:{MODEL}")}
    assert [len(line) for line in found.lineages.values()] == [1]


def test_a_tip_counts_under_whatever_path_it_has_the_model(repo, make_arrays):
    grown(repo, make_arrays, 1)
    repo.git("mv", MODEL, "renamed.safetensors")
    repo.git("commit", "-q", "-m", "renamed")
    head = repo.git("rev-parse", "HEAD").strip()
    found = pushed_models(repo.repository, [head])
    assert found.tips == {
        digest_at(repo, f"HEAD:{name}") for name in ("renamed.safetensors", "other.safetensors")
    }


def test_versions_of_merged_branches_are_found_by_path(repo, make_arrays):
    """Git's own simplification of a path's history follows one parent where a merge has the same content as that."""
    grown(repo, make_arrays, 1)
    repo.git("switch", "-q", "-c", "side")
    repo.write(MODEL, make_arrays(7))
    repo.commit("side")
    side = digest_at(repo, f"side:{MODEL}")
    repo.git("switch", "-q", "main")
    repo.write("notes", b"")
    repo.commit("notes")
    repo.git("merge", "-q", "-s", "ours", "--no-edit", "side")
    head = repo.git("rev-parse", "HEAD").strip()
    assert side in {m.digest for m in pushed_models(repo.repository, [head], paths=[MODEL]).lineages[MODEL]}


def test_all_branches_are_this_repositorys_own(repo, make_arrays):
    commits = grown(repo, make_arrays, 3)
    repo.git("update-ref", "refs/heads/main", commits[1])
    repo.git("update-ref", "refs/heads/same", commits[1])
    repo.git("update-ref", "refs/remotes/other/main", commits[2])
    repo.git("tag", "v1", commits[2])
    assert own_branches(repo.repository) == [commits[1]]


def test_what_tracking_branches_reach_is_known(repo, make_arrays):
    commits = grown(repo, make_arrays)
    repo.git("update-ref", "refs/remotes/hub/one/two", commits[1])
    repo.git("update-ref", "refs/remotes/hub2/main", commits[2])
    found = pushed_models(repo.repository, [commits[2]], remote="hub")
    assert {path: len(line) for path, line in found.lineages.items()} == {MODEL: 1}
    assert len(pushed_models(repo.repository, [commits[2]], remote="nothing").lineages[MODEL]) == 3


def test_neither_other_models_nor_other_branches_are_looked_at(repo, make_arrays, monkeypatch):
    """A push of one version reads one manifest, by as many git commands whether the remote has one branch or fifty."""
    commits = grown(repo, make_arrays)
    for at in range(50):
        repo.git("update-ref", f"refs/remotes/hub/{at}", commits[1])
    work = repo.repository
    read, started = [], []
    real_parse, real_completed = revisions.parse_manifest, run.completed
    monkeypatch.setattr(
        revisions, "parse_manifest", lambda data, where: read.append(where) or real_parse(data, where=where)
    )
    monkeypatch.setattr(
        run, "completed", lambda *args, **options: started.append(args) or real_completed(*args, **options)
    )
    assert pushed_models(work, [commits[2]], [commits[1]], remote="hub").tips
    assert read == [MODEL]
    assert len(started) == 2
