"""Models travel with plain git commands: push, clone, fetch, checkout, over hubs of several kinds, by real git."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import save

from benchmarks.http_hub import GitHandler, new_hub, serving
from git_gru.git.git_remote import GitRemote
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store.trees import StoreTree

MODEL = "model.safetensors"


@pytest.fixture
def everywhere(isolated: Path, repo) -> None:
    """git-gru is installed for the user: clones have the filter and the drivers."""
    config = (repo.path / ".git" / "config").read_text()
    with (isolated / ".gitconfig").open("a") as settings:
        settings.write(config[config.index("[filter") :])


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return new_hub(tmp_path / "hub.git")


@pytest.fixture
def pushed(repo, hub, make_arrays, everywhere):
    """A repository with three versions of a model, pushed to the hub."""
    for seed in range(3):
        repo.write(MODEL, make_arrays(seed))
        repo.commit(f"version {seed}")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "-u", "origin", "main")
    return repo


def models_in(hub: Path, store) -> set[str]:
    """Digests of the models that a hub has."""
    remote = GitRemote(store, "look", str(hub), LOCAL_VARIABLES)
    return set(StoreTree(store.objects, remote.look()).models())


def digest_at(work, name: str) -> str:
    return json.loads(work.git("cat-file", "blob", name))["digest"]


def local_models(work) -> set[str]:
    return set(work.repository.store().models())


# ---- push, clone, fetch ------------------------------------------------------------------------------------------------


def test_a_clone_has_the_weights_of_head_and_no_other(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    assert clone.read(MODEL) == pushed.read(MODEL)
    assert clone.status() == ""
    assert local_models(clone) == {digest_at(clone, f"HEAD:{MODEL}")}
    clone.git("checkout", "-q", "HEAD~2")
    pushed.git("checkout", "-q", "HEAD~2")
    assert clone.read(MODEL) == pushed.read(MODEL)
    assert len(local_models(clone)) == 2


def test_a_colleague_fetches_and_merges(pushed, hub, tmp_path, at, make_arrays):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    clone.git("switch", "-q", "-c", "side", "HEAD~1")
    clone.write(MODEL, make_arrays(7))
    clone.commit("side")
    clone.git("push", "-q", "-u", "origin", "side")
    pushed.git("fetch", "-q")
    pushed.git("merge", "-q", "--no-edit", "origin/side")  # the driver brings their side
    merged = pushed.read(MODEL)
    assert merged not in (save(make_arrays(2)), save(make_arrays(7)))
    pushed.git("push", "-q")
    clone.git("pull", "-q", "origin", "main")
    assert clone.read(MODEL) == merged


def test_the_chunks_are_there_before_the_branch(pushed, hub, make_arrays):
    hook = hub / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nwhile read old new ref; do echo $ref >> refs-seen; done\n")
    hook.chmod(0o755)
    pushed.write(MODEL, make_arrays(9))
    pushed.commit("more")
    pushed.git("push", "-q")
    assert (hub / "refs-seen").read_text().split() == ["refs/gru/store", "refs/heads/main"]


def test_only_models_that_the_pushed_commits_reach_are_published(pushed, hub, make_arrays):
    pushed.git("switch", "-q", "-c", "secret")
    pushed.write(MODEL, make_arrays(50))
    pushed.commit("secret")
    assert pushed.gru("repack").returncode == 0
    pushed.git("switch", "-q", "main")
    pushed.write(MODEL, make_arrays(51))
    pushed.commit("public")
    pushed.git("push", "-q", "origin", "main")
    there = models_in(hub, pushed.repository.store())
    assert digest_at(pushed, f"main:{MODEL}") in there
    assert digest_at(pushed, f"secret:{MODEL}") not in there
    pushed.git("push", "-q", "origin", "secret")
    assert digest_at(pushed, f"secret:{MODEL}") in models_in(hub, pushed.repository.store())


def test_an_old_version_is_pushed_while_a_newer_one_is_not(repo, hub, everywhere, tmp_path, at, make_arrays):
    files = []
    base = make_arrays(0)
    for seed in range(3):
        files.append(repo.write(MODEL, {name: array + seed * 1e-4 for name, array in base.items()}))
        repo.commit(f"version {seed}")
    assert repo.gru("repack").returncode == 0  # version 0 is a delta against a newer one now
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "main~2:refs/heads/main")
    listed = subprocess.run(
        ["git", "-C", str(hub), "ls-tree", "-r", "refs/gru/store"], capture_output=True, text=True, check=True
    ).stdout
    ids = {line.split("/")[-1] for line in listed.splitlines() if "models/" in line}
    newer = {id for rev in ("main", "main~1") for id in chunks_of(repo, rev)} - chunks_of(repo, "main~2")
    assert ids == chunks_of(repo, "main~2")
    assert not ids & newer
    repo.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    assert at(tmp_path / "clone").read(MODEL) == files[0]


def chunks_of(work, rev: str) -> set[str]:
    manifest = json.loads(work.git("cat-file", "blob", f"{rev}:{MODEL}"))
    ids = {id for entry in manifest["tensors"].values() for id in entry["chunks"]}
    return ids | {manifest["header"]}


def test_pushes_that_concern_no_model_need_no_store(repo, hub, everywhere, tmp_path):
    repo.write("notes.txt", b"hello")
    repo.commit("notes")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "main")
    refs = subprocess.run(["git", "-C", str(hub), "for-each-ref"], capture_output=True, text=True, check=True)
    assert "refs/gru" not in refs.stdout


def test_deletions_tags_and_a_hook_that_stood_there_before(pushed, hub, make_arrays):
    hook = pushed.path / ".git/hooks/pre-push"
    kept = hook.with_name("pre-push.before-git-gru")
    kept.write_text('#!/bin/sh\necho "$1" > told\ncat >> told\n')
    kept.chmod(0o755)
    pushed.write(MODEL, make_arrays(30))
    pushed.commit("tagged")
    pushed.git("tag", "-a", "-m", "one", "v1")
    pushed.git("push", "-q", "origin", "v1")
    told = pushed.read("told").decode().split()
    assert told[0] == "origin"
    assert "refs/tags/v1" in told
    assert digest_at(pushed, f"v1:{MODEL}") in models_in(hub, pushed.repository.store())
    pushed.git("push", "-q", "origin", ":refs/tags/v1")
    kept.write_text("#!/bin/sh\nexit 1\n")
    assert pushed.run("git", "push", "-q", "origin", "main").returncode != 0


def test_a_hook_that_stood_there_before_is_told_of_nothing_where_nothing_is_pushed(pushed):
    hook = pushed.path / ".git/hooks/pre-push.before-git-gru"
    hook.write_text("#!/bin/sh\nwc -l > told\n")
    hook.chmod(0o755)
    pushed.git("push", "-q", "origin", "main")
    assert pushed.read("told").strip() == b"0"
    pushed.git("push", "-q", "origin", "main:refs/heads/other")
    assert pushed.read("told").strip() == b"1"


def test_a_mirroring_push_does_not_delete_the_models(pushed, hub, repo):
    for command in (["push", "--mirror", "origin"], ["push", "origin", ":refs/gru/store"]):
        ran = pushed.run("git", *command)
        assert ran.returncode != 0
        assert b"would delete refs/gru/store, and with it all models, from origin" in ran.stderr
    assert len(models_in(hub, pushed.repository.store())) == 3
    shutil.rmtree(pushed.path / ".git/gru")
    pushed.git("checkout", "-q", "--orphan", "plain")
    pushed.git("rm", "-rfq", ".")
    pushed.write("notes", b"nothing here is tracked")
    pushed.commit("plain")
    pushed.git("config", "remote.origin.mirror", "true")
    assert pushed.run("git", "push", "origin").returncode != 0
    assert len(models_in(hub, pushed.repository.store())) == 3


def test_a_push_to_a_second_empty_remote_takes_all(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    second = new_hub(tmp_path / "second.git")
    clone.git("remote", "add", "second", str(second))
    clone.run(sys.executable, "-m", "git_gru", "install")
    clone.git("push", "-q", "second", "main")  # two of three versions are not here: they are fetched first
    assert len(models_in(second, clone.repository.store())) == 3
    shutil.rmtree(hub)
    clone.git("clone", "-q", str(second), str(tmp_path / "third"))
    third = at(tmp_path / "third")
    third.git("checkout", "-q", "HEAD~2")
    pushed.git("checkout", "-q", "HEAD~2")
    assert third.read(MODEL) == pushed.read(MODEL)


def test_models_that_are_nowhere_stop_the_push_with_their_names(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    clone.run(sys.executable, "-m", "git_gru", "install")
    second = new_hub(tmp_path / "second.git")
    clone.git("remote", "add", "second", str(second))
    subprocess.run(["git", "-C", str(hub), "update-ref", "-d", "refs/gru/store"], check=True)
    done = clone.run("git", "push", "second", "main")
    assert done.returncode != 0
    said = done.stderr.decode()
    assert "neither in the store" in said
    assert "origin" in said
    assert digest_at(clone, f"HEAD~1:{MODEL}")[:12] in said
    refs = subprocess.run(["git", "-C", str(second), "for-each-ref"], capture_output=True, check=True)
    assert b"refs/heads/main" not in refs.stdout
    commits = {rev: clone.git("rev-parse", rev).strip()[:10] for rev in ("HEAD~2", "HEAD~1")}
    assert all(f"{MODEL} in commit {commit}" in said for commit in commits.values())
    for verb in (["fetch", "HEAD~1"], ["fetch", "--tensor", "*", "HEAD~1"], ["push", "second"]):
        told = clone.gru(*verb)
        assert told.returncode == 5
        assert f"{MODEL} in commit {commits['HEAD~1']}" in told.stderr.decode()
    checked_out = clone.run("git", "checkout", "HEAD~1")
    assert f"needed for {commits['HEAD~1']}" in checked_out.stderr.decode()


# ---- kinds of clones and places ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [["--depth=1"], ["--filter=blob:none"], ["--filter=tree:0"], ["--no-checkout"]]
)
def test_partial_and_shallow_clones(pushed, hub, tmp_path, at, options):
    pushed.git("clone", "-q", *options, f"file://{hub}", str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    clone.git("checkout", "-q", "main")
    assert clone.read(MODEL) == pushed.read(MODEL)
    assert clone.status() == ""
    clone.run(sys.executable, "-m", "git_gru", "install")
    clone.write("notes.txt", b"x")
    clone.commit("notes")
    clone.git("push", "-q", "origin", "main")
    assert clone.gru("log").returncode == 0


def test_a_server_without_filters(repo, over_http, everywhere, tmp_path, at, make_arrays):
    new_hub(tmp_path / "plain.git", filters=False)
    hub = f"{over_http}/plain.git"
    for seed in range(3):
        repo.write(MODEL, make_arrays(seed))
        repo.commit(f"version {seed}")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "main")
    repo.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    assert clone.read(MODEL) == repo.read(MODEL)
    repo.write(MODEL, make_arrays(9))
    repo.commit("next")
    repo.git("push", "-q", "origin", "main")
    clone.git("pull", "-q")
    assert clone.read(MODEL) == repo.read(MODEL)


def test_a_colleagues_working_repository_is_a_source(repo, everywhere, tmp_path, at, make_arrays):
    repo.write(MODEL, make_arrays(1))
    repo.commit("one")
    repo.git("clone", "-q", str(repo.path), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    assert clone.read(MODEL) == repo.read(MODEL)
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"))
    repo.git("clone", "-q", str(tmp_path / "linked"), str(tmp_path / "clone 2"))
    assert at(tmp_path / "clone 2").read(MODEL) == repo.read(MODEL)
    # and what is pushed into it is found there
    clone.run(sys.executable, "-m", "git_gru", "install")
    clone.git("switch", "-q", "-c", "side")
    clone.write(MODEL, make_arrays(5))
    clone.commit("side")
    clone.git("push", "-q", "origin", "side")
    repo.git("switch", "-q", "side")
    assert repo.read(MODEL) == clone.read(MODEL)


def test_a_fork_finds_the_models_by_its_other_remote(pushed, hub, tmp_path, at):
    fork = tmp_path / "fork.git"
    pushed.git("clone", "-q", "--bare", str(hub), str(fork))
    done = pushed.run("git", "clone", "-q", str(fork), str(tmp_path / "clone"))
    assert done.returncode != 0
    assert b"tried: origin" in done.stderr
    assert b"model.safetensors: the model" in done.stderr
    clone = at(tmp_path / "clone")
    clone.git("remote", "add", "upstream", str(hub))
    clone.git("checkout", "-q", "--force", "main")
    assert clone.read(MODEL) == pushed.read(MODEL)


def test_the_committed_store_is_used_once_it_is_trusted(pushed, hub, tmp_path, at):
    pushed.git("config", "-f", ".gruconfig", "store.url", str(hub))
    pushed.commit("where the models are")
    pushed.git("push", "-q")
    fork = tmp_path / "fork.git"
    pushed.git("clone", "-q", "--bare", str(hub), str(fork))
    done = pushed.run("git", "clone", "-q", str(fork), str(tmp_path / "clone"))
    assert done.returncode != 0
    assert b"git gru trust" in done.stderr
    clone = at(tmp_path / "clone")
    shown = clone.gru("trust", "--show", "--json").stdout
    assert json.loads(shown) == {"url": str(hub), "trusted": False}
    assert clone.gru("trust").returncode == 0
    clone.git("checkout", "-q", "--force", "main")
    assert clone.read(MODEL) == pushed.read(MODEL)
    clone.git("config", "-f", ".gruconfig", "store.url", str(tmp_path / "elsewhere"))
    assert not json.loads(clone.gru("trust", "--show", "--json").stdout)["trusted"]


def test_trust_without_a_store_is_a_sentence(repo):
    done = repo.gru("trust")
    assert done.returncode == 4
    assert b".gruconfig" in done.stderr


# ---- verbs -----------------------------------------------------------------------------------------------------------------


def test_manifests_first_weights_later(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    clone = at(tmp_path / "clone")
    assert clone.read(MODEL).startswith(b'{"git-gru"')
    assert clone.status() == ""
    done = clone.gru("pull", "--json")
    assert json.loads(done.stdout)["written"] == [MODEL]
    assert clone.read(MODEL) == pushed.read(MODEL)
    assert clone.status() == ""
    assert json.loads(clone.gru("pull", "--json").stdout) == {
        "written": [],
        "models": 0,
        "blobs": 0,
        "bytes": 0,
    }


def test_pull_leaves_edits_alone_and_fills_gaps(pushed, make_arrays):
    pushed.write("sub dir/ü.safetensors", make_arrays(4))
    pushed.commit("second")
    kept = pushed.write(MODEL, make_arrays(77))
    expected = pushed.read("sub dir/ü.safetensors")
    shutil.rmtree(pushed.path / "sub dir")
    assert pushed.gru("pull").returncode == 0
    assert not (pushed.path / "sub dir").exists(), "deleted on purpose"
    assert pushed.gru("pull", ".").returncode == 0
    assert pushed.read(MODEL) == kept
    assert pushed.read("sub dir/ü.safetensors") == expected


def test_pull_refuses_a_path_without_models_before_it_writes(pushed):
    pushed.write("notes/n.txt", b"x")
    pushed.commit("notes")
    (pushed.path / MODEL).unlink()
    for wrong in ("notes", "nosuch.safetensors"):
        refused = pushed.gru("pull", MODEL, wrong)
        assert refused.returncode == 1
        assert f"no model of the index is at {wrong}".encode() in refused.stderr
        assert not (pushed.path / MODEL).exists()


def test_pull_takes_patterns_from_the_folder_where_the_user_is(pushed, at, make_arrays):
    for name, seed in (("a[1].safetensors", 4), ("sub/b.safetensors", 5), ("sub/c.safetensors", 6)):
        pushed.write(name, make_arrays(seed))
    pushed.commit("more models")

    def pulled(work, *paths: str) -> list[str]:
        for file in pushed.path.rglob("*.safetensors"):
            file.unlink()
        done = work.gru("pull", "--json", *paths)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["written"]

    assert pulled(pushed, "*b.safetensors") == ["sub/b.safetensors"]
    assert pulled(pushed, "a[1].safetensors", "s*/c*") == ["a[1].safetensors", "sub/c.safetensors"]
    folder = at(pushed.path / "sub")
    assert pulled(folder, "*.safetensors") == ["sub/b.safetensors", "sub/c.safetensors"]
    assert pulled(folder, ":/model*") == [MODEL]
    assert pushed.gru("pull", "sub/d*").returncode == 1


def test_pull_says_what_holds_the_index(pushed):
    (pushed.path / MODEL).unlink()
    (pushed.path / ".git/index.lock").touch()
    done = pushed.gru("pull", MODEL)
    assert done.returncode == 4
    assert b"index.lock': File exists" in done.stderr
    (pushed.path / ".git/index.lock").unlink()
    assert pushed.status() == ""


def test_pull_says_which_commit_needs_what_is_nowhere(pushed, make_arrays):
    pushed.git("remote", "rename", "origin", "hub")
    pushed.git("remote", "remove", "hub")
    pushed.write(MODEL, make_arrays(5))
    commit = pushed.commit("never pushed")
    shutil.rmtree(pushed.path / ".git/gru/store.git")
    (pushed.path / MODEL).unlink()
    pulled = pushed.gru("pull", MODEL)
    assert pulled.returncode != 0
    assert f"needed for {MODEL} in commit {commit[:10]}" in pulled.stderr.decode()


def test_pull_stays_within_a_sparse_checkout(pushed, hub, tmp_path, at, make_arrays):
    for folder, seed in (("in", 4), ("out", 5), ("out/er", 6)):
        pushed.write(f"{folder}/m.safetensors", make_arrays(seed))
    pushed.commit("folders")
    pushed.git("push", "-q")
    clone = at(tmp_path / "clone")
    skip = {"GIT_GRU_SKIP_SMUDGE": "1"}
    pushed.git("clone", "-q", "--sparse", str(hub), str(clone.path), env=skip)
    clone.git("sparse-checkout", "set", "in", env=skip)
    assert json.loads(clone.gru("pull", "--json").stdout)["written"] == ["in/m.safetensors", MODEL]
    assert json.loads(clone.gru("pull", "--json", ".").stdout)["written"] == []
    assert not (clone.path / "out").exists()
    named = json.loads(clone.gru("pull", "--json", "out/m.safetensors").stdout)
    assert named["written"] == ["out/m.safetensors"]
    assert clone.read("out/m.safetensors") == pushed.read("out/m.safetensors")
    assert clone.status() == ""


@pytest.mark.parametrize("manifest_there", [True, False])
def test_pull_writes_nothing_beyond_a_symbolic_link(pushed, tmp_path, make_arrays, manifest_there):
    pushed.write("deep/sub/m.safetensors", make_arrays(4))
    pushed.commit("second")
    outside = tmp_path / "outside"
    outside.mkdir()
    manifest = pushed.git("cat-file", "blob", "HEAD:deep/sub/m.safetensors").encode()
    shutil.rmtree(pushed.path / "deep")
    (pushed.path / "deep").mkdir()
    (pushed.path / "deep/sub").symlink_to(outside)
    if manifest_there:
        (outside / "m.safetensors").write_bytes(manifest)
    (pushed.path / MODEL).unlink()
    done = pushed.gru("pull", MODEL, "deep")
    assert done.returncode == 4
    assert b"deep/sub/m.safetensors is beyond a symbolic link" in done.stderr
    assert not (pushed.path / MODEL).exists(), "refused before anything is written"
    assert pushed.gru("pull").returncode == 0
    assert [(file.name, file.read_bytes()) for file in outside.iterdir()] == (
        [("m.safetensors", manifest)] if manifest_there else []
    )


def test_includes_and_excludes(pushed, hub, tmp_path, at, make_arrays):
    pushed.write("large/huge.safetensors", make_arrays(8))
    pushed.commit("huge")
    pushed.git("push", "-q")
    pushed.git("clone", "-q", "-c", "gru.fetchExclude=large", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    assert clone.read(MODEL) == pushed.read(MODEL)
    assert clone.read("large/huge.safetensors").startswith(b'{"git-gru"')
    assert clone.status() == ""
    assert clone.gru("pull").returncode == 0
    assert clone.read("large/huge.safetensors").startswith(b'{"git-gru"')
    assert clone.gru("pull", "large").returncode == 0
    assert clone.read("large/huge.safetensors") == pushed.read("large/huge.safetensors")


def test_fetch_prefetch_and_push(pushed, hub, tmp_path, at, make_arrays):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    assert json.loads(clone.gru("fetch", "--json", "HEAD~1").stdout)["models"] == 1
    assert json.loads(clone.gru("fetch", "--json", "--all").stdout)["models"] == 1
    assert len(local_models(clone)) == 3
    pushed.git("switch", "-q", "-c", "side")
    pushed.write(MODEL, make_arrays(40))
    pushed.commit("side")
    pushed.git("push", "-q", "origin", "side")
    clone.git("fetch", "-q")
    assert json.loads(clone.gru("prefetch", "--json").stdout)["models"] == 1
    shutil.rmtree(hub)
    clone.git("switch", "-q", "side")
    assert clone.read(MODEL) == pushed.read(MODEL)

    other = new_hub(tmp_path / "other.git")
    pushed.git("push", "-q", "--no-verify", str(other), "side")
    done = json.loads(pushed.gru("push", str(other), "side", "--json").stdout or "{}")
    assert done == {}  # an address is no remote's name
    pushed.git("remote", "add", "other", str(other))
    assert json.loads(pushed.gru("push", "other", "side", "--json").stdout)["models"] == 4
    assert json.loads(pushed.gru("push", "other", "side", "--json").stdout)["models"] == 0


def test_paths_mean_the_same_everywhere(pushed, hub, tmp_path, at, make_arrays):
    """Of one commit and of all history, by --path and behind --, from the top and from a folder; no match is a 1."""
    pushed.git("mv", MODEL, "a.safetensors")
    pushed.write("sub/n.safetensors", make_arrays(9))
    pushed.commit("two models")
    pushed.git("push", "-q")
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    clone, folder = at(tmp_path / "clone"), at(tmp_path / "clone/sub")
    wanted = {digest_at(clone, "HEAD:sub/n.safetensors")}
    good = [
        (clone, "sub/n.safetensors"),
        (clone, "sub"),
        (clone, "*n.safetensors"),
        (folder, "n.safetensors"),
    ]
    for number, (work, path) in enumerate(good):
        options = [["--path", path], ["--all", "--path", path], ["--", path], ["--all", "HEAD", "--", path]][
            number
        ]
        ran = work.gru("fetch", "--json", *options)
        assert json.loads(ran.stdout)["models"] == (1 if number == 0 else 0), ran.stderr
        assert local_models(clone) == wanted
    second = new_hub(tmp_path / "second.git")
    clone.git("remote", "add", "second", str(second))
    for work, path in good:
        assert work.gru("push", "second", "HEAD", "--", path).returncode == 0
        assert models_in(second, clone.repository.store()) == wanted
    for verb in (["fetch"], ["fetch", "--all"], ["push", "second"]):
        for work, path in ((clone, "n.safetensors"), (folder, "sub"), (clone, ".gitattributes")):
            ran = work.gru(*verb, "--path", path)
            assert ran.returncode == 1, ran.stderr
            assert b"is at" in ran.stderr
    assert clone.gru("fetch", "--tensor", "nothing.*").returncode == 1


def test_a_hub_that_was_fed_version_by_version_is_repacked(repo, hub, everywhere, tmp_path, at, make_arrays):
    files, base = [], make_arrays(0, hidden=256)
    repo.git("remote", "add", "origin", str(hub))
    for seed in range(4):
        files.append(repo.write(MODEL, {name: array * (1 + 1e-4 * seed) for name, array in base.items()}))
        repo.commit(f"version {seed}")
        repo.git("push", "-q", "origin", "main")

    def kept() -> int:
        subprocess.run(["git", "-C", str(hub), "gc", "-q", "--prune=now"], check=True)
        return sum(file.stat().st_size for file in (hub / "objects/pack").glob("*.pack"))

    before = kept()
    done = json.loads(repo.gru("repack", "--remote", "origin", "--json").stdout)
    assert done["models"] == 3
    assert kept() < 0.9 * before
    repo.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    for seed in reversed(range(4)):
        assert clone.read(MODEL) == files[seed]
        if seed:
            clone.git("checkout", "-q", "HEAD~1")
    assert repo.gru("repack", "--remote", "nobody").returncode == 4


def test_one_tensor_is_fetched_alone(pushed, hub, tmp_path, at, make_arrays):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    clone = at(tmp_path / "clone")
    assert json.loads(clone.gru("fetch", "--tensor", "head.*", "--json").stdout) == {"tensors": 1}
    pushed_hub = hub.rename(tmp_path / "gone.git")
    done = clone.gru("cat", f"HEAD:{MODEL}#head.weight")
    assert done.returncode != 0  # whoever looks for the model asks the hub which chunks it has
    pushed_hub.rename(hub)
    assert clone.gru("cat", f"HEAD:{MODEL}#head.weight").stdout == make_arrays(2)["head.weight"].tobytes()
    assert local_models(clone) == set()
    import io

    import numpy as np

    npy = np.load(io.BytesIO(clone.gru("cat", "--npy", f"HEAD~1:{MODEL}#gru.bias_ih_l0").stdout))
    assert np.array_equal(npy, make_arrays(1)["gru.bias_ih_l0"])
    assert clone.gru("cat", f"HEAD:{MODEL}").stdout == pushed.read(MODEL)


def test_open_model(pushed, hub, tmp_path, at, make_arrays):
    import numpy as np
    import torch

    import git_gru

    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    with git_gru.open_model(f"HEAD~1:{MODEL}", repository=tmp_path / "clone") as model:
        assert set(model) == set(make_arrays(1))
        assert model.describe("head.weight").shape == (32, 64)
        assert np.array_equal(model["head.weight"], make_arrays(1)["head.weight"])
        with pytest.raises(KeyError):
            model["nothing"]
    with git_gru.open_model(f"HEAD:{MODEL}", repository=pushed.path, framework="torch") as model:
        assert torch.equal(model["head.weight"], torch.from_numpy(make_arrays(2)["head.weight"]))
    with pytest.raises(git_gru.errors.InputError):
        git_gru.open_model("HEAD:nothing", repository=pushed.path)
    with pytest.raises(git_gru.errors.InputError, match="framework"):
        git_gru.open_model(f"HEAD:{MODEL}", repository=pushed.path, framework="jax")


def test_diff_between_commits_brings_what_it_reads(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    clone = at(tmp_path / "clone")
    ours = pushed.gru("diff", "--json", "HEAD~2", "HEAD")
    theirs = clone.gru("diff", "--json", "HEAD~2", "HEAD")
    assert theirs.returncode == 0, theirs.stderr
    assert json.loads(theirs.stdout) == json.loads(ours.stdout)


# ---- other transports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def over_http(tmp_path: Path) -> Iterator[str]:
    """`git http-backend` behind a server on loopback; gives the address of the folder of hubs."""
    with serving(tmp_path) as server:
        yield server.url


def there_and_back(repo, url: str, clone_at: Path, at, make_arrays) -> None:
    """Push, clone, check out an old version, push from the clone, pull."""
    for seed in range(2):
        repo.write(MODEL, make_arrays(seed))
        repo.commit(f"version {seed}")
    repo.git("remote", "add", "origin", url)
    repo.git("push", "-q", "-u", "origin", "main")
    repo.git("clone", "-q", url, str(clone_at))
    clone = at(clone_at)
    assert clone.read(MODEL) == save(make_arrays(1))
    clone.git("checkout", "-q", "HEAD~1")
    assert clone.read(MODEL) == save(make_arrays(0))
    clone.git("checkout", "-q", "main")
    clone.run(sys.executable, "-m", "git_gru", "install")
    clone.write(MODEL, make_arrays(5))
    clone.commit("five")
    clone.git("push", "-q", "origin", "main")
    repo.git("pull", "-q")
    assert repo.read(MODEL) == save(make_arrays(5))


def test_nobody_is_asked_who_they_are_at_an_address_that_they_never_named(
    pushed, hub, isolated, tmp_path, monkeypatch
):
    """Hosts answer so where there is nothing. (Next to a fork without models, the store of a working repository is sought.)"""

    class Guarded(GitHandler):
        def do_GET(self) -> None:
            if "/gru/store.git" not in self.path:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="hub"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    asked = tmp_path / "asked"
    asked.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\necho username=a\necho password=b\n')
    asked.chmod(0o755)
    pushed.git("config", "--global", "credential.helper", str(asked))
    monkeypatch.setenv("GIT_ASKPASS", str(asked))
    pushed.git("clone", "-q", "--bare", str(hub), str(tmp_path / "fork.git"))
    with serving(tmp_path, Guarded) as server:
        done = pushed.run("git", "clone", "-q", f"{server.url}/fork.git", str(tmp_path / "clone"))
    assert b"tried: origin, origin (its store)" in done.stderr, done.stderr
    assert not (tmp_path / "told").exists()


def test_over_smart_http(repo, hub, over_http, everywhere, tmp_path, at, make_arrays):
    there_and_back(repo, f"{over_http}/hub.git", tmp_path / "clone", at, make_arrays)


def test_settings_of_the_repository_alone_reach_the_transport(repo, hub, over_http, everywhere, make_arrays):
    """`url.insteadOf` in the repository's own settings, and on the command line."""
    repo.write(MODEL, make_arrays(1))
    repo.commit("one")
    repo.git("remote", "add", "origin", "models:hub.git")
    repo.git("config", f"url.{over_http}/.insteadOf", "models:")
    repo.git("push", "-q", "origin", "main")
    assert len(models_in(hub, repo.repository.store())) == 1


