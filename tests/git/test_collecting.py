"""Collection in real repositories: what anything in Git names stays, all else goes, and what is just being added survives."""

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from git_gru.git.collecting import (
    EARLY,
    DurationError,
    collection_rules,
    parse_duration,
    plan_collection,
    run_collection,
)
from git_gru.git.roots import UnreadableIndexError, adding_since
from git_gru.git.run import GitCommandError
from git_gru.store.collect import Collected, Reason, Rules
from git_gru.store.ingest import ingest
from git_gru.store.manifest import parse_manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store

MODEL = "model.safetensors"


def store_of(work) -> Store:
    return Store(work.repository.gru_dir)


def collected(work, grace: str = "now") -> Collected:
    store = store_of(work)
    repo = work.repository
    done = run_collection(repo, store, plan_collection(repo, store, collection_rules(repo, grace)))
    store.close()
    return done


def digest_at(work, name: str) -> str:
    return parse_manifest(work.git("cat-file", "blob", name).encode(), where=name).digest


def bytes_at(work, name: str) -> bytes:
    """A model restored from the store, by the name of its blob."""
    store = store_of(work)
    manifest = parse_manifest(work.git("cat-file", "blob", name).encode(), where=name)
    content = b"".join(restore(store, manifest))
    store.close()
    return content


class Scene:
    """A repository with one commit, and makers of models that nothing needs yet.

    Git runs without the filter here: what it keeps are the manifests, written by hand; that is all that collection sees of it.
    """

    def __init__(self, repo) -> None:
        self.repo = repo
        self.first = self.commit(1)

    @staticmethod
    def content(seed: int) -> bytes:
        return np.random.default_rng(seed).bytes(3000)

    def write(self, seed: int) -> bytes:
        """Puts the model `seed` into the store and its manifest into the worktree."""
        store = store_of(self.repo)
        manifest = ingest(store, io.BytesIO(self.content(seed)), expect_safetensors=False).manifest
        store.close()
        return self.repo.write(MODEL, manifest.encode())

    def commit(self, seed: int) -> str:
        self.write(seed)
        return self.repo.commit(f"model {seed}")

    def blob(self, seed: int) -> str:
        """A manifest that Git has and nothing names."""
        before = self.repo.read(MODEL)
        text = self.write(seed)
        self.repo.write(MODEL, before)
        return self.repo.git("hash-object", "-w", "--stdin", input=text).strip()

    def loose_commit(self, seed: int, parent: str = "HEAD") -> str:
        """A commit that no reference, reflog or index names."""
        tree = self.repo.git("mktree", input=f"100644 blob {self.blob(seed)}\t{MODEL}\n".encode()).strip()
        return self.repo.git("commit-tree", tree, "-p", parent, "-m", f"model {seed}").strip()

    def forgotten(self, seed: int = 99) -> str:
        """A model whose manifest Git has and nothing names: its digest."""
        return digest_at(self.repo, self.blob(seed))

    def survives(self, name: str, seed: int) -> None:
        """A collection without grace drops a forgotten model and keeps the model `seed`, which the blob `name` describes."""
        digest = digest_at(self.repo, name)
        gone = self.forgotten()
        assert gone in collected(self.repo).dropped
        assert digest in store_of(self.repo).models()
        assert bytes_at(self.repo, name) == self.content(seed)
        assert collected(self.repo).dropped == frozenset()


@pytest.fixture
def scene(plain_repo) -> Scene:
    Store.open(plain_repo.repository.gru_dir).close()
    return Scene(plain_repo)


# ---- what Git names ---------------------------------------------------------------------------------------------------


def named_by_a_branch_behind(scene: Scene) -> str:
    scene.commit(2)
    scene.commit(3)
    return f"HEAD~1:{MODEL}"


def named_by_a_tag_of_a_blob(scene: Scene) -> str:
    blob = scene.blob(2)
    scene.repo.git("tag", "blob", blob)
    scene.repo.git("tag", "-a", "-m", "annotated", "second", blob)
    scene.repo.git("tag", "-d", "blob")
    return blob


