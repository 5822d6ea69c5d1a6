"""`git gru revert` and `cherry-pick`: Git's own, and a report that says what is exact and what is not."""

import json

import numpy as np
import pytest
from safetensors.numpy import load

from git_gru.git.reverting import MergeCommitError, NoEffectError, apply_commit, expand
from git_gru.git.revisions import models_at, resolve_commit
from git_gru.git.state import in_progress

PATH = "m.safetensors"


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture
def history(repo):
    """Four commits: w alone changes, v alone changes, w changes again and a counter with it."""
    versions = (((0, 0), (0,), 0), ((1, 0), (0,), 1), ((1, 0), (5,), 1), ((1, 2), (5,), 3))
    for number, (w, v, n) in enumerate(versions):
        repo.write(PATH, {"w": f32(*w), "v": f32(*v), "n": np.array(n)})
        repo.commit(f"commit {number}")
    return repo


def test_a_change_that_nobody_touched_since_is_undone_exactly(history) -> None:
    library = history.repository
    applied = apply_commit(library, "revert", resolve_commit(library, "HEAD~1"))
    assert applied.commit == history.git("rev-parse", "HEAD").strip()
    assert applied.subject == "commit 2"
    (model,) = applied.models
    assert (model.path, model.exact, model.mixed, model.other, model.is_exact) == (PATH, 1, 0, 0, True)
    now, parent = models_at(library, "HEAD")[PATH], models_at(library, "HEAD~3")[PATH]
    assert now.tensors["v"] == parent.tensors["v"]
    assert load(history.read(PATH))["w"].tolist() == [1, 2]


def test_the_newest_commit_is_undone_to_its_parents_very_manifest(history) -> None:
    library = history.repository
    apply_commit(library, "revert", resolve_commit(library, "HEAD"))
    assert models_at(library, "HEAD")[PATH] == models_at(library, "HEAD~2")[PATH]


def test_an_older_change_is_undone_and_what_came_later_is_counted(history) -> None:
    done = history.gru("revert", "HEAD~2", "--json")
    assert done.returncode == 0, done.stderr
    (commit,) = json.loads(done.stdout)["commits"]
    assert commit["models"] == [
        {
            "path": PATH,
            "is_exact": False,
            "exact_tensors": 0,
            "mixed_tensors": 1,
            "other_tensors": 1,
            "elements": 2,
            "elements_kept": 0,
            "elements_rounded": 0,
            "error_norm": 0.0,
        }
    ]
    result = load(history.read(PATH))
    assert (result["w"].tolist(), result["v"].tolist(), int(result["n"])) == ([0, 2], [5], 2)


def test_the_text_says_exact_or_approximate(history) -> None:
    told = history.gru("revert", "HEAD~1", "HEAD~2").stdout.decode()
    assert "'commit 2'" in told and "exact: bit for bit as before that commit" in told
    assert "approximate: 1 keeps other changes (0 of 2 elements; 0 rounded, error norm 0)" in told


def test_cherry_pick_of_a_range(history) -> None:
    history.git("switch", "-q", "-c", "side", "HEAD~3")
    done = history.gru("cherry-pick", "side..main", "--json")
    assert done.returncode == 0, done.stderr
    commits = json.loads(done.stdout)["commits"]
    assert [commit["subject"] for commit in commits] == ["commit 1", "commit 2", "commit 3"]
    assert all(model["is_exact"] for commit in commits for model in commit["models"])
    assert history.git("rev-parse", "side^{tree}") == history.git("rev-parse", "main^{tree}")


def test_ranges_are_taken_in_the_order_that_makes_sense(history) -> None:
    library = history.repository
    newest, older = (resolve_commit(library, rev) for rev in ("HEAD", "HEAD~1"))
    assert expand(library, "revert", ["HEAD~2..HEAD"]) == [newest, older]
    assert expand(library, "cherry-pick", ["HEAD~2..HEAD", "HEAD~1"]) == [older, newest, older]


