"""The hub's pre-receive hook, with real pushes over a local path: complete models come in, others do not."""

import json
import os
import subprocess

import pytest

from git_gru.git.hooks import HookAction
from git_gru.git.install import Scope, install_server, program_command, uninstall
from git_gru.git.repository import NotARepositoryError
from git_gru.store.columns import DEPTH
from git_gru.store.packs import PackWriter
from git_gru.store.store import Store
from git_gru.store.trees import BLOB_MODE, DELTA_MODE, make_tree, parse_tree

MODEL = "model.safetensors"
STORE = "refs/gru/store"


@pytest.fixture
def hub(tmp_path, at):
    """A bare repository with the hook."""
    path = tmp_path / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    work = at(path)
    done = install_server(work.repository, program_command(os.environ["PATH"]))
    assert [(hook.path.name, hook.action) for hook in done.hooks] == [("pre-receive", HookAction.INSTALLED)]
    return work


@pytest.fixture
def client(repo, hub, make_arrays):
    """A clone with one committed model, nothing pushed."""
    repo.git("remote", "add", "origin", str(hub.path))
    repo.write(MODEL, make_arrays(1))
    repo.commit("first")
    return repo


def pushed(work, *refs: str) -> subprocess.CompletedProcess[bytes]:
    """A push without the client's own hook, which would publish the models first."""
    return work.run("git", "push", "-q", "--no-verify", "origin", *(refs or ("main",)))


def store_pushed(work, hub, *options: str, source: str = STORE) -> subprocess.CompletedProcess[bytes]:
    """The store, as a transfer brings it."""
    folder = work.path / ".git/gru/store.git"
    return work.run(
        "git", "--git-dir", str(folder), "push", "-q", *options, str(hub.path), f"{source}:{STORE}"
    )


def test_a_branch_comes_in_after_its_models(client, hub, make_arrays):
    refused = pushed(client)
    assert refused.returncode == 1
    told = refused.stderr.decode()
    digest = json.loads(client.git("cat-file", "blob", f"HEAD:{MODEL}"))["digest"]
    assert f"remote:   {MODEL}: the model {digest[:12]} was not pushed" in told
    assert "remote: hint: Push with git-gru" in told
    assert hub.git("for-each-ref") == ""
    assert store_pushed(client, hub).returncode == 0
    assert pushed(client).returncode == 0
    assert hub.git("rev-parse", "main") == client.git("rev-parse", "main")
    # The next version: neither the branch nor a tag of it.
    client.write(MODEL, make_arrays(2))
    client.commit("second")
    client.git("tag", "-a", "-m", "tagged", "v1")
    assert pushed(client, "main").returncode == 1
    assert pushed(client, "v1").returncode == 1
    assert hub.git("rev-parse", "main") == client.git("rev-parse", "main~1")
    assert store_pushed(client, hub, "--force").returncode == 0
    assert pushed(client, "main", "v1").returncode == 0
    # What is complete already is taken again and again, and so is what has no model.
    client.write("notes.txt", b"no model")
    client.commit("notes")
    assert pushed(client).returncode == 0
    assert pushed(client, ":v1").returncode == 0
    # With the client's hook a plain push brings all that it needs.
    client.write(MODEL, make_arrays(3))
    client.commit("third")
    assert client.run("git", "push", "-q", "origin", "main").returncode == 0


def test_deltas_need_their_bases(client, hub, make_arrays):
    arrays = make_arrays(1)
    for _ in range(DEPTH):
        arrays = {name: data * 1.0001 for name, data in arrays.items()}
        client.write(MODEL, arrays)
        client.commit("more")
    assert client.gru("repack").returncode == 0
    store = Store(client.path / ".git/gru")
    digest = json.loads(client.git("cat-file", "blob", f"HEAD~1:{MODEL}"))["digest"]
    own = set(
        json.loads(client.git("cat-file", "blob", f"HEAD~1:{MODEL}"))["tensors"]["gru.weight_hh_l0"]["chunks"]
    )
    items = list(parse_tree(store.objects.expect(store.models()[digest], "tree"), where="x"))
    assert any(item.mode == DELTA_MODE for item in items)
    whole = store.tip()

    def with_items(kept) -> str:
        """The store's state with another tree for this model."""
        model = make_tree({item.name: (item.mode, item.oid) for item in kept})
        new, entries = store.tree().write({digest: model.oid})
        pack = PackWriter(store.repository / "objects/pack", 0)
        for entry in (model, *entries):
            pack.add(entry)
        pack.finish()
        return new.hex()

    newest = json.loads(client.git("cat-file", "blob", f"HEAD:{MODEL}"))
    bases = {id for entry in newest["tensors"].values() for id in entry["chunks"]} - own
    for lacking in (own, bases):
        state = with_items(item for item in items if item.name.decode() not in lacking)
        assert store_pushed(client, hub, "--force", source=state).returncode == 0
        refused = pushed(client)
        assert refused.returncode == 1
        assert f"chunks of the model {digest[:12]} were not pushed" in refused.stderr.decode()
    assert store_pushed(client, hub, "--force", source=whole.hex()).returncode == 0
    assert pushed(client).returncode == 0
    store.close()