def named_by_a_note(scene: Scene) -> str:
    blob = scene.blob(2)
    scene.repo.git("notes", "add", "-C", blob, "HEAD")
    return blob


def named_by_a_remote(scene: Scene) -> str:
    scene.repo.git("update-ref", "refs/remotes/origin/main", scene.loose_commit(2))
    return f"origin/main:{MODEL}"


def named_by_a_run(scene: Scene) -> str:
    blob = scene.blob(2)
    tree = scene.repo.git("mktree", input=f"100644 blob {blob}\tresume.safetensors\n".encode()).strip()
    scene.repo.git("update-ref", "refs/gru/runs/1/resume", tree)
    return blob


def named_by_the_stash(scene: Scene) -> str:
    scene.write(2)
    scene.repo.git("stash")
    return f"stash@{{0}}:{MODEL}"


def named_by_an_older_stash(scene: Scene) -> str:
    name = named_by_the_stash(scene)
    blob = scene.repo.git("rev-parse", name).strip()
    scene.write(3)
    scene.repo.git("stash")
    return blob


def named_by_a_reflog(scene: Scene) -> str:
    blob = scene.repo.git("rev-parse", f"{scene.commit(2)}:{MODEL}").strip()
    scene.repo.git("reset", "-q", "--hard", scene.first)
    scene.repo.git("update-ref", "-d", "ORIG_HEAD")
    return blob


def named_by_an_amended_commit(scene: Scene) -> str:
    blob = scene.repo.git("rev-parse", f"{scene.commit(2)}:{MODEL}").strip()
    scene.write(3)
    scene.repo.git("commit", "-q", "-a", "--amend", "-m", "again")
    return blob


def named_by_the_index(scene: Scene) -> str:
    scene.write(2)
    scene.repo.git("add", MODEL)
    blob = scene.repo.git("rev-parse", f":{MODEL}").strip()
    scene.repo.git("mv", MODEL, "staged.safetensors")
    scene.write(1)
    scene.repo.git("add", MODEL)
    return blob


def named_by_the_index_after_head_moved(scene: Scene) -> str:
    blob = scene.repo.git("rev-parse", f"{scene.commit(2)}:{MODEL}").strip()
    scene.repo.git("mv", MODEL, "staged.safetensors")
    scene.repo.git("reset", "-q", "--soft", scene.first)
    scene.repo.git("reflog", "expire", "--expire=now", "--all")
    scene.repo.git("update-ref", "-d", "ORIG_HEAD")
    scene.write(1)
    scene.repo.git("add", MODEL)
    return blob


def named_by_another_index(scene: Scene) -> str:
    commit = scene.loose_commit(2)
    scene.repo.git("read-tree", commit, env={"GIT_INDEX_FILE": ".git/index.stash.1"})
    return f"{commit}:{MODEL}"


def named_by_a_lock(scene: Scene) -> str:
    commit = scene.loose_commit(2)
    scene.repo.git("read-tree", commit, env={"GIT_INDEX_FILE": ".git/next-index-1.lock"})
    os.utime(scene.repo.path / ".git/next-index-1.lock", (0, 0))  # nobody is adding: a dead process left it
    return f"{commit}:{MODEL}"


def named_by_merge_head(scene: Scene) -> str:
    commit = scene.loose_commit(2, scene.first)
    scene.repo.git("merge", "--no-commit", "--no-ff", commit)
    scene.repo.git("reset", "-q", "HEAD", ".")
    return f"{commit}:{MODEL}"


def named_by_orig_head(scene: Scene) -> str:
    blob = scene.repo.git("rev-parse", f"{scene.commit(2)}:{MODEL}").strip()
    scene.repo.git("reset", "-q", "--hard", scene.first)
    scene.repo.git("reflog", "expire", "--expire=now", "--all")
    return blob


