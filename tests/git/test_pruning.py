"""Space on this side and on the hub: `git gru prune`, `git gru gc --remote`."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from git_gru.git.hub_references import hub_references
from git_gru.git.needs import models_named_by
from git_gru.git.sources import push_url

MODEL = "model.safetensors"


@pytest.fixture
def hub(tmp_path):
    path = tmp_path / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    subprocess.run(["git", "-C", str(path), "config", "uploadpack.allowFilter", "true"], check=True)
    return path


@pytest.fixture
def pushed(repo, hub, make_arrays):
    """Three versions on the hub, a fourth only here."""
    base = make_arrays(0)
    repo.git("remote", "add", "origin", str(hub))
    for seed in range(4):
        repo.write(MODEL, {name: array * (1 + 1e-4 * seed) for name, array in base.items()})
        repo.commit(f"version {seed}")
        if seed == 2:
            repo.git("push", "-q", "-u", "origin", "main")
    return repo


def digests(work, *revs: str) -> set[str]:
    return {json.loads(work.git("cat-file", "blob", f"{rev}:{MODEL}"))["digest"] for rev in revs}


def test_prune_drops_what_the_remote_has_and_nothing_that_is_checked_out(pushed, make_arrays):
    assert pushed.gru("repack").returncode == 0
    files = {}
    for at in range(4):
        pushed.git("checkout", "-q", f"main~{at}")
        files[at] = pushed.read(MODEL)
    pushed.git("checkout", "-q", "main")
    planned = json.loads(pushed.gru("prune", "--dry-run", "--json").stdout)
    assert set(planned["dropped"]) == digests(pushed, "main~1", "main~2", "main~3")
    assert set(pushed.repository.store().models()) == digests(pushed, "main", "main~1", "main~2", "main~3")
    ran = pushed.gru("prune", "--json")
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout)
    assert set(done["dropped"]) == set(planned["dropped"])
    assert done["bytes_after"] < done["bytes_before"]
    assert set(pushed.repository.store().models()) == digests(pushed, "main")
    for at in range(4):
        pushed.git("checkout", "-q", f"main~{at}")
        assert pushed.read(MODEL) == files[at]


def test_prune_keeps_what_the_hub_lost(pushed, hub):
    subprocess.run(["git", "-C", str(hub), "update-ref", "-d", "refs/gru/store"], check=True)
    assert json.loads(pushed.gru("prune", "--json").stdout)["dropped"] == []


def test_prune_counts_neither_what_the_hub_has_marked_nor_what_only_the_push_address_has(
    pushed, hub, tmp_path
):
    pushed.git("push", "-q", "--force", "origin", "main~2:main")  # the hub needs two of its three versions
    waiting = json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["waiting"]
    assert set(waiting) == digests(pushed, "main~1")
    planned = json.loads(pushed.gru("prune", "--json", "--dry-run").stdout)
    assert set(planned["dropped"]) == digests(pushed, "main~2", "main~3")
    other = tmp_path / "other.git"
    subprocess.run(["git", "init", "-q", "--bare", str(other)], check=True)
    pushed.git("config", "remote.origin.pushurl", str(hub))
    pushed.git("config", "remote.origin.url", str(other))
    assert json.loads(pushed.gru("prune", "--json").stdout)["dropped"] == []


def test_a_name_that_is_no_remote_is_said_so(repo):
    for command in (["prune", "--remote", "nobody"], ["gc", "--remote", "nobody"]):
        ran = repo.gru(*command)
        assert ran.returncode == 4
        assert b"nobody is no remote of this repository" in ran.stderr


@pytest.mark.parametrize("kind", ["--depth=1", "--filter=blob:none", "--filter=tree:0"])
def test_a_clone_without_the_whole_history_collects_nothing_that_is_needed(pushed, hub, tmp_path, at, kind):
    clone = at(tmp_path / "clone")
    pushed.git("clone", "-q", kind, f"file://{hub}", str(clone.path), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    for grace in ("14d", "now"):
        ran = clone.gru("gc", "--remote", "origin", "--grace", grace, "--json")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == {"dry_run": False, "remote": "origin", "dropped": [], "waiting": []}


def test_the_references_of_the_repository_that_is_collected_count(pushed, hub, tmp_path):
    """Where pushes go elsewhere than fetches come from."""
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "init", "-q", "--bare", str(fork)], check=True)
    pushed.git("config", "remote.origin.pushurl", str(fork))
    pushed.git("tag", "kept", "main")
    pushed.git("push", "-q", "origin", "kept")
    pushed.git("update-ref", "refs/heads/hidden", "HEAD")
    told = json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)
    assert (told["dropped"], told["waiting"]) == ([], [])
    # a commit that a hub with a worktree has checked out, and no branch has
    subprocess.run(["git", "-C", str(fork), "update-ref", "--no-deref", "HEAD", "kept"], check=True)
    pushed.git("push", "-q", "origin", "main~3:refs/tags/old", ":kept")
    told = json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)
    assert (told["dropped"], told["waiting"]) == ([], [])


def test_a_shallow_hubs_references_count(pushed, hub, tmp_path):
    subprocess.run(
        ["git", "clone", "-q", "--bare", "--depth=1", f"file://{hub}", str(tmp_path / "shallow.git")],
        check=True,
    )
    pushed.git("remote", "add", "shallow", str(tmp_path / "shallow.git"))
    with hub_references(pushed.repository, "shallow", push_url(pushed.repository, "shallow")) as seen:
        needed, absent = models_named_by(seen, pushed.repository.store().stamps)
    assert digests(pushed, "main~1") <= needed
    assert absent == 0


def test_collections_at_once_do_not_meddle_with_each_other(pushed):
    """While one has the hub's references, another begins and ends."""
    with hub_references(pushed.repository, "origin", push_url(pushed.repository, "origin")) as hub:
        assert pushed.gru("gc", "--remote", "origin").returncode == 0
        needed, absent = models_named_by(hub, pushed.repository.store().stamps)
    assert (needed, absent) == (digests(pushed, "main~1", "main~2", "main~3"), 0)
    assert "refs/gru/hub" not in pushed.git("for-each-ref")
    assert not hub.git_dir.exists()


