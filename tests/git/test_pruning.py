"""Space on this side and on the hub: `git gru prune`, `git gru gc --remote`."""

import json
import subprocess

import numpy as np
import pytest

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
    assert pushed.gru("prune", "--remote", "nobody").returncode == 4


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
    assert pushed.git("for-each-ref", "refs/gru/hub").strip() == ""
    pushed.git("push", "-q", "origin", "side")  # it is sent again
    assert set(json.loads(pushed.gru("gc", "--remote", "origin", "--json").stdout)["waiting"]) == set()
    assert pushed.gru("gc", "--remote", "nobody").returncode == 4