def named_by_fetch_head(scene: Scene) -> str:
    commit = scene.loose_commit(2)
    line = f"{commit}\tnot-for-merge\tbranch 'x' of somewhere\n"
    (scene.repo.path / ".git/FETCH_HEAD").write_text(line)
    return f"{commit}:{MODEL}"


def named_by_auto_merge(scene: Scene) -> str:
    commit = scene.loose_commit(2)
    tree = scene.repo.git("rev-parse", f"{commit}^{{tree}}")
    (scene.repo.path / ".git/AUTO_MERGE").write_text(tree)
    return f"{commit}:{MODEL}"


def named_by_a_rebase_todo(scene: Scene) -> str:
    commit = scene.loose_commit(2)
    folder = scene.repo.path / ".git/rebase-merge"
    folder.mkdir()
    (folder / "git-rebase-todo").write_text(f"pick {commit[:10]} model 2\n# a comment with facade in it\n")
    return f"{commit}:{MODEL}"


def named_by_a_linked_worktree(scene: Scene) -> str:
    scene.repo.git("worktree", "add", "-q", "--detach", "../linked", scene.loose_commit(2))
    scene.repo.git("reflog", "expire", "--expire=now", "--all")
    return scene.repo.git("-C", "../linked", "rev-parse", f"HEAD:{MODEL}").strip()


def named_by_a_linked_worktrees_reflog(scene: Scene) -> str:
    scene.repo.git("worktree", "add", "-q", "--detach", "../linked", scene.loose_commit(2))
    blob = scene.repo.git("-C", "../linked", "rev-parse", f"HEAD:{MODEL}").strip()
    scene.repo.git("-C", "../linked", "checkout", "-q", scene.first)
    return blob


def named_by_a_linked_worktrees_reference(scene: Scene) -> str:
    scene.repo.git("worktree", "add", "-q", "--detach", "../linked", scene.first)
    commit = scene.loose_commit(2)
    scene.repo.git("-C", "../linked", "update-ref", "refs/bisect/bad", commit)
    return f"{commit}:{MODEL}"


def named_by_a_linked_worktrees_index(scene: Scene) -> str:
    scene.repo.git("worktree", "add", "-q", "--detach", "../linked", scene.first)
    commit = scene.loose_commit(2)
    scene.repo.git("-C", "../linked", "read-tree", commit)
    return f"{commit}:{MODEL}"


@pytest.mark.parametrize(
    "place",
    [made for name, made in sorted(globals().items()) if name.startswith("named_by_")],
    ids=lambda made: made.__name__.removeprefix("named_by_"),
)
def test_what_git_names_stays(place: Callable[[Scene], str], scene: Scene) -> None:
    scene.survives(place(scene), 2)


def test_both_sides_and_the_base_of_a_conflict_stay(scene: Scene) -> None:
    repo = scene.repo
    theirs = scene.commit(2)
    repo.git("reset", "-q", "--hard", scene.first)
    scene.commit(3)
    assert repo.run("git", "merge", theirs).returncode == 1
    blobs = [line.split()[1] for line in repo.git("ls-files", "--unmerged").splitlines()]
    assert len(blobs) == 3
    # Only the index knows of them: as if the branches had been made elsewhere and pruned since.
    for name in ("MERGE_HEAD", "AUTO_MERGE", "ORIG_HEAD"):
        (repo.path / ".git" / name).unlink(missing_ok=True)
    empty = repo.git("mktree", input=b"").strip()
    repo.git("update-ref", "refs/heads/main", repo.git("commit-tree", empty, "-m", "x").strip())
    repo.git("reflog", "expire", "--expire=now", "--all")
    assert collected(repo).dropped == frozenset()
    assert store_of(repo).models().keys() == {digest_at(repo, blob) for blob in blobs}
    repo.write(MODEL, repo.git("cat-file", "blob", blobs[1]).encode())
    repo.git("add", MODEL)  # resolved: what it was before can still be had back with checkout -m
    assert collected(repo).dropped == frozenset()