def test_settings_that_count_for_the_repositorys_folder_reach_the_hub(pushed, hub, isolated, tmp_path):
    """`includeIf`: the folders in which a hub is only looked at are others."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = -G ] && exit 0\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    (tmp_path / "work.config").write_text(f"[core]\n\tsshCommand = {ssh}\n")
    pushed.git("config", "--global", f"includeIf.gitdir:{pushed.path}/.path", str(tmp_path / "work.config"))
    pushed.git("remote", "set-url", "origin", f"nowhere:{hub}")
    ran = pushed.gru("gc", "--remote", "origin")
    assert ran.returncode == 0, ran.stderr
    pushed.git("update-ref", "refs/heads/main", "origin/main")
    pushed.git("reflog", "expire", "--expire=now", "--all")
    pushed.git("read-tree", "HEAD")
    shutil.rmtree(pushed.path / ".git/gru")
    ran = pushed.gru("fsck", "--json")
    assert json.loads(ran.stdout)["unreached"] == {}
    assert ran.returncode == 0


def test_a_hub_is_collected_whatever_hash_git_makes_repositories_with(pushed):
    ran = pushed.gru("gc", "--remote", "origin", env={"GIT_DEFAULT_HASH": "sha256"})
    assert ran.returncode == 0, ran.stderr


def test_a_hub_whose_references_name_no_model_is_refused(pushed, hub):
    subprocess.run(["git", "-C", str(hub), "update-ref", "-d", "refs/heads/main"], check=True)
    for _ in range(2):
        ran = pushed.gru("gc", "--remote", "origin", "--grace", "now")
        assert ran.returncode == 4
        assert b"no reference of origin names a model" in ran.stderr
    pushed.git("push", "-q", "origin", "main")
    assert json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["waiting"] == []


def test_a_hub_is_collected_in_two_steps(pushed, hub):
    pushed.git("switch", "-q", "-c", "side", "main~2")
    pushed.write(MODEL, {"w": np.arange(9.0)})
    pushed.commit("side")
    pushed.git("push", "-q", "origin", "side")
    side = digests(pushed, "side")
    pushed.git("push", "-q", "origin", ":side")
    told = json.loads(pushed.gru("gc", "--remote", "origin", "--dry-run", "--json").stdout)
    assert set(told["waiting"]) == side
    assert json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["dropped"] == []
    assert json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["dropped"] == []
    done = json.loads(pushed.gru("gc", "--remote", "origin", "--grace", "now", "--json").stdout)
    assert set(done["dropped"]) == side
    pushed.git("push", "-q", "origin", "side")  # it is sent again
    assert set(json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["waiting"]) == set()
    assert pushed.gru("gc", "--remote", "nobody").returncode == 4