def test_merges_want_a_parent_to_be_chosen(history) -> None:
    library = history.repository
    with pytest.raises(MergeCommitError, match="has no parent number 1"):
        apply_commit(library, "revert", resolve_commit(library, "HEAD"), mainline=1)
    history.git("switch", "-q", "-c", "side", "HEAD~1")
    history.write("x", b"")
    history.commit("side")
    history.git("merge", "-q", "--no-edit", "main")
    merge = resolve_commit(library, "HEAD")
    with pytest.raises(MergeCommitError, match="a merge of 2 parents"):
        apply_commit(library, "revert", merge)
    applied = apply_commit(library, "revert", merge, mainline=1)
    assert [model.is_exact for model in applied.models] == [True]
    assert models_at(library, "HEAD") == models_at(library, "HEAD~2")


def test_what_is_undone_already_is_told_and_nothing_is_left_behind(history) -> None:
    library = history.repository
    commit = resolve_commit(library, "HEAD~1")
    apply_commit(library, "revert", commit)
    before = history.git("rev-parse", "HEAD")
    with pytest.raises(NoEffectError, match="is not here any more"):
        apply_commit(library, "revert", commit)
    assert history.git("rev-parse", "HEAD") == before
    assert history.status() == ""
    with pytest.raises(NoEffectError, match="is here already"):
        apply_commit(library, "cherry-pick", resolve_commit(library, "HEAD"))
    assert history.git("rev-parse", "HEAD") == before
    assert history.status() == "" and in_progress(library) is None


def test_a_dirty_model_is_not_overwritten(history) -> None:
    data = history.write(PATH, {"w": f32(9, 9)})
    done = history.gru("revert", "HEAD", "HEAD~1")
    assert done.returncode == 4
    told = done.stderr.decode()
    assert "overwritten by" in told and "git stash" in told
    assert history.read(PATH) == data


def test_a_conflict_is_left_to_finish_and_the_rest_is_named(history) -> None:
    history.write(PATH, {"w": f32(1, 2), "v": np.array([5]), "n": np.array(3)})
    history.commit("v becomes integers")
    rest = history.git("rev-parse", "HEAD~1").strip()[:12]
    done = history.gru("revert", "HEAD~2", "HEAD~1")
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "tensor v: ours and theirs have different dtypes, I64 and F32" in told
    assert f"Not done yet: {rest}" in told and "git revert --abort" in told
    assert "a revert is not finished here" in history.gru("revert", "HEAD").stderr.decode()
    history.git("revert", "--abort")
    assert history.status() == ""


def test_a_revert_behind_an_averaging_merge_says_that_it_overshoots(repo) -> None:
    def commit(value: float, message: str) -> str:
        repo.write(PATH, {"w": f32(value, value)})
        return repo.commit(message)

    trunk = commit(0, "base"), commit(8, "both have it")
    repo.git("branch", "other")
    ours = commit(10, "ours")
    repo.git("switch", "-q", "other")
    commit(12, "theirs")
    repo.git("switch", "-q", "-")
    repo.git("merge", "-q", "--no-edit", "other")
    merge = repo.git("rev-parse", "HEAD").strip()
    assert load(repo.read(PATH))["w"].tolist() == [11, 11]

    applied = apply_commit(repo.repository, "revert", trunk[1])
    assert applied.sentences == (), "the merge has all of what both sides had before they parted"
    repo.git("reset", "-q", "--hard", merge)
    (sentence,) = apply_commit(repo.repository, "revert", ours).sentences
    assert sentence.startswith(f"{PATH}: the merge {merge[:10]} averaged it")
    assert load(repo.read(PATH))["w"].tolist() == [9, 9], "and the merge had taken in 1 of the 2"
    repo.git("reset", "-q", "--hard", merge)
    assert apply_commit(repo.repository, "revert", merge, mainline=1).sentences == ()
    assert load(repo.read(PATH))["w"].tolist() == [10, 10]