def test_a_rebase_that_stopped_with_work_set_aside(scene: Scene) -> None:
    repo = scene.repo
    scene.commit(2)
    repo.git("branch", "topic")
    repo.git("reset", "-q", "--hard", scene.first)
    scene.commit(3)
    repo.git("switch", "-q", "topic")
    scene.write(4)
    assert repo.run("git", "rebase", "--autostash", "main").returncode == 1
    repo.git("reflog", "expire", "--expire=now", "--all")
    saved = (repo.path / ".git/rebase-merge/autostash").read_text().strip()
    before = set(store_of(repo).models())
    assert len(before) == 4
    assert collected(repo).dropped == frozenset()
    assert set(store_of(repo).models()) == before
    assert bytes_at(repo, f"{saved}:{MODEL}") == scene.content(4)


def test_a_hubs_own_store_is_no_part_of_what_is_needed(scene: Scene) -> None:
    # As in a mirror of a hub, whose refs/gru/store came along: its objects are not read in search of manifests.
    blob = scene.repo.git("hash-object", "-w", "--stdin", input=b"a stored chunk").strip()
    tree = scene.repo.git("mktree", input=f"100644 blob {blob}\tx\n".encode()).strip()
    for ref in ("refs/gru/store", "refs/gru/remotes/origin"):
        scene.repo.git("update-ref", ref, scene.repo.git("commit-tree", tree, "-m", "store").strip())
    collected(scene.repo)
    assert store_of(scene.repo).stamps.known([bytes.fromhex(blob)]) == {}


def test_a_manifest_that_cannot_be_trusted_keeps_what_it_may_mean(scene: Scene) -> None:
    blob = scene.blob(2)
    text = scene.repo.git("cat-file", "blob", blob)
    later = text.replace('{"git-gru": 1,', '{"git-gru": 2,')
    scene.repo.git(
        "update-ref",
        "refs/tags/later",
        scene.repo.git("hash-object", "-w", "--stdin", input=later.encode()).strip(),
    )
    scene.survives(blob, 2)


# ---- grace and clocks -------------------------------------------------------------------------------------------------


def test_a_model_goes_when_its_grace_is_over_and_not_before(scene: Scene) -> None:
    gone = scene.forgotten()
    store, repo = store_of(scene.repo), scene.repo.repository
    start = time.time()
    days = [0.0]
    store.stamps.clock = lambda: start + days[0] * 86_400

    def drops(day: float) -> frozenset[str]:
        days[0] = day
        return plan_collection(repo, store, collection_rules(repo)).drop

    assert drops(0) == drops(13.9) == frozenset()
    assert drops(14.1) == {gone}
    store.stamps.stamp(gone)  # used again: the time begins anew
    assert drops(20) == frozenset()
    assert drops(28.2) == {gone}


def test_a_clock_that_is_put_back_makes_nothing_older(scene: Scene) -> None:
    gone = scene.forgotten()
    store, repo = store_of(scene.repo), scene.repo.repository
    rules = collection_rules(repo)
    start = time.time()
    store.stamps.clock = lambda: start
    assert plan_collection(repo, store, rules).drop == frozenset()
    store.stamps.clock = lambda: start - 30 * 86_400
    store.stamps.stamp(gone)  # used while the clock is wrong
    assert plan_collection(repo, store, rules).clock_behind > 29 * 86_400
    store.stamps.clock = lambda: start + 86_400
    assert plan_collection(repo, store, rules).drop == frozenset(), "it was used a day ago at most"
    store.stamps.clock = lambda: start + 14.1 * 86_400
    assert plan_collection(repo, store, rules).drop == {gone}


