"""Sites that share a Git host alone, as real processes in clones of one hub."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.http_hub import new_hub
from git_gru.git.install import Scope, install, program_command
from git_gru.git.revisions import read_model
from git_gru.git.run import GitCommandError
from git_gru.git.sites import SiteTip
from git_gru.train import sites
from git_gru.train.recipe_sync import SyncRecipe

torch = pytest.importorskip("torch")

RECIPE = """
[model]
embedding = 8
hidden = 16
[data]
files = ["data/*.txt"]
window = 16
validation = 0.2
[train]
steps = 2
batch = 6
optimizer = "sgd"
momentum = 0.0
weight_decay = 0.0
clip = 0.0
lr = 0.5
schedule = "constant"
warmup = 0
log_every = 1
[sync]
strategy = "git"
every = 1
[launch]
threads = 1
"""


@pytest.fixture
def clone(repo: Any, text: bytes, at: Any, tmp_path: Path) -> Callable[[str], Any]:
    """`clone(name)`: a new clone of a hub whose main has data, recipe and a model of seeded weights."""
    from safetensors.torch import save

    from git_gru.train.architecture import architecture_of, metadata_of
    from git_gru.train.recipe import ModelRecipe
    from git_gru.train.tasks import task_of

    torch.manual_seed(0)
    architecture = architecture_of(ModelRecipe(embedding=8, hidden=16), {"symbols": 256})
    state = task_of(architecture).build().state_dict()
    repo.write("model.safetensors", save(state, metadata_of(architecture)))
    repo.write("data/one.txt", text)
    repo.write("gru.toml", RECIPE.encode())
    repo.commit("source")
    hub = new_hub(tmp_path / "hub.git")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "HEAD:main")

    def make(name: str) -> Any:
        command = ["git", "clone", "-q", "--no-checkout", str(hub), str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
        work = at(tmp_path / name)
        install(work.repository, Scope.LOCAL, program_command(os.environ["PATH"]))
        work.git("read-tree", "HEAD")
        work.git("checkout", "--", ".")
        return work

    return make


def start(work: Any, site: str, *options: str) -> "subprocess.Popen[bytes]":
    """`git gru train --site SITE OPTIONS --json` in a clone, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "git_gru", "train", "--site", site, "--json", *options],
        cwd=work.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(process: "subprocess.Popen[bytes]", status: int = 0) -> dict[str, Any]:
    out, said = process.communicate(timeout=300)
    assert process.returncode == status, said.decode()
    return json.loads(out)


def weights(repo: Any, commit: str) -> dict[str, Any]:
    store, model = repo.store(), read_model(repo, f"{commit}:model.safetensors")
    return {
        name: torch.from_numpy(
            np.frombuffer(b"".join(store.tensor(model, name)), "<f4").reshape(entry.shape).copy()
        )
        for name, entry in model.tensors.items()
    }


def step_of_all(repo: Any, source: str, commit: str, step: int, folder: Path) -> dict[str, Any]:
    """The weights of `commit` after a step by the mean gradient over the samples of both sites."""
    from git_gru.train.corpus import TRAIN
    from git_gru.train.job import data_folder
    from git_gru.train.launch import prepare_data
    from git_gru.train.plan import known_architecture, read_recipe
    from git_gru.train.sharding import batch_plan
    from git_gru.train.tasks import task_of

    recipes = [read_recipe(repo, source, "gru.toml", (f"sync.site={site}",)) for site in "ab"]
    recipe = recipes[0]
    architecture = prepare_data(repo, source, recipe, known_architecture(repo, source, recipe), folder)
    task = task_of(architecture, data_folder(folder))
    samples = task.samples(data_folder(folder), TRAIN, recipe.data)
    batches = [batch_plan(recipe, samples=len(samples)).indices(step) for recipe in recipes]
    assert set(batches[0].tolist()) != set(batches[1].tolist())
    network = task.build()
    network.load_state_dict(weights(repo, commit))
    indices = np.concatenate(batches)
    (task.loss(network, samples.batch(indices)) / (len(indices) * samples.terms)).backward()
    return {name: p.detach() - recipe.train.lr * p.grad for name, p in network.named_parameters()}


@pytest.mark.slow
def test_with_rounds_of_a_step_sites_do_what_allreduce_does(clone: Any, tmp_path: Path) -> None:
    a, b = clone("a"), clone("b")
    together = ("--set", "sync.members=2", "--set", "sync.wait=200")
    source = a.git("rev-parse", "HEAD").strip()
    first, second = start(a, "a", "--nproc", "2", *together), start(b, "b", *together)
    runs = [finished(first), finished(second)]
    assert [run["state"] for run in runs] == ["finished", "finished"]
    tip = a.git("rev-parse", "gru/sites/a").strip()
    assert tip == b.git("rev-parse", "gru/sites/b").strip()
    merges = a.git("log", "--merges", "--reverse", "--format=%H", tip).split()
    assert len(merges) == 2
    before = source
    for step, merge in enumerate(merges, 1):
        expected = step_of_all(a.repository, source, before, step, tmp_path / f"data-{step}")
        for name, found in weights(a.repository, merge).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6)
        before = merge
    shown = json.loads(a.gru("watch", runs[0]["id"], "--json").stdout)
    assert shown["round"] == 2
    assert {name: (seen["round"], seen["weight"]) for name, seen in shown["sites"].items()} == {
        "a": (2, 0.5),
        "b": (2, 0.5),
    }
    b.git("fetch", "-q")
    assert sorted(json.loads(b.gru("runs", "fetch", "origin", "--json").stdout)["runs"]) == [runs[0]["id"]]
    assert b"round 2\nsite" in b.gru("runs", "show", runs[0]["id"]).stdout
    for work, run in zip((a, b), runs, strict=True):
        rows = json.loads(work.gru("runs", "show", run["id"], "--metrics", "json").stdout)["metrics"]
        assert [row["round"] for row in rows if "round" in row] == [1, 2]
        assert not any("message" in row for row in rows), "nothing went wrong"
    again = a.gru("train", "--site", "a")
    assert b"is finished: step 2 of 2" in again.stderr


