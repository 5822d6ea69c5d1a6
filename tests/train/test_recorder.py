"""The recorder: checkpoints become commits in order, none is dropped, and a failing commit stops the run."""

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from git_gru.git.revisions import models_at
from git_gru.git.run_states import read_state, read_states
from git_gru.runs.metrics import Event, EventWriter, parse_events
from git_gru.runs.trailers import parse_checkpoint
from git_gru.train import recorder as module
from git_gru.train.job import Job
from git_gru.train.recipe_file import recipe_of


@pytest.fixture
def job(repo: Any, tmp_path: Path) -> Job:
    repo.write("notes.txt", b"x")
    return Job(
        run="r",
        folder=tmp_path,
        repository=repo.path,
        source=repo.commit("source"),
        ref="refs/heads/gru/r",
        parent_model=None,
        recipe=recipe_of({"data": {"files": "*.txt"}}),
        architecture={"kind": "gru", "task": "language-model"},
    )


def weights(value: int) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
    return [("w", "F32", (2,), memoryview(bytes([value] * 8)))]


def test_checkpoints_become_commits_in_order(repo: Any, job: Job) -> None:
    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:
        for step in range(1, 6):
            recorder.checkpoint(step, lambda value=step: weights(value), {"val_loss": 1.0 / step})
    commits = repo.git("rev-list", "--reverse", f"{job.source}..gru/r").split()
    infos = [parse_checkpoint(repo.git("log", "-1", "--format=%B", commit)) for commit in commits]
    assert [info.step for info in infos if info] == [1, 2, 3, 4, 5]
    events = parse_events(job.events.read_bytes())
    assert [(event.step, event.commit) for event in events] == list(zip(range(1, 6), commits, strict=True))
    store = repo.repository.store()
    manifests = [models_at(repo.repository, commit)["model.safetensors"] for commit in commits]
    assert [b"".join(store.tensor(manifest, "w")) for manifest in manifests] == [
        bytes([n] * 8) for n in range(1, 6)
    ]
    assert len({manifest.header for manifest in manifests}) == 1