def test_a_deleted_cache_begins_all_times_anew(scene: Scene) -> None:
    gone = scene.forgotten()
    store, repo = store_of(scene.repo), scene.repo.repository
    start = time.time()
    store.stamps.clock = lambda: start + 20 * 86_400
    assert plan_collection(repo, store, collection_rules(repo)).drop == frozenset(), "seen unneeded only now"
    store.stamps.clock = lambda: start + 40 * 86_400
    store.lookup.forget()
    assert plan_collection(repo, store, collection_rules(repo)).drop == frozenset()
    store.stamps.clock = lambda: start + 54.1 * 86_400
    assert plan_collection(repo, store, collection_rules(repo)).drop == {gone}


def test_what_was_only_cleaned_goes_early(repo, make_arrays) -> None:
    cleaned = []
    for seed in range(6):
        repo.write(MODEL, make_arrays(seed, hidden=4, vocabulary=4))
        if seed == 0:
            repo.commit("first")
        repo.status()
        cleaned.append(max(store_of(repo).stamps.stamps().items(), key=lambda item: item[1])[0])
    repo.git("add", MODEL)
    repo.git("reset", "-q", "--hard")  # Git has the manifest of the last one, and nothing names it any more
    assert len(set(cleaned)) == 6
    store, library = store_of(repo), repo.repository
    start = time.time()
    steps = (
        (10, set(cleaned[1:3])),  # git status has ended, and cannot come back to them
        (30, set()),
        (90, set(cleaned[1:3])),
        (700, set(cleaned[1:5])),
    )
    for seconds, gone in steps:
        store.stamps.clock = lambda seconds=seconds: start + seconds  # type: ignore[misc]
        if seconds == 30:
            for digest in cleaned[1:]:
                store.stamps.stamp(digest)  # by a command that may not have kept them yet
        plan = plan_collection(library, store, Rules(most=2))
        reasons = {model.digest: model.reason for model in plan.unneeded}
        assert reasons.keys() == set(cleaned[1:])
        assert {digest for digest, reason in reasons.items() if reason is Reason.ONLY_CLEANED} == gone
    done = run_collection(library, store, plan)
    assert done.bytes_after < done.bytes_before / 2
    assert set(store.models()) == {cleaned[0], cleaned[5]}


def test_the_settings(scene: Scene) -> None:
    repo = scene.repo
    assert collection_rules(repo.repository).grace == 14 * 86_400
    repo.git("config", "gru.gcGrace", "3h")
    repo.git("config", EARLY, "90s")
    rules = collection_rules(repo.repository)
    assert (rules.grace, rules.early) == (3 * 3600, 90)
    assert collection_rules(repo.repository, "2w").grace == 14 * 86_400
    repo.git("config", "gru.gcGrace", "soon")
    with pytest.raises(DurationError, match="gru.gcGrace: 'soon'"):
        collection_rules(repo.repository)


@pytest.mark.parametrize("text", ["", "d", "14", "-1d", "1.5d", "1y", "9999999d"])
def test_no_duration(text: str) -> None:
    with pytest.raises(DurationError):
        parse_duration(text, where="--grace")


# ---- beside others ----------------------------------------------------------------------------------------------------


def test_a_model_answered_between_the_plan_and_its_doing_stays(scene: Scene) -> None:
    gone, again = scene.forgotten(98), scene.forgotten(99)
    repo = scene.repo.repository
    store = store_of(scene.repo)
    plan = plan_collection(repo, store, collection_rules(repo, "now"))
    assert plan.drop >= {gone, again}
    scene.write(99)
    scene.repo.git("add", MODEL)
    done = run_collection(repo, store, plan)
    assert gone in done.dropped
    assert again not in done.dropped
    assert bytes_at(scene.repo, f":{MODEL}") == scene.content(99)


def test_stamps_lost_between_the_plan_and_its_doing_keep_all(scene: Scene) -> None:
    scene.forgotten()
    repo, store = scene.repo.repository, store_of(scene.repo)
    plan = plan_collection(repo, store, collection_rules(repo, "now"))
    assert plan.drop
    store.lookup.forget()
    assert run_collection(repo, store, plan).dropped == frozenset()


