"""Which models a push publishes follows from the commits alone, and costs what is new in them."""

import json
import subprocess

import pytest

from git_gru.git import manifests, publishing
from git_gru.git.git_remote import GitRemote
from git_gru.git.publishing import own_branches
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store.trees import StoreTree

MODEL = "model.safetensors"


def pushed_models(repository, new, known=(), paths=()) -> publishing.PushedModels:
    store = repository.store()
    try:
        return publishing.pushed_models(repository, store.stamps, new, known, paths)
    finally:
        store.close()


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


def test_neither_other_models_nor_known_commits_are_looked_at(repo, make_arrays, monkeypatch):
    """A push of one version reads one manifest."""
    commits = grown(repo, make_arrays)
    read = []
    real = manifests.parse_manifest
    monkeypatch.setattr(
        manifests, "parse_manifest", lambda data, where: read.append(where) or real(data, where=where)
    )
    assert pushed_models(repo.repository, [commits[2]], [commits[1]]).tips
    assert len(read) == 1


# ---- what the remote has says its own state ------------------------------------------------------------------------------


def new_hub(path):
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    return path


def models_in(hub, work) -> set[str]:
    store = work.repository.store()
    try:
        return set(
            StoreTree(store.objects, GitRemote(store, "look", str(hub), LOCAL_VARIABLES).look()).models()
        )
    finally:
        store.close()


def in_history(work, rev: str = "HEAD") -> set[str]:
    commits = work.git("rev-list", rev).split()
    return {
        digest_at(work, f"{commit}:{name}") for commit in commits for name in (MODEL, "other.safetensors")
    }


@pytest.fixture
def pushed(repo, tmp_path, make_arrays):
    """Three versions of a model, and another one, on the hub `origin`."""
    grown(repo, make_arrays)
    repo.git("remote", "add", "origin", str(new_hub(tmp_path / "hub.git")))
    repo.git("push", "-q", "-u", "origin", "main")
    return repo


def test_another_hub_at_the_same_name_gets_all(pushed, tmp_path):
    second = new_hub(tmp_path / "second.git")
    pushed.git("remote", "set-url", "origin", str(second))
    pushed.git("push", "-q", "origin", "main")
    assert models_in(second, pushed) == in_history(pushed)
    third = new_hub(tmp_path / "third.git")
    pushed.git("config", "remote.origin.pushurl", str(third))
    pushed.git("push", "-q", "origin", "main:refs/heads/elsewhere")
    assert models_in(third, pushed) == in_history(pushed)


def test_all_push_addresses_get_all(pushed, tmp_path):
    hubs = [new_hub(tmp_path / name) for name in ("b.git", "c.git")]
    for hub in hubs:
        pushed.git("remote", "set-url", "--add", "--push", "origin", str(hub))
    assert json.loads(pushed.gru("push", "origin", "--all", "--json").stdout)["models"] == 8
    assert [models_in(hub, pushed) for hub in hubs] == [in_history(pushed)] * 2
    ran = pushed.gru("gc", "--remote", "origin")
    assert ran.returncode == 4
    assert b"pushed to 2 addresses" in ran.stderr


def test_a_branch_that_comes_back_to_the_hub_brings_its_models(pushed, tmp_path, make_arrays):
    """Deleted and collected there, then pushed again from a clone that still has its tracking branch."""
    hub = tmp_path / "hub.git"
    pushed.git("switch", "-q", "-c", "side")
    for seed in (50, 51):
        pushed.write(MODEL, make_arrays(seed))
        pushed.commit(f"side {seed}")
    pushed.git("checkout", "-q", "main", "--", MODEL)
    pushed.commit("side is as main again")
    pushed.git("push", "-q", "origin", "side")
    subprocess.run(["git", "-C", str(hub), "update-ref", "-d", "refs/heads/side"], check=True)
    for grace in ("14d", "now"):
        assert pushed.gru("gc", "--remote", "origin", "--grace", grace).returncode == 0
    assert models_in(hub, pushed) == in_history(pushed, "main")
    pushed.git("push", "-q", "origin", "side")
    assert models_in(hub, pushed) == in_history(pushed, "side") != in_history(pushed, "main")