def test_programs_that_only_the_repository_or_its_remote_names_are_run(
    repo, hub, everywhere, tmp_path, make_arrays
):
    ssh, receive = tmp_path / "ssh", tmp_path / "receive"
    ssh.write_text(
        f'#!/bin/sh\n[ "$1" = -G ] && exit 0\necho ran >> {tmp_path}/ssh-told\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    receive.write_text(f'#!/bin/sh\necho ran >> {tmp_path}/receive-told\nexec git-receive-pack "$@"\n')
    for program in (ssh, receive):
        program.chmod(0o755)
    repo.git("config", "core.sshCommand", str(ssh))
    repo.git("remote", "add", "origin", f"nowhere:{hub}")
    repo.git("config", "remote.origin.receivepack", str(receive))
    repo.write(MODEL, make_arrays(1))
    repo.commit("one")
    repo.git("push", "-q", "origin", "main")
    assert len(models_in(hub, repo.repository.store())) == 1
    assert (tmp_path / "receive-told").read_text().split() == ["ran", "ran"]  # the models, and the branch
    assert len((tmp_path / "ssh-told").read_text().split()) > 2


@pytest.fixture
def over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real sshd on loopback; gives the address of the folder of hubs."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert sshd, "this test needs an sshd: apt-get install openssh-server"
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f'SetEnv PATH="{path}"\nAcceptEnv GIT_PROTOCOL\n'
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(folder / "config")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"listening" in line:
            break
    monkeypatch.setenv(
        "GIT_SSH_COMMAND",
        f"ssh -F none -i {folder}/user -p {port} -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=no "
        "-o BatchMode=yes -o LogLevel=ERROR",
    )
    import getpass

    yield f"{getpass.getuser()}@127.0.0.1:{tmp_path}"
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.stdout.close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_over_ssh(repo, hub, over_ssh, everywhere, tmp_path, at, make_arrays):
    there_and_back(repo, f"{over_ssh}/hub.git", tmp_path / "clone", at, make_arrays)


def test_a_colleagues_working_repository_over_ssh(repo, over_ssh, everywhere, tmp_path, at, make_arrays):
    repo.write(MODEL, make_arrays(3))
    repo.commit("three")
    repo.git("clone", "-q", f"{over_ssh}/repo", str(tmp_path / "clone"))
    assert at(tmp_path / "clone").read(MODEL) == repo.read(MODEL)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_hub_whose_store_is_no_commit_is_not_to_be_mended_here(pushed, hub, scheme):
    """As a folder, and by git's own transport."""
    tree = pushed.git("rev-parse", "HEAD^{tree}").strip()
    subprocess.run(["git", "-C", str(hub), "update-ref", "refs/gru/store", tree], check=True)
    pushed.git("remote", "set-url", "origin", f"{scheme}{hub}")
    if scheme:
        (hub / "reftable").mkdir()  # what only git may read is not read as a folder
    for verb in (["push", "origin"], ["gc", "--remote", "origin"], ["repack", "--remote", "origin"]):
        told = pushed.gru(*verb)
        assert told.returncode == 5, told.stderr
        assert b"origin" in told.stderr
        assert b"git gru repair" not in told.stderr


def test_a_damaged_hub_is_mended_as_the_manual_says(pushed, hub, tmp_path, at):
    def there(command: str) -> int:
        return subprocess.run(["sh", "-c", command], cwd=hub, capture_output=True).returncode

    assert there("git repack -adq && git prune-packed") == 0
    (pack,) = (hub / "objects/pack").glob("*.pack")
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 255
    pack.write_bytes(data)
    assert there("git fsck") != 0
    manual = (Path(__file__).parents[2] / "docs/maintenance.md").read_text()
    recipe = manual.split("## A hub that is damaged")[1].split("```")[1]
    assert there(recipe) == 0
    ran = pushed.gru("push", "origin", "--all", "--json")
    assert json.loads(ran.stdout)["models"] == 3, ran.stderr
    assert there("git fsck") == 0
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    for age in range(3):
        pushed.git("checkout", "-q", f"main~{age}")
        at(tmp_path / "clone").git("checkout", "-q", f"main~{age}")
        assert at(tmp_path / "clone").read(MODEL) == pushed.read(MODEL)


def test_passwords_in_addresses_are_not_shown(pushed):
    address = "http://me:secret@127.0.0.1:1/hub.git"
    pushed.git("remote", "add", "private", address)
    told = pushed.gru("push", "private").stderr
    assert b"the remote private (http://127.0.0.1:1/hub.git) cannot be read" in told
    assert b"secret" not in told
    remote = GitRemote(pushed.repository.store(), address, address, LOCAL_VARIABLES)
    assert remote.name == "http://127.0.0.1:1/hub.git", "as the hook names it, for a push to an address"


def test_a_hub_that_is_gone_is_a_sentence(pushed, hub, tmp_path, at):
    pushed.git("clone", "-q", str(hub), str(tmp_path / "clone"))
    clone = at(tmp_path / "clone")
    hub.rename(tmp_path / "gone.git")
    done = clone.run("git", "checkout", "HEAD~1")
    assert done.returncode != 0
    said = done.stderr.decode()
    assert "git-gru: model.safetensors: the remote origin" in said
    assert "Traceback" not in said