def test_what_is_being_added_now_stays_even_without_grace(scene: Scene) -> None:
    lock = scene.repo.path / ".git/index.lock"
    before = store_of(scene.repo).models().keys()
    gone = scene.forgotten()
    lock.touch()  # a `git add` of many files has answered for the first one and has not written its index yet
    os.utime(lock, (time.time() - 5, time.time() - 5))
    assert adding_since(scene.repo.repository) == pytest.approx(time.time() - 7, abs=2)
    assert collected(scene.repo).dropped == frozenset()
    lock.unlink()
    assert collected(scene.repo).dropped == {gone}
    assert store_of(scene.repo).models().keys() == before


def test_an_index_that_cannot_be_read_stops_the_collection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("git_gru.git.roots._PAUSE", 0.0)
    scene.forgotten()
    index = (scene.repo.path / ".git/index").read_bytes()
    (scene.repo.path / ".git/index.lock").write_bytes(index[: len(index) // 2])
    before = store_of(scene.repo).models()
    with pytest.raises(UnreadableIndexError, match=r"index\.lock"):
        collected(scene.repo)
    assert store_of(scene.repo).models() == before


def test_lost_commits_stop_the_collection(scene: Scene) -> None:
    commit = scene.commit(2)
    scene.forgotten()
    (scene.repo.path / ".git/objects" / scene.first[:2] / scene.first[2:]).unlink()
    before = store_of(scene.repo).models()
    with pytest.raises(GitCommandError):
        collected(scene.repo)
    assert store_of(scene.repo).models() == before
    assert commit


# ---- clones that do not have everything -------------------------------------------------------------------------------


@pytest.fixture
def clone_of(scene: Scene, at, tmp_path: Path):
    """`clone_of(*options)`: a clone by a transport that filters, with a copy of the store."""

    def make(*options: str):
        place = tmp_path / "clone"
        scene.repo.git("config", "uploadpack.allowFilter", "true")
        scene.repo.git("clone", "-q", *options, f"file://{scene.repo.path}", str(place))
        shutil.copytree(scene.repo.path / ".git/gru", place / ".git/gru")
        (place / ".git/gru/index.sqlite").unlink()
        for suffix in ("-wal", "-shm"):
            (place / f".git/gru/index.sqlite{suffix}").unlink(missing_ok=True)
        return at(place)

    return make


def test_a_partial_clone_keeps_what_it_cannot_judge_and_fetches_nothing(scene: Scene, clone_of) -> None:
    scene.commit(2)
    scene.commit(3)
    unneeded = scene.forgotten()
    clone = clone_of("--filter=blob:none")
    count = clone.git("count-objects", "-v")
    store, repo = store_of(clone), clone.repository
    plan = plan_collection(repo, store, collection_rules(repo, "now"))
    assert plan.drop == frozenset()
    assert {model.digest: model.reason for model in plan.unneeded}[unneeded] is Reason.ABSENT
    assert run_collection(repo, store, plan).dropped == frozenset()
    assert clone.git("count-objects", "-v") == count, "nothing was fetched"
    # A manifest whose name is known, because its file was added here, can be judged: needed or not.
    for blob, expected in ((scene.repo.git("rev-parse", f"HEAD~1:{MODEL}").strip(), True), ("0" * 40, False)):
        digest = digest_at(scene.repo, f"HEAD~1:{MODEL}") if expected else unneeded
        store.stamps.learn({bytes.fromhex(blob): digest})
    plan = plan_collection(repo, store, collection_rules(repo, "now"))
    assert plan.drop == {unneeded}
    assert digest_at(scene.repo, f"HEAD~1:{MODEL}") not in {model.digest for model in plan.unneeded}


def test_a_shallow_clone_needs_what_it_has(scene: Scene, clone_of) -> None:
    scene.commit(2)
    scene.commit(3)
    clone = clone_of("--depth=2")
    done = collected(clone)
    assert done.dropped == {digest_at(scene.repo, f"{scene.first}:{MODEL}")}
    assert bytes_at(clone, f"HEAD~1:{MODEL}")
