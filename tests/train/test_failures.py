"""Who is to blame when several workers fail, and how it is told."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from git_gru.runs.metrics import Event, EventWriter
from git_gru.train.failures import LOG_BYTES, collect_logs, find_cause, stall_cause, step_noted
from git_gru.train.heartbeat import Stall
from git_gru.train.job import Job
from git_gru.train.recipe_file import recipe_of

LOST = {
    "rank": 0, "local_rank": 0, "exitcode": 1, "message": "RuntimeError: Connection closed by peer",
    "traceback": "Traceback\n  in all_reduce\nRuntimeError: Connection closed by peer\n",
}  # fmt: skip
KILLED = {
    "rank": 1,
    "local_rank": 1,
    "exitcode": -9,
    "message": "Signal 9 (SIGKILL) received by PID 5",
    "traceback": None,
}
TERMINATED = {"rank": 2, "local_rank": 2, "exitcode": -15, "message": "Signal 15", "traceback": None}
RAISED = {
    "rank": 3, "local_rank": 3, "exitcode": 1, "message": "ZeroDivisionError: division by zero",
    "traceback": "Traceback\n  here\nZeroDivisionError: division by zero\n",
}  # fmt: skip
OURS = {
    "rank": 4, "local_rank": 4, "exitcode": 1, "message": "DivergedError: the loss is nan",
    "traceback": "Traceback\n  there\ngit_gru.train.engine.DivergedError: the loss is nan\n",
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Job:
    recipe = recipe_of({"data": {"files": "*"}})
    return Job(
        run="r", folder=tmp_path, repository=tmp_path, source="a" * 40, ref="refs/heads/x", parent_model=None,
        recipe=recipe, architecture={"kind": "gru", "task": "language-model"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "rank", "message"),
    [
        ([LOST, KILLED], 1, "was killed (SIGKILL)"),
        ([LOST, TERMINATED], 0, "lost its connection to another worker"),
        ([LOST, KILLED, TERMINATED, RAISED], 3, "ZeroDivisionError: division by zero"),
        ([OURS, LOST], 4, "the loss is nan"),
        ([TERMINATED], 2, "was ended by SIGTERM"),
        ([{**TERMINATED, "exitcode": 3}], 2, "ended with exit status 3"),
    ],
)
def test_the_cause_is_told_by_kind(job: Job, failures: list[dict[str, Any]], rank: int, message: str) -> None:
    job.failures.write_text(json.dumps(failures))
    cause = find_cause(job, 1)
    assert cause.rank == rank
    assert cause.message.startswith(message)


def test_an_agent_that_says_nothing(job: Job) -> None:
    assert find_cause(job, -11).message == "the agent ended without a word (SIGSEGV)"
    assert find_cause(job, 1).message == "the agent ended without a word (exit status 1)"


def test_logs_are_found_cut_and_named_by_rank(job: Job) -> None:
    folder = job.logs / "r_abc" / "attempt_0" / "1"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_bytes(b"x" * LOG_BYTES + b"end")
    (folder / "stdout.log").write_bytes(b"")
    logs = collect_logs(job)
    assert list(logs) == ["rank-1.stderr.log"]
    assert len(logs["rank-1.stderr.log"]) == LOG_BYTES
    assert logs["rank-1.stderr.log"].endswith(b"xend")
    job.failures.write_text(json.dumps([KILLED]))
    assert find_cause(job, 1).log == str(folder / "stderr.log")


def test_the_log_of_a_stall_is_that_of_the_rank_on_this_machine(job: Job) -> None:
    for local_rank in (0, 1):
        folder = job.logs / "r_abc" / "attempt_0" / str(local_rank)
        folder.mkdir(parents=True)
        (folder / "stderr.log").touch()
    cause = stall_cause(job, Stall(rank=3, local_rank=1, step=7, seconds=12))
    assert (cause.rank, cause.log) == (3, str(folder / "stderr.log"))


def test_a_job_comes_back_as_it_was(job: Job) -> None:
    assert Job.read(job.write()) == job


def test_among_equals_the_first_is_the_cause(job: Job) -> None:
    second = {**RAISED, "rank": 0, "local_rank": 0, "time": 1001}
    job.failures.write_text(json.dumps([second, {**RAISED, "time": 1000}]))
    assert find_cause(job, 1).rank == 3


def test_the_step_of_an_exception_is_told_and_its_traceback_kept(job: Job) -> None:
    try:
        with step_noted(lambda: 17):
            raise ZeroDivisionError("division by zero")
    except ZeroDivisionError:
        trace = traceback.format_exc()
    job.failures.write_text(json.dumps([{**RAISED, "traceback": trace}]))
    cause = find_cause(job, 1)
    assert (cause.message, cause.step) == ("ZeroDivisionError: division by zero", 17)
    assert cause.traceback is not None
    assert cause.traceback.startswith("Traceback")
    assert cause.traceback.endswith("ZeroDivisionError: division by zero")
    assert cause.host


def test_the_last_metrics_are_told(job: Job) -> None:
    events = EventWriter(job.events)
    events.write(Event(time=1.0, step=2, loss=3.0))
    events.write(Event(time=2.0, step=3, validation={"val_loss": 2.5}))
    events.write(Event(time=3.0, step=4, loss=2.0))
    events.close()
    job.failures.write_text(json.dumps([KILLED]))
    cause = find_cause(job, 1)
    assert (cause.step, cause.metrics) == (4, {"val_loss": 2.5, "loss": 2.0})


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "Memory ran out"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", "Memory ran out"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'x.csv'", "A file is missing"),
        ("OSError: [Errno 98] Address already in use", "Another program has the port"),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", "Shapes do not fit"),
        ("RuntimeError: The size of tensor a (3) must match the size of tensor b (4)", "Shapes do not fit"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ModuleNotFoundError: No module named 'foo'", "A module is missing"),
        (
            "RuntimeError: [../gloo/transport/tcp] Connection closed by peer",
            "A worker or its machine was lost",
        ),
    ],
)
def test_common_causes_have_a_hint(job: Job, text: str, hint: str) -> None:
    failure = {
        "rank": 0,
        "local_rank": 0,
        "exitcode": 1,
        "message": text,
        "traceback": f"Traceback\n  here\n{text}\n",
    }
    job.failures.write_text(json.dumps([failure]))
    found = find_cause(job, 1).hint
    assert found is not None
    assert found.startswith(hint)


def test_an_unknown_cause_has_none(job: Job) -> None:
    job.failures.write_text(json.dumps([RAISED]))
    assert find_cause(job, 1).hint is None


@pytest.mark.slow
def test_a_model_of_other_shapes_fails_with_all_that_is_known(project: Any, make_arrays: Any) -> None:
    project.work.write("model.safetensors", make_arrays(1))  # says nothing of its architecture
    project.work.commit("a model from elsewhere")
    said = project.refused("train", "--branch", "odd", "--nproc", "1", status=7)
    assert "hint: Shapes do not fit" in said
    (record,) = json.loads(project.gru("runs", "list", "--json").stdout)["runs"]
    failure = record["failure"]
    assert failure["rank"] == 0
    assert "WeightsError" in failure["traceback"]
    shown = project.gru("runs", "show", record["id"]).stdout.decode()
    assert failure["hint"] in shown
    assert "Traceback (most recent call last)" in shown
