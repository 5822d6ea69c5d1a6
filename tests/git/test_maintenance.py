"""Maintenance: when it begins by itself, that it is alone, and that a trainer watched by an editor does not fill the disk."""

import contextlib
import fcntl
import io
import time

import numpy as np
import pytest

from benchmarks.http_hub import new_hub
from git_gru.errors import InputError, StoreError
from git_gru.git import maintenance
from git_gru.git.maintenance import MaintenanceRunningError, maintain, maintenance_settings, start_if_due
from git_gru.store import upkeep as upkeep_module
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store
from git_gru.store.upkeep import MODELS, Upkeep

MODEL = "model.safetensors"


@pytest.fixture
def clocked(plain_repo, monkeypatch):
    """A repository, its store, and a clock of the store's that `tick(seconds)` moves."""
    store = Store.open(plain_repo.repository.gru_dir)
    now = [time.time()]
    store.stamps.clock = lambda: now[0]
    monkeypatch.setattr(maintenance, "Upkeep", lambda database: Upkeep(database, lambda: now[0]))

    def tick(seconds: float) -> None:
        now[0] += seconds

    yield plain_repo, store, tick
    store.close()


def cleaned(store: Store, seed: int, size: int = 20_000) -> Manifest:
    """What the filter does for a file that only `git status` asks about."""
    content = np.random.default_rng(seed).bytes(size)
    return ingest(store, io.BytesIO(content), expect_safetensors=False).manifest


def committed(work, store: Store, seed: int) -> Manifest:
    manifest = cleaned(store, seed)
    work.write(MODEL, manifest.encode())
    work.commit(f"model {seed}")
    return manifest


def size_of(store: Store) -> int:
    return sum(path.stat().st_size for path in (store.repository / "objects/pack").iterdir())


def test_five_hundred_overwrites_with_an_editor_watching(clocked) -> None:
    work, store, tick = clocked
    first = committed(work, store, 0)
    upkeep = Upkeep(store.lookup, store.stamps.clock)
    runs, largest, latest = 0, 0, None
    for seed in range(1, 501):
        tick(5)
        latest = cleaned(store, seed)
        if upkeep.claim(maintenance.INTERVAL):
            runs += 1
            maintain(work.repository, store)
        largest = max(largest, size_of(store))
    assert largest < 50 * 20_000, "two minutes of versions, and the few that may be younger"
    assert 10 < runs < 30
    assert latest is not None
    assert b"".join(restore(store, first))
    assert len(b"".join(restore(store, latest))) == 20_000, "the one in the worktree now"
    # The trainer is done: what is left goes as well, and adding the last version works whatever went.
    tick(700)
    maintain(work.repository, store)
    assert store.models().keys() == {first.digest}
    assert cleaned(store, 500) == latest


def test_an_editor_that_asks_git_for_the_status_all_the_time(repo, make_arrays, monkeypatch) -> None:
    """Real git commands by the real clock: minutes of rest do not count where one model after the other is only looked at."""
    monkeypatch.setattr(upkeep_module, "LOOKED", 5)
    first = repo.write(MODEL, make_arrays(0))
    repo.commit("first")
    one = size_of(repo.repository.store())
    most_models = most_bytes = 0
    with contextlib.closing(repo.repository.store()) as store:
        upkeep = Upkeep(store.lookup)
        upkeep.rest(maintenance.INTERVAL)
        for seed in range(1, 31):
            repo.write(MODEL, make_arrays(seed))
            assert repo.status() == f" M {MODEL}\n"
            if upkeep.claim(maintenance.INTERVAL):
                maintain(repo.repository, store)
            most_models, most_bytes = max(most_models, len(store.models())), max(most_bytes, size_of(store))
        # The committed one, the four last looked at, five until it is due, and those of the last second
        assert most_models < 20
        assert most_bytes < 20 * one
    repo.git("add", MODEL)
    latest = repo.read(MODEL)
    repo.commit("last")
    for revision, content in (("main~1", first), ("main", latest)):
        repo.git("checkout", "-q", revision)
        assert repo.read(MODEL) == content


