"""Sites that share a Git host alone: what a merge of theirs is, and how commits travel."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.http_hub import new_hub
from git_gru.git.commits import build_commit
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at, read_model
from git_gru.git.sites import (
    SiteTakenError,
    checkpoint_of_round,
    fetch_sites,
    merge_sites,
    push_site,
    round_of,
    site_branch,
)
from git_gru.runs.trailers import CheckpointInfo, SiteRound, checkpoint_message
from git_gru.store.ingest import ingest_tensors

PATH = "m.safetensors"


class Clone:
    """A site's clone, which makes checkpoints of models with one tensor `w`."""

    def __init__(self, folder: Path, site: str) -> None:
        self.repo, self.site = Repository.find(folder), site
        self.tip = self.repo.git("rev-parse", "HEAD").decode().strip()

    def train(self, *w: float, samples: int = 10, name: str = "w") -> str:
        """A round: the commit of its checkpoint, with these weights."""
        data = memoryview(np.array(w, "<f4").tobytes())
        manifest = ingest_tensors(self.repo.store(), [(name, "F32", (len(w),), data)], {})
        part = SiteRound(site=self.site, round=round_of(self.repo, self.tip) + 1, samples=samples)
        info = CheckpointInfo(run=f"run-{self.site}", step=1, metrics={"val_loss": w[0]}, site=part)
        self.tip = build_commit(
            self.repo,
            source_commit=self.tip,
            path=PATH,
            manifest=manifest,
            message=checkpoint_message(info),
            parent=self.tip,
        )
        return self.tip

    def push(self) -> None:
        push_site(self.repo, "origin", site_branch("g", self.site), self.tip)

    def merge(self) -> dict[str, float]:
        """Merges what the others have pushed and goes on from there; the weights by site."""
        tips = {site: tip.commit for site, tip in fetch_sites(self.repo, "origin", "g").items()}
        merged = merge_sites(self.repo, PATH, self.site, {**tips, self.site: self.tip})
        self.tip, self.left_out = merged.commit, merged.left_out
        return dict(merged.weights)

    def w(self) -> list[float]:
        store, model = self.repo.store(), read_model(self.repo, f"{self.tip}:{PATH}")
        (name,) = model.tensors
        return [float(value) for value in np.frombuffer(b"".join(store.tensor(model, name)), "<f4")]


@pytest.fixture
def clone(repo: Any, tmp_path: Path) -> Callable[[str], Clone]:
    """`clone(site)`: a new clone of a hub whose main has a model with w = (0, 0)."""
    hub = new_hub(tmp_path / "hub.git")
    repo.write(PATH, {"w": np.zeros(2, np.float32)})
    repo.write("notes.txt", b"the same everywhere\n")
    repo.commit("source")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "HEAD:main")

    def make(site: str) -> Clone:
        folder = tmp_path / site
        command = ["git", "clone", "-q", "--no-checkout", str(hub), str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        return Clone(folder, site)

    return make


def test_sites_that_merge_the_same_come_to_the_same_commit(clone: Callable[[str], Clone]) -> None:
    a, b = clone("a"), clone("b")
    for number in (1, 2):
        for site, value in ((a, 1.0), (b, 4.0)):
            site.train(value * number, 8.0 + value, samples=20 if site is a else 10)
            site.push()
        assert a.merge() == b.merge() == pytest.approx({"a": 2 / 3, "b": 1 / 3})
        assert a.tip == b.tip
        assert a.w() == pytest.approx([2.0 * number, 10.0], rel=1e-6)
    said = a.repo.git("log", "-1", "--format=%s%n%(trailers)", a.tip).decode()
    assert said.startswith(
        "sync: round 2 of a, b\nGru-Round: 2\nGru-Merge-Sites: a, b\nGru-Merge-Strategy: average\n"
    )
    assert a.repo.git("diff-tree", "-r", "--name-only", "HEAD", a.tip).decode().split() == [PATH]
    a.repo.git("fsck", "--strict", "--no-dangling")


def test_a_late_site_counts_with_all_that_it_has_learnt(clone: Callable[[str], Clone]) -> None:
    a, b, c = clone("a"), clone("b"), clone("c")
    b.train(6.0, 0.0)
    for _ in range(2):  # the others go on without it
        for site in (a, c):
            site.train(3.0, 3.0)
            site.push()
        assert a.merge() == {"a": 0.5, "c": 0.5}
        assert c.merge() == {"a": 0.5, "c": 0.5}
    b.train(9.0, 0.0)
    b.push()
    assert b.merge() == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}), "two rounds of each"
    assert b.w() == pytest.approx([5.0, 2.0])
    a.train(4.0, 4.0)
    assert a.merge() == pytest.approx({"a": 5 / 7, "b": 2 / 7}), "three rounds of a, two of c; two of b"
    assert round_of(a.repo, a.tip) == round_of(b.repo, b.tip) + 1 == 3


