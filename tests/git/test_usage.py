"""`git gru du`: exact bytes by path, tensor and commit."""

import json

import numpy as np
import pytest

from git_gru.cli.main import run
from git_gru.errors import InputError
from git_gru.git.usage import usage
from git_gru.store.store import Store

BACKBONE = np.arange(3000, dtype=np.float32)


@pytest.fixture
def history(repo):
    """Four commits: a model, its head changed, a copy of the first, and the file removed; with the stored size of each chunk."""
    rng = np.random.default_rng(1)
    heads = [rng.normal(0, 0.1, 700).astype(np.float32) for _ in range(2)]
    repo.write("a.safetensors", {"head": heads[0], "body": BACKBONE})
    commits = [repo.commit("first")]
    repo.write("a.safetensors", {"head": heads[1], "body": BACKBONE})
    commits.append(repo.commit("another head"))
    repo.write("b.safetensors", {"head": heads[0], "body": BACKBONE})
    commits.append(repo.commit("a copy"))
    repo.git("rm", "-q", "a.safetensors")
    commits.append(repo.commit("removed"))
    return commits


def stored(repo, commit: str, path: str, tensor: str) -> int:
    manifest = json.loads(repo.git("cat-file", "blob", f"{commit}:{path}"))
    ids = [manifest["header"]] if tensor == "header" else manifest["tensors"][tensor]["chunks"]
    store = Store(repo.path / ".git/gru")
    store.sync()
    rows = store.lookup.rows()
    store.close()
    return sum(rows[id].stored for id in dict.fromkeys(ids))


def test_exact_bytes(repo, history):
    library = repo.repository
    found = usage(library, library.store(), [])
    header, body = (stored(repo, history[0], "a.safetensors", name) for name in ("header", "body"))
    heads = [stored(repo, history[at], "a.safetensors", "head") for at in (0, 1)]
    size = len(repo.read("b.safetensors"))
    parts = {path: (share.versions, share.raw, share.stored) for path, share in found.paths.items()}
    assert parts == {
        "a.safetensors": (2, 2 * size, header + body + sum(heads)),
        "b.safetensors": (1, size, header + body + heads[0]),
    }
    tensors = {key: (share.versions, share.raw, share.stored) for key, share in found.tensors.items()}
    assert tensors[("a.safetensors", "head")] == (2, 2 * 2800, sum(heads))
    assert tensors[("a.safetensors", "body")] == (1, 12_000, body)
    assert [(one.commit, one.subject, one.stored) for one in found.commits] == [
        (history[1], "another head", heads[1]),
        (history[0], "first", header + body + heads[0]),
    ]
    assert found.commits[0].raw == 2800
    total = found.totals
    assert (total.versions, total.raw, total.missing) == (2, 2 * size, 0)
    assert total.distinct == size + 2800
    assert total.stored == total.plain == header + body + sum(heads)
    assert (found.unneeded_models, found.packs) == (0, 2)
    assert found.pack_bytes > total.stored


def test_of_some_revisions_only(repo, history):
    library = repo.repository
    found = usage(library, library.store(), [history[0]])
    assert list(found.paths) == ["a.safetensors"]
    assert [one.commit for one in found.commits] == [history[0]]
    assert found.totals.versions == 1
    with pytest.raises(InputError, match="nope"):
        usage(library, library.store(), ["nope"])


def test_what_deltas_save_and_what_nothing_needs(repo, capsys, monkeypatch):
    rng = np.random.default_rng(2)
    weights = rng.normal(0, 0.05, 40_000).astype(np.float32)
    for step in range(3):
        repo.write("m.safetensors", {"w": weights + rng.normal(0, 1e-4, 40_000).astype(np.float32) * step})
        repo.commit(f"step {step}")
    repo.write("m.safetensors", {"w": weights * 2})
    repo.status()
    library = repo.repository
    before = usage(library, library.store(), []).totals
    assert repo.gru("repack").returncode == 0
    found = usage(library, library.store(), [])
    assert (found.totals.plain, found.totals.plain_unknown) == (before.plain, 0)
    assert found.totals.stored < before.stored
    assert found.unneeded_models == 1
    library.store().lookup.forget()
    unknown = usage(library, library.store(), []).totals
    assert unknown.plain + unknown.plain_unknown == unknown.stored
    monkeypatch.chdir(repo.path)
    for by in ("path", "tensor", "commit"):
        assert run(["du", "--by", by]) == 0
    shown = capsys.readouterr().out
    assert "m.safetensors#w" in shown
    assert "step 2" in shown
    assert "1 unneeded model: " in shown
    assert run(["du", "--json", "HEAD~1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"]["versions"] == 2
    assert [commit["subject"] for commit in document["commits"]] == ["step 1", "step 0"]


def test_without_a_commit(repo):
    library = repo.repository
    found = usage(library, library.store(), [])
    assert (found.paths, found.commits, found.totals.raw, found.packs) == ({}, (), 0, 0)