@pytest.mark.slow
def test_a_site_that_was_killed_goes_on_and_one_that_joins_late_is_merged(clone: Any, waiting: Any) -> None:
    a, b = clone("a"), clone("b")

    def round_at_hub(site: str) -> int:
        return max(tip.round for tip in [sites.fetch_sites(b.repository, "origin", "sites").get(site)] if tip)

    steps = ("--set", "train.steps=400")
    process = start(a, "a", *steps)
    waiting(lambda: a.repository and _reached(round_at_hub, "a", 2))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    late = finished(start(b, "b"))
    joined = b.git("log", "-1", "--format=%(trailers:key=Gru-Site,valueonly)", late["source"]).strip()
    assert joined == "a", "it starts from the site that is farthest"

    process = start(a, "a", *steps)
    theirs = b.git("rev-parse", "gru/sites/b").strip()
    tip = "refs/gru/sites/sites/a"

    def merged() -> bool:
        sites.fetch_sites(b.repository, "origin", "sites")
        return b.repository.completed("merge-base", "--is-ancestor", theirs, tip).returncode == 0

    waiting(merged)
    process.send_signal(signal.SIGINT)
    run = finished(process, 130)
    assert json.loads(a.gru("runs", "list", "--json").stdout)["runs"][0]["id"] == run["id"], "one run"
    made = [checkpoint["step"] for checkpoint in run["checkpoints"]]
    assert made == list(range(1, len(made) + 1)), "no round twice, none left out"
    a.git("fsck", "--strict", "--no-dangling")


def _reached(round_at_hub: Callable[[str], int], site: str, round: int) -> bool:
    with contextlib.suppress(ValueError):
        return round_at_hub(site) >= round
    return False


class Host:
    """Stands in for a Git host in `SiteLink`: how far other sites are, by the second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rounds: Callable[[float], int]) -> None:
        self.now, self.rounds = 0.0, rounds
        monkeypatch.setattr(sites.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(sites.time, "sleep", self._sleep)
        monkeypatch.setattr(sites, "fetch_sites", self._fetch)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _fetch(self, *_: object) -> dict[str, SiteTip]:
        found = {site: SiteTip(site=site, commit="c", round=at(self.now)) for site, at in self.rounds.items()}
        return {site: tip for site, tip in found.items() if tip.round}


def link(repo: Any, **keys: Any) -> sites.SiteLink:
    sync = SyncRecipe(strategy="git", site="me", **keys)
    return sites.SiteLink(repo.repository, remote="origin", path="m", sync=sync, stop=lambda: False)


def test_who_is_waited_for(repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, fast=lambda now: 9, late=lambda now: 1 if now < 100 else 2, gone=lambda now: 1)
    waits = link(repo, wait=30.0, members=2)
    waits._gather(1)
    assert host.now == 0, "two are there"
    waits._gather(2)
    assert host.now == 30, "those that were in time for round 1 are waited for"
    waits._gather(3)
    assert host.now == 30, "and not once they were late"
    host.now = 101
    waits._gather(2)
    host.rounds["late"] = lambda now: 2 if now < 110 else 3
    waits._gather(3)
    assert host.now == 110, "who is in time again is waited for again"
    alone = link(repo, wait=30.0, members=5)
    alone._gather(1)
    assert host.now == 140, "the first round waits for as many as there should be"
    host.now = 0.0
    link(repo)._gather(5)
    assert host.now == 0


def test_a_host_that_cannot_be_reached_is_told_once(repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.write("notes.txt", b"x")
    commit = repo.commit("source")
    mine = link(repo)
    repo.git("remote", "add", "origin", str(repo.path / "nowhere"))
    met = mine.meet(commit)
    assert (met.commit, met.sites) == (commit, {})
    assert "not merged with other sites at origin" in (met.message or "")
    assert mine.meet(commit).message is None
    assert "nowhere" in (mine.push(commit) or "")


def test_what_does_not_go_with_sites_is_refused(clone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    work = clone("w")

    def said(*options: str, status: int = 4) -> str:
        done = work.gru("train", *options)
        assert done.returncode == status, done.stderr.decode()
        return done.stderr.decode()

    assert 'sync.strategy = "git" needs a name for this site' in said()
    assert "a site is one machine, and --nnodes 2 are several" in said(
        "--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "127.0.0.1:1", "--set", "sync.site=a"
    )
    assert 'sync.site is for sync.strategy = "git", and it is "allreduce"' in said(
        "--site", "a", "--sync", "allreduce", "--set", "sync.every=50"
    )
    assert "--branch and --here do not go with it" in said("--site", "a", "--here", status=2)
    assert "sync.site must be made of letters" in said("--site", "a/b")
    work.git("branch", "gru/sites/x")
    assert "the branch gru/sites/x is there already" in said("--site", "x")
    work.git("remote", "set-url", "origin", str(work.path / "nowhere"))
    assert "nowhere" in said("--site", "a", status=GitCommandError.exit_code)