def test_the_store_may_lose_only_what_nothing_names(client, hub, make_arrays):
    first = Store(client.path / ".git/gru").tip().hex()
    client.write(MODEL, make_arrays(2))
    client.commit("second")
    client.git("branch", "side")
    assert store_pushed(client, hub).returncode == 0
    assert pushed(client, "main", "side").returncode == 0
    refused = store_pushed(client, hub, "--force", source=first)
    assert refused.returncode == 1
    assert f"the push would drop models from {STORE}" in refused.stderr.decode()
    assert store_pushed(client, hub, source="").returncode == 1, "deleted"
    assert pushed(client, "--force", "main~1:main").returncode == 0
    assert store_pushed(client, hub, "--force", source=first).returncode == 1, "side names it"
    assert pushed(client, ":side").returncode == 0
    assert store_pushed(client, hub, "--force", source=first).returncode == 0


def test_a_text_that_looks_like_a_manifest_and_is_no_model(client, hub):
    text = client.git("cat-file", "blob", f"HEAD:{MODEL}").encode()
    client.git("rm", "-q", "-f", MODEL)
    client.git("commit", "-q", "--amend", "-m", "no model")
    client.write("tests/golden.manifest", text)
    client.commit("a test file")
    assert pushed(client).returncode == 0


def test_an_edited_manifest_is_refused(client, hub):
    assert store_pushed(client, hub).returncode == 0
    text = client.git("cat-file", "blob", f"HEAD:{MODEL}").replace('"size": ', '"size": 1', 1).encode()
    blob = client.git("hash-object", "-w", "--stdin", input=text).strip()
    client.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
    client.git("commit", "-q", "--no-verify", "-m", "edited")
    refused = pushed(client)
    assert refused.returncode == 1
    assert f"{MODEL}: the manifest was changed after git-gru wrote it" in refused.stderr.decode()


def test_a_store_of_another_format_is_refused(client, hub):
    folder = client.path / ".git/gru/store.git"
    blob = client.git(
        "--git-dir", str(folder), "hash-object", "-w", "--stdin", input=b"git-gru store 9\n"
    ).strip()
    tree = make_tree({b"format": (BLOB_MODE, bytes.fromhex(blob))})
    git = ("--git-dir", str(folder))
    made = client.git(*git, "mktree", input=f"100644 blob {blob}\tformat\n".encode()).strip()
    assert made == tree.oid.hex()
    commit = client.git(*git, "commit-tree", made, "-m", "store").strip()
    refused = store_pushed(client, hub, source=commit)
    assert refused.returncode == 1
    assert "the same version of git-gru" in refused.stderr.decode()


def test_a_hook_that_was_there_is_kept_and_gets_the_updates_too(client, hub, tmp_path):
    uninstall(hub.repository, Scope.LOCAL)
    assert not (hub.path / "hooks/pre-receive").exists()
    seen = tmp_path / "seen"
    (hub.path / "hooks/pre-receive").write_text(f"#!/bin/sh\ncat >> '{seen}'\n! grep -q forbidden '{seen}'\n")
    (hub.path / "hooks/pre-receive").chmod(0o755)
    install_server(hub.repository, program_command(os.environ["PATH"]))
    assert store_pushed(client, hub).returncode == 0
    assert pushed(client).returncode == 0
    assert seen.read_text().split() == [
        "0" * 40, hub.git("rev-parse", STORE).strip(), STORE,
        "0" * 40, hub.git("rev-parse", "main").strip(), "refs/heads/main",
    ]  # fmt: skip
    assert pushed(client, "main:forbidden").returncode == 1
    assert [change.action for change in uninstall(hub.repository, Scope.LOCAL).hooks] == [HookAction.RESTORED]


def test_only_in_a_bare_repository(repo, hub):
    with pytest.raises(NotARepositoryError, match="no bare repository"):
        install_server(repo.repository, "git-gru")
    with pytest.raises(NotARepositoryError):
        install_server(None, "git-gru")
    assert hub.git("config", "uploadpack.allowFilter").strip() == "true"
    assert hub.git("config", "core.bigFileThreshold").strip() == "1m"
    again = hub.gru("install", "--server")
    assert again.returncode == 0
    assert b"pushes are checked" in again.stdout