@pytest.mark.slow
def test_a_clone_that_only_pulls_is_maintained(repo, at, tmp_path, make_arrays, monkeypatch) -> None:
    monkeypatch.setattr(upkeep_module, "PACKS", 4)
    hub = new_hub(tmp_path / "hub.git")
    repo.write(MODEL, make_arrays(0))
    repo.commit("first")
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "main")
    filters = [("-c", line) for line in repo.git("config", "--local", "--list").splitlines() if "gru" in line]
    repo.git(
        "clone", "-q", *(word for pair in filters for word in pair), f"file://{hub}", str(tmp_path / "clone")
    )
    clone = at(tmp_path / "clone")
    clone.git("config", "gru.autoPack", "4")
    with contextlib.closing(clone.repository.store()) as store:
        upkeep, due = Upkeep(store.lookup, lambda: time.time() + 1e5), []
        for seed in range(1, 3):
            repo.write(MODEL, make_arrays(seed))
            repo.commit(f"model {seed}")
            repo.git("push", "-q", "origin", "main")
            clone.git("pull", "-q")
            due.append(upkeep.is_due())
            if due[-1]:
                done = maintain(clone.repository, store)
                assert done.repacked is not None
                assert done.repacked.packs_after <= 3
        assert any(due)
        upkeep.brought(20)
        Upkeep(store.lookup).rest(0)
    clone.git("config", "gru.autoMaintenance", "true")
    repo.write(MODEL, make_arrays(3))
    repo.commit("model 3")
    repo.git("push", "-q", "origin", "main")
    clone.git("pull", "-q")
    log = clone.path / ".git/gru/maintenance.log"
    assert in_time(lambda: log.exists() and " ends after " in log.read_text()), (
        "the filter asked, having brought a model"
    )
    for seed in range(4):
        clone.git("checkout", "-q", f"main~{seed}")
        repo.git("checkout", "-q", f"main~{seed}")
        assert clone.read(MODEL) == repo.read(MODEL)


def test_adding_is_not_looking(repo, make_arrays, monkeypatch) -> None:
    monkeypatch.setattr(upkeep_module, "LOOKED", 2)
    for name in "ab":
        repo.write(f"{name}.safetensors", make_arrays(ord(name)))
    repo.git("add", "--all")
    with contextlib.closing(repo.repository.store()) as store:
        upkeep = Upkeep(store.lookup)
        assert store.stamps.released() == set()
        assert not upkeep.is_due()
        for seed in range(2):
            repo.write("a.safetensors", make_arrays(seed))
            assert not upkeep.is_due()
            repo.status()
        assert upkeep.is_due()
        assert len(store.stamps.released()) == 2
        repo.git("add", "a.safetensors")
        assert len(store.stamps.released()) == 1, "it is in use again"
        assert upkeep.claim(0)
        assert not upkeep.claim(0), "one begins"


def test_what_is_just_being_added_survives_however_many_come_after(clocked) -> None:
    work, store, tick = clocked
    adding = cleaned(store, 1)
    (
        work.path / ".git/index.lock"
    ).touch()  # Git has its answer, and writes the index when all files are answered
    tick(3)
    for seed in range(2, 40):
        cleaned(store, seed)
    tick(1000)
    maintain(work.repository, store)
    assert adding.digest in store.models()
    (work.path / ".git/index.lock").unlink()
    maintain(work.repository, store)
    assert store.models() == {}


def test_many_packs_are_joined_and_older_versions_become_deltas(clocked) -> None:
    work, store, _ = clocked
    manifests = [committed(work, store, seed) for seed in range(6)]
    assert maintain(work.repository, store).repacked is None
    work.git("config", "gru.autoPack", "6")
    done = maintain(work.repository, store)
    assert done.repacked is not None
    assert done.repacked.packs_after == 2
    assert done.collected is None
    assert [len(b"".join(restore(store, manifest))) for manifest in manifests] == [20_000] * 6
    work.git("config", "gru.autoPack", "0")
    assert maintain(work.repository, store).repacked is None