def test_training_waits_before_a_third_checkpoint(
    repo: Any, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), module.move_ref
    monkeypatch.setattr(module, "move_ref", lambda *args, **keys: gate.wait() and real(*args, **keys))
    taken: list[int] = []

    def snapshot(step: int) -> Any:
        taken.append(step)
        return weights(step)

    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:

        def train() -> None:
            for step in (1, 2, 3):
                recorder.checkpoint(step, lambda value=step: snapshot(value), {})

        trainer = threading.Thread(target=train)
        trainer.start()
        trainer.join(timeout=0.5)
        assert trainer.is_alive()
        assert taken == [1, 2]
        gate.set()
        trainer.join()
    assert taken == [1, 2, 3]
    assert [event.step for event in parse_events(job.events.read_bytes())] == [1, 2, 3]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`failing(error number, step, …)`: the weights of these steps cannot be stored."""
    real = module.ingest_tensors

    def fail(number: int, *steps: int) -> None:
        def store_or_fail(store: Any, tensors: Any, metadata: Any) -> Any:
            if bytes(tensors[0][3])[0] in steps:
                raise OSError(number, os.strerror(number))
            return real(store, tensors, metadata)

        monkeypatch.setattr(module, "ingest_tensors", store_or_fail)

    return fail


def recorded(repo: Any, job: Job, steps: int) -> None:
    """Commits the steps 1 to `steps`, each once the one before is done."""
    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:
        for step in range(1, steps + 1):
            recorder.checkpoint(step, lambda value=step: weights(value), {})
            with contextlib.suppress(module.CheckpointError):
                recorder.wait()


def told(job: Job) -> list[tuple[int, str]]:
    return [(one.step, one.message or "commit") for one in parse_events(job.events.read_bytes())]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_checkpoints_out_until_there_is_room(
    repo: Any, job: Job, failing: Any, number: int
) -> None:
    failing(number, 2, 3)
    recorded(repo, job, 5)
    log = repo.git("log", "--reverse", "--format=%(trailers:key=Gru-Step,valueonly,separator=)", "gru/r")
    assert log.split() == ["1", "4", "5"]
    (_, paused), (_, again) = [one for one in told(job) if one[1] != "commit"]
    assert paused.startswith("the checkpoint of step 2 is not committed: ")
    assert paused.endswith("; the run goes on and tries the next")
    assert again == "checkpoints are committed again"


def test_a_run_whose_last_checkpoint_found_no_room_has_failed(repo: Any, job: Job, failing: Any) -> None:
    failing(errno.ENOSPC, 2, 3)
    with pytest.raises(module.CheckpointError, match="step 3 could not be committed: .*No space left"):
        recorded(repo, job, 3)
    assert repo.git("rev-list", "--count", f"{job.source}..gru/r").strip() == "1"


def test_on_a_full_disk_commits_are_told_of_as_soon_as_there_is_room(
    repo: Any, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.write, [3]

    def write(file: int, data: Any) -> int:
        if b'"step"' in bytes(data) and full[0]:
            full[0] -= 1
            if full[0] == 1:
                real(file, bytes(data)[:9])  # there was room for a part of the line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:
        recorder.event(Event(time=0.0, step=1, loss=1.0))
        for step in (1, 2):
            recorder.checkpoint(step, lambda value=step: weights(value), {})
            recorder.wait()
    assert full == [0]
    assert told(job) == [(1, "commit"), (2, "commit")]


def test_a_branch_that_somebody_moved_is_left_alone(repo: Any, job: Job) -> None:
    repo.git("update-ref", "refs/heads/gru/r-2", "HEAD")
    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:
        recorder.checkpoint(1, lambda: weights(1), {})
        first = recorder.wait()
        repo.git("update-ref", "refs/heads/gru/r", job.source)
        for step in (2, 3):
            recorder.checkpoint(step, lambda value=step: weights(value), {})
    assert repo.git("rev-parse", "gru/r", "gru/r-2").split() == [job.source] * 2
    made = repo.git("rev-list", "--reverse", f"{job.source}..gru/r-3").split()
    assert (len(made), made[0]) == (3, first)
    events = parse_events(job.events.read_bytes())
    assert [event.branch for event in events] == [None, "gru/r-3", None]
    assert events[1].message == "somebody else has moved gru/r: commits go to gru/r-3 from here on"


def test_who_goes_on_after_a_failure_is_told_again_and_never_waits_for_ever(
    repo: Any, job: Job, failing: Any
) -> None:
    failing(errno.EIO, 1)
    with (
        pytest.raises(module.CheckpointError, match="step 1 could not be committed"),
        module.CommitRecorder(
            repo.repository, module.destination_of(job), EventWriter(job.events)
        ) as recorder,
    ):
        recorder.checkpoint(1, lambda: weights(1), {})
        for again in (recorder.wait, *[lambda: recorder.checkpoint(2, list, {})] * 3, recorder.wait):
            with pytest.raises(module.CheckpointError):
                again()


def test_a_failing_commit_stops_the_run_and_earlier_ones_stay(repo: Any, job: Job, failing: Any) -> None:
    failing(errno.EIO, 2)
    said = r"step 2 could not be committed: .*Input/output error; the last commit is [0-9a-f]{10}"
    with pytest.raises(module.CheckpointError, match=said) as caught:
        with module.CommitRecorder(
            repo.repository, module.destination_of(job), EventWriter(job.events)
        ) as recorder:
            for step in range(1, 10):
                recorder.checkpoint(step, lambda value=step: weights(value), {})
    assert caught.value.exit_code == 7
    assert repo.git("rev-list", "--count", f"{job.source}..gru/r").strip() == "1"


def test_the_failure_is_told_at_the_next_event_too(
    repo: Any, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(*args: Any, **keys: Any) -> None:
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "ingest_tensors", fail)
    with pytest.raises(module.CheckpointError, match="nothing was committed before it"):
        with module.CommitRecorder(
            repo.repository, module.destination_of(job), EventWriter(job.events)
        ) as recorder:
            recorder.checkpoint(1, lambda: weights(1), {})
            failed.wait()
            while True:
                recorder.event(Event(time=0.0, step=1))


def test_a_checkpoint_and_its_resume_state_name_each_other(repo: Any, job: Job) -> None:
    with module.CommitRecorder(
        repo.repository, module.destination_of(job), EventWriter(job.events)
    ) as recorder:
        for step in (1, 2):
            recorder.checkpoint(step, lambda: weights(1), {}, lambda value=step: weights(10 + value))
    states = read_states(repo.repository, "r")
    assert states is not None
    assert states.checkpoint == repo.git("rev-parse", "gru/r").strip()
    assert list(states.blobs) == [2]
    state = read_state(repo.repository, states.blobs[2])
    info = parse_checkpoint(repo.git("log", "-1", "--format=%B", "gru/r"))
    assert info is not None
    assert info.resume == state.digest
    assert b"".join(repo.repository.store().tensor(state, "w")) == bytes([12] * 8)


def test_a_branch_that_cannot_be_moved_leaves_the_state_of_the_commit_that_was_to_come(
    repo: Any, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moved = module.move_ref, []

    def only_once(*args: Any) -> None:
        moved.append(args)
        if len(moved) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*args)

    monkeypatch.setattr(module, "move_ref", only_once)
    with pytest.raises(module.CheckpointError):
        with module.CommitRecorder(
            repo.repository, module.destination_of(job), EventWriter(job.events)
        ) as recorder:
            for step in (1, 2):
                recorder.checkpoint(step, lambda: weights(1), {}, lambda value=step: weights(10 + value))
    states = read_states(repo.repository, "r")
    assert states is not None
    assert states.newest == 2
    assert repo.git("rev-parse", f"{states.checkpoint}^") == repo.git("rev-parse", "gru/r")
