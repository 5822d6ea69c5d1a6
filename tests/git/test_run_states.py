"""Resume states: the newest and those kept for good are needed, all others go with the next collection."""

from typing import Any

import pytest

from git_gru.git.collecting import plan_collection, run_collection
from git_gru.git.run_states import keep_state, read_state, read_states, resume_ref
from git_gru.store.collect import Rules
from git_gru.store.ingest import ingest_tensors


def state_of(repo: Any, step: int) -> Any:
    tensors = [("optimizer.w.exp_avg", "F32", (2,), bytes([step] * 8))]
    return ingest_tensors(repo.repository.store(), tensors, {"format": "pt"})


@pytest.fixture
def source(repo: Any) -> str:
    repo.write("notes.txt", b"x")
    return repo.commit("source")


def keep(repo: Any, source: str, steps: list[int], every: int) -> list[Any]:
    states = [state_of(repo, step) for step in steps]
    for step, state in zip(steps, states, strict=True):
        keep_state(repo.repository, "r", checkpoint=source, step=step, state=state, every=every)
    return states


def test_a_run_without_states_has_none(repo: Any, source: str) -> None:
    assert read_states(repo.repository, "r") is None


@pytest.mark.parametrize(
    ("every", "kept"), [(0, [50]), (20, [20, 40, 50]), (10, [10, 20, 30, 40, 50]), (7, [50])]
)
def test_the_newest_and_every_so_many_are_kept(repo: Any, source: str, every: int, kept: list[int]) -> None:
    steps = [10, 20, 30, 40, 50]
    states = dict(zip(steps, keep(repo, source, steps, every), strict=True))
    found = read_states(repo.repository, "r")
    assert found is not None
    assert (found.checkpoint, found.newest, sorted(found.blobs)) == (source, 50, kept)
    assert all(read_state(repo.repository, found.blobs[step]) == states[step] for step in kept)


def test_states_after_the_newest_are_of_a_course_that_was_left(repo: Any, source: str) -> None:
    keep(repo, source, [10, 20, 30], 10)
    keep(repo, source, [20], 10)
    found = read_states(repo.repository, "r")
    assert found is not None
    assert sorted(found.blobs) == [10, 20]


def test_collection_drops_the_states_that_were_let_go(repo: Any, source: str) -> None:
    first, second = keep(repo, source, [10, 20], 0)
    repository = repo.repository
    store = repository.store()
    rules = Rules(grace=0, early=0)
    run_collection(repository, store, plan_collection(repository, store, rules))
    run_collection(repository, store, plan_collection(repository, store, rules))
    assert (store.has_model(first.digest), store.has_model(second.digest)) == (False, True)
    repo.git("update-ref", "-d", resume_ref("r"))
    run_collection(repository, store, plan_collection(repository, store, rules))
    run_collection(repository, store, plan_collection(repository, store, rules))
    assert not store.has_model(second.digest)