def test_what_came_without_its_models_is_made_good_by_the_next_push(pushed, tmp_path, make_arrays):
    hub = tmp_path / "hub.git"
    pushed.write(MODEL, make_arrays(60))
    pushed.commit("without")
    pushed.git("push", "-q", "--no-verify", "origin", "main")
    pushed.write("notes", b"")
    pushed.commit("notes")
    pushed.git("push", "-q", "origin", "main")
    assert models_in(hub, pushed) == in_history(pushed)
    subprocess.run(["git", "-C", str(hub), "update-ref", "-d", "refs/gru/store"], check=True)
    pushed.write("notes", b"more")
    pushed.commit("more notes")
    pushed.git("push", "-q", "origin", "main")
    assert models_in(hub, pushed) == in_history(pushed)


def test_a_further_push_walks_what_is_new(pushed, make_arrays, monkeypatch):
    walked = []
    real = publishing.lines
    monkeypatch.setattr(
        publishing,
        "lines",
        lambda *args, **options: walked.append(options["input"].decode().split()) or real(*args, **options),
    )
    before = pushed.git("rev-parse", "HEAD").strip()
    pushed.write(MODEL, make_arrays(70))
    head = pushed.commit("more")
    url = pushed.git("remote", "get-url", "origin").strip()
    done = publishing.publish_updates(
        pushed.repository, "origin", url, [publishing.RefUpdate(local=head, ref="refs/heads/main")]
    )
    assert done.models == 1
    assert walked[0] == [head, f"^{before}"]


@pytest.mark.parametrize("kind", ["blob:none", "tree:0"])
@pytest.mark.parametrize("command", [["git", "push", "-q", "second", "main"], ["git-gru", "push", "second"]])
def test_a_partial_clone_sends_another_hub_what_it_lacks_itself(pushed, tmp_path, at, kind, command):
    clone, second, hub = at(tmp_path / "clone"), new_hub(tmp_path / "second.git"), tmp_path / "hub.git"
    subprocess.run(["git", "-C", str(hub), "config", "uploadpack.allowFilter", "true"], check=True)
    pushed.git("clone", "-q", f"--filter={kind}", f"file://{hub}", str(clone.path))
    assert clone.gru("install").returncode == 0
    clone.git("remote", "add", "second", str(second))
    ran = clone.gru(*command[1:]) if command[0] == "git-gru" else clone.run(*command)
    assert ran.returncode == 0, ran.stderr
    assert models_in(second, pushed) == in_history(pushed)
    clone.git("remote", "remove", "origin")  # a setting stays that says who had what was missing
    clone.write("notes", b"x")
    clone.commit("notes")
    clone.git("push", "-q", "second", "main:refs/heads/more")


def test_a_partial_clone_fetches_nothing_for_a_push_to_its_own_hub(pushed, tmp_path, at):
    clone, hub = at(tmp_path / "clone"), tmp_path / "hub.git"
    subprocess.run(["git", "-C", str(hub), "config", "uploadpack.allowFilter", "true"], check=True)
    pushed.git("clone", "-q", "--filter=blob:none", f"file://{hub}", str(clone.path))
    assert clone.gru("install").returncode == 0

    def missing() -> int:
        return clone.git("rev-list", "--objects", "--missing=print", "--all").count("?")

    before = missing()
    clone.write("notes", b"x")
    clone.commit("notes")
    clone.git("push", "-q", "origin", "main")
    assert missing() == before == 2


def test_what_a_shallow_clone_has_sent_says_nothing_about_older_commits(pushed, tmp_path, at):
    clone, second = at(tmp_path / "clone"), new_hub(tmp_path / "second.git")
    pushed.git("clone", "-q", "--depth=1", f"file://{tmp_path}/hub.git", str(clone.path))
    assert clone.gru("install").returncode == 0
    clone.git("remote", "add", "second", str(second))
    assert json.loads(clone.gru("push", "second", "--json").stdout)["models"] == 2
    clone.git("fetch", "-q", "--unshallow", "origin")
    clone.git("push", "-q", "second", "main")
    assert models_in(second, pushed) == in_history(pushed)


def test_damaged_notes_of_a_remote_are_as_none(pushed, make_arrays):
    (notes,) = (pushed.path / ".git/gru/confirmed").iterdir()
    for text in ("", "[]", '{"commits": 1, "models": []}'):
        notes.write_text(text)
        assert json.loads(pushed.gru("push", "origin", "--json").stdout)["models"] == 0