def test_it_is_due_after_so_many_models_and_pauses_then(clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    work, store, tick = clocked
    upkeep = Upkeep(store.lookup, store.stamps.clock)
    for seed in range(MODELS - 1):
        cleaned(store, seed)
    cleaned(store, 0)
    assert not upkeep.is_due(), "nine models were made, one of them twice"
    cleaned(store, MODELS)
    assert upkeep.is_due()
    assert upkeep.claim(100)
    assert not upkeep.claim(100), "another has begun"
    tick(101)
    assert upkeep.claim(100)
    tick(101)
    maintain(work.repository, store)
    for seed in range(50, 50 + MODELS):
        cleaned(store, seed)
    assert not upkeep.is_due()
    tick(maintenance.INTERVAL + 1)
    assert upkeep.is_due()
    maintain(work.repository, store)
    tick(1000)
    assert not upkeep.is_due()
    monkeypatch.setattr("git_gru.store.upkeep.BYTES", 5000)
    cleaned(store, 99, size=10_000)
    assert upkeep.is_due(), "one large model counts as many"
    upkeep.rest(100)
    tick(-2 * 86_400)
    assert upkeep.is_due(), "the clock was put back: a pause of days was not meant"


def test_a_failure_makes_a_long_pause(clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    work, store, tick = clocked

    def fail(*_: object) -> None:
        raise StoreError("broken")

    monkeypatch.setattr(maintenance, "plan_collection", fail)
    for seed in range(MODELS):
        cleaned(store, seed)
    with pytest.raises(StoreError):
        maintain(work.repository, store)
    upkeep = Upkeep(store.lookup, store.stamps.clock)
    for seed in range(MODELS, 2 * MODELS):
        cleaned(store, seed)
    tick(3000)
    assert not upkeep.is_due()
    tick(1000)
    assert upkeep.is_due()


def test_only_one_at_a_time(clocked) -> None:
    work, store, _ = clocked
    with open(store.folder / "maintenance.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MaintenanceRunningError):
            maintain(work.repository, store)
        assert work.gru("maintenance", "--background").returncode == 0
        refused = work.gru("maintenance")
    assert refused.returncode == 4
    assert b"under way" in refused.stderr


def test_the_settings(plain_repo) -> None:
    repo = plain_repo.repository
    assert not maintenance_settings(repo).enabled, "the tests turn it off"
    plain_repo.git("config", "gru.autoMaintenance", "true")
    settings = maintenance_settings(repo)
    assert (settings.enabled, settings.packs, settings.interval) == (True, 50, 120)
    plain_repo.git("config", "gru.autoPack", "many")
    with pytest.raises(InputError, match="gru.autoPack: 'many'"):
        maintenance_settings(repo)


def test_turned_off_it_is_not_started_and_not_asked_again_at_once(clocked) -> None:
    work, store, _ = clocked
    for seed in range(MODELS):
        cleaned(store, seed)
    assert not start_if_due(work.repository, store, ["/bin/false"])
    assert not Upkeep(store.lookup, store.stamps.clock).is_due()
    assert not (store.folder / "maintenance.log").exists()


def in_time(condition) -> bool:
    """Waits for what another process does."""
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_git_add_starts_it_in_the_background(repo, make_arrays) -> None:
    for name, value in (("autoMaintenance", "true"), ("autoPack", "4"), ("autoInterval", "0")):
        repo.git("config", f"gru.{name}", value)
    models = {f"m{n}.safetensors": repo.write(f"m{n}.safetensors", make_arrays(n)) for n in range(MODELS)}
    repo.git("add", "--all")
    log = repo.path / ".git/gru/maintenance.log"
    assert in_time(lambda: log.exists() and " ends after " in log.read_text()), "it went on by itself"
    assert "repacked" in log.read_text() or "nothing to do" in log.read_text()
    packs = list((repo.path / ".git/gru/store.git/objects/pack").glob("*.pack"))
    assert len(packs) < MODELS
    repo.git("commit", "-q", "-m", "models")
    for name, content in models.items():
        (repo.path / name).unlink()
        repo.git("checkout", "-q", "--", name)
        assert repo.read(name) == content
    assert repo.status() == ""