def test_what_has_nothing_new_does_not_count(clone: Callable[[str], Clone]) -> None:
    a, b = clone("a"), clone("b")
    a.train(1.0, 1.0)
    a.push()
    b.train(3.0, 3.0)
    b.push()
    b.merge()
    b.push()  # its last commit is a merge
    a.merge()
    alone = a.train(5.0, 5.0)
    assert a.merge() == {"a": 1.0}
    assert a.tip == alone, "b is gone, and its merge brings nothing that a has not seen"
    b.tip = a.repo.git("rev-parse", "refs/gru/sites/g/a").decode().strip()
    a.push()
    assert b.merge() == {"a": 1.0}, "b stood at a's first round: what a has since is all there is"
    assert b.tip == alone


def test_of_a_site_that_is_ahead_the_checkpoint_of_the_same_round_is_found(
    clone: Callable[[str], Clone],
) -> None:
    a, b = clone("a"), clone("b")
    first = b.train(1.0, 0.0)
    own = a.train(2.0, 0.0)
    a.push()
    b.merge()
    b.train(3.0, 0.0)
    b.push()
    tip = fetch_sites(a.repo, "origin", "g")["b"]
    assert (tip.round, tip.metrics) == (2, {"val_loss": 3.0})
    assert checkpoint_of_round(a.repo, tip, 1, own) == first
    assert checkpoint_of_round(a.repo, tip, 7, own) is None


def test_a_site_is_found_below_a_merge_with_a_long_side(clone: Callable[[str], Clone]) -> None:
    a, b = clone("a"), clone("b")
    first = a.train(1.0, 0.0)
    tree = a.repo.git("rev-parse", f"{first}^{{tree}}").decode().strip()
    b.train(2.0, 0.0)
    for _ in range(40):
        b.tip = b.repo.git("commit-tree", f"{b.tip}^{{tree}}", "-p", b.tip, "-m", "more").decode().strip()
    b.push()
    fetch_sites(a.repo, "origin", "g")
    a.tip = a.repo.git("commit-tree", tree, "-p", first, "-p", b.tip, "-m", "sync: a, b").decode().strip()
    a.push()
    tips = fetch_sites(b.repo, "origin", "g")
    assert {site: (tip.round, tip.metrics) for site, tip in tips.items()} == {
        "a": (1, {"val_loss": 1.0}),
        "b": (1, {"val_loss": 2.0}),
    }


def test_what_cannot_be_averaged_is_left_out(clone: Callable[[str], Clone]) -> None:
    a, b, c, d = (clone(site) for site in "abcd")
    a.train(1.0, 1.0)
    b.train(3.0, 3.0)
    c.train(1.0, 1.0, 1.0)
    tree = d.repo.git("rev-parse", "HEAD^{tree}").decode().strip()
    d.tip = d.repo.git("commit-tree", tree, "-m", "of its own").decode().strip()
    d.train(9.0, 9.0)
    for site in (b, c, d):
        site.push()
    assert a.merge() == {"a": 0.5, "b": 0.5}
    assert a.w() == [2.0, 2.0]
    assert a.left_out == {
        "c": "its m.safetensors is another network",
        "d": "it has no commit with m.safetensors in common with this site",
    }


def test_sites_that_push_at_once_all_succeed(clone: Callable[[str], Clone]) -> None:
    sites = [clone(f"s{number}") for number in range(3)]
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(2):
                sites[number].train(number, turn)
                sites[number].push()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    reader = clone("reader")
    tips = fetch_sites(reader.repo, "origin", "g")
    assert {site: tip.round for site, tip in tips.items()} == {f"s{number}": 2 for number in range(3)}
    store = reader.repo.store()
    store.require([models_at(reader.repo, tip.commit)[PATH] for tip in tips.values()])


def test_one_name_for_two_clones_is_told(clone: Callable[[str], Clone]) -> None:
    a, other = clone("a"), clone("a2")
    other.site = "a"
    a.train(1.0, 1.0)
    a.push()
    other.train(2.0, 2.0)
    with pytest.raises(
        SiteTakenError, match="branch gru/g/a of origin has commits that are not of this site"
    ) as caught:
        other.push()
    assert "--site" in str(caught.value.hint)
